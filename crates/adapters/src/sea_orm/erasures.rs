//! The port `Erasures`: every table, in one transaction.
//!
//! On PostgreSQL it sees one moment: what a unit of work changes that is committed later, it does not see, and where both
//! change a row, it is run anew. SQLite has one writer, so there it is alone.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use sea_orm::sea_query::{Expr, ExprTrait, Query};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DatabaseTransaction, DbBackend, EntityTrait, QueryFilter,
};
use threepid_domain::model::{
    Address, Binding, BindingKey, Erased, Erasure, KeyedHash, MessageRecord, Payload, UponErasure, UserId,
};
use threepid_domain::ports::{AccountRecord, EndOfErasure, Erasures, Limit, Unavailable};

use super::account_records::{look_through, of_owned};
use super::entities::{
    account, account_token, audit, binding, challenge, outbox, remote_session, spent_proof, threepid,
    validation_session,
};
use super::error::{ApplyError, StorageError, unavailable};
use super::storable_subject;
use super::store::{SeaOrmStore, enqueue};

const PORT: &str = "erasures";

#[async_trait]
impl Erasures for SeaOrmStore {
    async fn erase(&self, erasure: Erasure) -> Result<EndOfErasure, Unavailable> {
        let database = self.database().clone();
        let enqueues = !erasure.unbinds.is_empty();
        // In a task of its own: a caller that goes away does not take the transaction with it.
        let task = tokio::spawn(async move {
            let erasure = Arc::new(erasure);
            let write = database.write(move |transaction| {
                let erasure = Arc::clone(&erasure);
                Box::pin(async move { erase(transaction, &erasure).await })
            });
            let end = write.await.map_err(StorageError::from_statement)?;
            if enqueues {
                database.ring();
            }
            Ok(end)
        });
        task.await.map_err(StorageError::from).and_then(|end| end).map_err(unavailable(PORT))
    }
}

async fn erase(transaction: &DatabaseTransaction, erasure: &Erasure) -> Result<EndOfErasure, ApplyError> {
    if transaction.get_database_backend() != DbBackend::Sqlite {
        transaction.execute_unprepared("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").await?;
    }
    let user = &erasure.user_id;
    let record = look_through(transaction, user).await?;
    if !is_up_to_date(erasure, &record) {
        return Ok(EndOfErasure::Outdated);
    }
    let mut erased = Erased {
        messages: remove_messages(transaction, &record, UponErasure::Goes).await?,
        dead_unbinds: mark_dead(transaction, &record).await?,
        owed_unbinds: erasure.unbinds.len(),
        is_local: record.is_local,
        ..Erased::default()
    };
    remove_messages(transaction, &record, UponErasure::IsReplaced).await?;
    for unbind in &erasure.unbinds {
        enqueue(transaction, unbind).await?;
    }
    // While its addresses say whose they are.
    erased.remote_sessions = remove_remote_sessions(transaction, user).await?;
    erased.sessions = remove_sessions(transaction, user).await?;
    erased.threepids = rows(
        threepid::Entity::delete_many()
            .filter(threepid::Column::UserId.eq(user.as_str()))
            .exec(transaction)
            .await?
            .rows_affected,
    );
    erased.bindings = rows(
        binding::Entity::delete_many()
            .filter(binding::Column::UserId.eq(user.as_str()))
            .exec(transaction)
            .await?
            .rows_affected,
    );
    erased.challenges = rows(
        challenge::Entity::delete_many()
            .filter(challenge::Column::UserId.eq(user.as_str()))
            .exec(transaction)
            .await?
            .rows_affected,
    );
    erased.spent_proofs = take_name_off_proofs(transaction, user).await?;
    erased.audit_entries = take_name_off_audit(transaction, user).await?;
    forget_counts(transaction, &erasure.subjects).await?;
    remove_account(transaction, user).await?;
    Ok(EndOfErasure::Done(erased))
}

fn rows(affected: u64) -> usize {
    usize::try_from(affected).unwrap_or(usize::MAX)
}

/// Whether the erasure says exactly what the account owns, has bound, and is owed.
fn is_up_to_date(erasure: &Erasure, record: &AccountRecord) -> bool {
    let owned: BTreeSet<&Address> = record.threepids.iter().map(|threepid| &threepid.address).collect();
    let bound: BTreeSet<BindingKey> = record.bindings.iter().map(Binding::key).collect();
    let owed: BTreeSet<_> = those(record, UponErasure::IsReplaced).map(|message| &message.id).collect();
    owned == erasure.addresses.iter().collect()
        && bound.iter().collect::<BTreeSet<_>>() == erasure.bindings.iter().collect()
        && owed == erasure.replaced.iter().collect()
}

/// The messages that this becomes of.
fn those(record: &AccountRecord, fate: UponErasure) -> impl Iterator<Item = &MessageRecord> {
    record.messages.iter().filter(move |message| message.upon_erasure() == Some(fate))
}

async fn remove_messages(
    transaction: &DatabaseTransaction,
    record: &AccountRecord,
    fate: UponErasure,
) -> Result<usize, ApplyError> {
    let mut removed = 0;
    for message in those(record, fate) {
        let deleted = outbox::Entity::delete_by_id(message.id.as_str()).exec(transaction).await?;
        removed += rows(deleted.rows_affected);
    }
    Ok(removed)
}

async fn mark_dead(transaction: &DatabaseTransaction, record: &AccountRecord) -> Result<usize, ApplyError> {
    let mut marked = 0;
    for message in those(record, UponErasure::IsMarked) {
        let Some(payload) = message.payload.clone().map(Payload::to_leave_nothing) else { continue };
        let payload = serde_json::to_string(&payload).map_err(StorageError::from)?;
        let updated = outbox::Entity::update_many()
            .col_expr(outbox::Column::Payload, Expr::val(payload))
            .filter(outbox::Column::Id.eq(message.id.as_str()))
            .exec(transaction)
            .await?;
        marked += rows(updated.rows_affected);
    }
    Ok(marked)
}

async fn remove_sessions(transaction: &DatabaseTransaction, user: &UserId) -> Result<usize, ApplyError> {
    use validation_session::Column::{Address as Text, ConsumedBy, Medium};

    let of_theirs = Condition::all().add(ConsumedBy.is_null()).add(of_owned(user, Medium, Text));
    let deleted = validation_session::Entity::delete_many()
        .filter(Condition::any().add(ConsumedBy.eq(user.as_str())).add(of_theirs))
        .exec(transaction)
        .await?;
    Ok(rows(deleted.rows_affected))
}

/// While the proofs still say whose they are.
async fn remove_remote_sessions(
    transaction: &DatabaseTransaction,
    user: &UserId,
) -> Result<usize, ApplyError> {
    use remote_session::Column::{Address as Text, Medium, Server, Sid};

    let spent = Query::select()
        .columns([spent_proof::Column::Server, spent_proof::Column::Sid])
        .from(spent_proof::Entity)
        .and_where(spent_proof::Column::UserId.eq(user.as_str()))
        .take();
    let proof = Expr::tuple([Expr::col(Server), Expr::col(Sid)]).in_subquery(spent);
    let deleted = remote_session::Entity::delete_many()
        .filter(Condition::any().add(proof).add(of_owned(user, Medium, Text)))
        .exec(transaction)
        .await?;
    Ok(rows(deleted.rows_affected))
}

/// As [`SpentProof::nameless`](threepid_domain::model::SpentProof::nameless) says.
async fn take_name_off_proofs(transaction: &DatabaseTransaction, user: &UserId) -> Result<usize, ApplyError> {
    use spent_proof::Column::{Address as Text, Key, Medium, UserId as Whose};

    let address = Address::erased();
    let updated = spent_proof::Entity::update_many()
        .col_expr(Whose, Expr::val(UserId::erased().as_str()))
        .col_expr(Key, Expr::val(KeyedHash::new([0; 32]).to_hex()))
        .col_expr(Medium, Expr::val(address.medium().as_str()))
        .col_expr(Text, Expr::val(address.as_str()))
        .filter(Whose.eq(user.as_str()))
        .exec(transaction)
        .await?;
    Ok(rows(updated.rows_affected))
}

/// As [`AuditEntry::nameless`](threepid_domain::model::AuditEntry::nameless) says.
async fn take_name_off_audit(transaction: &DatabaseTransaction, user: &UserId) -> Result<usize, ApplyError> {
    use audit::Column::{Address as Text, Medium, Reference, UserId as Whose};

    let address = Address::erased();
    let updated = audit::Entity::update_many()
        .col_expr(Whose, Expr::val(UserId::erased().as_str()))
        .col_expr(Medium, Expr::val(address.medium().as_str()))
        .col_expr(Text, Expr::val(address.as_str()))
        .col_expr(Reference, Expr::val(None::<String>))
        .filter(Whose.eq(user.as_str()))
        .exec(transaction)
        .await?;
    Ok(rows(updated.rows_affected))
}

async fn forget_counts(transaction: &DatabaseTransaction, subjects: &[String]) -> Result<(), ApplyError> {
    // The key begins with the name.
    let names = Limit::ALL.iter().map(|limit| limit.name());
    let subjects = subjects.iter().map(|subject| storable_subject(subject));
    let forget = Query::delete()
        .from_table("rate_limit")
        .and_where(Expr::col("name").is_in(names))
        .and_where(Expr::col("subject").is_in(subjects))
        .take();
    transaction.execute(&forget).await?;
    Ok(())
}

/// Tokens first, since each refers to its account.
async fn remove_account(transaction: &DatabaseTransaction, user: &UserId) -> Result<(), ApplyError> {
    account_token::Entity::delete_many()
        .filter(account_token::Column::UserId.eq(user.as_str()))
        .exec(transaction)
        .await?;
    account::Entity::delete_by_id(user.as_str()).exec(transaction).await?;
    Ok(())
}
