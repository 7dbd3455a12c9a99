//! Every mail that arrived, as it arrives.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use threepid_tests::peers::{CapturedMail, SmtpServer};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use url::Url;

/// How often it looks for the next mail.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(5);

/// What arrived at the mail server so far. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Mailbox {
    shelves: Arc<Mutex<Shelves>>,
    count: watch::Receiver<u64>,
    _reader: Arc<Reader>,
}

#[derive(Debug)]
struct Reader(JoinHandle<()>);

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Debug, Default)]
struct Shelves {
    /// How often each Message-ID arrived.
    by_message: HashMap<String, u64>,
    /// The newest token of each session.
    tokens: HashMap<String, String>,
    /// What could not be read as a mail of ours.
    strange: Vec<String>,
}

impl Mailbox {
    /// Reads what `server` receives, from now until the last clone is dropped.
    pub(crate) fn open(server: Arc<SmtpServer>) -> Self {
        let shelves = Arc::new(Mutex::new(Shelves::default()));
        let (counter, count) = watch::channel(0);
        let filling = Arc::clone(&shelves);
        let reader = tokio::spawn(async move {
            let mut next = 1;
            loop {
                match server.mail(next) {
                    Ok(Some(mail)) => {
                        lock(&filling).take_in(&mail);
                        counter.send_replace(next);
                        next += 1;
                    }
                    Ok(None) => tokio::time::sleep(LOOK_AGAIN_AFTER).await,
                    Err(error) => {
                        lock(&filling).strange.push(error.to_string());
                        next += 1;
                    }
                }
            }
        });
        Self { shelves, count, _reader: Arc::new(Reader(reader)) }
    }

    /// The token of the newest mail for a session, if one arrives within `patience`.
    pub(crate) async fn token_for(&self, sid: &str, patience: Duration) -> Option<String> {
        let mut count = self.count.clone();
        let found = async {
            loop {
                count.mark_unchanged();
                if let Some(token) = lock(&self.shelves).tokens.get(sid) {
                    return Some(token.clone());
                }
                count.changed().await.ok()?;
            }
        };
        tokio::time::timeout(patience, found).await.ok().flatten()
    }

    /// Waits until everything that the server has taken is read.
    pub(crate) async fn caught_up(&self, server: &SmtpServer) {
        let is_behind = || matches!(server.mail(*self.count.borrow() + 1), Ok(Some(_)));
        while is_behind() {
            tokio::time::sleep(LOOK_AGAIN_AFTER).await;
        }
    }

    /// How often each Message-ID arrived.
    pub(crate) fn arrived(&self) -> HashMap<String, u64> {
        lock(&self.shelves).by_message.clone()
    }

    /// What arrived and is no mail of this program's.
    pub(crate) fn strange(&self) -> Vec<String> {
        lock(&self.shelves).strange.clone()
    }
}

fn lock(shelves: &Mutex<Shelves>) -> MutexGuard<'_, Shelves> {
    shelves.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shelves {
    fn take_in(&mut self, mail: &CapturedMail) {
        let Some((id, sid, token)) = read(mail) else {
            self.strange.push(format!("a mail to {:?} without an id or a link", mail.to));
            return;
        };
        *self.by_message.entry(id).or_default() += 1;
        self.tokens.insert(sid, token);
    }
}

/// The message's id, and session and token of its link.
fn read(mail: &CapturedMail) -> Option<(String, String, String)> {
    let id = mail.header("message-id")?.trim().trim_start_matches('<');
    let id = id.split_once('@').map_or(id, |(id, _domain)| id).to_owned();
    let text = mail.text.as_deref()?;
    let link = text.split_whitespace().find(|word| word.contains("/_threepid/confirm?"))?;
    let link = Url::parse(link).ok()?;
    let value =
        |name: &str| link.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
    Some((id, value("sid")?, value("token")?))
}
