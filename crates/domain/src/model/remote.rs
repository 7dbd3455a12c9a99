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

impl RemoteRefusal {
    /// The Matrix error code, if the body has one.
    pub fn errcode(&self) -> Option<&str> {
        self.body.get("errcode").and_then(Value::as_str)
    }
}
