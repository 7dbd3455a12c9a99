//! SMS to any gateway that is asked over HTTP.
//!
//! What a gateway wants to be asked is written by the operator: method, URL, headers and body, the last three as
//! [minijinja] templates in which a name that does not exist is an error.
//!
//! | name | inserted |
//! |---|---|
//! | `to` | the number as E.164 digits |
//! | `to_plus` | `+` and the digits |
//! | `text` | the text |
//! | `id` | the SMS's id, the same at every try |
//! | `secret` | [`HttpSmsSettings::secret`], where there is one |
//!
//! `tojson` writes a value as a JSON string with its quotes, `urlencode` for a form or a URL. Every template is rendered at
//! the start with a text that has a meaning to every transport; where it does not come out whole at the other end, the
//! start ends, and no SMS later.
//!
//! | the gateway answers | it means |
//! |---|---|
//! | a status of `sent`, and what `sent_if` wants | it has the SMS |
//! | a status of `give_up`, and what `give_up_if` wants; a status of `sent` with that | permanent |
//! | anything else: another status, a redirect, a body that cannot be read, nothing in time | transient |
//!
//! Every SMS has a connection of its own. One that was kept may turn out to be closed when the SMS is on its way, and
//! then nobody knows whether it arrived.
//!
//! [minijinja]: https://docs.rs/minijinja

mod answer;
mod request;
mod sender;

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

pub use request::SmsRequest;
pub use sender::HttpSmsSender;

/// How a gateway is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SmsMethod {
    /// `POST`.
    Post,
    /// `PUT`.
    Put,
    /// `GET`, without a body.
    Get,
}

impl SmsMethod {
    /// As it stands in a request.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Get => "GET",
        }
    }
}

/// The gateway, how it is asked, and what its answers mean. Its `Debug` hides whatever may be secret.
#[derive(Clone)]
pub struct HttpSmsSettings {
    /// Default [`SmsMethod::Post`].
    pub method: SmsMethod,
    /// A template of an `http` or `https` URL without user and fragment; where it leads may not depend on the SMS.
    pub url: String,
    /// Names, and templates of values. With a body one has to be `Content-Type`. Default none.
    pub headers: Vec<(String, String)>,
    /// A template. Default none.
    pub body: Option<String>,
    /// User and password, for `Authorization: Basic`. Default none.
    pub credentials: Option<(String, String)>,
    /// What templates insert as `secret`. Default none, and then there is no such name.
    pub secret: Option<String>,
    /// A PEM file with certificates that are trusted besides the system's. Default none.
    pub extra_ca: Option<PathBuf>,
    /// The longest that one SMS may take, from the look-up of the gateway's name to the last byte of its answer.
    /// Default 10 s.
    pub timeout: Duration,
    /// Statuses that say that the gateway has the SMS, from 200 to 299. Default all of them.
    pub sent: Vec<RangeInclusive<u16>>,
    /// Statuses that say that it will never take it, from 400 to 599. Default 400 and 422: a wrong key (401, 403), a
    /// wrong address (404) and a limit (429) are mended, and then it may.
    pub give_up: Vec<RangeInclusive<u16>>,
    /// A regular expression that the body of an answer with a status of `sent` must match, too, somewhere. Default none.
    pub sent_if: Option<String>,
    /// A regular expression: an answer with a status of `give_up` must match it, too, and one with a status of `sent`
    /// that matches it is given up as well. Default none.
    pub give_up_if: Option<String>,
}

impl HttpSmsSettings {
    /// Defaults for everything but the gateway's URL.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            method: SmsMethod::Post,
            url: url.into(),
            headers: Vec::new(),
            body: None,
            credentials: None,
            secret: None,
            extra_ca: None,
            timeout: Duration::from_secs(10),
            sent: vec![200..=299],
            give_up: vec![400..=400, 422..=422],
            sent_if: None,
            give_up_if: None,
        }
    }
}

impl fmt::Debug for HttpSmsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpSmsSettings")
            .field("method", &self.method)
            .field("timeout", &self.timeout)
            .field("sent", &self.sent)
            .field("give_up", &self.give_up)
            .finish_non_exhaustive()
    }
}

/// Settings that no gateway can be asked with. The text holds no secret.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct InvalidHttpSms {
    /// The setting, as the field of [`HttpSmsSettings`] is called.
    pub setting: &'static str,
    reason: String,
}

impl InvalidHttpSms {
    fn new(setting: &'static str, reason: impl Into<String>) -> Self {
        Self { setting, reason: reason.into() }
    }
}

#[cfg(test)]
mod tests;
