//! What is of no use any more leaves, a batch at a time.

use std::sync::Arc;
use std::time::Duration;

use crate::model::{Lifetimes, Timestamp};
use crate::ports::{Clock, Housekeeping, Perishable, Unavailable};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A session is kept for so long after its proof could last have been spent.
const SESSION_GRACE: Duration = DAY;
/// An identity server decides itself how long its tokens are good; none that follows the specification lets one live for
/// longer than this.
const REMOTE_TOKENS: Duration = Duration::from_secs(7 * DAY.as_secs());
/// An identity server may call a session's proof newer each time that its link is clicked; but not for longer than this.
const REMOTE_PROOFS: Duration = Duration::from_secs(30 * DAY.as_secs());
/// No homeserver lets a challenge be answered for longer than this. Synapse lets it for two days.
const CHALLENGES: Duration = Duration::from_secs(7 * DAY.as_secs());

/// The clocks of instances that count together differ by less than this, and a clock is set back by less.
const COUNTS: Duration = Duration::from_secs(60 * 60);

/// One batch removes at most so many things: some milliseconds of a database's time.
pub const BATCH: usize = 500;

/// How long is kept what nobody but the operator looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Messages that were sent or had expired. Default 7 days.
    pub settled_messages: Duration,
    /// Entries of the audit trail. Default a year.
    pub audit_entries: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            settled_messages: Duration::from_secs(7 * DAY.as_secs()),
            audit_entries: Duration::from_secs(31_557_600),
        }
    }
}

/// Decides what is of no use any more, and has it removed.
///
/// How long each thing is kept follows from what it is kept for:
///
/// | what | for what | how long |
/// |---|---|---|
/// | sessions | a proof can be spent for [`Lifetimes::validated`] after it was made, and whoever repeats the request that spent it is told the same | that long after the session's last time, and a day. Once it is gone, its sid names nothing: it cannot be spent again either |
/// | sessions of identity servers | `POST /account/3pid/add` names a sid and no server | a week, since the server says how long its tokens are good, and then [`Lifetimes::validated`]. Once it is gone, the sid is unknown, and the user proves the address anew |
/// | spent proofs | an identity server's proof is spent once, by one account | a proof is accepted for [`Lifetimes::validated`] after it was made, which was before it was spent but for the five minutes that clocks may differ by. A server may call it newer when its link is clicked again: so it is kept for 30 days more |
/// | challenges | an answer counts only to a challenge that was passed on to this user for this session, once | a week. One that is not remembered counts for nothing, so removing one can never let an answer count twice |
/// | settled messages | the operator | [`Retention::settled_messages`] |
/// | the audit trail | the operator | [`Retention::audit_entries`] |
/// | counts under limits | whoever acted lately is refused | an hour after they say nothing any more: one that is not remembered refuses nobody, and clocks differ |
///
/// Messages that are owed stay until they are settled, and dead ones until an operator decides.
#[derive(Clone)]
pub struct Housekeeper {
    housekeeping: Arc<dyn Housekeeping>,
    clock: Arc<dyn Clock>,
    lifetimes: Lifetimes,
    retention: Retention,
}

impl Housekeeper {
    /// A housekeeper on these ports.
    pub fn new(
        housekeeping: Arc<dyn Housekeeping>,
        clock: Arc<dyn Clock>,
        lifetimes: Lifetimes,
        retention: Retention,
    ) -> Self {
        Self { housekeeping, clock, lifetimes, retention }
    }

    /// Removes one batch of `what`, and says how many things these were. Where it is less than [`BATCH`], nothing else
    /// is due, or another process is at it.
    ///
    /// # Errors
    /// [`Unavailable`] when storage cannot answer now.
    pub async fn tidy(&self, what: Perishable) -> Result<usize, Unavailable> {
        self.housekeeping.purge(what, self.useless_before(what), BATCH).await
    }

    fn useless_before(&self, what: Perishable) -> Timestamp {
        let validated = self.lifetimes.validated;
        let kept = match what {
            Perishable::Sessions => validated.saturating_add(SESSION_GRACE),
            Perishable::RemoteSessions => validated.saturating_add(REMOTE_TOKENS),
            Perishable::SpentProofs => validated.saturating_add(REMOTE_PROOFS),
            Perishable::Challenges => CHALLENGES,
            Perishable::SettledMessages => self.retention.settled_messages,
            Perishable::AuditEntries => self.retention.audit_entries,
            Perishable::Counts => COUNTS,
        };
        self.clock.now().minus(kept)
    }
}

#[cfg(test)]
mod tests;
