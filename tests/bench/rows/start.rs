//! From a start to the first 200.

use std::time::Instant;

use serde_json::json;
use threepid_tests::peers::{free_port, temp_folder};

use super::Bench;
use crate::Outcome;
use crate::child;
use crate::site::{Settings, first_answer, large_database, new_database};
use crate::table::{Compared, Goal, Row};

pub(super) async fn measure(bench: &Bench) -> Outcome<Vec<Row>> {
    let many = bench.options.large();
    let large = large_database(&bench.program, many).await?;
    let (mut of_new, mut of_large) = (Vec::new(), Vec::new());
    for _ in 0..bench.options.rounds() {
        let (_folder, url) = new_database()?;
        let new = start(bench, &url).await?;
        let large = start(bench, &large).await?;
        let bare = start_bare().await?;
        of_new.push((new, Some(bare)));
        of_large.push((large, Some(bare)));
    }
    let row = |work: String, turns| Row {
        work,
        unit: "ms",
        turns,
        compared: Compared::Difference,
        goal: Goal::AtMost(150.0),
        notes: Vec::new(),
    };
    Ok(vec![
        row("start to the first 200: a new database".to_owned(), of_new),
        row(format!("start to the first 200: {many} threepids"), of_large),
    ])
}

async fn start(bench: &Bench, url: &str) -> Outcome<f64> {
    let site = Settings::new(&bench.program, url).mail_waits()?.start().await?;
    Ok(site.took.as_secs_f64() * 1000.0)
}

/// The same of bare hyper.
async fn start_bare() -> Outcome<f64> {
    let (port, folder) = (free_port()?, temp_folder("bench")?);
    let settings = json!({ "headers": {}, "body": "{}", "port": port, "stays": true }).to_string();
    let began = Instant::now();
    let arguments = ["part", "bare", &settings];
    let _bare = child::program(&std::env::current_exe()?, &arguments, &[], &folder.path().join("log"))?;
    first_answer(&format!("127.0.0.1:{port}"), began, || "bare hyper".to_owned()).await?;
    Ok(began.elapsed().as_secs_f64() * 1000.0)
}
