//! A clock that is set back an hour: no proof lives longer than its setting and the jump, and nothing panics.
//!
//! The clock is a port, so this one runs in this process: the server as a library, on a real database.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use threepid_adapters::sea_orm::{ConnectSettings, Database, SeaOrmStore};
use threepid_domain::model::{Lifetimes, Timestamp, UserId};
use threepid_domain::ports::Clock as _;
use threepid_domain::testing::{
    CountedSecrets, FixedClock, FixedTokens, OpenLimiter, PlainTemplates, RecordingMailer,
};
use threepid_domain::use_cases::Policy;
use threepid_server::Builder;
use threepid_tests::peers::temp_folder;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use url::Url;

use crate::Outcome;
use crate::options::Options;
use crate::report::Row;

const HOUR: Duration = Duration::from_secs(60 * 60);

/// The clock on the wall, and how much time has really passed.
struct Wall {
    clock: Arc<FixedClock>,
    really: Duration,
}

impl Wall {
    fn pass(&mut self, span: Duration) {
        self.really += span;
        self.clock.advance(span);
    }

    fn set_back(&self, span: Duration) {
        let shown = Duration::from_millis(self.clock.now().as_ms());
        let back = u64::try_from(shown.saturating_sub(span).as_millis()).unwrap_or(0);
        self.clock.set(Timestamp::from_ms(back));
    }
}

/// A client of the server in this process.
struct Caller {
    base: String,
    http: reqwest::Client,
    mailer: Arc<RecordingMailer>,
    row: Row,
}

impl Caller {
    async fn post(&mut self, path: &str, body: &Value) -> Outcome<(u16, Value)> {
        let request = self.http.post(format!("{}{path}", self.base)).bearer_auth("token").json(body);
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        self.row.requests += 1;
        self.row.acknowledged += u64::from(status == 200);
        self.row.check(status < 500, || format!("{path} was answered {status}"));
        Ok((status, answer.json().await?))
    }

    async fn request(&mut self, name: &str) -> Outcome<String> {
        let body =
            json!({ "client_secret": name, "email": format!("{name}@faults.example"), "send_attempt": 1 });
        let (status, answer) = self.post("/_matrix/client/v3/account/3pid/email/requestToken", &body).await?;
        self.row.check(status == 200, || format!("a token for {name}: {status} {answer}"));
        self.row.mails.owed += 1;
        Ok(answer["sid"].as_str().unwrap_or_default().to_owned())
    }

    /// The token in the mail, which is sent within a moment of real time.
    async fn token(&self, sid: &str) -> Outcome<String> {
        for _ in 0..1_000 {
            let mut links = self.mailer.taken().into_iter().flat_map(|mail| link_of(&mail.text));
            if let Some(token) =
                links.find_map(|link| (value(&link, "sid")? == sid).then(|| value(&link, "token"))?)
            {
                return Ok(token);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err("the mail was not sent in 10 s".into())
    }

    async fn submit(&mut self, name: &str, sid: &str, token: &str) -> Outcome<u16> {
        let body = json!({ "sid": sid, "client_secret": name, "token": token });
        Ok(self.post("/_threepid/submit_token", &body).await?.0)
    }

    async fn add(&mut self, name: &str, sid: &str) -> Outcome<u16> {
        let body = json!({ "three_pid_creds": { "sid": sid, "client_secret": name } });
        Ok(self.post("/_matrix/client/v3/account/3pid", &body).await?.0)
    }
}

fn link_of(text: &str) -> Option<Url> {
    text.split_whitespace()
        .find_map(|word| Url::parse(word).ok().filter(|link| link.path().contains("confirm")))
}

fn value(link: &Url, name: &str) -> Option<String> {
    link.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

pub(super) async fn run(options: &Options) -> Outcome<Row> {
    let folder = temp_folder("clock")?;
    let url = match &options.cluster {
        Some(cluster) => cluster.database().await?,
        None => folder.path().join("clock.db").display().to_string(),
    };
    let database = Database::connect(&ConnectSettings::new(url)).await?;
    database.migrate().await?;
    let store = Arc::new(SeaOrmStore::new(database.clone()));
    let (clock, mailer) = (Arc::new(FixedClock::default()), Arc::new(RecordingMailer::default()));
    let lifetimes = Lifetimes { token: HOUR, validated: HOUR * 2 };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let base = format!("http://{}", listener.local_addr()?);
    let app = Builder::new(Url::parse(&base)?)
        .store(Arc::clone(&store) as _)
        .outbox(store)
        .mailer(Arc::clone(&mailer) as _)
        .access_tokens(Arc::new(FixedTokens::new().with("token", UserId::parse("@user:faults.example")?)))
        .rate_limiter(Arc::new(OpenLimiter))
        .templates(Arc::new(PlainTemplates))
        .clock(Arc::clone(&clock) as _)
        .secrets(Arc::new(CountedSecrets::default()))
        .policy(Policy { lifetimes, ..Policy::default() })
        .build()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(app.serve(listener, None, async {
        let _either_way = stopped.await;
    }));

    let mut caller = Caller { base, http: reqwest::Client::new(), mailer, row: Row::default() };
    let mut wall = Wall { clock, really: Duration::ZERO };
    jumps(&mut caller, &mut wall, &lifetimes).await?;

    let Caller { mut row, mailer, http, .. } = caller;
    // Idle connections would hold the stop.
    drop(http);
    row.mails.arrived = u64::try_from(mailer.taken().len())?;
    let _listening = stop.send(());
    let ended = serving.await?;
    row.check(ended.is_ok(), || format!("the server ended: {ended:?}"));
    database.close().await;
    Ok(row)
}

/// Sessions that are pending, proven and old when the clock goes back.
async fn jumps(caller: &mut Caller, wall: &mut Wall, lifetimes: &Lifetimes) -> Outcome<()> {
    let proven = caller.request("proven").await?;
    let token = caller.token(&proven).await?;
    let status = caller.submit("proven", &proven, &token).await?;
    caller.row.check(status == 200, || format!("a fresh proof: {status}"));
    let kept = caller.request("kept").await?;
    let kept_token = caller.token(&kept).await?;
    let status = caller.submit("kept", &kept, &kept_token).await?;
    caller.row.check(status == 200, || format!("a fresh proof: {status}"));
    let pending = caller.request("pending").await?;
    let pending_token = caller.token(&pending).await?;
    let late = caller.request("late").await?;
    let late_token = caller.token(&late).await?;
    wall.pass(HOUR / 4);

    wall.set_back(HOUR);
    caller.row.faults += 1;
    // Everything goes on: old sessions, new ones, the relay.
    let status = caller.submit("pending", &pending, &pending_token).await?;
    caller.row.check(status == 200, || format!("a token that is good by either clock: {status}"));
    let status = caller.add("proven", &proven).await?;
    caller.row.check(status == 200, || format!("a proof that is good by either clock: {status}"));
    let fresh = caller.request("fresh").await?;
    let fresh_token = caller.token(&fresh).await?;
    let status = caller.submit("fresh", &fresh, &fresh_token).await?;
    caller.row.check(status == 200, || format!("a token of after the jump: {status}"));

    // The token was issued at 0; by its setting and the jump it ends after 1 h + 1 h.
    wall.pass(lifetimes.token + HOUR - wall.really);
    let status = caller.submit("late", &late, &late_token).await?;
    caller
        .row
        .check(status == 400, || format!("a token lives longer than its setting and the jump: {status}"));
    // The proof was given at 0; it ends after 2 h + 1 h.
    wall.pass(lifetimes.validated + HOUR - wall.really);
    let status = caller.add("kept", &kept).await?;
    caller.row.check(status == 400 || status == 403, || {
        format!("a proof lives longer than its setting and the jump: {status}")
    });

    // Back beyond the beginning of time.
    wall.set_back(Duration::from_millis(u64::MAX));
    caller.row.faults += 1;
    let odd = caller.request("odd").await?;
    let odd_token = caller.token(&odd).await?;
    let status = caller.submit("odd", &odd, &odd_token).await?;
    caller.row.check(status == 200, || format!("a proof in 1970: {status}"));
    let status = caller.add("odd", &odd).await?;
    caller.row.check(status == 200, || format!("an address in 1970: {status}"));
    Ok(())
}
