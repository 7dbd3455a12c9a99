//! The port `Store`: reads, and units of work as transactions.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::join_all;
use sea_orm::sea_query::{Expr, ExprTrait, OnConflict};
use sea_orm::{ColumnTrait, DatabaseTransaction, EntityTrait, QueryFilter, SqlErr};
use threepid_domain::model::{
    Address, AuditEntry, AuditQuery, Binding, BindingKey, Challenge, Change, IdentityServerName, KeyedHash,
    MessageId, OutboxMessage, RemoteSession, Sid, SpentProof, Threepid, Timestamp, UnitOfWork, UserId,
    ValidationSession,
};
use threepid_domain::ports::{CommitError, Conflict, Store, Unavailable};
use tracing::Instrument;

use super::connection::Database;
use super::entities::{
    binding, challenge, ms, outbox, remote_session, spent_proof, threepid, to_column, validation_session,
};
use super::error::{ApplyError, StorageError, unavailable};
use super::gathered::Batch;
use super::{additions, audit};

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

    /// Runs a unit as one transaction, and wakes the relay where it owes a message.
    async fn transact(&self, unit: Arc<UnitOfWork>) -> Result<(), ApplyError> {
        let changes = Arc::clone(&unit);
        let committed = self.database.write(move |transaction| {
            let changes = Arc::clone(&changes);
            Box::pin(async move { apply(transaction, &changes).await })
        });
        committed.await?;
        if unit.enqueues() {
            self.database.ring();
        }
        Ok(())
    }

    /// Runs units that only add in one transaction; each on its own where that meets a conflict, or a change that cannot
    /// be.
    async fn transact_all(
        &self,
        batch: Batch<Arc<UnitOfWork>, Result<(), ApplyError>>,
    ) -> Result<Vec<Result<(), ApplyError>>, StorageError> {
        let all = batch.clone();
        let committed = self.database.write(move |transaction| {
            let units = all.keys();
            Box::pin(async move {
                match &*units {
                    [unit] => apply(transaction, unit).await,
                    units => additions::add_all(transaction, units).await,
                }
            })
        });
        let committed = committed.await;
        let units = batch.keys();
        match committed {
            Ok(()) => {
                if units.iter().any(|unit| unit.enqueues()) {
                    self.database.ring();
                }
                Ok(units.iter().map(|_| Ok(())).collect())
            }
            Err(ApplyError::Storage(error @ StorageError::Undecided(_))) => Err(error),
            Err(undone) if units.len() == 1 => Ok(vec![Err(undone)]),
            Err(_undone) => Ok(join_all(units.iter().map(|unit| self.transact(Arc::clone(unit)))).await),
        }
    }
}

#[async_trait]
impl Store for SeaOrmStore {
    async fn session(&self, sid: &Sid) -> Result<Option<ValidationSession>, Unavailable> {
        if !can_be_stored(sid.as_str()) {
            return Ok(None);
        }
        let query = validation_session::Entity::find_by_id(sid.as_str());
        let find = async {
            let row = query.one(self.database.reader()).await?;
            row.as_ref().map(validation_session::Model::parse).transpose()
        };
        find.await.map_err(unavailable(PORT))
    }

    async fn current_session(&self, key: KeyedHash) -> Result<Option<ValidationSession>, Unavailable> {
        self.database.current_session(key).await.map_err(unavailable(PORT))
    }

    async fn owner(&self, address: &Address) -> Result<Option<UserId>, Unavailable> {
        self.database.owner(address.clone()).await.map_err(unavailable(PORT))
    }

    async fn threepids(&self, user: &UserId) -> Result<Vec<Threepid>, Unavailable> {
        self.database.threepids(user.clone()).await.map_err(unavailable(PORT))
    }

    async fn remote_sessions(&self, sid: &Sid) -> Result<Vec<RemoteSession>, Unavailable> {
        if !can_be_stored(sid.as_str()) {
            return Ok(Vec::new());
        }
        let query = remote_session::Entity::find().filter(remote_session::Column::Sid.eq(sid.as_str()));
        let find = async {
            let rows = query.all(self.database.reader()).await?;
            let mut sessions =
                rows.into_iter().map(remote_session::Model::parse).collect::<Result<Vec<_>, _>>()?;
            sessions.sort_by(|a, b| (b.opened_at, &a.server).cmp(&(a.opened_at, &b.server)));
            Ok(sessions)
        };
        find.await.map_err(unavailable(PORT))
    }

    async fn spent_proof(
        &self,
        server: &IdentityServerName,
        sid: &Sid,
    ) -> Result<Option<SpentProof>, Unavailable> {
        if !can_be_stored(sid.as_str()) {
            return Ok(None);
        }
        let key = (server.as_str().to_owned(), sid.as_str().to_owned());
        let find = async {
            let row = spent_proof::Entity::find_by_id(key).one(self.database.reader()).await?;
            row.map(spent_proof::Model::parse).transpose()
        };
        find.await.map_err(unavailable(PORT))
    }

    async fn bindings(&self, user: &UserId, address: &Address) -> Result<Vec<Binding>, Unavailable> {
        let query = binding::Entity::find()
            .filter(binding::Column::UserId.eq(user.as_str()))
            .filter(binding::Column::Medium.eq(address.medium().as_str()))
            .filter(binding::Column::Address.eq(address.as_str()));
        let find = async {
            let rows = query.all(self.database.reader()).await?;
            let mut bindings = rows.into_iter().map(binding::Model::parse).collect::<Result<Vec<_>, _>>()?;
            bindings.sort_by(|a, b| a.server.cmp(&b.server));
            Ok(bindings)
        };
        find.await.map_err(unavailable(PORT))
    }

    async fn challenge(&self, session: &str) -> Result<Option<Challenge>, Unavailable> {
        if !can_be_stored(session) {
            return Ok(None);
        }
        let query = challenge::Entity::find_by_id(session).filter(challenge::Column::IsSpent.eq(false));
        let find =
            async { query.one(self.database.reader()).await?.map(challenge::Model::parse).transpose() };
        find.await.map_err(unavailable(PORT))
    }

    async fn audit_trail(&self, query: AuditQuery) -> Result<Vec<AuditEntry>, Unavailable> {
        audit::trail(&self.database, query).await.map_err(unavailable(PORT))
    }

    async fn commit(&self, unit: UnitOfWork) -> Result<(), CommitError> {
        let (store, unit) = (self.clone(), Arc::new(unit));
        // In a task of its own: a caller that goes away does not take the transaction with it.
        let committed = if additions::only_adds(&unit) {
            let units = &self.database.gathered().units;
            let run = move |batch| {
                let store = store.clone();
                async move { store.transact_all(batch).await }
            };
            units.ask(unit, run).await
        } else {
            let task = tokio::spawn(async move { store.transact(unit).await }.in_current_span());
            task.await.map_err(StorageError::from)
        };
        match committed {
            Ok(Ok(())) => Ok(()),
            Ok(Err(ApplyError::Conflict(conflict))) => Err(CommitError::Conflict(conflict)),
            Ok(Err(ApplyError::Storage(error))) | Err(error) => Err(unavailable(PORT)(error).into()),
        }
    }

    async fn check(&self) -> Result<(), Unavailable> {
        self.database.check().await.map_err(unavailable(PORT))
    }
}

/// Whether a text that came from outside can be in a column: PostgreSQL's text holds no NUL.
fn can_be_stored(text: &str) -> bool {
    !text.contains('\0')
}

/// Applies a unit's changes in their order. On an error the transaction is to be rolled back.
async fn apply(transaction: &DatabaseTransaction, unit: &UnitOfWork) -> Result<(), ApplyError> {
    for change in unit.changes() {
        match change {
            Change::PutSession(session) if session.record().revision == 0 => {
                insert_session(transaction, session).await?
            }
            Change::PutSession(session) => update_session(transaction, session).await?,
            Change::PutThreepid(threepid) => put_threepid(transaction, threepid).await?,
            Change::ImportThreepid(threepid) => import_threepid(transaction, threepid).await?,
            Change::RemoveThreepid { user_id, address, audit } => {
                let was_owned = remove_threepid(transaction, user_id, address).await?;
                if let Some(entry) = audit.as_ref().filter(|_| was_owned) {
                    audit::append(transaction, entry).await?;
                }
            }
            Change::Audit(entry) => audit::append(transaction, entry).await?,
            Change::AuditUnbind { entry, message } => audit_unbind(transaction, entry, message).await?,
            Change::Enqueue(message) => enqueue(transaction, message).await?,
            Change::EnqueueMirror(message) => {
                drop_waiting(transaction, message).await?;
                enqueue(transaction, message).await?
            }
            Change::CancelUnbind(key) => cancel_unbind(transaction, key).await?,
            Change::PutRemoteSession(session) => put_remote_session(transaction, session).await?,
            Change::SpendProof(proof) => spend_proof(transaction, proof).await?,
            Change::PutBinding(binding) => put_binding(transaction, binding).await?,
            Change::RemoveBinding { key, until } => remove_binding(transaction, key, *until).await?,
            Change::PutChallenge(challenge) => put_challenge(transaction, challenge).await?,
            Change::SpendChallenge(challenge) => spend_challenge(transaction, challenge).await?,
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
    // SQLite does not tell which of the two keys was taken. On PostgreSQL this read sees whoever it waited for.
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

async fn import_threepid(transaction: &DatabaseTransaction, threepid: &Threepid) -> Result<(), ApplyError> {
    let row = threepid::ActiveModel::from(threepid);
    let written = threepid::Entity::insert(row)
        .on_conflict(OnConflict::new().do_nothing().to_owned())
        .exec_without_returning(transaction)
        .await?;
    if written > 0 {
        return Ok(());
    }
    let key = (threepid.address.medium().as_str().to_owned(), threepid.address.as_str().to_owned());
    let owned = threepid::Entity::find_by_id(key)
        .filter(threepid::Column::UserId.eq(threepid.user_id.as_str()))
        .one(transaction)
        .await?;
    if owned.is_some() { Ok(()) } else { Err(Conflict::AddressOwned.into()) }
}

pub(super) async fn enqueue(
    transaction: &DatabaseTransaction,
    message: &OutboxMessage,
) -> Result<(), ApplyError> {
    outbox::Entity::insert(outbox::queued(message)?).exec_without_returning(transaction).await?;
    Ok(())
}

/// Keeps the entry, unless an unbind of the same binding is owed that is to leave nothing.
async fn audit_unbind(
    transaction: &DatabaseTransaction,
    entry: &AuditEntry,
    message: &MessageId,
) -> Result<(), ApplyError> {
    // An erasure replaces the message. Written, it has either one of them wait for the other, or the erasure run anew: so
    // the erasure is seen below, or it sees the entry.
    outbox::Entity::update_many()
        .col_expr(outbox::Column::Attempts, Expr::col(outbox::Column::Attempts))
        .filter(outbox::Column::Id.eq(message.as_str()))
        .filter(outbox::Column::State.eq(outbox::QUEUED))
        .exec(transaction)
        .await?;
    if let Some(key) = entry.binding() {
        let owed = outbox::Entity::find()
            .filter(outbox::Column::Subject.eq(outbox::subject(&key)))
            .filter(outbox::Column::State.eq(outbox::QUEUED))
            .all(transaction)
            .await?;
        for row in owed {
            if row.record()?.payload.is_some_and(|payload| payload.leaves_nothing()) {
                return Ok(());
            }
        }
    }
    Ok(audit::append(transaction, entry).await?)
}

/// Whether the account owned it.
async fn remove_threepid(
    transaction: &DatabaseTransaction,
    user_id: &UserId,
    address: &Address,
) -> Result<bool, ApplyError> {
    let removed = threepid::Entity::delete_many()
        .filter(threepid::Column::Medium.eq(address.medium().as_str()))
        .filter(threepid::Column::Address.eq(address.as_str()))
        .filter(threepid::Column::UserId.eq(user_id.as_str()))
        .exec(transaction)
        .await?;
    Ok(removed.rows_affected > 0)
}

/// Drops the messages that mirror the same account and that nobody is trying.
async fn drop_waiting(transaction: &DatabaseTransaction, newer: &OutboxMessage) -> Result<(), ApplyError> {
    let Some(user_id) = newer.payload.mirrored() else { return Ok(()) };
    outbox::Entity::delete_many()
        .filter(outbox::Column::Subject.eq(user_id.as_str()))
        .filter(outbox::Column::Kind.eq(newer.payload.kind()))
        .filter(outbox::Column::State.eq(outbox::QUEUED))
        .filter(outbox::Column::LeaseId.is_null())
        .exec(transaction)
        .await?;
    Ok(())
}

async fn cancel_unbind(transaction: &DatabaseTransaction, key: &BindingKey) -> Result<(), ApplyError> {
    outbox::Entity::delete_many()
        .filter(outbox::Column::Subject.eq(outbox::subject(key)))
        .filter(outbox::Column::State.eq(outbox::QUEUED))
        .exec(transaction)
        .await?;
    Ok(())
}

async fn put_remote_session(
    transaction: &DatabaseTransaction,
    session: &RemoteSession,
) -> Result<(), ApplyError> {
    use remote_session::Column::{Address, Medium, OpenedAt, Server, Sid};

    remote_session::Entity::insert(remote_session::ActiveModel::from(session))
        .on_conflict(
            OnConflict::columns([Server, Sid]).update_columns([Medium, Address, OpenedAt]).to_owned(),
        )
        .exec_without_returning(transaction)
        .await?;
    Ok(())
}

async fn spend_proof(transaction: &DatabaseTransaction, proof: &SpentProof) -> Result<(), ApplyError> {
    let written = spent_proof::Entity::insert(spent_proof::ActiveModel::from(proof))
        .on_conflict(OnConflict::new().do_nothing().to_owned())
        .exec_without_returning(transaction)
        .await?;
    if written > 0 { Ok(()) } else { Err(Conflict::ProofSpent.into()) }
}

async fn put_binding(transaction: &DatabaseTransaction, binding: &Binding) -> Result<(), ApplyError> {
    use binding::Column::{Address, Medium, Server, Since, State, UserId};

    binding::Entity::insert(binding::ActiveModel::from(binding))
        .on_conflict(
            OnConflict::columns([UserId, Medium, Address, Server]).update_columns([State, Since]).to_owned(),
        )
        .exec_without_returning(transaction)
        .await?;
    Ok(())
}

async fn remove_binding(
    transaction: &DatabaseTransaction,
    key: &BindingKey,
    until: Timestamp,
) -> Result<(), ApplyError> {
    let BindingKey { user_id, address, server } = key;
    let (medium, address) = (address.medium().as_str().to_owned(), address.as_str().to_owned());
    let key = (user_id.as_str().to_owned(), medium, address, server.as_str().to_owned());
    binding::Entity::delete_by_id(key)
        .filter(binding::Column::Since.lte(ms(until)))
        .exec(transaction)
        .await?;
    Ok(())
}

async fn put_challenge(transaction: &DatabaseTransaction, challenge: &Challenge) -> Result<(), ApplyError> {
    challenge::Entity::insert(challenge::ActiveModel::from(challenge))
        .on_conflict(OnConflict::new().do_nothing().to_owned())
        .exec_without_returning(transaction)
        .await?;
    Ok(())
}

async fn spend_challenge(transaction: &DatabaseTransaction, challenge: &Challenge) -> Result<(), ApplyError> {
    let spent = challenge::Entity::update_many()
        .col_expr(challenge::Column::IsSpent, true.into())
        .filter(challenge::Column::Session.eq(challenge.session.as_str()))
        .filter(challenge::Column::UserId.eq(challenge.user_id.as_str()))
        .filter(challenge::Column::Sid.eq(challenge.sid.as_str()))
        .filter(challenge::Column::IsSpent.eq(false))
        .exec(transaction)
        .await?;
    if spent.rows_affected > 0 { Ok(()) } else { Err(Conflict::ChallengeSpent.into()) }
}
