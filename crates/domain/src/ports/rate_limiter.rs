//! How often somebody may do something.

use std::time::Duration;

use async_trait::async_trait;

use super::Unavailable;

/// Declares every limit once, with the name under which it is a setting, a row and a label.
macro_rules! limits {
    ($( $(#[doc = $doc:literal])+ $limit:ident = $name:literal, $scope:ident; )+) => {
        /// What is limited. The rates are the operator's settings.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Limit {
            $( $(#[doc = $doc])+ $limit, )+
        }

        impl Limit {
            /// Every limit, in the order of their `as usize`.
            pub const ALL: &'static [Self] = &[$(Self::$limit),+];

            /// The limit's name: of its setting, of what is counted under it, and of it in metrics.
            pub const fn name(self) -> &'static str {
                match self { $( Self::$limit => $name, )+ }
            }

            /// Who has to know of an act.
            pub const fn scope(self) -> Scope {
                match self { $( Self::$limit => Scope::$scope, )+ }
            }
        }
    };
}

limits! {
    /// Requests for a token from one client address.
    RequestTokenPerClient = "request_token_per_client", Process;
    /// Requests for a token to one threepid.
    RequestTokenPerAddress = "request_token_per_address", Shared;
    /// Validation mails to anybody. It has one subject, [`EVERYBODY`].
    MailsInAll = "mails_per_hour", Shared;
    /// Validation SMS to anybody. It has one subject, [`EVERYBODY`].
    SmsInAll = "sms_per_hour", Shared;
    /// Tokens given back from one client address, right ones included.
    SubmitPerClient = "submit_per_client", Process;
    /// Tokens given back to one session, right ones included.
    SubmitPerSession = "submit_per_session", Process;
    /// Codes given back for one threepid, in whichever session; right ones do not count.
    CodesPerAddress = "codes_per_address", Shared;
    /// Messages that tell whoever has a threepid that somebody asked to add it. What is beyond is not sent.
    InUseNoticePerAddress = "in_use_notice_per_address", Shared;
    /// Access tokens from one client address that were nobody's.
    FailedTokensPerClient = "failed_tokens_per_client", Process;
    /// Wrong answers to the question who is asking, for one account.
    FailedReauthenticationPerAccount = "failed_reauthentication_per_account", Shared;
}

/// The subject of a limit that is everybody's together.
pub const EVERYBODY: &str = "everybody";

/// Who has to know of an act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Each process counts for itself, and begins anew when it starts.
    Process,
    /// Every instance on the same storage, and those that start later.
    Shared,
}

/// Whether it may be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may, and was counted.
    Allowed,
    /// It may not before this time has passed.
    RetryAfter(Duration),
}

/// Somebody is over a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("over the limit {}", .limit.name())]
pub struct OverLimit {
    /// Which one.
    pub limit: Limit,
    /// When to try again.
    pub retry_after: Duration,
}

impl Verdict {
    /// The verdict as a result.
    ///
    /// # Errors
    /// [`OverLimit`] where it may not be done now.
    pub fn over(self, limit: Limit) -> Result<(), OverLimit> {
        match self {
            Self::Allowed => Ok(()),
            Self::RetryAfter(retry_after) => Err(OverLimit { limit, retry_after }),
        }
    }
}

/// Counts what is done. A subject is a client address's text, a keyed hash in hexadecimal, a user ID, a sid of ours, or
/// [`EVERYBODY`].
///
/// An adapter:
/// - MUST count each `subject` of each limit on its own, and each act, however many come at once;
/// - MUST let a subject act again once `RetryAfter` has passed, and MUST NOT refuse it for longer than an empty count
///   takes to fill, and a minute, where the clock was set back;
/// - MUST count acts under a [`Scope::Shared`] limit together with those of every instance on the same storage, and
///   MUST know them after a restart; a machine that fails may forget the last moments;
/// - MUST bound its memory however many subjects there are;
/// - MUST NOT give back more than was taken.
#[cfg_attr(feature = "mocks", mockall::automock)]
#[async_trait]
pub trait RateLimiter: Send + Sync {
    /// Counts one act of `subject`, if it may be done.
    ///
    /// # Errors
    /// [`Unavailable`] when it cannot count now.
    async fn take(&self, limit: Limit, subject: String) -> Result<Verdict, Unavailable>;

    /// Counts one act under each of these limits, in their order, up to the first under which it may not be done: what
    /// comes before that one stays counted. Where the counts are elsewhere, an adapter may ask for all of them at once.
    ///
    /// # Errors
    /// [`Unavailable`] when it cannot count now.
    async fn take_each(&self, acts: Vec<(Limit, String)>) -> Result<Result<(), OverLimit>, Unavailable> {
        for (limit, subject) in acts {
            if let Err(over) = self.take(limit, subject).await?.over(limit) {
                return Ok(Err(over));
            }
        }
        Ok(Ok(()))
    }

    /// Whether it is known here already, without asking anybody, that `subject` may not act now. What is not known may.
    fn known(&self, _limit: Limit, _subject: &str) -> Verdict {
        Verdict::Allowed
    }

    /// Whether `subject` may act now, without counting anything.
    ///
    /// # Errors
    /// [`Unavailable`] when it cannot tell now.
    async fn look(&self, limit: Limit, subject: String) -> Result<Verdict, Unavailable>;

    /// Takes one act of `subject` back, which proved to be none that counts.
    ///
    /// # Errors
    /// [`Unavailable`] when it cannot count now.
    async fn give_back(&self, limit: Limit, subject: String) -> Result<(), Unavailable>;
}
