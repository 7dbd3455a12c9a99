//! What the operator is told where a bound on everybody together holds messages back: once an hour, not once a request.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::model::Timestamp;
use crate::ports::Limit;

/// It is said again after so long.
const AGAIN: Duration = Duration::from_secs(60 * 60);

/// When it was last said of each limit.
#[derive(Debug, Default)]
pub(super) struct HeldBack(Mutex<HashMap<Limit, Timestamp>>);

impl HeldBack {
    /// Says that `limit` holds messages back, unless that was said lately.
    pub(super) fn say(&self, limit: Limit, now: Timestamp) {
        if self.is_news(limit, now) {
            tracing::warn!(
                limit = limit.name(),
                "as many messages were asked for as everybody may have together: until there is room again, requests \
                 for more are answered with 429. Is somebody flooding? If this is what your users need, raise the limit"
            );
        }
    }

    fn is_news(&self, limit: Limit, now: Timestamp) -> bool {
        // Nothing is left half done under the lock, so a panic elsewhere has broken nothing.
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was set back does not silence it.
        let is_news = said.get(&limit).is_none_or(|then| now < *then || now.since(*then) >= AGAIN);
        if is_news {
            said.insert(limit, now);
        }
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_once_an_hour_for_each_limit() {
        let held_back = HeldBack::default();
        let at = |minutes: u64| Timestamp::from_ms(1_700_000_000_000 + minutes * 60_000);
        let said =
            [0, 1, 59, 60, 61, 119, 120].map(|minute| held_back.is_news(Limit::MailsInAll, at(minute)));
        assert_eq!(said, [true, false, false, true, false, false, true]);
        assert!(held_back.is_news(Limit::SubmitPerClient, at(120)));
        assert!(held_back.is_news(Limit::MailsInAll, at(30)), "the clock was set back");
    }
}
