//! The domain's contract kits, on a database that is opened a second time where a case asks for a restart.

#![expect(clippy::expect_used, reason = "without a backend there is nothing to test")]

use std::sync::Arc;
use std::time::Duration;

use threepid_adapters::limits::{LimitSettings, Limiter, Rate};
use threepid_adapters::sea_orm::SeaOrmStore;
use threepid_domain::ports::{Clock as _, Housekeeping as _, Limit, Perishable, RateLimiter, Verdict};
use threepid_domain::testing::FixedClock;
use threepid_domain::testing::contract::rate_limiter::kit_rate;
use threepid_domain::testing::contract::{Backend, Handles, LimiterBackend};

async fn fresh() -> Backend {
    let url = super::empty().await.expect("there is a database");
    let store = super::open(&url).await.expect("the database opens");
    let reopen = move || {
        let url = url.clone();
        async move {
            let store = super::open(&url).await.expect("the database opens again");
            Handles { store: store.clone(), outbox: store }
        }
    };
    Backend::new(store.clone(), store.clone())
        .kept_by(store.clone())
        .shown_by(store.clone())
        .asked_by(store.clone())
        .erased_by(store)
        .reopened_by(reopen)
}

mod store {
    threepid_domain::store_contract!(super::fresh());
}

mod outbox {
    threepid_domain::outbox_contract!(super::fresh());
}

mod housekeeping {
    threepid_domain::housekeeping_contract!(super::fresh());
}

mod outbox_records {
    threepid_domain::outbox_records_contract!(super::fresh());
}

/// The kit's rate for every limit.
fn kit_settings() -> LimitSettings {
    let (per_second, burst) = kit_rate();
    let rate = Some(Rate { per_second, burst });
    Limit::ALL.iter().fold(LimitSettings::default(), |settings, limit| settings.with(*limit, rate))
}

async fn limiter(url: &str, clock: Arc<FixedClock>) -> Arc<dyn RateLimiter> {
    let database = super::migrated(url).await.expect("the database opens");
    Arc::new(Limiter::sharing(&kit_settings(), clock, Arc::new(database)).expect("the kit's rates are rates"))
}

async fn fresh_limiter() -> LimiterBackend {
    let url = super::empty().await.expect("there is a database");
    let clock = Arc::new(FixedClock::default());
    let first = limiter(&url, clock.clone()).await;
    LimiterBackend::new(first, clock.clone(), move || {
        let (url, clock) = (url.clone(), clock.clone());
        async move { limiter(&url, clock).await }
    })
}

mod rate_limiter {
    threepid_domain::rate_limiter_contract!(super::fresh_limiter());
}

mod account_records {
    threepid_domain::account_records_contract!(super::fresh());
}

/// While a count refuses somebody it stays; once it says nothing it goes, and whoever comes then begins anew.
#[tokio::test]
async fn counts_that_say_nothing_any_more_leave_and_others_stay() -> super::TestResult {
    let database = super::migrated(&super::empty().await?).await?;
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

mod erasures {
    threepid_domain::erasures_contract!(super::fresh());
}
