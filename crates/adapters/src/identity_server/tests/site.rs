//! An identity server over HTTP/1.1 for tests: it speaks v1 and v2 with the sessions and bindings of the domain's fake,
//! checks what real servers check, and can be told to fail in every way.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use serde_json::{Map, Value, json};
use threepid_domain::model::{
    Address, ClientSecret, Country, EmailAddress, IdAccessToken, IdentityServerName, Medium, Msisdn,
    SendAttempt, Sid, UserId,
};
use threepid_domain::ports::{
    IdentityServer, IdentityServerError, RemoteCredentials, RemoteRecipient, RemoteTokenRequest, Unbound,
};
use threepid_domain::testing::FakeIdentityServer;
use threepid_domain::testing::contract::identity_server::{IdentitySite, MoodySite, SiteMood};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

/// The token that v2 wants.
pub(super) const TOKEN: &str = "good.token";

/// The only homeserver whose signature it knows.
pub(super) const HOMESERVER: &str = "hs.example";

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(super) struct Received {
    pub(super) method: String,
    pub(super) target: String,
    /// Names in small letters.
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: String,
}

pub(super) struct Site {
    pub(super) address: SocketAddr,
    state: Arc<State>,
    accepting: AbortHandle,
}

struct State {
    /// The name that it believes to have.
    name: IdentityServerName,
    /// What goes before every path.
    prefix: String,
    /// Whether it reads forms on v1, and nothing else.
    v1_form: bool,
    bind_says_nothing: bool,
    public_key: Vec<u8>,
    fake: FakeIdentityServer,
    mood: Mutex<SiteMood>,
    reached: Mutex<usize>,
    received: Mutex<Vec<Received>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a site is before it listens.
#[derive(Default)]
pub(super) struct Plan {
    /// Its name; by default where it listens.
    pub(super) name: Option<&'static str>,
    pub(super) prefix: &'static str,
    pub(super) v1_form: bool,
    /// Whether it answers a bind with `{}`.
    pub(super) bind_says_nothing: bool,
    pub(super) public_key: Vec<u8>,
    pub(super) tls: Option<TlsAcceptor>,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Site {
    pub(super) async fn start(plan: Plan) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let by_address = format!("localhost:{}", address.port());
        let name = IdentityServerName::parse(plan.name.unwrap_or(&by_address)).expect("a name");
        let state = Arc::new(State {
            name,
            prefix: plan.prefix.to_owned(),
            v1_form: plan.v1_form,
            bind_says_nothing: plan.bind_says_nothing,
            public_key: plan.public_key,
            fake: FakeIdentityServer::signing_as(HOMESERVER),
            mood: Mutex::new(SiteMood::Works),
            reached: Mutex::new(0),
            received: Mutex::new(Vec::new()),
        });
        let shared = state.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *lock(&shared.reached) += 1;
                let (state, tls) = (shared.clone(), plan.tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => state.serve(stream).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => state.serve(stream).await,
                            Err(error) => Err(error),
                        },
                    }
                });
            }
        });
        Self { address, state, accepting: accepting.abort_handle() }
    }

    pub(super) fn name(&self) -> IdentityServerName {
        self.state.name.clone()
    }

    pub(super) fn base_url(&self) -> url::Url {
        format!("http://{}{}", self.address, self.state.prefix).parse().expect("a URL")
    }

    pub(super) fn received(&self) -> Vec<Received> {
        lock(&self.state.received).clone()
    }

    pub(super) fn last(&self) -> Received {
        self.received().pop().expect("a request")
    }

    pub(super) fn connections(&self) -> usize {
        *lock(&self.state.reached)
    }

    pub(super) fn mood(&self, mood: SiteMood) {
        *lock(&self.state.mood) = mood;
    }

    pub(super) fn says(&self, status: u16, body: &Value) {
        self.mood(SiteMood::Says { status, headers: Vec::new(), body: body.to_string().into_bytes() });
    }
}

#[async_trait]
impl IdentitySite for Site {
    async fn token(&self, _user_id: &UserId) -> IdAccessToken {
        IdAccessToken::new(TOKEN)
    }

    async fn prove(&self, server: &IdentityServerName, session: &RemoteCredentials) {
        IdentitySite::prove(&self.state.fake, server, session).await;
    }

    async fn published(&self, server: &IdentityServerName, address: &Address) -> Option<UserId> {
        self.state.fake.published(server, address)
    }
}

#[async_trait]
impl MoodySite for Site {
    async fn behave(&self, mood: SiteMood) {
        self.mood(mood);
    }

    async fn reached(&self) -> usize {
        self.connections()
    }
}

type Answer = (u16, Vec<(String, String)>, Vec<u8>);

fn answer(status: u16, body: &Value) -> Answer {
    (status, vec![("Content-Type".to_owned(), "application/json".to_owned())], body.to_string().into_bytes())
}

fn error(status: u16, errcode: &str) -> Answer {
    answer(status, &json!({"errcode": errcode, "error": "No"}))
}

impl State {
    async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
        let mood = lock(&self.mood).clone();
        if mood == SiteMood::Gone {
            return Ok(());
        }
        let received = read(&mut stream).await?;
        lock(&self.received).push(received.clone());
        let (status, headers, body) = match mood {
            SiteMood::Works | SiteMood::Gone => self.answer(&received).await,
            SiteMood::Says { status, headers, body } => (status, headers, body),
            SiteMood::Silent => return std::future::pending().await,
            SiteMood::Endless => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"sid\": \"").await?;
                loop {
                    stream.write_all(b"1").await?;
                    stream.flush().await?;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        };
        let mut head = format!("HTTP/1.1 {status} X\r\nConnection: close\r\n");
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        if status != 204 {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        stream.write_all((head + "\r\n").as_bytes()).await?;
        stream.write_all(&body).await?;
        stream.shutdown().await
    }

    async fn answer(&self, received: &Received) -> Answer {
        let (path, query) = received.target.split_once('?').unwrap_or((&received.target, ""));
        let Some(path) = path.strip_prefix(&self.prefix) else { return error(404, "M_UNRECOGNIZED") };
        let (token, call) = match path.strip_prefix("/_matrix/identity/v2") {
            Some("/3pid/unbind") => return self.unbind(received).await,
            Some(call) => {
                let bearer = format!("Bearer {TOKEN}");
                if received.headers.get("authorization") != Some(&bearer) {
                    return error(401, "M_UNAUTHORIZED");
                }
                (Some(IdAccessToken::new(TOKEN)), call)
            }
            None => match path.strip_prefix("/_matrix/identity/api/v1") {
                Some(call) if !received.headers.contains_key("authorization") => (None, call),
                _ => return error(404, "M_UNRECOGNIZED"),
            },
        };
        let is_form = token.is_none() && self.v1_form;
        let fields = match received.method.as_str() {
            "GET" => form(query),
            _ if is_form => form(&received.body),
            _ => serde_json::from_str(&received.body).unwrap_or_default(),
        };
        let expected = match is_form {
            true => "application/x-www-form-urlencoded",
            false => "application/json",
        };
        let content_type = received.headers.get("content-type").map(String::as_str);
        if received.method == "POST" && content_type != Some(expected) {
            return error(400, "M_NOT_JSON");
        }
        let field = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
        let Ok(client_secret) = ClientSecret::parse(field("client_secret")) else {
            return error(400, "M_INVALID_PARAM");
        };
        let session = RemoteCredentials { sid: Sid::new(field("sid")), client_secret: client_secret.clone() };
        let server = self.name.clone();
        let done = match (received.method.as_str(), call) {
            ("POST", "/validate/email/requestToken" | "/validate/msisdn/requestToken") => {
                let to = if call.contains("/email/") {
                    EmailAddress::parse(field("email")).ok().map(RemoteRecipient::Email)
                } else {
                    let country = Country::parse(field("country")).ok();
                    country.and_then(|country| {
                        let number = Msisdn::dialled(field("phone_number"), country).ok()?;
                        Some(RemoteRecipient::Msisdn { number, country })
                    })
                };
                let Some(to) = to else { return error(400, "M_INVALID_PARAM") };
                let count = if is_form {
                    field("send_attempt").parse().ok()
                } else {
                    fields.get("send_attempt").and_then(Value::as_i64)
                };
                let Some(send_attempt) = count.and_then(|count| SendAttempt::new(count.into()).ok()) else {
                    return error(400, "M_INVALID_PARAM");
                };
                let request = RemoteTokenRequest { client_secret, to, send_attempt, next_link: None };
                let opened = self.fake.request_token(server, request, token).await;
                opened.map(|opened| json!({"success": true, "sid": opened.sid.as_str()}))
            }
            ("GET", "/3pid/getValidated3pid") => {
                self.fake.validated(server, session, token).await.map(|said| match said {
                    Some(said) => json!({
                        "medium": said.medium, "address": said.address,
                        "validated_at": said.validated_at.as_ms(),
                    }),
                    None => json!({}),
                })
            }
            ("POST", "/3pid/bind") => {
                let Ok(user_id) = UserId::parse(field("mxid")) else { return error(400, "M_INVALID_PARAM") };
                let bound = self.fake.bind(server, session, user_id, token).await;
                bound.map(|address| {
                    if self.bind_says_nothing {
                        json!({})
                    } else {
                        json!({
                            "medium": address.medium().as_str(), "address": address.as_str(),
                            "mxid": field("mxid"), "not_before": 0, "not_after": 1, "ts": 1, "signatures": {},
                        })
                    }
                })
            }
            _ => return error(404, "M_UNRECOGNIZED"),
        };
        match done {
            Ok(body) => answer(200, &body),
            Err(IdentityServerError::Refused(refusal)) => answer(refusal.status, &refusal.body.into()),
            Err(IdentityServerError::Unavailable(_)) => error(500, "M_UNKNOWN"),
        }
    }

    /// As Sydent does it: the header is split at commas, the object rebuilt from what it knows itself.
    async fn unbind(&self, received: &Received) -> Answer {
        let header = received.headers.get("authorization").map(String::as_str).unwrap_or_default();
        let Some(parameters) = header.strip_prefix("X-Matrix ") else { return error(401, "M_FORBIDDEN") };
        let pairs = parameters.split(',').filter_map(|pair| pair.split_once('='));
        let parameters: BTreeMap<&str, &str> =
            pairs.map(|(name, value)| (name, value.trim_matches('"'))).collect();
        let parameter = |name: &str| parameters.get(name).copied().unwrap_or_default();
        let body: Value = serde_json::from_str(&received.body).unwrap_or_default();
        let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (mxid, medium, address) = (text("/mxid"), text("/threepid/medium"), text("/threepid/address"));
        let signed = format!(
            r#"{{"content":{{"mxid":"{mxid}","threepid":{{"address":"{address}","medium":"{medium}"}}}},"destination_is":"{}","method":"POST","origin":"{HOMESERVER}","uri":"/_matrix/identity/v2/3pid/unbind"}}"#,
            self.name,
        );
        let signature = BASE64_STANDARD_NO_PAD.decode(parameter("sig")).unwrap_or_default();
        let key = ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, &self.public_key);
        let is_its_own = parameter("origin") == HOMESERVER
            && parameter("destination") == self.name.as_str()
            && parameter("key") == "ed25519:a_uTBo"
            && key.verify(signed.as_bytes(), &signature).is_ok();
        if !is_its_own || !mxid.ends_with(&format!(":{HOMESERVER}")) {
            return error(403, "M_FORBIDDEN");
        }
        let address = Medium::parse(medium).and_then(|medium| Address::parse(medium, address).ok());
        let (Ok(user_id), Some(address)) = (UserId::parse(mxid), address) else {
            return error(400, "M_INVALID_PARAM");
        };
        match self.fake.unbind(self.name.clone(), user_id, address).await {
            Ok(Unbound::Done) => answer(200, &json!({})),
            _ => error(500, "M_UNKNOWN"),
        }
    }
}

fn form(text: &str) -> Map<String, Value> {
    let pairs = url::form_urlencoded::parse(text.as_bytes());
    pairs.map(|(name, value)| (name.into_owned(), value.into_owned().into())).collect()
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Received> {
    let mut bytes = Vec::new();
    let head_ends = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        more(stream, &mut bytes).await?;
    };
    let head = String::from_utf8_lossy(&bytes[..head_ends]).into_owned();
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ').map(ToOwned::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0_usize);
    while bytes.len() < head_ends + 4 + length {
        more(stream, &mut bytes).await?;
    }
    let body = String::from_utf8_lossy(&bytes[head_ends + 4..]).into_owned();
    Ok(Received { method, target, headers, body })
}

async fn more(stream: &mut (impl AsyncRead + Unpin), bytes: &mut Vec<u8>) -> std::io::Result<()> {
    let mut some = [0; 4096];
    match stream.read(&mut some).await? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        read => {
            bytes.extend_from_slice(&some[..read]);
            Ok(())
        }
    }
}
