//! Several instances on one database, one of them killed while it holds leases: another one delivers after the lease,
//! and no address ever has two owners, though clients of different instances want the same ones.

use std::time::{Duration, Instant};

use threepid_tests::peers::SmtpMode;

use crate::Outcome;
use crate::chance::Chance;
use crate::load::Plan;
use crate::options::Options;
use crate::reconcile::Allowed;
use crate::report::Row;
use crate::site::Site;

/// How long a message is kept from others.
const LEASE: Duration = Duration::from_secs(3);
/// How long it may take after that until the message has left.
const AND_SOME: Duration = Duration::from_secs(10);
/// As many as an instance sends at a time may have been taken by the mail server and not been noted.
const SENT_AT_A_TIME: u64 = 8;

pub(super) async fn run(options: &Options) -> Outcome<Row> {
    let mut row = Row::default();
    let count = options.instances.max(2);
    let mut site = Site::builder(options)
        .instances(count)
        .set("RELAY__LEASE", format!("{}s", LEASE.as_secs()))
        .set("MAIL__SMTP__TIMEOUT", "1s")
        .set("MAIL__SMTP__SEND_TIMEOUT", "2s")
        .start()
        .await?;
    let mut chance = Chance::new(options.seed, 0);
    // Neighbours want the same addresses, and ask different instances.
    let plan = Plan::journeys("several", options.clients.max(count), options.seed);
    let load = site.load(&plan)?;
    let (mut held, mut longest) = (0, Duration::ZERO);
    for round in 0..options.rounds(3, 100) {
        load.answered(20 + chance.below(120)).await?;
        // A mail server that says nothing for a moment: whoever sends holds leases.
        site.smtp.set_mode(SmtpMode::Hang).await?;
        let ledger = site.ledger().await?;
        super::until("leases", Duration::from_secs(60), async || Ok(ledger.leased().await? > 0)).await?;
        let victim = round % count;
        held += ledger.leased().await?;
        site.kill(victim);
        row.faults += 1;
        let killed_at = Instant::now();
        site.smtp.set_mode(SmtpMode::Accept).await?;
        let owed = ledger.queued_ids().await?;
        super::until("another instance to deliver", LEASE + AND_SOME, async || {
            let queued = ledger.queued_ids().await?;
            Ok(!owed.iter().any(|id| queued.contains(id)))
        })
        .await?;
        longest = longest.max(killed_at.elapsed());
        ledger.close().await?;
        site.start(victim).await?;
    }
    load.answered(50).await?;
    let records = load.stop().await?;
    row.note(format!(
        "{count} instances; leases held at the kills: {held}; delivered by others within {longest:.1?}; unanswered: {}",
        records.tally.unanswered
    ));
    let contested = records.journeys.iter().filter(|journey| journey.address.contains("-pair")).count();
    row.note(format!("journeys after an address that two clients wanted: {contested}"));
    let allowed = Allowed { twice: row.faults * SENT_AT_A_TIME, ..Allowed::default() };
    site.settle(records, allowed, &mut row).await?;
    Ok(row)
}
