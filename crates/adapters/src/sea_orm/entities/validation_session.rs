//! Validation sessions.

use sea_orm::ActiveValue::Set;
use sea_orm::entity::prelude::*;
use threepid_domain::model::{
    IssuedToken, KeyedHash, SendAttempt, SessionRecord, SessionState, Sid, UserId, ValidationSession,
};

use super::{address, from_column, ms, timestamp, to_column, user_id};
use crate::sea_orm::StorageError;

const TABLE: &str = "validation_session";

/// A row. `current_key` repeats `key` while the session is the current one under it, and is unique.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "validation_session")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub sid: String,
    pub key: String,
    #[sea_orm(unique)]
    pub current_key: Option<String>,
    pub medium: String,
    pub address: String,
    pub state: String,
    pub wrong_tokens: i64,
    pub validated_at: Option<i64>,
    pub consumed_by: Option<String>,
    pub send_attempt: i64,
    pub tokens: String,
    pub created_at: i64,
    pub revision: i64,
    pub last_time: i64,
}

impl ActiveModelBehavior for ActiveModel {}

/// A session's state in its four columns.
struct StateColumns {
    state: &'static str,
    wrong_tokens: i64,
    validated_at: Option<i64>,
    consumed_by: Option<String>,
}

impl From<&SessionState> for StateColumns {
    fn from(state: &SessionState) -> Self {
        let columns = |state| Self { state, wrong_tokens: 0, validated_at: None, consumed_by: None };
        match state {
            SessionState::Pending { wrong_tokens } => {
                Self { wrong_tokens: i64::from(*wrong_tokens), ..columns("pending") }
            }
            SessionState::Validated { at } => Self { validated_at: Some(ms(*at)), ..columns("validated") },
            SessionState::Consumed { validated_at, by } => Self {
                validated_at: Some(ms(*validated_at)),
                consumed_by: Some(by.as_str().to_owned()),
                ..columns("consumed")
            },
            SessionState::Burnt => columns("burnt"),
        }
    }
}

/// The row that the session's next revision is, with every column set.
///
/// # Errors
/// [`StorageError`] when the tokens cannot be written as JSON.
pub(in crate::sea_orm) fn next_revision(session: &ValidationSession) -> Result<ActiveModel, StorageError> {
    let record = session.record();
    let StateColumns { state, wrong_tokens, validated_at, consumed_by } = (&record.state).into();
    let key = record.key.to_hex();
    Ok(ActiveModel {
        sid: Set(record.sid.as_str().to_owned()),
        current_key: Set(record.current.then(|| key.clone())),
        key: Set(key),
        medium: Set(record.address.medium().as_str().to_owned()),
        address: Set(record.address.as_str().to_owned()),
        state: Set(state.to_owned()),
        wrong_tokens: Set(wrong_tokens),
        validated_at: Set(validated_at),
        consumed_by: Set(consumed_by),
        send_attempt: Set(to_column(record.send_attempt.get())),
        tokens: Set(serde_json::to_string(&record.tokens)?),
        created_at: Set(ms(record.created_at)),
        revision: Set(to_column(record.revision).saturating_add(1)),
        last_time: Set(ms(record.last_time())),
    })
}

impl Model {
    /// The session that the row holds.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] when no such thing can be.
    pub(in crate::sea_orm) fn parse(&self) -> Result<ValidationSession, StorageError> {
        let corrupt = |what| StorageError::corrupt(TABLE, what);
        let tokens: Vec<IssuedToken> =
            serde_json::from_str(&self.tokens).map_err(|_| corrupt("tokens is no list of issued tokens"))?;
        if tokens.is_empty() {
            return Err(corrupt("tokens is empty"));
        }
        Ok(ValidationSession::from_record(SessionRecord {
            key: KeyedHash::from_hex(&self.key).ok_or_else(|| corrupt("key is no keyed hash"))?,
            current: self.current_key.is_some(),
            address: address(TABLE, &self.medium, &self.address)?,
            state: state(self)?,
            send_attempt: SendAttempt::new(i128::from(self.send_attempt))
                .map_err(|_| corrupt("send_attempt is out of range"))?,
            tokens,
            created_at: timestamp(self.created_at),
            revision: from_column(self.revision),
            sid: Sid::new(self.sid.as_str()),
        }))
    }
}

fn state(row: &Model) -> Result<SessionState, StorageError> {
    let corrupt = |what| StorageError::corrupt(TABLE, what);
    let validated_at = || row.validated_at.map(timestamp).ok_or_else(|| corrupt("validated_at is missing"));
    let consumed_by = || -> Result<UserId, StorageError> {
        user_id(TABLE, row.consumed_by.as_deref().ok_or_else(|| corrupt("consumed_by is missing"))?)
    };
    match row.state.as_str() {
        "pending" => {
            let wrong_tokens =
                u8::try_from(row.wrong_tokens).map_err(|_| corrupt("wrong_tokens is out of range"))?;
            Ok(SessionState::Pending { wrong_tokens })
        }
        "validated" => Ok(SessionState::Validated { at: validated_at()? }),
        "consumed" => Ok(SessionState::Consumed { validated_at: validated_at()?, by: consumed_by()? }),
        "burnt" => Ok(SessionState::Burnt),
        _ => Err(corrupt("state is none that this program knows")),
    }
}
