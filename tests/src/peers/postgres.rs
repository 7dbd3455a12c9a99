//! A real PostgreSQL: a private cluster of the installed version, never the system's own.

use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;

use super::ca::TestCa;
use super::process::{PeerError, Process, Spec, free_port, temp_folder, wait_until};

/// The superuser of every cluster, and its password over TCP.
const USER: &str = "threepid";
const PASSWORD: &str = "correct-horse";

/// How long a stop may take.
const STOPPED_WITHIN: Duration = Duration::from_secs(60);

/// The longest path that a Unix socket may have, with the name that PostgreSQL adds.
const LONGEST_SOCKET_FOLDER: usize = 85;

/// Settings of a cluster that is about to be made.
#[derive(Debug, Default)]
pub struct PostgresBuilder {
    durable: bool,
    tls: bool,
    small_log_files: bool,
    trusting: bool,
    settings: Vec<(String, String)>,
}

impl PostgresBuilder {
    /// Writes through to the disk (`fsync`), so that a commit outlives the machine. Off unless asked for.
    pub fn durable(mut self) -> Self {
        self.durable = true;
        self
    }

    /// Takes connections over TLS, too, with a certificate for `localhost` and `127.0.0.1`; see [`Postgres::ca`].
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Cuts the write-ahead log into files of 1 MiB instead of 16, so that [`Postgres::limit_file_size`] can be as low.
    pub fn small_log_files(mut self) -> Self {
        self.small_log_files = true;
        self
    }

    /// Asks nobody for the password, which a program built without optimisation takes long to prove.
    pub fn trusting(mut self) -> Self {
        self.trusting = true;
        self
    }

    /// Sets one of the server's own settings (`postgresql.conf`).
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Makes the cluster and starts it.
    ///
    /// # Errors
    ///
    /// PostgreSQL is not installed, or does not start.
    pub async fn start(self) -> Result<Postgres, PeerError> {
        let programs = programs()?;
        let account = Account::other_than_root()?;
        let folder = account.folder()?;
        let password = folder.path().join("password");
        std::fs::write(&password, PASSWORD)?;
        account.give(&password, 0o600)?;
        let data = folder.path().join("data");
        account
            .spec("initdb", programs.join("initdb"))
            .args(["--username", USER, "--auth-local=trust"])
            .arg(if self.trusting { "--auth-host=trust" } else { "--auth-host=scram-sha-256" })
            .args(["--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"])
            .args(self.small_log_files.then_some("--wal-segsize=1"))
            .arg("--pwfile")
            .arg(&password)
            .arg("--pgdata")
            .arg(&data)
            .output()?;
        let ca = if self.tls { Some(TestCa::new()?) } else { None };
        if let Some(ca) = &ca {
            let certificate = ca.issue(&["localhost", "127.0.0.1"])?;
            for (from, name) in [(&certificate.certificate, "server.crt"), (&certificate.key, "server.key")] {
                let to = data.join(name);
                std::fs::copy(from, &to)?;
                account.give(&to, 0o600)?;
            }
        }
        let port = free_port()?;
        let socket =
            Some(folder.path().to_owned()).filter(|folder| folder.as_os_str().len() <= LONGEST_SOCKET_FOLDER);
        let sockets = socket.as_deref().unwrap_or(Path::new("")).display().to_string();
        let on = |yes: bool| if yes { "on" } else { "off" }.to_owned();
        let fixed = [
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("port", port.to_string()),
            ("unix_socket_directories", sockets),
            ("fsync", on(self.durable)),
            ("full_page_writes", on(self.durable)),
            ("ssl", on(self.tls)),
            ("max_connections", "300".to_owned()),
            ("shared_buffers", "32MB".to_owned()),
            ("log_line_prefix", "%m %d ".to_owned()),
        ];
        let fixed = fixed.map(|(name, value)| (name.to_owned(), value));
        let lines = fixed.iter().chain(&self.settings).map(|(name, value)| format!("{name} = '{value}'\n"));
        let settings = data.join("postgresql.auto.conf");
        std::fs::write(&settings, lines.collect::<String>())?;
        account.give(&settings, 0o600)?;
        let spec = account.spec("postgres", programs.join("postgres")).arg("-D").arg(&data);
        let mut postgres = Postgres {
            process: None,
            account,
            spec,
            programs,
            data,
            port,
            socket,
            ca,
            names: AtomicU32::new(0),
            folder,
        };
        postgres.start_again().await?;
        Ok(postgres)
    }
}

/// A running cluster; dropping it ends its processes and removes it.
#[derive(Debug)]
pub struct Postgres {
    process: Option<Process>,
    account: Account,
    spec: Spec,
    programs: PathBuf,
    data: PathBuf,
    port: u16,
    socket: Option<PathBuf>,
    ca: Option<TestCa>,
    names: AtomicU32,
    folder: TempDir,
}

impl Postgres {
    /// A cluster that is as fast as it can be.
    ///
    /// # Errors
    ///
    /// PostgreSQL is not installed, or does not start.
    pub async fn start() -> Result<Self, PeerError> {
        Self::builder().start().await
    }

    /// A cluster with settings.
    pub fn builder() -> PostgresBuilder {
        PostgresBuilder::default()
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of the Unix socket, whose users need no password; `None` where its path would be too long.
    pub fn socket(&self) -> Option<&Path> {
        self.socket.as_deref()
    }

    /// The authority that issued the server's certificate, if it speaks TLS.
    pub fn ca(&self) -> Option<&TestCa> {
        self.ca.as_ref()
    }

    /// Where the programs of this version are: `pg_dump`, `pg_restore` and others.
    pub fn programs(&self) -> &Path {
        &self.programs
    }

    /// The server's log.
    pub fn log(&self) -> PathBuf {
        self.folder.path().join("postgres.log")
    }

    /// The URL of a database as the superuser, password included.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{USER}:{PASSWORD}@127.0.0.1:{}/{database}", self.port)
    }

    /// Makes a new, empty database and gives its name.
    ///
    /// # Errors
    ///
    /// The server does not answer.
    pub async fn create_database(&self) -> Result<String, PeerError> {
        let name = format!("test_{}", self.names.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name}")).await?;
        Ok(name)
    }

    /// Runs SQL in a database as the superuser; what it answers, a row a line, columns parted by `|`.
    ///
    /// # Errors
    ///
    /// The server does not answer, or says no.
    pub async fn sql(&self, database: &str, sql: &str) -> Result<String, PeerError> {
        let psql = Spec::new("psql", self.programs.join("psql"))
            .args([
                "--no-psqlrc",
                "--quiet",
                "--tuples-only",
                "--no-align",
                "--set=ON_ERROR_STOP=1",
                "--command",
            ])
            .arg(sql)
            .arg(self.url(database));
        let answer = tokio::task::spawn_blocking(move || psql.output()).await;
        let answer = answer.map_err(|error| PeerError::new(error.to_string()))??;
        Ok(answer.trim_end().to_owned())
    }

    /// Ends every connection to a database, as a fault on the way would.
    ///
    /// # Errors
    ///
    /// The server does not answer.
    pub async fn cut_connections(&self, database: &str) -> Result<u32, PeerError> {
        let cut = format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{database}'"
        );
        let answer = self.sql("postgres", &cut).await?;
        answer.parse().map_err(|_| PeerError::new(format!("psql answered {answer:?}")))
    }

    /// Copies a database into a file, as `pg_dump` in its custom format does, while others go on writing.
    ///
    /// # Errors
    ///
    /// The server does not answer.
    pub async fn dump(&self, database: &str, to: &Path) -> Result<(), PeerError> {
        let dump = Spec::new("pg_dump", self.programs.join("pg_dump"))
            .args(["--format=custom", "--no-owner", "--file"])
            .arg(to)
            .arg(self.url(database));
        in_the_background(dump).await
    }

    /// Fills an empty database from such a file.
    ///
    /// # Errors
    ///
    /// The server does not answer, or something of the file cannot be restored.
    pub async fn restore(&self, database: &str, from: &Path) -> Result<(), PeerError> {
        let restore = Spec::new("pg_restore", self.programs.join("pg_restore"))
            .args(["--no-owner", "--exit-on-error", "--single-transaction", "--dbname"])
            .arg(self.url(database))
            .arg(from);
        in_the_background(restore).await
    }

    /// From now on no file of the server's can be longer than so many bytes; `None` lifts the limit again. PostgreSQL
    /// takes a write beyond it for a full disk.
    ///
    /// # Errors
    ///
    /// The server is stopped.
    pub fn limit_file_size(&self, bytes: Option<u64>) -> Result<(), PeerError> {
        let postmaster = self.postmaster().ok_or_else(|| PeerError::new("PostgreSQL is stopped"))?;
        let limit = bytes.map_or_else(|| "unlimited".to_owned(), |bytes| bytes.to_string());
        // As the account whose processes they are: another one may not, not even a root in a container.
        let limit = |process: Pid| {
            let process = format!("--pid={}", process.as_raw_nonzero());
            let prlimit = self.account.spec("prlimit", "/usr/bin/prlimit".into());
            prlimit.arg(process).arg(format!("--fsize={limit}:")).output()
        };
        // Those that it starts from now on have it from their parent.
        limit(postmaster)?;
        for process in children(postmaster) {
            // One that ends meanwhile writes nothing any more.
            let _ = limit(process);
        }
        Ok(())
    }

    /// Stops the server as an operator would (fast: connections are ended, their transactions rolled back).
    ///
    /// # Errors
    ///
    /// It does not stop.
    pub async fn stop(&mut self) -> Result<(), PeerError> {
        if let Some(postmaster) = self.postmaster() {
            let _ = kill_process(postmaster, Signal::INT);
            wait_until("PostgreSQL's end", STOPPED_WITHIN, || async {
                Ok(test_kill_process(postmaster).is_err().then_some(()))
            })
            .await?;
        }
        self.process = None;
        Ok(())
    }

    /// Kills the server and every process of it (SIGKILL), as a crash would.
    ///
    /// # Errors
    ///
    /// A process of it stays.
    pub async fn kill(&mut self) -> Result<(), PeerError> {
        if let Some(postmaster) = self.postmaster() {
            // Its children are in process groups of their own.
            let mut all = children(postmaster);
            all.insert(0, postmaster);
            for process in &all {
                let _ = kill_process(*process, Signal::KILL);
            }
            wait_until("the end of PostgreSQL's processes", STOPPED_WITHIN, || async {
                Ok(all.iter().all(|process| test_kill_process(*process).is_err()).then_some(()))
            })
            .await?;
        }
        self.process = None;
        Ok(())
    }

    /// Starts the server again after [`Postgres::stop`] or [`Postgres::kill`], and returns once it takes connections.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub async fn start_again(&mut self) -> Result<(), PeerError> {
        let ready = Spec::new("pg_isready", self.programs.join("pg_isready"))
            .args(["--quiet", "--host=127.0.0.1", "--timeout=5", "--dbname=postgres"])
            .arg(format!("--port={}", self.port));
        let mut process = Process::start(self.spec.clone(), self.folder.path())?;
        let port = self.port;
        process
            .ready(|| async {
                let is_open = TcpStream::connect(("127.0.0.1", port)).is_ok();
                Ok((is_open && ready.output().is_ok()).then_some(()))
            })
            .await?;
        self.process = Some(process);
        Ok(())
    }

    fn postmaster(&self) -> Option<Pid> {
        self.process.as_ref()?;
        let text = std::fs::read_to_string(self.data.join("postmaster.pid")).ok()?;
        text.lines().next()?.trim().parse().ok().and_then(Pid::from_raw)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let Some(postmaster) = self.postmaster() else { return };
        // Whoever is left would write into the folder that is about to go.
        for process in children(postmaster) {
            let _ = kill_process(process, Signal::KILL);
        }
    }
}

/// Runs a program to its end without holding up others.
async fn in_the_background(program: Spec) -> Result<(), PeerError> {
    let ended = tokio::task::spawn_blocking(move || program.output()).await;
    ended.map_err(|error| PeerError::new(error.to_string()))?.map(|_said| ())
}

/// The processes whose parent this is.
fn children(parent: Pid) -> Vec<Pid> {
    let is_child = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // `pid (name) state parent …`, and a name may hold anything.
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        after_name.split_whitespace().nth(1) == Some(&parent.as_raw_nonzero().to_string())
    };
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(is_child).filter_map(Pid::from_raw).collect()
}

/// Where the newest installed version keeps its programs.
fn programs() -> Result<PathBuf, PeerError> {
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let versions = installed.filter_map(|entry| {
        let programs = entry.path().join("bin");
        let version: u32 = entry.file_name().to_str()?.parse().ok()?;
        programs.join("initdb").is_file().then_some((version, programs))
    });
    let newest = versions.max_by_key(|(version, _)| *version).map(|(_, programs)| programs);
    newest.ok_or_else(|| PeerError::not_installed("postgresql"))
}

/// Who the server runs as: PostgreSQL refuses to run as root.
#[derive(Debug)]
enum Account {
    /// Whoever runs the tests.
    Own,
    /// Somebody else, since that is root.
    Other { user: u32, group: u32 },
}

impl Account {
    fn other_than_root() -> Result<Self, PeerError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self::Own);
        }
        let users = std::fs::read_to_string("/etc/passwd")?;
        let account = |name: &str| {
            let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
            let mut numbers = line.split(':').skip(2).filter_map(|field| field.parse().ok());
            Some(Self::Other { user: numbers.next()?, group: numbers.next()? })
        };
        let account = account("postgres").or_else(|| account("nobody"));
        account.ok_or_else(|| PeerError::new("there is no user to run PostgreSQL as: it refuses root"))
    }

    /// A program, run as this account.
    fn spec(&self, name: &'static str, program: PathBuf) -> Spec {
        match self {
            Self::Own => Spec::new(name, program),
            Self::Other { user, group } => Spec::new(name, "/usr/bin/setpriv")
                .arg(format!("--reuid={user}"))
                .arg(format!("--regid={group}"))
                .arg("--clear-groups")
                .arg(program),
        }
    }

    /// A new folder of this account's. It lies below the target folder, unless that is hidden from the account.
    fn folder(&self) -> Result<TempDir, PeerError> {
        let folder = temp_folder("postgres")?;
        self.give(folder.path(), 0o700)?;
        let look = self.spec("ls", "/bin/ls".into()).arg(folder.path());
        if look.output().is_ok() {
            return Ok(folder);
        }
        let folder = tempfile::Builder::new().prefix("threepid-postgres-").tempdir()?;
        self.give(folder.path(), 0o700)?;
        Ok(folder)
    }

    fn give(&self, path: &Path, mode: u32) -> Result<(), PeerError> {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        if let Self::Other { user, group } = self {
            chown(path, Some(*user), Some(*group))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_committed_outlives_a_stop_and_a_crash() -> Result<(), PeerError> {
        let mut postgres = Postgres::start().await?;
        let database = postgres.create_database().await?;
        postgres.sql(&database, "CREATE TABLE t (n int); INSERT INTO t VALUES (1)").await?;
        postgres.stop().await?;
        assert!(postgres.sql(&database, "SELECT 1").await.is_err(), "it is stopped");
        postgres.start_again().await?;
        postgres.sql(&database, "INSERT INTO t VALUES (2)").await?;
        postgres.kill().await?;
        assert!(postgres.sql(&database, "SELECT 1").await.is_err(), "it is killed");
        postgres.start_again().await?;
        assert_eq!(postgres.sql(&database, "SELECT n FROM t ORDER BY n").await?, "1\n2");
        Ok(())
    }

    #[tokio::test]
    async fn a_dropped_cluster_is_gone_with_its_processes_and_its_folder() -> Result<(), PeerError> {
        let postgres = Postgres::start().await?;
        let folder = postgres.folder.path().to_owned();
        let postmaster = postgres.postmaster().ok_or_else(|| PeerError::new("it has no pid"))?;
        let mut all = children(postmaster);
        all.push(postmaster);
        assert!(all.len() > 3, "{all:?}");
        drop(postgres);
        assert!(!folder.exists());
        wait_until("the end of its processes", STOPPED_WITHIN, || async {
            Ok(all.iter().all(|process| test_kill_process(*process).is_err()).then_some(()))
        })
        .await
    }
}
