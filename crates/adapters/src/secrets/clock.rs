//! The wall clock.

use std::time::{SystemTime, UNIX_EPOCH};

use threepid_domain::model::Timestamp;
use threepid_domain::ports::Clock;

/// The operating system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        // A clock set before 1970 is a broken machine; time stands still there rather than ending the process.
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::default().plus(since_epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_in_milliseconds_of_this_century_and_does_not_run_backwards() {
        let first = SystemClock.now();
        let second = SystemClock.now();
        let (year_2020, year_2100) = (1_577_836_800_000, 4_102_444_800_000);
        assert!((year_2020..year_2100).contains(&first.as_ms()), "{first:?}");
        assert!(second >= first);
    }
}
