//! What differs from engine to engine. Everything else in this folder is written once, for all of them.

use async_trait::async_trait;
use sea_orm::{DatabaseConnection, DatabaseTransaction, DbErr};

use super::connection::PoolUse;
use super::error::ConnectError;

/// An engine, as the one database that is open on it.
#[async_trait]
pub(super) trait Engine: Send + Sync {
    /// The database in messages; without its password.
    fn name(&self) -> &str;

    /// Whether one connection writes, so that changes gain by being committed together.
    fn has_one_writer(&self) -> bool;

    /// Marks the database as ours. It is written each time: better a refusal at start than at the first request.
    async fn mark(&self, transaction: &DatabaseTransaction) -> Result<(), DbErr>;

    /// Waits until no other process changes the schema, and keeps others waiting until the transaction ends.
    async fn lock_schema(&self, transaction: &DatabaseTransaction) -> Result<(), DbErr>;

    /// What the operator has to mend.
    fn explain(&self, error: &DbErr) -> ConnectError;

    /// Tells other processes that a message was enqueued. It never waits, and may be lost: they look by themselves,
    /// too.
    fn announce(&self);

    /// How its pools are used.
    fn pools(&self) -> Vec<PoolUse>;

    /// Ends what the engine does beside the connections.
    async fn close(&self);
}

/// A database of ours, opened.
pub(super) struct Opened {
    /// The connections that write.
    pub(super) writer: DatabaseConnection,
    /// The connections that read.
    pub(super) readers: DatabaseConnection,
    /// Everything else.
    pub(super) engine: Box<dyn Engine>,
}

/// A message of the driver on one line.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
