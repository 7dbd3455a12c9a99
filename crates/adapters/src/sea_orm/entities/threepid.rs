//! Threepids: who owns which address. The primary key is the address, so it has one owner.

use sea_orm::ActiveValue::Set;
use sea_orm::entity::prelude::*;
use threepid_domain::model::Threepid;

use super::{address, ms, timestamp, user_id};
use crate::sea_orm::StorageError;

const TABLE: &str = "threepid";

/// A row.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "threepid")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub medium: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub address: String,
    pub user_id: String,
    pub validated_at: i64,
    pub added_at: i64,
}

impl ActiveModelBehavior for ActiveModel {}

impl From<&Threepid> for ActiveModel {
    fn from(threepid: &Threepid) -> Self {
        Self {
            medium: Set(threepid.address.medium().as_str().to_owned()),
            address: Set(threepid.address.as_str().to_owned()),
            user_id: Set(threepid.user_id.as_str().to_owned()),
            validated_at: Set(ms(threepid.validated_at)),
            added_at: Set(ms(threepid.added_at)),
        }
    }
}

impl Model {
    /// The threepid that the row holds.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] when no such thing can be.
    pub(in crate::sea_orm) fn parse(&self) -> Result<Threepid, StorageError> {
        Ok(Threepid {
            user_id: user_id(TABLE, &self.user_id)?,
            address: address(TABLE, &self.medium, &self.address)?,
            validated_at: timestamp(self.validated_at),
            added_at: timestamp(self.added_at),
        })
    }
}
