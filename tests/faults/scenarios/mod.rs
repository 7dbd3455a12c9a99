//! The faults, one file each: what is broken, how it is mended, what has to hold.

mod backup;
mod clock;
mod disk;
mod hangup;
mod homeserver;
mod identity;
mod instances;
mod kill;
mod mail;
mod postgres;
mod terminate;

use std::pin::Pin;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream;

use crate::Outcome;
use crate::cluster::Cluster;
use crate::options::{Database, Options};
use crate::report::{Row, Table, say};

type Running<'a> = Pin<Box<dyn Future<Output = Outcome<Row>> + 'a>>;

/// Runs what is wanted: one after the other unless told otherwise, so that times can be compared. Whether everything
/// held.
pub(crate) async fn run(options: &mut Options) -> bool {
    let mut table = Table::default();
    if options.database == Database::Postgres {
        match Cluster::start().await {
            Ok(cluster) => options.cluster = Some(cluster),
            Err(error) => {
                say(format_args!("PostgreSQL: {error}"));
                return false;
            }
        }
    }
    let options = &*options;
    say(format_args!(
        "seed {}, {} clients, {:?}\n{}",
        options.seed,
        options.clients,
        options.database,
        Table::head()
    ));
    let wanted = scenarios(options).into_iter().filter(|(name, _)| options.wants(name));
    let mut running = stream::iter(wanted)
        .map(async |(name, scenario)| {
            let began = Instant::now();
            (name, scenario.await, began.elapsed())
        })
        .buffer_unordered(options.jobs.max(1));
    while let Some((name, outcome, took)) = running.next().await {
        table.add(name, took, outcome);
    }
    let database = if options.database == Database::Postgres { "postgres" } else { "sqlite" };
    table.conclude(&format!("faults-on-{database}"))
}

/// Every scenario of a database. The short form leaves out on PostgreSQL what has nothing to do with where data is
/// kept, since the one on SQLite has it.
fn scenarios(options: &Options) -> Vec<(&'static str, Running<'_>)> {
    let mut all: Vec<(&'static str, Running<'_>)> = vec![
        ("kill", Box::pin(kill::run(options))),
        ("kill around each bind and unbind", Box::pin(identity::kills(options))),
    ];
    match options.database {
        Database::Sqlite => all.push(("disk full", Box::pin(disk::run(options)))),
        Database::Postgres => {
            for fault in postgres::FAULTS {
                all.push((fault.name, Box::pin(postgres::run(options, fault))));
            }
            all.push(("several instances, one killed", Box::pin(instances::run(options))));
            all.push(("disk full for PostgreSQL", Box::pin(disk::postgres(options))));
        }
    }
    if !options.short || options.database == Database::Sqlite {
        all.push(("identity server down, slow, lying", Box::pin(identity::moods(options))));
        for fault in mail::FAULTS {
            all.push((fault.name, Box::pin(mail::run(options, fault))));
        }
        all.push(("homeserver down, slow, broken", Box::pin(homeserver::run(options))));
        all.push(("disk full for the log", Box::pin(disk::log(options))));
        all.push(("clock set back", Box::pin(clock::run(options))));
    }
    all.push(("clients hang up", Box::pin(hangup::run(options))));
    all.push(("terminate", Box::pin(terminate::run(options))));
    all.push(("backup under load", Box::pin(backup::run(options))));
    all
}

/// Waits until `holds` says so.
async fn until(what: &str, within: Duration, mut holds: impl AsyncFnMut() -> Outcome<bool>) -> Outcome<()> {
    let began = Instant::now();
    while !holds().await? {
        if began.elapsed() > within {
            return Err(format!("waited {within:?} in vain for {what}").into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
