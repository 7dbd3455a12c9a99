//! The port `AccountRecords`: every table, looked through for one account.

use async_trait::async_trait;
use sea_orm::sea_query::{Expr, ExprTrait, Func, SimpleExpr};
use sea_orm::{ColumnTrait, Condition, DbBackend, EntityTrait, QueryFilter, QueryOrder};
use threepid_domain::model::{Address, MessageRecord, Payload, UserId};
use threepid_domain::ports::{AccountRecord, AccountRecords, Unavailable};

use super::entities::{
    audit, binding, challenge, outbox, remote_session, spent_proof, threepid, validation_session,
};
use super::error::{StorageError, unavailable};
use super::store::SeaOrmStore;

const PORT: &str = "account records";

#[async_trait]
impl AccountRecords for SeaOrmStore {
    async fn kept_about(&self, user: UserId) -> Result<AccountRecord, Unavailable> {
        self.look_through(&user).await.map_err(unavailable(PORT))
    }
}

impl SeaOrmStore {
    async fn look_through(&self, user: &UserId) -> Result<AccountRecord, StorageError> {
        let (reader, id) = (self.database().reader(), user.as_str());
        let threepids = threepid::Entity::find()
            .filter(threepid::Column::UserId.eq(id))
            .order_by_asc(threepid::Column::AddedAt)
            .all(reader)
            .await?;
        let threepids = threepids.into_iter().map(threepid::Model::parse).collect::<Result<Vec<_>, _>>()?;
        let owned: Vec<Address> = threepids.iter().map(|threepid| threepid.address.clone()).collect();
        let any_of = |medium: &dyn Fn(&str) -> SimpleExpr, address: &dyn Fn(&str) -> SimpleExpr| {
            owned.iter().fold(Condition::any(), |any, one| {
                any.add(Condition::all().add(medium(one.medium().as_str())).add(address(one.as_str())))
            })
        };
        let theirs = any_of(&|medium| validation_session::Column::Medium.eq(medium), &|address| {
            validation_session::Column::Address.eq(address)
        });
        let sessions = validation_session::Entity::find()
            .filter(theirs.add(validation_session::Column::ConsumedBy.eq(id)))
            .order_by_asc(validation_session::Column::CreatedAt)
            .all(reader)
            .await?;
        let remote_sessions = if owned.is_empty() {
            Vec::new()
        } else {
            let theirs = any_of(&|medium| remote_session::Column::Medium.eq(medium), &|address| {
                remote_session::Column::Address.eq(address)
            });
            let find = remote_session::Entity::find().filter(theirs);
            find.order_by_asc(remote_session::Column::OpenedAt).all(reader).await?
        };
        let spent_proofs = spent_proof::Entity::find()
            .filter(spent_proof::Column::UserId.eq(id))
            .order_by_asc(spent_proof::Column::SpentAt)
            .all(reader)
            .await?;
        let bindings = binding::Entity::find()
            .filter(binding::Column::UserId.eq(id))
            .order_by_asc(binding::Column::Since)
            .all(reader)
            .await?;
        let challenges = challenge::Entity::find()
            .filter(challenge::Column::UserId.eq(id))
            .order_by_asc(challenge::Column::IssuedAt)
            .all(reader)
            .await?;
        let audit = audit::Entity::find()
            .filter(audit::Column::UserId.eq(id))
            .order_by_asc(audit::Column::At)
            .order_by_asc(audit::Column::Id)
            .all(reader)
            .await?;
        Ok(AccountRecord {
            messages: self.messages_about(user, &owned).await?,
            threepids,
            sessions: sessions.into_iter().map(validation_session::Model::parse).collect::<Result<_, _>>()?,
            remote_sessions: remote_sessions
                .into_iter()
                .map(remote_session::Model::parse)
                .collect::<Result<_, _>>()?,
            spent_proofs: spent_proofs
                .into_iter()
                .map(spent_proof::Model::parse)
                .collect::<Result<_, _>>()?,
            bindings: bindings.into_iter().map(binding::Model::parse).collect::<Result<_, _>>()?,
            challenges: challenges.into_iter().map(challenge::Model::parse).collect::<Result<_, _>>()?,
            audit: audit.into_iter().map(audit::Model::parse).collect::<Result<_, _>>()?,
        })
    }

    /// Messages have no column for whom they are about: the payload is looked through, and then read.
    async fn messages_about(
        &self,
        user: &UserId,
        owned: &[Address],
    ) -> Result<Vec<MessageRecord>, StorageError> {
        let reader = self.database().reader();
        let find = match reader.get_database_backend() {
            DbBackend::Sqlite => "instr",
            _ => "strpos",
        };
        let mut any = Condition::any();
        for text in owned.iter().map(Address::as_str).chain([user.as_str()]) {
            let text = serde_json::to_string(text)?;
            let at = Func::cust(find).arg(Expr::col(outbox::Column::Payload)).arg(text);
            any = any.add(Expr::expr(at).gt(0));
        }
        let rows = outbox::Entity::find()
            .filter(any)
            .order_by_asc(outbox::Column::CreatedAt)
            .order_by_asc(outbox::Column::Id)
            .all(reader)
            .await?;
        let mut records = rows.into_iter().map(outbox::Model::record).collect::<Result<Vec<_>, _>>()?;
        records.retain(|record| match &record.payload {
            Some(Payload::ValidationMail { to, .. } | Payload::InUseMail { to }) => {
                owned.contains(&Address::Email(to.clone()))
            }
            Some(Payload::ValidationSms { to, .. } | Payload::InUseSms { to }) => {
                owned.contains(&Address::Msisdn(to.clone()))
            }
            Some(Payload::Unbind { user_id, .. } | Payload::Mirror { user_id }) => user_id == user,
            None => false,
        });
        Ok(records)
    }
}
