//! Counts that every instance has to know: one row for each limit and subject, changed by one statement, so that acts
//! which come at once are judged one after the other.
//!
//! A row is the time at which its bucket is full; one whose time has passed says nothing and may be purged. PostgreSQL
//! does not sync counts to the disk before the answer, since all that a machine's failure forgets is who was about to be
//! refused; on SQLite they share the commits of the other changes.

use async_trait::async_trait;
use sea_orm::{ConnectionTrait, DbBackend, Statement, Value};
use threepid_domain::ports::Unavailable;

use super::connection::Database;
use super::error::{ApplyError, StorageError, unavailable};
use super::storable_subject;
use crate::limits::{Act, Counted, SharedCounts};

const PORT: &str = "rate limiter";

/// So often a statement is tried that collides with others, or meets a connection that was cut.
const TRIES: usize = 10;

/// A statement as SQLite reads it, and as PostgreSQL does.
#[derive(Clone, Copy)]
struct OnEach {
    sqlite: &'static str,
    postgres: &'static str,
}

macro_rules! unsynced {
    ($before:literal, $after:literal) => {
        OnEach {
            sqlite: concat!($before, "true", $after),
            // For the transaction of this statement alone.
            postgres: concat!($before, "set_config('synchronous_commit', 'off', true) IS NOT NULL", $after),
        }
    };
}

/// Parameters: limit, subject, now, interval, empty_until, nonsense_after. It gives a row where the act is allowed.
const TAKE: OnEach = unsynced!(
    "INSERT INTO rate_limit (name, subject, full_at_us) \
     SELECT $1, $2, CAST($3 AS bigint) + CAST($4 AS bigint) WHERE ",
    " ON CONFLICT (name, subject) DO UPDATE SET full_at_us = CASE \
       WHEN rate_limit.full_at_us > $6 THEN $5 \
       WHEN rate_limit.full_at_us > $3 THEN rate_limit.full_at_us + $4 \
       ELSE $3 + $4 END \
     WHERE rate_limit.full_at_us > $6 OR rate_limit.full_at_us + $4 <= $5 \
     RETURNING full_at_us"
);

/// Parameters: limit, subject, interval.
const GIVE_BACK: OnEach = unsynced!(
    "UPDATE rate_limit SET full_at_us = full_at_us - $3 WHERE name = $1 AND subject = $2 AND ",
    " RETURNING full_at_us"
);

/// Parameters: limit, subject.
const READ: &str = "SELECT full_at_us FROM rate_limit WHERE name = $1 AND subject = $2";

impl Database {
    /// Runs a statement on counts that writes; the number in its row, if it gives one.
    async fn count(&self, statement: OnEach, parameters: Vec<Value>) -> Result<Option<i64>, Unavailable> {
        let backend = self.writer().get_database_backend();
        let sql = if backend == DbBackend::Sqlite { statement.sqlite } else { statement.postgres };
        let statement = Statement::from_sql_and_values(backend, sql, parameters);
        let counted = match self.together() {
            Some(_) => {
                let written = self.write(move |transaction| {
                    let statement = statement.clone();
                    Box::pin(async move { Ok(transaction.query_one_raw(statement).await?) })
                });
                written.await.map_err(|error| match error {
                    ApplyError::Storage(error) => error,
                    ApplyError::Conflict(conflict) => StorageError::Database(conflict.to_string()),
                })
            }
            None => self.count_alone(statement).await,
        };
        let row = counted.map_err(unavailable(PORT))?;
        let number = row.map(|row| row.try_get_by_index(0)).transpose();
        number.map_err(|error| unavailable(PORT)(error.into()))
    }

    /// Runs a statement as a transaction of its own.
    async fn count_alone(&self, statement: Statement) -> Result<Option<sea_orm::QueryResult>, StorageError> {
        let mut tries = 1;
        loop {
            match self.writer().query_one_raw(statement.clone()).await.map_err(StorageError::from) {
                Err(StorageError::Collision(_) | StorageError::Cut(_)) if tries < TRIES => tries += 1,
                counted => return counted,
            }
        }
    }
}

#[async_trait]
impl SharedCounts for Database {
    async fn take(&self, limit: &'static str, subject: String, act: Act) -> Result<Counted, Unavailable> {
        let Act { now, interval, empty_until, nonsense_after } = act;
        let numbers = [now, interval, empty_until, nonsense_after];
        let mut parameters: Vec<Value> = vec![limit.into(), storable_subject(&subject).into()];
        parameters.extend(numbers.map(Value::from));
        if let Some(full_at) = self.count(TAKE, parameters).await? {
            return Ok(Counted { is_allowed: true, full_at });
        }
        // What is read after the refusal only says how long to wait.
        let full_at = self.full_at(limit, subject).await?;
        Ok(Counted { is_allowed: false, full_at: full_at.unwrap_or(act.empty_until) })
    }

    async fn full_at(&self, limit: &'static str, subject: String) -> Result<Option<i64>, Unavailable> {
        let backend = self.reader().get_database_backend();
        let read =
            Statement::from_sql_and_values(backend, READ, [limit.into(), storable_subject(&subject).into()]);
        let read = async {
            let row = self.reader().query_one_raw(read).await?;
            row.map(|row| row.try_get_by_index(0)).transpose()
        };
        read.await.map_err(|error: sea_orm::DbErr| unavailable(PORT)(error.into()))
    }

    async fn give_back(&self, limit: &'static str, subject: String, act: Act) -> Result<(), Unavailable> {
        self.count(GIVE_BACK, vec![limit.into(), storable_subject(&subject).into(), act.interval.into()])
            .await?;
        Ok(())
    }
}
