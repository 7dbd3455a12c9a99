//! The audit trail: appended to in a unit's transaction, and told.

use sea_orm::{
    ColumnTrait, DatabaseTransaction, EntityTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait,
};
use threepid_domain::model::{AuditEntry, AuditQuery};

use super::connection::Database;
use super::entities::audit::{ActiveModel, Column, Entity, Model};
use super::error::StorageError;

/// Keeps one entry.
pub(super) async fn append(
    transaction: &DatabaseTransaction,
    entry: &AuditEntry,
) -> Result<(), StorageError> {
    Entity::insert(ActiveModel::from(entry)).exec_without_returning(transaction).await?;
    Ok(())
}

/// The newest entries that meet the query.
pub(super) async fn trail(database: &Database, query: AuditQuery) -> Result<Vec<AuditEntry>, StorageError> {
    let AuditQuery { user_id, address, limit } = query;
    let rows = Entity::find()
        .apply_if(user_id, |rows, user_id| rows.filter(Column::UserId.eq(user_id.as_str())))
        .apply_if(address, |rows, address| {
            rows.filter(Column::Medium.eq(address.medium().as_str()))
                .filter(Column::Address.eq(address.as_str()))
        })
        .order_by_desc(Column::At)
        .order_by_desc(Column::Id)
        .limit(u64::try_from(limit).unwrap_or(u64::MAX).min(i64::MAX as u64))
        .all(database.reader())
        .await?;
    rows.into_iter().map(Model::parse).collect()
}
