//! The end of accounts.

use async_trait::async_trait;

use super::Unavailable;
use crate::model::{Erased, Erasure};

/// How an erasure ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndOfErasure {
    /// It is done; so much was there.
    Done(Erased),
    /// The account has other addresses, bindings or owed unbinds than the erasure says, and nothing was changed: look
    /// again, decide again.
    Outdated,
}

/// Removes all that is kept about an account, over the storage of a [`Store`](super::Store) and its
/// [`Outbox`](super::Outbox).
///
/// An adapter:
/// - MUST do all of it or nothing, and MUST NOT answer before it is durable;
/// - MUST change nothing where what the account owns, has bound, or is owed
///   ([`UponErasure::IsReplaced`](crate::model::UponErasure::IsReplaced)) is not exactly what the erasure says;
/// - MUST see a unit of work that is committed at once with it whole or not at all, and MUST leave one that it did not
///   see whole;
/// - MUST remove the account's threepids, bindings and challenges, the validation sessions that
///   [go with it](crate::model::SessionRecord::goes_with), the sessions of identity servers for an address that it owns
///   or whose proof it has spent, and an account of its own with its access tokens;
/// - MUST do with each message [about it](crate::model::Payload::is_about) what
///   [`upon_erasure`](crate::model::MessageRecord::upon_erasure) says, claimed or not, and MUST make the unbinds that the
///   erasure brings claimable;
/// - MUST keep the proofs that the account has spent, and its audit entries, as their `nameless` says;
/// - MUST forget what it has counted under the erasure's subjects, if it counts;
/// - MUST leave everything else as it is, and MUST count what it did.
#[cfg_attr(feature = "mocks", mockall::automock)]
#[async_trait]
pub trait Erasures: Send + Sync {
    /// Erases an account.
    ///
    /// # Errors
    /// [`Unavailable`] when storage cannot answer now; whether it was done is unknown, and to do it again is harmless.
    async fn erase(&self, erasure: Erasure) -> Result<EndOfErasure, Unavailable>;
}
