//! The port `Housekeeping`: rows that have ended are deleted, the oldest first, in one small statement each.

use async_trait::async_trait;
use sea_orm::ConnectionTrait;
use sea_orm::sea_query::{
    Alias, CommonTableExpression, Condition, Expr, ExprTrait, LockBehavior, LockType, Order, Query,
};
use threepid_domain::model::Timestamp;
use threepid_domain::ports::{Housekeeping, Perishable, Unavailable};

use super::entities::{ms, outbox};
use super::error::{StorageError, unavailable};
use super::store::SeaOrmStore;

const PORT: &str = "housekeeping";

/// Engines count rows in signed 64 bits, and nobody asks for so many.
const MOST_AT_ONCE: u64 = 1 << 32;

/// Where things of one kind are, and how old each is.
struct Heap {
    table: &'static str,
    key: &'static [&'static str],
    /// By which they are taken, the oldest first; there is an index that begins with `state`, where that is given, and
    /// goes on with this.
    time: &'static str,
    /// Other times that have to be past, too.
    others: &'static [&'static str],
    /// `state`, where only one is meant.
    state: Option<&'static str>,
    /// In how many parts of a millisecond the times are.
    parts: i64,
}

impl Heap {
    const fn new(table: &'static str, key: &'static [&'static str], time: &'static str) -> Self {
        Self { table, key, time, others: &[], state: None, parts: 1 }
    }

    /// Messages are found by when they were due, which is before they are settled: that has an index.
    const fn settled(state: &'static str) -> Self {
        Self { others: &["settled_at"], state: Some(state), ..Self::new("outbox", &["id"], "due_at") }
    }

    /// A new kind of what perishes is a line here, and an index in a step of the schema.
    fn all(what: Perishable) -> Vec<Self> {
        vec![match what {
            // An older version that runs beside this one writes no `last_time`.
            Perishable::Sessions => {
                Self { others: &["created_at"], ..Self::new("validation_session", &["sid"], "last_time") }
            }
            Perishable::RemoteSessions => Self::new("remote_session", &["server", "sid"], "opened_at"),
            Perishable::SpentProofs => Self::new("spent_proof", &["server", "sid"], "spent_at"),
            Perishable::Challenges => Self::new("challenge", &["session"], "issued_at"),
            Perishable::AuditEntries => Self::new("audit", &["id"], "at"),
            // A count says nothing once its bucket is full.
            Perishable::Counts => {
                Self { parts: 1000, ..Self::new("rate_limit", &["name", "subject"], "full_at_us") }
            }
            Perishable::SettledMessages => {
                return vec![Self::settled(outbox::SENT), Self::settled(outbox::EXPIRED)];
            }
        }]
    }

    fn condition(&self, before: Timestamp) -> Condition {
        let mut condition = Condition::all();
        if let Some(state) = self.state {
            condition = condition.add(Expr::col("state").eq(state));
        }
        for time in self.others.iter().chain([&self.time]) {
            let before = ms(before).saturating_mul(self.parts);
            condition = condition.add(Expr::col(Alias::new(*time)).lt(before));
        }
        condition
    }
}

#[async_trait]
impl Housekeeping for SeaOrmStore {
    async fn purge(&self, what: Perishable, before: Timestamp, limit: usize) -> Result<usize, Unavailable> {
        let purge = async {
            let mut removed = 0;
            for heap in Heap::all(what) {
                removed += self.delete(&heap, before, limit - removed).await?;
            }
            Ok(removed)
        };
        purge.await.map_err(unavailable(PORT))
    }
}

impl SeaOrmStore {
    /// At most `limit` rows, and on PostgreSQL none that somebody else has locked.
    async fn delete(&self, heap: &Heap, before: Timestamp, limit: usize) -> Result<usize, StorageError> {
        if limit == 0 {
            return Ok(0);
        }
        let key = || heap.key.iter().map(|column| Alias::new(*column));
        let due = Query::select()
            .columns(key())
            .from(heap.table)
            .cond_where(heap.condition(before))
            .order_by(Alias::new(heap.time), Order::Asc)
            .limit(u64::try_from(limit).map_or(MOST_AT_ONCE, |limit| Ord::min(limit, MOST_AT_ONCE)))
            // Housekeepers and units of work pass each other; SQLite has one writer, and sea-query leaves this out.
            .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked)
            .take();
        // Apart, since PostgreSQL may run a subquery more than once, and each time would find other rows to lock.
        let due = CommonTableExpression::new().table_name("due").columns(key()).query(due).to_owned();
        let chosen = Query::select().columns(key()).from("due").take();
        let row = Expr::tuple(key().map(Expr::col));
        let delete = Query::delete()
            .with_cte(due)
            .from_table(heap.table)
            .and_where(row.in_subquery(chosen))
            // Once more: it holds without SKIP LOCKED, too, where rivals wait for each other.
            .cond_where(heap.condition(before))
            .take();
        let deleted = self.database().writer().execute(&delete).await?;
        Ok(usize::try_from(deleted.rows_affected()).unwrap_or(usize::MAX))
    }
}
