#![expect(clippy::unwrap_used, reason = "a test that meets an error has failed")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use threepid_domain::testing::FixedClock;
use threepid_domain::testing::contract::LimiterBackend;
use threepid_domain::testing::contract::rate_limiter::{BURST, INTERVAL, kit_rate};

use super::*;

/// The kit's rate for every limit.
fn kit_settings() -> LimitSettings {
    let (per_second, burst) = kit_rate();
    let rate = Some(Rate { per_second, burst });
    Limit::ALL.iter().fold(LimitSettings::default(), |settings, limit| settings.with(*limit, rate))
}

async fn fresh() -> LimiterBackend {
    let clock = Arc::new(FixedClock::default());
    let limiter: Arc<dyn RateLimiter> = Arc::new(Limiter::in_memory(&kit_settings(), clock.clone()).unwrap());
    let another = limiter.clone();
    LimiterBackend::new(limiter, clock, move || {
        let another = another.clone();
        async move { another }
    })
}

mod contract {
    threepid_domain::rate_limiter_contract!(super::fresh());
}

async fn take(limiter: &Limiter, subject: &str) -> Verdict {
    limiter.take(Limit::RequestTokenPerAddress, subject.to_owned()).await.unwrap()
}

#[tokio::test]
async fn a_flood_of_subjects_does_not_free_the_busiest() {
    let settings = kit_settings().remembering(100);
    let limiter = Limiter::in_memory(&settings, Arc::new(FixedClock::default())).unwrap();
    for _ in 0..BURST {
        assert_eq!(take(&limiter, "busy").await, Verdict::Allowed);
    }
    for n in 0..10_000 {
        assert_eq!(take(&limiter, &format!("client {n}")).await, Verdict::Allowed);
    }
    assert_ne!(take(&limiter, "busy").await, Verdict::Allowed);
}

#[tokio::test]
async fn without_a_rate_nothing_is_limited() {
    let settings = kit_settings().with(Limit::MailsInAll, None);
    let limiter = Limiter::in_memory(&settings, Arc::new(FixedClock::default())).unwrap();
    for _ in 0..1000 {
        assert_eq!(limiter.take(Limit::MailsInAll, "a".to_owned()).await.unwrap(), Verdict::Allowed);
        assert_eq!(limiter.look(Limit::MailsInAll, "a".to_owned()).await.unwrap(), Verdict::Allowed);
    }
    limiter.give_back(Limit::MailsInAll, "a".to_owned()).await.unwrap();
}

#[test]
fn nonsense_is_refused_by_name() {
    let made = |settings: &LimitSettings| Limiter::in_memory(settings, Arc::new(FixedClock::default())).err();
    for limit in Limit::ALL {
        let settings = LimitSettings::default().with(*limit, Some(Rate { per_second: 0.0, burst: 1 }));
        assert_eq!(made(&settings), Some(InvalidLimit::Rate(limit.name())));
    }
    let none = LimitSettings::default().remembering(1);
    assert_eq!(made(&none), Some(InvalidLimit::MaxSubjects));
    assert_eq!(made(&LimitSettings::default()), None);
}

#[test]
fn each_limit_is_found_at_its_place_and_has_a_name_of_its_own() {
    for (place, limit) in Limit::ALL.iter().enumerate() {
        assert_eq!(*limit as usize, place);
        assert_eq!(Limit::ALL.iter().filter(|other| other.name() == limit.name()).count(), 1);
    }
    assert_eq!(Rate::per_hour(1000), Some(Rate::default_of(Limit::MailsInAll)));
    assert_eq!(Rate::per_hour(100), Some(Rate::default_of(Limit::SmsInAll)));
}

/// Counts nothing and says that the bucket is empty.
#[derive(Default)]
struct Empty(AtomicUsize);

#[async_trait]
impl SharedCounts for Empty {
    async fn take(&self, acts: Vec<SharedAct>) -> Result<Vec<Counted>, Unavailable> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(acts.iter().take(1).map(|of| Counted { is_allowed: false, full_at: of.act.empty_until }).collect())
    }

    async fn full_at(&self, _: &'static str, _: String) -> Result<Option<i64>, Unavailable> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(None)
    }

    async fn give_back(&self, _: &'static str, _: String, _: Act) -> Result<(), Unavailable> {
        Ok(())
    }
}

#[tokio::test]
async fn whoever_is_known_to_be_over_a_shared_limit_costs_no_look() {
    let (clock, shared) = (Arc::new(FixedClock::default()), Arc::new(Empty::default()));
    let limiter = Limiter::sharing(&kit_settings(), clock.clone(), shared.clone()).unwrap();
    for _ in 0..100 {
        assert_eq!(take(&limiter, "a").await, Verdict::RetryAfter(INTERVAL));
        let looked = limiter.look(Limit::RequestTokenPerAddress, "a".to_owned()).await.unwrap();
        assert_eq!(looked, Verdict::RetryAfter(INTERVAL));
    }
    assert_eq!(shared.0.load(Ordering::Relaxed), 1);
    clock.advance(INTERVAL + Duration::from_millis(1));
    take(&limiter, "a").await;
    assert_eq!(shared.0.load(Ordering::Relaxed), 2);
    for _ in 0..2 * BURST {
        limiter.take(Limit::SubmitPerClient, "a".to_owned()).await.unwrap();
    }
    assert_eq!(shared.0.load(Ordering::Relaxed), 2, "what is this process's own is not looked for elsewhere");
}
