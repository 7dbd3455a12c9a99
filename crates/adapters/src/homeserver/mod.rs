//! Whose token is this? The homeserver knows: [`GET /account/whoami`] with the caller's own token.
//!
//! | the homeserver answers | it means |
//! |---|---|
//! | 200 with a valid `user_id` | that account; remembered for a short while, for reading only |
//! | 401 or 403 with an `errcode` | refused; passed on whole, what was remembered is forgotten |
//! | 429 | passed on |
//! | anything else: 5xx, HTML, too big, a redirect, 200 without an account, nothing in time | unavailable |
//!
//! A 401, 403 or 404 without an `errcode` comes from a proxy in between and says nothing about the token; passed on, it
//! would sign people out. Redirects are not followed: a token goes to the homeserver and nowhere else.
//!
//! [`GET /account/whoami`]: https://spec.matrix.org/v1.18/client-server-api/#get_matrixclientv3accountwhoami

mod client;

use std::time::Duration;

use async_trait::async_trait;
use hyper::StatusCode;
use moka::future::Cache;
use ring::digest::{SHA256, digest};
use serde_json::{Map, Value};
use threepid_domain::model::{AccessToken, Caller, DeviceId, RemoteRefusal, UserId};
use threepid_domain::ports::{AccessTokens, Credentials, Freshness, Unavailable, WhoseTokenError};
use url::Url;

pub use client::InvalidHomeserver;
use client::{Answer, Client};

/// What an error calls this port.
const PORT: &str = "homeserver";

/// Where the homeserver is, and how it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HomeserverSettings {
    /// Its base URL, `http` or `https`; a path in front of `/_matrix` is kept.
    pub base_url: Url,
    /// The longest that one question may take. Default 10 s.
    pub timeout: Duration,
    /// How long a good answer serves for reading; zero never. Default 30 s.
    pub remember: Duration,
    /// How many answers are remembered at most, about 300 bytes each. Default 10 000.
    pub remember_at_most: u64,
    /// A PEM file with certificates that are trusted besides the system's. Default none.
    pub extra_ca: Option<std::path::PathBuf>,
}

impl HomeserverSettings {
    /// Defaults for everything but the address.
    pub fn new(base_url: Url) -> Self {
        Self {
            base_url,
            timeout: Duration::from_secs(10),
            remember: Duration::from_secs(30),
            remember_at_most: 10_000,
            extra_ca: None,
        }
    }
}

/// [`AccessTokens`] that asks the homeserver.
pub struct HomeserverTokens {
    client: Client,
    /// Good answers, by the hash of their token. Those to application services are not kept: they depend on more than
    /// the token, and one refusal could not end them all.
    remembered: Option<Cache<[u8; 32], Caller>>,
}

impl HomeserverTokens {
    /// Reads the settings; nothing is asked yet.
    ///
    /// # Errors
    /// [`InvalidHomeserver`].
    pub fn new(settings: &HomeserverSettings) -> Result<Self, InvalidHomeserver> {
        let cache =
            Cache::builder().max_capacity(settings.remember_at_most).time_to_live(settings.remember).build();
        let remembered = (!settings.remember.is_zero()).then_some(cache);
        Ok(Self { client: Client::new(settings)?, remembered })
    }

    async fn recall(&self, key: &[u8; 32]) -> Option<Caller> {
        self.remembered.as_ref()?.get(key).await
    }

    async fn remember(&self, key: [u8; 32], caller: &Caller) {
        if let Some(remembered) = &self.remembered {
            remembered.insert(key, caller.clone()).await;
        }
    }

    async fn forget(&self, key: &[u8; 32]) {
        if let Some(remembered) = &self.remembered {
            remembered.invalidate(key).await;
        }
    }
}

impl std::fmt::Debug for HomeserverTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HomeserverTokens")
    }
}

#[async_trait]
impl AccessTokens for HomeserverTokens {
    async fn whose(&self, credentials: Credentials, freshness: Freshness) -> Result<Caller, WhoseTokenError> {
        let key = hash(&credentials.access_token);
        let is_memorable = credentials.user_id.is_none();
        if is_memorable
            && freshness == Freshness::ForReading
            && let Some(caller) = self.recall(&key).await
        {
            return Ok(caller);
        }
        let answer = self.client.whoami(&credentials).await?;
        let judged = judge(answer);
        match &judged {
            Ok(caller) if is_memorable => self.remember(key, caller).await,
            Err(WhoseTokenError::Refused(refusal)) if refusal.status != TOO_MANY_REQUESTS => {
                self.forget(&key).await;
            }
            _ => {}
        }
        judged
    }
}

const TOO_MANY_REQUESTS: u16 = StatusCode::TOO_MANY_REQUESTS.as_u16();

/// So that memory holds no token.
fn hash(token: &AccessToken) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, token.expose().as_bytes()).as_ref());
    bytes
}

fn judge(answer: Answer) -> Result<Caller, WhoseTokenError> {
    let Answer { status, retry_after, body } = answer;
    let object = match serde_json::from_slice(&body) {
        Ok(Value::Object(object)) => Some(object),
        _ => None,
    };
    let is_matrix_error =
        object.as_ref().is_some_and(|body| body.get("errcode").is_some_and(Value::is_string));
    match (status, object) {
        (StatusCode::OK, Some(object)) => caller(&object).ok_or_else(|| strange(status, "tells no account")),
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS, Some(body))
            if is_matrix_error =>
        {
            Err(WhoseTokenError::Refused(RemoteRefusal { status: status.as_u16(), body }))
        }
        (StatusCode::TOO_MANY_REQUESTS, _) => Err(WhoseTokenError::Refused(slow_down(retry_after))),
        _ => Err(strange(status, "is no Matrix answer to this question")),
    }
}

fn caller(object: &Map<String, Value>) -> Option<Caller> {
    let user_id = UserId::parse(object.get("user_id")?.as_str()?).ok()?;
    let device_id = object.get("device_id").and_then(Value::as_str).map(|id| DeviceId(id.to_owned()));
    // Who might be a guest is not taken for a member.
    let is_guest = match object.get("is_guest") {
        None | Some(Value::Null) => false,
        Some(flag) => flag.as_bool()?,
    };
    Some(Caller { user_id, device_id, is_guest })
}

/// What a proxy's 429 says, in the words of Matrix.
fn slow_down(retry_after: Option<u64>) -> RemoteRefusal {
    let mut body = Map::new();
    body.insert("errcode".to_owned(), "M_LIMIT_EXCEEDED".into());
    body.insert("error".to_owned(), "Too many requests".into());
    if let Some(seconds) = retry_after {
        body.insert("retry_after_ms".to_owned(), seconds.saturating_mul(1000).into());
    }
    RemoteRefusal { status: TOO_MANY_REQUESTS, body }
}

fn strange(status: StatusCode, what: &str) -> WhoseTokenError {
    Unavailable::new(PORT, format!("its answer with status {} {what}", status.as_u16())).into()
}

#[cfg(test)]
mod tests;
