//! A backup that is taken under load, as `docs/operating/backup.md` says, restores to a state that reconciles.

use crate::Outcome;
use crate::load::Plan;
use crate::options::Options;
use crate::reconcile::{Allowed, reconcile};
use crate::report::Row;
use crate::site::Site;

pub(super) async fn run(options: &Options) -> Outcome<Row> {
    let mut row = Row::default();
    let mut site = Site::builder(options).start().await?;
    let load = site.load(&Plan::journeys("before", options.clients, options.seed))?;
    load.answered(options.amount(100, 1_000)).await?;
    let mut records = load.stop().await?;

    let load = site.load(&Plan::journeys("during", options.clients, options.seed))?;
    load.answered(options.amount(60, 600)).await?;
    let copy = site.back_up().await?;
    row.faults += 1;
    load.answered(options.amount(60, 600)).await?;
    let later = load.stop().await?;
    site.drained().await?;
    row.check(site.terminate(0).await? == 0, || "it did not stop well".to_owned());
    site.restore(&copy).await?;

    // What was acknowledged after the backup was begun may be in it or not, whole.
    let forgotten = later.journeys.iter().map(crate::load::Journey::without_answers);
    records.journeys.extend(forgotten);
    records.tally.merge(later.tally);
    let allowed = Allowed { unknown: true, twice: u64::MAX, ..Allowed::default() };
    let queued = Allowed { queued: true, ..allowed };
    let books = site.books().await?;
    let (_, problems) = reconcile(&books, &records.journeys, &site.users, &site.mailbox.arrived(), queued);
    row.problems.extend(problems);
    let owed = books.messages.values().filter(|message| message.state == "queued").count();
    row.note(format!("owed still in the backup: {owed}"));

    // And a program on it goes on from there.
    site.start(0).await?;
    let load = site.load(&Plan::journeys("after", options.clients, options.seed))?;
    load.answered(options.amount(60, 600)).await?;
    records.merge(load.stop().await?);
    site.settle(records, allowed, &mut row).await?;
    Ok(row)
}
