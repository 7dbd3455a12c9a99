//! Whoever asks: so many connections, each with one request at a time, for so long or so often.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::http::{Connection, get, post};
use super::{figure, number, tell, text, texts};
use crate::Outcome;

pub(crate) const THREEPIDS: &str = "/_matrix/client/v3/account/3pid";
pub(crate) const REQUEST_TOKEN: &str = "/_matrix/client/v3/account/3pid/email/requestToken";

/// What is asked, over and over.
enum Question {
    /// The list of the users of these tokens, one after the other.
    Lists(Vec<Vec<u8>>),
    /// A token for an address that nobody has asked about.
    Tokens { mark: String },
}

impl Question {
    fn read(settings: &Value) -> Outcome<Self> {
        let tokens = texts(settings, "tokens");
        Ok(match text(settings, "ask")? {
            "lists" => Self::Lists(tokens.iter().map(|token| get(THREEPIDS, token)).collect()),
            _ => Self::Tokens { mark: text(settings, "mark")?.to_owned() },
        })
    }

    fn request(&self, number: u64) -> std::borrow::Cow<'_, [u8]> {
        match self {
            Self::Lists(lists) => {
                let at = usize::try_from(number).unwrap_or(0) % lists.len().max(1);
                lists.get(at).map_or(Default::default(), |list| list.as_slice().into())
            }
            Self::Tokens { mark } => {
                let body = format!(
                    r#"{{"client_secret":"secret.{mark}.{number}","email":"{mark}-{number}@bench.example","send_attempt":1}}"#
                );
                post(REQUEST_TOKEN, "", &body).into()
            }
        }
    }
}

struct Plan {
    question: Question,
    until: Option<Instant>,
    most: u64,
    asked: AtomicU64,
    /// The first answer that was not good.
    wrong: Mutex<Option<String>>,
    errors: AtomicU64,
}

pub(super) async fn run(settings: &Value) -> Outcome<()> {
    let addresses = texts(settings, "addresses");
    let mut connections = Vec::new();
    for at in 0..usize::try_from(number(settings, "connections")?)? {
        let address = addresses.get(at % addresses.len().max(1)).ok_or("no address")?;
        connections.push(Connection::open(address).await?);
    }
    let began = Instant::now();
    let plan = Arc::new(Plan {
        question: Question::read(settings)?,
        until: settings["milliseconds"].as_u64().map(|ms| began + Duration::from_millis(ms)),
        most: settings["requests"].as_u64().unwrap_or(u64::MAX),
        asked: AtomicU64::new(0),
        wrong: Mutex::default(),
        errors: AtomicU64::new(0),
    });
    let mut clients = JoinSet::new();
    for connection in connections {
        clients.spawn(client(connection, Arc::clone(&plan)));
    }
    let mut times = Vec::new();
    while let Some(took) = clients.join_next().await {
        times.extend(took?);
    }
    let seconds = began.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |part: usize| times.get((times.len() * part / 1000).min(times.len().saturating_sub(1)));
    let good = u64::try_from(times.len())?;
    tell(&json!({
        "good": good,
        "seconds": seconds,
        "per_second": figure(good) / seconds,
        "p50_us": at(500),
        "p99_us": at(990),
        "errors": plan.errors.load(Ordering::Relaxed),
        "wrong": *plan.wrong.lock().unwrap_or_else(PoisonError::into_inner),
    }));
    Ok(())
}

/// Asks until it is time to end; how long each good answer took, in µs.
async fn client(mut connection: Connection, plan: Arc<Plan>) -> Vec<u32> {
    let mut times = Vec::new();
    loop {
        let number = plan.asked.fetch_add(1, Ordering::Relaxed);
        if number >= plan.most || plan.until.is_some_and(|until| Instant::now() >= until) {
            return times;
        }
        let request = plan.question.request(number);
        let began = Instant::now();
        let wrong = match connection.ask(&request).await {
            Ok(answer) if answer.status == 200 => {
                times.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
                continue;
            }
            Ok(answer) => (answer.quoted(), false),
            Err(error) => (error.to_string(), true),
        };
        plan.errors.fetch_add(1, Ordering::Relaxed);
        plan.wrong.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(wrong.0);
        if wrong.1 {
            return times;
        }
    }
}
