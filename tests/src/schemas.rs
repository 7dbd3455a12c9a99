//! The shapes of answers, checked against schemas of our own.
//!
//! `tests/schemas/answers.json` is written by hand from the specification, and nothing of the program goes into it.
//! Every answer that a story gets through [`Server`](crate::server::Server) passes here.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use jsonschema::Validator;
use reqwest::Method;
use serde_json::{Value, json};

use crate::peers::PeerError;
use crate::server::SUBMIT_TOKEN;

const SCHEMAS: &str = include_str!("../schemas/answers.json");

/// The generations of the API, and what each has below `/account/3pid`.
pub const GENERATIONS: [&str; 3] = ["r0", "v3", "unstable"];

/// Every endpoint: its method, its path below `/_matrix/client/{generation}`, and the schema of its 200.
pub const ENDPOINTS: [(Method, &str, &str); 9] = [
    (Method::GET, "/account/3pid", "threepids"),
    (Method::POST, "/account/3pid", "nothing"),
    (Method::POST, "/account/3pid/email/requestToken", "request_token"),
    (Method::POST, "/account/3pid/msisdn/requestToken", "request_code"),
    (Method::POST, "/account/3pid/add", "nothing"),
    (Method::POST, "/account/3pid/bind", "nothing"),
    (Method::POST, "/account/3pid/unbind", "unbind_result"),
    (Method::POST, "/account/3pid/delete", "unbind_result"),
    (Method::GET, "/capabilities", "capabilities"),
];

/// The statuses that stand for a refusal; any other but 200 is a mistake.
const REFUSALS: [u16; 9] = [400, 401, 403, 404, 405, 408, 413, 429, 503];

/// Whether an answer has the shape that its endpoint and status promise.
///
/// # Errors
///
/// It has another one; the error says what differs and where.
pub fn check(method: &Method, path: &str, status: u16, body: &Value) -> Result<(), PeerError> {
    let schema = schema(method, path, status, body)?;
    let Some(validator) = validators()?.get(schema) else {
        return Err(PeerError::new(format!("there is no schema {schema}")));
    };
    let differences: Vec<String> = validator
        .iter_errors(body)
        .map(|error| format!("{} at {:?}", error, error.instance_path()))
        .collect();
    if differences.is_empty() {
        return Ok(());
    }
    let differences = differences.join("; ");
    Err(PeerError::new(format!(
        "{method} {path} answered {status} {body}, which is no {schema}: {differences}"
    )))
}

/// The name of the schema for an answer.
fn schema(method: &Method, path: &str, status: u16, body: &Value) -> Result<&'static str, PeerError> {
    let unexpected = || PeerError::new(format!("{method} {path} has no answer {status}: {body}"));
    match status {
        200 if path == SUBMIT_TOKEN => Ok("submitted"),
        200 => endpoint(method, path).ok_or_else(unexpected),
        401 if path.ends_with("/account/3pid/add") && !body["flows"].is_null() => Ok("challenge"),
        429 => Ok("rate_limited"),
        // How an identity server says that it does not unbind; passed on.
        501 if path.ends_with("/account/3pid/unbind") => Ok("error"),
        _ if REFUSALS.contains(&status) => Ok("error"),
        _ => Err(unexpected()),
    }
}

fn endpoint(method: &Method, path: &str) -> Option<&'static str> {
    let (generation, path) = path.strip_prefix("/_matrix/client/")?.split_once('/')?;
    let known = |(of, below, _): &&(Method, &str, &'static str)| {
        of == method && below.strip_prefix('/') == Some(path)
    };
    GENERATIONS.contains(&generation).then(|| ENDPOINTS.iter().find(known))?.map(|(_, _, schema)| *schema)
}

fn validators() -> Result<&'static BTreeMap<String, Validator>, PeerError> {
    static VALIDATORS: OnceLock<Result<BTreeMap<String, Validator>, String>> = OnceLock::new();
    VALIDATORS.get_or_init(compile).as_ref().map_err(|error| PeerError::new(error.clone()))
}

fn compile() -> Result<BTreeMap<String, Validator>, String> {
    let document: Value = serde_json::from_str(SCHEMAS).map_err(|error| error.to_string())?;
    let definitions = document["$defs"].as_object().ok_or("the document has no $defs")?;
    let compiled = definitions.keys().map(|name| {
        let schema = json!({ "$ref": format!("#/$defs/{name}"), "$defs": definitions });
        let validator = jsonschema::draft202012::new(&schema).map_err(|error| format!("{name}: {error}"))?;
        Ok((name.clone(), validator))
    });
    compiled.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "/_matrix/client/v3/account/3pid";
    const MAIL: &str = "/_matrix/client/v3/account/3pid/email/requestToken";
    const CODE: &str = "/_matrix/client/r0/account/3pid/msisdn/requestToken";

    fn passes(method: Method, path: &str, status: u16, body: &Value) -> bool {
        check(&method, path, status, body).is_ok()
    }

    #[test]
    fn what_the_specification_shows_passes() {
        let threepid = json!({
            "medium": "email", "address": "monkey@banana.island",
            "validated_at": 1_535_176_800_000_u64, "added_at": 1_535_336_848_756_u64,
        });
        let challenge =
            json!({ "flows": [{ "stages": ["m.login.password"] }], "params": {}, "session": "x" });
        let limited = json!({ "errcode": "M_LIMIT_EXCEEDED", "error": "slow", "retry_after_ms": 2000 });
        let refused = json!({ "errcode": "M_THREEPID_AUTH_FAILED", "error": "not verified" });
        let asked = json!({
            "sid": "123abc", "submit_url": "https://example.org/path/to/submitToken",
            "msisdn": "447700900001", "intl_fmt": "+44 7700 900001",
        });
        for (method, path, status, body) in [
            (Method::GET, LIST, 200, json!({ "threepids": [threepid] })),
            (Method::GET, "/_matrix/client/r0/account/3pid", 200, json!({ "threepids": [] })),
            (Method::POST, LIST, 200, json!({})),
            (Method::POST, LIST, 403, refused),
            (Method::POST, "/_matrix/client/v3/account/3pid/add", 401, challenge),
            (
                Method::POST,
                "/_matrix/client/v3/account/3pid/delete",
                200,
                json!({ "id_server_unbind_result": "success" }),
            ),
            (Method::POST, CODE, 200, asked),
            (Method::POST, LIST, 429, limited),
            (Method::POST, SUBMIT_TOKEN, 200, json!({ "success": true })),
        ] {
            let checked = check(&method, path, status, &body);
            assert!(checked.is_ok(), "{checked:?}");
        }
    }

    #[test]
    fn whatever_differs_from_a_shape_is_refused() {
        let threepid = |name: &str, value: Value| {
            let mut threepid = json!({
                "medium": "email", "address": "a@example.org",
                "validated_at": 1_535_176_800_000_u64, "added_at": 1_535_336_848_756_u64,
            });
            threepid[name] = value;
            json!({ "threepids": [threepid] })
        };
        for (method, path, status, body) in [
            (Method::GET, LIST, 200, json!({})),
            (Method::GET, LIST, 200, json!({ "threepids": null })),
            (Method::GET, LIST, 200, threepid("medium", json!("phone"))),
            (Method::GET, LIST, 200, threepid("medium", json!("msisdn"))),
            (Method::GET, LIST, 200, threepid("address", json!("a example"))),
            // Seconds.
            (Method::GET, LIST, 200, threepid("added_at", json!(1_535_336_848))),
            (Method::GET, LIST, 200, threepid("validated_at", json!(1_535_336_848_756.5))),
            (Method::GET, LIST, 200, threepid("user_id", json!("@alice:example.org"))),
            (Method::POST, LIST, 200, json!({ "submit_url": "https://example.org" })),
            (Method::POST, MAIL, 200, json!({ "sid": "a b" })),
            (Method::POST, "/_matrix/client/v3/account/3pid/delete", 200, json!({})),
            (
                Method::POST,
                "/_matrix/client/v3/account/3pid/add",
                401,
                json!({ "flows": [], "session": "x" }),
            ),
            (
                Method::POST,
                "/_matrix/client/v3/account/3pid/bind",
                401,
                json!({ "flows": [{ "stages": ["a"] }], "session": "x" }),
            ),
            (Method::POST, LIST, 400, json!({ "errcode": "M_UNKNOWN" })),
            (Method::POST, LIST, 400, json!({ "errcode": "unknown", "error": "x" })),
            (Method::POST, LIST, 429, json!({ "errcode": "M_LIMIT_EXCEEDED", "error": "slow" })),
            // No number, no session, a number that is not in E.164 digits, one that nobody can read.
            (Method::POST, CODE, 200, json!({ "sid": "a" })),
            (Method::POST, CODE, 200, json!({ "msisdn": "447700900001", "intl_fmt": "+44 7700 900001" })),
            (
                Method::POST,
                CODE,
                200,
                json!({ "sid": "a", "msisdn": "+447700900001", "intl_fmt": "+447700900001" }),
            ),
            (
                Method::POST,
                CODE,
                200,
                json!({ "sid": "a", "msisdn": "07700900001", "intl_fmt": "+447700900001" }),
            ),
            (
                Method::POST,
                CODE,
                200,
                json!({ "sid": "a", "msisdn": "447700900001", "intl_fmt": "447700900001" }),
            ),
            (Method::POST, MAIL, 200, json!({ "sid": "a", "msisdn": "447700900001" })),
            // No such answer, whatever its shape.
            (Method::POST, LIST, 202, json!({})),
            (Method::POST, LIST, 500, json!({ "errcode": "M_UNKNOWN", "error": "x" })),
            (Method::GET, "/_matrix/client/v9/account/3pid", 200, json!({ "threepids": [] })),
            (Method::POST, SUBMIT_TOKEN, 200, json!({ "success": false })),
        ] {
            assert!(!passes(method, path, status, &body), "{path} {status} {body}");
        }
    }
}
