//! PostgreSQL that is stopped, killed, or loses its connections in the midst of transactions: requests fail clean and in
//! time, nothing is half done, and the same process goes on by itself once the server is back.

use std::time::{Duration, Instant};

use crate::Outcome;
use crate::chance::Chance;
use crate::cluster::Cluster;
use crate::load::{Load, Plan};
use crate::options::Options;
use crate::reconcile::Allowed;
use crate::report::Row;
use crate::site::Site;

/// A way to lose the database.
pub(super) struct Fault {
    /// The scenario's name.
    pub(super) name: &'static str,
    breaks: Breaks,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Breaks {
    /// Every connection is ended; new ones are taken at once.
    Connections,
    /// It stops as an operator stops it, and is started after a while.
    Stop,
    /// Every process of it is killed.
    Kill,
}

/// Every way.
pub(super) const FAULTS: &[Fault] = &[
    Fault { name: "PostgreSQL's connections cut", breaks: Breaks::Connections },
    Fault { name: "PostgreSQL stopped and started", breaks: Breaks::Stop },
    Fault { name: "PostgreSQL killed and started", breaks: Breaks::Kill },
];

/// How long a request waits for a connection.
const PATIENCE: Duration = Duration::from_secs(4);
/// The longest that a request may take to be refused, with all that it tries again.
const REFUSED_WITHIN: Duration = Duration::from_secs(20);
/// Mails that were taken while it could not be noted: as many as are sent at a time, once a fault each.
const SENT_AT_A_TIME: u64 = 8;

pub(super) async fn run(options: &Options, fault: &Fault) -> Outcome<Row> {
    let mut row = Row::default();
    let cluster = if options.short { Cluster::start().await? } else { Cluster::durable().await? };
    let mut site = Site::builder(options)
        .on(&cluster)
        .set("DATABASE__ACQUIRE_TIMEOUT", format!("{}s", PATIENCE.as_secs()))
        .start()
        .await?;
    let mut chance = Chance::new(options.seed, 0);
    let load = site.load(&Plan::journeys("base", options.clients, options.seed))?;
    let mut longest_return = Duration::ZERO;
    let rounds = match fault.breaks {
        Breaks::Connections => options.rounds(5, 100),
        Breaks::Stop | Breaks::Kill => options.rounds(1, 20),
    };
    for _ in 0..rounds {
        load.answered(20 + chance.below(150)).await?;
        tokio::time::sleep(Duration::from_micros(chance.below(8_000))).await;
        match fault.breaks {
            Breaks::Connections => {
                row.check(cluster.cut(site.database_url()).await? > 0, || "nothing was cut".to_owned());
            }
            Breaks::Stop => cluster.stop().await?,
            Breaks::Kill => cluster.kill().await?,
        }
        row.faults += 1;
        if fault.breaks != Breaks::Connections {
            // All clients have met it by now.
            load.answered(u64::try_from(options.clients)? * 2).await?;
            cluster.start_again().await?;
        }
        let back_since = Instant::now();
        acknowledges(&load).await?;
        longest_return = longest_return.max(back_since.elapsed());
    }
    let records = load.stop().await?;
    let refused = records.tally.count(503);
    let slowest = records.tally.failure_times.iter().max().copied().unwrap_or_default();
    row.note(format!(
        "503 with Retry-After: {refused}, the slowest after {slowest:.1?}; back within {longest_return:.1?}; the same \
         process all the time"
    ));
    row.check(fault.breaks == Breaks::Connections || refused > 0, || "nobody noticed".to_owned());
    row.check(slowest < REFUSED_WITHIN, || format!("a request took {slowest:?} to be refused"));
    row.check(records.tally.unanswered == 0, || format!("{} were not answered", records.tally.unanswered));
    let allowed = Allowed { twice: row.faults * SENT_AT_A_TIME, ..Allowed::default() };
    site.settle(records, allowed, &mut row).await?;
    Ok(row)
}

/// Waits until clients hear 200 again, several times.
async fn acknowledges(load: &Load) -> Outcome<()> {
    let goal = load.acknowledged() + 10;
    super::until("acknowledged requests", Duration::from_secs(60), async || Ok(load.acknowledged() >= goal))
        .await
}
