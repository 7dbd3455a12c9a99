//! `threepid demo --play`: the main story over real HTTP, each answer compared with what must come.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::{ADDRESS, DemoAccount, MAILBOX, REQUEST_TOKEN, Scene, THREEPIDS, mailbox};

/// One answer has to come in this time.
const PATIENCE: Duration = Duration::from_secs(10);

/// The mail has to be there in this time.
const MAIL_DEADLINE: Duration = Duration::from_secs(30);

/// More than any answer here needs, in bytes.
const LONGEST_ANSWER: usize = 1 << 20;

/// How the story ended before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoryError {
    /// An answer is another than it must be.
    #[error("step {step} ({title}) differs: wanted {wanted}, got {got}")]
    Differs {
        /// Which one, from 1.
        step: usize,
        /// What it is about.
        title: &'static str,
        /// What must come.
        wanted: String,
        /// What came.
        got: String,
    },
    /// No answer came.
    #[error("step {step} ({title}) got no answer")]
    NoAnswer {
        /// Which one, from 1.
        step: usize,
        /// What it is about.
        title: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What is sent.
struct Ask<'a> {
    method: Method,
    /// A path, or a whole address.
    to: &'a str,
    who: Option<&'a DemoAccount>,
    body: Body,
}

/// What is sent with it.
enum Body {
    None,
    Json(Value),
    Form(String),
}

/// What came.
struct Answer {
    status: StatusCode,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }

    /// A page is told by its heading; the rest of it is for browsers.
    fn shown(&self) -> String {
        let heading = || self.text.split("<h1").nth(1)?.split_once('>')?.1.split("</h1>").next();
        match heading() {
            Some(heading) => format!("{} (a page: {heading:?})", self.status.as_u16()),
            None => format!("{} {}", self.status.as_u16(), self.text),
        }
    }
}

/// What must come, in words and as a test.
struct Wanted {
    words: String,
    status: u16,
    test: Box<dyn Fn(&Answer) -> bool + Send>,
}

impl Wanted {
    fn new(status: u16, words: impl Into<String>, test: impl Fn(&Answer) -> bool + Send + 'static) -> Self {
        Self { words: words.into(), status, test: Box::new(test) }
    }

    fn json(status: u16, body: Value) -> Self {
        Self::new(status, body.to_string(), move |answer| answer.json() == body)
    }

    fn refusal(status: u16, errcode: &'static str) -> Self {
        Self::new(status, errcode, move |answer| answer.json()["errcode"] == errcode)
    }

    fn page(words: &'static str, test: impl Fn(&str) -> bool + Send + 'static) -> Self {
        Self::new(200, words, move |answer| answer.text.starts_with("<!doctype html>") && test(&answer.text))
    }
}

/// The story, as it is told.
pub(crate) struct Story<'a> {
    scene: &'a Scene,
    client: Client<HttpConnector, Full<Bytes>>,
    tell: &'a (dyn Fn(String) + Sync),
    steps: usize,
}

impl<'a> Story<'a> {
    /// A story about `scene`; each line of it goes to `tell`.
    pub(crate) fn new(scene: &'a Scene, tell: &'a (dyn Fn(String) + Sync)) -> Self {
        Self { scene, client: Client::builder(TokioExecutor::new()).build_http(), tell, steps: 0 }
    }

    /// Tells it, up to the first step that differs: what follows would stand on nothing. Answers how many steps held.
    ///
    /// # Errors
    /// [`StoryError`].
    pub(crate) async fn play(mut self) -> Result<usize, StoryError> {
        let Scene { alice, bob, client_secret, .. } = self.scene;
        let list = |who| Ask { method: Method::GET, to: THREEPIDS, who, body: Body::None };
        let request_token = |who| {
            let body = json!({ "client_secret": client_secret, "email": ADDRESS, "send_attempt": 1 });
            Ask { method: Method::POST, to: REQUEST_TOKEN, who: Some(who), body: Body::Json(body) }
        };
        let nothing = || Wanted::json(200, json!({ "threepids": [] }));

        self.step(
            "without a token there is nothing to see",
            list(None),
            Wanted::refusal(401, "M_MISSING_TOKEN"),
        )
        .await?;
        self.step("Alice has no address yet", list(Some(alice)), nothing()).await?;
        let is_sid = |answer: &Answer| answer.json()["sid"].as_str().is_some_and(|sid| !sid.is_empty());
        let asked = self
            .step("Alice asks for a mail", request_token(alice), Wanted::new(200, "a sid", is_sid))
            .await?;
        let sid = asked.json()["sid"].as_str().unwrap_or_default().to_owned();
        let creds = json!({ "three_pid_creds": { "client_secret": client_secret, "sid": sid } });
        let add = |who| Ask {
            method: Method::POST,
            to: THREEPIDS,
            who: Some(who),
            body: Body::Json(creds.clone()),
        };
        let unproven = || Wanted::refusal(403, "M_THREEPID_AUTH_FAILED");

        let link = self.wait_for_mail("the mail arrives").await?;
        let (action, form) = link.split_once('?').unwrap_or((&link, ""));
        let open = Ask { method: Method::GET, to: &link, who: None, body: Body::None };
        let asks =
            Wanted::page("a page with a form", |page| page.contains("<form") && page.contains("<button"));
        self.step("Alice opens the link", open, asks).await?;
        self.step("opening it has proven nothing", add(alice), unproven()).await?;
        self.step("and changed nothing", list(Some(alice)), nothing()).await?;
        let press = Ask { method: Method::POST, to: action, who: None, body: Body::Form(form.to_owned()) };
        let done = Wanted::page("a page without a form", |page| !page.contains("<form"));
        self.step("Alice presses the button", press, done).await?;
        self.step(
            "Bob cannot spend her proof without her secret",
            self.with_another_secret(bob, &sid),
            unproven(),
        )
        .await?;
        self.step("Alice adds the address", add(alice), Wanted::json(200, json!({}))).await?;
        self.step(
            "it is on her account",
            list(Some(alice)),
            Wanted::new(200, "the one address, with its times", is_hers),
        )
        .await?;
        self.step("the same request again is harmless", add(alice), Wanted::json(200, json!({}))).await?;
        self.step("the proof is spent for anybody else", add(bob), unproven()).await?;
        self.step(
            "Bob cannot ask for her address",
            request_token(bob),
            Wanted::refusal(400, "M_THREEPID_IN_USE"),
        )
        .await?;
        self.step("Bob still has none", list(Some(bob)), nothing()).await?;
        Ok(self.steps)
    }

    fn with_another_secret<'b>(&self, who: &'b DemoAccount, sid: &str) -> Ask<'b> {
        let creds = json!({ "three_pid_creds": { "client_secret": "a-guess", "sid": sid } });
        Ask { method: Method::POST, to: THREEPIDS, who: Some(who), body: Body::Json(creds) }
    }

    /// Looks into the mailbox until there is a link in it.
    async fn wait_for_mail(&mut self, title: &'static str) -> Result<String, StoryError> {
        self.begin(title);
        let ask = Ask { method: Method::GET, to: MAILBOX, who: None, body: Body::None };
        self.say_request(&ask);
        let deadline = Instant::now() + MAIL_DEADLINE;
        loop {
            let answer = self.ask(title, &ask).await?;
            if let Some(link) = mailbox::confirm_links(&answer.text).next() {
                (self.tell)(format!("   200 {link}"));
                return Ok(link);
            }
            if Instant::now() >= deadline {
                return Err(self.differs(
                    title,
                    format!("a mail within {MAIL_DEADLINE:?}"),
                    "an empty mailbox",
                ));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn step(
        &mut self,
        title: &'static str,
        ask: Ask<'_>,
        wanted: Wanted,
    ) -> Result<Answer, StoryError> {
        self.begin(title);
        self.say_request(&ask);
        let answer = self.ask(title, &ask).await?;
        (self.tell)(format!("   {}", answer.shown()));
        if answer.status == wanted.status && (wanted.test)(&answer) {
            Ok(answer)
        } else {
            Err(self.differs(title, format!("{} with {}", wanted.status, wanted.words), answer.shown()))
        }
    }

    fn begin(&mut self, title: &str) {
        self.steps += 1;
        (self.tell)(format!("{}. {title}", self.steps));
    }

    fn say_request(&self, ask: &Ask<'_>) {
        let who = ask.who.map_or(String::new(), |who| format!(" as {}", who.user));
        (self.tell)(format!("   {} {}{who}", ask.method, ask.to));
        match &ask.body {
            Body::None => {}
            Body::Json(body) => (self.tell)(format!("   {body}")),
            Body::Form(form) => (self.tell)(format!("   {form}")),
        }
    }

    async fn ask(&self, title: &'static str, ask: &Ask<'_>) -> Result<Answer, StoryError> {
        let answered = timeout(PATIENCE, self.send(ask)).await;
        let answered = answered.unwrap_or_else(|_elapsed| Err(format!("none within {PATIENCE:?}").into()));
        answered.map_err(|source| StoryError::NoAnswer { step: self.steps, title, source })
    }

    async fn send(&self, ask: &Ask<'_>) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
        let to = if ask.to.starts_with('/') { self.scene.url(ask.to) } else { ask.to.to_owned() };
        let mut request = Request::builder().method(ask.method.clone()).uri(to);
        if let Some(who) = ask.who {
            request = request.header(AUTHORIZATION, format!("Bearer {}", who.token.expose()));
        }
        let (content_type, body) = match &ask.body {
            Body::None => (None, String::new()),
            Body::Json(body) => (Some("application/json"), body.to_string()),
            Body::Form(form) => (Some("application/x-www-form-urlencoded"), form.clone()),
        };
        if let Some(content_type) = content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        let response = self.client.request(request.body(Full::from(body))?).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect().await?.to_bytes();
        Ok(Answer { status, text: String::from_utf8_lossy(&body).into_owned() })
    }

    fn differs(&self, title: &'static str, wanted: impl Into<String>, got: impl Into<String>) -> StoryError {
        StoryError::Differs { step: self.steps, title, wanted: wanted.into(), got: got.into() }
    }
}

/// The list with the one address, proven and added a short while ago.
fn is_hers(answer: &Answer) -> bool {
    let body = answer.json();
    let Some([threepid]) = body["threepids"].as_array().map(Vec::as_slice) else { return false };
    let time = |name: &str| threepid[name].as_u64().filter(|ms| *ms > 0);
    threepid["medium"] == "email"
        && threepid["address"] == ADDRESS
        && time("validated_at").zip(time("added_at")).is_some_and(|(validated, added)| validated <= added)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Mutex, PoisonError};

    use axum::Router;
    use axum::routing::get;
    use threepid_domain::model::{AccessToken, UserId};
    use tokio::net::TcpListener;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn scene(address: std::net::SocketAddr) -> Result<Scene, Box<dyn std::error::Error>> {
        let account = |name| -> Result<_, Box<dyn std::error::Error>> {
            Ok(DemoAccount { user: UserId::parse(name)?, token: AccessToken::new("a-token") })
        };
        Ok(Scene {
            base: format!("http://{address}").parse()?,
            alice: account("@alice:demo.localhost")?,
            bob: account("@bob:demo.localhost")?,
            client_secret: "secret".to_owned(),
        })
    }

    #[tokio::test]
    async fn a_story_that_differs_ends_there_and_says_which_step() -> Outcome {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let scene = scene(listener.local_addr()?)?;
        // A server that asks nobody for a token and already has an address for everybody.
        let careless = Router::new().route(THREEPIDS, get(async || r#"{"threepids":[{"medium":"email"}]}"#));
        let server = tokio::spawn(async move { axum::serve(listener, careless).await });

        let told = Mutex::new(Vec::new());
        let tell = |line| told.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        let played = Story::new(&scene, &tell).play().await;
        server.abort();

        let said = played.map_err(|error| error.to_string());
        let said = said.err().ok_or("the story must not hold")?;
        assert!(
            said.starts_with("step 1 (without a token there is nothing to see) differs: wanted 401"),
            "{said}"
        );
        let told = told.into_inner().unwrap_or_else(PoisonError::into_inner).join("\n");
        assert!(told.contains("GET /_matrix/client/v3/account/3pid\n") && !told.contains("2. "), "{told}");
        Ok(())
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_said_to_be_silent() -> Outcome {
        let gone = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
        let scene = scene(gone)?;
        let played = Story::new(&scene, &|_line| {}).play().await;
        assert!(matches!(played, Err(StoryError::NoAnswer { step: 1, .. })), "{played:?}");
        Ok(())
    }
}
