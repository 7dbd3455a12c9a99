//! A clock that stands still until it is moved.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::model::Timestamp;
use crate::ports::Clock;

/// A clock that tests move, backwards too.
#[derive(Debug)]
pub struct FixedClock(AtomicU64);

impl FixedClock {
    /// Where [`FixedClock::default`] starts: 2026-01-01T00:00:00Z.
    pub const START: Timestamp = Timestamp::from_ms(1_767_225_600_000);

    /// A clock that shows `now`.
    pub const fn at(now: Timestamp) -> Self {
        Self(AtomicU64::new(now.as_ms()))
    }

    /// Moves the clock to `now`.
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.as_ms(), Ordering::SeqCst);
    }

    /// Moves the clock on by `span`, whole milliseconds.
    pub fn advance(&self, span: Duration) {
        self.set(self.now().plus(span));
    }
}

impl Default for FixedClock {
    fn default() -> Self {
        Self::at(Self::START)
    }
}

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_ms(self.0.load(Ordering::SeqCst))
    }
}
