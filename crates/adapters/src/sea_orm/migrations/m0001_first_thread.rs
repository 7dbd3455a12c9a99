//! Sessions, threepids, the outbox, the key's fingerprint and accounts of our own.

use async_trait::async_trait;
use sea_orm::DbErr;
use sea_orm::sea_query::{ForeignKey, Index, Table, TableCreateStatement};
use sea_orm_migration::schema::{big_integer, big_integer_null, boolean, text, text_null};
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

use super::index;

pub(super) struct Step;

impl MigrationName for Step {
    fn name(&self) -> &'static str {
        "m0001_first_thread"
    }
}

#[async_trait]
impl MigrationTrait for Step {
    #[expect(
        elided_lifetimes_in_paths,
        reason = "async_trait has to see the lifetime as the trait writes it"
    )]
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in [validation_session(), threepid(), outbox(), server_key(), account(), account_token()] {
            manager.create_table(table).await?;
        }
        // Of the sessions under one key, one is current: unique keys let any number of NULLs be.
        let current = Index::create()
            .name("validation_session_current_key")
            .table("validation_session")
            .col("current_key")
            .unique()
            .take();
        let indexes = [
            current,
            // Ended sessions are found by their age.
            index("validation_session_created_at", "validation_session", &["created_at"]),
            index("threepid_user_id_added_at", "threepid", &["user_id", "added_at"]),
            // What is due next; settled messages are found by it, too.
            index("outbox_state_due_at", "outbox", &["state", "due_at"]),
            index("account_token_user_id", "account_token", &["user_id"]),
        ];
        for index in indexes {
            manager.create_index(index).await?;
        }
        Ok(())
    }
}

fn validation_session() -> TableCreateStatement {
    Table::create()
        .table("validation_session")
        .col(text("sid").primary_key())
        .col(text("key"))
        .col(text_null("current_key"))
        .col(text("medium"))
        .col(text("address"))
        .col(text("state"))
        .col(big_integer("wrong_tokens"))
        .col(big_integer_null("validated_at"))
        .col(text_null("consumed_by"))
        .col(big_integer("send_attempt"))
        .col(text("tokens"))
        .col(big_integer("created_at"))
        .col(big_integer("revision"))
        .take()
}

fn threepid() -> TableCreateStatement {
    Table::create()
        .table("threepid")
        .col(text("medium"))
        .col(text("address"))
        .col(text("user_id"))
        .col(big_integer("validated_at"))
        .col(big_integer("added_at"))
        .primary_key(Index::create().col("medium").col("address"))
        .take()
}

fn outbox() -> TableCreateStatement {
    Table::create()
        .table("outbox")
        .col(text("id").primary_key())
        .col(text("kind"))
        .col(text("payload"))
        .col(big_integer("created_at"))
        .col(big_integer("due_at"))
        .col(big_integer("not_after"))
        .col(big_integer("attempts"))
        .col(text_null("lease_id"))
        .col(big_integer_null("leased_until"))
        .col(text("state"))
        .col(big_integer_null("settled_at"))
        .col(text_null("last_error"))
        .take()
}

fn server_key() -> TableCreateStatement {
    Table::create().table("server_key").col(big_integer("id").primary_key()).col(text("fingerprint")).take()
}

fn account() -> TableCreateStatement {
    Table::create()
        .table("account")
        .col(text("user_id").primary_key())
        .col(boolean("is_guest"))
        .col(big_integer("created_at"))
        .take()
}

fn account_token() -> TableCreateStatement {
    Table::create()
        .table("account_token")
        .col(text("token_hash").primary_key())
        .col(text("user_id"))
        .col(text_null("device_id"))
        .col(big_integer("created_at"))
        .foreign_key(
            ForeignKey::create()
                .name("account_token_user_id")
                .from("account_token", "user_id")
                .to("account", "user_id"),
        )
        .take()
}
