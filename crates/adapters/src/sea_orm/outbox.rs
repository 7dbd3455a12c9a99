//! The port `Outbox`: leases on the rows that units of work have put there.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use async_trait::async_trait;
use sea_orm::sea_query::{CommonTableExpression, Expr, ExprTrait, LockBehavior, LockType, Order, Query};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DbBackend, DbErr, EntityTrait, FromQueryResult, QueryFilter,
    QueryResult, QuerySelect, QueryTrait, Statement, Value,
};
use serde::Serialize;
use threepid_domain::model::{Backlog, Claimed, LeaseId, MessageId, Settlement, Timestamp};
use threepid_domain::ports::{Outbox, Unavailable};

use super::connection::Database;
use super::entities::{from_column, ms, outbox, timestamp};
use super::error::{StorageError, unavailable};
use super::gathered::Batch;
use super::store::SeaOrmStore;
use super::write::OnEach;

const PORT: &str = "outbox";

/// One claim leases no more, whatever limit it is given: engines count rows in signed 64 bits.
const MOST_AT_ONCE: u64 = 10_000;

#[async_trait]
impl Outbox for SeaOrmStore {
    async fn claim(
        &self,
        now: Timestamp,
        lease: Duration,
        lease_id: LeaseId,
        limit: usize,
    ) -> Result<Vec<Claimed>, Unavailable> {
        let claim = async {
            let rows = self.lease(now, now.plus(lease), &lease_id, limit).await?;
            let mut claimed = Vec::with_capacity(rows.len());
            for row in rows {
                let id = MessageId::new(row.id.clone().unwrap_or_default());
                match row.parse(lease_id.clone()) {
                    Ok(message) => claimed.push(message),
                    Err(error) => self.bury(&id, &lease_id, now, &error).await?,
                }
            }
            Ok(claimed)
        };
        claim.await.map_err(unavailable(PORT))
    }

    async fn settle(
        &self,
        id: &MessageId,
        lease_id: &LeaseId,
        now: Timestamp,
        settlement: Settlement,
    ) -> Result<bool, Unavailable> {
        self.record(id, lease_id, now, settlement).await.map_err(unavailable(PORT))
    }

    async fn backlog(&self) -> Result<Vec<Backlog>, Unavailable> {
        self.count().await.map_err(unavailable(PORT))
    }

    async fn woken(&self) {
        self.database().enqueued().notified().await;
    }
}

impl SeaOrmStore {
    /// Leases what is due.
    async fn lease(
        &self,
        now: Timestamp,
        until: Timestamp,
        lease_id: &LeaseId,
        limit: usize,
    ) -> Result<Vec<outbox::Leased>, StorageError> {
        let limit = u64::try_from(limit).map_or(MOST_AT_ONCE, |limit| Ord::min(limit, MOST_AT_ONCE));
        let mut rows = if self.database().together().is_some() {
            self.lease_together(now, until, lease_id, limit).await?
        } else {
            self.lease_beside_others(now, until, lease_id, limit).await?
        };
        // Neither promises an order.
        rows.sort_by(|a, b| a.order().cmp(&b.order()));
        Ok(rows)
    }

    /// In a transaction that no other one which writes is beside; what is leased is given as one row.
    async fn lease_together(
        &self,
        now: Timestamp,
        until: Timestamp,
        lease_id: &LeaseId,
        limit: u64,
    ) -> Result<Vec<outbox::Leased>, StorageError> {
        let statement = |sql, values| Statement::from_sql_and_values(DbBackend::Sqlite, sql, values);
        let due = statement(DUE_ON_SQLITE, vec![outbox::QUEUED.into(), ms(now).into(), limit.into()]);
        let (until, lease_id) = (ms(until), lease_id.as_str().to_owned());
        let leased = self.database().write(move |transaction| {
            let (due, lease_id) = (due.clone(), lease_id.clone());
            Box::pin(async move {
                let row = transaction.query_one_raw(due).await?;
                // As bytes: what is no text in one row spoils no other.
                let rows: Option<Vec<u8>> = row.map(|row| row.try_get_by_index(0)).transpose()?;
                let rows = String::from_utf8_lossy(rows.as_deref().unwrap_or(b"[]"));
                let rows: Vec<(i64, outbox::Leased)> =
                    serde_json::from_str(&rows).map_err(StorageError::from)?;
                let (ids, rows): (Vec<i64>, Vec<_>) = rows.into_iter().unzip();
                if !ids.is_empty() {
                    let ids = serde_json::to_string(&ids).map_err(StorageError::from)?;
                    let values = vec![lease_id.into(), until.into(), ids.into()];
                    transaction.execute_raw(statement(LEASE_ON_SQLITE, values)).await?;
                }
                Ok(rows)
            })
        });
        leased.await.map_err(StorageError::from_statement)
    }

    /// In one statement, so that no two claims meet the same row.
    async fn lease_beside_others(
        &self,
        now: Timestamp,
        until: Timestamp,
        lease_id: &LeaseId,
        limit: u64,
    ) -> Result<Vec<outbox::Leased>, StorageError> {
        use outbox::Column::{
            Attempts, CreatedAt, DueAt, Id, LeaseId, LeasedUntil, NotAfter, Payload, State,
        };

        let unleased = Condition::any().add(LeasedUntil.is_null()).add(LeasedUntil.lte(ms(now)));
        let claimable = Condition::all().add(State.eq(outbox::QUEUED)).add(DueAt.lte(ms(now))).add(unleased);
        let due = Query::select()
            .column(Id)
            .from(outbox::Entity)
            .cond_where(claimable.clone())
            .order_by(DueAt, Order::Asc)
            .order_by(CreatedAt, Order::Asc)
            .order_by(Id, Order::Asc)
            .limit(limit)
            // Claims pass each other.
            .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked)
            .take();
        // Apart, since PostgreSQL may run a subquery more than once, and each time would find other rows to lock.
        let due = CommonTableExpression::new().table_name("due").column(Id).query(due).to_owned();
        let chosen = Query::select().column(Id).from("due").take();
        let lease = Query::update()
            .with_cte(due)
            .table(outbox::Entity)
            .value(LeaseId, lease_id.as_str())
            .value(LeasedUntil, ms(until))
            .value(Attempts, Expr::col(Attempts).add(1))
            .and_where(Id.in_subquery(chosen))
            // Once more: it holds without SKIP LOCKED, too, where rivals wait for each other.
            .cond_where(claimable)
            .returning(Query::returning().columns([Id, Payload, CreatedAt, DueAt, NotAfter, Attempts]))
            .take();
        let rows = self.database().writer().query_all(&lease).await?;
        Ok(rows.iter().map(|row| outbox::Leased::from_query_result(row, "")).collect::<Result<_, _>>()?)
    }

    /// Counts by the index of states; what was sent or has expired is not looked at.
    async fn count(&self) -> Result<Vec<Backlog>, StorageError> {
        use outbox::Column::{CreatedAt, Id, Kind, State};

        let rows: Vec<(String, String, i64, i64)> = outbox::Entity::find()
            .select_only()
            .columns([Kind, State])
            .expr(Expr::col(Id).count())
            .expr(Expr::col(CreatedAt).min())
            .filter(State.is_in([outbox::QUEUED, outbox::DEAD]))
            .group_by(Kind)
            .group_by(State)
            .into_tuple()
            .all(self.database().reader())
            .await?;
        let mut by_kind: BTreeMap<String, Backlog> = BTreeMap::new();
        for (kind, state, count, oldest) in rows {
            let nothing = Backlog { kind: kind.clone(), owed: 0, oldest: None, dead: 0 };
            let of = by_kind.entry(kind).or_insert(nothing);
            if state == outbox::QUEUED {
                (of.owed, of.oldest) = (from_column(count), Some(timestamp(oldest)));
            } else {
                of.dead = from_column(count);
            }
        }
        Ok(by_kind.into_values().collect())
    }

    /// A row that cannot be read would come back with every claim: it is kept as dead, for the operator to see.
    async fn bury(
        &self,
        id: &MessageId,
        lease_id: &LeaseId,
        now: Timestamp,
        error: &StorageError,
    ) -> Result<(), StorageError> {
        tracing::error!(message_id = %id, %error, "an unreadable message is kept as dead");
        self.record(id, lease_id, now, Settlement::Dead { reason: error.to_string() }).await?;
        Ok(())
    }

    /// Records a settlement where the lease is still the message's.
    async fn record(
        &self,
        id: &MessageId,
        lease_id: &LeaseId,
        now: Timestamp,
        settlement: Settlement,
    ) -> Result<bool, StorageError> {
        if settlement == Settlement::Forget {
            return self.remove(id, lease_id).await;
        }
        let (database, settled) = (self.database().clone(), Settled::new(id, lease_id, now, settlement));
        let run = move |batch| {
            let database = database.clone();
            async move { record_all(&database, batch).await }
        };
        self.database().gathered().settlements.ask(settled, run).await
    }

    /// Removes a message where the lease is still its own.
    async fn remove(&self, id: &MessageId, lease_id: &LeaseId) -> Result<bool, StorageError> {
        use outbox::Column::{Id, LeaseId, State};

        let delete = outbox::Entity::delete_many()
            .filter(Id.eq(id.as_str()))
            .filter(LeaseId.eq(lease_id.as_str()))
            .filter(State.eq(outbox::QUEUED));
        Ok(self.database().execute(&delete.into_query()).await? > 0)
    }
}

/// Parameters: the state of a message that is owed; now; how many. It gives the number of each row, and of its columns what
/// [`outbox::Leased`] reads: a column may hold anything, and what JSON cannot hold would spoil the whole list.
pub(super) const DUE_ON_SQLITE: &str = "SELECT json_group_array(json_array(number, json_array(\
       iif(typeof(id) = 'text', id, NULL), iif(typeof(payload) = 'text', payload, NULL), \
       iif(typeof(created_at) = 'integer', created_at, NULL), iif(typeof(due_at) = 'integer', due_at, NULL), \
       iif(typeof(not_after) = 'integer', not_after, NULL), \
       iif(typeof(attempts) = 'integer' AND attempts < 4294967295, attempts + 1, NULL)))) \
     FROM (SELECT rowid AS number, id, payload, created_at, due_at, not_after, attempts FROM outbox \
     WHERE state = $1 AND due_at <= $2 AND (leased_until IS NULL OR leased_until <= $2) \
     ORDER BY due_at, created_at, id LIMIT $3)";

/// Parameters: lease, its end, numbers of rows.
const LEASE_ON_SQLITE: &str = "UPDATE outbox SET lease_id = $1, leased_until = $2, attempts = attempts + 1 \
     WHERE rowid IN (SELECT value FROM json_each($3))";

/// What becomes of a message that stays in the table.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Settled {
    id: String,
    lease_id: String,
    state: &'static str,
    settled_at: Option<i64>,
    /// What it was, where there is none.
    due_at: Option<i64>,
    /// What it was, where there is none.
    last_error: Option<String>,
}

impl Settled {
    fn new(id: &MessageId, lease_id: &LeaseId, now: Timestamp, settlement: Settlement) -> Self {
        let (id, lease_id) = (id.as_str().to_owned(), lease_id.as_str().to_owned());
        let over =
            |state| Self { id, lease_id, state, settled_at: Some(ms(now)), due_at: None, last_error: None };
        match settlement {
            Settlement::Forget | Settlement::Sent => over(outbox::SENT),
            Settlement::Expired => over(outbox::EXPIRED),
            Settlement::Dead { reason } => Self { last_error: Some(storable(&reason)), ..over(outbox::DEAD) },
            Settlement::Retry { at, reason } => Self {
                settled_at: None,
                due_at: Some(ms(at)),
                last_error: Some(storable(&reason)),
                ..over(outbox::QUEUED)
            },
        }
    }
}

/// Parameters: a list in JSON of settlements; the state of a message that is owed.
///
/// The state is written so that no index of it is used: the messages are to be found by their ids, not among all that are
/// owed.
const SETTLE: OnEach = OnEach {
    sqlite: "UPDATE outbox SET state = settled.value ->> 'state', settled_at = settled.value ->> 'settled_at', \
             lease_id = NULL, leased_until = NULL, \
             due_at = coalesce(settled.value ->> 'due_at', outbox.due_at), \
             last_error = coalesce(settled.value ->> 'last_error', outbox.last_error) \
             FROM json_each($1) AS settled WHERE outbox.id = settled.value ->> 'id' \
             AND outbox.lease_id = settled.value ->> 'lease_id' AND outbox.state || '' = $2",
    postgres: "UPDATE outbox SET state = settled.state, settled_at = settled.settled_at, \
               lease_id = NULL, leased_until = NULL, due_at = coalesce(settled.due_at, outbox.due_at), \
               last_error = coalesce(settled.last_error, outbox.last_error) \
               FROM json_to_recordset(CAST($1 AS json)) AS settled (id text, lease_id text, state text, \
               settled_at bigint, due_at bigint, last_error text) WHERE outbox.id = settled.id \
               AND outbox.lease_id = settled.lease_id AND outbox.state || '' = $2 RETURNING outbox.id",
};

/// Parameters: the same. It gives the ids of those whose lease is not the message's any more. SQLite's driver wakes the
/// caller for each row, and these are few.
const LOST_ON_SQLITE: &str = "SELECT settled.value ->> 'id' FROM json_each($1) AS settled WHERE NOT EXISTS \
     (SELECT 1 FROM outbox WHERE outbox.id = settled.value ->> 'id' \
     AND outbox.lease_id = settled.value ->> 'lease_id' AND outbox.state || '' = $2)";

/// Records settlements; for each, whether the lease was still the message's.
async fn record_all(database: &Database, batch: Batch<Settled, bool>) -> Result<Vec<bool>, StorageError> {
    let backend = database.writer().get_database_backend();
    if backend != DbBackend::Sqlite {
        let mut outcomes = Vec::new();
        for settled in apart(&batch.keys()) {
            let parameters = vec![serde_json::to_string(settled)?.into(), outbox::QUEUED.into()];
            // Twice does no harm: where the first time was heard of too late, the lease is gone.
            let recorded = ids(&database.run_again(SETTLE, parameters).await?)?;
            outcomes.extend(settled.iter().map(|settled| recorded.contains(&settled.id)));
        }
        return Ok(outcomes);
    }
    let recorded = database.write(move |transaction| {
        let settled = batch.keys();
        Box::pin(async move {
            let mut outcomes = Vec::new();
            for settled in apart(&settled) {
                let list = serde_json::to_string(settled).map_err(StorageError::from)?;
                let parameters = [Value::from(list), outbox::QUEUED.into()];
                let statement = |sql| Statement::from_sql_and_values(backend, sql, parameters.clone());
                let lost = ids(&transaction.query_all_raw(statement(LOST_ON_SQLITE)).await?)?;
                transaction.execute_raw(statement(SETTLE.on(backend))).await?;
                outcomes.extend(settled.iter().map(|settled| !lost.contains(&settled.id)));
            }
            Ok(outcomes)
        })
    });
    recorded.await.map_err(StorageError::from_statement)
}

/// The settlements in parts of which none holds two of one message: a row says which message it is of, and not which lease.
fn apart(settled: &[Settled]) -> Vec<&[Settled]> {
    let (mut parts, mut rest) = (Vec::new(), settled);
    while !rest.is_empty() {
        let mut ids = HashSet::new();
        let count = rest.iter().take_while(|settled| ids.insert(settled.id.as_str())).count();
        let (part, others) = rest.split_at(count);
        parts.push(part);
        rest = others;
    }
    parts
}

fn ids(rows: &[QueryResult]) -> Result<HashSet<String>, DbErr> {
    rows.iter().map(|row| row.try_get_by_index(0)).collect()
}

/// PostgreSQL's text holds no NUL, and what other servers say may.
fn storable(reason: &str) -> String {
    reason.replace('\0', "\u{fffd}")
}
