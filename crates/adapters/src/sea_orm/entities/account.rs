//! Accounts of our own.

use sea_orm::entity::prelude::*;

/// A row.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "account")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub user_id: String,
    pub is_guest: bool,
    pub created_at: i64,
    /// An Argon2 hash as a PHC string.
    pub password_hash: Option<String>,
}

impl ActiveModelBehavior for ActiveModel {}
