//! The program, as it ships, on a database of its own.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use sea_orm::sqlx::sqlite::SqliteSynchronous;
use sea_orm::{ConnectOptions, ConnectionTrait as _, Database, DbErr};
use tempfile::TempDir;
use threepid_tests::peers::{free_port, target_folder, temp_folder};
use tokio::process::{Child, Command};

use crate::parts::http::{Connection, get};
use crate::{Outcome, child};

/// How long a start may take.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// Settings of the program, by their variables.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    program: PathBuf,
    under: Vec<String>,
    variables: Vec<(String, String)>,
}

impl Settings {
    /// Everything as it ships, but for limits that nobody here meets: the clients all come from one address.
    pub(crate) fn new(program: &Path, database: &str) -> Self {
        let settings = Self {
            program: program.to_owned(),
            under: Vec::new(),
            variables: vec![("THREEPID_DATABASE__URL".to_owned(), database.to_owned())],
        };
        let limited = [
            "REQUEST_TOKEN_PER_CLIENT",
            "REQUEST_TOKEN_PER_ADDRESS",
            "SUBMIT_PER_CLIENT",
            "SUBMIT_PER_SESSION",
            "FAILED_TOKENS_PER_CLIENT",
        ];
        let settings = limited.iter().fold(settings, |settings, limit| {
            settings
                .set(&format!("LIMITS__{limit}__PER_SECOND"), "1000000")
                .set(&format!("LIMITS__{limit}__BURST"), "1000000")
        });
        settings
            .set("LIMITS__MAILS_PER_HOUR", "100000000")
            .set("PUBLIC_BASE_URL", "http://127.0.0.1:8008")
            .set("ACCOUNTS", "local")
            .set("MAIL__FROM", "Example <noreply@bench.example>")
            .set("MAIL__SMTP__SECURITY", "none")
            .set("SERVER_KEY__VALUE", "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f")
    }

    pub(crate) fn set(mut self, name: &str, value: &str) -> Self {
        self.variables.push((format!("THREEPID_{name}"), value.to_owned()));
        self
    }

    /// Sets a variable that is none of the program's settings.
    pub(crate) fn set_plain(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The server is run by this command.
    pub(crate) fn under(self, command: Vec<String>) -> Self {
        Self { under: command, ..self }
    }

    /// Whose tokens are, this homeserver knows.
    pub(crate) fn homeserver(self, port: u16) -> Self {
        self.set("ACCOUNTS", "homeserver").set("HOMESERVER__BASE_URL", &format!("http://127.0.0.1:{port}"))
    }

    /// Mail goes there.
    pub(crate) fn mail_to(self, port: u16) -> Self {
        self.set("MAIL__SMTP__HOST", "127.0.0.1").set("MAIL__SMTP__PORT", &port.to_string())
    }

    /// Mail is owed and goes nowhere: the mail server does not greet. What it costs to send is another row's.
    pub(crate) fn mail_waits(self) -> Outcome<Self> {
        static SILENT: OnceLock<TcpListener> = OnceLock::new();
        let listener = match SILENT.get() {
            Some(listener) => listener,
            None => {
                let bound = TcpListener::bind("127.0.0.1:0")?;
                SILENT.get_or_init(|| bound)
            }
        };
        let port = listener.local_addr()?.port();
        Ok(self.mail_to(port).set("RELAY__FIRST_RETRY", "1h").set("RELAY__LONGEST_RETRY", "1h"))
    }

    /// Runs a command of the program, and gives what it said.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Outcome<String> {
        let variables = self.variables.iter().map(|(name, value)| (name, value));
        let output =
            Command::new(&self.program).args(arguments).envs(variables).stdin(Stdio::null()).output();
        let output = output.await?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(said);
        }
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(format!("threepid {arguments:?}: {}: {complaint}", output.status).into())
    }

    /// Brings the database to this version's schema.
    pub(crate) async fn migrate(&self) -> Outcome<()> {
        self.run(&["migrate"]).await.map(drop)
    }

    /// Adds so many of the accounts of [`fill`], and gives a token of each.
    pub(crate) async fn accounts(&self, count: u64) -> Outcome<Vec<String>> {
        let mut tokens = Vec::new();
        for number in 0..count {
            let id = format!("@u{number:07}:bench.example");
            self.run(&["account", "add", &id]).await?;
            let said = self.run(&["account", "token", &id]).await?;
            tokens.push(said.lines().last().unwrap_or_default().trim().to_owned());
        }
        Ok(tokens)
    }

    /// Starts the program, and waits until it is ready.
    pub(crate) async fn start(&self) -> Outcome<Site> {
        let (folder, address) = (temp_folder("bench")?, format!("127.0.0.1:{}", free_port()?));
        let mut variables = self.variables.clone();
        variables.push(("THREEPID_LISTEN".to_owned(), address.clone()));
        variables.push(("THREEPID_METRICS__LISTEN".to_owned(), format!("127.0.0.1:{}", free_port()?)));
        variables.push(("THREEPID_PUBLIC_BASE_URL".to_owned(), format!("http://{address}")));
        let log = folder.path().join("log");
        let began = Instant::now();
        let mut command = self.under.clone();
        command.extend([self.program.display().to_string(), "serve".to_owned()]);
        let (program, arguments) = command.split_first().ok_or("no program")?;
        let child = child::program(Path::new(program), arguments, &variables, &log)?;
        let mut site = Site { child, address, took: Duration::ZERO, log, _folder: folder };
        first_answer(&site.address, began, || site.log_end()).await?;
        site.took = began.elapsed();
        Ok(site)
    }
}

/// Waits for the first 200, and looks often enough to see when it comes.
pub(crate) async fn first_answer(address: &str, began: Instant, why: impl Fn() -> String) -> Outcome<()> {
    let request = get("/health/ready", "");
    loop {
        if let Ok(mut connection) = Connection::open(address).await
            && let Ok(answer) = connection.ask(&request).await
            && answer.status == 200
        {
            return Ok(());
        }
        if began.elapsed() > READY_WITHIN {
            return Err(format!("{address} did not become ready: {}", why()).into());
        }
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
}

/// The running program; dropping it kills it.
pub(crate) struct Site {
    child: Child,
    pub(crate) address: String,
    /// From its start to its first answer.
    pub(crate) took: Duration,
    log: PathBuf,
    _folder: TempDir,
}

impl Site {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    fn log_end(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines.get(lines.len().saturating_sub(5)..).unwrap_or_default().join("\n")
    }
}

/// A new folder, and the URL of a database in it.
pub(crate) fn new_database() -> Outcome<(TempDir, String)> {
    let folder = temp_folder("bench-db")?;
    let url = format!("sqlite://{}", folder.path().join("threepid.db").display());
    Ok((folder, url))
}

/// Puts `count` threepids into a migrated SQLite database, two to an account, straight into its tables.
pub(crate) async fn fill(url: &str, count: u64) -> Result<(), DbErr> {
    let mut options = ConnectOptions::new(url);
    options.max_connections(1).sqlx_logging(false);
    // If this is cut short the file is made anew.
    options.map_sqlx_sqlite_opts(|options| options.synchronous(SqliteSynchronous::Off));
    let database = Database::connect(options).await?;
    // In the order of every key, so that it is appended and not sorted in.
    let fill = format!(
        "INSERT INTO threepid (medium, address, user_id, validated_at, added_at) \
         WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {count}) \
         SELECT 'email', printf('a%08d@bench.example', i), printf('@u%07d:bench.example', i / 2), \
                1800000000000 + i, 1800000000000 + i FROM n"
    );
    database.execute_unprepared(&fill).await?;
    database.execute_unprepared("PRAGMA wal_checkpoint(TRUNCATE)").await?;
    database.close().await
}

/// The large database, which is made once and stays below the target folder.
pub(crate) async fn large_database(program: &Path, count: u64) -> Outcome<String> {
    let folder = target_folder().join("bench");
    std::fs::create_dir_all(&folder)?;
    let whole = folder.join(format!("threepids-{count}.db"));
    let url = format!("sqlite://{}", whole.display());
    if !whole.exists() {
        let begun = folder.join("begun.db");
        for ending in ["db", "db-wal", "db-shm"] {
            let _ = std::fs::remove_file(begun.with_extension(ending));
        }
        let begun_url = format!("sqlite://{}", begun.display());
        Settings::new(program, &begun_url).migrate().await?;
        fill(&begun_url, count).await?;
        std::fs::rename(begun, whole)?;
    }
    Settings::new(program, &url).migrate().await?;
    Ok(url)
}
