use std::time::Duration;

use sea_orm::ConnectionTrait;
use threepid_domain::model::{KeyedHash, Sid, Threepid, Timestamp, UnitOfWork};
use threepid_domain::ports::{CommitError, Conflict, Store, Unavailable};
use tokio::time::{Instant, timeout};

use super::{SOON, TestResult, email, message, open, session, threepid, user};
use crate::sea_orm::SeaOrmStore;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_64_accounts_that_add_one_address_at_once_one_wins() -> TestResult {
    let folder = tempfile::tempdir()?;
    // Two processes, as far as SQLite can tell.
    let stores = [SeaOrmStore::new(open(&folder).await?), SeaOrmStore::new(open(&folder).await?)];
    let mut adds = Vec::new();
    for n in 0..64 {
        let store = stores[n % 2].clone();
        let threepid = threepid(&format!("user{n}"), "alice@example.org")?;
        adds.push(tokio::spawn(async move {
            let unit = UnitOfWork::new().put_threepid(threepid.clone());
            (threepid.user_id, store.commit(unit).await)
        }));
    }
    let mut winners = Vec::new();
    for add in adds {
        match add.await? {
            (user, Ok(())) => winners.push(user),
            (_, Err(CommitError::Conflict(Conflict::AddressOwned))) => {}
            (user, Err(error)) => return Err(format!("{user}: {error}").into()),
        }
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(stores[0].owner(&email("alice@example.org")?).await?.as_ref(), winners.first());
    Ok(())
}

/// Where there is no room, SQLite ends the transaction by itself, and the driver believes that it goes on: every later
/// one would be a part of it, acknowledged and never committed.
#[tokio::test]
async fn a_commit_that_finds_no_room_does_not_spoil_those_after_it() -> TestResult {
    let folder = tempfile::tempdir()?;
    let database = open(&folder).await?;
    let store = SeaOrmStore::new(database.clone());
    store.commit(UnitOfWork::new().put_threepid(threepid("alice", "alice@example.org")?)).await?;
    // The engine's own limit stands for the disk.
    database.writer().execute_unprepared("PRAGMA max_page_count = 1").await?;
    let mut outcome = Ok(());
    for n in 0..2_000 {
        let unit = UnitOfWork::new().put_threepid(threepid("alice", &format!("alice{n}@example.org"))?);
        outcome = store.commit(unit).await;
        if outcome.is_err() {
            break;
        }
    }
    assert!(matches!(outcome, Err(CommitError::Unavailable(_))), "{outcome:?}");
    let _lifted = database.writer().execute_unprepared("PRAGMA max_page_count = 1000000").await;

    // One that is undone, and one that is not.
    let owned = store.commit(UnitOfWork::new().put_threepid(threepid("bob", "alice@example.org")?)).await;
    assert!(matches!(owned, Err(CommitError::Conflict(Conflict::AddressOwned))), "{owned:?}");
    store.commit(UnitOfWork::new().put_threepid(threepid("bob", "bob@example.org")?)).await?;
    assert_eq!(store.owner(&email("bob@example.org")?).await?, Some(user("bob")?));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_and_readers_at_once_never_meet_a_busy_database() -> TestResult {
    let folder = tempfile::tempdir()?;
    let stores = [SeaOrmStore::new(open(&folder).await?), SeaOrmStore::new(open(&folder).await?)];
    let mut tasks = Vec::new();
    for n in 0..32_u8 {
        let writer = stores[usize::from(n % 2)].clone();
        tasks.push(tokio::spawn(async move {
            for turn in 0..8_u8 {
                let unit = UnitOfWork::new()
                    .put_session(session(&format!("sid{n}-{turn}"), n * 8 + turn)?)
                    .put_threepid(threepid(&format!("user{n}"), &format!("user{n}-{turn}@example.org"))?)
                    .enqueue(message(&format!("message{n}-{turn}"))?);
                writer.commit(unit).await?;
            }
            TestResult::Ok(())
        }));
        let reader = stores[usize::from(n % 2)].clone();
        tasks.push(tokio::spawn(async move {
            for turn in 0..32 {
                let threepids = reader.threepids(&user(&format!("user{n}"))?).await?;
                let found = reader.session(&Sid::new(format!("sid{n}-{}", turn / 4))).await?;
                // A unit is seen whole or not at all.
                assert!(
                    found.is_none() || reader.threepids(&user(&format!("user{n}"))?).await?.len() > turn / 4
                );
                assert!(threepids.len() <= 8);
            }
            TestResult::Ok(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    for n in 0..32 {
        assert_eq!(stores[0].threepids(&user(&format!("user{n}"))?).await?.len(), 8);
    }
    Ok(())
}

#[tokio::test]
async fn reads_do_not_wait_for_a_writer() -> TestResult {
    let folder = tempfile::tempdir()?;
    let database = open(&folder).await?;
    let store = SeaOrmStore::new(database.clone());
    store.commit(UnitOfWork::new().put_session(session("sid", 1)?)).await?;
    let held = database.begin().await?;
    held.execute_unprepared("DELETE FROM validation_session").await?;
    let found = timeout(SOON, store.session(&Sid::new("sid"))).await??;
    assert!(found.is_some(), "what is not committed is not seen");
    timeout(SOON, store.check()).await??;
    held.commit().await?;
    assert!(store.session(&Sid::new("sid")).await?.is_none());
    Ok(())
}

#[tokio::test]
async fn a_commit_is_finished_though_its_caller_went_away() -> TestResult {
    let folder = tempfile::tempdir()?;
    let database = open(&folder).await?;
    let store = SeaOrmStore::new(database.clone());
    let held = database.begin().await?;
    let unit = UnitOfWork::new().put_session(session("sid", 1)?).enqueue(message("message")?);
    // It waits for the writer, and its caller goes away meanwhile.
    assert!(timeout(Duration::from_millis(50), store.commit(unit)).await.is_err());
    held.rollback().await?;
    let deadline = Instant::now() + SOON;
    while store.session(&Sid::new("sid")).await?.is_none() {
        assert!(Instant::now() < deadline, "the commit was lost");
        tokio::task::yield_now().await;
    }
    Ok(())
}

#[tokio::test]
async fn a_sid_and_a_key_that_are_both_taken_are_a_stale_session() -> TestResult {
    let folder = tempfile::tempdir()?;
    let store = SeaOrmStore::new(open(&folder).await?);
    store.commit(UnitOfWork::new().put_session(session("sid", 1)?)).await?;
    for (sid, key, expected) in [
        ("sid", 1, Conflict::StaleSession),
        ("sid", 2, Conflict::StaleSession),
        ("other", 1, Conflict::SessionExists),
    ] {
        let answer = store.commit(UnitOfWork::new().put_session(session(sid, key)?)).await;
        assert!(matches!(answer, Err(CommitError::Conflict(c)) if c == expected), "{sid} {key}: {answer:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_session_that_takes_the_place_of_the_current_one_by_an_update_is_a_conflict() -> TestResult {
    let folder = tempfile::tempdir()?;
    let store = SeaOrmStore::new(open(&folder).await?);
    store.commit(UnitOfWork::new().put_session(session("one", 1)?).put_session(session("two", 2)?)).await?;
    let mut two = store.session(&Sid::new("two")).await?.ok_or("it is stored")?.record().clone();
    two.key = KeyedHash::new([1; 32]);
    let unit = UnitOfWork::new().put_session(threepid_domain::model::ValidationSession::from_record(two));
    let answer = store.commit(unit).await;
    assert!(matches!(answer, Err(CommitError::Conflict(Conflict::SessionExists))), "{answer:?}");
    Ok(())
}

#[tokio::test]
async fn times_beyond_the_columns_saturate() -> TestResult {
    let folder = tempfile::tempdir()?;
    let store = SeaOrmStore::new(open(&folder).await?);
    let end = Timestamp::from_ms(u64::MAX);
    let threepid = Threepid { validated_at: end, ..threepid("alice", "alice@example.org")? };
    store.commit(UnitOfWork::new().put_threepid(threepid)).await?;
    let found = store.threepids(&user("alice")?).await?;
    assert_eq!(found.first().map(|t| t.validated_at), Some(Timestamp::from_ms(i64::MAX.unsigned_abs())));
    Ok(())
}

/// What a read says about a row that another hand has changed.
async fn cause(
    answer: Result<impl Sized, Unavailable>,
) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let Err(error) = answer else { return Err("a corrupt row was read".into()) };
    Ok(error.source.to_string())
}

#[tokio::test]
async fn a_corrupt_row_is_unavailable_and_says_why_without_its_values() -> TestResult {
    for (change, why) in [
        ("UPDATE validation_session SET tokens = 'hush'", "tokens is no list of issued tokens"),
        ("UPDATE validation_session SET tokens = '[]'", "tokens is empty"),
        ("UPDATE validation_session SET key = 'hush'", "key is no keyed hash"),
        ("UPDATE validation_session SET address = 'Hush@example.org'", "no canonical address"),
        ("UPDATE validation_session SET medium = 'hush'", "no canonical address"),
        ("UPDATE validation_session SET state = 'hush'", "state is none"),
        ("UPDATE validation_session SET state = 'validated'", "validated_at is missing"),
        ("UPDATE validation_session SET state = 'consumed', validated_at = 1", "consumed_by is missing"),
        ("UPDATE validation_session SET wrong_tokens = 256", "wrong_tokens is out of range"),
        ("UPDATE validation_session SET send_attempt = -1", "send_attempt is out of range"),
        ("UPDATE validation_session SET created_at = 'hush'", "created_at"),
    ] {
        let folder = tempfile::tempdir()?;
        let database = open(&folder).await?;
        let store = SeaOrmStore::new(database.clone());
        store.commit(UnitOfWork::new().put_session(session("sid", 1)?)).await?;
        database.writer().execute_unprepared(change).await?;
        let cause = cause(store.session(&Sid::new("sid")).await).await?;
        assert!(cause.contains(why) && !cause.to_lowercase().contains("hush"), "{change}: {cause}");
    }
    let folder = tempfile::tempdir()?;
    let database = open(&folder).await?;
    let store = SeaOrmStore::new(database.clone());
    store.commit(UnitOfWork::new().put_threepid(threepid("alice", "alice@example.org")?)).await?;
    database.writer().execute_unprepared("UPDATE threepid SET user_id = 'hush'").await?;
    let cause = cause(store.owner(&email("alice@example.org")?).await).await?;
    assert_eq!(cause, "corrupt row in table threepid: user_id is no Matrix user ID");
    Ok(())
}

#[tokio::test]
async fn a_closed_database_is_unavailable() -> TestResult {
    let folder = tempfile::tempdir()?;
    let database = open(&folder).await?;
    let store = SeaOrmStore::new(database.clone());
    database.close().await;
    assert!(store.check().await.is_err());
    let answer = store.commit(UnitOfWork::new().put_session(session("sid", 1)?)).await;
    assert!(matches!(answer, Err(CommitError::Unavailable(_))), "{answer:?}");
    Ok(())
}
