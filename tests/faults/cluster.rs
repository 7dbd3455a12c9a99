//! A PostgreSQL that scenarios share, or one that a scenario breaks.

use std::path::Path;
use std::sync::Arc;

use threepid_tests::peers::Postgres;
use tokio::sync::Mutex;

use crate::Outcome;

/// A running PostgreSQL. Clones share it; the last one ends it.
#[derive(Clone, Debug)]
pub(crate) struct Cluster(Arc<Mutex<Postgres>>);

impl Cluster {
    /// One that is as fast as it can be: what it has taken outlives its processes, though not the machine.
    pub(crate) async fn start() -> Outcome<Self> {
        Self::of(Postgres::builder().trusting().start().await?)
    }

    /// One that writes through to the disk, as in production.
    pub(crate) async fn durable() -> Outcome<Self> {
        Self::of(Postgres::builder().trusting().durable().start().await?)
    }

    /// One whose files can be kept from growing: its log is cut into pieces of 1 MiB, and nothing that was deleted makes
    /// room for something new.
    pub(crate) async fn limitable() -> Outcome<Self> {
        Self::of(Postgres::builder().trusting().small_log_files().setting("autovacuum", "off").start().await?)
    }

    fn of(postgres: Postgres) -> Outcome<Self> {
        Ok(Self(Arc::new(Mutex::new(postgres))))
    }

    /// The URL of a new database.
    pub(crate) async fn database(&self) -> Outcome<String> {
        let postgres = self.0.lock().await;
        let name = postgres.create_database().await?;
        Ok(postgres.url(&name))
    }

    /// Ends every connection to a database; how many there were.
    pub(crate) async fn cut(&self, url: &str) -> Outcome<u32> {
        Ok(self.0.lock().await.cut_connections(name(url)).await?)
    }

    /// Stops the server as an operator would.
    pub(crate) async fn stop(&self) -> Outcome<()> {
        Ok(self.0.lock().await.stop().await?)
    }

    /// Kills every process of the server.
    pub(crate) async fn kill(&self) -> Outcome<()> {
        Ok(self.0.lock().await.kill().await?)
    }

    /// Starts the server again.
    pub(crate) async fn start_again(&self) -> Outcome<()> {
        Ok(self.0.lock().await.start_again().await?)
    }

    /// Runs SQL, and gives what it answers.
    pub(crate) async fn sql(&self, url: &str, sql: &str) -> Outcome<String> {
        Ok(self.0.lock().await.sql(name(url), sql).await?)
    }

    /// Keeps the server's files from growing beyond so many bytes, or lets them grow again.
    pub(crate) async fn limit_file_size(&self, bytes: Option<u64>) -> Outcome<()> {
        Ok(self.0.lock().await.limit_file_size(bytes)?)
    }

    /// Copies a database into a file while others write.
    pub(crate) async fn dump(&self, url: &str, to: &Path) -> Outcome<()> {
        Ok(self.0.lock().await.dump(name(url), to).await?)
    }

    /// Makes a database out of such a file, and gives its URL.
    pub(crate) async fn restore(&self, from: &Path) -> Outcome<String> {
        let postgres = self.0.lock().await;
        let name = postgres.create_database().await?;
        postgres.restore(&name, from).await?;
        Ok(postgres.url(&name))
    }
}

/// The database that a URL names.
fn name(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or_default()
}
