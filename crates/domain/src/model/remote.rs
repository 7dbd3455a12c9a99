//! Another server's refusal, carried as data.

use serde_json::{Map, Value};

/// A refusal in the Matrix error format that another server gave. The domain passes it on unread: clients act on
/// fields that we need not know, such as `soft_logout`.
#[derive(Clone, Debug, PartialEq)]
pub struct RemoteRefusal {
    /// The status it came with.
    pub status: u16,
    /// The whole JSON object, `errcode` included.
    pub body: Map<String, Value>,
}

/// What an identity server says of a token of its own; a client that reads them as said of its access token logs out.
const ABOUT_A_TOKEN: [&str; 4] =
    ["M_UNKNOWN_TOKEN", "M_MISSING_TOKEN", "M_USER_LOCKED", "M_USER_DEACTIVATED"];

/// What an identity server says of a session that proves nothing.
const UNPROVEN: [&str; 3] = ["M_SESSION_NOT_VALIDATED", "M_NO_VALID_SESSION", "M_SESSION_EXPIRED"];

impl RemoteRefusal {
    /// The Matrix error code, if the body has one.
    pub fn errcode(&self) -> Option<&str> {
        self.body.get("errcode").and_then(Value::as_str)
    }

    /// Whether an identity server says that the session is not validated, not there, or over.
    pub fn says_unproven(&self) -> bool {
        self.errcode().is_some_and(|code| UNPROVEN.contains(&code))
    }

    /// An identity server's refusal as a client may see it: status, `errcode`, `error` and `retry_after_ms`, nothing
    /// that belongs to this server's own conversation with the client (`soft_logout`, `flows`, `session`). What it says
    /// of its own tokens becomes 403 `M_FORBIDDEN`, since clients log out on it. Its 429 is `M_LIMIT_EXCEEDED` whatever
    /// it calls that, since clients wait on the code: Sydent calls it `M_UNKNOWN`.
    #[must_use]
    pub fn of_identity_server(self) -> Self {
        let about_a_token =
            self.status == 401 || self.errcode().is_some_and(|code| ABOUT_A_TOKEN.contains(&code));
        let mut body: Map<String, Value> = self
            .body
            .into_iter()
            .filter(|(name, value)| match name.as_str() {
                "errcode" | "error" => value.is_string(),
                "retry_after_ms" => value.is_u64(),
                _ => false,
            })
            .collect();
        if about_a_token {
            body.insert("errcode".to_owned(), "M_FORBIDDEN".into());
        } else if self.status == 429 {
            body.insert("errcode".to_owned(), "M_LIMIT_EXCEEDED".into());
        }
        Self { status: if about_a_token { 403 } else { self.status }, body }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refusal(status: u16, body: &Value) -> RemoteRefusal {
        RemoteRefusal { status, body: body.as_object().cloned().unwrap_or_default() }
    }

    #[test]
    fn an_identity_servers_words_never_log_a_client_out() {
        for (status, errcode) in [
            (401, "M_UNAUTHORIZED"),
            (403, "M_UNKNOWN_TOKEN"),
            (400, "M_MISSING_TOKEN"),
            (403, "M_USER_LOCKED"),
        ] {
            let given =
                json!({"errcode": errcode, "error": "no", "soft_logout": true, "session": "s", "flows": []});
            let passed = refusal(status, &given).of_identity_server();
            assert_eq!(
                passed,
                refusal(403, &json!({"errcode": "M_FORBIDDEN", "error": "no"})),
                "{status} {errcode}"
            );
        }
    }

    #[test]
    fn other_refusals_keep_what_a_client_can_act_on() {
        let terms = json!({"errcode": "M_TERMS_NOT_SIGNED", "error": "sign", "extra": {"a": 1}});
        let passed = refusal(403, &terms).of_identity_server();
        assert_eq!(passed, refusal(403, &json!({"errcode": "M_TERMS_NOT_SIGNED", "error": "sign"})));
        let slow = json!({"errcode": "M_LIMIT_EXCEEDED", "retry_after_ms": 5, "error": 7});
        let passed = refusal(429, &slow).of_identity_server();
        assert_eq!(passed, refusal(429, &json!({"errcode": "M_LIMIT_EXCEEDED", "retry_after_ms": 5})));
        let slow = json!({"errcode": "M_UNKNOWN", "error": "Limit exceeded for this number"});
        let passed = refusal(429, &slow).of_identity_server();
        let told = json!({"errcode": "M_LIMIT_EXCEEDED", "error": "Limit exceeded for this number"});
        assert_eq!(passed, refusal(429, &told));
    }
}
