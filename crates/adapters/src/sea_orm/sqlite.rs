//! How a SQLite file is opened: what is refused, and what every connection is set to.
//!
//! One connection writes, in IMMEDIATE transactions, so that writers queue in this process instead of colliding in
//! the engine, and those that queue share a commit; the others read, and in WAL mode never wait for it. Every commit is synced to the disk
//! (`synchronous=FULL`), since an answer promises that it is durable. A file carries threepid's `application_id`; one
//! that carries another, or tables without it, is left exactly as it was found.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use sea_orm::sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sea_orm::sqlx::{self, ConnectOptions, Connection};
use sea_orm::{ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, SqlxSqliteConnector};
use tokio::time::Instant;

use super::connection::{ConnectSettings, ENGINES, PoolUse};
use super::engine::{Engine, Opened};
use super::error::{ConnectError, driver_error};

/// `application_id` of our files: "3pid" in ASCII. `file` and `PRAGMA application_id` show it.
const APPLICATION_ID: i32 = i32::from_be_bytes(*b"3pid");

/// Opens the file that the settings name, without changing one that is not ours.
pub(super) async fn open(settings: &ConnectSettings) -> Result<Opened, ConnectError> {
    let options = parse(&settings.url)?.busy_timeout(settings.busy_timeout).disable_statement_logging();
    let path = options.get_filename().to_owned();
    if settings.existing && std::fs::metadata(&path).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        return Err(ConnectError::Absent(path));
    }
    let creates = creates(&settings.url) && !settings.existing;
    let options = options.create_if_missing(creates);
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty())
        && !folder.is_dir()
    {
        return Err(ConnectError::MissingFolder(folder.to_owned()));
    }
    if creates {
        create_private(&path)?;
    }
    match recognise(&options).await.map_err(|error| explain(&path, &error))? {
        Found::Another => return Err(ConnectError::AnotherProgram(path.display().to_string())),
        Found::Empty if settings.existing => return Err(ConnectError::Empty(path.display().to_string())),
        Found::Ours | Found::Empty => {}
    }

    let options = options
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        // What a statement would need to be undone is kept in memory, not in a file of its own.
        .pragma("temp_store", "MEMORY");
    // Some keys are random, so a change meets pages everywhere: in memory 8 MiB of them, and in the log as many as are worth
    // the wait while they are copied into the file, 16 MiB.
    let writing = options.clone().pragma("cache_size", "-8192").pragma("wal_autocheckpoint", "4096");
    let writer = pool(settings, 1, writing).await.map_err(|error| explain(&path, &error))?;
    // A look-up among millions meets pages of every level of its trees; a file that has fewer pages takes no more memory.
    let reading = options.pragma("query_only", "ON").pragma("cache_size", "-16384");
    let readers =
        pool(settings, settings.readers.max(1), reading).await.map_err(|error| explain(&path, &error))?;
    let name = path.display().to_string();
    let pools = [&writer, &readers].map(|pool| pool.get_sqlite_connection_pool().clone());
    Ok(Opened { writer, readers, engine: Box::new(SqliteFile { path, name, pools }) })
}

/// Whether a missing file is to be made: unless another mode is asked for.
fn creates(url: &str) -> bool {
    let query = if url.starts_with("sqlite:") { url.split_once('?') } else { None };
    query.is_none_or(|(_, query)| !query.contains("mode=") || query.contains("mode=rwc"))
}

/// A path, `sqlite:path` or `sqlite://path`, the latter two with `?mode=rwc` (the default), `rw` or `ro`.
fn parse(url: &str) -> Result<SqliteConnectOptions, ConnectError> {
    let refuse = |reason: &str| ConnectError::Url(reason.to_owned());
    let options = if url.starts_with("sqlite:") {
        let options =
            SqliteConnectOptions::from_str(url).map_err(|error| ConnectError::Url(error.to_string()))?;
        options.create_if_missing(creates(url))
    } else if let Some((scheme, _)) = url.split_once("://") {
        return Err(ConnectError::Url(format!("this build has no driver for {scheme}; use {ENGINES}")));
    } else {
        SqliteConnectOptions::new().filename(url).create_if_missing(true)
    };
    if options.get_filename().as_os_str().is_empty() {
        return Err(refuse("it names no file; use sqlite://path"));
    }
    // Several connections to memory would be several databases, and none of them durable.
    if url.contains(":memory:") || url.contains("mode=memory") {
        return Err(refuse("a database in memory is not durable; use sqlite://path"));
    }
    // A shared cache makes readers wait for the writer, and an immutable file hides its commits.
    Ok(options.shared_cache(false).immutable(false))
}

/// Makes an empty file, which is an empty database, readable by its owner alone: addresses are nobody else's business.
/// The engine gives its files beside it the same permissions. A file that is there stays as it is.
fn create_private(path: &Path) -> Result<(), ConnectError> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let (path, reason) = match options.open(path) {
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => (path.to_owned(), error),
    };
    Err(match reason.kind() {
        ErrorKind::ReadOnlyFilesystem => ConnectError::ReadOnly(path),
        ErrorKind::StorageFull => ConnectError::Disk { path, reason: reason.to_string() },
        _ => ConnectError::CannotOpen { path, reason: reason.to_string() },
    })
}

/// Whose a file is.
enum Found {
    /// threepid's.
    Ours,
    /// Nobody's yet.
    Empty,
    /// Another program's.
    Another,
}

/// Whose the file is. It is read as it is: not even its journal mode changes.
async fn recognise(options: &SqliteConnectOptions) -> Result<Found, sqlx::Error> {
    let mut connection = options.connect().await?;
    let id: i32 = sqlx::query_scalar("PRAGMA application_id").fetch_one(&mut connection).await?;
    let tables: i64 =
        sqlx::query_scalar("SELECT count(*) FROM sqlite_master").fetch_one(&mut connection).await?;
    connection.close().await?;
    Ok(match (id, tables) {
        (APPLICATION_ID, _) => Found::Ours,
        (0, 0) => Found::Empty,
        _ => Found::Another,
    })
}

/// The file that is open.
struct SqliteFile {
    path: PathBuf,
    name: String,
    /// The one that writes, and those that read.
    pools: [SqlitePool; 2],
}

#[async_trait]
impl Engine for SqliteFile {
    fn name(&self) -> &str {
        &self.name
    }

    fn has_one_writer(&self) -> bool {
        true
    }

    async fn mark(&self, transaction: &DatabaseTransaction) -> Result<(), DbErr> {
        transaction.execute_unprepared(&format!("PRAGMA application_id = {APPLICATION_ID}")).await?;
        Ok(())
    }

    /// An IMMEDIATE transaction holds the whole file.
    async fn lock_schema(&self, _transaction: &DatabaseTransaction) -> Result<(), DbErr> {
        Ok(())
    }

    fn explain(&self, error: &DbErr) -> ConnectError {
        match driver_error(error) {
            Some(error) => explain(&self.path, error),
            None => ConnectError::Failed { database: self.name.clone(), reason: error.to_string() },
        }
    }

    /// Other processes that have the file open look by themselves.
    fn announce(&self) {}

    fn pools(&self) -> Vec<PoolUse> {
        let [writer, readers] = &self.pools;
        vec![PoolUse::of("writer", writer), PoolUse::of("readers", readers)]
    }

    async fn close(&self) {}
}

async fn pool(
    settings: &ConnectSettings,
    size: u32,
    options: SqliteConnectOptions,
) -> Result<DatabaseConnection, sqlx::Error> {
    let pool_options = SqlitePoolOptions::new()
        .max_connections(size)
        .acquire_timeout(settings.acquire_timeout)
        // A connection to a file does not go stale.
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        // Where there is no room, the engine ends a transaction by itself, so that it cannot be rolled back, and the
        // driver goes on counting it. What came next on this connection would be a part of that: acknowledged, and
        // committed by nobody.
        .before_acquire(|connection, _meta| Box::pin(async move { Ok(!connection.is_in_transaction()) }));
    // The change into WAL mode needs the file for itself, and no busy timeout waits for that: where two processes
    // open a new file at once, one tries again.
    let give_up = Instant::now() + settings.busy_timeout;
    loop {
        match pool_options.clone().connect_with(options.clone()).await {
            Ok(pool) => return Ok(SqlxSqliteConnector::from_sqlx_sqlite_pool(pool)),
            Err(error) if is_busy(&error) && Instant::now() < give_up => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// SQLite's result code without its extension, as in <https://www.sqlite.org/rescode.html>.
fn code(error: &sqlx::Error) -> Option<i32> {
    let code: i32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}

fn is_busy(error: &sqlx::Error) -> bool {
    matches!(code(error), Some(5 | 6))
}

/// What the operator has to mend.
fn explain(path: &Path, error: &sqlx::Error) -> ConnectError {
    let reason =
        || error.as_database_error().map_or_else(|| error.to_string(), |error| error.message().to_owned());
    let path = path.to_owned();
    match code(error) {
        Some(5 | 6) => ConnectError::Locked(path.display().to_string()),
        Some(8) => ConnectError::ReadOnly(path),
        Some(10 | 13) => ConnectError::Disk { reason: reason(), path },
        Some(11 | 26) => ConnectError::NotADatabase { reason: reason(), path },
        Some(14) => match std::fs::metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => ConnectError::MissingFile(path),
            Err(error) => ConnectError::CannotOpen { reason: error.to_string(), path },
            Ok(found) if found.is_dir() => {
                ConnectError::CannotOpen { reason: "it is a folder".to_owned(), path }
            }
            Ok(_) => ConnectError::CannotOpen { reason: reason(), path },
        },
        Some(3 | 23) => ConnectError::CannotOpen { reason: reason(), path },
        Some(1)
            if ["already exists", "no such ", "duplicate column name"]
                .iter()
                .any(|said| reason().contains(said)) =>
        {
            ConnectError::HalfMigrated { database: path.display().to_string(), reason: reason() }
        }
        _ => ConnectError::Failed { database: path.display().to_string(), reason: reason() },
    }
}
