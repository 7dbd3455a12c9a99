//! How often somebody may do something.

use std::time::Duration;

use async_trait::async_trait;

use super::Unavailable;

/// What is limited. The rates are the adapter's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// Requests for a token from one client address.
    RequestTokenPerClient,
    /// Requests for a token to one threepid.
    RequestTokenPerAddress,
    /// Passwords tried for one account, right ones included.
    PasswordPerAccount,
}

/// Whether it may be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may, and was counted.
    Allowed,
    /// It may not before this time has passed.
    RetryAfter(Duration),
}

/// Counts what is done.
///
/// An adapter MUST count each `subject` of each limit on its own, MUST let a subject act again once `RetryAfter` has
/// passed, and MUST bound its memory however many subjects there are.
#[cfg_attr(feature = "mocks", mockall::automock)]
#[async_trait]
pub trait RateLimiter: Send + Sync {
    /// Counts one act of `subject`: a client address's text, a keyed hash in hexadecimal, or a user ID.
    ///
    /// # Errors
    /// [`Unavailable`] when it cannot count now.
    async fn take(&self, limit: Limit, subject: String) -> Result<Verdict, Unavailable>;
}
