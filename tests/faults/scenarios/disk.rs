//! A disk that is full: changes are 503, reading goes on, nothing is damaged, and it recovers by itself.
//!
//! The disk is a limit on the size of the program's files, which needs neither privilege nor a file system of its own.
//! And a disk that holds nothing but the log: who cannot write the log serves all the same.

use std::sync::Arc;
use std::time::Duration;

use crate::Outcome;
use crate::cluster::Cluster;
use crate::load::{Answer, Client, Plan};
use crate::options::Options;
use crate::reconcile::Allowed;
use crate::report::Row;
use crate::site::Site;

/// So much may be written after the disk got full.
const LEFT: u64 = 64 * 1024;
/// So many small rows make a table longer than 1 MiB, and leave no gaps that new rows would go to.
const PADDING: u32 = 12_000;
/// Mails that were taken while it could not be noted, once per outage.
const SENT_AT_A_TIME: u64 = 8;

pub(super) async fn run(options: &Options) -> Outcome<Row> {
    let mut row = Row::default();
    let mut site = Site::builder(options).limitable().start().await?;
    let load = site.load(&Plan::journeys("disk", options.clients, options.seed))?;
    let mut reader = Client::new(site.target(), 0, Arc::default())?;
    for _ in 0..options.rounds(1, 10) {
        load.answered(options.amount(60, 300)).await?;
        site.limit_file_size(Some(longest_file(&site)? + LEFT))?;
        row.faults += 1;
        load.answered(options.amount(300, 1_500)).await?;
        for user in 0..site.users.len() {
            let answer = reader.list(user).await;
            row.check(matches!(answer, Answer::Good(_)), || {
                format!("a list while the disk is full: {answer:?}")
            });
        }
        site.limit_file_size(None)?;
    }
    load.answered(options.amount(100, 300)).await?;
    let mut records = load.stop().await?;
    let refused = records.tally.count(503);
    row.note(format!("503 with Retry-After: {refused}; the same process all the time"));
    row.check(refused > 0, || "the disk was never full".to_owned());
    row.check(records.tally.unanswered == 0, || format!("{} were not answered", records.tally.unanswered));
    records.tally.merge(reader.records.tally);
    let allowed = Allowed { twice: row.faults * SENT_AT_A_TIME, ..Allowed::default() };
    site.settle(records, allowed, &mut row).await?;
    Ok(row)
}

/// PostgreSQL's disk is full, for its tables: its log is written ahead into files that are there already.
pub(super) async fn postgres(options: &Options) -> Outcome<Row> {
    let mut row = Row::default();
    let cluster = Cluster::limitable().await?;
    let mut site = Site::builder(options).on(&cluster).start().await?;
    // Longer than a piece of the log, so that the limit meets tables alone.
    let pad = format!(
        "INSERT INTO outbox (id, kind, payload, created_at, due_at, not_after, attempts, state) \
         SELECT 'pad' || n, 'validation_mail', '{{}}', 0, 0, 0, 0, 'dead' \
         FROM generate_series(1, {PADDING}) n"
    );
    cluster.sql(site.database_url(), &pad).await?;
    // Whoever waits for a mail meets nothing: the relay cannot note what it is about to send.
    let patience = Duration::from_secs(1);
    let load = site.load(&Plan { patience, ..Plan::journeys("disk", options.clients, options.seed) })?;
    let mut reader = Client::new(site.target(), 0, Arc::default())?;
    for _ in 0..options.rounds(1, 10) {
        load.answered(options.amount(60, 300)).await?;
        let outbox = cluster.sql(site.database_url(), "SELECT pg_relation_size('outbox')").await?;
        cluster.limit_file_size(Some(outbox.parse::<u64>()? + LEFT / 8)).await?;
        row.faults += 1;
        let goal = load.put_off() + options.amount(50, 500);
        let full = async || Ok(load.put_off() >= goal);
        super::until("a full disk", Duration::from_secs(60), full).await?;
        for user in 0..site.users.len() {
            let answer = reader.list(user).await;
            row.check(matches!(answer, Answer::Good(_)), || {
                format!("a list while the disk is full: {answer:?}")
            });
        }
        cluster.limit_file_size(None).await?;
    }
    load.answered(options.amount(100, 300)).await?;
    let mut records = load.stop().await?;
    let refused = records.tally.count(503);
    row.note(format!("503 with Retry-After: {refused}; the same processes all the time"));
    row.check(refused > 0, || "the disk was never full".to_owned());
    row.check(records.tally.unanswered == 0, || format!("{} were not answered", records.tally.unanswered));
    records.tally.merge(reader.records.tally);
    cluster.sql(site.database_url(), "DELETE FROM outbox WHERE id LIKE 'pad%'").await?;
    let allowed = Allowed { twice: row.faults * SENT_AT_A_TIME, ..Allowed::default() };
    site.settle(records, allowed, &mut row).await?;
    Ok(row)
}

fn longest_file(site: &Site) -> Outcome<u64> {
    let mut longest = 0;
    for entry in std::fs::read_dir(site.folder())? {
        longest = longest.max(entry?.metadata()?.len());
    }
    Ok(longest)
}

/// Standard error leads to a disk that is full from the first line on.
pub(super) async fn log(options: &Options) -> Outcome<Row> {
    let mut row = Row::default();
    let mut site = Site::builder(options).set("LOG__LEVEL", "debug").log_to("/dev/full").start().await?;
    row.faults += 1;
    let load = site.load(&Plan::journeys("log", options.clients, options.seed))?;
    load.answered(options.amount(150, 1_000)).await?;
    let records = load.stop().await?;
    let failed = records.tally.others_than(&[400]) + records.tally.unanswered;
    row.check(failed == 0, || format!("{failed} requests failed since the log cannot be written"));
    site.settle(records, Allowed::default(), &mut row).await?;
    Ok(row)
}
