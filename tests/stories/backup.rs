//! A backup that is taken under load, with the commands of `docs/operating/backup.md`, restores to a state that
//! reconciles, on both engines.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sea_orm::{ConnectionTrait as _, Database, Statement};
use threepid_tests::peers::{Postgres, SmtpServer, repository, wait_until};
use threepid_tests::server::{Server, ServerBuilder};

use crate::Story;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const SOON: Duration = Duration::from_secs(60);
const WORKERS: usize = 4;

/// The blocks of commands on the page, in their order: SQLite's backup and restore, then PostgreSQL's.
fn blocks() -> Outcome<[String; 4]> {
    let page = std::fs::read_to_string(repository().join("docs/operating/backup.md"))?;
    let blocks =
        page.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default().to_owned());
    blocks.collect::<Vec<_>>().try_into().map_err(|blocks| format!("{blocks:?}").into())
}

/// Runs a block of the page, with the operator's paths and names replaced by ours; each has to be on the page.
async fn run(block: &str, replaced: &[(&str, String)], programs: Option<&Path>) -> Story {
    let mut script = format!("set -eu\n{block}");
    for (theirs, ours) in replaced {
        assert!(script.contains(theirs), "{theirs} in {script}");
        script = script.replace(theirs, ours);
    }
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(&script);
    if let Some(programs) = programs {
        let path = std::env::var("PATH").unwrap_or_default();
        shell.env("PATH", format!("{}:{path}", programs.display()));
    }
    let output = tokio::task::spawn_blocking(move || shell.output()).await??;
    if !output.status.success() {
        return Err(format!("{script}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(())
}

/// What the clients were told.
#[derive(Default)]
struct Told {
    stop: AtomicBool,
    added: Mutex<BTreeSet<String>>,
}

impl Told {
    fn added(&self) -> BTreeSet<String> {
        self.added.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One client after the other proves and adds addresses of its own.
    async fn load(&self, server: &Server, smtp: &SmtpServer, worker: usize, token: &str) -> Story {
        for turn in 0.. {
            if self.stop.load(Ordering::SeqCst) {
                break;
            }
            let (address, secret) =
                (format!("user{worker}.{turn}@example.org"), format!("secret-{worker}-{turn}"));
            let sid = server.prove(smtp, &address, &secret).await?;
            assert_eq!(server.add(token, &sid, &secret).await?.status, 200);
            self.added.lock().unwrap_or_else(PoisonError::into_inner).insert(address);
        }
        Ok(())
    }

    async fn grows_by(&self, count: usize) -> Story {
        let before = self.added().len();
        wait_until("more load", SOON, || async { Ok((self.added().len() >= before + count).then_some(())) })
            .await?;
        Ok(())
    }
}

/// Loads a server, backs it up meanwhile, and gives what had been acknowledged when the backup began, and all that was
/// in the end.
async fn backed_up(
    server: &Server,
    smtp: &SmtpServer,
    tokens: &[String],
    backup: impl Future<Output = Story>,
) -> Outcome<(BTreeSet<String>, BTreeSet<String>)> {
    let [a, b, c, d] = tokens else { return Err("four workers".into()) };
    let told = Told::default();
    let watch = async {
        told.grows_by(12).await?;
        let before = told.added();
        backup.await?;
        told.grows_by(8).await?;
        told.stop.store(true, Ordering::SeqCst);
        Outcome::Ok(before)
    };
    let (a, b, c, d, before) = tokio::join!(
        told.load(server, smtp, 0, a),
        told.load(server, smtp, 1, b),
        told.load(server, smtp, 2, c),
        told.load(server, smtp, 3, d),
        watch
    );
    for worker in [a, b, c, d] {
        worker?;
    }
    Ok((before?, told.added()))
}

/// Looks through the restored database, and has a server go on from there.
async fn reconciles(
    mut server: Server,
    smtp: &SmtpServer,
    url: &str,
    tokens: &[String],
    (before, after): (BTreeSet<String>, BTreeSet<String>),
) -> Story {
    let connection = Database::connect(url).await?;
    let count = async |sql: &str| -> Outcome<i64> {
        let statement = Statement::from_string(connection.get_database_backend(), sql);
        Ok(connection.query_one_raw(statement).await?.ok_or("a count")?.try_get("", "n")?)
    };
    for (what, sql) in [
        (
            "a proof that was spent for nothing",
            "SELECT count(*) AS n FROM validation_session s WHERE state = 'consumed' AND NOT EXISTS \
          (SELECT 1 FROM threepid t WHERE t.address = s.address AND t.user_id = s.consumed_by)",
        ),
        (
            "an address without a proof",
            "SELECT count(*) AS n FROM threepid t WHERE NOT EXISTS (SELECT 1 FROM validation_session s \
          WHERE s.address = t.address AND s.consumed_by = t.user_id)",
        ),
        (
            "a session without its mail",
            "SELECT count(*) AS n FROM validation_session s WHERE NOT EXISTS (SELECT 1 FROM outbox o \
          WHERE o.payload LIKE '%\"' || s.sid || '\"%')",
        ),
        (
            "a change that is not remembered",
            "SELECT count(*) AS n FROM threepid t WHERE NOT EXISTS (SELECT 1 FROM audit a \
          WHERE a.address = t.address AND a.action = 'added')",
        ),
    ] {
        assert_eq!(count(sql).await?, 0, "{what}");
    }
    server.launch().await?;
    let mut listed = BTreeSet::new();
    for token in tokens {
        listed.extend(server.list(token).await?.addresses());
    }
    let lost: Vec<_> = before.difference(&listed).collect();
    assert!(lost.is_empty() && before.len() >= 12, "{lost:?} of {}", before.len());
    // What came after the backup was begun may be in it or not. What was begun and not answered, too.
    let unheard = |address: &&String| !after.contains(*address) && !address.starts_with("user");
    assert_eq!(listed.iter().filter(unheard).count(), 0);
    assert!(listed.len() < after.len(), "the load went on after the backup");

    wait_until("the end of what was owed", SOON, || async {
        let queued = count("SELECT count(*) AS n FROM outbox WHERE state = 'queued'").await;
        Ok((queued.unwrap_or(1) == 0).then_some(()))
    })
    .await?;
    let sid = server.prove(smtp, "later@example.org", "a-later-secret").await?;
    assert_eq!(server.add(&tokens[0], &sid, "a-later-secret").await?.status, 200);
    connection.close().await?;
    Ok(server.end().await?)
}

async fn accounts(server: &Server) -> Outcome<Vec<String>> {
    let mut tokens = Vec::new();
    for worker in 0..WORKERS {
        tokens.push(server.account(&format!("@worker{worker}:example.org")).await?);
    }
    Ok(tokens)
}

/// A server whose mails that were being sent when the backup was taken are soon tried again.
fn sending_to(smtp: &SmtpServer) -> ServerBuilder {
    Server::builder().mail_to(smtp).text("mail.smtp.send_timeout", "2s").text("relay.lease", "3s")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_a_sqlite_file_under_load_restores_to_a_state_that_reconciles() -> Story {
    let [backup, restore, ..] = blocks()?;
    let smtp = SmtpServer::start().await?;
    let mut server = sending_to(&smtp).start().await?;
    let tokens = accounts(&server).await?;
    let backups = threepid_tests::peers::temp_folder("backups")?;
    let at = |folder: &Path| folder.display().to_string();
    let theirs = |folder: &Path| ("/var/lib/threepid", at(folder));
    let to = ("/var/backups", at(backups.path()));
    let folder = server.folder().to_owned();
    let told = backed_up(&server, &smtp, &tokens, run(&backup, &[theirs(&folder), to.clone()], None)).await?;
    assert_eq!(server.terminate().await?, 0);

    let restored = sending_to(&smtp).prepare()?;
    // A database that was there is in nobody's way.
    restored.run(&["migrate"]).await?;
    run(&restore, &[theirs(restored.folder()), to], None).await?;
    let url = format!("sqlite://{}", restored.folder().join("threepid.db").display());
    reconciles(restored, &smtp, &url, &tokens, told).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_a_postgresql_database_under_load_restores_to_a_state_that_reconciles() -> Story {
    let [.., backup, restore] = blocks()?;
    let smtp = SmtpServer::start().await?;
    let postgres = Postgres::start().await?;
    let name = postgres.create_database().await?;
    let on = |url: &str| sending_to(&smtp).text("database.url", url).text("server_key.value", KEY);
    let mut server = on(&postgres.url(&name)).start().await?;
    let tokens = accounts(&server).await?;
    let backups = threepid_tests::peers::temp_folder("backups")?;
    let to = ("/var/backups", backups.path().display().to_string());
    let database = ("postgres://threepid@db.example.org/threepid", postgres.url(&name));
    let programs = Some(postgres.programs());
    let told = backed_up(&server, &smtp, &tokens, run(&backup, &[database, to.clone()], programs)).await?;
    assert_eq!(server.terminate().await?, 0);

    let host = ("postgres://threepid@db.example.org/", postgres.url(""));
    run(&restore, &[host, to], programs).await?;
    let url = postgres.url("threepid_restored");
    reconciles(on(&url).prepare()?, &smtp, &url, &tokens, told).await
}
