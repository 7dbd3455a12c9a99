//! The SMS gateway, as the settings name it.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::checked::{Judge, is_this_machine};
use super::settings;
use super::values::{Secret, SmsMethod, SmsTransportChoice, Statuses};

/// How SMS leave.
#[derive(Clone, Debug)]
pub(crate) enum SmsTransport {
    /// Not at all.
    None,
    /// To a gateway over HTTP.
    Http(Box<SmsGateway>),
}

impl fmt::Display for SmsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Http(_) => f.write_str("http"),
        }
    }
}

/// The gateway, how it is asked, and what its answers mean. The templates are not tried yet.
#[derive(Clone, Debug)]
pub(crate) struct SmsGateway {
    pub(crate) method: SmsMethod,
    pub(crate) url: Secret,
    pub(crate) headers: Vec<(String, Secret)>,
    pub(crate) body: Option<Secret>,
    pub(crate) credentials: Option<(String, Secret)>,
    pub(crate) secret: Option<Secret>,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) timeout: Duration,
    pub(crate) sent: Vec<RangeInclusive<u16>>,
    pub(crate) give_up: Vec<RangeInclusive<u16>>,
    pub(crate) sent_if: Option<String>,
    pub(crate) give_up_if: Option<String>,
}

impl SmsTransport {
    /// Judges `[sms]`; what is meant for a gateway is judged only where there is one. `lease`: how long an SMS that is
    /// being sent is kept from other processes.
    pub(super) fn new(sms: settings::Sms, lease: Duration, judge: &mut Judge) -> Option<Self> {
        match sms.transport {
            SmsTransportChoice::None => Some(Self::None),
            SmsTransportChoice::Http => gateway(sms.http, lease, judge).map(Box::new).map(Self::Http),
        }
    }
}

fn gateway(http: settings::SmsHttp, lease: Duration, judge: &mut Judge) -> Option<SmsGateway> {
    let timeout = judge.positive("sms.http.timeout", http.timeout);
    judge.must(
        lease > timeout,
        "relay.lease",
        "must be longer than sms.http.timeout, or an SMS could be sent twice",
    );
    let secret = one_of(("sms.http.secret_file", http.secret, http.secret_file), judge);
    let password = one_of(("sms.http.password_file", http.password, http.password_file), judge);
    let credentials = match (http.user, password) {
        (Some(user), Some(password)) => Some((user, password)),
        (None, None) => None,
        (Some(_), None) => {
            judge.wrong("sms.http.password", "is required with sms.http.user, or sms.http.password_file is");
            None
        }
        (None, Some(_)) => {
            judge.wrong("sms.http.user", "is required with sms.http.password");
            None
        }
    };
    let Some(url) = http.url else {
        judge.wrong(
            "sms.http.url",
            "is required while sms.transport is \"http\": where the gateway is asked, such as \"https://sms.example/send\"",
        );
        return None;
    };
    // A template is not always a URL, but its beginning is.
    let is_clear_text =
        Url::parse(url.expose()).is_ok_and(|url| url.scheme() == "http" && !is_this_machine(url.host_str()));
    if is_clear_text {
        judge.warn(
            "sms.http.url",
            "is http towards another machine: numbers, codes, and the key if there is one, go in clear text",
        );
    }
    let ranges = |statuses: Vec<Statuses>| statuses.into_iter().map(|Statuses(range)| range).collect();
    Some(SmsGateway {
        method: http.method,
        url,
        headers: http.headers.0.into_iter().collect(),
        body: http.body,
        credentials,
        secret,
        ca_file: http.ca_file,
        timeout,
        sent: ranges(http.sent),
        give_up: ranges(http.give_up),
        sent_if: http.sent_if,
        give_up_if: http.give_up_if,
    })
}

/// A secret that is in the settings, or in the file that `file_setting` names; not in both.
fn one_of(
    (file_setting, value, file): (&str, Option<Secret>, Option<PathBuf>),
    judge: &mut Judge,
) -> Option<Secret> {
    match (value, file) {
        (Some(_), Some(_)) => {
            let value_setting = file_setting.trim_end_matches("_file");
            judge.wrong(file_setting, format!("is given together with {value_setting}; keep one of them"));
            None
        }
        (Some(value), None) => Some(value),
        (None, Some(path)) => judge.secret_from(file_setting, &path),
        (None, None) => None,
    }
}
