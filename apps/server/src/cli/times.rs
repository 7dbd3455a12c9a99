//! Times, as people and programs read them.

use std::time::{Duration, UNIX_EPOCH};

use humantime_serde::re::humantime::format_rfc3339_millis;
use threepid_domain::model::Timestamp;

/// The time in UTC; the year 9999 at the latest, since that is how far the format goes.
pub(super) fn rfc3339(at: Timestamp) -> String {
    let end = Duration::from_millis(253_402_300_799_999);
    format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(at.as_ms()).min(end)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_no_calendar_has_is_the_end_of_it() {
        assert_eq!(rfc3339(Timestamp::from_ms(u64::MAX)), "9999-12-31T23:59:59.999Z");
        assert_eq!(rfc3339(Timestamp::from_ms(0)), "1970-01-01T00:00:00.000Z");
    }
}
