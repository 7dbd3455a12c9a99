//! Whether Synapse has deactivated an account, by its [admin API].
//!
//! | Synapse answers | it means |
//! |---|---|
//! | 200 with this account's `name` and `"deactivated": true` | it was deactivated |
//! | 200 with this account's `name` and anything else | it was not |
//! | 404 `M_NOT_FOUND`, or 400, in the Matrix error format | Synapse does not know it: that is no end |
//! | whatever else: another status, another account, HTML, nothing in time | nothing is known |
//!
//! [admin API]: https://element-hq.github.io/synapse/latest/admin_api/user_admin_api.html

use async_trait::async_trait;
use hyper::StatusCode;
use serde_json::Value;
use threepid_domain::model::{AccessToken, UserId};
use threepid_domain::ports::{AccountState, AccountStates, Credentials, Unavailable};

use super::PORT;
use super::answer::Answer;
use super::client::{Client, NoAnswer};
use super::mirror::account_question;

/// [`AccountStates`] through Synapse's admin API.
pub struct SynapseAccountStates {
    client: Client,
    admin: Credentials,
}

impl SynapseAccountStates {
    pub(super) fn new(client: Client, admin_token: AccessToken) -> Self {
        Self { client, admin: Credentials { access_token: admin_token, user_id: None, client_ip: None } }
    }
}

impl std::fmt::Debug for SynapseAccountStates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SynapseAccountStates")
    }
}

#[async_trait]
impl AccountStates for SynapseAccountStates {
    async fn state(&self, user_id: UserId) -> Result<AccountState, Unavailable> {
        let asked = self.client.ask(account_question(&user_id), &self.admin).await;
        let answer = asked.map_err(|error| match error {
            NoAnswer::NobodysToken => Unavailable::new(PORT, "the admin's token cannot be sent"),
            NoAnswer::Unavailable(error) => error,
        })?;
        judged(&answer, &user_id)
    }
}

fn judged(answer: &Answer, user_id: &UserId) -> Result<AccountState, Unavailable> {
    let object = answer.object().unwrap_or_default();
    let has_errcode = object.get("errcode").is_some_and(Value::is_string);
    match answer.status {
        StatusCode::OK if object.get("name").and_then(Value::as_str) == Some(user_id.as_str()) => {
            let is_deactivated = object.get("deactivated") == Some(&Value::Bool(true));
            Ok(if is_deactivated { AccountState::Deactivated } else { AccountState::NotDeactivated })
        }
        StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST if has_errcode => Ok(AccountState::NotDeactivated),
        _ => Err(answer.strange("tells of no account")),
    }
}
