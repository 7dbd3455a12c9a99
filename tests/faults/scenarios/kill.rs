//! `kill -9` at any moment: what was acknowledged is there, what was owed is sent.

use std::time::Duration;

use crate::Outcome;
use crate::chance::Chance;
use crate::load::Plan;
use crate::options::Options;
use crate::reconcile::Allowed;
use crate::report::Row;
use crate::site::Site;

/// As many mails as are sent at a time may have been taken by the mail server and not been noted: once a kill each.
const SENT_AT_A_TIME: u64 = 8;

pub(super) async fn run(options: &Options) -> Outcome<Row> {
    let mut site = Site::builder(options).start().await?;
    let mut chance = Chance::new(options.seed, 0);
    let mut row = Row::default();
    let load = site.load(&Plan::journeys("kill", options.clients, options.seed))?;
    for _ in 0..options.rounds(4, 100) {
        load.answered(1 + chance.below(150)).await?;
        // Anywhere between two answers, too.
        tokio::time::sleep(Duration::from_micros(chance.below(8_000))).await;
        site.kill(0);
        row.faults += 1;
        site.start(0).await?;
    }
    load.answered(50).await?;
    let records = load.stop().await?;
    row.note(format!("unanswered: {}", records.tally.unanswered));
    let allowed = Allowed { twice: row.faults * SENT_AT_A_TIME, ..Allowed::default() };
    site.settle(records, allowed, &mut row).await?;
    Ok(row)
}
