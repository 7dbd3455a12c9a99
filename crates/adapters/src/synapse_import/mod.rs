//! The port `ContactSource` on Synapse's own database, SQLite or PostgreSQL.
//!
//! It is opened for reading alone, with one connection, and every page is a query of its own: nothing stays locked, and
//! Synapse may go on running. Pages follow the unique keys that Synapse's tables have, so they cost the same from the
//! first to the last. What the tables hold is described with Synapse's [schema].
//!
//! [schema]: https://element-hq.github.io/synapse/latest/development/database_schema.html

mod error;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbErr, QueryResult, SqlxSqliteConnector,
    Statement, Value,
};
use threepid_domain::ports::{
    ContactSource, ForeignAccount, ForeignBinding, ForeignContact, SourceCounts, Unavailable,
};
use url::Url;

pub use error::OpenSynapseError;

const PORT: &str = "Synapse's database";

/// How long Synapse may hold its SQLite file against a read.
const BUSY: Duration = Duration::from_secs(30);

/// Both engines number parameters in this way, and both compare rows column by column.
const CONTACTS: &str = "
    SELECT t.user_id, t.medium, t.address, t.validated_at, t.added_at, ACCOUNT
    FROM user_threepids AS t LEFT JOIN users AS u ON u.name = t.user_id
    WHERE (t.medium, t.address) > ($1, $2)
    ORDER BY t.medium, t.address LIMIT $3";

const BINDINGS: &str = "
    SELECT t.user_id, t.medium, t.address, t.id_server, ACCOUNT
    FROM user_threepid_id_server AS t LEFT JOIN users AS u ON u.name = t.user_id
    WHERE (t.user_id, t.medium, t.address, t.id_server) > ($1, $2, $3, $4)
    ORDER BY t.user_id, t.medium, t.address, t.id_server LIMIT $5";

const ACCOUNT: &str = "CASE WHEN u.name IS NULL THEN 'unknown' WHEN u.deactivated = 1 THEN 'deactivated' \
                       ELSE 'active' END AS account";

/// Synapse's contacts.
#[derive(Clone)]
pub struct SynapseContacts {
    database: DatabaseConnection,
}

impl fmt::Debug for SynapseContacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SynapseContacts")
    }
}

impl SynapseContacts {
    /// Opens Synapse's database for reading: the path of its SQLite file, or `postgres://user:password@host/database`.
    ///
    /// # Errors
    /// [`OpenSynapseError`].
    pub async fn open(database: &str) -> Result<Self, OpenSynapseError> {
        let opened = match database.split_once("://") {
            Some(("postgres" | "postgresql", _)) => postgres(database).await?,
            Some(("sqlite", path)) => sqlite(Path::new(path)).await?,
            Some((scheme, _)) => return Err(OpenSynapseError::Scheme(scheme.to_owned())),
            None => sqlite(Path::new(database)).await?,
        };
        let contacts = Self { database: opened };
        // Whatever else it may be, these tables are what makes it one of Synapse's.
        match contacts.page(CONTACTS, vec!["".into(), "".into(), 1_i64.into()]).await {
            Ok(_) => Ok(contacts),
            Err(error) => {
                contacts.close().await;
                Err(OpenSynapseError::NotSynapse(error::driver_text(&error)))
            }
        }
    }

    /// Closes the connection.
    pub async fn close(&self) {
        // It was only read; closing cannot fail in a way that anyone could act on.
        let _ = self.database.close_by_ref().await;
    }

    async fn page(&self, query: &str, values: Vec<Value>) -> Result<Vec<QueryResult>, DbErr> {
        let backend = self.database.get_database_backend();
        let query = query.replace("ACCOUNT", ACCOUNT);
        self.database.query_all_raw(Statement::from_sql_and_values(backend, query, values)).await
    }

    async fn count(&self, table: &str) -> Result<u64, DbErr> {
        let rows = self.page(&format!("SELECT count(*) AS count FROM {table}"), Vec::new()).await?;
        let count: i64 = rows.first().map(|row| row.try_get("", "count")).transpose()?.unwrap_or_default();
        Ok(u64::try_from(count).unwrap_or_default())
    }
}

async fn sqlite(path: &Path) -> Result<DatabaseConnection, OpenSynapseError> {
    if !path.is_file() {
        return Err(OpenSynapseError::MissingFile(path.to_owned()));
    }
    let options = SqliteConnectOptions::new().filename(path).read_only(true).busy_timeout(BUSY);
    let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await;
    let pool = pool.map_err(|error| OpenSynapseError::Failed(error.to_string()))?;
    Ok(SqlxSqliteConnector::from_sqlx_sqlite_pool(pool))
}

async fn postgres(url: &str) -> Result<DatabaseConnection, OpenSynapseError> {
    // No text about a URL may quote it: it holds a password.
    let mut url = Url::parse(url).map_err(|error| OpenSynapseError::Failed(error.to_string()))?;
    url.query_pairs_mut().append_pair("options[default_transaction_read_only]", "on");
    let mut options = ConnectOptions::new(url);
    options.max_connections(1).sqlx_logging(false);
    Database::connect(options).await.map_err(|error| OpenSynapseError::Failed(error::driver_text(&error)))
}

#[async_trait]
impl ContactSource for SynapseContacts {
    async fn counts(&self) -> Result<SourceCounts, Unavailable> {
        let count = async {
            Ok(SourceCounts {
                contacts: self.count("user_threepids").await?,
                bindings: self.count("user_threepid_id_server").await?,
            })
        };
        count.await.map_err(unavailable)
    }

    async fn contacts(
        &self,
        after: Option<ForeignContact>,
        limit: usize,
    ) -> Result<Vec<ForeignContact>, Unavailable> {
        let (medium, address) = after.map(|last| (last.medium, last.address)).unwrap_or_default();
        let read = async {
            let rows = self.page(CONTACTS, vec![medium.into(), address.into(), rows(limit)]).await?;
            rows.iter().map(contact).collect::<Result<_, DbErr>>()
        };
        read.await.map_err(unavailable)
    }

    async fn bindings(
        &self,
        after: Option<ForeignBinding>,
        limit: usize,
    ) -> Result<Vec<ForeignBinding>, Unavailable> {
        let after = after.map(|last| [last.user_id, last.medium, last.address, last.id_server]);
        let values = after.unwrap_or_default().map(Value::from).into_iter().chain([rows(limit)]).collect();
        let read =
            async { self.page(BINDINGS, values).await?.iter().map(binding).collect::<Result<_, DbErr>>() };
        read.await.map_err(unavailable)
    }
}

/// Engines count rows in signed 64 bits.
fn rows(limit: usize) -> Value {
    i64::try_from(limit).unwrap_or(i64::MAX).into()
}

fn contact(row: &QueryResult) -> Result<ForeignContact, DbErr> {
    Ok(ForeignContact {
        user_id: row.try_get("", "user_id")?,
        medium: row.try_get("", "medium")?,
        address: row.try_get("", "address")?,
        validated_at: row.try_get("", "validated_at")?,
        added_at: row.try_get("", "added_at")?,
        account: account(row)?,
    })
}

fn binding(row: &QueryResult) -> Result<ForeignBinding, DbErr> {
    Ok(ForeignBinding {
        user_id: row.try_get("", "user_id")?,
        medium: row.try_get("", "medium")?,
        address: row.try_get("", "address")?,
        id_server: row.try_get("", "id_server")?,
        account: account(row)?,
    })
}

fn account(row: &QueryResult) -> Result<ForeignAccount, DbErr> {
    let account: String = row.try_get("", "account")?;
    Ok(match account.as_str() {
        "active" => ForeignAccount::Active,
        "deactivated" => ForeignAccount::Deactivated,
        _ => ForeignAccount::Unknown,
    })
}

fn unavailable(error: DbErr) -> Unavailable {
    Unavailable::new(PORT, error::driver_text(&error))
}
