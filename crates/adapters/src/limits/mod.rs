//! Rate limits in memory, through [governor]: each subject of each limit has a bucket of its own that holds `burst`
//! acts and fills again at a steady rate.
//!
//! Memory is bounded: where a limit sees more subjects than it may keep, it forgets the half that acted least, which is
//! the half that is nearest to having a full bucket anyway. Counts are per process and do not outlive it.
//!
//! [governor]: https://docs.rs/governor

mod bounded_store;

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::time::Duration;

use async_trait::async_trait;
use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::{Quota, RateLimiter as Governor};
use threepid_domain::ports::{Limit, RateLimiter, Unavailable, Verdict};

use bounded_store::BoundedStore;

/// A full bucket takes at most this long to fill, so that no arithmetic on it can overflow.
const LONGEST_REFILL: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How fast one subject may act.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Acts per second over a long time; above 0. Default 0.003, about one in five and a half minutes.
    pub per_second: f64,
    /// Acts at once, before the rate begins to hold; at least 1. Default 5.
    pub burst: u32,
}

impl Default for Rate {
    fn default() -> Self {
        Self { per_second: 0.003, burst: 5 }
    }
}

/// The rate of each limit.
#[derive(Clone, Debug, PartialEq)]
pub struct LimitSettings {
    /// For [`Limit::RequestTokenPerClient`].
    pub request_token_per_client: Rate,
    /// For [`Limit::RequestTokenPerAddress`].
    pub request_token_per_address: Rate,
    /// For [`Limit::PasswordPerAccount`]. Default 0.17 a second, 3 at once.
    pub password_per_account: Rate,
    /// How many subjects each limit remembers, about 150 bytes each; at least 2. Default 100 000.
    pub max_subjects: usize,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            request_token_per_client: Rate::default(),
            request_token_per_address: Rate::default(),
            password_per_account: Rate { per_second: 0.17, burst: 3 },
            max_subjects: 100_000,
        }
    }
}

/// Settings that make no limit. The text names the setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLimit {
    /// A rate that is no rate.
    #[error("{0}: per_second must be above 0, burst at least 1, and burst / per_second at most a year")]
    Rate(&'static str),
    /// A memory that holds nothing.
    #[error("max_subjects must be at least 2")]
    MaxSubjects,
}

/// [`RateLimiter`] in this process's memory.
pub struct GovernorLimiter(Limits<DefaultClock>);

impl GovernorLimiter {
    /// Limits with empty counts.
    ///
    /// # Errors
    /// [`InvalidLimit`].
    pub fn new(settings: LimitSettings) -> Result<Self, InvalidLimit> {
        Limits::new(&settings, DefaultClock::default()).map(Self)
    }
}

impl std::fmt::Debug for GovernorLimiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GovernorLimiter")
    }
}

#[async_trait]
impl RateLimiter for GovernorLimiter {
    async fn take(&self, limit: Limit, subject: String) -> Result<Verdict, Unavailable> {
        Ok(self.0.take(limit, subject))
    }
}

type Buckets<C> = Governor<String, BoundedStore, C, NoOpMiddleware<<C as Clock>::Instant>>;

struct Limits<C: Clock> {
    clock: C,
    per_client: Buckets<C>,
    per_address: Buckets<C>,
    passwords: Buckets<C>,
}

impl<C: Clock + Clone> Limits<C> {
    fn new(settings: &LimitSettings, clock: C) -> Result<Self, InvalidLimit> {
        if settings.max_subjects < 2 {
            return Err(InvalidLimit::MaxSubjects);
        }
        let buckets = |rate: Rate, name| {
            let quota = quota(rate).ok_or(InvalidLimit::Rate(name))?;
            Ok(Governor::new(quota, BoundedStore::new(settings.max_subjects), clock.clone()))
        };
        Ok(Self {
            per_client: buckets(settings.request_token_per_client, "request_token_per_client")?,
            per_address: buckets(settings.request_token_per_address, "request_token_per_address")?,
            passwords: buckets(settings.password_per_account, "password_per_account")?,
            clock,
        })
    }

    fn take(&self, limit: Limit, subject: String) -> Verdict {
        let taken = match limit {
            Limit::RequestTokenPerClient => self.per_client.check_key(&network(subject)),
            Limit::RequestTokenPerAddress => self.per_address.check_key(&subject),
            Limit::PasswordPerAccount => self.passwords.check_key(&subject),
        };
        match taken {
            Ok(()) => Verdict::Allowed,
            Err(not_until) => Verdict::RetryAfter(not_until.wait_time_from(self.clock.now())),
        }
    }
}

fn quota(rate: Rate) -> Option<Quota> {
    let burst = NonZeroU32::new(rate.burst)?;
    if rate.per_second.is_nan() || rate.per_second <= 0.0 {
        return None;
    }
    // Above a thousand million a second the interval rounds to zero, which governor refuses.
    let interval = Duration::try_from_secs_f64(rate.per_second.recip()).ok()?.max(Duration::from_nanos(1));
    (interval.checked_mul(rate.burst)? <= LONGEST_REFILL)
        .then(|| Quota::with_period(interval))?
        .map(|quota| quota.allow_burst(burst))
}

/// Whom a client address is counted as: an IPv6 client has a whole /64 to itself and would otherwise have as many
/// tries as it likes. An IPv4 address that is written as IPv6 is the IPv4 address.
fn network(client: String) -> String {
    match client.parse().map(|ip: IpAddr| ip.to_canonical()) {
        Ok(IpAddr::V4(ip)) => ip.to_string(),
        Ok(IpAddr::V6(ip)) => format!("{}/64", Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
        Err(_) => client,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that meets an error has failed")]

    use governor::clock::FakeRelativeClock;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limits(per_client: Rate, max_subjects: usize) -> (Limits<FakeRelativeClock>, FakeRelativeClock) {
        let settings =
            LimitSettings { request_token_per_client: per_client, max_subjects, ..LimitSettings::default() };
        let clock = FakeRelativeClock::default();
        (Limits::new(&settings, clock.clone()).unwrap(), clock)
    }

    fn by_client(limits: &Limits<FakeRelativeClock>, client: &str) -> Verdict {
        limits.take(Limit::RequestTokenPerClient, client.to_owned())
    }

    #[test]
    fn a_burst_is_allowed_and_then_one_act_per_interval() {
        let (limits, clock) = limits(Rate { per_second: 0.1, burst: 3 }, 10);
        for _ in 0..3 {
            assert_eq!(by_client(&limits, "192.0.2.1"), Verdict::Allowed);
        }
        assert_eq!(by_client(&limits, "192.0.2.1"), Verdict::RetryAfter(10 * SECOND));
        clock.advance(4 * SECOND);
        assert_eq!(by_client(&limits, "192.0.2.1"), Verdict::RetryAfter(6 * SECOND));
        clock.advance(6 * SECOND - Duration::from_nanos(1));
        assert_eq!(by_client(&limits, "192.0.2.1"), Verdict::RetryAfter(Duration::from_nanos(1)));
        clock.advance(Duration::from_nanos(1));
        assert_eq!(by_client(&limits, "192.0.2.1"), Verdict::Allowed);
        assert_eq!(by_client(&limits, "192.0.2.1"), Verdict::RetryAfter(10 * SECOND));
    }

    #[test]
    fn the_defaults_allow_five_and_then_one_in_333_seconds() {
        let (limits, clock) = limits(Rate::default(), 10);
        for _ in 0..5 {
            assert_eq!(by_client(&limits, "192.0.2.1"), Verdict::Allowed);
        }
        let Verdict::RetryAfter(wait) = by_client(&limits, "192.0.2.1") else {
            unreachable!("the sixth is refused");
        };
        assert_eq!(wait.as_secs(), 333);
        clock.advance(wait);
        assert_eq!(by_client(&limits, "192.0.2.1"), Verdict::Allowed);
    }

    #[test]
    fn each_subject_of_each_limit_is_counted_on_its_own() {
        let (limits, _clock) = limits(Rate { per_second: 0.1, burst: 1 }, 10);
        assert_eq!(by_client(&limits, "192.0.2.1"), Verdict::Allowed);
        assert_eq!(by_client(&limits, "192.0.2.2"), Verdict::Allowed);
        assert_eq!(limits.take(Limit::RequestTokenPerAddress, "192.0.2.1".to_owned()), Verdict::Allowed);
        assert_ne!(by_client(&limits, "192.0.2.1"), Verdict::Allowed);
    }

    #[test]
    fn three_passwords_are_tried_at_once_and_then_one_in_six_seconds() {
        let (limits, clock) = limits(Rate::default(), 10);
        let tried = || limits.take(Limit::PasswordPerAccount, "@alice:example.org".to_owned());
        for _ in 0..3 {
            assert_eq!(tried(), Verdict::Allowed);
        }
        let Verdict::RetryAfter(wait) = tried() else { unreachable!("the fourth is refused") };
        assert_eq!(wait.as_secs(), 5);
        clock.advance(wait);
        assert_eq!(tried(), Verdict::Allowed);
    }

    #[test]
    fn a_client_is_its_ipv4_address_or_its_ipv6_network() {
        for (client, counted_as) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
            ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
            ("::1", "::/64"),
            ("somebody", "somebody"),
        ] {
            assert_eq!(network(client.to_owned()), counted_as);
        }
    }

    #[test]
    fn neighbours_in_one_ipv6_network_share_a_bucket() {
        let (limits, _clock) = limits(Rate { per_second: 0.1, burst: 1 }, 10);
        assert_eq!(by_client(&limits, "2001:db8::1"), Verdict::Allowed);
        assert_ne!(by_client(&limits, "2001:db8::2"), Verdict::Allowed);
        assert_eq!(by_client(&limits, "2001:db8:0:1::1"), Verdict::Allowed);
    }

    #[test]
    fn a_flood_of_subjects_does_not_free_the_busiest() {
        let (limits, _clock) = limits(Rate { per_second: 0.1, burst: 5 }, 100);
        for _ in 0..5 {
            assert_eq!(by_client(&limits, "busy"), Verdict::Allowed);
        }
        for n in 0..10_000 {
            assert_eq!(by_client(&limits, &format!("client {n}")), Verdict::Allowed);
        }
        assert_ne!(by_client(&limits, "busy"), Verdict::Allowed);
    }

    #[tokio::test]
    async fn the_port_counts_on_the_real_clock() {
        let slow = Rate { per_second: 0.001, burst: 2 };
        let settings = LimitSettings { request_token_per_address: slow, ..LimitSettings::default() };
        let limiter = GovernorLimiter::new(settings).unwrap();
        let mut verdicts = Vec::new();
        for _ in 0..3 {
            verdicts.push(limiter.take(Limit::RequestTokenPerAddress, "hash".to_owned()).await.unwrap());
        }
        assert_eq!(verdicts[..2], [Verdict::Allowed, Verdict::Allowed]);
        let Verdict::RetryAfter(wait) = verdicts[2] else { unreachable!("the third is refused") };
        assert!((900..=1000).contains(&wait.as_secs()), "{wait:?}");
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let with = |per_second, burst| LimitSettings {
            request_token_per_address: Rate { per_second, burst },
            ..LimitSettings::default()
        };
        let refused = Some(InvalidLimit::Rate("request_token_per_address"));
        for bad in [
            with(0.0, 5),
            with(-1.0, 5),
            with(f64::NAN, 5),
            with(1e-300, 1),
            with(1e-8, 1),
            with(0.003, 0),
            with(0.003, u32::MAX),
        ] {
            assert_eq!(GovernorLimiter::new(bad).err(), refused);
        }
        for good in [with(1e12, 1), with(f64::INFINITY, 1), with(1.0, 1_000_000)] {
            assert!(GovernorLimiter::new(good).is_ok());
        }
        let none = LimitSettings { max_subjects: 1, ..LimitSettings::default() };
        assert_eq!(GovernorLimiter::new(none).err(), Some(InvalidLimit::MaxSubjects));
    }
}
