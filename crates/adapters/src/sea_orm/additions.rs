//! Units of work that only add rows: many are added by one statement for each table, which takes its rows as a list in
//! JSON, so that it is always the same.

use std::sync::Arc;

use sea_orm::{
    ActiveModelTrait, ConnectionTrait, DatabaseTransaction, DbBackend, EntityName, EntityTrait, IdenStatic,
    Iterable, Statement, Value,
};
use serde_json::Map;
use threepid_domain::model::{Change, UnitOfWork};
use threepid_domain::ports::Conflict;

use super::entities::{outbox, validation_session};
use super::error::{ApplyError, StorageError};

/// Whether a unit adds a new session and messages, and nothing else.
pub(super) fn only_adds(unit: &UnitOfWork) -> bool {
    unit.changes().iter().all(|change| match change {
        Change::PutSession(session) => session.record().revision == 0,
        Change::Enqueue(_) => true,
        _ => false,
    })
}

/// Adds what the units hold. What is met is a conflict of any of them.
pub(super) async fn add_all(
    transaction: &DatabaseTransaction,
    units: &[Arc<UnitOfWork>],
) -> Result<(), ApplyError> {
    let (mut sessions, mut messages) = (Vec::new(), Vec::new());
    for change in units.iter().flat_map(|unit| unit.changes()) {
        match change {
            Change::PutSession(session) => sessions.push(session),
            Change::Enqueue(message) => messages.push(outbox::queued(message)?),
            _ => return Err(StorageError::Database("a unit does more than to add".to_owned()).into()),
        }
    }
    // In one order everywhere, so that two transactions which add the same sessions do not deadlock.
    sessions.sort_by_cached_key(|session| session.record().key.to_hex());
    let sessions =
        sessions.into_iter().map(validation_session::next_revision).collect::<Result<Vec<_>, _>>()?;
    if add(transaction, &sessions).await? < sessions.len()
        || add(transaction, &messages).await? < messages.len()
    {
        return Err(Conflict::SessionExists.into());
    }
    Ok(())
}

/// Adds rows but for those whose keys are taken; how many it added.
async fn add<A: ActiveModelTrait>(
    transaction: &DatabaseTransaction,
    rows: &[A],
) -> Result<usize, StorageError> {
    if rows.is_empty() {
        return Ok(0);
    }
    let columns: Vec<_> = <A::Entity as EntityTrait>::Column::iter().collect();
    let object = |row: &A| -> Result<Map<_, _>, StorageError> {
        let value = |column| match row.get(column).into_value() {
            Some(Value::String(Some(text))) => Ok(serde_json::Value::from(text)),
            Some(Value::BigInt(Some(number))) => Ok(number.into()),
            None | Some(Value::String(None) | Value::BigInt(None)) => Ok(serde_json::Value::Null),
            Some(_) => Err(StorageError::Database("a column is neither text nor a number".to_owned())),
        };
        columns.iter().map(|column| Ok((column.as_str().to_owned(), value(*column)?))).collect()
    };
    let rows = serde_json::to_string(&rows.iter().map(object).collect::<Result<Vec<_>, _>>()?)?;
    let table = A::Entity::default();
    let (table, names) = (table.table_name(), columns.iter().map(IdenStatic::as_str));
    let list = names.clone().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
    let backend = transaction.get_database_backend();
    let sql = if backend == DbBackend::Sqlite {
        let values = names.map(|name| format!("value ->> '{name}'")).collect::<Vec<_>>().join(", ");
        format!(
            "INSERT INTO \"{table}\" ({list}) SELECT {values} FROM json_each($1) WHERE true ON CONFLICT DO NOTHING"
        )
    } else {
        format!(
            "INSERT INTO \"{table}\" ({list}) SELECT {list} \
             FROM json_populate_recordset(CAST(NULL AS \"{table}\"), CAST($1 AS json)) ON CONFLICT DO NOTHING"
        )
    };
    let added = transaction.execute_raw(Statement::from_sql_and_values(backend, sql, [rows.into()])).await?;
    Ok(usize::try_from(added.rows_affected()).unwrap_or(usize::MAX))
}
