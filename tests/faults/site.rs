//! The system under test: the real program on a database of its own, with a real mail server.
//!
//! The program keeps its port and its database over every restart, as it would under a supervisor.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use threepid_tests::peers::{Program, SmtpServer, free_port, temp_folder};
use tokio::task::JoinSet;

use crate::Outcome;
use crate::books::{Books, Ledger};
use crate::cluster::Cluster;
use crate::load::{Load, Plan, Records, Target, finish};
use crate::mailbox::Mailbox;
use crate::options::{Database, Options};
use crate::reconcile::{Allowed, reconcile};
use crate::report::Row;

/// How long what is owed may take to leave once nothing is in its way.
const DRAINED_WITHIN: Duration = Duration::from_secs(120);

/// An account and its token.
#[derive(Clone, Debug)]
pub(crate) struct User {
    /// The user id.
    pub(crate) id: String,
    /// The access token.
    pub(crate) token: String,
}

/// A running system.
pub(crate) struct Site {
    /// The mail server.
    pub(crate) smtp: Arc<SmtpServer>,
    /// What arrived there.
    pub(crate) mailbox: Mailbox,
    /// The accounts.
    pub(crate) users: Vec<User>,
    folder: TempDir,
    database_url: String,
    cluster: Option<Cluster>,
    variables: Vec<(String, String)>,
    instances: Vec<Instance>,
    limitable: bool,
    log_to: Option<&'static str>,
    /// Lines of the programs' logs that say that something broke.
    broken: Vec<String>,
}

/// One process of the program, and its port.
struct Instance {
    port: u16,
    program: Option<Program>,
}

impl Instance {
    fn base(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

/// A system that is about to start.
pub(crate) struct SiteBuilder {
    users: usize,
    variables: Vec<(String, String)>,
    homeserver: Option<Vec<User>>,
    database: Database,
    cluster: Option<Cluster>,
    instances: usize,
    limitable: bool,
    log_to: Option<&'static str>,
}

impl SiteBuilder {
    /// A setting beside the usual ones.
    pub(crate) fn set(mut self, variable: &str, value: impl Into<String>) -> Self {
        self.variables.push((format!("THREEPID_{variable}"), value.into()));
        self
    }

    /// The accounts are a homeserver's.
    pub(crate) fn homeserver(self, base: &str, users: Vec<User>) -> Self {
        let with = Self { homeserver: Some(users), ..self };
        with.set("ACCOUNTS", "homeserver").set("HOMESERVER__BASE_URL", base)
    }

    /// The database is made there, instead of where all are.
    pub(crate) fn on(mut self, cluster: &Cluster) -> Self {
        self.cluster = Some(cluster.clone());
        self
    }

    /// So many processes share the database.
    pub(crate) fn instances(mut self, count: usize) -> Self {
        self.instances = count.max(1);
        self
    }

    /// The program's files can be kept from growing.
    pub(crate) fn limitable(mut self) -> Self {
        self.limitable = true;
        self
    }

    /// The program's standard error leads there.
    pub(crate) fn log_to(mut self, path: &'static str) -> Self {
        self.log_to = Some(path);
        self
    }

    /// Starts it.
    pub(crate) async fn start(self) -> Outcome<Site> {
        let smtp = Arc::new(SmtpServer::start().await?);
        let mailbox = Mailbox::open(Arc::clone(&smtp));
        let folder = temp_folder("faults")?;
        let database_url = match (self.database, &self.cluster) {
            (Database::Sqlite, _) => format!("sqlite://{}", folder.path().join("threepid.db").display()),
            (Database::Postgres, Some(cluster)) => cluster.database().await?,
            (Database::Postgres, None) => return Err("there is no PostgreSQL".into()),
        };
        let mut instances = Vec::new();
        for _ in 0..self.instances {
            instances.push(Instance { port: free_port()?, program: None });
        }
        let mut variables = usual_settings(&database_url, smtp.port());
        let first = instances.first().map(Instance::base).unwrap_or_default();
        variables.push(("THREEPID_PUBLIC_BASE_URL".to_owned(), first));
        variables.extend(self.variables);
        let mut site = Site {
            smtp,
            mailbox,
            users: self.homeserver.unwrap_or_default(),
            folder,
            database_url,
            cluster: self.cluster,
            variables,
            instances,
            limitable: self.limitable,
            log_to: self.log_to,
            broken: Vec::new(),
        };
        if site.users.is_empty() {
            site.add_accounts(self.users).await?;
        }
        for instance in 0..self.instances {
            site.start(instance).await?;
        }
        Ok(site)
    }
}

/// Short waits, so that what is mended is seen to be; no limits, since everybody here comes from one address.
fn usual_settings(database_url: &str, smtp_port: u16) -> Vec<(String, String)> {
    let mut settings = Vec::new();
    let mut set = |name: &str, value: &str| settings.push((format!("THREEPID_{name}"), value.to_owned()));
    set("ACCOUNTS", "local");
    set("DATABASE__URL", database_url);
    if !database_url.starts_with("sqlite:") {
        set("SERVER_KEY__VALUE", &"5e".repeat(32));
    }
    set("MAIL__FROM", "noreply@threepid.example");
    set("MAIL__SMTP__HOST", "127.0.0.1");
    set("MAIL__SMTP__PORT", &smtp_port.to_string());
    set("MAIL__SMTP__SECURITY", "none");
    // Long enough that a busy machine has answered: a mail whose answer comes too late is sent again.
    set("MAIL__SMTP__TIMEOUT", "4s");
    set("MAIL__SMTP__SEND_TIMEOUT", "5s");
    set("LIMITS__MAILS_PER_HOUR", "0");
    for limit in [
        "REQUEST_TOKEN_PER_CLIENT",
        "REQUEST_TOKEN_PER_ADDRESS",
        "SUBMIT_PER_CLIENT",
        "FAILED_TOKENS_PER_CLIENT",
    ] {
        set(&format!("LIMITS__{limit}__PER_SECOND"), "100000");
        set(&format!("LIMITS__{limit}__BURST"), "100000");
    }
    set("RELAY__FIRST_RETRY", "200ms");
    set("RELAY__LONGEST_RETRY", "1s");
    // Long enough that a machine with much else to do does not send twice what it is sending.
    set("RELAY__LEASE", "8s");
    set("LOG__LEVEL", "warn");
    set("LOG__FORMAT", "text");
    settings
}

impl Site {
    /// The usual settings, to be changed.
    pub(crate) fn builder(options: &Options) -> SiteBuilder {
        SiteBuilder {
            users: options.clients.min(4),
            variables: Vec::new(),
            homeserver: None,
            database: options.database,
            cluster: options.cluster.clone(),
            instances: 1,
            limitable: false,
            log_to: None,
        }
    }

    /// Several at once: each is a run of the program.
    async fn add_accounts(&mut self, count: usize) -> Outcome<()> {
        let mut runs = JoinSet::new();
        for number in 0..count {
            let (id, settings) = (format!("@user{number}:faults.example"), self.variables.clone());
            runs.spawn(async move {
                command(&settings, &["account", "add", &id]).await?;
                let said = command(&settings, &["account", "token", &id]).await?;
                let token = said.lines().last().unwrap_or_default().trim().to_owned();
                Outcome::Ok(User { id, token })
            });
        }
        while let Some(added) = runs.join_next().await {
            self.users.push(added??);
        }
        self.users.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(())
    }

    fn settings(&self) -> Vec<(&str, &str)> {
        self.variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }

    /// Starts an instance, and waits until it is ready.
    pub(crate) async fn start(&mut self, instance: usize) -> Outcome<()> {
        let Some(port) = self.instances.get(instance).map(|instance| instance.port) else {
            return Err("no such instance".into());
        };
        let listen = format!("127.0.0.1:{port}");
        let mut settings = self.settings();
        settings.push(("THREEPID_LISTEN", &listen));
        let mut program = match self.log_to {
            Some(log) => Program::start_logging_to(log, &["serve"], &settings)?,
            None if self.limitable => Program::start_limitable(&["serve"], &settings)?,
            None => Program::start(&["serve"], &settings)?,
        };
        program.ready_at(&format!("http://{listen}/health/ready")).await?;
        if let Some(instance) = self.instances.get_mut(instance) {
            instance.program = Some(program);
        }
        Ok(())
    }

    /// Ends an instance with SIGKILL.
    pub(crate) fn kill(&mut self, instance: usize) {
        if let Some(program) = self.instances.get_mut(instance).and_then(|instance| instance.program.take()) {
            self.broken.extend(broken_lines(&program));
        }
    }

    /// Ends an instance with SIGTERM, and gives its exit status.
    pub(crate) async fn terminate(&mut self, instance: usize) -> Outcome<i32> {
        let taken = self.instances.get_mut(instance).and_then(|instance| instance.program.take());
        let Some(mut program) = taken else { return Err("the instance does not run".into()) };
        let status = program.terminate().await?;
        self.broken.extend(broken_lines(&program));
        Ok(status)
    }

    /// Keeps an instance's files from growing beyond so many bytes, or lets them grow again.
    pub(crate) fn limit_file_size(&self, bytes: Option<u64>) -> Outcome<()> {
        for instance in &self.instances {
            instance.program.as_ref().map_or(Ok(()), |program| program.limit_file_size(bytes))?;
        }
        Ok(())
    }

    /// Takes a backup while the program writes, as `docs/operating/backup.md` says.
    pub(crate) async fn back_up(&self) -> Outcome<PathBuf> {
        let copy = self.folder.path().join("backup");
        match &self.cluster {
            Some(cluster) => cluster.dump(&self.database_url, &copy).await?,
            None => {
                let ledger = self.ledger().await?;
                ledger.copy_to(&copy.display().to_string()).await?;
                ledger.close().await?;
            }
        }
        Ok(copy)
    }

    /// Puts a backup in the database's place. The program does not run.
    pub(crate) async fn restore(&mut self, copy: &Path) -> Outcome<()> {
        if let Some(cluster) = &self.cluster {
            self.database_url = cluster.restore(copy).await?;
            let setting = "THREEPID_DATABASE__URL";
            self.variables.retain(|(name, _)| name != setting);
            self.variables.push((setting.to_owned(), self.database_url.clone()));
            return Ok(());
        }
        let file = self.folder.path().join("threepid.db");
        for beside in ["db-wal", "db-shm"] {
            let beside = file.with_extension(beside);
            if beside.exists() {
                std::fs::remove_file(beside)?;
            }
        }
        std::fs::rename(copy, file)?;
        Ok(())
    }

    /// The database's URL.
    pub(crate) fn database_url(&self) -> &str {
        &self.database_url
    }

    /// The folder of the database, on SQLite.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where clients knock.
    pub(crate) fn target(&self) -> Target {
        Target {
            bases: self.instances.iter().map(Instance::base).collect(),
            users: self.users.clone(),
            mailbox: self.mailbox.clone(),
        }
    }

    /// Lets clients go.
    pub(crate) fn load(&self, plan: &Plan) -> Outcome<Load> {
        Load::start(&self.target(), plan)
    }

    /// A look at the database.
    pub(crate) async fn ledger(&self) -> Outcome<Ledger> {
        Ledger::open(&self.database_url).await
    }

    /// Waits until nothing is owed any more, as far as time mends it, and all that was sent has been read.
    pub(crate) async fn drained(&self) -> Outcome<()> {
        let ledger = self.ledger().await?;
        let began = Instant::now();
        while ledger.queued().await? > 0 && began.elapsed() < DRAINED_WITHIN {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.mailbox.caught_up(&self.smtp).await;
        ledger.close().await
    }

    /// Waits until messages that have not left were tried that often in all.
    pub(crate) async fn tried(&self, times: u64) -> Outcome<()> {
        let ledger = self.ledger().await?;
        let began = Instant::now();
        while ledger.tries().await? < times {
            if began.elapsed() > DRAINED_WITHIN {
                return Err(format!("there were not {times} tries").into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        ledger.close().await
    }

    /// How often messages were tried that have not left.
    pub(crate) async fn tries(&self) -> Outcome<u64> {
        let ledger = self.ledger().await?;
        let tries = ledger.tries().await?;
        ledger.close().await?;
        Ok(tries)
    }

    /// Everything that is stored.
    pub(crate) async fn books(&self) -> Outcome<Books> {
        let ledger = self.ledger().await?;
        let books = ledger.read().await?;
        ledger.close().await?;
        Ok(books)
    }

    /// Lines of the programs' logs that no fault from outside explains.
    pub(crate) fn broken(&mut self) -> Vec<String> {
        std::mem::take(&mut self.broken)
    }

    /// Lets what was left open be done, waits until nothing is owed, stops the program, and compares.
    pub(crate) async fn settle(
        &mut self,
        records: Records,
        allowed: Allowed,
        row: &mut Row,
    ) -> Outcome<Books> {
        self.drained().await?;
        let records = finish(&self.target(), records, Duration::from_secs(2)).await?;
        self.drained().await?;
        self.compare(records, allowed, row).await
    }

    /// Stops the program, and compares.
    pub(crate) async fn compare(
        &mut self,
        records: Records,
        allowed: Allowed,
        row: &mut Row,
    ) -> Outcome<Books> {
        for instance in 0..self.instances.len() {
            let status = self.terminate(instance).await?;
            row.check(status == 0, || format!("the program ended with {status}"));
        }
        let books = self.books().await?;
        let arrived = self.mailbox.arrived();
        let (mails, problems) = reconcile(&books, &records.journeys, &self.users, &arrived, allowed);
        row.add(&records.tally);
        row.mails = mails;
        row.problems.extend(problems);
        row.problems.extend(records.tally.oddities.iter().cloned());
        row.problems.extend(self.mailbox.strange());
        row.problems.append(&mut self.broken);
        Ok(books)
    }
}

/// Runs the program for one command, and gives what it said.
async fn command(settings: &[(String, String)], arguments: &[&str]) -> Outcome<String> {
    let settings: Vec<_> = settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let mut program = Program::start(arguments, &settings)?;
    let status = program.ended().await?;
    let said = program.said()?;
    if status == 0 { Ok(said) } else { Err(format!("threepid {arguments:?}: {status}: {said}").into()) }
}

/// Lines of a log that no fault from outside explains.
fn broken_lines(program: &Program) -> Vec<String> {
    let said = program.said().unwrap_or_default();
    said.lines().filter(|line| line.contains("panicked")).map(|line| format!("log: {line}")).collect()
}
