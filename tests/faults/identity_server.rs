//! An identity server of the harness: real enough to be asked, and with a state that can be looked at.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::Outcome;
use crate::books::Published;
use crate::fake::{Fake, Question};

/// Its name, by which clients name it.
pub(crate) const NAME: &str = "identity.faults.example";
/// What clients show it.
pub(crate) const TOKEN: &str = "token-of-the-identity-server";

/// The server.
pub(crate) struct IdentityServer {
    /// How it behaves.
    pub(crate) door: Fake,
    desk: Arc<Desk>,
}

/// What it knows.
#[derive(Debug, Default)]
struct Desk {
    shelves: Mutex<Shelves>,
    names_another_address: AtomicBool,
    unbinds: AtomicU64,
}

#[derive(Debug, Default)]
struct Shelves {
    /// Validated sessions: address and secret by sid.
    sessions: HashMap<String, (String, String)>,
    /// Whom it publishes for which address.
    published: HashMap<String, String>,
}

impl IdentityServer {
    /// Starts it.
    pub(crate) async fn start() -> Outcome<Self> {
        let desk = Arc::<Desk>::default();
        let behind = Arc::clone(&desk);
        Ok(Self { door: Fake::start(move |question| behind.answer(question)).await?, desk })
    }

    /// What the program has to be told of it: a setting's value.
    pub(crate) fn trusted(&self) -> String {
        format!("[{{name=\"{NAME}\",base_url=\"{}\",validates=true,binds=true}}]", self.door.base())
    }

    /// Somebody proves an address there; gives the session's sid.
    pub(crate) fn prove(&self, address: &str, secret: &str) -> String {
        let mut shelves = self.desk.shelves();
        let sid = format!("remote{}", shelves.sessions.len());
        shelves.sessions.insert(sid.clone(), (address.to_owned(), secret.to_owned()));
        sid
    }

    /// Whether what it says about binds is about another address from now on.
    pub(crate) fn name_another_address(&self, yes: bool) {
        self.desk.names_another_address.store(yes, Ordering::SeqCst);
    }

    /// Whom it publishes.
    pub(crate) fn published(&self) -> Vec<Published> {
        let shelves = self.desk.shelves();
        let all = shelves.published.iter();
        all.map(|(address, user)| Published { address: address.clone(), user: user.clone() }).collect()
    }

    /// How many times it was asked to forget.
    pub(crate) fn unbinds(&self) -> u64 {
        self.desk.unbinds.load(Ordering::SeqCst)
    }
}

impl Desk {
    fn shelves(&self) -> MutexGuard<'_, Shelves> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, question: &Question) -> (u16, Value) {
        match question.path.strip_prefix("/_matrix/identity/v2/3pid/") {
            Some("unbind") => self.unbind(question),
            Some(_) if question.authorization != format!("Bearer {TOKEN}") => {
                (401, json!({ "errcode": "M_UNAUTHORIZED", "error": "nobody's" }))
            }
            Some("getValidated3pid") => self.validated(question),
            Some("bind") => self.bind(question),
            _ => (404, json!({ "errcode": "M_UNRECOGNIZED", "error": "no such thing" })),
        }
    }

    fn session(&self, sid: Option<&str>, secret: Option<&str>) -> Option<String> {
        let shelves = self.shelves();
        let (address, expected) = shelves.sessions.get(sid?)?;
        (Some(expected.as_str()) == secret).then(|| address.clone())
    }

    fn validated(&self, question: &Question) -> (u16, Value) {
        let value = |name: &str| question.query.get(name).map(String::as_str);
        let Some(address) = self.session(value("sid"), value("client_secret")) else {
            return no_session();
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        (200, json!({ "medium": "email", "address": address, "validated_at": now }))
    }

    fn bind(&self, question: &Question) -> (u16, Value) {
        let body = &question.body;
        let Some(address) = self.session(body["sid"].as_str(), body["client_secret"].as_str()) else {
            return no_session();
        };
        let user = body["mxid"].as_str().unwrap_or_default().to_owned();
        self.shelves().published.insert(address.clone(), user.clone());
        let said = if self.names_another_address.load(Ordering::SeqCst) {
            "another@faults.example".to_owned()
        } else {
            address
        };
        (200, json!({ "medium": "email", "address": said, "mxid": user, "not_before": 0, "not_after": 1 }))
    }

    fn unbind(&self, question: &Question) -> (u16, Value) {
        if !question.authorization.starts_with("X-Matrix origin=\"faults.example\",") {
            return (403, json!({ "errcode": "M_FORBIDDEN", "error": "not signed" }));
        }
        self.unbinds.fetch_add(1, Ordering::SeqCst);
        let address = question.body["threepid"]["address"].as_str().unwrap_or_default();
        let mut shelves = self.shelves();
        if shelves.published.get(address).map(String::as_str) == question.body["mxid"].as_str() {
            shelves.published.remove(address);
        }
        (200, json!({}))
    }
}

fn no_session() -> (u16, Value) {
    (404, json!({ "errcode": "M_NO_VALID_SESSION", "error": "no such session" }))
}
