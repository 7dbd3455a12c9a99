//! The server's key and the database belong together: hashes under another key find nothing.

use sea_orm::ActiveValue::Set;
use sea_orm::sea_query::OnConflict;
use sea_orm::{DatabaseTransaction, DbErr, EntityTrait};
use sea_orm_migration::SchemaManager;
use threepid_domain::ports::Unavailable;

use super::connection::Database;
use super::entities::server_key;
use super::error::unavailable;

const PORT: &str = "server key";

const TABLE: &str = "server_key";

/// The only row.
const ROW: i64 = 1;

/// A key that cannot be used with this database.
#[derive(Debug, thiserror::Error)]
pub enum ClaimKeyError {
    /// The database was made under another key.
    #[error(
        "the database {database} belongs to another server key: restore the key it was made with, or name another \
         database"
    )]
    AnotherKey {
        /// Which database.
        database: String,
    },
    /// It cannot be known now.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl Database {
    /// The fingerprint of the key that the database belongs to; `None` before the first. It is read from any version of
    /// the schema, and nothing is written: so a key is refused before the schema is changed for it.
    ///
    /// # Errors
    /// [`Unavailable`] when it cannot be known now.
    pub async fn key_fingerprint(&self) -> Result<Option<String>, Unavailable> {
        let find = async {
            if !SchemaManager::new(self.reader()).has_table(TABLE).await? {
                return Ok(None);
            }
            let row = server_key::Entity::find_by_id(ROW).one(self.reader()).await?;
            Ok(row.map(|row| row.fingerprint))
        };
        find.await.map_err(|error: DbErr| unavailable(PORT)(error.into()))
    }

    /// Refuses every key but the one that the database belongs to, where it belongs to one. Nothing is written.
    ///
    /// # Errors
    /// [`ClaimKeyError`].
    pub async fn recognise_key(&self, fingerprint: &str) -> Result<(), ClaimKeyError> {
        match self.key_fingerprint().await? {
            Some(known) if known != fingerprint => Err(self.another_key()),
            _ => Ok(()),
        }
    }

    fn another_key(&self) -> ClaimKeyError {
        ClaimKeyError::AnotherKey { database: self.name().to_owned() }
    }

    /// Remembers the first key that is used with this database, and refuses every other. `fingerprint` identifies the
    /// key without telling it: a hash of it, as text.
    ///
    /// # Errors
    /// [`ClaimKeyError`].
    pub async fn claim_key(&self, fingerprint: &str) -> Result<(), ClaimKeyError> {
        let claim = async {
            let transaction = self.begin().await?;
            let known = remember(&transaction, fingerprint).await?;
            transaction.commit().await?;
            Ok(known)
        };
        let known = claim.await.map_err(|error: DbErr| unavailable(PORT)(error.into()))?;
        if known.as_deref() == Some(fingerprint) { Ok(()) } else { Err(self.another_key()) }
    }
}

/// The fingerprint that came first.
async fn remember(transaction: &DatabaseTransaction, fingerprint: &str) -> Result<Option<String>, DbErr> {
    server_key::Entity::insert(server_key::ActiveModel {
        id: Set(ROW),
        fingerprint: Set(fingerprint.to_owned()),
    })
    .on_conflict(OnConflict::new().do_nothing().to_owned())
    .exec_without_returning(transaction)
    .await?;
    Ok(server_key::Entity::find_by_id(ROW).one(transaction).await?.map(|row| row.fingerprint))
}
