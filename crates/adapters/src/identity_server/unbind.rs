//! The unbind, signed as the account's homeserver.
//!
//! The specification says that the request is signed and not what is signed. What Synapse, Sydent and ma1sd agree on is
//! written here: the canonical JSON of method, uri, origin, `destination_is` and content, in an `X-Matrix` header. The
//! uri is signed as the specification has it, without any prefix of a base URL, and the destination is the server's
//! name. There are no spaces between the header's parameters, since Sydent would keep them.

use bytes::Bytes;
use hyper::Request;
use hyper::header::{AUTHORIZATION, HeaderValue};
use ruma_common::{CanonicalJsonObject, CanonicalJsonValue};
use threepid_domain::model::{Address, IdentityServerName, UserId};

use super::requests::{NotSendable, post};
use super::signing_key::SigningKey;

const PATH: &str = "/_matrix/identity/v2/3pid/unbind";

pub(super) fn signed(
    base: &str,
    server: &IdentityServerName,
    key: &SigningKey,
    user_id: &UserId,
    address: &Address,
) -> Result<Request<Bytes>, NotSendable> {
    let content = object([
        ("mxid", text(user_id.as_str())),
        (
            "threepid",
            CanonicalJsonValue::Object(object([
                ("address", text(address.as_str())),
                ("medium", text(address.medium().as_str())),
            ])),
        ),
    ]);
    // A sorted map without insignificant white space is canonical JSON.
    let body = serde_json::to_vec(&content).map_err(|_| NotSendable::Form("content"))?;
    let signed = object([
        ("method", text("POST")),
        ("uri", text(PATH)),
        ("origin", text(key.homeserver())),
        ("destination_is", text(server.as_str())),
        ("content", CanonicalJsonValue::Object(content)),
    ]);
    let signature = key.sign(signed).ok_or(NotSendable::Form("signature"))?;
    let header = format!(
        r#"X-Matrix origin="{}",key="{}",sig="{signature}",destination="{server}""#,
        key.homeserver(),
        key.id(),
    );
    let header = HeaderValue::try_from(header).map_err(|_| NotSendable::Form("signature"))?;
    let mut request = post(format!("{base}{PATH}"), "application/json", body.into())?;
    request.headers_mut().insert(AUTHORIZATION, header);
    Ok(request)
}

fn object<const N: usize>(fields: [(&str, CanonicalJsonValue); N]) -> CanonicalJsonObject {
    fields.into_iter().map(|(name, value)| (name.into(), value)).collect()
}

fn text(text: &str) -> CanonicalJsonValue {
    CanonicalJsonValue::String(text.to_owned())
}
