//! A third-party identifier on an account.

use serde::{Deserialize, Serialize};

use super::{Address, Timestamp, UserId};

/// An address that its owner has proven. At most one account owns an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Threepid {
    /// The account that owns it.
    pub user_id: UserId,
    /// The address, in canonical form.
    pub address: Address,
    /// When the address was last proven.
    pub validated_at: Timestamp,
    /// When the address was first added; a new proof does not move it.
    pub added_at: Timestamp,
}
