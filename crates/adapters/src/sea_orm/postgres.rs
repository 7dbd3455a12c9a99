//! How a PostgreSQL database is opened: what is refused, what every connection is set to, and how processes that share
//! it wake each other.
//!
//! One pool reads and writes, in READ COMMITTED: unique keys and conditional updates decide who came first, and a
//! transaction that the engine gives up on for a collision is run anew. No connection commits with
//! `synchronous_commit=off`, since an answer promises that it is durable; only counts of limits do. Distributed engines that speak the protocol
//! will do: nothing here rests on advisory locks, and `LISTEN` is a convenience.
//!
//! The table `threepid_database` marks the schema as ours; its one row is what migrations lock.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use sea_orm::sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgPool, PgPoolOptions, PgSslMode};
use sea_orm::sqlx::{self, ConnectOptions, Connection};
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbErr, SqlxPostgresConnector};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::connection::{ConnectSettings, PoolUse, Tls};
use super::engine::{Engine, Opened, one_line};
use super::error::{ConnectError, driver_error};

/// Where instances tell each other of messages.
const CHANNEL: &str = "threepid_outbox";

/// A connection that was idle for so long is tried before it is used.
const IDLE_UNTRIED: Duration = Duration::from_secs(1);

/// A pause before listening anew; each next one is twice as long, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long a process waits for another one that changes the schema.
const SCHEMA_LOCK_TIMEOUT: &str = "60s";

/// So often the table that marks the schema is looked for while other processes are about to make it.
const MARK_TRIES: usize = 5;

/// What a URL's query may say; a misspelt `sslmode` must not go unheard.
const PARAMETERS: [&str; 14] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
    "statement-cache-capacity",
    "ssl-mode",
];

/// Whether a URL is this engine's.
pub(super) fn speaks(url: &str) -> bool {
    url.starts_with("postgres://") || url.starts_with("postgresql://")
}

/// Opens the database that the settings name, without changing one that is not ours. `bell` is rung when another
/// process has enqueued a message.
pub(super) async fn open(settings: &ConnectSettings, bell: &Arc<Notify>) -> Result<Opened, ConnectError> {
    let options = parse(settings)?;
    let name = name(&options);
    prepare(&options, settings).await.map_err(|error| match error {
        Refusal::Another => ConnectError::AnotherProgram(name.clone()),
        Refusal::Empty => ConnectError::Empty(name.clone()),
        Refusal::Driver(error) => explain(&name, &error),
    })?;
    let pool = pool(settings, settings.connections.max(1)).connect_lazy_with(options.clone());
    // One connection listens, the other announces.
    let beside = pool_beside(settings, options);
    let connections = SqlxPostgresConnector::from_sqlx_postgres_pool(pool.clone());
    let engine = PostgreSql::start(name, pool, beside, Arc::clone(bell));
    Ok(Opened { writer: connections.clone(), readers: connections, engine: Box::new(engine) })
}

fn parse(settings: &ConnectSettings) -> Result<PgConnectOptions, ConnectError> {
    if let Some((_, query)) = settings.url.split_once('?') {
        let key = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
        let unknown = query.split('&').map(key).find(|key| {
            !PARAMETERS.contains(&key.as_str()) && !key.starts_with("options[") && !key.is_empty()
        });
        if let Some(unknown) = unknown {
            return Err(ConnectError::Url(format!("{unknown} is no parameter of a PostgreSQL URL")));
        }
    }
    let options = PgConnectOptions::from_str(&settings.url)
        .map_err(|error| ConnectError::Url(one_line(&error.to_string())))?;
    let mut options = options.application_name("threepid").disable_statement_logging();
    if options.get_database().is_none_or(str::is_empty) {
        return Err(ConnectError::Url("it names no database; use postgres://user@host/database".to_owned()));
    }
    if let Some(password) = &settings.password {
        options = options.password(password);
    }
    if let Some(tls) = settings.tls {
        options = options.ssl_mode(match tls {
            Tls::Disable => PgSslMode::Disable,
            Tls::Prefer => PgSslMode::Prefer,
            Tls::Require => PgSslMode::Require,
            Tls::VerifyCa => PgSslMode::VerifyCa,
            Tls::VerifyFull => PgSslMode::VerifyFull,
        });
    }
    if let Some(ca_file) = &settings.ca_file {
        options = options.ssl_root_cert(ca_file);
    }
    Ok(options)
}

/// The database in messages.
fn name(options: &PgConnectOptions) -> String {
    let (host, port) = (options.get_host(), options.get_port());
    let database = options.get_database().unwrap_or_default();
    match options.get_socket() {
        Some(folder) => format!("{database} at {}:{port}", folder.display()),
        None => format!("{database} at {host}:{port}"),
    }
}

/// Why a database is not opened.
enum Refusal {
    /// It is another program's.
    Another,
    /// It is nobody's yet, and was to be threepid's.
    Empty,
    /// The engine or the way there.
    Driver(sqlx::Error),
}

impl From<sqlx::Error> for Refusal {
    fn from(error: sqlx::Error) -> Self {
        Self::Driver(error)
    }
}

/// Connects once, outside of any pool, so that what is wrong is told at once and not after a wait, and makes the
/// table that marks the schema where the schema is empty and may be filled.
async fn prepare(options: &PgConnectOptions, settings: &ConnectSettings) -> Result<(), Refusal> {
    let connect = timeout(settings.acquire_timeout, options.connect());
    let mut connection = connect.await.map_err(|_| sqlx::Error::PoolTimedOut)??;
    let recognised = recognise(&mut connection, settings.existing).await;
    // How it ends changes nothing: what was written is committed.
    let _ = connection.close().await;
    recognised
}

async fn recognise(connection: &mut PgConnection, existing: bool) -> Result<(), Refusal> {
    let mut tries = 1;
    loop {
        let (marked, tables) = look(connection).await?;
        if marked {
            return Ok(());
        }
        if tables > 0 {
            return Err(Refusal::Another);
        }
        if existing {
            return Err(Refusal::Empty);
        }
        let made = sqlx::query(
            "CREATE TABLE IF NOT EXISTS threepid_database (id bigint PRIMARY KEY, program text NOT NULL)",
        );
        match made.execute(&mut *connection).await {
            // Processes that start at once collide in the engine's catalogue; one of them has made the table.
            Err(error)
                if matches!(code(&error).as_deref(), Some("23505" | "42710" | "42P07"))
                    && tries < MARK_TRIES =>
            {
                tries += 1;
            }
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(()),
        }
    }
}

/// Whether the schema is marked as ours, and how many tables it has.
async fn look(connection: &mut PgConnection) -> Result<(bool, i64), sqlx::Error> {
    let look = sqlx::query_as(
        "SELECT coalesce(bool_or(table_name = 'threepid_database'), false), count(*) \
         FROM information_schema.tables \
         WHERE table_schema = current_schema() AND table_type = 'BASE TABLE'",
    );
    look.fetch_one(connection).await
}

fn pool(settings: &ConnectSettings, size: u32) -> PgPoolOptions {
    let statement_timeout = format!("{}ms", settings.statement_timeout.as_millis());
    PgPoolOptions::new()
        .max_connections(size)
        .acquire_timeout(settings.acquire_timeout)
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move {
                if meta.idle_for > IDLE_UNTRIED {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .after_connect(move |connection, _meta| {
            let statement_timeout = statement_timeout.clone();
            Box::pin(async move {
                // A transaction whose process has gone silent is ended, too, so that its locks do not stay.
                sqlx::query(
                    "SELECT set_config('statement_timeout', $1, false), \
                     set_config('idle_in_transaction_session_timeout', $1, false), \
                     set_config('synchronous_commit', CASE current_setting('synchronous_commit') \
                       WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, false)",
                )
                .bind(statement_timeout)
                .execute(connection)
                .await?;
                Ok(())
            })
        })
}

fn pool_beside(settings: &ConnectSettings, options: PgConnectOptions) -> PgPool {
    pool(settings, 2).max_lifetime(None).connect_lazy_with(options)
}

/// A database on PostgreSQL, and the tasks that wake its relay.
struct PostgreSql {
    name: String,
    pool: PgPool,
    beside: PgPool,
    announce: Arc<Notify>,
    /// They end with it.
    _tasks: JoinSet<()>,
}

impl PostgreSql {
    fn start(name: String, pool: PgPool, beside: PgPool, bell: Arc<Notify>) -> Self {
        let announce = Arc::new(Notify::new());
        let ears = Arc::new(AtomicI32::new(0));
        let mut tasks = JoinSet::new();
        tasks.spawn(hear(beside.clone(), bell, Arc::clone(&ears)));
        tasks.spawn(tell(beside.clone(), Arc::clone(&announce), ears));
        Self { name, pool, beside, announce, _tasks: tasks }
    }
}

#[async_trait]
impl Engine for PostgreSql {
    fn name(&self) -> &str {
        &self.name
    }

    /// It commits at once what several connections commit at once.
    fn has_one_writer(&self) -> bool {
        false
    }

    async fn mark(&self, transaction: &DatabaseTransaction) -> Result<(), DbErr> {
        let mark = "INSERT INTO threepid_database (id, program) VALUES (1, 'threepid') \
                    ON CONFLICT (id) DO UPDATE SET program = EXCLUDED.program";
        transaction.execute_unprepared(mark).await?;
        Ok(())
    }

    /// A row and not an advisory lock: every engine has rows.
    async fn lock_schema(&self, transaction: &DatabaseTransaction) -> Result<(), DbErr> {
        let patience = format!(
            "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0; \
             SET LOCAL lock_timeout = '{SCHEMA_LOCK_TIMEOUT}'"
        );
        transaction.execute_unprepared(&patience).await?;
        transaction.execute_unprepared("SELECT id FROM threepid_database WHERE id = 1 FOR UPDATE").await?;
        Ok(())
    }

    fn explain(&self, error: &DbErr) -> ConnectError {
        match driver_error(error) {
            Some(error) => explain(&self.name, error),
            None => {
                ConnectError::Failed { database: self.name.clone(), reason: one_line(&error.to_string()) }
            }
        }
    }

    fn announce(&self) {
        self.announce.notify_one();
    }

    fn pools(&self) -> Vec<PoolUse> {
        vec![PoolUse::of("all", &self.pool)]
    }

    async fn close(&self) {
        self.beside.close().await;
    }
}

/// Rings the bell for what other processes enqueue, for ever. A connection that is lost is made anew; meanwhile the
/// relay looks by itself.
async fn hear(pool: PgPool, bell: Arc<Notify>, ears: Arc<AtomicI32>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let heard = listen(&pool, &bell, &ears, &mut pause).await;
        match heard {
            Err(sqlx::Error::PoolClosed) => return,
            Err(error) if matches!(code(&error).as_deref(), Some("0A000" | "42601" | "42883")) => {
                tracing::info!(
                    "the database has no LISTEN; instances look for each other's messages by themselves"
                );
                return;
            }
            Err(error) => tracing::debug!(%error, "not listening to other instances; will try again"),
            Ok(()) => tracing::debug!("the connection that listens to other instances was lost"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Listens until the connection is lost.
async fn listen(
    pool: &PgPool,
    bell: &Notify,
    ears: &AtomicI32,
    pause: &mut Duration,
) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.eager_reconnect(false);
    listener.listen(CHANNEL).await?;
    let own: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut listener).await?;
    ears.store(own, Ordering::Relaxed);
    *pause = FIRST_PAUSE;
    // For what came while nobody listened.
    bell.notify_one();
    while let Some(notification) = listener.try_recv().await? {
        if notification.payload() != own.to_string() {
            bell.notify_one();
        }
    }
    Ok(())
}

/// Tells other processes of messages, for ever. It happens after the commit and not in it: the engine lets only one
/// notifying transaction commit at a time, and what is lost here, the relay's own look finds.
async fn tell(pool: PgPool, announce: Arc<Notify>, ears: Arc<AtomicI32>) {
    loop {
        announce.notified().await;
        let own = ears.load(Ordering::Relaxed).to_string();
        let told = sqlx::query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(own).execute(&pool).await;
        match told {
            Ok(_) => {}
            Err(sqlx::Error::PoolClosed) => return,
            Err(error) => tracing::debug!(%error, "other instances were not told of a message"),
        }
    }
}

/// The SQLSTATE, as in <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
fn code(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

/// What the operator has to mend.
fn explain(name: &str, error: &sqlx::Error) -> ConnectError {
    let database = name.to_owned();
    let said =
        error.as_database_error().map_or_else(|| error.to_string(), |error| error.message().to_owned());
    let reason = one_line(&said);
    match (error, code(error).as_deref()) {
        (_, Some("28P01" | "28000")) => ConnectError::Login { database, reason },
        (_, Some("3D000" | "3F000")) => ConnectError::NoDatabase { database, reason },
        (_, Some("25006")) => ConnectError::StandBy(database),
        (_, Some("42501")) => ConnectError::NotPermitted { database, reason },
        (_, Some("42P01" | "42P07" | "42701" | "42703" | "42710")) => {
            ConnectError::HalfMigrated { database, reason }
        }
        (_, Some("55P03")) => ConnectError::Locked(database),
        (_, Some("53300" | "57P03")) => ConnectError::Unreachable { database, reason },
        (sqlx::Error::PoolTimedOut, _) => {
            ConnectError::Unreachable { database, reason: "no connection in time".to_owned() }
        }
        (sqlx::Error::Io(_) | sqlx::Error::Protocol(_), _) => ConnectError::Unreachable { database, reason },
        (sqlx::Error::Tls(error), _) => ConnectError::Tls { database, reason: one_line(&error.to_string()) },
        (sqlx::Error::Configuration(error), _) => ConnectError::Url(one_line(&error.to_string())),
        _ => ConnectError::Failed { database, reason },
    }
}
