//! The server goes away and comes back, under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use threepid_adapters::sea_orm::{ConnectSettings, Database, SeaOrmStore};
use threepid_domain::model::{Sid, UnitOfWork};
use threepid_domain::ports::{CommitError, Store as _};
use threepid_tests::peers::{PeerError, Postgres, wait_until};

use super::{SOON, TestResult, message, session, settings};

/// How long a call may take that meets a fault: the wait for a connection, and some.
const FAILS_WITHIN: Duration = Duration::from_secs(12);

/// Commits sessions, each with its message, until told to stop; the sids of those that were acknowledged.
async fn work(
    store: SeaOrmStore,
    worker: u8,
    stop: Arc<AtomicBool>,
) -> Result<Vec<String>, Box<dyn std::error::Error + Send + Sync>> {
    let mut acknowledged = Vec::new();
    for turn in 0_u64.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let sid = format!("sid{worker}.{turn}");
        let mut key = [worker; 32];
        key[..8].copy_from_slice(&turn.to_be_bytes());
        let unit = UnitOfWork::new().put_session(session(&sid, key)?).enqueue(message(&sid)?);
        let began = Instant::now();
        match store.commit(unit).await {
            Ok(()) => acknowledged.push(sid),
            Err(CommitError::Unavailable(_)) => {
                assert!(began.elapsed() < FAILS_WITHIN, "it hung for {:?}", began.elapsed());
            }
            Err(error @ CommitError::Conflict(_)) => return Err(error.into()),
        }
    }
    Ok(acknowledged)
}

async fn rows(postgres: &Postgres, database: &str, sql: &str) -> Result<Vec<String>, PeerError> {
    Ok(postgres.sql(database, sql).await?.lines().map(str::to_owned).collect())
}

/// Waits until commits go on.
async fn goes_on(postgres: &Postgres, database: &str) -> Result<(), PeerError> {
    let all = "SELECT sid FROM validation_session";
    let before = rows(postgres, database, all).await?.len();
    wait_until("commits to go on", SOON, || async {
        Ok((rows(postgres, database, all).await?.len() > before + 20).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_acknowledged_is_lost_while_the_server_is_cut_off_restarted_and_killed() -> TestResult {
    let mut postgres = Postgres::builder().durable().start().await?;
    let name = postgres.create_database().await?;
    let url = postgres.url(&name);
    let database =
        Database::connect(&ConnectSettings { acquire_timeout: Duration::from_secs(2), ..settings(&url) })
            .await?;
    database.migrate().await?;
    let store = SeaOrmStore::new(database);
    let stop = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> =
        (0..6).map(|worker| tokio::spawn(work(store.clone(), worker, Arc::clone(&stop)))).collect();

    goes_on(&postgres, &name).await?;
    postgres.cut_connections(&name).await?;
    goes_on(&postgres, &name).await?;
    postgres.stop().await?;
    let refused = store.session(&Sid::new("sid0.0")).await;
    assert!(refused.is_err(), "{refused:?}");
    assert!(store.check().await.is_err(), "it is not ready");
    postgres.start_again().await?;
    goes_on(&postgres, &name).await?;
    postgres.kill().await?;
    postgres.start_again().await?;
    goes_on(&postgres, &name).await?;
    store.check().await?;

    stop.store(true, Ordering::SeqCst);
    let mut acknowledged = Vec::new();
    for worker in workers {
        acknowledged.extend(worker.await??);
    }
    let sessions = rows(&postgres, &name, "SELECT sid FROM validation_session ORDER BY 1").await?;
    let messages = rows(&postgres, &name, "SELECT id FROM outbox ORDER BY 1").await?;
    assert_eq!(sessions, messages, "a unit is whole or not at all");
    let lost: Vec<_> = acknowledged.iter().filter(|sid| !sessions.contains(sid)).collect();
    assert!(lost.is_empty() && acknowledged.len() > 80, "of {}: {lost:?}", acknowledged.len());
    Ok(())
}
