//! Changes that wait for the writer together.

use std::time::Duration;

use sea_orm::{ConnectionTrait, DbBackend, Statement};
use tempfile::TempDir;
use threepid_domain::model::{Sid, UnitOfWork};
use threepid_domain::ports::{CommitError, Conflict, Store};
use tokio::task::JoinHandle;

use super::{SOON, TestResult, email, message, open, session, threepid, url, user};
use crate::sea_orm::error::{ApplyError, StorageError};
use crate::sea_orm::{ConnectSettings, Database, SeaOrmStore};

type Commit = JoinHandle<Result<(), CommitError>>;

fn commit(store: &SeaOrmStore, unit: UnitOfWork) -> Commit {
    let store = store.clone();
    tokio::spawn(async move { store.commit(unit).await })
}

/// Lets every task run until it waits for something.
async fn settle_down() {
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
}

/// How many pages were written since the file was opened.
fn pages_written(folder: &TempDir) -> Result<u64, std::io::Error> {
    const PAGE: u64 = 4096 + 24;
    Ok(std::fs::metadata(folder.path().join("threepid.db-wal"))?.len() / PAGE)
}

#[tokio::test]
async fn units_that_wait_together_share_a_commit() -> TestResult {
    let folder = tempfile::tempdir()?;
    let database = open(&folder).await?;
    let store = SeaOrmStore::new(database.clone());
    let before = pages_written(&folder)?;
    let held = database.begin().await?;
    let mut commits = Vec::new();
    for n in 0..100 {
        let unit = UnitOfWork::new().put_threepid(threepid("alice", &format!("alice{n}@example.org"))?);
        commits.push(commit(&store, unit));
    }
    settle_down().await;
    held.rollback().await?;
    for commit in commits {
        commit.await??;
    }
    assert_eq!(store.threepids(&user("alice")?).await?.len(), 100);
    // One by one, each would have written at least a page of the table and one of each of its two indexes.
    let written = pages_written(&folder)? - before;
    assert!(written < 100, "{written} pages");
    Ok(())
}

#[tokio::test]
async fn each_of_those_that_wait_together_has_its_own_outcome() -> TestResult {
    let folder = tempfile::tempdir()?;
    let database = open(&folder).await?;
    let store = SeaOrmStore::new(database.clone());
    store.commit(UnitOfWork::new().put_threepid(threepid("alice", "taken@example.org")?)).await?;
    let held = database.begin().await?;
    let mut commits = Vec::new();
    for n in 0..50_u8 {
        // Every fifth meets its conflict after it has changed something, every seventh as its first change.
        let unit = UnitOfWork::new();
        let unit = if n % 7 == 0 { unit.put_threepid(threepid("bob", "taken@example.org")?) } else { unit };
        let unit = unit.put_session(session(&format!("sid{n}"), n)?).enqueue(message(&format!("mail{n}"))?);
        let unit = if n % 5 == 0 { unit.put_threepid(threepid("bob", "taken@example.org")?) } else { unit };
        commits.push((n, commit(&store, unit)));
    }
    settle_down().await;
    held.rollback().await?;
    for (n, commit) in commits {
        let outcome = commit.await?;
        let stands = store.session(&Sid::new(format!("sid{n}"))).await?.is_some();
        if n % 5 == 0 || n % 7 == 0 {
            let owned = matches!(outcome, Err(CommitError::Conflict(Conflict::AddressOwned)));
            assert!(owned && !stands, "{n}: {outcome:?} {stands}");
        } else {
            assert!(outcome.is_ok() && stands, "{n}: {outcome:?} {stands}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn of_units_that_wait_together_and_want_one_address_the_first_has_it() -> TestResult {
    let folder = tempfile::tempdir()?;
    let database = open(&folder).await?;
    let store = SeaOrmStore::new(database.clone());
    let held = database.begin().await?;
    let mut commits = Vec::new();
    for n in 0..20 {
        let unit = UnitOfWork::new().put_threepid(threepid(&format!("user{n}"), "wanted@example.org")?);
        commits.push(commit(&store, unit));
        settle_down().await;
    }
    held.rollback().await?;
    let mut won = 0;
    for commit in commits {
        won += usize::from(commit.await?.is_ok());
    }
    assert_eq!(won, 1);
    assert_eq!(store.owner(&email("wanted@example.org")?).await?, Some(user("user0")?));
    Ok(())
}

/// Where there is no room, SQLite ends the transaction by itself in the midst of the group.
#[tokio::test]
async fn where_there_is_no_room_for_a_group_each_is_done_alone_wholly_or_not_at_all() -> TestResult {
    let folder = tempfile::tempdir()?;
    let database = open(&folder).await?;
    let store = SeaOrmStore::new(database.clone());
    // The engine's own limit stands for the disk. It is the connection's, so the next one has room again.
    let limit = most_pages(&database, "PRAGMA max_page_count = 1").await?;
    let held = database.begin().await?;
    let mut commits = Vec::new();
    for n in 0..60_u8 {
        let mut unit = UnitOfWork::new().put_session(session(&format!("sid{n}"), n)?);
        for m in 0..40 {
            unit = unit.put_threepid(threepid(&format!("user{n}"), &format!("{m}-of-{n}@example.org"))?);
        }
        commits.push((n, commit(&store, unit)));
    }
    settle_down().await;
    held.rollback().await?;
    for (n, commit) in commits {
        let done = commit.await?.is_ok();
        let sessions = usize::from(store.session(&Sid::new(format!("sid{n}"))).await?.is_some());
        let threepids = store.threepids(&user(&format!("user{n}"))?).await?.len();
        assert_eq!((sessions, threepids), if done { (1, 40) } else { (0, 0) }, "{n}: {done}");
    }
    let now = most_pages(&database, "PRAGMA max_page_count").await?;
    assert!(now > limit, "the connection whose transaction the engine has ended is not used again");
    store.commit(UnitOfWork::new().put_threepid(threepid("later", "later@example.org")?)).await?;
    assert_eq!(store.owner(&email("later@example.org")?).await?, Some(user("later")?));
    Ok(())
}

async fn most_pages(database: &Database, pragma: &str) -> Result<i64, sea_orm::DbErr> {
    let row = database.writer().query_one_raw(Statement::from_string(DbBackend::Sqlite, pragma)).await?;
    row.ok_or(sea_orm::DbErr::RecordNotFound(pragma.to_owned()))?.try_get_by_index(0)
}

#[tokio::test]
async fn what_has_waited_too_long_is_not_begun() -> TestResult {
    let folder = tempfile::tempdir()?;
    let settings =
        ConnectSettings { acquire_timeout: Duration::from_millis(100), ..ConnectSettings::new(url(&folder)) };
    let database = Database::connect(&settings).await?;
    database.migrate().await?;
    let store = SeaOrmStore::new(database.clone());
    let held = database.begin().await?;
    let unit = UnitOfWork::new().put_session(session("sid", 1)?);
    let answer = tokio::time::timeout(SOON, store.commit(unit)).await?;
    assert!(matches!(answer, Err(CommitError::Unavailable(_))), "{answer:?}");
    held.rollback().await?;
    assert!(store.session(&Sid::new("sid")).await?.is_none());
    store.commit(UnitOfWork::new().put_session(session("other", 2)?)).await?;
    Ok(())
}

#[tokio::test]
async fn what_was_queued_before_the_end_is_done() -> TestResult {
    let folder = tempfile::tempdir()?;
    let database = open(&folder).await?;
    let store = SeaOrmStore::new(database.clone());
    let held = database.begin().await?;
    let commits: Vec<_> = (0..10)
        .map(|n| Ok(commit(&store, UnitOfWork::new().put_session(session(&format!("sid{n}"), n)?))))
        .collect::<Result<_, Box<dyn std::error::Error + Send + Sync>>>()?;
    settle_down().await;
    let closing = tokio::spawn({
        let database = database.clone();
        async move { database.close().await }
    });
    settle_down().await;
    held.rollback().await?;
    for commit in commits {
        commit.await??;
    }
    closing.await?;
    let late = store.commit(UnitOfWork::new().put_session(session("late", 99)?)).await;
    assert!(late.is_err(), "it is closed");
    Ok(())
}

#[tokio::test]
async fn a_change_that_panics_takes_nobody_with_it_who_comes_later() -> TestResult {
    let folder = tempfile::tempdir()?;
    let database = open(&folder).await?;
    let broken = database.write::<()>(|_| Box::pin(async { std::panic::resume_unwind(Box::new("broken")) }));
    assert!(matches!(broken.await, Err(ApplyError::Storage(StorageError::Undecided(_)))));
    let store = SeaOrmStore::new(database);
    store.commit(UnitOfWork::new().put_session(session("sid", 1)?)).await?;
    assert!(store.session(&Sid::new("sid")).await?.is_some());
    Ok(())
}
