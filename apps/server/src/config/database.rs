//! The database, as the settings name it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::checked::{Judge, is_this_machine};
use super::settings;
use super::values::{DatabaseTls, DatabaseUrl, Secret};

/// What of `[database]` is for PostgreSQL alone.
const FOR_POSTGRESQL: &str = "is for PostgreSQL alone; leave it out with sqlite://";

/// Where sessions and contacts are kept, and how they are reached.
#[derive(Clone, Debug)]
pub(crate) struct DatabaseConfig {
    pub(crate) url: DatabaseUrl,
    pub(crate) password: Option<Secret>,
    pub(crate) readers: u32,
    /// Zero where several processes may share the database.
    pub(crate) remember_contacts: Duration,
    pub(crate) connections: u32,
    pub(crate) acquire_timeout: Duration,
    pub(crate) statement_timeout: Duration,
    pub(crate) tls: Option<DatabaseTls>,
    pub(crate) ca_file: Option<PathBuf>,
}

impl DatabaseConfig {
    /// Judges `[database]`.
    pub(super) fn new(database: settings::Database, judge: &mut Judge) -> Self {
        let is_shared = database.url.is_shared();
        judge.must(
            is_shared || database.url.file().is_some(),
            "database.url",
            "must be a path or sqlite:// and a path, such as \"sqlite:///var/lib/threepid/threepid.db\", or \
             postgres:// and a server, such as \"postgres://threepid@db.example.org/threepid\"",
        );
        for (setting, is_given) in [
            ("database.password", database.password.is_some()),
            ("database.password_file", database.password_file.is_some()),
            ("database.tls", database.tls.is_some()),
            ("database.ca_file", database.ca_file.is_some()),
        ] {
            judge.must(is_shared || !is_given, setting, FOR_POSTGRESQL);
        }
        judge.must(database.readers > 0, "database.readers", "must be at least 1");
        judge.must(database.connections > 0, "database.connections", "must be at least 1");
        let password = match (database.password, &database.password_file) {
            (Some(_), Some(_)) => {
                judge.wrong(
                    "database.password_file",
                    "is given together with database.password; keep one of them",
                );
                None
            }
            (password @ Some(_), None) => password,
            (None, Some(path)) => judge.secret_from("database.password_file", path),
            (None, None) => None,
        };
        let tls = database.tls.or_else(|| database.url.tls());
        if is_shared
            && !matches!(tls, Some(DatabaseTls::VerifyCa | DatabaseTls::VerifyFull))
            && !database.url.host().is_none_or(|host| is_this_machine(Some(&host)))
        {
            judge.warn(
                "database.tls",
                "does not check the server's certificate: somebody on the way can read and change everything; say \
                 \"verify-full\"",
            );
        }
        Self {
            password,
            readers: database.readers,
            remember_contacts: if is_shared { Duration::ZERO } else { database.remember_contacts.0 },
            connections: database.connections,
            acquire_timeout: judge.positive("database.acquire_timeout", database.acquire_timeout),
            statement_timeout: judge.positive("database.statement_timeout", database.statement_timeout),
            tls: database.tls,
            ca_file: database.ca_file,
            url: database.url,
        }
    }

    /// Where the server's key stands if nothing is said: beside an embedded database.
    pub(super) fn key_beside(&self) -> Option<PathBuf> {
        self.url.file().map(|path| Path::new(path).with_extension("key"))
    }
}
