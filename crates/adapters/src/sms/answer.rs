//! What a gateway's answer means.

use std::ops::RangeInclusive;

use regex::Regex;

use super::{HttpSmsSettings, InvalidHttpSms};

/// What became of an SMS. The texts are ours: an answer may repeat the number, or the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Sent,
    GiveUp(String),
    TryAgain(String),
}

/// Which answers mean what.
pub(super) struct Meaning {
    sent: Vec<RangeInclusive<u16>>,
    give_up: Vec<RangeInclusive<u16>>,
    sent_if: Option<Regex>,
    give_up_if: Option<Regex>,
}

impl Meaning {
    pub(super) fn new(settings: &HttpSmsSettings) -> Result<Self, InvalidHttpSms> {
        let wrong = InvalidHttpSms::new;
        if settings.sent.is_empty() {
            return Err(wrong("sent", "must name a status, or nothing would ever be sent"));
        }
        if !lie_within(&settings.sent, 200, 299) {
            return Err(wrong("sent", "must be statuses from 200 to 299"));
        }
        if !lie_within(&settings.give_up, 400, 599) {
            return Err(wrong("give_up", "must be statuses from 400 to 599"));
        }
        Ok(Self {
            sent: settings.sent.clone(),
            give_up: settings.give_up.clone(),
            sent_if: pattern("sent_if", settings.sent_if.as_deref())?,
            give_up_if: pattern("give_up_if", settings.give_up_if.as_deref())?,
        })
    }

    /// Whether the status alone does not decide.
    pub(super) fn depends_on_the_body(&self, status: u16) -> bool {
        let is_sent = contains(&self.sent, status);
        (is_sent && self.sent_if.is_some())
            || ((is_sent || contains(&self.give_up, status)) && self.give_up_if.is_some())
    }

    /// What an answer with this status and body means.
    pub(super) fn judge(&self, status: u16, body: &str) -> Verdict {
        let is_sent = contains(&self.sent, status);
        if !is_sent && !contains(&self.give_up, status) {
            return Verdict::TryAgain(format!("the gateway answered with status {status}"));
        }
        match &self.give_up_if {
            Some(pattern) if pattern.is_match(body) => {
                return Verdict::GiveUp(format!(
                    "the gateway answered with status {status} and what give_up_if wants"
                ));
            }
            Some(_) if !is_sent => {
                return Verdict::TryAgain(format!(
                    "the gateway answered with status {status}, but not what give_up_if wants"
                ));
            }
            None if !is_sent => return Verdict::GiveUp(format!("the gateway answered with status {status}")),
            _ => {}
        }
        match &self.sent_if {
            Some(pattern) if !pattern.is_match(body) => Verdict::TryAgain(format!(
                "the gateway answered with status {status}, but not what sent_if wants"
            )),
            _ => Verdict::Sent,
        }
    }
}

fn contains(statuses: &[RangeInclusive<u16>], status: u16) -> bool {
    statuses.iter().any(|range| range.contains(&status))
}

fn lie_within(statuses: &[RangeInclusive<u16>], first: u16, last: u16) -> bool {
    statuses
        .iter()
        .all(|range| first <= *range.start() && range.start() <= range.end() && *range.end() <= last)
}

fn pattern(setting: &'static str, text: Option<&str>) -> Result<Option<Regex>, InvalidHttpSms> {
    let compile = |text| {
        Regex::new(text).map_err(|error| {
            let error = error.to_string();
            let in_one_line: Vec<_> = error.split_whitespace().collect();
            InvalidHttpSms::new(setting, format!("is not a regular expression: {}", in_one_line.join(" ")))
        })
    };
    text.map(compile).transpose()
}
