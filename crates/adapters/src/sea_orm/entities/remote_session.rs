//! Sessions that identity servers opened at our request.

use sea_orm::ActiveValue::Set;
use sea_orm::entity::prelude::*;
use threepid_domain::model::{RemoteSession, Sid};

use super::{address, ms, server, timestamp};
use crate::sea_orm::StorageError;

const TABLE: &str = "remote_session";

/// A row.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "remote_session")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub server: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub sid: String,
    pub medium: String,
    pub address: String,
    pub opened_at: i64,
}

impl ActiveModelBehavior for ActiveModel {}

impl From<&RemoteSession> for ActiveModel {
    fn from(session: &RemoteSession) -> Self {
        Self {
            server: Set(session.server.as_str().to_owned()),
            sid: Set(session.sid.as_str().to_owned()),
            medium: Set(session.address.medium().as_str().to_owned()),
            address: Set(session.address.as_str().to_owned()),
            opened_at: Set(ms(session.opened_at)),
        }
    }
}

impl Model {
    /// The session that the row holds.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] when no such thing can be.
    pub(in crate::sea_orm) fn parse(self) -> Result<RemoteSession, StorageError> {
        Ok(RemoteSession {
            server: server(TABLE, &self.server)?,
            address: address(TABLE, &self.medium, &self.address)?,
            opened_at: timestamp(self.opened_at),
            sid: Sid::new(self.sid),
        })
    }
}
