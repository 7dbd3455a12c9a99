//! A mail server that is down, refuses, defers, rejects, hangs or drops: requests are answered as fast as ever, and the
//! mail comes when it can.

use std::time::Duration;

use threepid_tests::peers::SmtpMode;

use crate::Outcome;
use crate::load::Plan;
use crate::options::Options;
use crate::reconcile::Allowed;
use crate::report::Row;
use crate::site::Site;

/// A way for a mail server to fail.
pub(super) struct Fault {
    /// The scenario's name.
    pub(super) name: &'static str,
    mode: SmtpMode,
    /// How long a token lives, where it is to end before the mail server comes back.
    token: Option<&'static str>,
    /// What becomes of the mail.
    then: Then,
}

/// What becomes of a mail that met the fault.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// It arrives once, when the server is back.
    Arrives,
    /// It arrives, and may do so several times: the server kept it and did not say so.
    ArrivesAgain,
    /// It is kept as undeliverable.
    Dies,
    /// It is given up, since its token has ended.
    Expires,
}

/// Every way.
pub(super) const FAULTS: &[Fault] = &[
    fault("smtp down", SmtpMode::Refuse, Then::Arrives),
    fault("smtp defers the recipient (451)", SmtpMode::DeferRecipient, Then::Arrives),
    fault("smtp defers the message (451)", SmtpMode::DeferMessage, Then::Arrives),
    fault("smtp rejects the recipient (550)", SmtpMode::RejectRecipient, Then::Dies),
    fault("smtp hangs", SmtpMode::Hang, Then::Arrives),
    fault("smtp loses the message after DATA", SmtpMode::Drop, Then::Arrives),
    fault("smtp keeps the message and drops after DATA", SmtpMode::KeepAndDrop, Then::ArrivesAgain),
    Fault {
        name: "smtp down until the tokens have ended",
        mode: SmtpMode::Refuse,
        token: Some("2s"),
        then: Then::Expires,
    },
];

const fn fault(name: &'static str, mode: SmtpMode, then: Then) -> Fault {
    Fault { name, mode, token: None, then }
}

/// A median below this is no news, however much more it is than another.
const FAST: Duration = Duration::from_millis(20);

pub(super) async fn run(options: &Options, fault: &Fault) -> Outcome<Row> {
    let mut row = Row::default();
    let builder = Site::builder(options);
    let builder = match fault.token {
        Some(lifetime) => builder.set("LIFETIMES__TOKEN", lifetime),
        None => builder,
    };
    let mut site = builder.start().await?;
    let requests = options.amount(60, 1_200);

    let plan = |name| Plan {
        // A session that has ended is not asked for again: it would be another one.
        repeats: fault.token.is_none(),
        ..Plan::requests(name, options.clients, options.seed)
    };
    let load = site.load(&plan("healthy"))?;
    load.answered(requests).await?;
    let mut records = load.stop().await?;
    let healthy = records.tally.median();
    site.drained().await?;

    site.smtp.set_mode(fault.mode).await?;
    let load = site.load(&plan("broken"))?;
    load.answered(requests).await?;
    let broken = load.stop().await?;
    let median = broken.tally.median();
    row.note(format!("median answer: healthy {healthy:.1?}, broken {median:.1?}"));
    let slowdown = 3 * u32::try_from(options.jobs.max(1))?;
    row.check(median < (FAST * slowdown).max(healthy * slowdown), || {
        format!("requests slowed down from {healthy:?} to {median:?}")
    });
    let refused = broken.tally.others_than(&[]) + broken.tally.unanswered;
    row.check(refused == 0, || format!("{refused} requests failed since mail does not leave"));
    records.merge(broken);

    if matches!(fault.then, Then::Dies | Then::Expires) {
        site.drained().await?;
    } else {
        // Several have met the fault by now.
        site.tried(12).await?;
    }
    row.faults = site.tries().await?;
    site.smtp.set_mode(SmtpMode::Accept).await?;
    // Not before: until then the server may keep one more.
    let kept = site.smtp.faults().await?;

    let allowed = Allowed {
        dead: fault.then == Then::Dies,
        expired: fault.then == Then::Expires,
        twice: if fault.then == Then::ArrivesAgain { kept } else { 0 },
        ..Allowed::default()
    };
    match fault.then {
        Then::Arrives | Then::ArrivesAgain => site.settle(records, allowed, &mut row).await?,
        // What these tokens would have proven stays unproven.
        Then::Dies | Then::Expires => site.compare(records, allowed, &mut row).await?,
    };
    let (kind, count) = match fault.then {
        Then::Dies => ("dead", row.mails.dead),
        Then::Expires => ("expired", row.mails.expired),
        Then::Arrives | Then::ArrivesAgain => ("arrived", row.mails.arrived),
    };
    row.check(count > 0, || format!("no mail ended as {kind}"));
    Ok(row)
}
