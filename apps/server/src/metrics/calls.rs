//! One kind of call of a port: how its calls end, and how long they take. The handles are made once.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use threepid_domain::ports::{
    CommitError, DeliveryError, IdentityServerError, ReauthenticationError, Unavailable, WhoseTokenError,
};
use tokio::time::Instant;

use super::families::{CallLabels, Families, OUTCOMES, OutcomeLabels};

/// How a call ended, as [`OUTCOMES`] names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Ok,
    Refused,
    Conflict,
    Unavailable,
}

impl Outcome {
    /// How a call with this answer ended.
    pub(super) fn of<T, E: Ended>(answer: &Result<T, E>) -> Self {
        answer.as_ref().err().map_or(Self::Ok, Ended::outcome)
    }

    pub(super) const fn as_str(self) -> &'static str {
        OUTCOMES[self as usize]
    }
}

/// An error that says how its call ended.
pub(super) trait Ended {
    fn outcome(&self) -> Outcome;
}

impl Ended for Unavailable {
    fn outcome(&self) -> Outcome {
        Outcome::Unavailable
    }
}

impl Ended for CommitError {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Conflict(_) => Outcome::Conflict,
            Self::Unavailable(_) => Outcome::Unavailable,
        }
    }
}

impl Ended for WhoseTokenError {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Unknown | Self::Refused(_) => Outcome::Refused,
            Self::Unavailable(_) => Outcome::Unavailable,
        }
    }
}

impl Ended for ReauthenticationError {
    fn outcome(&self) -> Outcome {
        match self {
            Self::NotAsked | Self::Refused(_) => Outcome::Refused,
            Self::Unavailable(_) => Outcome::Unavailable,
        }
    }
}

impl Ended for IdentityServerError {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Refused(_) => Outcome::Refused,
            Self::Unavailable(_) => Outcome::Unavailable,
        }
    }
}

impl Ended for DeliveryError {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Permanent(_) => Outcome::Refused,
            Self::Transient(_) => Outcome::Unavailable,
        }
    }
}

/// The handles of one kind of call.
pub(super) struct Calls {
    outcomes: [Counter; OUTCOMES.len()],
    seconds: Histogram,
}

impl Calls {
    pub(super) fn new(families: &Families, port: &'static str, call: &'static str) -> Self {
        let outcomes = OUTCOMES
            .map(|outcome| families.calls.get_or_create_owned(&OutcomeLabels { port, call, outcome }));
        Self { outcomes, seconds: families.call_seconds.get_or_create_owned(&CallLabels { port, call }) }
    }

    /// Awaits a call and counts it. One that is dropped before it ends is not counted.
    pub(super) async fn watch<T, E: Ended>(
        &self,
        call: impl Future<Output = Result<T, E>> + Send,
    ) -> Result<T, E> {
        let begun = Instant::now();
        let answer = call.await;
        self.seconds.observe(begun.elapsed().as_secs_f64());
        self.outcomes[Outcome::of(&answer) as usize].inc();
        answer
    }
}
