//! SIGTERM under load: every request whose connection was taken is answered, and nothing owed is lost.
//!
//! Each request has a connection of its own here. Whoever comes when the door is closed does not get one, and that is all
//! that may happen to a request.

use crate::Outcome;
use crate::books::Books;
use crate::chance::Chance;
use crate::load::{Journey, Plan, Records, Step};
use crate::options::Options;
use crate::reconcile::Allowed;
use crate::report::Row;
use crate::site::Site;

pub(super) async fn run(options: &Options) -> Outcome<Row> {
    let mut row = Row::default();
    let mut site = Site::builder(options).start().await?;
    let mut chance = Chance::new(options.seed, 0);
    let mut all = Records::default();
    for round in 0..options.rounds(3, 30) {
        let seed = options.seed + u64::try_from(round)?;
        // They do not ask again: what they know at the end is what became of the request that was not answered.
        let journeys = Plan::journeys(format!("stop{round}"), options.clients, seed);
        let plan = Plan { asks_again: false, keeps_alive: false, contest: false, ..journeys };
        let load = site.load(&plan)?;
        load.answered(30 + chance.below(150)).await?;
        let status = site.terminate(0).await?;
        row.faults += 1;
        row.check(status == 0, || format!("it ended with {status}"));
        let records = load.stop().await?;
        let books = site.books().await?;
        for journey in &records.journeys {
            row.problems
                .extend(done_in_silence(&books, journey).map(|what| format!("{}: {what}", journey.address)));
        }
        site.start(0).await?;
        all.merge(records);
    }
    let turned_away = all.tally.turned_away;
    let dropped = all.tally.unanswered - turned_away;
    row.note(format!("at a closed door: {turned_away}; connected and not answered: {dropped}"));
    row.check(dropped == 0, || {
        format!("{dropped} requests were not answered although they had a connection")
    });
    row.check(turned_away > 0, || "nobody came to the closed door".to_owned());
    site.settle(all, Allowed::default(), &mut row).await?;
    Ok(row)
}

/// What was done by a request that was not answered.
fn done_in_silence(books: &Books, journey: &Journey) -> Option<&'static str> {
    let session = books.sessions.values().find(|session| session.address == journey.address)?;
    let sends = u64::try_from(session.tokens).unwrap_or(0);
    if journey.sid.is_none() || journey.sends < sends {
        Some("a mail is owed, and the request was not answered")
    } else if journey.submitted == Step::Open && session.state != "pending" {
        Some("it is proven, and the request was not answered")
    } else if journey.added == Step::Open && session.state == "consumed" {
        Some("it was added, and the request was not answered")
    } else {
        None
    }
}
