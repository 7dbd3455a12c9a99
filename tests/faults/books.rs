//! What the database says, read beside the program or after its end.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, QueryResult, Statement};
use serde_json::Value;

use crate::Outcome;

/// A connection for looking.
#[derive(Debug)]
pub(crate) struct Ledger(DatabaseConnection);

/// Everything that was stored.
#[derive(Debug, Default)]
pub(crate) struct Books {
    /// Sessions by sid.
    pub(crate) sessions: BTreeMap<String, Session>,
    /// Who owns which address.
    pub(crate) owners: HashMap<String, String>,
    /// Owed messages by id.
    pub(crate) messages: BTreeMap<String, Message>,
    /// What the engine's own check complains about.
    pub(crate) damage: Vec<String>,
}

/// A validation session.
#[derive(Debug)]
pub(crate) struct Session {
    /// The address to be proven.
    pub(crate) address: String,
    /// `pending`, `validated`, `consumed` or `burnt`.
    pub(crate) state: String,
    /// Who spent it.
    pub(crate) consumed_by: Option<String>,
    /// How many tokens were issued: each is owed in one mail.
    pub(crate) tokens: usize,
}

/// A row of the outbox.
#[derive(Debug)]
pub(crate) struct Message {
    /// `validation_mail` or another.
    pub(crate) kind: String,
    /// Which session's token a mail carries.
    pub(crate) sid: Option<String>,
    /// `queued`, `sent`, `dead` or `expired`.
    pub(crate) state: String,
    /// Why the last try failed.
    pub(crate) last_error: Option<String>,
}

impl Ledger {
    /// Opens the database at `url`, which is there.
    pub(crate) async fn open(url: &str) -> Outcome<Self> {
        let mut options = ConnectOptions::new(url);
        options.max_connections(1).connect_timeout(Duration::from_secs(20)).sqlx_logging(false);
        Ok(Self(Database::connect(options).await?))
    }

    /// How many messages are owed still.
    pub(crate) async fn queued(&self) -> Outcome<u64> {
        let rows = self.all("SELECT count(*) AS number FROM outbox WHERE state = 'queued'").await?;
        let count = rows.first().map_or(Ok(0), |row| row.try_get::<i64>("", "number"))?;
        Ok(u64::try_from(count)?)
    }

    /// How often messages were tried that have not left, all together.
    pub(crate) async fn tries(&self) -> Outcome<u64> {
        let sum =
            "SELECT CAST(coalesce(sum(attempts), 0) AS bigint) AS number FROM outbox WHERE state <> 'sent'";
        let rows = self.all(sum).await?;
        let tries = rows.first().map_or(Ok(0), |row| row.try_get::<i64>("", "number"))?;
        Ok(u64::try_from(tries)?)
    }

    /// Reads everything.
    pub(crate) async fn read(&self) -> Outcome<Books> {
        let mut books = Books::default();
        for row in self.all("SELECT sid, address, state, consumed_by, tokens FROM validation_session").await?
        {
            let tokens: Value = serde_json::from_str(&text(&row, "tokens")?)?;
            let session = Session {
                address: text(&row, "address")?,
                state: text(&row, "state")?,
                consumed_by: row.try_get("", "consumed_by")?,
                tokens: tokens.as_array().map_or(0, Vec::len),
            };
            books.sessions.insert(text(&row, "sid")?, session);
        }
        for row in self.all("SELECT address, user_id FROM threepid").await? {
            books.owners.insert(text(&row, "address")?, text(&row, "user_id")?);
        }
        for row in self.all("SELECT id, kind, payload, state, last_error FROM outbox").await? {
            let payload: Value = serde_json::from_str(&text(&row, "payload")?)?;
            let message = Message {
                kind: text(&row, "kind")?,
                sid: payload["sid"].as_str().map(str::to_owned),
                state: text(&row, "state")?,
                last_error: row.try_get("", "last_error")?,
            };
            books.messages.insert(text(&row, "id")?, message);
        }
        books.damage = self.damage().await?;
        Ok(books)
    }

    /// Copies the database into a new file while others write.
    pub(crate) async fn copy_to(&self, path: &str) -> Outcome<()> {
        self.0.execute_unprepared(&format!("VACUUM INTO '{path}'")).await?;
        Ok(())
    }

    /// Lets go of the file.
    pub(crate) async fn close(self) -> Outcome<()> {
        Ok(self.0.close().await?)
    }

    async fn damage(&self) -> Outcome<Vec<String>> {
        if self.0.get_database_backend() != sea_orm::DbBackend::Sqlite {
            return Ok(Vec::new());
        }
        let mut damage = Vec::new();
        for row in self.all("PRAGMA integrity_check").await? {
            let said = text(&row, "integrity_check")?;
            if said != "ok" {
                damage.push(said);
            }
        }
        for _row in self.all("PRAGMA foreign_key_check").await? {
            damage.push("a foreign key leads nowhere".to_owned());
        }
        Ok(damage)
    }

    async fn all(&self, sql: &str) -> Outcome<Vec<QueryResult>> {
        Ok(self.0.query_all_raw(Statement::from_string(self.0.get_database_backend(), sql)).await?)
    }
}

fn text(row: &QueryResult, column: &str) -> Outcome<String> {
    Ok(row.try_get("", column)?)
}
