//! How much memory is resident.

use std::time::Duration;

use serde_json::json;

use super::{Bench, tokens};
use crate::Outcome;
use crate::child::{Part, resident_mib};
use crate::site::{Settings, fill, new_database};
use crate::table::{Compared, Goal, Row};

pub(super) async fn measure(bench: &Bench) -> Outcome<Vec<Row>> {
    let (requests, clients) = (bench.options.amount(5_000, 1_000_000), bench.options.amount(200, 10_000));
    let mut homeserver = Part::start("homeserver", &json!({}))?;
    let (_folder, url) = new_database()?;
    let settings = Settings::new(&bench.program, &url).homeserver(homeserver.port().await?).mail_waits()?;
    let settings = settings.set("HTTP__MAX_CONNECTIONS", "20000");
    settings.migrate().await?;
    fill(&url, 1000).await?;
    let site = settings.start().await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let idle = resident_mib(site.pid())?;
    let ask = json!({
        "ask": "lists",
        "addresses": [site.address],
        "connections": 32,
        "requests": requests,
        "tokens": tokens(500, 1),
    });
    bench.load(&[site.pid()], ask).await?;
    let after = resident_mib(site.pid())?;
    let hold = json!({ "address": site.address, "connections": clients, "token": "tok-0000000" });
    let mut held = Part::start("hold", &hold)?;
    held.hear().await?;
    let holding = resident_mib(site.pid())?;
    let row = |work: String, figure, most| Row {
        work,
        unit: "MiB",
        turns: vec![(figure, None)],
        compared: Compared::Figure,
        goal: Goal::AtMost(most),
        notes: Vec::new(),
    };
    Ok(vec![
        row("resident memory: idle".to_owned(), idle, 20.0),
        row(format!("resident memory: after {requests} requests"), after, 40.0),
        row(format!("resident memory: with {clients} connections"), holding, 150.0),
    ])
}
