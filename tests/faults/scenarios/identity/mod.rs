//! Identity servers that are down, slow or lie, and the program killed around each bind and unbind: deletions are
//! answered in time and done here at once, what is owed happens later, and nothing is published without a record.

pub(super) mod cases;
mod reconcile;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::Outcome;
use crate::chance::Chance;
use crate::fake::{Hold, Mood};
use crate::identity_server::IdentityServer;
use crate::load::{Answer, Client, Step};
use crate::options::{Database, Options};
use crate::report::Row;
use crate::site::Site;
use cases::{Case, End, Way};

/// The longest that a client waits for a deletion or an unbind, however an identity server behaves.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);
/// Longer than any patience.
const AGES: Duration = Duration::from_secs(60);

/// A homeserver's signing key, in Synapse's form.
const SIGNING_KEY: &str = "ed25519 a_flt YJDBA9Xnr2sVqD9Vj7XVUnmFZcZrlw8MdG7JSM+2pJA\n";

/// The program beside an identity server that it trusts.
pub(super) struct World {
    pub(super) server: IdentityServer,
    pub(super) site: Site,
    _key: tempfile::TempPath,
}

impl World {
    pub(super) async fn start(options: &Options) -> Outcome<Self> {
        let server = IdentityServer::start().await?;
        // Only its owner may read it, as the program demands.
        let mut key = tempfile::NamedTempFile::new()?;
        std::io::Write::write_all(&mut key, SIGNING_KEY.as_bytes())?;
        let key = key.into_temp_path();
        let site = Site::builder(options)
            .set("IDENTITY_SERVERS", server.trusted())
            .set("SIGNING_KEY__FILE", key.display().to_string())
            .set("SIGNING_KEY__HOMESERVER", "faults.example")
            .start()
            .await?;
        Ok(Self { server, site, _key: key })
    }

    pub(super) fn client(&self) -> Outcome<Client> {
        Client::new(self.site.target(), 0, Arc::default())
    }

    /// Compares the record with what is published, now.
    async fn check_the_record(&self, when: &str, row: &mut Row) -> Outcome<()> {
        // In this order, since an owed unbind may end both at any time, and nobody binds now.
        let books = self.site.books().await?;
        let problems = reconcile::recorded(&books, &self.server.published());
        row.problems.extend(problems.into_iter().map(|problem| format!("{when}: {problem}")));
        Ok(())
    }

    /// Waits until nothing is owed, stops, and compares everything.
    pub(super) async fn settle(&mut self, cases: &[Case], mut client: Client, row: &mut Row) -> Outcome<()> {
        self.site.drained().await?;
        let status = self.site.terminate(0).await?;
        row.check(status == 0, || format!("the program ended with {status}"));
        let books = self.site.books().await?;
        let published = self.server.published();
        row.problems.extend(reconcile::acknowledged(&books, &published, cases, &self.site.users));
        row.problems.extend(books.damage.iter().map(|said| format!("the database is damaged: {said}")));
        row.problems.append(&mut self.site.broken());
        row.add(&client.records.tally);
        row.problems.append(&mut client.records.tally.oddities);
        let owed = books.messages.values().filter(|message| message.unbinds.is_some());
        row.mails.owed = u64::try_from(owed.clone().count())?;
        row.mails.arrived = u64::try_from(owed.filter(|message| message.state == "sent").count())?;
        row.note(format!("the identity server was asked {} times to forget", self.server.unbinds()));
        Ok(())
    }
}

/// A way for an identity server to be of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Down,
    In(Mood),
    /// It publishes what it should, and says that it published another address.
    NamesAnother,
}

const TROUBLES: [(&str, Trouble); 7] = [
    ("down", Trouble::Down),
    ("slow", Trouble::In(Mood::Slow(AGES))),
    ("broken", Trouble::In(Mood::Broken)),
    ("denying", Trouble::In(Mood::DeniesWhatItDid)),
    ("silent", Trouble::In(Mood::SilentAfter)),
    ("babbling", Trouble::In(Mood::Babbles)),
    ("lying", Trouble::NamesAnother),
];

pub(in crate::scenarios) async fn moods(options: &Options) -> Outcome<Row> {
    let mut row = Row::default();
    let mut world = World::start(options).await?;
    let mut client = world.client()?;
    let (mut all, mut slowest) = (Vec::new(), Duration::ZERO);
    for round in 0..options.rounds(1, 5) {
        for (name, trouble) in TROUBLES {
            let cases = published_before(&world, &mut client, &format!("{name}{round}")).await?;
            match trouble {
                Trouble::Down => world.server.door.down().await,
                Trouble::In(mood) => world.server.door.set_mood(mood),
                Trouble::NamesAnother => world.server.name_another_address(true),
            }
            row.faults += 1;
            let (after, took) = meet(&world, cases, name, trouble, &mut client, &mut row).await?;
            slowest = slowest.max(took);
            world.check_the_record(name, &mut row).await?;
            match trouble {
                Trouble::Down => world.server.door.up().await?,
                Trouble::In(_) => world.server.door.set_mood(Mood::Well),
                Trouble::NamesAnother => world.server.name_another_address(false),
            }
            all.extend(mended(after, &mut client).await?);
        }
    }
    row.note(format!("the slowest deletion or unbind was answered after {slowest:.1?}"));
    world.settle(&all, client, &mut row).await?;
    Ok(row)
}

/// Addresses that are published while all is well: two to be deleted, two to be unbound, in both ways.
async fn published_before(world: &World, client: &mut Client, name: &str) -> Outcome<Vec<Case>> {
    let mut cases = Vec::new();
    for (number, (end, way)) in [
        (Some(End::Delete), Way::Bind),
        (Some(End::Delete), Way::AddAndBind),
        (Some(End::Unbind), Way::Bind),
        (Some(End::Unbind), Way::AddAndBind),
        (None, Way::Bind),
        (None, Way::AddAndBind),
        (None, Way::AddAndBind),
    ]
    .into_iter()
    .enumerate()
    {
        let user = number % world.site.users.len().max(1);
        let mut case = Case::open(&world.server, &format!("{name}-{number}"), user, way);
        case.end = end;
        if end.is_some() {
            case.bind(client).await;
            if case.bound != Step::Done {
                return Err(format!("{} is not published although all is well", case.address).into());
            }
        }
        cases.push(case);
    }
    Ok(cases)
}

/// Everybody asks at once while there is trouble; the slowest answer to a deletion or an unbind.
async fn meet(
    world: &World,
    cases: Vec<Case>,
    name: &'static str,
    trouble: Trouble,
    client: &mut Client,
    row: &mut Row,
) -> Outcome<(Vec<Case>, Duration)> {
    let mut asking = JoinSet::new();
    for mut case in cases {
        let mut client = world.client()?;
        asking.spawn(async move {
            let ends = case.end;
            let (answer, took) = match ends {
                Some(end) => case.finish(&mut client, end).await,
                None => (case.bind(&mut client).await, Duration::ZERO),
            };
            (case, answer, took, client.records.tally)
        });
    }
    let (mut after, mut slowest) = (Vec::new(), Duration::ZERO);
    while let Some(asked) = asking.join_next().await {
        let (case, answer, took, tally) = asked?;
        client.records.tally.merge(tally);
        let as_it_should = match (case.end, trouble) {
            (Some(End::Delete), Trouble::NamesAnother) => matches!(answer, Answer::Good(_)) && case.forgotten,
            // Here it is done, whatever becomes of it there.
            (Some(End::Delete), _) => matches!(answer, Answer::Good(_)) && !case.forgotten,
            (Some(End::Unbind), Trouble::NamesAnother) => case.forgotten,
            (Some(End::Unbind) | None, _) => matches!(answer, Answer::Later),
        };
        row.check(as_it_should, || format!("{} while it is {name}: {answer:?}", case.address));
        row.check(took < ANSWERED_WITHIN, || {
            format!("{}: {:?} took {took:?} while it is {name}", case.address, case.end)
        });
        slowest = slowest.max(took);
        after.push(case);
    }
    Ok((after, slowest))
}

/// Clients ask again, but for one who never came back and one who has thought better of it.
async fn mended(cases: Vec<Case>, client: &mut Client) -> Outcome<Vec<Case>> {
    let mut left = Vec::new();
    for mut case in cases {
        if case.address.contains("-5@") {
            case.finish(client, End::Delete).await;
        } else if !case.address.contains("-6@") {
            case.complete(client).await?;
        }
        left.push(case);
    }
    Ok(left)
}

/// What is under way when the program is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Bind(Way),
    End(End),
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// The request was sent a moment ago.
    Sent,
    /// The identity server was asked, and has not begun.
    Held(Hold),
    /// The identity server has answered a moment ago, or is about to.
    Answered,
}

const WORKS: [Work; 4] =
    [Work::Bind(Way::Bind), Work::Bind(Way::AddAndBind), Work::End(End::Unbind), Work::End(End::Delete)];
const PROGRESSES: [Progress; 4] =
    [Progress::Held(Hold::Done), Progress::Held(Hold::Arrived), Progress::Sent, Progress::Answered];

pub(in crate::scenarios) async fn kills(options: &Options) -> Outcome<Row> {
    let mut row = Row::default();
    let mut world = World::start(options).await?;
    let mut client = world.client()?;
    let mut chance = Chance::new(options.seed, 0);
    let mut all = Vec::new();
    // Each with each, but for the short form on PostgreSQL, where a start takes longer.
    let short = if options.database == Database::Sqlite { 16 } else { 8 };
    for round in 0..options.rounds(short, 112) {
        let work = WORKS.get(round % 4).copied().unwrap_or(Work::Bind(Way::Bind));
        let progress = PROGRESSES.get(round / 4 % 4).copied().unwrap_or(Progress::Sent);
        let user = round % world.site.users.len().max(1);
        let way = match work {
            Work::Bind(way) => way,
            Work::End(_) if round % 8 < 4 => Way::Bind,
            Work::End(_) => Way::AddAndBind,
        };
        let mut case = Case::open(&world.server, &format!("kill-{round}"), user, way);
        if let Work::End(_) = work {
            case.bind(&mut client).await;
            row.check(case.bound == Step::Done, || format!("{} is not published", case.address));
        }
        let mut case = killed_amid(&mut world, case, work, progress, &mut chance, &mut client).await?;
        row.faults += 1;
        let when = format!("{} after {work:?} {progress:?}", case.address);
        world.check_the_record(&when, &mut row).await?;
        // Two of three ask again.
        if chance.below(3) > 0 {
            case.complete(&mut client).await?;
        }
        all.push(case);
    }
    row.note(format!("unanswered: {}", client.records.tally.unanswered));
    world.settle(&all, client, &mut row).await?;
    Ok(row)
}

/// Kills the program in the midst of the work, and starts it again.
async fn killed_amid(
    world: &mut World,
    mut case: Case,
    work: Work,
    progress: Progress,
    chance: &mut Chance,
    client: &mut Client,
) -> Outcome<Case> {
    let path = if matches!(work, Work::Bind(_)) { "/bind" } else { "/unbind" };
    let caught = match progress {
        Progress::Held(hold) => Some(world.server.door.hold(path, hold)),
        Progress::Sent | Progress::Answered => None,
    };
    let mut own = world.client()?;
    let asking = tokio::spawn(async move {
        match work {
            Work::Bind(_) => drop(case.bind(&mut own).await),
            Work::End(end) => drop(case.finish(&mut own, end).await),
        }
        (case, own.records.tally)
    });
    match (progress, caught) {
        (_, Some(caught)) => timeout(Duration::from_secs(30), caught).await??,
        (Progress::Sent, None) => tokio::time::sleep(Duration::from_micros(chance.below(4_000))).await,
        // About as long as all of it takes.
        (_, None) => tokio::time::sleep(Duration::from_micros(4_000 + chance.below(16_000))).await,
    }
    world.site.kill(0);
    let (case, tally) = asking.await?;
    client.records.tally.merge(tally);
    world.site.start(0).await?;
    Ok(case)
}
