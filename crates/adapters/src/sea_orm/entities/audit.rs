//! What is remembered of contacts' changes. Rows are only ever added; those of one millisecond are told apart by `id`.

use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::entity::prelude::*;
use threepid_domain::model::{AuditAction, AuditDoor, AuditEntry};

use super::{address, ms, server, timestamp, user_id};
use crate::sea_orm::StorageError;

const TABLE: &str = "audit";

/// A row.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "audit")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i64,
    pub at: i64,
    pub user_id: String,
    pub medium: String,
    pub address: String,
    pub action: String,
    pub door: String,
    pub server: Option<String>,
    pub reference: Option<String>,
}

impl ActiveModelBehavior for ActiveModel {}

impl From<&AuditEntry> for ActiveModel {
    fn from(entry: &AuditEntry) -> Self {
        Self {
            id: NotSet,
            at: Set(ms(entry.at)),
            user_id: Set(entry.user_id.as_str().to_owned()),
            medium: Set(entry.address.medium().as_str().to_owned()),
            address: Set(entry.address.as_str().to_owned()),
            action: Set(entry.action.as_str().to_owned()),
            door: Set(entry.door.as_str().to_owned()),
            server: Set(entry.server.as_ref().map(|server| server.as_str().to_owned())),
            reference: Set(entry.reference.clone()),
        }
    }
}

impl Model {
    /// The entry that the row holds.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] when no such thing can be.
    pub(in crate::sea_orm) fn parse(self) -> Result<AuditEntry, StorageError> {
        let corrupt = |what| StorageError::corrupt(TABLE, what);
        Ok(AuditEntry {
            at: timestamp(self.at),
            user_id: user_id(TABLE, &self.user_id)?,
            address: address(TABLE, &self.medium, &self.address)?,
            action: AuditAction::parse(&self.action)
                .ok_or_else(|| corrupt("action is none that this program knows"))?,
            door: AuditDoor::parse(&self.door)
                .ok_or_else(|| corrupt("door is none that this program knows"))?,
            server: self.server.map(|name| server(TABLE, &name)).transpose()?,
            reference: self.reference,
        })
    }
}
