//! What the endpoints' tests share: the whole router on the domain's fakes.

#![expect(clippy::expect_used, reason = "a helper that is given nonsense fails the test that gave it")]

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use threepid_domain::model::{Generation, RemoteRefusal, Sid, Token};
use threepid_domain::ports::{AccountStates, Erasures, Secrets};
use threepid_domain::testing::{
    CountedSecrets, FakeIdentityServer, FakeReauthentication, FixedClock, FixedTokens, Fixture, MemoryStore,
    PlainTemplates, RecordingMailer, RecordingSmsSender, ScriptedLimiter, ServerReply,
};
use threepid_domain::use_cases::{Door, Policy, SubmitToken};
use tower::ServiceExt;
use url::Url;

use crate::{App, Builder, HousekeepingSettings, SweepSettings};

/// `POST` a request for a token.
pub(crate) const REQUEST_TOKEN: &str = "/_matrix/client/v3/account/3pid/email/requestToken";
/// `POST` a request for a code.
pub(crate) const REQUEST_CODE: &str = "/_matrix/client/v3/account/3pid/msisdn/requestToken";
/// List and add.
pub(crate) const ACCOUNT_3PID: &str = "/_matrix/client/v3/account/3pid";
/// Add after the account's user has proven again who they are.
pub(crate) const ADD: &str = "/_matrix/client/v3/account/3pid/add";
/// Bind.
pub(crate) const BIND: &str = "/_matrix/client/v3/account/3pid/bind";
/// Unbind.
pub(crate) const UNBIND: &str = "/_matrix/client/v3/account/3pid/unbind";
/// Delete.
pub(crate) const DELETE: &str = "/_matrix/client/v3/account/3pid/delete";
/// The page.
pub(crate) const CONFIRM: &str = "/_threepid/confirm";
/// The JSON submit.
pub(crate) const SUBMIT_TOKEN: &str = "/_threepid/submit_token";

/// The server under test. The tokens `alice`, `bob` and `guest` are known.
pub(crate) struct Server {
    pub(crate) app: App,
    pub(crate) router: Router,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) clock: Arc<FixedClock>,
    pub(crate) secrets: Arc<CountedSecrets>,
    pub(crate) tokens: Arc<FixedTokens>,
    pub(crate) limiter: Arc<ScriptedLimiter>,
    pub(crate) mailer: Arc<RecordingMailer>,
    pub(crate) sms: Arc<RecordingSmsSender>,
    pub(crate) identity_servers: Arc<FakeIdentityServer>,
    pub(crate) reauthentication: Arc<FakeReauthentication>,
}

impl Server {
    pub(crate) fn new() -> Self {
        Self::built(|builder| builder)
    }

    /// A server whose builder was changed in the end.
    pub(crate) fn built(change: impl FnOnce(Builder) -> Builder) -> Self {
        Self::wired(|builder, mailer, _store| change(builder.mailer(mailer)))
    }

    /// A server that trusts the identity servers of [`Fixture::trusting`], under a policy that was changed in the end.
    pub(crate) fn trusting(change: impl FnOnce(&mut Policy)) -> Self {
        let mut policy = Policy { trusted: Fixture::trusted(), ..Policy::default() };
        change(&mut policy);
        Self::built(|builder| builder.policy(policy))
    }

    /// A server that sends no mail.
    pub(crate) fn without_mailer() -> Self {
        Self::wired(|builder, _mailer, _store| builder)
    }

    /// A server that sends mail and SMS, whose builder was changed in the end.
    pub(crate) fn with_sms(change: impl FnOnce(Builder) -> Builder) -> Self {
        let sms = Arc::new(RecordingSmsSender::default());
        let sender = sms.clone();
        Self { sms, ..Self::built(|builder| change(builder.sms_sender(sender))) }
    }

    /// A server that sweeps its own storage.
    pub(crate) fn sweeping(states: Arc<dyn AccountStates>) -> Self {
        Self::sweeping_by(states, |store| store)
    }

    /// A server that sweeps its own storage by what is made of it.
    pub(crate) fn sweeping_by(
        states: Arc<dyn AccountStates>,
        erasures: impl FnOnce(Arc<MemoryStore>) -> Arc<dyn Erasures>,
    ) -> Self {
        Self::wired(|builder, mailer, store| {
            let erasures = erasures(store.clone());
            builder.mailer(mailer).sweep(store, erasures, states, SweepSettings::default())
        })
    }

    fn wired(change: impl FnOnce(Builder, Arc<RecordingMailer>, Arc<MemoryStore>) -> Builder) -> Self {
        let tokens = FixedTokens::new()
            .with("alice", Fixture::user("@alice:example.org"))
            .with("bob", Fixture::user("@bob:example.org"));
        let user_id = Fixture::user("@guest:example.org");
        tokens.put("guest", threepid_domain::model::Caller { user_id, device_id: None, is_guest: true });
        let (store, clock, secrets) = (
            Arc::new(MemoryStore::new()),
            Arc::new(FixedClock::default()),
            Arc::new(CountedSecrets::default()),
        );
        let (tokens, limiter, mailer) =
            (Arc::new(tokens), Arc::new(ScriptedLimiter::default()), Arc::new(RecordingMailer::default()));
        let (identity_servers, reauthentication) = (
            Arc::new(FakeIdentityServer::signing_as("example.org")),
            Arc::new(FakeReauthentication::default()),
        );
        let builder = Builder::new(Url::parse("https://contacts.example/").expect("a URL"))
            .store(store.clone())
            .outbox(store.clone())
            .housekeeping(store.clone(), HousekeepingSettings::default())
            .access_tokens(tokens.clone())
            .rate_limiter(limiter.clone())
            .identity_servers(identity_servers.clone())
            .reauthentication(reauthentication.clone())
            .templates(Arc::new(PlainTemplates))
            .clock(clock.clone())
            .secrets(secrets.clone());
        let app = change(builder, mailer.clone(), store.clone()).build().expect("every port is given");
        Self {
            router: app.standalone(),
            app,
            store,
            clock,
            secrets,
            tokens,
            limiter,
            mailer,
            sms: Arc::default(),
            identity_servers,
            reauthentication,
        }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let response = self.router.clone().oneshot(request).await.expect("a router always answers");
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a body in memory").to_bytes();
        let text = String::from_utf8(body.to_vec()).expect("UTF-8");
        let answer = Answer { status: parts.status, headers: parts.headers, text };
        super::openapi::tests::assert_described(&method, &path, &answer);
        answer
    }

    pub(crate) async fn get(&self, uri: &str, token: &str) -> Answer {
        self.send(request(Method::GET, uri, token, Body::empty())).await
    }

    pub(crate) async fn post(&self, uri: &str, token: &str, body: impl Into<Body>) -> Answer {
        self.send(request(Method::POST, uri, token, body.into())).await
    }

    /// A session whose token was not given back yet, and that token.
    pub(crate) async fn pending(&self, email: &str, client_secret: &str) -> (Sid, Token) {
        let request = Fixture::request_for(email, client_secret, 1);
        let opened = self.app.api.contacts.request_email_token(request).await;
        let sid = opened.expect("the request is answered").sid;
        let token = self.secrets.token(&sid, Generation(1));
        (sid, token)
    }

    /// A session whose code was not given back yet, and that code.
    pub(crate) async fn pending_number(&self, number: &str, client_secret: &str) -> (Sid, Token) {
        let request = Fixture::msisdn_request_for(number, client_secret, 1);
        let opened = self.app.api.contacts.request_msisdn_token(request).await;
        let sid = opened.expect("the request is answered").sid;
        let code = self.secrets.code(&sid, Generation(1));
        (sid, Token::new(code.expose()))
    }

    /// The code of a session's generation.
    pub(crate) fn secrets_code(&self, sid: &str, generation: u32) -> String {
        self.secrets.code(&Sid::new(sid), Generation(generation)).expose().to_owned()
    }

    /// A session whose address is proven.
    pub(crate) async fn proven(&self, email: &str, client_secret: &str) -> Sid {
        let (sid, token) = self.pending(email, client_secret).await;
        let submit = SubmitToken { sid: sid.clone(), token, door: Door::Link, client_ip: None };
        self.app.api.contacts.submit_token(submit).await.expect("the token is right");
        sid
    }

    /// A session at an identity server whose address is proven there.
    pub(crate) fn proven_at(&self, server: &str, email: &str, client_secret: &str) -> Sid {
        let server = Fixture::server(server);
        let (secret, address) = (Fixture::secret(client_secret), Fixture::address(email));
        let sid = self.identity_servers.open(&server, &secret, &address);
        self.identity_servers.prove(&server, &sid, FixedClock::START);
        sid
    }

    /// The calls that reached identity servers.
    pub(crate) fn asked(&self) -> Vec<&'static str> {
        self.identity_servers.asked().into_iter().map(|asked| asked.call).collect()
    }

    /// An address on an account.
    pub(crate) async fn added(&self, user: &str, email: &str) {
        let sid = self.proven(email, "added").await;
        let add = Fixture::add_of(user, &sid, "added");
        self.app.api.contacts.add(add).await.expect("the address is proven");
    }
}

/// A refusal of an identity server.
pub(crate) fn refused(status: u16, body: &Value) -> ServerReply {
    let body = body.as_object().cloned().expect("an object");
    ServerReply::Refused(RemoteRefusal { status, body })
}

/// A request; an empty `token` sends none.
pub(crate) fn request(method: Method, uri: &str, token: &str, body: Body) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(uri);
    if !token.is_empty() {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    request.body(body).expect("a request")
}

/// What came back, whole.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), "application/json", "{}", self.text);
        serde_json::from_str(&self.text).expect("JSON")
    }

    /// The header's text; empty where it is missing.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("ASCII"))
    }

    /// Status and error code, once it is sure that the error is a whole one.
    pub(crate) fn error(&self) -> (u16, String) {
        let json = self.json();
        let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
        assert!(!text("error").is_empty(), "{}", self.text);
        assert_eq!(self.header("access-control-allow-origin"), "*");
        assert_eq!(self.header("cache-control"), "no-store");
        (self.status.as_u16(), text("errcode"))
    }
}

/// A status and an error code, to compare with [`Answer::error`].
pub(crate) fn error(status: u16, errcode: &str) -> (u16, String) {
    (status, errcode.to_owned())
}
