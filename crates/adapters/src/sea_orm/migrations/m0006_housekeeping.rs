//! By what ended sessions are found: the last time that each speaks of.

use async_trait::async_trait;
use sea_orm::sea_query::{Index, Table};
use sea_orm::{ConnectionTrait, DbBackend, DbErr};
use sea_orm_migration::schema::big_integer;
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

use super::index;

pub(super) struct Step;

impl MigrationName for Step {
    fn name(&self) -> &'static str {
        "m0006_housekeeping"
    }
}

#[async_trait]
impl MigrationTrait for Step {
    #[expect(
        elided_lifetimes_in_paths,
        reason = "async_trait has to see the lifetime as the trait writes it"
    )]
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // With a default, since an older version may go on writing while this one runs.
        let column = Table::alter()
            .table("validation_session")
            .add_column(big_integer("last_time").default(0_i64))
            .take();
        manager.alter_table(column).await?;
        let tokens_end = match manager.get_database_backend() {
            DbBackend::Sqlite => {
                "SELECT max(json_extract(token.value, '$.expires_at')) AS ends FROM json_each(tokens) AS token"
            }
            _ => {
                "SELECT max((token.value ->> 'expires_at')::numeric) AS ends \
                 FROM json_array_elements(tokens::json) AS token"
            }
        };
        // Times that a column cannot hold are its greatest; both engines compare these as numbers.
        let times = format!(
            "UPDATE validation_session SET last_time = (SELECT max(time) FROM (\
             SELECT created_at AS time UNION ALL SELECT validated_at UNION ALL \
             SELECT CAST(CASE WHEN ends > 9223372036854775807 THEN 9223372036854775807 ELSE ends END AS bigint) \
             FROM ({tokens_end}) AS tokens_end) AS times)"
        );
        manager.get_connection().execute_unprepared(&times).await?;
        manager
            .create_index(index("validation_session_last_time", "validation_session", &["last_time"]))
            .await?;
        let mut unused = Index::drop();
        unused.name("validation_session_created_at").table("validation_session");
        manager.drop_index(unused).await
    }
}
