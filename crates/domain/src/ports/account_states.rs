//! Whether accounts are still there.

use async_trait::async_trait;

use super::Unavailable;
use crate::model::UserId;

/// Whether an account has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountState {
    /// The homeserver says that it was deactivated.
    Deactivated,
    /// It says anything else: that the account is there, or that it does not know it.
    NotDeactivated,
}

/// Knows whether an account was deactivated at the homeserver.
///
/// What is said here has an account erased, so an adapter:
/// - MUST call an account deactivated only where the homeserver itself says so of this very account;
/// - MUST NOT take an error, or what something in between says, for an answer;
/// - MUST NOT call an account deactivated that the homeserver does not know;
/// - MUST end within a bounded time.
#[cfg_attr(feature = "mocks", mockall::automock)]
#[async_trait]
pub trait AccountStates: Send + Sync {
    /// Whether the account was deactivated.
    ///
    /// # Errors
    /// [`Unavailable`] when the homeserver does not say.
    async fn state(&self, user_id: UserId) -> Result<AccountState, Unavailable>;
}
