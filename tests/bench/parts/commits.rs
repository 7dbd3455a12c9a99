//! The reference of asking for a token: one durable commit per request of the same rows, through sea-orm, from as many
//! tasks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sea_orm::sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, DbErr, SqliteTransactionMode,
    Statement, TransactionOptions, TransactionTrait, Value as Column,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{figure, number, tell, text};
use crate::Outcome;

const SESSION: &str = "INSERT INTO validation_session (sid, key, current_key, medium, address, state, wrong_tokens, \
    validated_at, consumed_by, send_attempt, tokens, created_at, revision) VALUES ";
const OUTBOX: &str =
    "INSERT INTO outbox (id, kind, payload, created_at, due_at, not_after, attempts, state, subject) VALUES ";

pub(super) async fn run(settings: &Value) -> Outcome<()> {
    let (url, mark) = (text(settings, "url")?, text(settings, "mark")?.to_owned());
    let mut options = ConnectOptions::new(url);
    let size = if url.starts_with("sqlite:") { 1 } else { 10 };
    options.max_connections(size).sqlx_logging(false).map_sqlx_sqlite_opts(|options| {
        options.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full)
    });
    options.acquire_timeout(Duration::from_secs(30)).test_before_acquire(false);
    let database = Database::connect(options).await?;
    let (made, began) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let until = began + Duration::from_millis(number(settings, "milliseconds")?);
    let mut tasks = JoinSet::new();
    for _ in 0..number(settings, "tasks")? {
        let (database, made, mark) = (database.clone(), Arc::clone(&made), mark.clone());
        tasks.spawn(async move {
            while Instant::now() < until {
                let number = made.fetch_add(1, Ordering::Relaxed);
                commit(&database, &mark, number).await?;
            }
            Ok::<_, DbErr>(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let (made, seconds) = (made.load(Ordering::Relaxed), began.elapsed().as_secs_f64());
    database.close().await?;
    tell(&json!({ "made": made, "seconds": seconds, "per_second": figure(made) / seconds }));
    Ok(())
}

async fn commit(database: &DatabaseConnection, mark: &str, number: u64) -> Result<(), DbErr> {
    const NOW: i64 = 1_800_000_000_000;
    let options = TransactionOptions {
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        ..TransactionOptions::default()
    };
    let (sid, key) = (format!("{mark}.{number:0>28}"), format!("{mark:0>32}{number:0>32}"));
    let address = format!("{mark}-{number}@bench.example");
    let tokens =
        json!([{ "generation": 1, "issued_at": NOW, "expires_at": NOW + 3_600_000, "next_link": null }]);
    let payload =
        json!({ "kind": "validation_mail", "to": address, "sid": sid, "generation": 1 }).to_string();
    let transaction = database.begin_with_options(options).await?;
    let session: Vec<Column> = vec![
        sid.clone().into(),
        key.clone().into(),
        key.into(),
        "email".into(),
        address.into(),
        "pending".into(),
        0_i64.into(),
        None::<i64>.into(),
        None::<String>.into(),
        1_i64.into(),
        tokens.to_string().into(),
        NOW.into(),
        1_i64.into(),
    ];
    insert(&transaction, SESSION, session).await?;
    let mail: Vec<Column> = vec![
        sid.into(),
        "validation_mail".into(),
        payload.into(),
        NOW.into(),
        NOW.into(),
        (NOW + 3_600_000).into(),
        0_i64.into(),
        "queued".into(),
        None::<String>.into(),
    ];
    insert(&transaction, OUTBOX, mail).await?;
    transaction.commit().await
}

async fn insert(connection: &impl ConnectionTrait, insert: &str, columns: Vec<Column>) -> Result<(), DbErr> {
    let backend = connection.get_database_backend();
    let place = |at: usize| if backend == DbBackend::Postgres { format!("${at}") } else { "?".to_owned() };
    let places: Vec<String> = (1..=columns.len()).map(place).collect();
    let sql = format!("{insert}({})", places.join(", "));
    connection.execute_raw(Statement::from_sql_and_values(backend, sql, columns)).await?;
    Ok(())
}
