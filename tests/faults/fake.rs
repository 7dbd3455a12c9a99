//! An HTTP server of the tests' own that can be down, slow or beside itself: a homeserver, an identity server.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use threepid_tests::peers::free_port;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::Outcome;
use crate::site::User;

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    /// The path.
    pub(crate) path: String,
    /// The parameters of the query.
    pub(crate) query: HashMap<String, String>,
    /// The header `Authorization`, empty without one.
    pub(crate) authorization: String,
    /// The body, `null` where it is no JSON.
    pub(crate) body: Value,
}

impl Question {
    /// The bearer token, empty without one.
    fn token(&self) -> &str {
        self.authorization.strip_prefix("Bearer ").unwrap_or_default()
    }
}

/// How it behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// As it should.
    Well,
    /// Every answer takes so long.
    Slow(Duration),
    /// Every answer is a proxy's page with 502, and nothing is done.
    Broken,
    /// It does what it is asked, and says that it failed (500).
    DeniesWhatItDid,
    /// It does what it is asked, and ends the connection without a word.
    SilentAfter,
    /// It does what it is asked, and answers 200 with a page.
    Babbles,
}

/// Where a question is held for ever, until whoever asked is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// It has arrived, and nothing is done yet.
    Arrived,
    /// What was asked is done, and not answered.
    Done,
}

/// The next question of this path is held there, and said to be.
#[derive(Debug)]
struct Trap {
    path: &'static str,
    hold: Hold,
    caught: oneshot::Sender<()>,
}

/// What the connections share.
#[derive(Debug)]
struct Conduct {
    mood: Mood,
    trap: Option<Trap>,
}

type Answers = dyn Fn(&Question) -> (u16, Value) + Send + Sync;

/// The server. Dropping it ends it.
pub(crate) struct Fake {
    port: u16,
    answers: Arc<Answers>,
    conduct: Arc<Mutex<Conduct>>,
    doors: Option<JoinSet<()>>,
}

impl Fake {
    /// A homeserver that knows these users.
    pub(crate) async fn homeserver(users: &[User]) -> Outcome<Self> {
        let users = users.to_vec();
        Self::start(move |question| match users.iter().find(|user| user.token == question.token()) {
            Some(user) if question.path.ends_with("/account/whoami") => {
                (200, json!({ "user_id": user.id, "device_id": "DEVICE" }))
            }
            Some(_) => (404, json!({ "errcode": "M_UNRECOGNIZED", "error": "no such thing" })),
            None => (401, json!({ "errcode": "M_UNKNOWN_TOKEN", "error": "nobody's" })),
        })
        .await
    }

    /// A server with these answers.
    pub(crate) async fn start(
        answers: impl Fn(&Question) -> (u16, Value) + Send + Sync + 'static,
    ) -> Outcome<Self> {
        let conduct = Arc::new(Mutex::new(Conduct { mood: Mood::Well, trap: None }));
        let mut fake = Self { port: free_port()?, answers: Arc::new(answers), conduct, doors: None };
        fake.up().await?;
        Ok(fake)
    }

    /// Where it is.
    pub(crate) fn base(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on it behaves so.
    pub(crate) fn set_mood(&self, mood: Mood) {
        lock(&self.conduct).mood = mood;
    }

    /// Holds the next question whose path ends so; the answer says when it is caught.
    pub(crate) fn hold(&self, path: &'static str, hold: Hold) -> oneshot::Receiver<()> {
        let (caught, is_caught) = oneshot::channel();
        lock(&self.conduct).trap = Some(Trap { path, hold, caught });
        is_caught
    }

    /// Takes connections, again.
    pub(crate) async fn up(&mut self) -> Outcome<()> {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await?;
        let (answers, conduct) = (Arc::clone(&self.answers), Arc::clone(&self.conduct));
        let mut doors = JoinSet::new();
        doors.spawn(async move {
            // They end with this task.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (answers, conduct) = (Arc::clone(&answers), Arc::clone(&conduct));
                connections.spawn(async move {
                    let service = service_fn(|request| answer(request, &answers, &conduct));
                    // Whoever went away has learnt enough.
                    let _ended = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        self.doors = Some(doors);
        Ok(())
    }

    /// Ends every connection and refuses new ones.
    pub(crate) async fn down(&mut self) {
        if let Some(mut doors) = self.doors.take() {
            doors.shutdown().await;
        }
    }
}

fn lock(conduct: &Mutex<Conduct>) -> MutexGuard<'_, Conduct> {
    conduct.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for ever where the question was to be held there.
async fn held(conduct: &Mutex<Conduct>, question: &Question, hold: Hold) {
    let trap = lock(conduct).trap.take_if(|trap| trap.hold == hold && question.path.ends_with(trap.path));
    if let Some(trap) = trap {
        let _nobody_waits = trap.caught.send(());
        std::future::pending::<()>().await;
    }
}

async fn read(request: Request<Incoming>) -> Question {
    let (head, body) = request.into_parts();
    let authorization = head.headers.get("authorization").and_then(|value| value.to_str().ok());
    let query = url::form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes());
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    Question {
        path: head.uri.path().to_owned(),
        query: query.into_owned().collect(),
        authorization: authorization.unwrap_or_default().to_owned(),
        body: serde_json::from_slice(&body).unwrap_or_default(),
    }
}

async fn answer(
    request: Request<Incoming>,
    answers: &Arc<Answers>,
    conduct: &Mutex<Conduct>,
) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let question = read(request).await;
    held(conduct, &question, Hold::Arrived).await;
    let mood = lock(conduct).mood;
    if let Mood::Slow(pause) = mood {
        tokio::time::sleep(pause).await;
    }
    let page = "<html><h1>502 Bad Gateway</h1></html>".to_owned();
    let (status, body) = if mood == Mood::Broken { (502, Value::Null) } else { answers(&question) };
    held(conduct, &question, Hold::Done).await;
    let (status, body) = match mood {
        Mood::Broken => (status, page),
        Mood::Babbles => (200, page),
        Mood::DeniesWhatItDid => (500, json!({ "errcode": "M_UNKNOWN", "error": "no idea" }).to_string()),
        Mood::SilentAfter => return Err(std::io::Error::other("nothing to say")),
        Mood::Well | Mood::Slow(_) => (status, body.to_string()),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or_default();
    Ok(response)
}
