//! `POST email/requestToken` against one commit per request.

use serde_json::json;
use threepid_tests::peers::Postgres;

use super::{Bench, milliseconds, new_mark};
use crate::Outcome;
use crate::child;
use crate::site::{Settings, Site, new_database};
use crate::table::{Compared, Goal, Row, median};

const CLIENTS: u64 = 64;
/// A disk that commits fewer a second gains more by sharing.
const SLOW: f64 = 2_000.0;

pub(super) async fn sqlite(bench: &Bench) -> Outcome<Vec<Row>> {
    let ((_folder, url), (_other_folder, other_url)) = (new_database()?, new_database()?);
    let settings = Settings::new(&bench.program, &url).mail_waits()?;
    Settings::new(&bench.program, &other_url).migrate().await?;
    let site = settings.start().await?;
    let work = "requestToken, 64 clients: SQLite";
    let mut row = against_commits(bench, &site, &other_url, work).await?;
    let single = median(row.turns.iter().filter_map(|(_, reference)| *reference));
    row.goal = Goal::AtLeast(if single < SLOW { 3.0 } else { 1.5 });
    Ok(vec![row])
}

pub(super) async fn postgres(bench: &Bench) -> Outcome<Vec<Row>> {
    let postgres = Postgres::builder().durable().start().await?;
    let (ours, theirs) = (postgres.create_database().await?, postgres.create_database().await?);
    Settings::new(&bench.program, &postgres.url(&theirs)).migrate().await?;
    let site = Settings::new(&bench.program, &postgres.url(&ours)).mail_waits()?.start().await?;
    let work = "requestToken, 64 clients: PostgreSQL";
    let mut row = against_commits(bench, &site, &postgres.url(&theirs), work).await?;
    row.goal = Goal::AtLeast(0.9);
    Ok(vec![row])
}

async fn against_commits(bench: &Bench, site: &Site, url: &str, work: &str) -> Outcome<Row> {
    let (mut turns, mut costs, mut times) = (Vec::new(), Vec::new(), Vec::new());
    // The first turn warms up.
    for turn in 0..=bench.options.rounds() {
        let ask = json!({ "ask": "tokens", "addresses": [site.address], "connections": CLIENTS, "mark": new_mark("t") });
        let ours = bench.load(&[site.pid()], ask).await?;
        let ask = json!({
            "url": url,
            "tasks": CLIENTS,
            "milliseconds": milliseconds(bench.options.turn()),
            "mark": new_mark("c"),
        });
        let theirs = child::run("commits", &ask).await?;
        if turn > 0 {
            turns.push((ours.per_second, theirs["per_second"].as_f64()));
            costs.push(ours.processor_us);
            times.push(ours.p99_us);
        }
    }
    let notes = vec![
        format!("processor time of the server for one answer: {:.0} µs", median(costs)),
        format!("one answer in a hundred took {:.1} ms or more", median(times) / 1000.0),
    ];
    let compared = Compared::Ratio;
    Ok(Row { work: work.to_owned(), unit: "/s", turns, compared, goal: Goal::Reported, notes })
}
