//! The homeserver's own copy of an account's contacts.

use async_trait::async_trait;

use super::DeliveryError;
use crate::model::{Threepid, UserId};

/// Keeps the homeserver's copy equal to ours, where the homeserver reads its own: for sign-in and reset by email.
///
/// An adapter:
/// - MUST answer `Ok` only once the homeserver's list of the account's contacts holds these addresses and no other;
/// - MUST NOT make an account, and MUST NOT change one that is deactivated;
/// - MUST end within a bounded time;
/// - MUST call an error permanent only where no later try can succeed; its own credentials can be mended.
#[cfg_attr(feature = "mocks", mockall::automock)]
#[async_trait]
pub trait Mirror: Send + Sync {
    /// Makes the homeserver's list of the account's contacts equal to `threepids`.
    ///
    /// # Errors
    /// [`DeliveryError`].
    async fn put(&self, user_id: UserId, threepids: Vec<Threepid>) -> Result<(), DeliveryError>;
}
