//! Where accounts' addresses are published, or may be.

use sea_orm::ActiveValue::Set;
use sea_orm::entity::prelude::*;
use threepid_domain::model::{Binding, BindingState};

use super::{address, ms, server, timestamp, user_id};
use crate::sea_orm::StorageError;

const TABLE: &str = "binding";

/// A row.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "binding")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub user_id: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub medium: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub address: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub server: String,
    pub state: String,
    pub since: i64,
}

impl ActiveModelBehavior for ActiveModel {}

impl From<&Binding> for ActiveModel {
    fn from(binding: &Binding) -> Self {
        let state = match binding.state {
            BindingState::Pending => "pending",
            BindingState::Bound => "bound",
        };
        Self {
            user_id: Set(binding.user_id.as_str().to_owned()),
            medium: Set(binding.address.medium().as_str().to_owned()),
            address: Set(binding.address.as_str().to_owned()),
            server: Set(binding.server.as_str().to_owned()),
            state: Set(state.to_owned()),
            since: Set(ms(binding.since)),
        }
    }
}

impl Model {
    /// The binding that the row holds.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] when no such thing can be.
    pub(in crate::sea_orm) fn parse(self) -> Result<Binding, StorageError> {
        let state = match self.state.as_str() {
            "pending" => BindingState::Pending,
            "bound" => BindingState::Bound,
            _ => return Err(StorageError::corrupt(TABLE, "state is none that this program knows")),
        };
        Ok(Binding {
            user_id: user_id(TABLE, &self.user_id)?,
            address: address(TABLE, &self.medium, &self.address)?,
            server: server(TABLE, &self.server)?,
            state,
            since: timestamp(self.since),
        })
    }
}
