//! What can be wrong with a database that is to be read.

use std::path::PathBuf;

use sea_orm::{DbErr, RuntimeErr};

/// A database whose contacts cannot be read. Each message is one line, and quotes no URL: one may hold a password.
#[derive(Debug, thiserror::Error)]
pub enum OpenSynapseError {
    /// There is no such file.
    #[error("there is no file {}: name Synapse's homeserver.db, or a postgres:// URL", .0.display())]
    MissingFile(PathBuf),
    /// Neither SQLite nor PostgreSQL.
    #[error("{0}:// is none of Synapse's databases: name the path of its SQLite file, or a postgres:// URL")]
    Scheme(String),
    /// It is a database, and not Synapse's.
    #[error("this is not a database of Synapse's, or this user may not read it: {0}")]
    NotSynapse(String),
    /// It cannot be opened.
    #[error("Synapse's database cannot be opened: {0}")]
    Failed(String),
}

/// What the driver said, on one line. sea-orm's own texts may quote a URL.
pub(super) fn driver_text(error: &DbErr) -> String {
    let text = match error {
        DbErr::Conn(RuntimeErr::SqlxError(error))
        | DbErr::Exec(RuntimeErr::SqlxError(error))
        | DbErr::Query(RuntimeErr::SqlxError(error)) => error.to_string(),
        DbErr::Conn(_) => "it cannot be connected to".to_owned(),
        DbErr::ConnectionAcquire(error) => error.to_string(),
        other => other.to_string(),
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
