//! What identity servers opened, proved and published, and the challenges that were passed on.

use async_trait::async_trait;
use sea_orm::DbErr;
use sea_orm::sea_query::{Index, Table, TableCreateStatement};
use sea_orm_migration::schema::{big_integer, boolean, text, text_null};
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

use super::index;

pub(super) struct Step;

impl MigrationName for Step {
    fn name(&self) -> &'static str {
        "m0002_identity_servers"
    }
}

#[async_trait]
impl MigrationTrait for Step {
    #[expect(
        elided_lifetimes_in_paths,
        reason = "async_trait has to see the lifetime as the trait writes it"
    )]
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in [remote_session(), spent_proof(), binding(), challenge()] {
            manager.create_table(table).await?;
        }
        // What an owed unbind is about, so that a new bind can cancel it.
        let subject = Table::alter().table("outbox").add_column(text_null("subject")).take();
        manager.alter_table(subject).await?;
        let indexes = [
            index("outbox_subject", "outbox", &["subject"]),
            // Two servers may have chosen the same sid.
            index("remote_session_sid", "remote_session", &["sid"]),
            index("remote_session_opened_at", "remote_session", &["opened_at"]),
            index("spent_proof_spent_at", "spent_proof", &["spent_at"]),
            index("challenge_issued_at", "challenge", &["issued_at"]),
        ];
        for index in indexes {
            manager.create_index(index).await?;
        }
        Ok(())
    }
}

fn remote_session() -> TableCreateStatement {
    Table::create()
        .table("remote_session")
        .col(text("server"))
        .col(text("sid"))
        .col(text("medium"))
        .col(text("address"))
        .col(big_integer("opened_at"))
        .primary_key(Index::create().col("server").col("sid"))
        .take()
}

fn spent_proof() -> TableCreateStatement {
    Table::create()
        .table("spent_proof")
        .col(text("server"))
        .col(text("sid"))
        .col(text("user_id"))
        .col(text("key"))
        .col(text("medium"))
        .col(text("address"))
        .col(big_integer("spent_at"))
        .primary_key(Index::create().col("server").col("sid"))
        .take()
}

fn binding() -> TableCreateStatement {
    Table::create()
        .table("binding")
        .col(text("user_id"))
        .col(text("medium"))
        .col(text("address"))
        .col(text("server"))
        .col(text("state"))
        .col(big_integer("since"))
        .primary_key(Index::create().col("user_id").col("medium").col("address").col("server"))
        .take()
}

fn challenge() -> TableCreateStatement {
    Table::create()
        .table("challenge")
        .col(text("session").primary_key())
        .col(text("user_id"))
        .col(text("sid"))
        .col(big_integer("issued_at"))
        .col(boolean("is_spent"))
        .take()
}
