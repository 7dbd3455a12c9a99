//! What was counted under limits that every instance has to know.

use async_trait::async_trait;
use sea_orm::DbErr;
use sea_orm::sea_query::{Index, Table};
use sea_orm_migration::schema::{big_integer, text};
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

use super::index;

pub(super) struct Step;

impl MigrationName for Step {
    fn name(&self) -> &'static str {
        "m0005_rate_limits"
    }
}

#[async_trait]
impl MigrationTrait for Step {
    #[expect(
        elided_lifetimes_in_paths,
        reason = "async_trait has to see the lifetime as the trait writes it"
    )]
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let rate_limit = Table::create()
            .table("rate_limit")
            .col(text("name"))
            .col(text("subject"))
            // Microseconds since the epoch: fast rates need more than milliseconds.
            .col(big_integer("full_at_us"))
            .primary_key(Index::create().col("name").col("subject"))
            .take();
        manager.create_table(rate_limit).await?;
        // What says nothing any more is found by its time.
        manager.create_index(index("rate_limit_full_at_us", "rate_limit", &["full_at_us"])).await
    }
}
