//! Several instances on one database.

use std::collections::HashSet;
use std::time::Duration;

use threepid_domain::model::{KeyedHash, LeaseId, Sid, UnitOfWork};
use threepid_domain::ports::{CommitError, Conflict, Outbox as _, Store as _};
use tokio::time::timeout;

use super::{SOON, TestResult, cluster, database_name, empty, message, open, session, threepid};

const LEASE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_wakes_another_ones_relay() -> TestResult {
    let url = empty().await?;
    let (one, other) = (open(&url).await?, open(&url).await?);
    // Every instance looks once when it begins to listen.
    timeout(SOON, other.woken()).await?;
    one.commit(UnitOfWork::new().enqueue(message("message")?)).await?;
    timeout(SOON, other.woken()).await?;
    let claimed = other.claim(super::NOW, LEASE, LeaseId::new("lease"), 10).await?;
    assert_eq!(claimed.len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_lost_its_connection_listens_again() -> TestResult {
    let url = empty().await?;
    let (one, other) = (open(&url).await?, open(&url).await?);
    timeout(SOON, other.woken()).await?;
    assert!(cluster().await?.cut_connections(database_name(&url)).await? > 1);
    // It looks once when it listens again.
    timeout(SOON, other.woken()).await?;
    one.commit(UnitOfWork::new().enqueue(message("message")?)).await?;
    timeout(SOON, other.woken()).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_whose_connection_was_cut_is_done_on_another_one() -> TestResult {
    let url = empty().await?;
    let store = open(&url).await?;
    for id in ["a", "b", "c"] {
        // The pool does not look at a connection that was in use a moment ago.
        assert!(cluster().await?.cut_connections(database_name(&url)).await? > 0);
        store.commit(UnitOfWork::new().enqueue(message(id)?)).await?;
    }
    assert_eq!(store.claim(super::NOW, LEASE, LeaseId::new("lease"), 10).await?.len(), 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_pass_rows_that_another_instance_is_about_to_lease() -> TestResult {
    let url = empty().await?;
    let store = open(&url).await?;
    let unit = UnitOfWork::new().enqueue(message("a")?).enqueue(message("b")?);
    store.commit(unit).await?;
    // Another session holds the older row without leasing it.
    let cluster = cluster().await?;
    let hold = "BEGIN; SELECT id FROM outbox WHERE id = 'a' FOR UPDATE; SELECT pg_sleep(600)";
    let database = database_name(&url).to_owned();
    let holder = tokio::spawn(async move { cluster.sql(&database, hold).await });
    let is_held =
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()";
    threepid_tests::peers::wait_until("the lock", SOON, || async {
        Ok((cluster.sql(database_name(&url), is_held).await? == "1").then_some(()))
    })
    .await?;
    let claimed = timeout(SOON, store.claim(super::NOW, LEASE, LeaseId::new("lease"), 10)).await??;
    assert_eq!(claimed.iter().map(|claimed| claimed.message.id.as_str()).collect::<Vec<_>>(), ["b"]);
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()";
    cluster.sql(database_name(&url), end).await?;
    assert!(holder.await?.is_err());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn units_that_deadlock_are_run_anew() -> TestResult {
    let url = empty().await?;
    let (one, other) = (open(&url).await?, open(&url).await?);
    // Each unit writes all addresses, and every second unit writes them backwards.
    let addresses: Vec<_> = (0..8).map(|n| format!("user{n}@example.org")).collect();
    let mut tasks = Vec::new();
    for n in 0..4_usize {
        let store = if n % 2 == 0 { one.clone() } else { other.clone() };
        let mut unit = UnitOfWork::new();
        let order: Vec<_> =
            if n % 2 == 0 { addresses.iter().collect() } else { addresses.iter().rev().collect() };
        for address in order {
            unit = unit.put_threepid(threepid("alice", address)?);
        }
        unit = unit.enqueue(message(&format!("message{n}"))?);
        tasks.push(tokio::spawn(async move { store.commit(unit).await }));
    }
    for task in tasks {
        task.await??;
    }
    assert_eq!(one.threepids(&super::user("alice")?).await?.len(), addresses.len());
    let claimed = one.claim(super::NOW, LEASE, LeaseId::new("lease"), 100).await?;
    let ids: HashSet<_> = claimed.into_iter().map(|claimed| claimed.message.id).collect();
    assert_eq!(ids.len(), 4, "each unit is there once");
    Ok(())
}

#[tokio::test]
async fn a_conflict_in_an_update_undoes_the_whole_unit() -> TestResult {
    let store = open(&empty().await?).await?;
    let (old, new) = (KeyedHash::new([1; 32]), KeyedHash::new([2; 32]));
    store.commit(UnitOfWork::new().put_session(session("old", [1; 32])?)).await?;
    store.commit(UnitOfWork::new().put_session(session("new", [2; 32])?)).await?;
    // The session `new` moves under the key of `old`: the engine refuses the update and ends the transaction.
    let stored = store.session(&Sid::new("new")).await?.ok_or("it is there")?;
    let mut record = stored.record().clone();
    record.key = old;
    let unit = UnitOfWork::new()
        .enqueue(message("message")?)
        .put_session(threepid_domain::model::ValidationSession::from_record(record));
    let answer = store.commit(unit).await;
    assert!(matches!(answer, Err(CommitError::Conflict(Conflict::SessionExists))), "{answer:?}");
    assert_eq!(store.claim(super::NOW, LEASE, LeaseId::new("lease"), 10).await?, []);
    assert!(store.current_session(new).await?.is_some());
    Ok(())
}

#[tokio::test]
async fn what_a_mail_server_said_is_kept_whatever_it_holds() -> TestResult {
    use threepid_domain::model::{MessageId, Settlement};

    let url = empty().await?;
    let store = open(&url).await?;
    store.commit(UnitOfWork::new().enqueue(message("message")?)).await?;
    store.claim(super::NOW, LEASE, LeaseId::new("lease"), 1).await?;
    let dead = Settlement::Dead { reason: "550 n\0 such user é".to_owned() };
    assert!(store.settle(&MessageId::new("message"), &LeaseId::new("lease"), super::NOW, dead).await?);
    let kept = cluster().await?.sql(database_name(&url), "SELECT state, last_error FROM outbox").await?;
    assert_eq!(kept, "dead|550 n\u{fffd} such user é");
    Ok(())
}
