//! Look-ups by key that every request makes. Those that wait are made by one statement, which takes its keys as a list in
//! JSON and gives its rows as another: so the statement is always the same, and there is one row to hand over. SQLite's
//! driver wakes the caller for each.

use std::collections::{BTreeSet, HashMap};

use sea_orm::{ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, Statement};
use serde::de::DeserializeOwned;
use threepid_domain::model::{Address, KeyedHash, Threepid, UserId, ValidationSession};

use super::connection::Database;
use super::entities::{threepid, user_id, validation_session};
use super::error::StorageError;
use super::gathered::{Batch, padded};
use super::write::{OnEach, TRIES};

/// Parameter: user IDs.
const THREEPIDS: OnEach = OnEach {
    sqlite: "SELECT json_group_array(json_array(t.user_id, t.medium, t.address, t.validated_at, t.added_at)) \
             FROM json_each($1) AS asked CROSS JOIN threepid AS t ON t.user_id = asked.value",
    postgres: "SELECT CAST(json_agg(json_build_array(t.user_id, t.medium, t.address, t.validated_at, t.added_at)) \
               AS text) \
               FROM json_array_elements_text(CAST($1 AS json)) AS asked \
               JOIN threepid AS t ON t.user_id = asked.value",
};

/// Parameter: pairs of medium and address.
const OWNERS: OnEach = OnEach {
    sqlite: "SELECT json_group_array(json_array(t.medium, t.address, t.user_id)) FROM json_each($1) AS asked \
             CROSS JOIN threepid AS t \
             ON t.medium = asked.value ->> 0 AND t.address = asked.value ->> 1",
    postgres: "SELECT CAST(json_agg(json_build_array(t.medium, t.address, t.user_id)) AS text) \
               FROM json_array_elements(CAST($1 AS json)) AS asked \
               JOIN threepid AS t ON t.medium = asked.value ->> 0 AND t.address = asked.value ->> 1",
};

impl Database {
    /// Runs a look-up for these keys, none of which comes twice.
    pub(super) async fn look_up<K: serde::Serialize, R: DeserializeOwned>(
        &self,
        statement: OnEach,
        keys: &BTreeSet<K>,
    ) -> Result<Vec<R>, StorageError> {
        let backend = self.reader().get_database_backend();
        let keys = serde_json::to_string(keys)?;
        let statement = Statement::from_sql_and_values(backend, statement.on(backend), [keys.into()]);
        let row = again_after_cuts(|| self.reader().query_one_raw(statement.clone())).await?;
        // PostgreSQL has no list where there is nothing to put into it.
        match row.map(|row| row.try_get_by_index::<Option<String>>(0)).transpose()?.flatten() {
            Some(rows) => Ok(serde_json::from_str(&rows)?),
            None => Ok(Vec::new()),
        }
    }

    /// An account's threepids, oldest first.
    pub(super) async fn threepids(&self, user: UserId) -> Result<Vec<Threepid>, StorageError> {
        let database = self.clone();
        let run = move |batch: Batch<_, _>| {
            let database = database.clone();
            async move { database.all_threepids(&batch.keys()).await }
        };
        self.gathered().lists.ask(user, run).await?
    }

    async fn all_threepids(
        &self,
        users: &[UserId],
    ) -> Result<Vec<Result<Vec<Threepid>, StorageError>>, StorageError> {
        let asked: BTreeSet<&str> = users.iter().map(UserId::as_str).collect();
        let rows: Vec<(String, String, String, i64, i64)> = self.look_up(THREEPIDS, &asked).await?;
        let mut by_user: HashMap<String, Vec<threepid::Model>> = HashMap::with_capacity(asked.len());
        for (user_id, medium, address, validated_at, added_at) in rows {
            let row = threepid::Model { user_id, medium, address, validated_at, added_at };
            match by_user.get_mut(&row.user_id) {
                Some(rows) => rows.push(row),
                None => drop(by_user.insert(row.user_id.clone(), vec![row])),
            }
        }
        // Engines order text by rules of their own; bytes are the same everywhere.
        by_user.values_mut().for_each(|rows| {
            rows.sort_by(|a, b| (a.added_at, a.address.as_str()).cmp(&(b.added_at, b.address.as_str())))
        });
        let of = |user: &UserId| {
            let rows = by_user.get(user.as_str()).map(Vec::as_slice).unwrap_or_default();
            rows.iter().map(threepid::Model::parse).collect()
        };
        Ok(users.iter().map(of).collect())
    }

    /// Who owns an address.
    pub(super) async fn owner(&self, address: Address) -> Result<Option<UserId>, StorageError> {
        let database = self.clone();
        let run = move |batch: Batch<_, _>| {
            let database = database.clone();
            async move { database.all_owners(&batch.keys()).await }
        };
        self.gathered().owners.ask(address, run).await?
    }

    async fn all_owners(
        &self,
        addresses: &[Address],
    ) -> Result<Vec<Result<Option<UserId>, StorageError>>, StorageError> {
        let asked: BTreeSet<(&str, &str)> =
            addresses.iter().map(|address| (address.medium().as_str(), address.as_str())).collect();
        let rows: Vec<(String, String, String)> = self.look_up(OWNERS, &asked).await?;
        let of = |address: &Address| {
            let is_its = |row: &&(String, String, String)| {
                row.0 == address.medium().as_str() && row.1 == address.as_str()
            };
            rows.iter().find(is_its).map(|row| user_id("threepid", &row.2)).transpose()
        };
        Ok(addresses.iter().map(of).collect())
    }

    /// The current session under a key.
    pub(super) async fn current_session(
        &self,
        key: KeyedHash,
    ) -> Result<Option<ValidationSession>, StorageError> {
        let database = self.clone();
        let run = move |batch: Batch<_, _>| {
            let database = database.clone();
            async move { database.all_current_sessions(&batch.keys()).await }
        };
        self.gathered().sessions.ask(key, run).await?
    }

    /// Most find nothing: it is looked whether a client asks again.
    async fn all_current_sessions(
        &self,
        keys: &[KeyedHash],
    ) -> Result<Vec<Result<Option<ValidationSession>, StorageError>>, StorageError> {
        let keys: Vec<String> = keys.iter().map(KeyedHash::to_hex).collect();
        let wanted = validation_session::Column::CurrentKey.is_in(padded(keys.clone()));
        let find = validation_session::Entity::find().filter(wanted);
        let rows = again_after_cuts(|| find.clone().all(self.reader())).await?;
        let current: HashMap<&str, &validation_session::Model> =
            rows.iter().filter_map(|row| Some((row.current_key.as_deref()?, row))).collect();
        Ok(keys.iter().map(|key| current.get(key.as_str()).map(|row| row.parse()).transpose()).collect())
    }
}

/// Reads once more for each connection that was cut, so that many do not fail for one that nobody had used since.
async fn again_after_cuts<T, R>(read: impl Fn() -> R) -> Result<T, StorageError>
where
    R: Future<Output = Result<T, DbErr>>,
{
    let mut tries = 1;
    loop {
        match read().await.map_err(StorageError::from) {
            Err(StorageError::Cut(_)) if tries < TRIES => tries += 1,
            ended => return ended,
        }
    }
}
