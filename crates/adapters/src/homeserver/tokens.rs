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
//! would sign people out.
//!
//! [`GET /account/whoami`]: https://spec.matrix.org/v1.18/client-server-api/#get_matrixclientv3accountwhoami

use std::time::Duration;

use async_trait::async_trait;
use hyper::StatusCode;
use moka::future::Cache;
use ring::digest::{SHA256, digest};
use serde_json::{Map, Value};
use threepid_domain::model::{AccessToken, Caller, DeviceId, UserId};
use threepid_domain::ports::{AccessTokens, Credentials, Freshness, WhoseTokenError};

use super::answer::Answer;
use super::client::{Client, NoAnswer, Question};

const WHOAMI: &str = "/_matrix/client/v3/account/whoami";

/// [`AccessTokens`] that asks the homeserver.
pub struct HomeserverTokens {
    client: Client,
    /// Good answers, by the hash of their token. Those to application services are not kept: they depend on more than
    /// the token, and one refusal could not end them all.
    remembered: Option<Cache<[u8; 32], Caller>>,
}

impl HomeserverTokens {
    /// Good answers serve for reading for as long as `remember`, so many of them at most.
    pub(super) fn new(client: Client, remember: Duration, remember_at_most: u64) -> Self {
        let cache = Cache::builder().max_capacity(remember_at_most).time_to_live(remember).build();
        Self { client, remembered: (!remember.is_zero()).then_some(cache) }
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
        let answer =
            self.client.ask(Question::get(WHOAMI), &credentials).await.map_err(|error| match error {
                NoAnswer::NobodysToken => WhoseTokenError::Unknown,
                NoAnswer::Unavailable(error) => error.into(),
            })?;
        let judged = judge(&answer);
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

fn judge(answer: &Answer) -> Result<Caller, WhoseTokenError> {
    if let Some(refusal) = answer.refusal() {
        return Err(WhoseTokenError::Refused(refusal));
    }
    match answer.object().filter(|_| answer.status == StatusCode::OK) {
        Some(object) => caller(&object).ok_or_else(|| answer.strange("tells no account").into()),
        None => Err(answer.strange("is no Matrix answer to this question").into()),
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
