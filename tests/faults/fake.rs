//! An HTTP server of the tests' own that can be down, slow or beside itself: a homeserver, an identity server.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
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
use tokio::task::JoinSet;

use crate::Outcome;
use crate::site::User;

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    /// The path.
    pub(crate) path: String,
    /// The bearer token, empty without one.
    pub(crate) token: String,
}

/// How it behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// As it should.
    Well,
    /// Every answer takes so long.
    Slow(Duration),
    /// Every answer is a proxy's page with 502.
    Broken,
}

type Answers = dyn Fn(&Question) -> (u16, Value) + Send + Sync;

/// The server. Dropping it ends it.
pub(crate) struct Fake {
    port: u16,
    answers: Arc<Answers>,
    mood: Arc<Mutex<Mood>>,
    doors: Option<JoinSet<()>>,
}

impl Fake {
    /// A homeserver that knows these users.
    pub(crate) async fn homeserver(users: &[User]) -> Outcome<Self> {
        let users = users.to_vec();
        Self::start(move |question| match users.iter().find(|user| user.token == question.token) {
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
        let mood = Arc::new(Mutex::new(Mood::Well));
        let mut fake = Self { port: free_port()?, answers: Arc::new(answers), mood, doors: None };
        fake.up().await?;
        Ok(fake)
    }

    /// Where it is.
    pub(crate) fn base(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on it behaves so.
    pub(crate) fn set_mood(&self, mood: Mood) {
        *self.mood.lock().unwrap_or_else(PoisonError::into_inner) = mood;
    }

    /// Takes connections, again.
    pub(crate) async fn up(&mut self) -> Outcome<()> {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await?;
        let (answers, mood) = (Arc::clone(&self.answers), Arc::clone(&self.mood));
        let mut doors = JoinSet::new();
        doors.spawn(async move {
            // They end with this task.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (answers, mood) = (Arc::clone(&answers), Arc::clone(&mood));
                connections.spawn(async move {
                    let service = service_fn(|request| answer(request, &answers, &mood));
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

async fn answer(
    request: Request<Incoming>,
    answers: &Arc<Answers>,
    mood: &Mutex<Mood>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let bearer =
        request.headers().get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let question = Question {
        path: request.uri().path().to_owned(),
        token: bearer.trim_start_matches("Bearer ").to_owned(),
    };
    let _body = request.into_body().collect().await;
    let mood = *mood.lock().unwrap_or_else(PoisonError::into_inner);
    if let Mood::Slow(pause) = mood {
        tokio::time::sleep(pause).await;
    }
    let (status, body) = match mood {
        Mood::Broken => (502, "<html><h1>502 Bad Gateway</h1></html>".to_owned()),
        Mood::Well | Mood::Slow(_) => {
            let (status, body) = answers(&question);
            (status, body.to_string())
        }
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or_default();
    Ok(response)
}
