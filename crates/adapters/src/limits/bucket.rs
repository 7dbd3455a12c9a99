//! The arithmetic of a bucket that holds so many acts and fills at a steady rate: the [generic cell rate algorithm].
//!
//! All that is kept of a bucket is the time at which it is full again. Times are microseconds since the epoch in signed
//! 64 bits, as both engines have them.
//!
//! [generic cell rate algorithm]: https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm

use std::time::Duration;

use threepid_domain::model::Timestamp;

use super::Rate;

/// A full bucket takes at most this long to fill, so that no arithmetic on it can overflow.
const LONGEST_REFILL: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// What is full only so long after an empty bucket would be was counted before the clock was set back. Less is what
/// clocks of several machines differ by.
const CLOCKS_DIFFER_BY: i64 = 60 * 1_000_000;

/// How fast a bucket fills, and how much it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bucket {
    interval: i64,
    capacity: i64,
}

/// One act at one time, in the numbers that decide whether it is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Act {
    /// Now.
    pub now: i64,
    /// How much later the bucket is full with each act.
    pub interval: i64,
    /// When a bucket that is empty now is full again: no allowed act ends later.
    pub empty_until: i64,
    /// What is full only after this was counted before the clock was set back, and is taken for empty.
    pub nonsense_after: i64,
}

impl Bucket {
    /// `None` for a rate that is none.
    pub(super) fn new(rate: Rate) -> Option<Self> {
        if rate.burst == 0 || rate.per_second.is_nan() || rate.per_second <= 0.0 {
            return None;
        }
        let interval = Duration::try_from_secs_f64(rate.per_second.recip()).ok()?;
        let interval = interval.max(Duration::from_micros(1));
        let capacity = interval.checked_mul(rate.burst).filter(|whole| *whole <= LONGEST_REFILL)?;
        let interval = i64::try_from(interval.as_micros()).ok()?;
        i64::try_from(capacity.as_micros()).ok()?;
        Some(Self { interval, capacity: interval.checked_mul(i64::from(rate.burst))? })
    }

    /// An act now.
    pub(super) fn act(self, now: Timestamp) -> Act {
        let now = i64::try_from(now.as_ms()).unwrap_or(i64::MAX).saturating_mul(1000);
        let empty_until = now.saturating_add(self.capacity);
        let nonsense_after = empty_until.saturating_add(CLOCKS_DIFFER_BY);
        Act { now, interval: self.interval, empty_until, nonsense_after }
    }
}

impl Act {
    /// Whether both are judged by the same rate.
    pub(crate) fn has_same_rate(self, other: Self) -> bool {
        self.interval == other.interval && self.empty_until - self.now == other.empty_until - other.now
    }

    /// When the bucket will be full again, if the act is allowed in one that would have been full at `full_at`.
    ///
    /// # Errors
    /// How long to wait.
    pub(crate) fn take(self, full_at: Option<i64>) -> Result<i64, Duration> {
        let full_at = full_at.unwrap_or(self.now);
        if full_at > self.nonsense_after {
            return Ok(self.empty_until);
        }
        let next = full_at.max(self.now).saturating_add(self.interval);
        if next <= self.empty_until { Ok(next) } else { Err(self.wait(full_at)) }
    }

    /// How long to wait where the bucket is full at `full_at`.
    pub(super) fn wait(self, full_at: i64) -> Duration {
        let next = full_at.min(self.nonsense_after).saturating_add(self.interval);
        Duration::from_micros(u64::try_from(next.saturating_sub(self.empty_until)).unwrap_or(0).max(1))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that meets an error has failed")]

    use super::*;

    #[test]
    fn the_defaults_of_synapse_allow_five_and_then_one_in_333_seconds() {
        let bucket = Bucket::new(Rate::SYNAPSES).unwrap();
        let now = Timestamp::from_ms(1_700_000_000_000);
        let mut full_at = None;
        for _ in 0..5 {
            full_at = Some(bucket.act(now).take(full_at).unwrap());
        }
        let wait = bucket.act(now).take(full_at).unwrap_err();
        assert_eq!(wait.as_secs(), 333);
        assert!(bucket.act(now.plus(wait)).take(full_at).is_err(), "the clock has whole milliseconds");
        assert!(bucket.act(now.plus(wait + Duration::from_millis(1))).take(full_at).is_ok());
    }

    #[test]
    fn in_any_hour_an_hourly_bound_allows_no_more_than_it_says() {
        for hourly in [2, 3, 4, 5, 7, 100, 1000, 1001] {
            let bucket = Bucket::new(Rate::per_hour(hourly).unwrap()).unwrap();
            let mut full_at = None;
            let allowed_at: Vec<u64> = (0..3 * 3600)
                .flat_map(|second| [second; 20])
                .filter(|second| {
                    let act = bucket.act(Timestamp::from_ms(1_700_000_000_000 + second * 1000));
                    act.take(full_at).map(|next| full_at = Some(next)).is_ok()
                })
                .collect();
            for (index, begin) in allowed_at.iter().enumerate() {
                let within = allowed_at[index..].iter().take_while(|at| *at - begin < 3600).count();
                assert!(within <= usize::try_from(hourly).unwrap(), "{hourly}: {within} in an hour");
            }
            assert!(allowed_at.len() > usize::try_from(hourly).unwrap(), "{hourly}: there is more later");
        }
        assert_eq!((Rate::per_hour(0), Rate::per_hour(1)), (None, None));
    }

    #[test]
    fn a_rate_that_is_none_makes_no_bucket() {
        let rate = |per_second, burst| Bucket::new(Rate { per_second, burst });
        for bad in [
            rate(0.0, 5),
            rate(-1.0, 5),
            rate(f64::NAN, 5),
            rate(1e-300, 1),
            rate(1e-8, 1),
            rate(0.003, 0),
            rate(0.003, u32::MAX),
        ] {
            assert_eq!(bad, None);
        }
        for good in [rate(1e12, 1), rate(f64::INFINITY, 1), rate(1.0, 1_000_000), rate(1e12, u32::MAX)] {
            assert!(good.is_some());
        }
    }
}
