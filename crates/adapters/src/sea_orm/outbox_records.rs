//! The port `OutboxRecords`: the rows of the outbox, for whoever operates the server.

use async_trait::async_trait;
use sea_orm::sea_query::{Expr, Value};
use sea_orm::{ColumnTrait, Condition, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use threepid_domain::model::{MessageId, MessageRecord, MessageState, Timestamp};
use threepid_domain::ports::{OutboxRecords, Unavailable};

use super::entities::{ms, outbox};
use super::error::{StorageError, unavailable};
use super::store::SeaOrmStore;

const PORT: &str = "outbox";

#[async_trait]
impl OutboxRecords for SeaOrmStore {
    async fn messages(
        &self,
        states: Vec<MessageState>,
        limit: usize,
    ) -> Result<Vec<MessageRecord>, Unavailable> {
        let list = async {
            let rows = outbox::Entity::find()
                .filter(outbox::Column::State.is_in(states.into_iter().map(MessageState::as_str)))
                .order_by_asc(outbox::Column::CreatedAt)
                .order_by_asc(outbox::Column::Id)
                .limit(u64::try_from(limit).unwrap_or(u64::MAX).min(i64::MAX as u64))
                .all(self.database().reader())
                .await?;
            rows.into_iter().map(outbox::Model::record).collect::<Result<_, StorageError>>()
        };
        list.await.map_err(unavailable(PORT))
    }

    async fn message(&self, id: &MessageId) -> Result<Option<MessageRecord>, Unavailable> {
        // PostgreSQL's text holds no NUL, so nothing there has such an id.
        if id.as_str().contains('\0') {
            return Ok(None);
        }
        let find = async {
            let row = outbox::Entity::find_by_id(id.as_str()).one(self.database().reader()).await?;
            row.map(outbox::Model::record).transpose()
        };
        find.await.map_err(unavailable(PORT))
    }

    async fn owe_again(
        &self,
        id: &MessageId,
        now: Timestamp,
        not_after: Timestamp,
    ) -> Result<bool, Unavailable> {
        use outbox::Column::{DueAt, LeaseId, LeasedUntil, NotAfter, SettledAt, State};

        let mut update = outbox::Entity::update_many().filter(decidable(id, now));
        for (column, value) in [
            (State, Value::from(outbox::QUEUED)),
            (DueAt, ms(now).into()),
            (NotAfter, ms(not_after).into()),
            (LeaseId, None::<String>.into()),
            (LeasedUntil, None::<i64>.into()),
            (SettledAt, None::<i64>.into()),
        ] {
            update = update.col_expr(column, Expr::val(value));
        }
        let updated = update.exec(self.database().writer()).await;
        let owed = updated.map_err(|error| unavailable(PORT)(error.into()))?.rows_affected > 0;
        if owed {
            self.database().ring();
        }
        Ok(owed)
    }

    async fn forget(&self, id: &MessageId, now: Timestamp) -> Result<bool, Unavailable> {
        let deleted =
            outbox::Entity::delete_many().filter(decidable(id, now)).exec(self.database().writer()).await;
        Ok(deleted.map_err(|error| unavailable(PORT)(error.into()))?.rows_affected > 0)
    }
}

/// That message, where it is dead, or owed and under no lease that is good.
fn decidable(id: &MessageId, now: Timestamp) -> Condition {
    use outbox::Column::{Id, LeasedUntil, State};

    let unleased = Condition::any().add(LeasedUntil.is_null()).add(LeasedUntil.lte(ms(now)));
    let waits = Condition::all().add(State.eq(outbox::QUEUED)).add(unleased);
    Condition::all().add(Id.eq(id.as_str())).add(Condition::any().add(State.eq(outbox::DEAD)).add(waits))
}
