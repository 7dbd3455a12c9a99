//! The audit trail of contacts' changes.

use async_trait::async_trait;
use sea_orm::DbErr;
use sea_orm::sea_query::Table;
use sea_orm_migration::schema::{big_integer, pk_auto, text, text_null};
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

use super::index;

pub(super) struct Step;

impl MigrationName for Step {
    fn name(&self) -> &'static str {
        "m0004_audit"
    }
}

#[async_trait]
impl MigrationTrait for Step {
    #[expect(
        elided_lifetimes_in_paths,
        reason = "async_trait has to see the lifetime as the trait writes it"
    )]
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let table = Table::create()
            .table("audit")
            // The order of those of the same millisecond.
            .col(pk_auto("id").big_integer())
            .col(big_integer("at"))
            .col(text("user_id"))
            .col(text("medium"))
            .col(text("address"))
            .col(text("action"))
            .col(text("door"))
            .col(text_null("server"))
            .col(text_null("reference"))
            .take();
        manager.create_table(table).await?;
        for index in [
            index("audit_at", "audit", &["at"]),
            index("audit_user_id", "audit", &["user_id"]),
            index("audit_address", "audit", &["address"]),
        ] {
            manager.create_index(index).await?;
        }
        Ok(())
    }
}
