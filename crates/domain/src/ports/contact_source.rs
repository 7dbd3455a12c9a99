//! Another server's contacts, read to move in beside it.

use std::fmt;

use async_trait::async_trait;

use super::Unavailable;

/// What the other server says of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForeignAccount {
    /// It has the account.
    Active,
    /// The account was deactivated.
    Deactivated,
    /// It has no such account.
    Unknown,
}

/// A contact as the other server keeps it, unread: the domain judges it.
#[derive(Clone, PartialEq, Eq)]
pub struct ForeignContact {
    /// The account's user ID.
    pub user_id: String,
    /// The medium's name.
    pub medium: String,
    /// The address in that server's spelling.
    pub address: String,
    /// When the address was validated, in milliseconds since the epoch.
    pub validated_at: i64,
    /// When the address was added, in milliseconds since the epoch.
    pub added_at: i64,
    /// What that server says of the account.
    pub account: ForeignAccount,
}

/// Where the other server has published an address, unread: the domain judges it. The account need not have the address.
#[derive(Clone, PartialEq, Eq)]
pub struct ForeignBinding {
    /// The account's user ID.
    pub user_id: String,
    /// The medium's name.
    pub medium: String,
    /// The address, in that server's or the identity server's spelling.
    pub address: String,
    /// The identity server's name.
    pub id_server: String,
    /// What that server says of the account.
    pub account: ForeignAccount,
}

impl fmt::Debug for ForeignContact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForeignContact").field("user_id", &self.user_id).finish_non_exhaustive()
    }
}

impl fmt::Debug for ForeignBinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForeignBinding").field("user_id", &self.user_id).finish_non_exhaustive()
    }
}

/// How much there is to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceCounts {
    /// How many contacts.
    pub contacts: u64,
    /// How many bindings.
    pub bindings: u64,
}

/// Another server's table of contacts.
///
/// An adapter:
/// - MUST write nothing there, and MUST hold nothing locked there between calls;
/// - MUST give each row once over the pages, in an order that is the same in every call, and an empty page only at the
///   end;
/// - MUST give rows as they are written there, and judge none.
#[cfg_attr(feature = "mocks", mockall::automock)]
#[async_trait]
pub trait ContactSource: Send + Sync {
    /// How much there is, for a progress bar.
    ///
    /// # Errors
    /// [`Unavailable`] when the source cannot answer now.
    async fn counts(&self) -> Result<SourceCounts, Unavailable>;

    /// At most `limit` contacts: the first ones, or those that follow `after`.
    ///
    /// # Errors
    /// [`Unavailable`] when the source cannot answer now.
    async fn contacts(
        &self,
        after: Option<ForeignContact>,
        limit: usize,
    ) -> Result<Vec<ForeignContact>, Unavailable>;

    /// At most `limit` bindings: the first ones, or those that follow `after`.
    ///
    /// # Errors
    /// [`Unavailable`] when the source cannot answer now.
    async fn bindings(
        &self,
        after: Option<ForeignBinding>,
        limit: usize,
    ) -> Result<Vec<ForeignBinding>, Unavailable>;
}
