//! The fingerprint of the server's key: one row.

use sea_orm::entity::prelude::*;

/// The row. `id` is always 1.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "server_key")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: i64,
    pub fingerprint: String,
}

impl ActiveModelBehavior for ActiveModel {}
