//! Durable storage through sea-orm: sessions, threepids, the outbox, the key's fingerprint, accounts of our own.
//!
//! ```text
//! Database ──connect, migrate, claim_key──▶ an engine and its connections, and the shared counts of limits
//!    ├── SeaOrmStore     the ports Store and Outbox, Housekeeping, OutboxRecords, AccountRecords and Erasures
//!    └── LocalAccounts   the port AccessTokens, for the demo, tests and embedders
//!        └── LocalReauthentication   the port Reauthentication, by their passwords
//! ```
//!
//! A unit of work is one transaction, or on SQLite one of several that share one (`write.rs`); it is finished whether or
//! not its caller waits. Unique keys decide who came first, never a look before the write. No table holds a secret:
//! tokens and client secrets are there as keyed hashes alone. What is an engine's own stands in `sqlite.rs` and `postgres.rs`, behind `engine.rs`; everything else is
//! written once for both.

mod account_records;
mod accounts;
mod additions;
mod audit;
mod connection;
mod engine;
mod entities;
mod erasures;
mod error;
mod gathered;
mod housekeeping;
#[cfg(feature = "limits")]
mod limits;
mod look_ups;
mod migrations;
mod outbox;
mod outbox_records;
mod passwords;
#[cfg(feature = "postgres")]
mod postgres;
mod reauthentication;
mod server_key;
#[cfg(feature = "sqlite")]
mod sqlite;
mod store;
#[cfg(all(test, feature = "sqlite"))]
mod tests;
mod write;

pub use accounts::{IssueTokenError, LocalAccounts, SetPasswordError};
pub use connection::{ConnectSettings, Database, PoolUse, Tls};
pub use error::ConnectError;
pub use reauthentication::LocalReauthentication;
pub use server_key::ClaimKeyError;
pub use store::SeaOrmStore;

use error::StorageError;

/// A subject of a limit as a row has it: PostgreSQL's text holds no NUL. Subjects that differ stay different.
fn storable_subject(subject: &str) -> String {
    subject.replace('%', "%25").replace('\0', "%00")
}
