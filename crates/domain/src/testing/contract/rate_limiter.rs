//! What a [`RateLimiter`] owes. That its memory is bounded cannot be seen through the port; it is for the adapter's own
//! tests.

use std::sync::Arc;
use std::time::Duration;

use super::{BoxFuture, Spawner, race};
use crate::model::Timestamp;
use crate::ports::{Clock, EVERYBODY, Limit, OverLimit, RateLimiter, Scope, Verdict};
use crate::testing::FixedClock;

/// How many acts each limit of the kit allows at once.
pub const BURST: u32 = 3;

/// How long one act of the kit's limits takes to come back.
pub const INTERVAL: Duration = Duration::from_secs(10);

/// The same as acts per second and acts at once.
pub fn kit_rate() -> (f64, u32) {
    (INTERVAL.as_secs_f64().recip(), BURST)
}

const MS: Duration = Duration::from_millis(1);

/// A limiter without counts: [`BURST`] at once and one more every [`INTERVAL`] for every limit.
pub struct LimiterBackend {
    /// The limiter.
    pub limiter: Arc<dyn RateLimiter>,
    /// The clock that it goes by.
    pub clock: Arc<FixedClock>,
    /// Opens another limiter on the same storage and the same clock.
    another: Box<dyn Fn() -> BoxFuture<Arc<dyn RateLimiter>> + Send + Sync>,
}

impl LimiterBackend {
    /// A limiter, and how another instance on the same storage is opened, as by another process or after a restart.
    pub fn new<F>(
        limiter: Arc<dyn RateLimiter>,
        clock: Arc<FixedClock>,
        another: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Arc<dyn RateLimiter>> + Send + 'static,
    {
        Self { limiter, clock, another: Box::new(move || Box::pin(another())) }
    }

    /// Another instance.
    pub async fn another(&self) -> Arc<dyn RateLimiter> {
        (self.another)().await
    }

    async fn take(&self, limit: Limit, subject: &str) -> Verdict {
        take(&*self.limiter, limit, subject).await
    }

    async fn look(&self, limit: Limit, subject: &str) -> Verdict {
        self.limiter.look(limit, subject.to_owned()).await.expect("the limiter answers")
    }

    async fn give_back(&self, limit: Limit, subject: &str) {
        self.limiter.give_back(limit, subject.to_owned()).await.expect("the limiter answers");
    }

    async fn exhaust(&self, limit: Limit, subject: &str) {
        for act in 0..BURST {
            assert_eq!(self.take(limit, subject).await, Verdict::Allowed, "act {act} of {limit:?}");
        }
    }
}

async fn take(limiter: &dyn RateLimiter, limit: Limit, subject: &str) -> Verdict {
    limiter.take(limit, subject.to_owned()).await.expect("the limiter answers")
}

/// A burst at once, then one act each interval, and each refusal says how long to wait.
pub async fn a_burst_is_allowed_and_then_one_act_per_interval(backend: &LimiterBackend) {
    for &limit in Limit::ALL {
        backend.exhaust(limit, "subject").await;
        for _ in 0..2 {
            assert_eq!(backend.take(limit, "subject").await, Verdict::RetryAfter(INTERVAL), "{limit:?}");
        }
        backend.clock.advance(INTERVAL - MS);
        assert_eq!(backend.take(limit, "subject").await, Verdict::RetryAfter(MS), "{limit:?}");
        backend.clock.advance(MS);
        assert_eq!(backend.take(limit, "subject").await, Verdict::Allowed, "{limit:?}");
        assert_eq!(backend.take(limit, "subject").await, Verdict::RetryAfter(INTERVAL), "{limit:?}");
        backend.clock.advance(100 * INTERVAL);
        backend.exhaust(limit, "subject").await;
        assert_ne!(
            backend.take(limit, "subject").await,
            Verdict::Allowed,
            "no more than a burst is saved up"
        );
    }
}

/// Of acts under several limits those are counted that come before the first which is refused, and no other.
pub async fn acts_under_several_limits_are_counted_up_to_the_first_that_is_refused(backend: &LimiterBackend) {
    use Limit::{CodesPerAddress, MailsInAll, RequestTokenPerAddress, SubmitPerClient, SubmitPerSession};
    for (turn, [first, second, third]) in [
        [RequestTokenPerAddress, MailsInAll, CodesPerAddress],
        [SubmitPerClient, MailsInAll, SubmitPerSession],
        [RequestTokenPerAddress, SubmitPerClient, MailsInAll],
        [MailsInAll, MailsInAll, MailsInAll],
    ]
    .into_iter()
    .enumerate()
    {
        let subject = |place: &str| format!("{turn} {place}");
        let acts = || vec![(first, subject("a")), (second, subject("b")), (third, subject("c"))];
        let take_each = || async { backend.limiter.take_each(acts()).await.expect("the limiter answers") };
        assert_eq!(take_each().await, Ok(()), "{turn}");
        // Where others look, too, they are who exhausts it.
        let other =
            if second.scope() == Scope::Shared { backend.another().await } else { backend.limiter.clone() };
        for _ in 1..BURST {
            assert_eq!(take(&*other, second, &subject("b")).await, Verdict::Allowed, "{turn}");
        }
        let over = Err(OverLimit { limit: second, retry_after: INTERVAL });
        assert_eq!((take_each().await, take_each().await), (over, over), "{turn}");
        for (limit, place, taken) in [(first, "a", 3), (third, "c", 1)] {
            for _ in taken..BURST {
                assert_eq!(backend.take(limit, &subject(place)).await, Verdict::Allowed, "{turn} {place}");
            }
            assert_ne!(backend.take(limit, &subject(place)).await, Verdict::Allowed, "{turn} {place}");
        }
        assert_eq!(take_each().await.map_err(|over| over.limit), Err(first), "{turn}");
        let none = backend.limiter.take_each(Vec::new()).await;
        assert!(matches!(none, Ok(Ok(()))), "{turn}: {none:?}");
    }
}

/// One subject's acts are no other's, and one limit's no other's.
pub async fn each_subject_of_each_limit_is_counted_on_its_own(backend: &LimiterBackend) {
    let strange = "\u{0}'\"%_ \u{1f600}".repeat(40);
    for &limit in Limit::ALL {
        for subject in ["a", "A", "", EVERYBODY, &strange] {
            backend.exhaust(limit, subject).await;
            assert_ne!(backend.take(limit, subject).await, Verdict::Allowed, "{limit:?} {subject}");
        }
        assert_eq!(backend.take(limit, "b").await, Verdict::Allowed, "{limit:?}");
    }
}

/// To look is not to act.
pub async fn a_look_tells_and_counts_nothing(backend: &LimiterBackend) {
    for &limit in Limit::ALL {
        for _ in 0..2 * BURST {
            assert_eq!(backend.look(limit, "subject").await, Verdict::Allowed, "{limit:?}");
        }
        backend.exhaust(limit, "subject").await;
        assert_eq!(backend.look(limit, "subject").await, Verdict::RetryAfter(INTERVAL), "{limit:?}");
        backend.clock.advance(INTERVAL);
        assert_eq!(backend.look(limit, "subject").await, Verdict::Allowed, "{limit:?}");
    }
}

/// What was given back can be taken again, and nothing besides.
pub async fn no_more_is_given_back_than_was_taken(backend: &LimiterBackend) {
    for &limit in Limit::ALL {
        for _ in 0..2 {
            backend.give_back(limit, "subject").await;
        }
        backend.exhaust(limit, "subject").await;
        assert_ne!(backend.take(limit, "subject").await, Verdict::Allowed, "{limit:?}");
        backend.give_back(limit, "subject").await;
        assert_eq!(backend.take(limit, "subject").await, Verdict::Allowed, "{limit:?}");
        assert_ne!(backend.take(limit, "subject").await, Verdict::Allowed, "{limit:?}");
        backend.clock.advance(100 * INTERVAL);
        backend.give_back(limit, "subject").await;
        backend.exhaust(limit, "subject").await;
        assert_ne!(backend.take(limit, "subject").await, Verdict::Allowed, "{limit:?}");
    }
}

/// A clock that is set back refuses nobody for as long as it was set back.
pub async fn a_clock_that_is_set_back_refuses_nobody_for_long(backend: &LimiterBackend) {
    let day = 24 * 60 * 60 * 1000;
    for &limit in Limit::ALL {
        backend.exhaust(limit, "subject").await;
        backend.clock.set(Timestamp::from_ms(backend.clock.now().as_ms() - day));
        for _ in 0..BURST {
            if let Verdict::RetryAfter(wait) = backend.take(limit, "subject").await {
                assert!(wait <= BURST * INTERVAL + Duration::from_secs(60), "{limit:?}: {wait:?}");
                backend.clock.advance(wait);
                assert_eq!(backend.take(limit, "subject").await, Verdict::Allowed, "{limit:?}");
            }
        }
        assert_ne!(backend.take(limit, "subject").await, Verdict::Allowed, "{limit:?}: nothing is forgotten");
    }
}

/// Shared limits hold for all instances together, whichever was asked first, and for those that start later.
pub async fn shared_limits_hold_across_instances_and_restarts(backend: &LimiterBackend) {
    for &limit in Limit::ALL.iter().filter(|limit| limit.scope() == Scope::Shared) {
        let other = backend.another().await;
        assert_eq!(backend.take(limit, "subject").await, Verdict::Allowed, "{limit:?}");
        for _ in 1..BURST {
            assert_eq!(take(&*other, limit, "subject").await, Verdict::Allowed, "{limit:?}");
        }
        assert_eq!(backend.look(limit, "subject").await, Verdict::RetryAfter(INTERVAL), "{limit:?}");
        assert_eq!(backend.take(limit, "subject").await, Verdict::RetryAfter(INTERVAL), "{limit:?}");
        let later = backend.another().await;
        assert_eq!(take(&*later, limit, "subject").await, Verdict::RetryAfter(INTERVAL), "{limit:?}");
        backend.give_back(limit, "subject").await;
        let latest = backend.another().await;
        assert_eq!(take(&*latest, limit, "subject").await, Verdict::Allowed, "{limit:?}");
        backend.clock.advance(INTERVAL);
        assert_eq!(take(&*other, limit, "subject").await, Verdict::Allowed, "{limit:?}");
        assert_ne!(backend.take(limit, "subject").await, Verdict::Allowed, "{limit:?}");
    }
}

/// However many come at once, and wherever a shared limit is asked, no more than a burst is allowed.
pub async fn acts_at_once_are_each_counted(backend: &LimiterBackend, spawn: Spawner) {
    for &limit in Limit::ALL {
        let mut instances = vec![backend.limiter.clone()];
        if limit.scope() == Scope::Shared {
            instances.push(backend.another().await);
        }
        let act = |limiter: Arc<dyn RateLimiter>| async move { take(&*limiter, limit, "subject").await };
        let acts = instances.iter().cycle().take(40).cloned().map(act).collect();
        let verdicts = race(spawn, acts).await;
        let allowed = verdicts.iter().filter(|verdict| **verdict == Verdict::Allowed).count();
        assert_eq!(allowed, BURST as usize, "{limit:?}: {verdicts:?}");
    }
    // Each under a limit of its own, and then all under one.
    let another = backend.another().await;
    let each = |number: usize| {
        let limiter = if number.is_multiple_of(2) { backend.limiter.clone() } else { another.clone() };
        let acts = vec![
            (Limit::RequestTokenPerAddress, format!("at once {number}")),
            (Limit::MailsInAll, "at once".to_owned()),
        ];
        async move { limiter.take_each(acts).await.expect("the limiter answers") }
    };
    let verdicts = race(spawn, (0..40).map(each).collect()).await;
    let allowed = verdicts.iter().filter(|verdict| verdict.is_ok()).count();
    assert_eq!(allowed, BURST as usize, "{verdicts:?}");
    for number in 0..40 {
        let subject = format!("at once {number}");
        for _ in 1..BURST {
            assert_eq!(backend.take(Limit::RequestTokenPerAddress, &subject).await, Verdict::Allowed);
        }
        assert_ne!(backend.take(Limit::RequestTokenPerAddress, &subject).await, Verdict::Allowed);
    }
}
