#![expect(clippy::unwrap_used, reason = "a test that meets an error has failed")]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use threepid_domain::model::{AccessToken, Caller};
use threepid_domain::ports::{AccessTokens as _, Credentials, Freshness, WhoseTokenError};

use super::*;

mod abilities;
mod account_states;
mod mirror;
mod reauthentication;
mod tokens;

/// What the homeserver does with a request.
#[derive(Clone, Debug)]
enum Does {
    /// It answers: status line and headers, then the body.
    Answer(String, Vec<u8>),
    /// It says nothing.
    Hang,
    /// It answers once and closes the connection without a word about it.
    AnswerAndClose(String, Vec<u8>),
}

/// A homeserver that does as it is told and notes what it is asked.
struct Peer {
    base_url: Url,
    does: Arc<Mutex<Does>>,
    asked: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Peer {
    async fn start(does: Does) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let (does, asked) = (Arc::new(Mutex::new(does)), Arc::new(Mutex::new(Vec::new())));
        let (told, noted) = (does.clone(), asked.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, told.clone(), noted.clone()));
            }
        });
        Self { base_url, does, asked, task }
    }

    fn now(&self, does: Does) {
        *self.does.lock().unwrap() = does;
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn settings(&self) -> HomeserverSettings {
        HomeserverSettings::new(self.base_url.clone())
    }

    fn tokens(&self) -> HomeserverTokens {
        tokens(&self.settings())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves one connection until it ends. `None` is its end.
async fn serve(mut stream: TcpStream, does: Arc<Mutex<Does>>, asked: Arc<Mutex<Vec<String>>>) -> Option<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let mut request = String::from_utf8(head).ok()?;
        let length =
            request.to_ascii_lowercase().split_once("\r\ncontent-length: ").map_or(0, |(_, rest)| {
                rest.split_once('\r').and_then(|(length, _)| length.parse().ok()).unwrap_or(0)
            });
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.ok()?;
        request.push_str(&String::from_utf8(body).ok()?);
        asked.lock().unwrap().push(request);
        let now = does.lock().unwrap().clone();
        match now {
            Does::Hang => {
                let _ = stream.read_to_end(&mut Vec::new()).await;
                return None;
            }
            Does::Answer(head, body) => {
                stream.write_all(head.as_bytes()).await.ok()?;
                stream.write_all(&body).await.ok()?;
            }
            Does::AnswerAndClose(head, body) => {
                stream.write_all(head.as_bytes()).await.ok()?;
                stream.write_all(&body).await.ok()?;
                return None;
            }
        }
    }
}

fn head(status: u16, more: &str, body: &[u8]) -> String {
    format!("HTTP/1.1 {status} Some Words\r\n{more}Content-Length: {}\r\n\r\n", body.len())
}

fn json(status: u16, body: &Value) -> Does {
    let body = body.to_string().into_bytes();
    Does::Answer(head(status, "Content-Type: application/json\r\n", &body), body)
}

fn html(status: u16) -> Does {
    let body = b"<html>no</html>".to_vec();
    Does::Answer(head(status, "Content-Type: text/html\r\n", &body), body)
}

fn tokens(settings: &HomeserverSettings) -> HomeserverTokens {
    Homeserver::new(settings).unwrap().tokens()
}

fn alice() -> Value {
    json!({"user_id": "@alice:example.org", "device_id": "DEVICE", "is_guest": false})
}

fn credentials(token: &str) -> Credentials {
    Credentials { access_token: AccessToken::new(token), user_id: None, client_ip: None }
}
