//! A mail server that is down, refuses, defers, rejects, hangs or drops: requests are answered as fast as ever, and the
//! mail comes when it can.

use std::time::Duration;

use threepid_tests::peers::SmtpMode;

use crate::Outcome;
use crate::load::{Plan, Records, Tally};
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
const FAST: Duration = Duration::from_millis(50);
/// Nineteen of twenty answers take less, or no longer than thrice what they take while it is well: whoever waits for the
/// mail server waits longer.
const ALMOST_ALL_WITHIN: Duration = Duration::from_secs(1);
/// All answers take less: the program's patience with the mail server (`MAIL__SMTP__TIMEOUT`).
const ALL_WITHIN: Duration = Duration::from_secs(4);
/// How often the mail server is well and then broken, so that a machine that is busy for a while slows down both.
const TURNS: u64 = 2;

pub(super) async fn run(options: &Options, fault: &Fault) -> Outcome<Row> {
    let mut row = Row::default();
    let builder = Site::builder(options);
    let builder = match fault.token {
        Some(lifetime) => builder.set("LIFETIMES__TOKEN", lifetime),
        None => builder,
    };
    let mut site = builder.start().await?;
    let requests = options.amount(60, 1_200) / TURNS;

    let plan = |name| Plan {
        // A session that has ended is not asked for again: it would be another one.
        repeats: fault.token.is_none(),
        ..Plan::requests(name, options.clients, options.seed)
    };
    let (mut healthy, mut broken) = (Records::default(), Records::default());
    for turn in 0..TURNS {
        let load = site.load(&plan(format!("healthy{turn}")))?;
        load.answered(requests).await?;
        healthy.merge(load.stop().await?);
        site.drained().await?;

        let tried_before = site.tries().await?;
        site.smtp.set_mode(fault.mode).await?;
        let load = site.load(&plan(format!("broken{turn}")))?;
        load.answered(requests).await?;
        broken.merge(load.stop().await?);
        if matches!(fault.then, Then::Dies | Then::Expires) {
            site.drained().await?;
        } else {
            // Several have met the fault by now.
            site.tried(12).await?;
        }
        row.faults += site.tries().await?.saturating_sub(tried_before);
        site.smtp.set_mode(SmtpMode::Accept).await?;
        site.drained().await?;
    }
    // Not before: until the mode changed, the server might keep one more.
    let kept = site.smtp.faults().await?;
    compare_times(&healthy.tally, &broken.tally, &mut row);
    let refused = broken.tally.others_than(&[]) + broken.tally.unanswered;
    row.check(refused == 0, || format!("{refused} requests failed since mail does not leave"));
    let mut records = healthy;
    records.merge(broken);

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

/// Whether requests are answered as if the mail server were well, and none waits for it.
fn compare_times(healthy: &Tally, broken: &Tally, row: &mut Row) {
    let (before, median) = (healthy.percentile(50), broken.percentile(50));
    let (almost_all, all) = (broken.percentile(95), broken.percentile(100));
    row.note(format!(
        "median answer: healthy {before:.1?}, broken {median:.1?}; 95 % within {almost_all:.1?}, all within {all:.1?}"
    ));
    row.check(median < FAST.max(before * 3), || {
        format!("requests slowed down from {before:?} to {median:?}")
    });
    let bound = ALMOST_ALL_WITHIN.max(healthy.percentile(95) * 3);
    row.check(almost_all < bound && all < ALL_WITHIN, || {
        format!("of twenty requests one took {almost_all:?}, and one took {all:?}")
    });
}
