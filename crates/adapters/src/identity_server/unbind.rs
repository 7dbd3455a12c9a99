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

#[cfg(test)]
mod tests {
    mod generated {
        use std::collections::BTreeMap;

        use base64::Engine as _;
        use base64::engine::general_purpose::STANDARD_NO_PAD;
        use proptest::prelude::*;
        use ruma_common::CanonicalJsonObject;
        use ruma_common::serde::Base64;
        use threepid_domain::model::{Address, EmailAddress, IdentityServerName, Msisdn, UserId};

        use super::super::super::signing_key::SigningKey;
        use super::super::{PATH, signed};

        /// The parameters of an `X-Matrix` header, read as strictly as it is written: quoted values without escapes,
        /// commas between them, and nothing besides.
        fn parameters(header: &str) -> Option<Vec<(&str, &str)>> {
            let mut rest = header.strip_prefix("X-Matrix ")?;
            let mut read = Vec::new();
            loop {
                let (name, value) = rest.split_once("=\"")?;
                let (value, after) = value.split_once('"')?;
                let is_plain = name.bytes().all(|b| b.is_ascii_lowercase());
                if !is_plain || value.contains(['\\', ' ', ',']) {
                    return None;
                }
                read.push((name, value));
                if after.is_empty() {
                    return Some(read);
                }
                rest = after.strip_prefix(',')?;
            }
        }

        fn server_name() -> impl Strategy<Value = String> {
            prop_oneof![
                "[a-zA-Z0-9-]{1,20}(\\.[a-zA-Z0-9-]{1,10}){0,3}(:[0-9]{1,5})?",
                "\\[[0-9a-f:]{2,20}\\](:[0-9]{1,5})?",
                "[a-z0-9.:\"\\\\, =\r\n]{1,20}",
                "\\PC{1,20}",
            ]
        }

        fn address() -> impl Strategy<Value = Option<Address>> {
            let email = prop_oneof![
                "[a-z!#$%&'*+/=?^_`{|}~-]{1,20}@example\\.org",
                "[\\p{L}\\p{N}]{1,12}@[\\p{L}a-z]{1,12}\\.org",
            ];
            prop_oneof![
                email.prop_map(|text| EmailAddress::parse(&text).ok().map(Address::Email)),
                "[1-9][0-9]{0,14}".prop_map(|text| Msisdn::parse(&text).ok().map(Address::Msisdn)),
            ]
        }

        proptest! {
            /// Whatever the names, the user and the address are, the header says who signed, with which key and for
            /// whom, and nothing more; and the signature is that of the request as it is sent.
            #[test]
            fn a_signed_unbind_says_what_it_was_given_and_verifies(
                homeserver in server_name(),
                server in server_name(),
                version in prop_oneof!["[a-zA-Z0-9_]{1,20}", "[a-z\":,=]{1,10}", "\\PC{1,10}"],
                seed in any::<[u8; 32]>(),
                user in prop_oneof![
                    "@[a-z0-9._=/+-]{1,20}:[a-z.]{1,20}",
                    "@[a-z\"\\\\,{}]{1,20}:\\PC{1,20}",
                    "@\\PC{0,60}:\\PC{1,60}",
                ],
                address in address(),
            ) {
                let (Ok(server), Ok(user), Some(address)) =
                    (IdentityServerName::parse(&server), UserId::parse(&user), address)
                else {
                    return Ok(());
                };
                // As the setting is read.
                if IdentityServerName::parse(&homeserver).is_err() {
                    return Ok(());
                }
                let file = format!("ed25519 {version} {}", STANDARD_NO_PAD.encode(seed));
                let Ok((key, public)) = SigningKey::of_text(&file, &homeserver) else { return Ok(()) };

                let request = signed("https://id.example", &server, &key, &user, &address);
                let Ok(request) = request else { return Err(TestCaseError::fail("it is not signed")) };
                prop_assert_eq!(request.headers().get_all("authorization").iter().count(), 1);
                let header = request.headers()["authorization"].to_str();
                let header = header.map_err(|error| TestCaseError::fail(error.to_string()))?;
                let Some(parameters) = parameters(header) else {
                    return Err(TestCaseError::fail(format!("it cannot be read back: {header}")));
                };
                let id = key.id();
                let [origin, key_id, (sig, signature), destination] = parameters[..] else {
                    return Err(TestCaseError::fail(format!("it has other parameters: {header}")));
                };
                prop_assert_eq!(
                    (origin, key_id, sig, destination),
                    (("origin", homeserver.as_str()), ("key", id.as_str()), "sig", ("destination", server.as_str()))
                );

                let content: serde_json::Value = serde_json::from_slice(request.body())
                    .map_err(|error| TestCaseError::fail(error.to_string()))?;
                let threepid =
                    serde_json::json!({ "medium": address.medium().as_str(), "address": address.as_str() });
                prop_assert_eq!(
                    &content,
                    &serde_json::json!({ "mxid": user.as_str(), "threepid": threepid })
                );
                let object: CanonicalJsonObject = serde_json::from_value(serde_json::json!({
                    "method": "POST",
                    "uri": PATH,
                    "origin": homeserver,
                    "destination_is": server.as_str(),
                    "content": content,
                    "signatures": { homeserver.as_str(): { id.as_str(): signature } },
                }))
                .map_err(|error| TestCaseError::fail(error.to_string()))?;
                let keys = BTreeMap::from([(id.clone(), Base64::new(public.to_vec()))]);
                let keys = BTreeMap::from([(homeserver.clone(), keys)]);
                let verified = ruma_signatures::verify_json(&keys, &object);
                prop_assert!(verified.is_ok(), "{:?}: {}", verified, header);
            }
        }
    }
}
