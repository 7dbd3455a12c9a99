//! What is refused at start: in one line that names what to mend, and with nothing changed.

use std::time::Duration;

use threepid_adapters::sea_orm::{ClaimKeyError, ConnectError, ConnectSettings, Database, Tls};
use threepid_tests::peers::{Postgres, free_port};

use super::{TestResult, cluster, database_name, empty, open, settings};

/// What connecting or migrating is refused with, once it was checked to be one line without the password.
async fn refusal(
    settings: &ConnectSettings,
) -> Result<ConnectError, Box<dyn std::error::Error + Send + Sync>> {
    let opened = match Database::connect(settings).await {
        Ok(database) => database.migrate().await.map(|_| ()),
        Err(error) => Err(error),
    };
    let Err(error) = opened else { return Err("it was not refused".into()) };
    let line = error.to_string();
    assert!(line.lines().count() == 1 && !line.contains("correct-horse"), "{line}");
    Ok(error)
}

/// Everything in a database: its tables with their columns, and how many rows each has.
async fn everything(url: &str) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let columns = "SELECT table_schema, table_name, column_name, data_type FROM information_schema.columns \
                   WHERE table_schema NOT IN ('pg_catalog', 'information_schema') ORDER BY 1, 2, 3";
    let cluster = cluster().await?;
    let mut all = cluster.sql(database_name(url), columns).await?;
    let tables = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'";
    for table in cluster.sql(database_name(url), tables).await?.lines() {
        let rows = format!("SELECT '{table}', t.* FROM \"{table}\" t ORDER BY t");
        all.push_str(&cluster.sql(database_name(url), &rows).await?);
    }
    Ok(all)
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_that_start_at_once_on_an_empty_database_all_succeed() -> TestResult {
    let url = empty().await?;
    let steps = Database::connect(&settings(&empty().await?)).await?.pending_migrations().await?.len();
    let starts: Vec<_> = (0..6)
        .map(|_| {
            let settings = settings(&url);
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
async fn what_is_in_the_way_is_named() -> TestResult {
    let url = empty().await?;
    let port = cluster().await?.port();
    let error = refusal(&settings(&url.replace("correct-horse", "wrong"))).await?;
    assert!(matches!(error, ConnectError::Login { .. }), "{error:?}");
    let error = refusal(&settings(&url.replace("//threepid:", "//nobody:"))).await?;
    assert!(matches!(error, ConnectError::Login { .. }), "{error:?}");
    let error = refusal(&settings(&format!("{url}_none"))).await?;
    assert!(matches!(error, ConnectError::NoDatabase { .. }), "{error:?}");
    let error = refusal(&settings(&url.replace(&port.to_string(), &free_port()?.to_string()))).await?;
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
    let error = refusal(&settings(&url.replace("127.0.0.1", "host.invalid"))).await?;
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
    let error = refusal(&ConnectSettings { tls: Some(Tls::Require), ..settings(&url) }).await?;
    assert!(matches!(error, ConnectError::Tls { .. }), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() -> TestResult {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("postgres://threepid@{}/threepid", listener.local_addr()?);
    let settings = ConnectSettings { acquire_timeout: Duration::from_millis(200), ..settings(&url) };
    let error = refusal(&settings).await?;
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn a_database_of_another_program_is_refused_and_left_as_it_was() -> TestResult {
    let url = empty().await?;
    cluster()
        .await?
        .sql(database_name(&url), "CREATE TABLE theirs (x int); INSERT INTO theirs VALUES (1)")
        .await?;
    let before = everything(&url).await?;
    let error = refusal(&settings(&url)).await?;
    assert!(matches!(error, ConnectError::AnotherProgram(_)), "{error:?}");
    assert_eq!(everything(&url).await?, before);
    Ok(())
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused_and_left_as_it_was() -> TestResult {
    let url = empty().await?;
    open(&url).await?;
    let future = "INSERT INTO schema_migration (version, applied_at) VALUES ('m9999_future', 0)";
    cluster().await?.sql(database_name(&url), future).await?;
    let before = everything(&url).await?;
    let error = refusal(&settings(&url)).await?;
    assert!(matches!(&error, ConnectError::Newer { version, .. } if version == "m9999_future"), "{error:?}");
    assert_eq!(everything(&url).await?, before);
    Ok(())
}

#[tokio::test]
async fn a_half_migrated_database_is_refused_and_left_as_it_was() -> TestResult {
    for half in [
        "DROP TABLE binding",
        "DELETE FROM schema_migration",
        "DELETE FROM schema_migration WHERE version = 'm0001_first_thread'",
    ] {
        let url = empty().await?;
        open(&url).await?;
        cluster().await?.sql(database_name(&url), half).await?;
        let before = everything(&url).await?;
        let error = refusal(&settings(&url)).await?;
        assert!(matches!(error, ConnectError::HalfMigrated { .. }), "{half}: {error:?}");
        assert_eq!(everything(&url).await?, before, "{half}");
    }
    Ok(())
}

#[tokio::test]
async fn a_database_that_takes_no_writes_is_refused_at_start() -> TestResult {
    let url = empty().await?;
    open(&url).await?;
    let read_only = format!("ALTER DATABASE {} SET default_transaction_read_only = on", database_name(&url));
    cluster().await?.sql("postgres", &read_only).await?;
    let error = refusal(&settings(&url)).await?;
    assert!(matches!(error, ConnectError::StandBy(_)), "{error:?}");
    let url = empty().await?;
    let read_only = format!("ALTER DATABASE {} SET default_transaction_read_only = on", database_name(&url));
    cluster().await?.sql("postgres", &read_only).await?;
    let error = refusal(&settings(&url)).await?;
    assert!(matches!(error, ConnectError::StandBy(_)), "an empty one, too: {error:?}");
    Ok(())
}

#[tokio::test]
async fn a_user_without_the_right_to_make_tables_is_told_so() -> TestResult {
    let url = empty().await?;
    let user = format!("weak_{}", database_name(&url));
    let make = format!("CREATE ROLE {user} LOGIN PASSWORD 'correct-horse'");
    cluster().await?.sql("postgres", &make).await?;
    let error = refusal(&settings(&url.replace("//threepid:", &format!("//{user}:")))).await?;
    assert!(matches!(error, ConnectError::NotPermitted { .. }), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn the_first_key_is_remembered_and_another_refused() -> TestResult {
    let url = empty().await?;
    let database = Database::connect(&settings(&url)).await?;
    database.migrate().await?;
    database.claim_key("fingerprint one").await?;
    let again = Database::connect(&settings(&url)).await?;
    again.claim_key("fingerprint one").await?;
    let before = everything(&url).await?;
    let Err(error) = again.claim_key("fingerprint two").await else {
        return Err("it was not refused".into());
    };
    assert!(matches!(error, ClaimKeyError::AnotherKey { .. }), "{error:?}");
    assert!(!error.to_string().contains("correct-horse"), "{error}");
    assert_eq!(everything(&url).await?, before);
    Ok(())
}

#[tokio::test]
async fn over_tls_only_the_right_certificate_for_the_right_host_will_do() -> TestResult {
    let postgres = Postgres::builder().tls().start().await?;
    let url = postgres.url(&postgres.create_database().await?);
    let ca_file = postgres.ca().map(|ca| ca.certificate());
    let full = ConnectSettings { tls: Some(Tls::VerifyFull), ca_file: ca_file.clone(), ..settings(&url) };
    let database = Database::connect(&full).await?;
    database.migrate().await?;
    let secured = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                   WHERE application_name = 'threepid'";
    assert_eq!(postgres.sql("postgres", secured).await?, "t");
    let error = refusal(&ConnectSettings { ca_file: None, ..full.clone() }).await?;
    assert!(matches!(error, ConnectError::Tls { .. } | ConnectError::Unreachable { .. }), "{error:?}");
    // The certificate is not for this name of the same host.
    let other_name = ConnectSettings { url: url.replace("127.0.0.1", "127.0.0.2"), ..full };
    assert!(refusal(&other_name).await.is_ok());
    Ok(())
}
