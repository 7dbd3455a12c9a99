//! Challenges that were passed on, spent or not.

use sea_orm::ActiveValue::Set;
use sea_orm::entity::prelude::*;
use threepid_domain::model::{Challenge, Sid};

use super::{ms, timestamp, user_id};
use crate::sea_orm::StorageError;

/// A row.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "challenge")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub session: String,
    pub user_id: String,
    pub sid: String,
    pub issued_at: i64,
    pub is_spent: bool,
}

impl ActiveModelBehavior for ActiveModel {}

impl From<&Challenge> for ActiveModel {
    fn from(challenge: &Challenge) -> Self {
        Self {
            session: Set(challenge.session.clone()),
            user_id: Set(challenge.user_id.as_str().to_owned()),
            sid: Set(challenge.sid.as_str().to_owned()),
            issued_at: Set(ms(challenge.issued_at)),
            is_spent: Set(false),
        }
    }
}

impl Model {
    /// The challenge that the row holds.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] when no such thing can be.
    pub(in crate::sea_orm) fn parse(self) -> Result<Challenge, StorageError> {
        Ok(Challenge {
            user_id: user_id("challenge", &self.user_id)?,
            sid: Sid::new(self.sid),
            issued_at: timestamp(self.issued_at),
            session: self.session,
        })
    }
}
