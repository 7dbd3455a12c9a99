//! Where a mail's link leads.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;

/// Tokens by their session, whether they are waited for already or not.
#[derive(Default)]
pub(crate) struct Letters(Mutex<HashMap<String, Letter>>);

enum Letter {
    Here(String),
    Wanted(oneshot::Sender<String>),
}

impl Letters {
    /// Reads a mail.
    pub(crate) fn take(&self, mail: &[u8]) {
        let Some((sid, token)) = link(&String::from_utf8_lossy(mail)) else { return };
        let mut letters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match letters.remove(&sid) {
            Some(Letter::Wanted(wanted)) => {
                let _ = wanted.send(token);
            }
            _ => {
                letters.insert(sid, Letter::Here(token));
            }
        }
    }

    /// The token that came, or will come, for a session.
    pub(crate) fn token(&self, sid: &str) -> oneshot::Receiver<String> {
        let (arrived, token) = oneshot::channel();
        let mut letters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match letters.remove(sid) {
            Some(Letter::Here(here)) => {
                let _ = arrived.send(here);
            }
            _ => {
                letters.insert(sid.to_owned(), Letter::Wanted(arrived));
            }
        }
        token
    }
}

/// Session and token of the first link in a mail, whose lines may be broken as quoted-printable breaks them.
fn link(mail: &str) -> Option<(String, String)> {
    let mail = mail.replace("=\r\n", "").replace("=3D", "=");
    let query = mail.split_once("/_threepid/confirm?")?.1;
    let value = |name: &str| {
        let value = query.split_once(name)?.1;
        let end =
            value.find(|c: char| !c.is_ascii_alphanumeric() && !"._-".contains(c)).unwrap_or(value.len());
        value.get(..end).map(str::to_owned)
    };
    Some((value("sid=")?, value("token=")?))
}
