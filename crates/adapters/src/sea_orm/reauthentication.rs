//! Re-authentication of accounts of our own: one flow, one stage, [`m.login.password`].
//!
//! [`m.login.password`]: https://spec.matrix.org/v1.18/client-server-api/#password-based

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use threepid_domain::model::UserId;
use threepid_domain::ports::{
    Answered, AskedAgain, ChallengeToPassOn, Reauthentication, ReauthenticationError,
};

use super::LocalAccounts;

const PASSWORD: &str = "m.login.password";

/// [`Reauthentication`] by the passwords of [`LocalAccounts`].
#[derive(Clone)]
pub struct LocalReauthentication {
    accounts: LocalAccounts,
    new_session: Arc<dyn Fn() -> String + Send + Sync>,
}

impl fmt::Debug for LocalReauthentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalReauthentication").field("accounts", &self.accounts).finish_non_exhaustive()
    }
}

impl LocalReauthentication {
    /// Asks for the passwords of `accounts`. `new_session` names a challenge: at least 128 random bits.
    pub fn new(accounts: LocalAccounts, new_session: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Self { accounts, new_session: Arc::new(new_session) }
    }
}

#[async_trait]
impl Reauthentication for LocalReauthentication {
    async fn challenge(&self, asked: AskedAgain) -> Result<ChallengeToPassOn, ReauthenticationError> {
        // Who has no password cannot be asked for it.
        match self.accounts.password_hash(&asked.user_id).await? {
            Some(_) => Ok(challenge((self.new_session)())),
            None => Err(ReauthenticationError::NotAsked),
        }
    }

    async fn answer(
        &self,
        asked: AskedAgain,
        auth: Map<String, Value>,
    ) -> Result<Answered, ReauthenticationError> {
        let text = |name: &str| auth.get(name).and_then(Value::as_str);
        let session = text("session").map_or_else(|| (self.new_session)(), str::to_owned);
        // An answer without a type asks how far the challenge is.
        if text("type").is_none() {
            return Ok(Answered::Again(challenge(session)));
        }
        let hash = self.accounts.password_hash(&asked.user_id).await?;
        let hash = hash.ok_or(ReauthenticationError::NotAsked)?;
        let is_right = match (text("type"), text("password")) {
            (Some(PASSWORD), Some(password)) if names(&auth, &asked.user_id) => {
                self.accounts.passwords().verify(password.to_owned(), hash).await?
            }
            _ => false,
        };
        if is_right { Ok(Answered::Proven) } else { Ok(Answered::Again(wrong(session))) }
    }
}

/// Whether the answer is this user's: by `identifier`, or by `user` as older clients write it; the user ID or its
/// localpart.
fn names(auth: &Map<String, Value>, user: &UserId) -> bool {
    let given = match auth.get("identifier") {
        Some(identifier) if identifier.get("type").and_then(Value::as_str) == Some("m.id.user") => {
            identifier.get("user")
        }
        Some(_) => None,
        None => auth.get("user"),
    };
    let localpart = user.as_str().get(1..).and_then(|rest| rest.split_once(':')).map(|(name, _)| name);
    given.and_then(Value::as_str).is_some_and(|given| given == user.as_str() || Some(given) == localpart)
}

fn challenge(session: String) -> ChallengeToPassOn {
    let mut body = Map::new();
    body.insert("flows".to_owned(), json!([{ "stages": [PASSWORD] }]));
    body.insert("params".to_owned(), json!({}));
    body.insert("session".to_owned(), session.clone().into());
    ChallengeToPassOn { session, body }
}

fn wrong(session: String) -> ChallengeToPassOn {
    let mut again = challenge(session);
    again.body.insert("completed".to_owned(), json!([]));
    again.body.insert("errcode".to_owned(), "M_FORBIDDEN".into());
    again.body.insert("error".to_owned(), "The user or the password is wrong.".into());
    again
}
