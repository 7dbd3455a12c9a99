//! The port `Outbox`: leases on the rows that units of work have put there.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use sea_orm::sea_query::{
    CommonTableExpression, Expr, ExprTrait, LockBehavior, LockType, Order, Query, Value,
};
use sea_orm::{
    ColumnTrait, Condition, EntityTrait, FromQueryResult, Iterable, QueryFilter, QuerySelect, QueryTrait,
};
use threepid_domain::model::{Backlog, Claimed, LeaseId, MessageId, Settlement, Timestamp};
use threepid_domain::ports::{Outbox, Unavailable};

use super::entities::{from_column, ms, outbox, timestamp};
use super::error::{StorageError, unavailable};
use super::store::SeaOrmStore;

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
                let id = MessageId::new(row.id.clone());
                match row.parse() {
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
    /// Leases what is due, in one statement, so that no two claims meet the same row.
    async fn lease(
        &self,
        now: Timestamp,
        until: Timestamp,
        lease_id: &LeaseId,
        limit: usize,
    ) -> Result<Vec<outbox::Model>, StorageError> {
        use outbox::Column::{Attempts, CreatedAt, DueAt, Id, LeaseId, LeasedUntil, State};

        let unleased = Condition::any().add(LeasedUntil.is_null()).add(LeasedUntil.lte(ms(now)));
        let claimable = Condition::all().add(State.eq(outbox::QUEUED)).add(DueAt.lte(ms(now))).add(unleased);
        let due = Query::select()
            .column(Id)
            .from(outbox::Entity)
            .cond_where(claimable.clone())
            .order_by(DueAt, Order::Asc)
            .order_by(CreatedAt, Order::Asc)
            .order_by(Id, Order::Asc)
            .limit(u64::try_from(limit).map_or(MOST_AT_ONCE, |limit| Ord::min(limit, MOST_AT_ONCE)))
            // PostgreSQL's claims pass each other; SQLite has one writer, and sea-query leaves this out for it.
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
            // By name, since a newer version may add columns while this one runs.
            .returning(Query::returning().columns(outbox::Column::iter()))
            .take();
        let rows = self.database().execute_returning(&lease).await?;
        let mut rows = rows
            .iter()
            .map(|row| outbox::Model::from_query_result(row, ""))
            .collect::<Result<Vec<_>, _>>()?;
        // RETURNING promises no order.
        rows.sort_by(|a, b| (a.due_at, a.created_at, &a.id).cmp(&(b.due_at, b.created_at, &b.id)));
        Ok(rows)
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
        use outbox::Column::{DueAt, Id, LastError, LeaseId, LeasedUntil, SettledAt, State};

        let settled = |state: &str| vec![(State, Value::from(state)), (SettledAt, ms(now).into())];
        let columns = match settlement {
            Settlement::Forget => return self.remove(id, lease_id).await,
            Settlement::Sent => settled(outbox::SENT),
            Settlement::Expired => settled(outbox::EXPIRED),
            Settlement::Dead { reason } => {
                let mut columns = settled(outbox::DEAD);
                columns.push((LastError, storable(&reason).into()));
                columns
            }
            Settlement::Retry { at, reason } => {
                vec![(DueAt, ms(at).into()), (LastError, storable(&reason).into())]
            }
        };
        let mut update = outbox::Entity::update_many()
            .col_expr(LeaseId, Expr::val(None::<String>))
            .col_expr(LeasedUntil, Expr::val(None::<i64>))
            .filter(Id.eq(id.as_str()))
            .filter(LeaseId.eq(lease_id.as_str()))
            .filter(State.eq(outbox::QUEUED));
        for (column, value) in columns {
            update = update.col_expr(column, Expr::val(value));
        }
        Ok(self.database().execute(&update.into_query()).await? > 0)
    }
}

impl SeaOrmStore {
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

/// PostgreSQL's text holds no NUL, and what other servers say may.
fn storable(reason: &str) -> String {
    reason.replace('\0', "\u{fffd}")
}
