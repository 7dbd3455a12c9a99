//! What can go wrong, in words of our own: no error type of the driver leaves this adapter.

use std::path::PathBuf;

use sea_orm::{DbErr, RuntimeErr, sqlx};
use threepid_domain::ports::{Conflict, Unavailable};

/// The cause behind an [`Unavailable`]. Drivers put no values into their messages, and neither do we.
#[derive(Debug, thiserror::Error)]
pub(super) enum StorageError {
    /// The database said no.
    #[error("{0}")]
    Database(String),
    /// Another transaction was in the way, and nothing of this one was done: it may be tried again.
    #[error("{0}")]
    Collision(String),
    /// The connection was lost. What had not been told to commit is not done, and may be tried on another one.
    #[error("{0}")]
    Cut(String),
    /// It was not begun, or nothing is known of what became of it: it may not be tried again.
    #[error("{0}")]
    Undecided(String),
    /// A row holds what this program would not have written.
    #[error("corrupt row in table {table}: {what}")]
    Corrupt {
        /// Where it is.
        table: &'static str,
        /// What is wrong with it, without its values.
        what: &'static str,
    },
    /// A value could not be written as JSON.
    #[error("not writable as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The task that held the transaction ended before it did.
    #[error("the transaction's task ended: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl StorageError {
    /// What a single statement came to, which meets no conflict that it does not tell in its rows.
    pub(super) fn from_statement(error: ApplyError) -> Self {
        match error {
            ApplyError::Storage(error) => error,
            ApplyError::Conflict(conflict) => Self::Database(conflict.to_string()),
        }
    }

    /// The same, for another one of those who met it together.
    pub(super) fn for_another(&self) -> Self {
        Self::Undecided(self.to_string())
    }

    pub(super) const fn corrupt(table: &'static str, what: &'static str) -> Self {
        Self::Corrupt { table, what }
    }
}

impl From<DbErr> for StorageError {
    fn from(error: DbErr) -> Self {
        let driver = driver_error(&error);
        let code = driver.and_then(|error| error.as_database_error()?.code());
        match (code.as_deref(), driver) {
            // PostgreSQL's serialization_failure and deadlock_detected.
            (Some("40001" | "40P01"), _) => Self::Collision(error.to_string()),
            // Its admin_shutdown and crash_shutdown, and a connection that it closed without a word.
            (Some("57P01" | "57P02"), _) | (_, Some(sqlx::Error::Io(_))) => Self::Cut(error.to_string()),
            _ => Self::Database(error.to_string()),
        }
    }
}

/// A change that is not applied.
pub(super) enum ApplyError {
    /// Another one came first.
    Conflict(Conflict),
    /// It cannot be known now.
    Storage(StorageError),
}

impl From<Conflict> for ApplyError {
    fn from(conflict: Conflict) -> Self {
        Self::Conflict(conflict)
    }
}

impl From<StorageError> for ApplyError {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

impl From<DbErr> for ApplyError {
    fn from(error: DbErr) -> Self {
        Self::Storage(error.into())
    }
}

/// Turns whatever went wrong into the domain's `Unavailable`.
pub(super) fn unavailable(port: &'static str) -> impl Fn(StorageError) -> Unavailable {
    move |error| Unavailable::new(port, error)
}

/// A database that cannot be used. Each message is one line that names what to mend, and holds no secret.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL is none that this build can use.
    #[error("the database URL cannot be used: {0}")]
    Url(String),
    /// The folder of the database file does not exist.
    #[error("the folder {} does not exist: create it, or name another database file", .0.display())]
    MissingFolder(PathBuf),
    /// The file does not exist and may not be created (`mode=rw`).
    #[error("the database {} does not exist: name an existing one, or allow its creation with mode=rwc", .0.display())]
    MissingFile(PathBuf),
    /// There is no file, and none was to be made.
    #[error(
        "there is no database at {}: run `threepid migrate` or start the server first, or name another file",
        .0.display()
    )]
    Absent(PathBuf),
    /// There is nothing in it yet, and nothing was to be made.
    #[error(
        "the database {0} is empty, so no threepid database: run `threepid migrate` or start the server first, or name another one"
    )]
    Empty(String),
    /// The file is there or could be, and cannot be opened.
    #[error("the database {} cannot be opened: it must be a file that this user may read and write ({reason})", path.display())]
    CannotOpen {
        /// The file.
        path: PathBuf,
        /// What the operating system or the engine said.
        reason: String,
    },
    /// The file is no SQLite database, or a damaged one.
    #[error("{} is no SQLite database or is damaged: name another file, or restore a backup ({reason})", path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
        /// What the engine said.
        reason: String,
    },
    /// The database was made by another program.
    #[error("the database {0} belongs to another program: name a database of threepid's own")]
    AnotherProgram(String),
    /// The database was migrated by a newer threepid.
    #[error(
        "the database {database} has schema {version}, which this version of threepid does not know: run the version that made it, or a newer one"
    )]
    Newer {
        /// Which database.
        database: String,
        /// The newest step that this program does not know.
        version: String,
    },
    /// An older threepid made it, and it was not to be migrated.
    #[error(
        "the database {database} has the schema of an older version, {version}: run `threepid migrate` or start the server first"
    )]
    Older {
        /// Which database.
        database: String,
        /// The newest step of the schema that it has.
        version: String,
    },
    /// Nothing can be written.
    #[error("the database {} is read-only: give this user write permission on the file and its folder, and open it without mode=ro", .0.display())]
    ReadOnly(PathBuf),
    /// The disk is full, or failing.
    #[error("the database {} cannot be written: make room on its disk, or check the disk ({reason})", path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// What the engine said.
        reason: String,
    },
    /// Another process held the database for too long.
    #[error("the database {0} is locked by another process: stop it, or try again")]
    Locked(String),
    /// The server does not let this user in.
    #[error(
        "the database {database} refuses the login: check user and password, and what the server allows ({reason})"
    )]
    Login {
        /// Which database.
        database: String,
        /// What the server said.
        reason: String,
    },
    /// The server has no such database or schema.
    #[error("the database {database} does not exist: create it, or name an existing one ({reason})")]
    NoDatabase {
        /// Which database.
        database: String,
        /// What the server said.
        reason: String,
    },
    /// The server takes no writes.
    #[error(
        "the database {0} is read-only: name the primary server, and see that default_transaction_read_only is off"
    )]
    StandBy(String),
    /// The user may not do what has to be done.
    #[error("the database {database} does not permit it: make this user the owner of its schema ({reason})")]
    NotPermitted {
        /// Which database.
        database: String,
        /// What the server said.
        reason: String,
    },
    /// Nobody answers there, or not now.
    #[error(
        "the database {database} cannot be reached: see that it runs and that its address is right ({reason})"
    )]
    Unreachable {
        /// Which database.
        database: String,
        /// Why.
        reason: String,
    },
    /// No connection that is as secure as it has to be.
    #[error(
        "the database {database} cannot be reached over TLS: check database.tls and database.ca_file ({reason})"
    )]
    Tls {
        /// Which database.
        database: String,
        /// Why.
        reason: String,
    },
    /// Tables and record of the schema contradict each other.
    #[error(
        "the database {database} is half migrated: restore a backup, or name an empty database ({reason})"
    )]
    HalfMigrated {
        /// Which database.
        database: String,
        /// What is there or is not.
        reason: String,
    },
    /// Anything else that the database said.
    #[error("the database {database} does not answer: {reason}")]
    Failed {
        /// Which database.
        database: String,
        /// What it said.
        reason: String,
    },
}

/// The driver's error inside of sea-orm's.
pub(super) fn driver_error(error: &DbErr) -> Option<&sqlx::Error> {
    match error {
        DbErr::Conn(RuntimeErr::SqlxError(error))
        | DbErr::Exec(RuntimeErr::SqlxError(error))
        | DbErr::Query(RuntimeErr::SqlxError(error)) => Some(error),
        _ => None,
    }
}
