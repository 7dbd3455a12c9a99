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

/// How long a good answer is remembered for reading: longer than all outages.
const REMEMBERED: Duration = Duration::from_secs(600);
/// How long where it is to be forgotten.
const REMEMBERED_BRIEFLY: Duration = Duration::from_secs(1);
/// How long the homeserver may take.
const PATIENCE: Duration = Duration::from_secs(1);

pub(super) async fn run(options: &Options) -> Outcome<Row> {
    let mut row = Row::default();
    let mut homeserver = Fake::homeserver(&users(options)).await?;
    let mut site = beside(options, &homeserver, REMEMBERED).await?;

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

    let mut read = 0_u64;
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
        for user in 0..site.users.len() {
            let answer = client.list(user).await;
            read += u64::from(matches!(answer, Answer::Good(_)));
            row.check(matches!(answer, Answer::Good(_)), || {
                format!("a remembered user's list while it is {outage}: {answer:?}")
            });
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
    let books = site.books().await?;
    let spent = books.sessions.values().filter(|session| session.state == "consumed").count();
    row.check(spent == 0 && books.owners.is_empty(), || format!("{spent} proofs were spent"));
    let refused = client.records.tally.count(503);
    row.note(format!("503 with Retry-After: {refused}; lists read meanwhile: {read}"));
    row.check(read > 0 && refused > 0, || format!("{read} lists were read, {refused} changes put off"));
    records.tally.merge(client.records.tally);

    homeserver.set_mood(Mood::Well);
    forgotten(options, &homeserver, &mut row).await?;
    site.settle(records, Allowed::default(), &mut row).await?;
    Ok(row)
}

fn users(options: &Options) -> Vec<User> {
    let user = |number| User { id: format!("@user{number}:faults.example"), token: format!("token{number}") };
    (0..options.clients.min(4)).map(user).collect()
}

/// The program beside that homeserver.
async fn beside(options: &Options, homeserver: &Fake, remembers: Duration) -> Outcome<Site> {
    Site::builder(options)
        .homeserver(&homeserver.base(), users(options))
        .set("HOMESERVER__TIMEOUT", format!("{}s", PATIENCE.as_secs()))
        .set("HOMESERVER__REMEMBER", format!("{}s", remembers.as_secs()))
        .start()
        .await
}

/// Whoever was known too long ago does not read any more, until the homeserver is back.
async fn forgotten(options: &Options, homeserver: &Fake, row: &mut Row) -> Outcome<()> {
    let mut site = beside(options, homeserver, REMEMBERED_BRIEFLY).await?;
    let mut client = Client::new(site.target(), 0, Arc::default())?;
    let known = client.list(0).await;
    row.check(matches!(known, Answer::Good(_)), || format!("the list before the outage: {known:?}"));
    let known_since = Instant::now();
    homeserver.set_mood(Mood::Broken);
    while known_since.elapsed() <= REMEMBERED_BRIEFLY {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let unknown = client.list(0).await;
    row.check(matches!(unknown, Answer::Later), || format!("a user who is not remembered: {unknown:?}"));
    homeserver.set_mood(Mood::Well);
    let known = client.list(0).await;
    row.check(matches!(known, Answer::Good(_)), || format!("the list after the outage: {known:?}"));
    site.compare(client.records, Allowed::default(), row).await?;
    Ok(())
}
