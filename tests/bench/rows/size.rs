//! The same question to a large table and to a small one. Lists are read each time.

use serde_json::{Value, json};

use super::{Bench, tokens};
use crate::Outcome;
use crate::child::Part;
use crate::site::{Settings, Site, fill, large_database, new_database};
use crate::table::{Compared, Goal, Row};

const CLIENTS: u64 = 8;
const FEW: u64 = 1000;

pub(super) async fn measure(bench: &Bench) -> Outcome<Vec<Row>> {
    let many = bench.options.large();
    let mut homeserver = Part::start("homeserver", &json!({}))?;
    let port = homeserver.port().await?;
    let settings = |url: &str| -> Outcome<Settings> {
        let settings = Settings::new(&bench.program, url).homeserver(port).mail_waits()?;
        Ok(settings.set("HOMESERVER__REMEMBER", "1h").set("DATABASE__REMEMBER_CONTACTS", "0s"))
    };
    let large = settings(&large_database(&bench.program, many).await?)?.start().await?;
    let (_folder, url) = new_database()?;
    settings(&url)?.migrate().await?;
    fill(&url, FEW).await?;
    let small = settings(&url)?.start().await?;
    let accounts = FEW / 2;
    let ask = |site: &Site, step: u64| -> Value {
        json!({ "ask": "lists", "addresses": [site.address], "connections": CLIENTS, "tokens": tokens(accounts, step) })
    };
    let (of_large, of_small) = (ask(&large, many / 2 / accounts), ask(&small, 1));
    bench.load(&[], of_large.clone()).await?;
    bench.load(&[], of_small.clone()).await?;
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    for _ in 0..bench.options.rounds() {
        let ours = bench.load(&[], of_large.clone()).await?;
        let reference = bench.load(&[], of_small.clone()).await?;
        p50.push((ours.p50_us, Some(reference.p50_us)));
        p99.push((ours.p99_us, Some(reference.p99_us)));
    }
    let row = |which: &str, turns, most| Row {
        work: format!("list among {many} threepids, and among {FEW}: {which}"),
        unit: "µs",
        turns,
        compared: Compared::Ratio,
        goal: Goal::AtMost(most),
        notes: Vec::new(),
    };
    Ok(vec![row("p50", p50, 1.2), row("p99", p99, 1.5)])
}
