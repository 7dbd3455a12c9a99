//! The port `Store`: reads, and units of work as transactions.

use async_trait::async_trait;
use sea_orm::sea_query::{ExprTrait, OnConflict};
use sea_orm::{ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, SqlErr};
use threepid_domain::model::{
    Address, Change, KeyedHash, OutboxMessage, Sid, Threepid, UnitOfWork, UserId, ValidationSession,
};
use threepid_domain::ports::{CommitError, Conflict, Store, Unavailable};
use tracing::Instrument;

use super::connection::Database;
use super::entities::{outbox, threepid, to_column, validation_session};
use super::error::{StorageError, unavailable};

const PORT: &str = "store";

/// Sessions, threepids and the outbox in one database. Clones are cheap and share it.
#[derive(Clone, Debug)]
pub struct SeaOrmStore {
    database: Database,
}

impl SeaOrmStore {
    /// The store in a migrated database.
    pub fn new(database: Database) -> Self {
        Self { database }
    }

    pub(super) fn database(&self) -> &Database {
        &self.database
    }

    async fn transact(&self, unit: UnitOfWork) -> Result<(), ApplyError> {
        let enqueues = unit.changes().iter().any(|change| matches!(change, Change::Enqueue(_)));
        let transaction = self.database.begin().await?;
        match apply(&transaction, unit).await {
            Ok(()) => transaction.commit().await?,
            Err(error) => {
                transaction.rollback().await?;
                return Err(error);
            }
        }
        if enqueues {
            self.database.enqueued().notify_one();
        }
        Ok(())
    }

    async fn find_session(
        &self,
        column: validation_session::Column,
        value: &str,
    ) -> Result<Option<ValidationSession>, Unavailable> {
        let query = validation_session::Entity::find().filter(column.eq(value));
        let find = async {
            query.one(self.database.reader()).await?.map(validation_session::Model::parse).transpose()
        };
        find.await.map_err(unavailable(PORT))
    }
}

#[async_trait]
impl Store for SeaOrmStore {
    async fn session(&self, sid: &Sid) -> Result<Option<ValidationSession>, Unavailable> {
        self.find_session(validation_session::Column::Sid, sid.as_str()).await
    }

    async fn current_session(&self, key: KeyedHash) -> Result<Option<ValidationSession>, Unavailable> {
        self.find_session(validation_session::Column::CurrentKey, &key.to_hex()).await
    }

    async fn owner(&self, address: &Address) -> Result<Option<UserId>, Unavailable> {
        let key = (address.medium().as_str().to_owned(), address.as_str().to_owned());
        let find = async {
            let row = threepid::Entity::find_by_id(key).one(self.database.reader()).await?;
            Ok(row.map(threepid::Model::parse).transpose()?.map(|threepid| threepid.user_id))
        };
        find.await.map_err(unavailable(PORT))
    }

    async fn threepids(&self, user: &UserId) -> Result<Vec<Threepid>, Unavailable> {
        let query = threepid::Entity::find().filter(threepid::Column::UserId.eq(user.as_str()));
        let find = async {
            let rows = query.all(self.database.reader()).await?;
            let mut threepids =
                rows.into_iter().map(threepid::Model::parse).collect::<Result<Vec<_>, _>>()?;
            // Engines order text by rules of their own; bytes are the same everywhere.
            threepids.sort_by(|a, b| (a.added_at, a.address.as_str()).cmp(&(b.added_at, b.address.as_str())));
            Ok(threepids)
        };
        find.await.map_err(unavailable(PORT))
    }

    async fn commit(&self, unit: UnitOfWork) -> Result<(), CommitError> {
        let store = self.clone();
        // In a task of its own: a caller that goes away does not take the transaction with it.
        let task = tokio::spawn(async move { store.transact(unit).await }.in_current_span());
        match task.await.map_err(StorageError::from) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(ApplyError::Conflict(conflict))) => Err(CommitError::Conflict(conflict)),
            Ok(Err(ApplyError::Storage(error))) | Err(error) => Err(unavailable(PORT)(error).into()),
        }
    }

    async fn check(&self) -> Result<(), Unavailable> {
        self.database.check().await.map_err(unavailable(PORT))
    }
}

/// A unit that is not applied.
enum ApplyError {
    Conflict(Conflict),
    Storage(StorageError),
}

impl From<Conflict> for ApplyError {
    fn from(conflict: Conflict) -> Self {
        Self::Conflict(conflict)
    }
}

impl From<StorageError> for ApplyError {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

impl From<DbErr> for ApplyError {
    fn from(error: DbErr) -> Self {
        Self::Storage(error.into())
    }
}

/// Applies a unit's changes in their order. On an error the transaction is to be rolled back.
async fn apply(transaction: &DatabaseTransaction, unit: UnitOfWork) -> Result<(), ApplyError> {
    for change in unit.into_changes() {
        match change {
            Change::PutSession(session) if session.record().revision == 0 => {
                insert_session(transaction, &session).await?
            }
            Change::PutSession(session) => update_session(transaction, &session).await?,
            Change::PutThreepid(threepid) => put_threepid(transaction, &threepid).await?,
            Change::Enqueue(message) => enqueue(transaction, &message).await?,
        }
    }
    Ok(())
}

async fn insert_session(
    transaction: &DatabaseTransaction,
    session: &ValidationSession,
) -> Result<(), ApplyError> {
    let sid = session.sid().as_str();
    let inserted = validation_session::Entity::insert(validation_session::next_revision(session)?)
        .on_conflict(OnConflict::new().do_nothing().to_owned())
        .exec_without_returning(transaction)
        .await?;
    if inserted > 0 {
        return Ok(());
    }
    // SQLite does not tell which of the two keys was taken.
    let known = validation_session::Entity::find_by_id(sid).one(transaction).await?;
    Err(if known.is_some() { Conflict::StaleSession } else { Conflict::SessionExists }.into())
}

async fn update_session(
    transaction: &DatabaseTransaction,
    session: &ValidationSession,
) -> Result<(), ApplyError> {
    let updated = validation_session::Entity::update_many()
        .set(validation_session::next_revision(session)?)
        .filter(validation_session::Column::Sid.eq(session.sid().as_str()))
        .filter(validation_session::Column::Revision.eq(to_column(session.record().revision)))
        .exec(transaction)
        .await;
    match updated {
        Ok(updated) if updated.rows_affected > 0 => Ok(()),
        Ok(_) => Err(Conflict::StaleSession.into()),
        // The sid stays what it is, so the key can only be that of the current session.
        Err(error) if matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))) => {
            Err(Conflict::SessionExists.into())
        }
        Err(error) => Err(error.into()),
    }
}

async fn put_threepid(transaction: &DatabaseTransaction, threepid: &Threepid) -> Result<(), ApplyError> {
    let same_owner = threepid::Column::UserId.into_expr().eq(threepid.user_id.as_str());
    let written = threepid::Entity::insert(threepid::ActiveModel::from(threepid))
        .on_conflict(
            OnConflict::columns([threepid::Column::Medium, threepid::Column::Address])
                .update_column(threepid::Column::ValidatedAt)
                .action_and_where(same_owner)
                .to_owned(),
        )
        .exec_without_returning(transaction)
        .await?;
    if written > 0 { Ok(()) } else { Err(Conflict::AddressOwned.into()) }
}

async fn enqueue(transaction: &DatabaseTransaction, message: &OutboxMessage) -> Result<(), ApplyError> {
    outbox::Entity::insert(outbox::queued(message)?).exec_without_returning(transaction).await?;
    Ok(())
}
