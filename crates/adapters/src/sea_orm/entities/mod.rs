//! The tables as sea-orm sees them, and the way between a row and a value of the domain.
//!
//! What a row cannot express is refused as [`Corrupt`](super::StorageError::Corrupt) when it is read; nothing here
//! panics on what another hand has written into the database.
#![expect(
    unreachable_pub,
    reason = "sea-orm derives public items beside each model, which must be as public"
)]

pub(super) mod account;
pub(super) mod account_token;
pub(super) mod audit;
pub(super) mod binding;
pub(super) mod challenge;
pub(super) mod outbox;
pub(super) mod remote_session;
pub(super) mod server_key;
pub(super) mod spent_proof;
pub(super) mod threepid;
pub(super) mod validation_session;

use threepid_domain::model::{Address, IdentityServerName, Medium, Timestamp, UserId};

use super::StorageError;

/// A count or a time in ms as a column holds it: both engines have signed 64 bits, so the far end saturates.
pub(super) fn to_column(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// What [`to_column`] wrote; a negative number, which nobody here writes, is 0.
pub(super) fn from_column(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// Milliseconds since the epoch.
pub(super) fn ms(time: Timestamp) -> i64 {
    to_column(time.as_ms())
}

/// The time that [`ms`] wrote.
pub(super) fn timestamp(column: i64) -> Timestamp {
    Timestamp::from_ms(from_column(column))
}

/// The address in two columns. A form that is not canonical would be a second spelling, so it is corrupt, too.
fn address(table: &'static str, medium: &str, address: &str) -> Result<Address, StorageError> {
    let parsed = Medium::parse(medium).and_then(|medium| Address::parse(medium, address).ok());
    match parsed {
        Some(parsed) if parsed.as_str() == address => Ok(parsed),
        _ => Err(StorageError::corrupt(table, "medium and address are no canonical address")),
    }
}

pub(in crate::sea_orm) fn user_id(table: &'static str, column: &str) -> Result<UserId, StorageError> {
    UserId::parse(column).map_err(|_| StorageError::corrupt(table, "user_id is no Matrix user ID"))
}

fn server(table: &'static str, column: &str) -> Result<IdentityServerName, StorageError> {
    IdentityServerName::parse(column).map_err(|_| StorageError::corrupt(table, "server is no server name"))
}
