//! A homeserver that is down, slow or answers nonsense: changes are 503 and cost no proof, and whoever was known a
//! moment ago goes on reading, until that moment is over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::fake::{Fake, Mood};
use crate::load::{Answer, Client, Plan, Step};
use crate::options::Options;
use crate::reconcile::Allowed;
use crate::report::Row;
use crate::site::{Site, User};

/// How long a good answer is remembered for reading.
const REMEMBERED: Duration = Duration::from_secs(3);
/// How long the homeserver may take.
const PATIENCE: Duration = Duration::from_secs(1);

pub(super) async fn run(options: &Options) -> Outcome<Row> {
    let mut row = Row::default();
    let user = |number| User { id: format!("@user{number}:faults.example"), token: format!("token{number}") };
    let users: Vec<User> = (0..options.clients.min(4)).map(user).collect();
    let mut homeserver = Fake::homeserver(&users).await?;
    let mut site = Site::builder(options)
        .homeserver(&homeserver.base(), users)
        .set("HOMESERVER__TIMEOUT", format!("{}s", PATIENCE.as_secs()))
        .set("HOMESERVER__REMEMBER", format!("{}s", REMEMBERED.as_secs()))
        .start()
        .await?;

    // Proofs that are not spent yet.
    let plan = Plan { adds: false, contest: false, ..Plan::journeys("proof", options.clients, options.seed) };
    let load = site.load(&plan)?;
    load.answered(options.amount(60, 600)).await?;
    let mut records = load.stop().await?;
    let mut client = Client::new(site.target(), 0, Arc::default())?;
    for user in 0..site.users.len() {
        let answer = client.list(user).await;
        row.check(matches!(answer, Answer::Good(_)), || format!("the list of user {user}: {answer:?}"));
    }
    let known_since = Instant::now();

    for outage in ["down", "slow", "broken"] {
        match outage {
            "down" => homeserver.down().await,
            "slow" => {
                homeserver.up().await?;
                homeserver.set_mood(Mood::Slow(PATIENCE * 5));
            }
            _ => homeserver.set_mood(Mood::Broken),
        }
        row.faults += 1;
        if outage == "down" && known_since.elapsed() < REMEMBERED / 2 {
            for user in 0..site.users.len() {
                let answer = client.list(user).await;
                let late = known_since.elapsed() >= REMEMBERED;
                row.check(late || matches!(answer, Answer::Good(_)), || {
                    format!("a remembered user: {answer:?}")
                });
            }
        }
        // The slow one takes its second for each of them.
        for journey in records.journeys.iter_mut().filter(|journey| journey.submitted == Step::Done).take(5) {
            let began = Instant::now();
            let answer = client.add_once(journey).await;
            row.check(matches!(answer, Answer::Later), || format!("added while it is {outage}: {answer:?}"));
            let took = began.elapsed();
            row.check(took < PATIENCE * 4, || format!("the answer took {took:?} while it is {outage}"));
        }
    }
    while known_since.elapsed() <= REMEMBERED {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let answer = client.list(0).await;
    row.check(matches!(answer, Answer::Later), || {
        format!("a user who is not remembered any more: {answer:?}")
    });
    let books = site.books().await?;
    let spent = books.sessions.values().filter(|session| session.state == "consumed").count();
    row.check(spent == 0 && books.owners.is_empty(), || format!("{spent} proofs were spent"));
    let refused = client.records.tally.count(503);
    row.note(format!("503 with Retry-After: {refused}"));
    records.tally.merge(client.records.tally);

    homeserver.set_mood(Mood::Well);
    site.settle(records, Allowed::default(), &mut row).await?;
    Ok(row)
}
