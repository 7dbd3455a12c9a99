//! Synapse's own list of an account's contacts, made equal to ours through its [admin API].
//!
//! The account is read first. So one that is not there is not made (a PUT would make it), one that is deactivated stays
//! as it is, and a list that is equal already costs no write.
//!
//! | Synapse answers | it means |
//! |---|---|
//! | GET 404 `M_NOT_FOUND`, or `deactivated` | permanent: there is nobody to mirror |
//! | 401, 403, 408, 429, 5xx, HTML, nothing in time | transient: the token, the limit or the server will be mended |
//! | another 4xx in the Matrix error format | permanent |
//!
//! What is removed in this way, Synapse also unbinds from the identity servers that it knows it is bound at.
//!
//! [admin API]: https://element-hq.github.io/synapse/latest/admin_api/user_admin_api.html

use std::borrow::Cow;
use std::collections::BTreeSet;

use async_trait::async_trait;
use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde_json::{Map, Value, json};
use threepid_domain::model::{AccessToken, Threepid, UserId};
use threepid_domain::ports::{Credentials, DeliveryError, Mirror};

use super::answer::Answer;
use super::client::{Client, NoAnswer, Question, Repeat};

const USERS: &str = "/_synapse/admin/v2/users/";

/// Medium and address.
type Contacts = BTreeSet<(String, String)>;

/// [`Mirror`] through Synapse's admin API.
pub struct SynapseMirror {
    client: Client,
    admin: Credentials,
}

impl SynapseMirror {
    pub(super) fn new(client: Client, admin_token: AccessToken) -> Self {
        Self { client, admin: Credentials { access_token: admin_token, user_id: None, client_ip: None } }
    }

    async fn ask(&self, question: Question) -> Result<Answer, DeliveryError> {
        let asked = self.client.ask(question, &self.admin).await;
        asked.map_err(|error| match error {
            NoAnswer::NobodysToken => DeliveryError::Transient("the admin's token cannot be sent".into()),
            NoAnswer::Unavailable(error) => DeliveryError::Transient(error.into()),
        })
    }
}

impl std::fmt::Debug for SynapseMirror {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SynapseMirror")
    }
}

#[async_trait]
impl Mirror for SynapseMirror {
    async fn put(&self, user_id: UserId, threepids: Vec<Threepid>) -> Result<(), DeliveryError> {
        let question = account_question(&user_id);
        let path = question.path.clone();
        let known = account(&self.ask(question).await?)?;
        if known.get("deactivated") == Some(&Value::Bool(true)) {
            return Err(DeliveryError::Permanent("the account is deactivated".into()));
        }
        let contact = |threepid: &Threepid| {
            (threepid.address.medium().as_str().to_owned(), threepid.address.as_str().to_owned())
        };
        let wanted: Contacts = threepids.iter().map(contact).collect();
        if listed(&known) == Some(wanted.clone()) {
            return Ok(());
        }
        let list: Vec<_> =
            wanted.iter().map(|(medium, address)| json!({ "medium": medium, "address": address })).collect();
        let question = Question {
            method: Method::PUT,
            path,
            body: Bytes::from(json!({ "threepids": list }).to_string()),
            repeat: Repeat::Safe,
        };
        let written = account(&self.ask(question).await?)?;
        if listed(&written) == Some(wanted) {
            return Ok(());
        }
        Err(DeliveryError::Transient("Synapse keeps another list than it was given".into()))
    }
}

/// What Synapse knows of an account.
pub(super) fn account_question(user_id: &UserId) -> Question {
    let user: String = url::form_urlencoded::byte_serialize(user_id.as_str().as_bytes()).collect();
    Question { path: Cow::Owned(format!("{USERS}{user}")), ..Question::get(USERS) }
}

/// The account in an answer.
fn account(answer: &Answer) -> Result<Map<String, Value>, DeliveryError> {
    const CAN_BE_MENDED: [StatusCode; 4] = [
        StatusCode::UNAUTHORIZED,
        StatusCode::FORBIDDEN,
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::TOO_MANY_REQUESTS,
    ];
    let object = answer.object().unwrap_or_default();
    if answer.status.is_success() && object.contains_key("threepids") {
        return Ok(object);
    }
    // The error's text may quote an address.
    let errcode = object.get("errcode").and_then(Value::as_str);
    let said = format!("Synapse answered {} {}", answer.status.as_u16(), errcode.unwrap_or_default());
    if answer.status.is_client_error() && errcode.is_some() && !CAN_BE_MENDED.contains(&answer.status) {
        return Err(DeliveryError::Permanent(said.into()));
    }
    Err(DeliveryError::Transient(said.into()))
}

fn listed(account: &Map<String, Value>) -> Option<Contacts> {
    let text = |contact: &Value, key: &str| Some(contact.get(key)?.as_str()?.to_owned());
    let contact = |contact: &Value| Some((text(contact, "medium")?, text(contact, "address")?));
    account.get("threepids")?.as_array()?.iter().map(contact).collect()
}
