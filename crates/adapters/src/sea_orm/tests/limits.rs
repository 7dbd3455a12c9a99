//! The limiter's contract kit on a file, and what becomes of a count that cannot be made.

#![expect(clippy::expect_used, reason = "without a backend there is nothing to test")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sea_orm::ConnectionTrait;
use tempfile::TempDir;
use threepid_domain::ports::{Clock as _, Housekeeping as _, Limit, Perishable, RateLimiter, Verdict};
use threepid_domain::testing::FixedClock;
use threepid_domain::testing::contract::LimiterBackend;
use threepid_domain::testing::contract::rate_limiter::kit_rate;

use super::{TestResult, open};
use crate::limits::{LimitSettings, Limiter, Rate};
use crate::sea_orm::{ConnectSettings, Database, SeaOrmStore};

/// The kit's rate for every limit.
fn kit_settings() -> LimitSettings {
    let (per_second, burst) = kit_rate();
    let rate = Some(Rate { per_second, burst });
    Limit::ALL.iter().fold(LimitSettings::default(), |settings, limit| settings.with(*limit, rate))
}

async fn limiter(folder: &Path, clock: Arc<FixedClock>) -> Arc<dyn RateLimiter> {
    let settings = ConnectSettings::new(folder.join("threepid.db").display().to_string());
    let database = Database::connect(&settings).await.expect("the database opens");
    database.migrate().await.expect("the database is migrated");
    Arc::new(Limiter::sharing(&kit_settings(), clock, Arc::new(database)).expect("the kit's rates are rates"))
}

async fn fresh() -> LimiterBackend {
    let folder = Arc::new(TempDir::new().expect("there is room for a folder"));
    let clock = Arc::new(FixedClock::default());
    let first = limiter(folder.path(), clock.clone()).await;
    LimiterBackend::new(first, clock.clone(), move || {
        let (folder, clock) = (folder.clone(), clock.clone());
        async move { limiter(folder.path(), clock).await }
    })
}

mod contract {
    threepid_domain::rate_limiter_contract!(super::fresh());
}

#[tokio::test]
async fn what_cannot_be_counted_is_unavailable_and_not_allowed() -> TestResult {
    let folder = tempfile::tempdir()?;
    let database = open(&folder).await?;
    let shared = Arc::new(database.clone());
    let limiter = Limiter::sharing(&kit_settings(), Arc::new(FixedClock::default()), shared)?;
    database.writer().execute_unprepared("ALTER TABLE rate_limit RENAME TO elsewhere").await?;
    for (limit, is_shared) in [(Limit::RequestTokenPerAddress, true), (Limit::RequestTokenPerClient, false)] {
        assert_eq!(limiter.take(limit, "b".to_owned()).await.is_err(), is_shared, "{limit:?}");
        assert_eq!(limiter.look(limit, "b".to_owned()).await.is_err(), is_shared, "{limit:?}");
        assert_eq!(limiter.give_back(limit, "b".to_owned()).await.is_err(), is_shared, "{limit:?}");
    }
    Ok(())
}

/// While a count refuses somebody it stays; once it says nothing it goes, and whoever comes then begins anew.
#[tokio::test]
async fn counts_that_say_nothing_any_more_leave_and_others_stay() -> TestResult {
    let folder = tempfile::tempdir()?;
    let database = open(&folder).await?;
    let clock = Arc::new(FixedClock::default());
    let (per_second, burst) = kit_rate();
    let limiter = Limiter::sharing(&kit_settings(), clock.clone(), Arc::new(database.clone()))?;
    let store = SeaOrmStore::new(database);
    let take = |subject: &str| limiter.take(Limit::RequestTokenPerAddress, subject.to_owned());
    for _ in 0..burst {
        take("busy").await?.over(Limit::RequestTokenPerAddress)?;
    }
    take("idle").await?.over(Limit::RequestTokenPerAddress)?;
    let now = clock.now();
    let idle_is_full = now.plus(Duration::from_secs_f64(per_second.recip()));
    let busy_is_full = now.plus(Duration::from_secs_f64(f64::from(burst) / per_second));
    for (before, removed) in [(now, 0), (idle_is_full, 0), (busy_is_full, 1), (busy_is_full, 0)] {
        assert_eq!(store.purge(Perishable::Counts, before, 10).await?, removed, "{before:?}");
    }
    assert_ne!(take("busy").await?, Verdict::Allowed);
    let after = busy_is_full.plus(Duration::from_millis(1));
    assert_eq!(store.purge(Perishable::Counts, after, 10).await?, 1);
    clock.set(after);
    assert_eq!(take("busy").await?, Verdict::Allowed);
    assert_eq!(store.purge(Perishable::Counts, after, 10).await?, 0);
    Ok(())
}
