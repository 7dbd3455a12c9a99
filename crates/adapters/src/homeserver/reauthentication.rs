//! Who is asking, once more: the homeserver's own challenge, through [`POST /delete_devices`] with the caller's token and
//! one device that cannot exist. It carries passwords, single sign-on and whatever stage the homeserver knows, and
//! deletes nothing.
//!
//! | the homeserver answers | to a bare request | to an answer |
//! |---|---|---|
//! | 401 with `flows` and a `session` | the challenge, passed on whole | more is asked, or it was wrong |
//! | 200 with an object | nobody was asked: a grace period, an application service | proven |
//! | 401 or 403 with an `errcode` and no `flows`; 429 | passed on whole | the same |
//! | 401 with `flows` and no `session`; another 2xx or 4xx | nobody was asked | the same |
//! | anything else: 5xx, HTML, too big, a redirect, nothing in time | unavailable | the same |
//!
//! The list of devices is never empty: Dendrite reads an empty one as all devices.
//!
//! [`POST /delete_devices`]: https://spec.matrix.org/v1.18/client-server-api/#post_matrixclientv3delete_devices

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde_json::{Map, Value, json};
use threepid_domain::model::{DeviceId, Sid, UserId};
use threepid_domain::ports::{
    Answered, AskedAgain, ChallengeToPassOn, Reauthentication, ReauthenticationError, Unavailable,
};

use super::PORT;
use super::answer::Answer;
use super::client::{Client, NoAnswer, Question, Repeat};

const DELETE_DEVICES: &str = "/_matrix/client/v3/delete_devices";

/// Names the device that cannot exist.
type Probe = dyn Fn(&UserId, &Sid) -> DeviceId + Send + Sync;

/// [`Reauthentication`] by the homeserver.
pub struct HomeserverReauthentication {
    client: Client,
    probe: Arc<Probe>,
}

/// What an answer comes to, before it is known what it answers.
enum Word {
    Asked(ChallengeToPassOn),
    Done,
}

impl HomeserverReauthentication {
    pub(super) fn new(
        client: Client,
        probe: impl Fn(&UserId, &Sid) -> DeviceId + Send + Sync + 'static,
    ) -> Self {
        Self { client, probe: Arc::new(probe) }
    }

    async fn ask(
        &self,
        asked: &AskedAgain,
        auth: Option<Map<String, Value>>,
    ) -> Result<Word, ReauthenticationError> {
        let repeat = if auth.is_some() { Repeat::Unsafe } else { Repeat::Safe };
        let DeviceId(device) = (self.probe)(&asked.user_id, &asked.sid);
        let mut body = Map::from_iter([("devices".to_owned(), json!([device]))]);
        body.extend(auth.map(|auth| ("auth".to_owned(), auth.into())));
        let body = Bytes::from(Value::Object(body).to_string());
        let question = Question { method: Method::POST, path: DELETE_DEVICES.into(), body, repeat };
        match self.client.ask(question, &asked.credentials).await {
            Ok(answer) => judge(&answer),
            Err(NoAnswer::NobodysToken) => {
                Err(Unavailable::new(PORT, "the access token cannot be sent").into())
            }
            Err(NoAnswer::Unavailable(error)) => Err(error.into()),
        }
    }
}

impl std::fmt::Debug for HomeserverReauthentication {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HomeserverReauthentication")
    }
}

#[async_trait]
impl Reauthentication for HomeserverReauthentication {
    async fn challenge(&self, asked: AskedAgain) -> Result<ChallengeToPassOn, ReauthenticationError> {
        match self.ask(&asked, None).await? {
            Word::Asked(challenge) => Ok(challenge),
            Word::Done => Err(ReauthenticationError::NotAsked),
        }
    }

    async fn answer(
        &self,
        asked: AskedAgain,
        auth: Map<String, Value>,
    ) -> Result<Answered, ReauthenticationError> {
        match self.ask(&asked, Some(auth)).await? {
            Word::Asked(challenge) => Ok(Answered::Again(challenge)),
            Word::Done => Ok(Answered::Proven),
        }
    }
}

fn judge(answer: &Answer) -> Result<Word, ReauthenticationError> {
    let object = answer.object();
    let flows = object.as_ref().and_then(|body| body.get("flows"));
    if answer.status == StatusCode::UNAUTHORIZED
        && flows.is_some_and(Value::is_array)
        && let Some(body) = object
    {
        // Without a session nobody could tell later which challenge was answered.
        let session = body.get("session").and_then(Value::as_str).map(str::to_owned);
        let session = session.ok_or(ReauthenticationError::NotAsked)?;
        return Ok(Word::Asked(ChallengeToPassOn { session, body }));
    }
    if let Some(refusal) = answer.refusal() {
        return Err(ReauthenticationError::Refused(refusal));
    }
    match answer.status {
        StatusCode::OK => match object {
            Some(body) if !body.contains_key("errcode") => Ok(Word::Done),
            _ => Err(answer.strange("is no Matrix answer to this question").into()),
        },
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Err(answer.strange("is not the homeserver's").into())
        }
        status if status.is_success() || status.is_client_error() => Err(ReauthenticationError::NotAsked),
        _ => Err(answer.strange("is none to a client").into()),
    }
}
