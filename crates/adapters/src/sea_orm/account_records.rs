//! The port `AccountRecords`: every table, looked through for one account.

use std::collections::{BTreeMap, HashSet};

use async_trait::async_trait;
use sea_orm::sea_query::{
    Alias, Expr, ExprTrait, Func, Order, Query, SelectStatement, SimpleExpr, UnionType,
};
use sea_orm::{ColumnTrait, Condition, ConnectionTrait, DbBackend, EntityTrait, QueryFilter, QueryOrder};
use threepid_domain::model::{Address, MessageRecord, SessionState, Sid, UserId, ValidationSession};
use threepid_domain::ports::{AccountRecord, AccountRecords, Counted, Limit, LocalToken, Unavailable};

use super::entities::{
    account, account_token, audit, binding, challenge, outbox, remote_session, spent_proof, threepid,
    timestamp, validation_session,
};
use super::error::{StorageError, unavailable};
use super::storable_subject;
use super::store::SeaOrmStore;

const PORT: &str = "account records";

/// Engines count rows in signed 64 bits, and nobody asks for so many.
const MOST_AT_ONCE: u64 = 1 << 32;

/// Where accounts are named, by which column.
const NAMED_IN: [(&str, &str); 7] = [
    ("threepid", "user_id"),
    ("validation_session", "consumed_by"),
    ("spent_proof", "user_id"),
    ("binding", "user_id"),
    ("challenge", "user_id"),
    ("audit", "user_id"),
    ("account", "user_id"),
];

/// So many texts are looked for in one statement; engines do not nest conditions for ever.
const TEXTS_AT_ONCE: usize = 200;

/// How a payload is written that is to leave nothing. In a text, quotes are written otherwise.
const LEAVES_NOTHING: &str = "\"forget\":true";

#[async_trait]
impl AccountRecords for SeaOrmStore {
    async fn kept_about(&self, user: UserId) -> Result<AccountRecord, Unavailable> {
        look_through(self.database().reader(), &user).await.map_err(unavailable(PORT))
    }

    async fn accounts(&self, after: Option<UserId>, limit: usize) -> Result<Vec<UserId>, Unavailable> {
        let limit = u64::try_from(limit).map_or(MOST_AT_ONCE, |limit| Ord::min(limit, MOST_AT_ONCE));
        self.page(after.as_ref(), limit).await.map_err(unavailable(PORT))
    }
}

/// Rows about an address that the account owns, however many these are.
pub(super) fn of_owned<C: ColumnTrait>(user: &UserId, medium: C, address: C) -> SimpleExpr {
    let owned = Query::select()
        .columns([threepid::Column::Medium, threepid::Column::Address])
        .from(threepid::Entity)
        .and_where(threepid::Column::UserId.eq(user.as_str()))
        .take();
    Expr::tuple([Expr::col(medium), Expr::col(address)]).in_subquery(owned)
}

/// Everything that is kept about an account.
pub(super) async fn look_through(
    reader: &impl ConnectionTrait,
    user: &UserId,
) -> Result<AccountRecord, StorageError> {
    let id = user.as_str();
    let threepids = threepid::Entity::find()
        .filter(threepid::Column::UserId.eq(id))
        .order_by_asc(threepid::Column::AddedAt)
        .all(reader)
        .await?;
    let threepids = threepids.iter().map(threepid::Model::parse).collect::<Result<Vec<_>, _>>()?;
    let owned: Vec<Address> = threepids.iter().map(|threepid| threepid.address.clone()).collect();
    let sessions = {
        use validation_session::Column::{Address, ConsumedBy, CreatedAt, Medium};
        let theirs = Condition::any().add(of_owned(user, Medium, Address)).add(ConsumedBy.eq(id));
        let find = validation_session::Entity::find().filter(theirs).order_by_asc(CreatedAt);
        let rows = find.all(reader).await?;
        rows.iter().map(validation_session::Model::parse).collect::<Result<Vec<_>, _>>()?
    };
    let spent_proofs = spent_proof::Entity::find()
        .filter(spent_proof::Column::UserId.eq(id))
        .order_by_asc(spent_proof::Column::SpentAt)
        .all(reader)
        .await?;
    let remote_sessions = {
        use remote_session::Column::{Address, Medium, OpenedAt, Server, Sid};
        let spent = Query::select()
            .columns([spent_proof::Column::Server, spent_proof::Column::Sid])
            .from(spent_proof::Entity)
            .and_where(spent_proof::Column::UserId.eq(id))
            .take();
        let proof = Expr::tuple([Expr::col(Server), Expr::col(Sid)]).in_subquery(spent);
        let theirs = Condition::any().add(of_owned(user, Medium, Address)).add(proof);
        remote_session::Entity::find().filter(theirs).order_by_asc(OpenedAt).all(reader).await?
    };
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
    let access_tokens = account_token::Entity::find()
        .filter(account_token::Column::UserId.eq(id))
        .order_by_asc(account_token::Column::CreatedAt)
        .all(reader)
        .await?;
    Ok(AccountRecord {
        messages: messages_about(reader, user, &owned, &sessions).await?,
        is_local: account::Entity::find_by_id(id).one(reader).await?.is_some(),
        access_tokens: access_tokens
            .into_iter()
            .map(|token| LocalToken { device_id: token.device_id, created_at: timestamp(token.created_at) })
            .collect(),
        counts: counts(reader, user).await?,
        threepids,
        sessions,
        remote_sessions: remote_sessions
            .into_iter()
            .map(remote_session::Model::parse)
            .collect::<Result<_, _>>()?,
        spent_proofs: spent_proofs.into_iter().map(spent_proof::Model::parse).collect::<Result<_, _>>()?,
        bindings: bindings.into_iter().map(binding::Model::parse).collect::<Result<_, _>>()?,
        challenges: challenges.into_iter().map(challenge::Model::parse).collect::<Result<_, _>>()?,
        audit: audit.into_iter().map(audit::Model::parse).collect::<Result<_, _>>()?,
    })
}

/// Messages have no column for whom they are about: the payload is looked through, and then read.
async fn messages_about(
    reader: &impl ConnectionTrait,
    user: &UserId,
    owned: &[Address],
    sessions: &[ValidationSession],
) -> Result<Vec<MessageRecord>, StorageError> {
    let spent: Vec<&Sid> = sessions
        .iter()
        .filter(|session| matches!(&session.record().state, SessionState::Consumed { by, .. } if by == user))
        .map(ValidationSession::sid)
        .collect();
    let texts = owned.iter().map(Address::as_str).chain(spent.iter().map(|sid| sid.as_str()));
    let texts = texts.chain([user.as_str()]).map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
    let mut rows = BTreeMap::new();
    for texts in texts.chunks(TEXTS_AT_ONCE) {
        let backend = reader.get_database_backend();
        let any = texts.iter().fold(Condition::any(), |any, text| any.add(holds(backend, text)));
        for row in outbox::Entity::find().filter(any).all(reader).await? {
            rows.insert((row.created_at, row.id.clone()), row);
        }
    }
    let (owned, spent): (HashSet<_>, HashSet<_>) = (owned.iter().collect(), spent.into_iter().collect());
    let is_about = |payload: &threepid_domain::model::Payload| {
        payload.is_about(user, |address| owned.contains(address), |sid| spent.contains(sid))
    };
    let mut records = rows.into_values().map(outbox::Model::record).collect::<Result<Vec<_>, _>>()?;
    records.retain(|record| record.payload.as_ref().is_some_and(is_about));
    Ok(records)
}

/// What is counted under the account's own name.
async fn counts(reader: &impl ConnectionTrait, user: &UserId) -> Result<Vec<Counted>, StorageError> {
    let find = Query::select()
        .columns(["name", "full_at_us"])
        .from("rate_limit")
        // The key begins with the name.
        .and_where(Expr::col("name").is_in(Limit::ALL.iter().map(|limit| limit.name())))
        .and_where(Expr::col("subject").eq(storable_subject(user.as_str())))
        .order_by("full_at_us", Order::Asc)
        .take();
    let rows = reader.query_all(&find).await?;
    let counted = rows.iter().map(|row| {
        let (limit, full_at_us): (String, i64) = (row.try_get_by_index(0)?, row.try_get_by_index(1)?);
        Ok(Counted { limit, until: timestamp(full_at_us / 1000) })
    });
    counted.collect()
}

/// Whether a message's payload holds a text.
fn holds(backend: DbBackend, text: &str) -> Condition {
    let find = if backend == DbBackend::Sqlite { "instr" } else { "strpos" };
    let at = Func::cust(find).arg(Expr::col(outbox::Column::Payload)).arg(text);
    Condition::all().add(Expr::expr(at).gt(0))
}

impl SeaOrmStore {
    /// Each table gives its first names after `after`, by the database's own order, and the first of all these are the page.
    async fn page(&self, after: Option<&UserId>, limit: u64) -> Result<Vec<UserId>, StorageError> {
        let reader = self.database().reader();
        let tables = NAMED_IN.iter().map(|(table, column)| {
            let named =
                Query::select().from(*table).expr_as(Expr::col(Alias::new(*column)), "user_id").take();
            first(named, Expr::col(Alias::new(*column)), after, limit)
        });
        // A message's subject begins with the account, if it names one.
        let backend = reader.get_database_backend();
        let subject = Expr::cust(match backend {
            DbBackend::Sqlite => "substr(subject, 1, instr(subject || char(10), char(10)) - 1)",
            _ => "split_part(subject, chr(10), 1)",
        });
        let messages = Query::select()
            .from("outbox")
            .expr_as(subject.clone(), "user_id")
            .cond_where(holds(backend, LEAVES_NOTHING).not())
            .take();
        let named = tables.fold(first(messages, subject, after, limit), |mut all, table| {
            all.union(UnionType::Distinct, table);
            all
        });
        let page = Query::select()
            .column("user_id")
            .from_subquery(named, "named")
            .order_by("user_id", Order::Asc)
            .limit(limit)
            .take();
        let rows = reader.query_all(&page).await?;
        let names = rows.iter().map(|row| row.try_get_by_index::<String>(0));
        names
            .map(|name| {
                let corrupt = || StorageError::corrupt("any", "an account's name is no Matrix user ID");
                UserId::parse(&name?).map_err(|_| corrupt())
            })
            .collect()
    }
}

/// The first `limit` names of `named`, as a table of its own, since a part of a union has no order.
fn first(named: SelectStatement, name: Expr, after: Option<&UserId>, limit: u64) -> SelectStatement {
    let mut named = named;
    named
        .distinct()
        .and_where(name.clone().is_not_null())
        .and_where(name.clone().ne(UserId::erased().as_str()))
        .order_by_expr(name.clone(), Order::Asc)
        .limit(limit);
    if let Some(after) = after {
        named.and_where(name.gt(after.as_str()));
    }
    Query::select().column("user_id").from_subquery(named, "first").take()
}
