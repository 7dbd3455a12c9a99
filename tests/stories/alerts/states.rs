//! The states that alerts are about: a server in each, and whatever it takes to keep it there.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sea_orm::{ConnectOptions, ConnectionTrait as _, Database, DatabaseConnection};
use serde_json::{Value, json};
use threepid_domain::ports::{Limit, RateLimiter, Unavailable, Verdict};
use threepid_domain::testing::{
    CountedSecrets, FixedClock, FixedTokens, MemoryStore, PlainTemplates, RecordingMailer,
};
use threepid_server::{Builder, Metrics};
use threepid_tests::peers::{PeerError, SmtpMode, SmtpServer, free_port};
use threepid_tests::server::{REQUEST_TOKEN, SUBMIT_TOKEN, Server, ServerBuilder, THREEPIDS};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use url::Url;

use super::Outcome;

/// So often each server is asked for something.
const ASKED_EVERY: Duration = Duration::from_millis(200);

/// A target of Prometheus', in some state.
pub(super) struct State {
    pub(super) name: &'static str,
    /// Host and port of its metrics.
    pub(super) target: String,
    /// They end with it.
    _kept: Vec<Box<dyn std::any::Any + Send>>,
    _tasks: JoinSet<()>,
}

/// Brings every state about.
pub(super) async fn bring_about() -> Outcome<Vec<State>> {
    Ok(vec![
        gone()?,
        mail_refused().await?,
        mail_deferred().await?,
        mail_too_late().await?,
        homeserver_down().await?,
        homeserver_slow().await?,
        identity_server_down().await?,
        identity_server_refuses().await?,
        mirror_down().await?,
        database_locked().await?,
        over_the_limit().await?,
        tokens_guessed().await?,
        connections_held().await?,
        panicking().await?,
    ])
}

/// An address that nobody listens on.
fn nowhere() -> Result<String, PeerError> {
    Ok(format!("127.0.0.1:{}", free_port()?))
}

/// Starts a server whose metrics are told, and asks it for something again and again.
async fn state<F, Fut>(name: &'static str, builder: ServerBuilder, ask: F) -> Outcome<State>
where
    F: Fn(Arc<Server>, u64) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send,
{
    let target = nowhere()?;
    let server = Arc::new(builder.text("metrics.listen", &target).start().await?);
    let mut tasks = JoinSet::new();
    let asked = Arc::clone(&server);
    tasks.spawn(async move {
        for count in 0.. {
            ask(Arc::clone(&asked), count).await;
            tokio::time::sleep(ASKED_EVERY).await;
        }
    });
    Ok(State { name, target, _kept: vec![Box::new(server)], _tasks: tasks })
}

/// Sends a request whose answer is of no interest; that there is one may be.
async fn post(server: &Server, to: &str, token: Option<&str>, body: &Value) -> Option<Value> {
    let answer = server.request(reqwest::Method::POST, to, token).json(body).send().await.ok()?;
    answer.json().await.ok()
}

fn token_request(count: u64) -> Value {
    json!({ "client_secret": "secret", "email": format!("a{count}@example.org"), "send_attempt": 1 })
}

async fn ask_for_mail(server: Arc<Server>, count: u64) {
    post(&server, REQUEST_TOKEN, None, &token_request(count)).await;
}

fn gone() -> Outcome<State> {
    Ok(State { name: "nobody listens", target: nowhere()?, _kept: Vec::new(), _tasks: JoinSet::new() })
}

async fn with_mail_server(
    name: &'static str,
    mode: SmtpMode,
    change: impl FnOnce(ServerBuilder) -> ServerBuilder,
) -> Outcome<State> {
    let smtp = SmtpServer::start().await?;
    smtp.set_mode(mode).await?;
    let mut state = state(name, change(Server::builder().mail_to(&smtp)), ask_for_mail).await?;
    state._kept.push(Box::new(smtp));
    Ok(state)
}

async fn mail_refused() -> Outcome<State> {
    with_mail_server("the mail server says 550", SmtpMode::RejectRecipient, |builder| builder).await
}

async fn mail_deferred() -> Outcome<State> {
    with_mail_server("the mail server says 451", SmtpMode::DeferRecipient, |builder| builder).await
}

async fn mail_too_late() -> Outcome<State> {
    let short = |builder: ServerBuilder| builder.text("lifetimes.token", "1s");
    with_mail_server("the mail server says 451, and links last 1 s", SmtpMode::DeferRecipient, short).await
}

async fn list(server: Arc<Server>, count: u64) {
    // Each time another token, since good answers are remembered.
    let _ = server.request(reqwest::Method::GET, THREEPIDS, Some(&format!("token{count}"))).send().await;
}

async fn homeserver_down() -> Outcome<State> {
    let builder = Server::builder().homeserver(&format!("http://{}", nowhere()?));
    state("the homeserver is down", builder, list).await
}

async fn homeserver_slow() -> Outcome<State> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let builder = Server::builder().homeserver(&format!("http://{}", listener.local_addr()?));
    let mut state = state("the homeserver takes 2 s", builder, list).await?;
    let says = r#"{"user_id":"@alice:example.org"}"#;
    state._tasks.spawn(answer_all(listener, Duration::from_secs(2), &["200 OK"], says));
    Ok(state)
}

/// Answers requests with these statuses in turn, after a while.
async fn answer_all(
    listener: TcpListener,
    after: Duration,
    statuses: &'static [&'static str],
    body: &'static str,
) {
    let mut statuses = statuses.iter().cycle();
    while let (Ok((mut stream, _)), Some(status)) = (listener.accept().await, statuses.next()) {
        tokio::spawn(async move {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            tokio::time::sleep(after).await;
            let head = "Content-Type: application/json\r\nConnection: close\r\n";
            let answer = format!("HTTP/1.1 {status}\r\n{head}Content-Length: {}\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes()).await;
        });
    }
}

/// Trusts one identity server, to which unbinds are signed with a key in that folder.
fn trusting(base_url: &str) -> Outcome<(ServerBuilder, tempfile::TempDir)> {
    let folder = tempfile::tempdir()?;
    let key = folder.path().join("signing.key");
    std::fs::write(&key, format!("ed25519 a_key {}\n", "A".repeat(43)))?;
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let trusted =
        format!(r#"[{{ name = "id.example", base_url = "{base_url}", validates = true, binds = true }}]"#);
    let builder = Server::builder()
        .set("identity_servers", trusted)
        .text("signing_key.file", &key.to_string_lossy())
        .text("signing_key.homeserver", "example.org");
    Ok((builder, folder))
}

/// It is asked what a session of its own proves, and, signed, to forget a binding.
async fn identity_server_down() -> Outcome<State> {
    let (builder, folder) = trusting(&format!("http://{}", nowhere()?))?;
    let ask = |server: Arc<Server>, count: u64| async move {
        let Ok(alice) = account(&server).await else { return };
        let creds = json!({ "sid": "sid", "client_secret": "secret", "id_server": "id.example" });
        post(&server, THREEPIDS, Some(&alice), &json!({ "three_pid_creds": creds })).await;
        if count == 0 {
            let delete = json!({ "medium": "email", "address": "a@example.org", "id_server": "id.example" });
            post(&server, &format!("{THREEPIDS}/delete"), Some(&alice), &delete).await;
        }
    };
    let mut state = state("the identity server is down", builder, ask).await?;
    state._kept.push(Box::new(folder));
    Ok(state)
}

/// It has no time at first and then refuses: what a deletion itself is refused is not owed any more.
async fn identity_server_refuses() -> Outcome<State> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (builder, folder) = trusting(&format!("http://{}", listener.local_addr()?))?;
    let ask = |server: Arc<Server>, count: u64| async move {
        let Ok(alice) = account(&server).await else { return };
        let address = format!("a{count}@example.org");
        let delete = json!({ "medium": "email", "address": address, "id_server": "id.example" });
        post(&server, &format!("{THREEPIDS}/delete"), Some(&alice), &delete).await;
    };
    let mut state = state("the identity server refuses", builder, ask).await?;
    let says = r#"{"errcode":"M_FORBIDDEN","error":"no"}"#;
    state._tasks.spawn(answer_all(
        listener,
        Duration::ZERO,
        &["503 Service Unavailable", "403 Forbidden"],
        says,
    ));
    state._kept.push(Box::new(folder));
    Ok(state)
}

/// An account of the server's own.
async fn account(server: &Server) -> Result<String, PeerError> {
    server.account("@alice:example.org").await
}

async fn mirror_down() -> Outcome<State> {
    let smtp = Arc::new(SmtpServer::start().await?);
    let builder = Server::builder()
        .mail_to(&smtp)
        .text("mirror.synapse_admin_url", &format!("http://{}", nowhere()?))
        .text("mirror.token", "token-of-an-administrator");
    let ask = move |server: Arc<Server>, count: u64| {
        let smtp = Arc::clone(&smtp);
        async move {
            if count == 0
                && let Ok(alice) = account(&server).await
                && let Ok(sid) = server.prove(&smtp, "alice@example.org", "secret").await
            {
                let _ = server.add(&alice, &sid, "secret").await;
            }
        }
    };
    state("the mirror is down", builder, ask).await
}

/// Somebody else writes, and does not come to an end.
async fn database_locked() -> Outcome<State> {
    let smtp = SmtpServer::start().await?;
    let mut state = state("the database is locked", Server::builder().mail_to(&smtp), ask_for_mail).await?;
    let server = state._kept.first().and_then(|kept| kept.downcast_ref::<Arc<Server>>());
    let file = server.map(|server| server.folder().join("threepid.db")).ok_or("there is a server")?;
    let mut options = ConnectOptions::new(format!("sqlite://{}", file.display()));
    options.max_connections(1).sqlx_logging(false);
    let other: DatabaseConnection = Database::connect(options).await?;
    other.execute_unprepared("BEGIN IMMEDIATE").await?;
    state._kept.push(Box::new(other));
    state._kept.push(Box::new(smtp));
    Ok(state)
}

async fn over_the_limit() -> Outcome<State> {
    let smtp = SmtpServer::start().await?;
    let builder = Server::builder()
        .mail_to(&smtp)
        .set("limits.request_token_per_client.per_second", 0.003)
        .set("limits.request_token_per_client.burst", 1);
    let mut state = state("one client asks too often", builder, ask_for_mail).await?;
    state._kept.push(Box::new(smtp));
    Ok(state)
}

async fn tokens_guessed() -> Outcome<State> {
    let smtp = SmtpServer::start().await?;
    let ask = |server: Arc<Server>, count: u64| async move {
        let opened = post(&server, REQUEST_TOKEN, None, &token_request(count)).await;
        let sid = opened.and_then(|opened| opened["sid"].as_str().map(str::to_owned)).unwrap_or_default();
        for _ in 0..5 {
            let guess = json!({ "sid": sid, "client_secret": "secret", "token": "wrong" });
            post(&server, SUBMIT_TOKEN, None, &guess).await;
        }
    };
    let mut state = state("tokens are guessed", Server::builder().mail_to(&smtp), ask).await?;
    state._kept.push(Box::new(smtp));
    Ok(state)
}

/// Somebody opens every connection that there may be, and says nothing on them. The server's own metrics do not suffer.
async fn connections_held() -> Outcome<State> {
    let builder = Server::builder().set("http.max_connections", 3);
    let nothing = |_server: Arc<Server>, _count: u64| std::future::ready(());
    let mut state = state("silent connections", builder, nothing).await?;
    let server = state._kept.first().and_then(|kept| kept.downcast_ref::<Arc<Server>>());
    let address = server.map(|server| server.base_url().replace("http://", "")).ok_or("there is a server")?;
    for _ in 0..6 {
        let address = address.clone();
        state._tasks.spawn(async move {
            loop {
                if let Ok(mut silent) = tokio::net::TcpStream::connect(&address).await {
                    // Until the server has had enough of it.
                    let _ = silent.read(&mut [0; 1]).await;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
    }
    Ok(state)
}

/// A part that breaks. The program has none, so this is the library with one of ours.
struct Breaking;

#[async_trait]
impl RateLimiter for Breaking {
    async fn take(&self, _limit: Limit, _subject: String) -> Result<Verdict, Unavailable> {
        // As `panic!`, without the lines on standard error.
        std::panic::resume_unwind(Box::new("the limiter broke"))
    }

    async fn look(&self, _limit: Limit, _subject: String) -> Result<Verdict, Unavailable> {
        Ok(Verdict::Allowed)
    }

    async fn give_back(&self, _limit: Limit, _subject: String) -> Result<(), Unavailable> {
        Ok(())
    }
}

async fn panicking() -> Outcome<State> {
    let metrics = Metrics::new("0");
    let store = Arc::new(MemoryStore::new());
    let app = Builder::new(Url::parse("https://contacts.example/")?)
        .store(Arc::clone(&store) as _)
        .outbox(store)
        .mailer(Arc::new(RecordingMailer::default()))
        .access_tokens(Arc::new(FixedTokens::new()))
        .rate_limiter(Arc::new(Breaking))
        .templates(Arc::new(PlainTemplates))
        .clock(Arc::new(FixedClock::default()))
        .secrets(Arc::new(CountedSecrets::default()))
        .metrics(metrics.clone())
        .build()?;
    let (listener, scraped) =
        (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
    let (address, target) = (listener.local_addr()?, scraped.local_addr()?.to_string());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let _ = app.serve(listener, None, std::future::pending()).await;
    });
    tasks.spawn(metrics.serve(scraped, std::future::pending()));
    tasks.spawn(async move {
        let client = reqwest::Client::new();
        for count in 0.. {
            let asked = client.post(format!("http://{address}{REQUEST_TOKEN}")).json(&token_request(count));
            let _ = asked.send().await;
            tokio::time::sleep(ASKED_EVERY).await;
        }
    });
    Ok(State { name: "a part of an embedder's breaks", target, _kept: Vec::new(), _tasks: tasks })
}
