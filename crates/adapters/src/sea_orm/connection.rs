//! The database: opened, recognised, migrated.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
#[cfg(feature = "limits")]
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use sea_orm::sea_query::{Order, Query};
use sea_orm::sqlx;
use sea_orm::{ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, IntoDatabaseExecutor};
use sea_orm_migration::{MigratorTrait, SchemaManager};
use threepid_domain::model::{Address, Caller, KeyedHash, Threepid, UnitOfWork, UserId, ValidationSession};
use tokio::sync::Notify;

use super::engine::{Engine, Opened};
use super::error::{ApplyError, ConnectError, StorageError};
use super::gathered::Gathered;
use super::migrations::{Migrator, SCHEMA_TABLE, TABLES};
use super::outbox::Settled;
use super::write::{self, Together};
#[cfg(feature = "limits")]
use crate::limits::{Counted, SharedAct};

/// The engines of this build, for messages.
pub(super) const ENGINES: &str = if cfg!(all(feature = "sqlite", feature = "postgres")) {
    "sqlite://path or postgres://user@host/database"
} else if cfg!(feature = "sqlite") {
    "sqlite://path"
} else {
    "postgres://user@host/database"
};

/// So many batches of one kind are under way at once.
const LANES: usize = 2;

/// Where the database is and how it is used.
#[derive(Clone)]
pub struct ConnectSettings {
    /// A path, or `sqlite://path` with `?mode=rwc` (the default: create the file where it is missing), `rw` or `ro`; or
    /// `postgres://user:password@host:port/database` with libpq's parameters, such as `?sslmode=verify-full`.
    pub url: String,
    /// Only a database that is there: a missing one is not made, and neither is an empty one taken. Default false.
    pub existing: bool,
    /// How long a call waits for a free connection of this process, or for a new one to be made. Default 5 s.
    pub acquire_timeout: Duration,
    /// SQLite: how many connections read beside the one that writes. Default 4; at least 1.
    pub readers: u32,
    /// SQLite: how long a write waits for another process that holds the file. Default 5 s.
    pub busy_timeout: Duration,
    /// PostgreSQL: how many connections there are at most; two more tell and hear of messages. Default 10; at least 1.
    pub connections: u32,
    /// PostgreSQL: how long one statement may take, and how long a transaction may stand still. Default 10 s.
    pub statement_timeout: Duration,
    /// PostgreSQL: the password, where the URL has none.
    pub password: Option<String>,
    /// PostgreSQL: how far the connection is secured; what the URL says unless it is given, else [`Tls::Prefer`].
    pub tls: Option<Tls>,
    /// PostgreSQL: certificates (PEM) to trust instead of the well-known ones.
    pub ca_file: Option<PathBuf>,
}

/// How far the connection to a server is secured; libpq's `sslmode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// Clear text.
    Disable,
    /// TLS where the server has it, without a look at its certificate.
    Prefer,
    /// TLS, without a look at the certificate.
    Require,
    /// TLS with a certificate of a trusted authority.
    VerifyCa,
    /// TLS with a certificate of a trusted authority for this host.
    VerifyFull,
}

/// How a pool of connections is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolUse {
    /// What its connections are for.
    pub name: &'static str,
    /// How many are open.
    pub open: u32,
    /// How many of these wait for work.
    pub idle: u32,
    /// How many there may be.
    pub most: u32,
}

impl PoolUse {
    /// As the driver's pool says.
    pub(super) fn of<DB: sqlx::Database>(name: &'static str, pool: &sqlx::Pool<DB>) -> Self {
        let open = pool.size();
        // The two are read one after the other, and a connection may come or go in between.
        let idle = u32::try_from(pool.num_idle()).unwrap_or(u32::MAX).min(open);
        Self { name, open, idle, most: pool.options().get_max_connections() }
    }
}

impl ConnectSettings {
    /// The defaults for the database at `url`.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            existing: false,
            acquire_timeout: Duration::from_secs(5),
            readers: 4,
            busy_timeout: Duration::from_secs(5),
            connections: 10,
            statement_timeout: Duration::from_secs(10),
            password: None,
            tls: None,
            ca_file: None,
        }
    }
}

// A URL may hold a password.
impl fmt::Debug for ConnectSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectSettings").finish_non_exhaustive()
    }
}

/// An open database. Clones share its connections.
#[derive(Clone)]
pub struct Database(Arc<Inner>);

struct Inner {
    writer: DatabaseConnection,
    readers: DatabaseConnection,
    together: Option<Together>,
    gathered: Gatherings,
    engine: Box<dyn Engine>,
    /// Keeps one permit from a commit that enqueues to the next call of `woken`.
    enqueued: Arc<Notify>,
}

/// Questions that are asked together, by kind.
pub(super) struct Gatherings {
    /// The threepids of an account.
    pub(super) lists: Arc<Gathered<UserId, Result<Vec<Threepid>, StorageError>>>,
    /// Who owns an address.
    pub(super) owners: Arc<Gathered<Address, Result<Option<UserId>, StorageError>>>,
    /// The current session under a key.
    pub(super) sessions: Arc<Gathered<KeyedHash, Result<Option<ValidationSession>, StorageError>>>,
    /// Whose an access token is, by its hash.
    pub(super) tokens: Arc<Gathered<KeyedHash, Result<Option<Caller>, StorageError>>>,
    /// Units that only add.
    pub(super) units: Arc<Gathered<Arc<UnitOfWork>, Result<(), ApplyError>>>,
    /// What became of messages.
    pub(super) settlements: Arc<Gathered<Settled, bool>>,
    /// Whether the counts of limits that were told last became durable.
    #[cfg(feature = "limits")]
    pub(super) counts_hold: AtomicBool,
    /// Acts under limits.
    #[cfg(feature = "limits")]
    pub(super) acts: Arc<Gathered<Vec<SharedAct>, Vec<Counted>>>,
}

impl Gatherings {
    fn new(writes_together: bool, patience: Duration) -> Self {
        // Where one connection writes, what is written waits for it in its own queue, and gathers until it is begun.
        let writing = if writes_together { usize::MAX } else { LANES };
        Self {
            lists: Gathered::new(LANES, patience),
            owners: Gathered::new(LANES, patience),
            sessions: Gathered::new(LANES, patience),
            tokens: Gathered::new(LANES, patience),
            units: Gathered::new(writing, patience),
            settlements: Gathered::new(writing, patience),
            #[cfg(feature = "limits")]
            counts_hold: AtomicBool::new(true),
            #[cfg(feature = "limits")]
            acts: Gathered::new(writing, patience),
        }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Database").field(&self.0.engine.name()).finish()
    }
}

/// Opens what the URL names, on the engine that it names.
async fn open(settings: &ConnectSettings, enqueued: &Arc<Notify>) -> Result<Opened, ConnectError> {
    #[cfg(feature = "postgres")]
    if super::postgres::speaks(&settings.url) {
        return super::postgres::open(settings, enqueued).await;
    }
    #[cfg(feature = "sqlite")]
    return super::sqlite::open(settings).await;
    #[cfg(not(feature = "sqlite"))]
    Err(ConnectError::Url(format!("this build has no driver for it; use {ENGINES}")))
}

impl Database {
    /// Opens a database, creates it where it is missing and may be created, and proves that it can be written. It is not
    /// migrated yet.
    ///
    /// # Errors
    /// [`ConnectError`]. A database of another program or of a newer threepid is left as it was.
    pub async fn connect(settings: &ConnectSettings) -> Result<Self, ConnectError> {
        let enqueued = Arc::new(Notify::new());
        let Opened { writer, readers, engine } = open(settings, &enqueued).await?;
        let together =
            engine.has_one_writer().then(|| Together::start(writer.clone(), settings.acquire_timeout));
        let gathered = Gatherings::new(together.is_some(), settings.acquire_timeout);
        let database = Self(Arc::new(Inner { writer, readers, together, gathered, engine, enqueued }));
        if let Err(error) = database.mark().await {
            database.close().await;
            return Err(error);
        }
        Ok(database)
    }

    async fn mark(&self) -> Result<(), ConnectError> {
        self.applied().await?;
        let mark = async {
            let transaction = self.begin().await?;
            self.0.engine.mark(&transaction).await?;
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
        self.migrate_by(None).await
    }

    /// Applies at most so many pending steps of the schema, as an older version would have; for whoever tries what an
    /// upgrade does.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn migrate_by(&self, steps: Option<u32>) -> Result<Vec<String>, ConnectError> {
        let locked = async {
            let transaction = self.begin().await?;
            self.0.engine.lock_schema(&transaction).await?;
            Ok(transaction)
        };
        let transaction = locked.await.map_err(|error| self.explain(&error))?;
        let mut pending = self.pending_in(&transaction).await?;
        if pending.is_empty() {
            self.complete(&transaction).await?;
            return Ok(pending);
        }
        let apply = async {
            Migrator::up(&transaction, steps).await?;
            transaction.commit().await
        };
        apply.await.map_err(|error| self.explain(&error))?;
        pending.truncate(steps.map_or(usize::MAX, |steps| usize::try_from(steps).unwrap_or(usize::MAX)));
        tracing::info!(steps = pending.join(", "), "the database was migrated");
        Ok(pending)
    }

    /// Refuses every schema but this version's, for whoever may not change it. Nothing is written.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn require_current(&self) -> Result<(), ConnectError> {
        let Some(version) = self.schema_version().await? else {
            let is_empty = self.missing(self.reader()).await?.len() == TABLES.len();
            return Err(if is_empty {
                ConnectError::Empty(self.name().to_owned())
            } else {
                self.half_migrated("the record of its schema is missing".to_owned())
            });
        };
        if self.pending_migrations().await?.is_empty() {
            return self.complete(self.reader()).await;
        }
        Err(ConnectError::Older { database: self.name().to_owned(), version })
    }

    /// Refuses a schema whose record says that it is complete while a table is missing.
    async fn complete(&self, connection: impl IntoDatabaseExecutor<'_>) -> Result<(), ConnectError> {
        match self.missing(connection).await?.first() {
            Some(table) => Err(self.half_migrated(format!("the table {table} is missing"))),
            None => Ok(()),
        }
    }

    /// The tables that are not there.
    async fn missing(
        &self,
        connection: impl IntoDatabaseExecutor<'_>,
    ) -> Result<Vec<&'static str>, ConnectError> {
        let manager = SchemaManager::new(connection);
        let mut missing = Vec::new();
        for table in TABLES {
            if !manager.has_table(table).await.map_err(|error| self.explain(&error))? {
                missing.push(*table);
            }
        }
        Ok(missing)
    }

    fn half_migrated(&self, reason: String) -> ConnectError {
        ConnectError::HalfMigrated { database: self.name().to_owned(), reason }
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
        if let Some(unknown) =
            applied.iter().rfind(|name| !known.iter().any(|step| step.name() == name.as_str()))
        {
            let version = unknown.clone();
            return Err(ConnectError::Newer { database: self.name().to_owned(), version });
        }
        // Steps are applied in their order, so those that were are the first ones.
        match known.iter().zip(&applied).find(|(step, name)| step.name() != name.as_str()) {
            Some((step, _)) => Err(self.half_migrated(format!("the step {} was left out", step.name()))),
            None => Ok(applied),
        }
    }

    /// The pools of connections that calls wait for, as they are now.
    pub fn pools(&self) -> Vec<PoolUse> {
        self.0.engine.pools()
    }

    /// Closes every connection, after the calls that are under way. Later calls fail.
    pub async fn close(&self) {
        if let Some(together) = self.together() {
            together.close().await;
        }
        // Closing cannot fail in a way that anyone could act on; what was committed is on the disk.
        self.0.engine.close().await;
        let _ = self.0.readers.close_by_ref().await;
        let _ = self.0.writer.close_by_ref().await;
    }

    /// The database, for messages; without its password.
    pub(super) fn name(&self) -> &str {
        self.0.engine.name()
    }

    /// Wakes the relays: this process's and others'.
    pub(super) fn ring(&self) {
        self.0.enqueued.notify_one();
        self.0.engine.announce();
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

    /// A transaction that writes.
    pub(super) async fn begin(&self) -> Result<DatabaseTransaction, DbErr> {
        write::begin(&self.0.writer).await
    }

    /// What commits many changes at once, where one connection writes.
    pub(super) fn together(&self) -> Option<&Together> {
        self.0.together.as_ref()
    }

    /// What is asked together.
    pub(super) fn gathered(&self) -> &Gatherings {
        &self.0.gathered
    }

    /// Reads what every start reads.
    pub(super) async fn check(&self) -> Result<(), StorageError> {
        read_applied(self.reader()).await?;
        Ok(())
    }

    fn explain(&self, error: &DbErr) -> ConnectError {
        self.0.engine.explain(error)
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
