//! What an identity server's answer means.
//!
//! Only a whole JSON object in a 2xx is an answer, and only one without `errcode` and without `success: false` says that
//! something was done. Servers in use answer 200 for failures; nothing is proven or done by those.

use bytes::Bytes;
use hyper::{Response, StatusCode};
use serde_json::{Map, Value};
use threepid_domain::model::{Address, Medium, RemoteRefusal, Sid, Timestamp};
use threepid_domain::ports::{OpenedRemotely, RemoteValidation};

/// What was answered.
#[derive(Debug)]
pub(super) enum Answer {
    /// 2xx with a JSON object.
    Object(Map<String, Value>),
    /// Another status, with a Matrix error.
    Error(RemoteRefusal),
    /// Another status, without a Matrix error.
    Bare(StatusCode),
    /// 2xx with something else.
    NoObject(StatusCode),
}

impl Answer {
    pub(super) fn read(response: Response<Bytes>) -> Self {
        let (head, body) = response.into_parts();
        let object = serde_json::from_slice::<Map<String, Value>>(&body).ok();
        match object {
            Some(object) if head.status.is_success() => Self::Object(object),
            None if head.status.is_success() => Self::NoObject(head.status),
            Some(body) if body.get("errcode").is_some_and(Value::is_string) => {
                Self::Error(RemoteRefusal { status: head.status.as_u16(), body })
            }
            _ => Self::Bare(head.status),
        }
    }

    /// What happened, for the operator. Nothing of the body is in it.
    pub(super) fn told(&self) -> String {
        match self {
            Self::Object(_) => "answered 2xx without having done what was asked".to_owned(),
            Self::NoObject(status) => format!("answered {} with what is no JSON object", status.as_u16()),
            Self::Bare(status) if status.is_redirection() => {
                format!("answered with a redirect ({}), which is not followed", status.as_u16())
            }
            Self::Bare(status) => format!("answered {} without a Matrix error", status.as_u16()),
            Self::Error(refusal) => format!("answered {}", refusal.status),
        }
    }
}

/// Whether the server says, in an answer of 2xx, that it failed.
pub(super) fn failed(object: &Map<String, Value>) -> bool {
    object.contains_key("errcode") || object.get("success") == Some(&Value::Bool(false))
}

fn text<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    object.get(name).and_then(Value::as_str)
}

/// The session that was opened.
pub(super) fn opened(object: &Map<String, Value>) -> Option<OpenedRemotely> {
    let sid = Sid::new(text(object, "sid")?);
    let submit_url = text(object, "submit_url").map(ToOwned::to_owned);
    (!failed(object) && sid.is_well_formed()).then_some(OpenedRemotely { sid, submit_url })
}

/// What was validated, if the server says so.
pub(super) fn validated(object: &Map<String, Value>) -> Option<RemoteValidation> {
    if failed(object) {
        return None;
    }
    Some(RemoteValidation {
        medium: text(object, "medium")?.to_owned(),
        address: text(object, "address")?.to_owned(),
        validated_at: Timestamp::from_ms(object.get("validated_at")?.as_u64()?),
    })
}

/// What a successful bind says that it published.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Published {
    /// This address, for the account that was asked for.
    Address(Address),
    /// It does not say.
    Untold,
    /// Something that was not asked for.
    Wrong(&'static str),
}

pub(super) fn published(object: &Map<String, Value>, user_id: &str) -> Published {
    if text(object, "mxid").is_some_and(|mxid| mxid != user_id) {
        return Published::Wrong("published another account");
    }
    let (Some(medium), Some(address)) = (text(object, "medium"), text(object, "address")) else {
        return Published::Untold;
    };
    address_of(medium, address).map_or(Published::Wrong("published what is no address"), Published::Address)
}

/// The address that a server names, in canonical form.
pub(super) fn address_of(medium: &str, address: &str) -> Option<Address> {
    Address::parse(Medium::parse(medium)?, address).ok()
}
