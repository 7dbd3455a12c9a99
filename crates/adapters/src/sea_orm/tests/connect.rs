use std::time::Duration;

use sea_orm::sqlx::sqlite::SqliteConnectOptions;
use sea_orm::sqlx::{self, ConnectOptions, Connection};
use sea_orm::{ConnectionTrait, DatabaseConnection, Statement, TransactionTrait};

use super::{TestResult, open, url};
use crate::sea_orm::{ClaimKeyError, ConnectError, ConnectSettings, Database};

/// What connecting is refused with, once it was checked to be one line.
async fn refusal(url: &str) -> Result<ConnectError, Box<dyn std::error::Error + Send + Sync>> {
    let settings = ConnectSettings { busy_timeout: Duration::from_millis(50), ..ConnectSettings::new(url) };
    let Err(error) = Database::connect(&settings).await else { return Err("it was not refused".into()) };
    assert_eq!(error.to_string().lines().count(), 1, "{error}");
    Ok(error)
}

async fn pragma(
    connection: &impl ConnectionTrait,
    name: &str,
) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let backend = connection.get_database_backend();
    let row = connection.query_one_raw(Statement::from_string(backend, format!("PRAGMA {name}"))).await?;
    let row = row.ok_or("a pragma has a value")?;
    Ok(row
        .try_get_by_index::<i64>(0)
        .map(|n| n.to_string())
        .or_else(|_| row.try_get_by_index::<String>(0))?)
}

async fn assert_durable(connections: &DatabaseConnection, count: usize, query_only: &str) -> TestResult {
    let mut held = Vec::new();
    for _ in 0..count {
        // Each transaction holds one connection, so all of the pool's are seen.
        held.push(connections.begin().await?);
    }
    for connection in &held {
        assert_eq!(pragma(connection, "synchronous").await?, "2", "FULL");
        assert_eq!(pragma(connection, "journal_mode").await?, "wal");
        assert_eq!(pragma(connection, "foreign_keys").await?, "1");
        assert_eq!(pragma(connection, "busy_timeout").await?, "5000");
        assert_eq!(pragma(connection, "query_only").await?, query_only);
    }
    Ok(())
}

#[tokio::test]
async fn every_connection_is_durable_and_readers_cannot_write() -> TestResult {
    let folder = tempfile::tempdir()?;
    let database = open(&folder).await?;
    assert_durable(database.writer(), 1, "0").await?;
    assert_durable(database.reader(), 4, "1").await?;
    let written = database.reader().execute_unprepared("DELETE FROM threepid").await;
    assert!(written.is_err(), "a reader must not write");
    Ok(())
}

#[tokio::test]
async fn a_new_database_is_migrated_once() -> TestResult {
    let folder = tempfile::tempdir()?;
    let database = Database::connect(&ConnectSettings::new(url(&folder))).await?;
    assert_eq!(database.schema_version().await?, None);
    let pending = database.pending_migrations().await?;
    assert_eq!(pending.first().map(String::as_str), Some("m0001_first_thread"));
    assert_eq!(database.migrate().await?, pending);
    assert_eq!(database.pending_migrations().await?, Vec::<String>::new());
    assert_eq!(database.schema_version().await?, pending.last().cloned());
    assert_eq!(database.migrate().await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn processes_that_start_at_once_on_a_new_file_all_succeed() -> TestResult {
    let (folder, elsewhere) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let steps = Database::connect(&ConnectSettings::new(url(&elsewhere))).await?.migrate().await?.len();
    let starts: Vec<_> = (0..8)
        .map(|_| {
            let settings = ConnectSettings::new(url(&folder));
            tokio::spawn(async move {
                let database = Database::connect(&settings).await?;
                database.migrate().await.map(|applied| applied.len())
            })
        })
        .collect();
    let mut applied = 0;
    for start in starts {
        applied += start.await??;
    }
    assert_eq!(applied, steps, "one of them applied every step");
    Ok(())
}

#[tokio::test]
async fn a_newer_database_is_refused_and_left_alone() -> TestResult {
    let folder = tempfile::tempdir()?;
    let database = open(&folder).await?;
    let future = "INSERT INTO schema_migration (version, applied_at) VALUES ('m9999_future', 0)";
    database.writer().execute_unprepared(future).await?;
    assert!(matches!(database.migrate().await, Err(ConnectError::Newer { .. })));
    database.close().await;
    let error = refusal(&url(&folder)).await?;
    assert!(matches!(&error, ConnectError::Newer { version, .. } if version == "m9999_future"), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn a_half_migrated_database_is_refused() -> TestResult {
    for half in ["DROP TABLE binding", "DELETE FROM schema_migration WHERE version = 'm0001_first_thread'"] {
        let folder = tempfile::tempdir()?;
        let database = open(&folder).await?;
        database.writer().execute_unprepared(half).await?;
        let Err(error) = database.migrate().await else { return Err("it was not refused".into()) };
        assert!(matches!(error, ConnectError::HalfMigrated { .. }), "{half}: {error:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_failed_migration_leaves_nothing_behind() -> TestResult {
    let folder = tempfile::tempdir()?;
    let database = Database::connect(&ConnectSettings::new(url(&folder))).await?;
    let pending = database.pending_migrations().await?;
    // The last step's last table is in the way, so everything before it has been created when it fails.
    database.writer().execute_unprepared("CREATE TABLE challenge (x)").await?;
    assert!(matches!(database.migrate().await, Err(ConnectError::HalfMigrated { .. })));
    assert_eq!(database.schema_version().await?, None);
    database.writer().execute_unprepared("DROP TABLE challenge").await?;
    assert_eq!(database.migrate().await?, pending);
    Ok(())
}

#[tokio::test]
async fn a_file_of_another_program_is_refused_and_left_as_it_was() -> TestResult {
    for setup in [
        "CREATE TABLE theirs (x)",
        "PRAGMA application_id = 7",
        "PRAGMA application_id = 7; CREATE TABLE t (x)",
    ] {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("threepid.db");
        let mut theirs =
            SqliteConnectOptions::new().filename(&path).create_if_missing(true).connect().await?;
        sqlx::raw_sql(setup).execute(&mut theirs).await?;
        theirs.close().await?;
        let before = std::fs::read(&path)?;
        let error = refusal(&url(&folder)).await?;
        assert!(matches!(error, ConnectError::AnotherProgram(_)), "{setup}: {error:?}");
        assert_eq!(std::fs::read(&path)?, before, "{setup}");
        assert_eq!(std::fs::read_dir(folder.path())?.count(), 1, "{setup}: no file was left beside it");
    }
    Ok(())
}

#[tokio::test]
async fn what_is_in_the_way_of_a_file_is_named() -> TestResult {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| format!("sqlite://{}", folder.path().join(name).display());
    let error = refusal(&at("none/threepid.db")).await?;
    assert!(matches!(&error, ConnectError::MissingFolder(path) if path.ends_with("none")), "{error:?}");
    let error = refusal(&format!("{}?mode=rw", at("none.db"))).await?;
    assert!(matches!(&error, ConnectError::MissingFile(path) if path.ends_with("none.db")), "{error:?}");
    std::fs::create_dir(folder.path().join("folder"))?;
    let error = refusal(&at("folder")).await?;
    assert!(matches!(&error, ConnectError::CannotOpen { .. }), "{error:?}");
    let error = refusal(&at(&"x".repeat(300))).await?;
    assert!(matches!(&error, ConnectError::CannotOpen { .. }), "{error:?}");
    std::fs::write(folder.path().join("letter.txt"), "Dear database,\n".repeat(1000))?;
    let error = refusal(&at("letter.txt")).await?;
    assert!(matches!(&error, ConnectError::NotADatabase { .. }), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn a_database_that_cannot_be_written_is_refused_at_start() -> TestResult {
    let folder = tempfile::tempdir()?;
    open(&folder).await?.close().await;
    let error = refusal(&format!("{}?mode=ro", url(&folder))).await?;
    assert!(matches!(error, ConnectError::ReadOnly(_)), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn a_database_that_another_process_holds_is_refused() -> TestResult {
    let folder = tempfile::tempdir()?;
    let database = open(&folder).await?;
    let held = database.begin().await?;
    let error = refusal(&url(&folder)).await?;
    assert!(matches!(error, ConnectError::Locked(_)), "{error:?}");
    held.rollback().await?;
    Ok(())
}

#[tokio::test]
async fn a_full_disk_is_named() -> TestResult {
    let folder = tempfile::tempdir()?;
    let database = Database::connect(&ConnectSettings::new(url(&folder))).await?;
    // The engine's own limit stands for the disk's.
    database.writer().execute_unprepared("PRAGMA max_page_count = 3").await?;
    let Err(error) = database.migrate().await else { return Err("there was room".into()) };
    assert!(matches!(&error, ConnectError::Disk { .. }), "{error:?}");
    assert!(error.to_string().contains("threepid.db cannot be written: make room"), "{error}");
    Ok(())
}

#[tokio::test]
async fn an_unusable_url_is_refused_without_its_secrets() -> TestResult {
    for url in [
        "",
        "sqlite::memory:",
        ":memory:",
        "sqlite://x.db?mode=memory",
        "sqlite://x.db?mode=odd",
        "mysql://threepid:hush@db.example/threepid",
        "postgres://threepid:hush@db.example",
        "postgres://threepid:hush@db.example/threepid?ssl_mode=verify-full",
        "postgres://threepid:hush@db.example/threepid?sslmode=maybe",
    ] {
        let error = refusal(url).await?;
        assert!(matches!(error, ConnectError::Url(_)), "{url}: {error:?}");
        assert!(!format!("{error} {error:?}").contains("hush"), "{error:?}");
    }
    assert!(!format!("{:?}", ConnectSettings::new("postgres://a:hush@b/c")).contains("hush"));
    Ok(())
}

#[tokio::test]
async fn a_plain_path_is_a_url_too() -> TestResult {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("a file?.db");
    Database::connect(&ConnectSettings::new(path.display().to_string())).await?.close().await;
    assert!(path.is_file());
    Ok(())
}

#[tokio::test]
async fn the_first_key_is_remembered_and_another_refused() -> TestResult {
    let folder = tempfile::tempdir()?;
    let database = open(&folder).await?;
    database.claim_key("fingerprint one").await?;
    database.claim_key("fingerprint one").await?;
    database.close().await;
    let database = open(&folder).await?;
    let Err(error) = database.claim_key("fingerprint two").await else {
        return Err("it was not refused".into());
    };
    assert!(matches!(error, ClaimKeyError::AnotherKey { .. }), "{error:?}");
    let line = error.to_string();
    assert!(
        line.contains("threepid.db") && !line.contains("fingerprint") && line.lines().count() == 1,
        "{line}"
    );
    database.claim_key("fingerprint one").await?;
    Ok(())
}

#[cfg(unix)]
#[tokio::test]
async fn a_new_database_is_readable_by_its_owner_alone() -> TestResult {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir()?;
    let _database = open(&folder).await?;
    let mut files = 0;
    for file in std::fs::read_dir(folder.path())? {
        files += 1;
        let file = file?;
        assert_eq!(file.metadata()?.permissions().mode() & 0o777, 0o600, "{}", file.path().display());
    }
    assert_eq!(files, 3, "the database, its log and the log's index");
    Ok(())
}
