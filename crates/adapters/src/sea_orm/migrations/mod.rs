//! The schema, one file a step, only ever forward.
//!
//! A step that was released is never edited. Every step runs on PostgreSQL as on SQLite: text, big integers and
//! booleans, plain unique keys and indexes, times in milliseconds. All pending steps are one transaction.

mod m0001_first_thread;
mod m0002_identity_servers;
mod m0003_passwords;
mod m0004_audit;
mod m0005_rate_limits;
mod m0006_housekeeping;

use sea_orm::DynIden;
use sea_orm::sea_query::{Index, IndexCreateStatement, IntoIden};
use sea_orm_migration::{MigrationTrait, MigratorTrait};

/// Where applied steps are recorded.
pub(super) const SCHEMA_TABLE: &str = "schema_migration";

/// Every table that the steps make.
pub(super) const TABLES: &[&str] = &[
    "account",
    "account_token",
    "audit",
    "binding",
    "challenge",
    "outbox",
    "rate_limit",
    "remote_session",
    "server_key",
    "spent_proof",
    "threepid",
    "validation_session",
];

/// The steps, oldest first.
pub(super) struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m0001_first_thread::Step),
            Box::new(m0002_identity_servers::Step),
            Box::new(m0003_passwords::Step),
            Box::new(m0004_audit::Step),
            Box::new(m0005_rate_limits::Step),
            Box::new(m0006_housekeeping::Step),
        ]
    }

    fn migration_table_name() -> DynIden {
        SCHEMA_TABLE.into_iden()
    }
}

fn index(name: &'static str, table: &'static str, columns: &[&'static str]) -> IndexCreateStatement {
    let mut index = Index::create().name(name).table(table).take();
    for column in columns {
        index.col(*column);
    }
    index
}
