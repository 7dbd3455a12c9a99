//! The domain's contract kits, on a database that is opened a second time where a case asks for a restart.

#![expect(clippy::expect_used, reason = "without a backend there is nothing to test")]

use std::sync::Arc;

use threepid_adapters::limits::{LimitSettings, Limiter, Rate};
use threepid_domain::ports::{Limit, RateLimiter};
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

async fn limiter(url: &str, clock: Arc<FixedClock>) -> Arc<dyn RateLimiter> {
    let database = super::migrated(url).await.expect("the database opens");
    let (per_second, burst) = kit_rate();
    let rate = Some(Rate { per_second, burst });
    let settings =
        Limit::ALL.iter().fold(LimitSettings::default(), |settings, limit| settings.with(*limit, rate));
    Arc::new(Limiter::sharing(&settings, clock, Arc::new(database)).expect("the kit's rates are rates"))
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

mod erasures {
    threepid_domain::erasures_contract!(super::fresh());
}
