//! Durable storage through sea-orm: sessions, threepids, the outbox, the key's fingerprint, accounts of our own.
//!
//! ```text
//! Database ──connect, migrate, claim_key──▶ one writer, some readers
//!    ├── SeaOrmStore     the ports Store and Outbox
//!    └── LocalAccounts   the port AccessTokens, for the demo, tests and embedders
//!        └── LocalReauthentication   the port Reauthentication, by their passwords
//! ```
//!
//! A unit of work is one transaction, which is finished whether or not its caller waits. Unique keys decide who came
//! first, never a look before the write. No table holds a secret: tokens and client secrets are there as keyed hashes
//! alone. What is SQLite's own stands in `sqlite.rs`; everything else is written for PostgreSQL alike.

mod accounts;
mod connection;
mod entities;
mod error;
mod migrations;
mod outbox;
mod passwords;
mod reauthentication;
mod server_key;
mod sqlite;
mod store;
#[cfg(test)]
mod tests;

pub use accounts::{IssueTokenError, LocalAccounts, SetPasswordError};
pub use connection::{ConnectSettings, Database};
pub use error::ConnectError;
pub use reauthentication::LocalReauthentication;
pub use server_key::ClaimKeyError;
pub use store::SeaOrmStore;

use error::StorageError;
