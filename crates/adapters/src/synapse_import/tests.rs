//! Synapse's tables, as its schema makes them, on SQLite. A database that a real Synapse filled is read in the stories.

use std::path::PathBuf;

use sea_orm::sqlx::sqlite::SqliteConnectOptions;
use sea_orm::sqlx::{self, ConnectOptions as _, Connection as _};
use tempfile::TempDir;

use super::*;

type TestResult = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// As Synapse's deltas 17, 22, 53 and 55 leave them, with the columns of `users` that matter here.
const SCHEMA: &str = "
    CREATE TABLE users (name TEXT, password_hash TEXT, deactivated SMALLINT NOT NULL DEFAULT 0, UNIQUE (name));
    CREATE TABLE user_threepids (user_id TEXT NOT NULL, medium TEXT NOT NULL, address TEXT NOT NULL,
        validated_at BIGINT NOT NULL, added_at BIGINT NOT NULL);
    CREATE UNIQUE INDEX medium_address ON user_threepids (medium, address);
    CREATE TABLE user_threepid_id_server (user_id TEXT NOT NULL, medium TEXT NOT NULL, address TEXT NOT NULL,
        id_server TEXT NOT NULL);
    CREATE UNIQUE INDEX user_threepid_id_server_idx ON user_threepid_id_server (user_id, medium, address, id_server);
    INSERT INTO users VALUES ('@alice:localhost', 'x', 0), ('@gone:localhost', NULL, 1);
    INSERT INTO user_threepids VALUES
        ('@alice:localhost', 'email', 'alice@example.org', 1500000000123, 1600000000456),
        ('@alice:localhost', 'email', 'Alice@Example.org', 1, 2),
        ('@alice:localhost', 'msisdn', '447700900813', 3, 4),
        ('@gone:localhost', 'email', 'gone@example.org', 5, 6),
        ('@eve:localhost', 'email_old', 'eve@example.org', 7, 8);
    INSERT INTO user_threepid_id_server VALUES
        ('@alice:localhost', 'email', 'alice@example.org', 'matrix.org'),
        ('@alice:localhost', 'email', 'alice@example.org', 'vector.im'),
        ('@eve:localhost', 'email', 'elsewhere@example.org', 'vector.im');";

async fn made_by(sql: &str) -> Result<(TempDir, PathBuf), Box<dyn std::error::Error + Send + Sync>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("homeserver.db");
    let mut connection =
        SqliteConnectOptions::new().filename(&path).create_if_missing(true).connect().await?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut connection).await?;
    connection.close().await?;
    Ok((folder, path))
}

#[tokio::test]
async fn every_row_is_read_once_whatever_the_size_of_the_pages() -> TestResult {
    let (_folder, path) = made_by(SCHEMA).await?;
    let source = SynapseContacts::open(&path.to_string_lossy()).await?;
    assert_eq!(source.counts().await?, SourceCounts { contacts: 5, bindings: 3 });
    for limit in [1, 2, 3, 5, 100] {
        let (mut contacts, mut bindings) = (Vec::new(), Vec::new());
        loop {
            let page = source.contacts(contacts.last().cloned(), limit).await?;
            assert!(page.len() <= limit);
            if page.is_empty() {
                break;
            }
            contacts.extend(page);
        }
        loop {
            let page = source.bindings(bindings.last().cloned(), limit).await?;
            if page.is_empty() {
                break;
            }
            bindings.extend(page);
        }
        let shown: Vec<_> = contacts
            .iter()
            .map(|row| (row.user_id.as_str(), row.medium.as_str(), row.address.as_str(), row.account))
            .collect();
        assert_eq!(
            shown,
            [
                ("@alice:localhost", "email", "Alice@Example.org", ForeignAccount::Active),
                ("@alice:localhost", "email", "alice@example.org", ForeignAccount::Active),
                ("@gone:localhost", "email", "gone@example.org", ForeignAccount::Deactivated),
                ("@eve:localhost", "email_old", "eve@example.org", ForeignAccount::Unknown),
                ("@alice:localhost", "msisdn", "447700900813", ForeignAccount::Active),
            ]
        );
        assert_eq!((contacts[1].validated_at, contacts[1].added_at), (1_500_000_000_123, 1_600_000_000_456));
        let shown: Vec<_> = bindings.iter().map(|row| (row.id_server.as_str(), row.account)).collect();
        assert_eq!(
            shown,
            [
                ("matrix.org", ForeignAccount::Active),
                ("vector.im", ForeignAccount::Active),
                ("vector.im", ForeignAccount::Unknown)
            ]
        );
    }
    source.close().await;
    Ok(())
}

#[tokio::test]
async fn nothing_can_be_written_through_it() -> TestResult {
    let (_folder, path) = made_by(SCHEMA).await?;
    let before = std::fs::read(&path)?;
    let source = SynapseContacts::open(&format!("sqlite://{}", path.display())).await?;
    let written = source.page("DELETE FROM users", Vec::new()).await;
    assert!(written.is_err_and(|error| error.to_string().contains("readonly")));
    source.close().await;
    assert_eq!(std::fs::read(&path)?, before);
    Ok(())
}

#[tokio::test]
async fn what_is_no_database_of_synapse_is_refused_in_one_line_without_a_password() -> TestResult {
    let (folder, other) = made_by("CREATE TABLE recipes (name TEXT)").await?;
    let text = folder.path().join("notes.txt");
    std::fs::write(&text, "not a database, and longer than a header would be".repeat(10))?;
    let missing = folder.path().join("missing.db");
    let path = |path: &PathBuf| path.to_string_lossy().into_owned();
    for (database, says) in [
        (path(&missing), "there is no file"),
        (path(&folder.path().to_owned()), "there is no file"),
        (path(&other), "not a database of Synapse's"),
        (path(&text), "not a database"),
        ("mysql://u:hunter2@localhost/synapse".to_owned(), "none of Synapse's databases"),
        ("postgres://u:hunter2@127.0.0.1:1/synapse".to_owned(), ""),
        ("postgres://u:hunter2@[/synapse".to_owned(), ""),
    ] {
        let said = match SynapseContacts::open(&database).await {
            Ok(_) => "(opened)".to_owned(),
            Err(error) => error.to_string(),
        };
        assert!(said.contains(says) && said != "(opened)", "{database}: {said}");
        assert!(!said.contains("hunter2") && !said.contains('\n'), "{said}");
    }
    assert!(!missing.exists(), "nothing was made");
    Ok(())
}
