//! Instances that share one PostgreSQL.

use serde_json::json;
use threepid_tests::peers::Postgres;

use super::{Bench, new_mark};
use crate::Outcome;
use crate::site::{Settings, Site};
use crate::table::{Compared, Goal, Row, median};

const CLIENTS: u64 = 64;

pub(super) async fn measure(bench: &Bench) -> Outcome<Vec<Row>> {
    let postgres = Postgres::builder().durable().start().await?;
    let database = postgres.create_database().await?;
    let settings = Settings::new(&bench.program, &postgres.url(&database)).mail_waits()?;
    let mut sites = Vec::new();
    for _ in 0..4 {
        sites.push(settings.start().await?);
    }
    let counts = [1, 2, 4];
    let mut turns = vec![Vec::new(); counts.len()];
    let mut costs = vec![Vec::new(); counts.len()];
    for _ in 0..bench.options.rounds() {
        let mut alone = None;
        for (at, count) in counts.into_iter().enumerate() {
            let sites: Vec<&Site> = sites.iter().take(count).collect();
            let addresses: Vec<&str> = sites.iter().map(|site| site.address.as_str()).collect();
            let pids: Vec<u32> = sites.iter().map(|site| site.pid()).collect();
            let ask = json!({ "ask": "tokens", "addresses": addresses, "connections": CLIENTS, "mark": new_mark("i") });
            let loaded = bench.load(&pids, ask).await?;
            let reference = *alone.get_or_insert(loaded.per_second);
            if let (Some(turns), Some(costs)) = (turns.get_mut(at), costs.get_mut(at)) {
                turns.push((loaded.per_second, Some(reference)));
                costs.push(loaded.processor_us);
            }
        }
    }
    let rows = counts.into_iter().zip(turns).zip(costs).map(|((count, turns), costs)| Row {
        work: format!("requestToken, 64 clients: {count} of 4 instances on one PostgreSQL"),
        unit: "/s",
        turns,
        compared: Compared::Ratio,
        goal: Goal::Reported,
        notes: vec![format!("processor time of the instances for one answer: {:.0} µs", median(costs))],
    });
    Ok(rows.collect())
}
