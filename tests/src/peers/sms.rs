//! An SMS gateway over HTTP, in this process, that keeps what it receives and misbehaves on demand.
//!
//! It takes `to`, `text` and `id` as a JSON object, as a form, or in a URL's query, whatever the path; and what Sydent
//! says to the only provider that it knows, OpenMarket. A yes is 202 and `{"status": "accepted"}`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use url::form_urlencoded;

use super::process::{PeerError, wait_until};

/// How long `wait_for_sms` waits.
const SMS_WITHIN: Duration = Duration::from_secs(30);

/// More is no request of ours.
const LARGEST_REQUEST: usize = 256 * 1024;

/// What the gateway does to whoever asks; changes hold from the next request on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SmsMode {
    /// Takes everything.
    Accept,
    /// Takes everything, and answers so much later.
    AcceptAfter(Duration),
    /// 500 to everything.
    Fail,
    /// 400 to everything: there is no such number.
    Reject,
    /// 401 to everything: the key is wrong.
    Unauthorized,
    /// 200 to everything, with a page instead of an answer.
    Page,
    /// 302 to everything.
    Redirect,
    /// Takes nothing and says nothing.
    Hang,
    /// Takes nothing and drops the connection.
    Drop,
    /// Takes everything and says nothing: the sender cannot know.
    KeepAndHang,
    /// Takes everything and drops the connection without an answer: the sender cannot know.
    KeepAndDrop,
}

impl SmsMode {
    fn takes(self) -> bool {
        matches!(self, Self::Accept | Self::AcceptAfter(_) | Self::KeepAndHang | Self::KeepAndDrop)
    }
}

/// An SMS as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapturedSms {
    /// Every recipient, without a plus.
    pub to: Vec<String>,
    /// The text.
    pub text: String,
    /// The sender's reference, if there was one.
    pub id: Option<String>,
    /// The request's method.
    pub method: String,
    /// The headers, names in small letters.
    pub headers: Vec<(String, String)>,
}

impl CapturedSms {
    /// The first header of that name, in small letters.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The first six digits in a row, which are the code.
    ///
    /// # Errors
    ///
    /// There is none; the error quotes the text.
    pub fn code(&self) -> Result<String, PeerError> {
        let mut runs = self.text.split(|c: char| !c.is_ascii_digit());
        let code = runs.find(|run| run.len() == 6).map(str::to_owned);
        code.ok_or_else(|| PeerError::new(format!("no code in: {}", self.text)))
    }
}

#[derive(Debug)]
struct State {
    mode: SmsMode,
    taken: Vec<CapturedSms>,
    requests: u64,
}

/// A running gateway.
#[derive(Debug)]
pub struct SmsGateway {
    url: String,
    port: u16,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl Drop for SmsGateway {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl SmsGateway {
    /// Starts a gateway on a port of its own.
    ///
    /// # Errors
    ///
    /// There is no port.
    pub async fn start() -> Result<Self, PeerError> {
        Self::start_at(0).await
    }

    /// Starts a gateway on this port, where one was before.
    ///
    /// # Errors
    ///
    /// The port is taken.
    pub async fn start_at(port: u16) -> Result<Self, PeerError> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let port = listener.local_addr()?.port();
        let url = format!("http://{}/messages", listener.local_addr()?);
        let state = State { mode: SmsMode::Accept, taken: Vec::new(), requests: 0 };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A connection that ends early is the sender's affair.
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Ok(Self { url, port, state, task })
    }

    /// Ends it and gives its port, where nobody listens any more.
    pub async fn stop(mut self) -> u16 {
        self.task.abort();
        // It was told to end, so that it has not come to an end of its own says nothing.
        let _cancelled = (&mut self.task).await;
        self.port
    }

    /// Where it is asked.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Changes what the gateway does; it holds when this returns.
    pub fn set_mode(&self, mode: SmsMode) {
        lock(&self.state).mode = mode;
    }

    /// How many requests have come so far, whatever became of them.
    pub fn requests(&self) -> u64 {
        lock(&self.state).requests
    }

    /// Waits until so many requests have come in all.
    ///
    /// # Errors
    ///
    /// They have not after 30 s.
    pub async fn wait_for_requests(&self, count: u64) -> Result<(), PeerError> {
        wait_until(&format!("{count} requests to the SMS gateway"), SMS_WITHIN, || async {
            Ok((self.requests() >= count).then_some(()))
        })
        .await
    }

    /// Every SMS that was taken, oldest first.
    pub fn messages(&self) -> Vec<CapturedSms> {
        lock(&self.state).taken.clone()
    }

    /// Waits for the first SMS that `wanted` says yes to, among those that are there and those to come.
    ///
    /// # Errors
    ///
    /// None came within 30 s; the error says how many others did.
    pub async fn wait_for_sms(
        &self,
        wanted: impl Fn(&CapturedSms) -> bool,
    ) -> Result<CapturedSms, PeerError> {
        let found =
            wait_until("an SMS", SMS_WITHIN, || async { Ok(self.messages().into_iter().find(&wanted)) });
        let others = || {
            format!("the SMS gateway has {} SMS after {} requests", self.messages().len(), self.requests())
        };
        found.await.map_err(|error| PeerError::new(format!("{error}; {}", others())))
    }

    /// Waits for an SMS to that number, digits without a plus.
    ///
    /// # Errors
    ///
    /// None came within 30 s.
    pub async fn wait_for_sms_to(&self, number: &str) -> Result<CapturedSms, PeerError> {
        self.wait_for_sms(|sms| sms.to.iter().any(|to| to == number)).await
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request as it came.
struct Asked {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Asked {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The SMS in it, if there is one.
    fn sms(&self) -> Option<CapturedSms> {
        let fields = match self.header("content-type") {
            Some(json) if json.starts_with("application/json") => serde_json::from_slice(&self.body).ok()?,
            Some(_) => fields(&self.body),
            None => fields(self.target.split_once('?')?.1.as_bytes()),
        };
        let fields = match &fields["mobileTerminate"] {
            Value::Object(sms) => {
                json!({ "to": sms.get("destination")?["address"], "text": sms.get("message")?["content"] })
            }
            _ => fields,
        };
        let digits = |to: &str| to.trim_start_matches('+').to_owned();
        let to: Vec<_> = match &fields["to"] {
            Value::String(to) => vec![digits(to)],
            Value::Array(several) => several.iter().filter_map(Value::as_str).map(digits).collect(),
            _ => return None,
        };
        let text = |name: &str| fields[name].as_str().map(str::to_owned);
        let (method, headers) = (self.method.clone(), self.headers.clone());
        Some(CapturedSms { to, text: text("text")?, id: text("id"), method, headers })
    }
}

/// A form's fields; one that is there several times is a list.
fn fields(form: &[u8]) -> Value {
    let mut fields = json!({});
    for (name, value) in form_urlencoded::parse(form) {
        let field = &mut fields[name.as_ref()];
        *field = match field.take() {
            Value::Null => value.into(),
            Value::Array(mut several) => {
                several.push(value.into());
                several.into()
            }
            first => json!([first, value]),
        };
    }
    fields
}

/// Serves one request and closes the connection.
async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>) -> std::io::Result<()> {
    let Some(asked) = read(&mut stream).await? else { return Ok(()) };
    let (mode, sms) = {
        let mut state = lock(&state);
        state.requests += 1;
        let sms = asked.sms();
        let taken = sms.clone().filter(|_| state.mode.takes());
        state.taken.extend(taken);
        (state.mode, sms)
    };
    if sms.is_none() {
        return answer(&mut stream, 422, "", r#"{"error": "unreadable"}"#).await;
    }
    let accepted = r#"{"status": "accepted"}"#;
    match mode {
        SmsMode::Accept => answer(&mut stream, 202, "", accepted).await,
        SmsMode::AcceptAfter(delay) => {
            tokio::time::sleep(delay).await;
            answer(&mut stream, 202, "", accepted).await
        }
        SmsMode::Fail => answer(&mut stream, 500, "", r#"{"error": "internal"}"#).await,
        SmsMode::Reject => answer(&mut stream, 400, "", r#"{"error": "invalid_number"}"#).await,
        SmsMode::Unauthorized => answer(&mut stream, 401, "", r#"{"error": "unauthorized"}"#).await,
        SmsMode::Page => answer(&mut stream, 200, "", "<html><body>Please sign in</body></html>").await,
        SmsMode::Redirect => answer(&mut stream, 302, "Location: /elsewhere\r\n", "").await,
        SmsMode::Drop | SmsMode::KeepAndDrop => Ok(()),
        // Until the sender has had enough.
        SmsMode::Hang | SmsMode::KeepAndHang => stream.read_to_end(&mut Vec::new()).await.map(drop),
    }
}

async fn answer(stream: &mut TcpStream, status: u16, more: &str, body: &str) -> std::io::Result<()> {
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status} Words\r\n{more}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// One request; `None` where the connection ended before it was whole, or it is none.
async fn read(stream: &mut TcpStream) -> std::io::Result<Option<Asked>> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        if bytes.len() > LARGEST_REQUEST || stream.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    };
    let mut body = bytes.split_off(end + 4);
    let head = String::from_utf8_lossy(&bytes).into_owned();
    let mut lines = head.lines();
    let mut first = lines.next().unwrap_or_default().split(' ').map(str::to_owned);
    let (Some(method), Some(target)) = (first.next(), first.next()) else { return Ok(None) };
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let asked = Asked { method, target, headers, body: Vec::new() };
    let length = asked.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0_usize);
    while body.len() < length.min(LARGEST_REQUEST) {
        if stream.read_buf(&mut body).await? == 0 {
            return Ok(None);
        }
    }
    Ok(Some(Asked { body, ..asked }))
}
