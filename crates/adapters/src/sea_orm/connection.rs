//! The database: opened, recognised, migrated.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sea_orm::sea_query::{Order, Query};
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, IntoDatabaseExecutor,
    SqliteTransactionMode, TransactionOptions, TransactionTrait,
};
use sea_orm_migration::{MigratorTrait, SchemaManager};
use tokio::sync::Notify;

use super::error::{ConnectError, StorageError};
use super::migrations::{Migrator, SCHEMA_TABLE};
use super::sqlite;

/// Where the database is and how it is used.
#[derive(Clone)]
pub struct ConnectSettings {
    /// A path, or `sqlite://path` with `?mode=rwc` (the default: create the file where it is missing), `rw` or `ro`.
    pub url: String,
    /// How many connections read beside the one that writes. Default 4; at least 1.
    pub readers: u32,
    /// How long a write waits for another process that holds the file. Default 5 s.
    pub busy_timeout: Duration,
    /// How long a call waits for a free connection of this process. Default 10 s.
    pub acquire_timeout: Duration,
}

impl ConnectSettings {
    /// The defaults for the database at `url`.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            readers: 4,
            busy_timeout: Duration::from_secs(5),
            acquire_timeout: Duration::from_secs(10),
        }
    }
}

// A URL may hold a password.
impl fmt::Debug for ConnectSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectSettings").field("readers", &self.readers).finish_non_exhaustive()
    }
}

/// An open database. Clones share its connections.
#[derive(Clone)]
pub struct Database(Arc<Inner>);

struct Inner {
    writer: DatabaseConnection,
    readers: DatabaseConnection,
    path: PathBuf,
    /// Keeps one permit from a commit that enqueues to the next call of `woken`.
    enqueued: Notify,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Database").field(&self.0.path).finish()
    }
}

impl Database {
    /// Opens a database, creates it where it is missing, and proves that it can be written. It is not migrated yet.
    ///
    /// # Errors
    /// [`ConnectError`]. A database of another program or of a newer threepid is left as it was.
    pub async fn connect(settings: &ConnectSettings) -> Result<Self, ConnectError> {
        let sqlite::Opened { writer, readers, path } = sqlite::open(settings).await?;
        let database = Self(Arc::new(Inner { writer, readers, path, enqueued: Notify::new() }));
        if let Err(error) = database.claim_file().await {
            database.close().await;
            return Err(error);
        }
        Ok(database)
    }

    /// Marks the file as ours. It is written each time: better a refusal at start than at the first request.
    async fn claim_file(&self) -> Result<(), ConnectError> {
        self.applied().await?;
        let mark = async {
            let transaction = self.begin().await?;
            sqlite::mark(&transaction).await?;
            transaction.commit().await
        };
        mark.await.map_err(|error| self.explain(&error))
    }

    /// Applies every pending step of the schema, all or none, and returns their names in order. Two processes may
    /// call this at once: one waits for the other.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn migrate(&self) -> Result<Vec<String>, ConnectError> {
        let transaction = self.begin().await.map_err(|error| self.explain(&error))?;
        let pending = self.pending_in(&transaction).await?;
        if pending.is_empty() {
            return Ok(pending);
        }
        let apply = async {
            Migrator::up(&transaction, None).await?;
            transaction.commit().await
        };
        apply.await.map_err(|error| self.explain(&error))?;
        tracing::info!(steps = pending.join(", "), "the database was migrated");
        Ok(pending)
    }

    /// The steps of the schema that [`Database::migrate`] would apply, in order. Nothing is written.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn pending_migrations(&self) -> Result<Vec<String>, ConnectError> {
        self.pending_in(self.reader()).await
    }

    /// The newest step of the schema that was applied; `None` before the first.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn schema_version(&self) -> Result<Option<String>, ConnectError> {
        Ok(self.applied().await?.pop())
    }

    async fn applied(&self) -> Result<Vec<String>, ConnectError> {
        self.applied_in(self.reader()).await
    }

    async fn pending_in(
        &self,
        connection: impl IntoDatabaseExecutor<'_>,
    ) -> Result<Vec<String>, ConnectError> {
        let applied = self.applied_in(connection).await?;
        let known = Migrator::migrations();
        Ok(known.iter().map(|step| step.name().to_owned()).filter(|name| !applied.contains(name)).collect())
    }

    /// What was applied, in order; refused where this program does not know all of it.
    async fn applied_in(
        &self,
        connection: impl IntoDatabaseExecutor<'_>,
    ) -> Result<Vec<String>, ConnectError> {
        let applied = read_applied(connection).await.map_err(|error| self.explain(&error))?;
        let known = Migrator::migrations();
        match applied.iter().rfind(|name| !known.iter().any(|step| step.name() == name.as_str())) {
            Some(unknown) => Err(ConnectError::Newer {
                database: self.0.path.display().to_string(),
                version: unknown.clone(),
            }),
            None => Ok(applied),
        }
    }

    /// Closes every connection, after the calls that are under way. Later calls fail.
    pub async fn close(&self) {
        // Closing cannot fail in a way that anyone could act on; what was committed is on the disk.
        let _ = self.0.readers.close_by_ref().await;
        let _ = self.0.writer.close_by_ref().await;
    }

    /// The file, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.0.path
    }

    pub(super) fn enqueued(&self) -> &Notify {
        &self.0.enqueued
    }

    /// The connection for single statements that write.
    pub(super) fn writer(&self) -> &DatabaseConnection {
        &self.0.writer
    }

    /// A connection for reads. It sees every commit that came before.
    pub(super) fn reader(&self) -> &DatabaseConnection {
        &self.0.readers
    }

    /// A transaction that writes. SQLite takes its lock now: one that took it at its first write could meet a
    /// snapshot that is too old, and no waiting would mend that.
    pub(super) async fn begin(&self) -> Result<DatabaseTransaction, DbErr> {
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        self.0.writer.begin_with_options(options).await
    }

    /// Reads a page of the file.
    pub(super) async fn check(&self) -> Result<(), StorageError> {
        read_applied(self.reader()).await?;
        Ok(())
    }

    fn explain(&self, error: &DbErr) -> ConnectError {
        sqlite::explain_db(&self.0.path, error)
    }
}

/// The names of the applied steps, in order. Unlike sea-orm's own look-up, this creates no table, and knows steps that
/// are none of ours.
async fn read_applied(connection: impl IntoDatabaseExecutor<'_>) -> Result<Vec<String>, DbErr> {
    let manager = SchemaManager::new(connection);
    if !manager.has_table(SCHEMA_TABLE).await? {
        return Ok(Vec::new());
    }
    let query = Query::select().column("version").from(SCHEMA_TABLE).order_by("version", Order::Asc).take();
    manager.get_connection().query_all(&query).await?.iter().map(|row| row.try_get("", "version")).collect()
}
