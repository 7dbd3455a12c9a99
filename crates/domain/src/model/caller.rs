//! Who is asking.

use super::{DeviceId, UserId};

/// The account behind an access token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The account.
    pub user_id: UserId,
    /// The device the token belongs to; application services have none.
    pub device_id: Option<DeviceId>,
    /// Guests have no contacts.
    pub is_guest: bool,
}
