//! Owed messages and what became of them.

use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::FromQueryResult;
use sea_orm::entity::prelude::*;
use serde::Deserialize;
use threepid_domain::model::{
    BindingKey, Claimed, LeaseId, MessageId, MessageRecord, MessageState, OutboxMessage,
};

use super::{ms, timestamp};
use crate::sea_orm::StorageError;

const TABLE: &str = "outbox";

/// `state` of a message that is owed still.
pub(in crate::sea_orm) const QUEUED: &str = MessageState::Queued.as_str();
/// `state` of a message that the next hop took.
pub(in crate::sea_orm) const SENT: &str = MessageState::Sent.as_str();
/// `state` of a message that cannot be delivered.
pub(in crate::sea_orm) const DEAD: &str = MessageState::Dead.as_str();
/// `state` of a message that was not worth sending any more.
pub(in crate::sea_orm) const EXPIRED: &str = MessageState::Expired.as_str();

/// A row.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "outbox")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub kind: String,
    pub payload: String,
    pub created_at: i64,
    pub due_at: i64,
    pub not_after: i64,
    pub attempts: i64,
    pub lease_id: Option<String>,
    pub leased_until: Option<i64>,
    pub state: String,
    pub settled_at: Option<i64>,
    pub last_error: Option<String>,
    pub subject: Option<String>,
}

impl ActiveModelBehavior for ActiveModel {}

/// The row of a message that is owed from now on.
///
/// # Errors
/// [`StorageError`] when the payload cannot be written as JSON.
pub(in crate::sea_orm) fn queued(message: &OutboxMessage) -> Result<ActiveModel, StorageError> {
    Ok(ActiveModel {
        id: Set(message.id.as_str().to_owned()),
        kind: Set(message.payload.kind().to_owned()),
        payload: Set(serde_json::to_string(&message.payload)?),
        created_at: Set(ms(message.created_at)),
        due_at: Set(ms(message.due_at)),
        not_after: Set(ms(message.not_after)),
        attempts: Set(0),
        state: Set(QUEUED.to_owned()),
        lease_id: NotSet,
        leased_until: NotSet,
        settled_at: NotSet,
        last_error: NotSet,
        subject: Set(match (message.payload.binding(), message.payload.mirrored()) {
            (Some(key), _) => Some(subject(&key)),
            (None, mirrored) => mirrored.map(|user_id| user_id.as_str().to_owned()),
        }),
    })
}

/// What an owed unbind is found by. No part of it can hold a line break.
pub(in crate::sea_orm) fn subject(key: &BindingKey) -> String {
    let BindingKey { user_id, address, server } = key;
    format!("{user_id}\n{}\n{}\n{server}", address.medium(), address.as_str())
}

/// What a claim reads of a row. Nothing stands in for what is not what it should be. In JSON it is a list, in this order.
#[derive(Debug, Deserialize, FromQueryResult)]
pub(in crate::sea_orm) struct Leased {
    pub(in crate::sea_orm) id: Option<String>,
    payload: Option<String>,
    created_at: Option<i64>,
    due_at: Option<i64>,
    not_after: Option<i64>,
    /// This one included.
    attempts: Option<i64>,
}

impl Leased {
    /// By what claims are ordered.
    pub(in crate::sea_orm) fn order(&self) -> (Option<i64>, Option<i64>, Option<&str>) {
        (self.due_at, self.created_at, self.id.as_deref())
    }

    /// The message under a lease.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] when no such thing can be.
    pub(in crate::sea_orm) fn parse(self, lease: LeaseId) -> Result<Claimed, StorageError> {
        let corrupt = |what| StorageError::corrupt(TABLE, what);
        let time = |time: Option<i64>, what| time.map(timestamp).ok_or_else(|| corrupt(what));
        let payload = self.payload.and_then(|payload| serde_json::from_str(&payload).ok());
        let message = OutboxMessage {
            payload: payload.ok_or_else(|| corrupt("payload is none that this program knows"))?,
            id: MessageId::new(self.id.ok_or_else(|| corrupt("id is no text"))?),
            created_at: time(self.created_at, "created_at is no number")?,
            due_at: time(self.due_at, "due_at is no number")?,
            not_after: time(self.not_after, "not_after is no number")?,
        };
        let attempt = self.attempts.and_then(|attempts| u32::try_from(attempts).ok());
        let attempt = attempt.ok_or_else(|| corrupt("attempts is out of range"))?;
        Ok(Claimed { message, attempt, lease })
    }
}

impl Model {
    /// The row as an operator sees it, also where its payload cannot be read.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] when no such thing can be.
    pub(in crate::sea_orm) fn record(self) -> Result<MessageRecord, StorageError> {
        let corrupt = |what| StorageError::corrupt(TABLE, what);
        Ok(MessageRecord {
            payload: serde_json::from_str(&self.payload).ok(),
            state: MessageState::parse(&self.state)
                .ok_or_else(|| corrupt("state is none that this program knows"))?,
            id: MessageId::new(self.id),
            kind: self.kind,
            attempts: u32::try_from(self.attempts).map_err(|_| corrupt("attempts is out of range"))?,
            created_at: timestamp(self.created_at),
            due_at: timestamp(self.due_at),
            not_after: timestamp(self.not_after),
            leased_until: self.leased_until.map(timestamp),
            settled_at: self.settled_at.map(timestamp),
            last_error: self.last_error,
        })
    }
}
