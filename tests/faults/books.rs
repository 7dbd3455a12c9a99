//! What the database says, read beside the program or after its end.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, QueryResult, Statement,
};
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
    /// Where addresses are published, or may be, and whether that is certain.
    pub(crate) bindings: BTreeMap<Published, bool>,
    /// What the engine's own check complains about.
    pub(crate) damage: Vec<String>,
}

/// An address and the account that an identity server names for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Published {
    /// The address.
    pub(crate) address: String,
    /// The account.
    pub(crate) user: String,
}

/// What is stored about one address.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Its sessions: sid, state, and how many tokens were issued.
    sessions: Vec<(String, String, usize)>,
    /// Who has it.
    owners: Vec<String>,
    /// For whom it is published, or may be, and whether that is certain.
    bindings: Vec<(String, String)>,
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
    /// What an unbind is to end.
    pub(crate) unbinds: Option<Published>,
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

    /// The ids of the messages that are owed still.
    pub(crate) async fn queued_ids(&self) -> Outcome<BTreeSet<String>> {
        let rows = self.all("SELECT id FROM outbox WHERE state = 'queued'").await?;
        rows.iter().map(|row| text(row, "id")).collect()
    }

    /// How many messages somebody has under a lease.
    pub(crate) async fn leased(&self) -> Outcome<u64> {
        let leased = "SELECT count(*) AS number FROM outbox WHERE state = 'queued' AND lease_id IS NOT NULL";
        let rows = self.all(leased).await?;
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

    /// What is stored about an address.
    pub(crate) async fn standing(&self, address: &str) -> Outcome<Standing> {
        let of = |columns: &str, table: &str| {
            format!("SELECT {columns} FROM {table} WHERE address = '{address}' ORDER BY 1")
        };
        let mut standing = Standing::default();
        for row in self.all(&of("sid, state, tokens", "validation_session")).await? {
            let tokens: Value = serde_json::from_str(&text(&row, "tokens")?)?;
            let tokens = tokens.as_array().map_or(0, Vec::len);
            standing.sessions.push((text(&row, "sid")?, text(&row, "state")?, tokens));
        }
        for row in self.all(&of("user_id", "threepid")).await? {
            standing.owners.push(text(&row, "user_id")?);
        }
        for row in self.all(&of("user_id, state", "binding")).await? {
            standing.bindings.push((text(&row, "user_id")?, text(&row, "state")?));
        }
        Ok(standing)
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
        for row in self.all("SELECT address, user_id, state FROM binding").await? {
            let key = Published { address: text(&row, "address")?, user: text(&row, "user_id")? };
            books.bindings.insert(key, text(&row, "state")? == "bound");
        }
        for row in self.all("SELECT id, kind, payload, subject, state, last_error FROM outbox").await? {
            let payload: Value = serde_json::from_str(&text(&row, "payload")?)?;
            let message = Message {
                kind: text(&row, "kind")?,
                sid: payload["sid"].as_str().map(str::to_owned),
                unbinds: row.try_get::<Option<String>>("", "subject")?.and_then(|key| published(&key)),
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
        let mut damage = Vec::new();
        if self.0.get_database_backend() != DbBackend::Sqlite {
            self.0.execute_unprepared("CREATE EXTENSION IF NOT EXISTS amcheck").await?;
            let heaps = "SELECT relname || ': ' || msg AS said FROM pg_class, verify_heapam(pg_class.oid) \
                         WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace";
            for row in self.all(heaps).await? {
                damage.push(text(&row, "said")?);
            }
            // Each of these is an error where an index and its table differ.
            let indexes = "SELECT bt_index_check(oid, true)::text AS said FROM pg_class \
                           WHERE relkind = 'i' AND relnamespace = 'public'::regnamespace";
            damage.extend(self.all(indexes).await.err().map(|error| error.to_string()));
            return Ok(damage);
        }
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

/// What the subject of an owed unbind names, which is account, medium, address and server, a line each.
fn published(subject: &str) -> Option<Published> {
    let mut lines = subject.lines();
    let user = lines.next()?.to_owned();
    let address = lines.nth(1)?.to_owned();
    Some(Published { address, user })
}

fn text(row: &QueryResult, column: &str) -> Outcome<String> {
    Ok(row.try_get("", column)?)
}
