//! What an [`IdentityServer`] owes.

use std::any::Any;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use crate::model::{
    Address, ClientSecret, Country, EmailAddress, IdAccessToken, IdentityServerName, Msisdn, NextLink,
    RemoteRefusal, SendAttempt, Sid, UserId,
};
use crate::ports::{
    IdentityServer, IdentityServerError, RemoteCredentials, RemoteRecipient, RemoteTokenRequest,
    RemoteValidation, Unbound,
};

/// The identity server that the port under test asks, seen from its own side.
#[async_trait]
pub trait IdentitySite: Send + Sync {
    /// A token of the account there.
    async fn token(&self, user_id: &UserId) -> IdAccessToken;

    /// Proves the session's address, as whoever reads its mail.
    async fn prove(&self, server: &IdentityServerName, session: &RemoteCredentials);

    /// Whom it publishes the address for.
    async fn published(&self, server: &IdentityServerName, address: &Address) -> Option<UserId>;
}

/// How an identity server behaves from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SiteMood {
    /// It answers as it should.
    Works,
    /// It accepts no connection, or drops it.
    Gone,
    /// It accepts connections and says nothing.
    Silent,
    /// It begins a JSON object and never ends it, some bytes at a time.
    Endless,
    /// It answers everything with this.
    Says {
        /// The status.
        status: u16,
        /// More header lines, name and value.
        headers: Vec<(String, String)>,
        /// The body.
        body: Vec<u8>,
    },
}

/// An identity server that can be told to fail.
#[async_trait]
pub trait MoodySite: Send + Sync {
    /// Behaves so from now on.
    async fn behave(&self, mood: SiteMood);

    /// How many requests, or connections without one, have reached it.
    async fn reached(&self) -> usize;
}

/// A port, and the identity server that it asks.
pub struct IdentityBackend {
    /// The port; whatever time it waits is a few seconds at most.
    pub port: Arc<dyn IdentityServer>,
    /// The name that the server is asked by.
    pub server: IdentityServerName,
    /// The server.
    pub site: Arc<dyn IdentitySite>,
    /// An account that may bind there. If the port signs, it does so as this account's homeserver.
    pub user_id: UserId,
    /// Whether the port can sign.
    pub signs: bool,
    /// The server, where it can be told to fail; `identity_server_mood_contract!` needs it, and a port that signs.
    pub moods: Option<Arc<dyn MoodySite>>,
    /// What has to live as long as the port.
    pub keep: Box<dyn Any + Send + Sync>,
}

/// The two generations of the identity service.
const VERSIONS: [&str; 2] = ["v1", "v2"];

const SECRET: &str = "s3cret.client=Secret_-";

fn secret(text: &str) -> ClientSecret {
    ClientSecret::parse(text).expect("a client secret")
}

fn email(text: &str) -> EmailAddress {
    EmailAddress::parse(text).expect("an email address")
}

impl IdentityBackend {
    async fn token(&self, version: &str) -> Option<IdAccessToken> {
        if version == "v2" { Some(self.site.token(&self.user_id).await) } else { None }
    }

    fn request(&self, address: &str, next_link: Option<&str>) -> RemoteTokenRequest {
        RemoteTokenRequest {
            client_secret: secret(SECRET),
            to: RemoteRecipient::Email(email(address)),
            send_attempt: SendAttempt::new(1).expect("a count"),
            next_link: next_link.map(|link| NextLink::parse(link).expect("a link")),
        }
    }

    async fn open(&self, address: &str, version: &str) -> RemoteCredentials {
        let request = self.request(address, None);
        let token = self.token(version).await;
        let opened = self.port.request_token(self.server.clone(), request, token).await;
        RemoteCredentials { sid: opened.expect("a session").sid, client_secret: secret(SECRET) }
    }

    async fn proven(&self, address: &str, version: &str) -> RemoteCredentials {
        let session = self.open(address, version).await;
        self.site.prove(&self.server, &session).await;
        session
    }

    async fn validated(
        &self,
        session: &RemoteCredentials,
        version: &str,
    ) -> Result<Option<RemoteValidation>, IdentityServerError> {
        let token = self.token(version).await;
        self.port.validated(self.server.clone(), session.clone(), token).await
    }

    async fn bind(&self, session: &RemoteCredentials, version: &str) -> Result<Address, IdentityServerError> {
        let token = self.token(version).await;
        self.port.bind(self.server.clone(), session.clone(), self.user_id.clone(), token).await
    }

    async fn published(&self, address: &Address) -> Option<UserId> {
        self.site.published(&self.server, address).await
    }

    async fn behaves(&self, mood: SiteMood) {
        self.moods.as_ref().expect("identity_server_mood_contract! needs moods").behave(mood).await;
    }
}

fn proves_nothing(answer: &Result<Option<RemoteValidation>, IdentityServerError>) -> bool {
    matches!(answer, Ok(None) | Err(IdentityServerError::Refused(_)))
}

/// Request, mail, proof: the server's word is heard with and without a token.
pub async fn what_was_proven_is_said(backend: &IdentityBackend) {
    for version in VERSIONS {
        let address = format!("said+{version}@example.org");
        let session = backend.proven(&address, version).await;
        let said = backend.validated(&session, version).await.expect("an answer").expect("a proof");
        assert_eq!((said.medium.as_str(), said.address.as_str()), ("email", address.as_str()));
        assert!(said.validated_at.as_ms() > 1_600_000_000_000, "milliseconds: {:?}", said.validated_at);
    }
}

/// A number is asked for as a mailbox is, with a country beside it that need not be its own. A server that sends no SMS
/// does not run this case.
pub async fn a_number_that_was_proven_is_said(backend: &IdentityBackend) {
    let number = Msisdn::parse("447700900813").expect("a number");
    for (version, country) in VERSIONS.into_iter().zip(["GB", "US"]) {
        let country = Country::parse(country).expect("a country");
        let to = RemoteRecipient::Msisdn { number: number.clone(), country };
        let request =
            RemoteTokenRequest { to, ..backend.request("a@example.org", Some("https://app.example/")) };
        let token = backend.token(version).await;
        let opened = backend.port.request_token(backend.server.clone(), request, token).await;
        let session =
            RemoteCredentials { sid: opened.expect("a session").sid, client_secret: secret(SECRET) };
        let unproven = backend.validated(&session, version).await;
        assert!(proves_nothing(&unproven), "{version}: {unproven:?}");
        backend.site.prove(&backend.server, &session).await;
        let said = backend.validated(&session, version).await.expect("an answer").expect("a proof");
        assert_eq!((said.medium.as_str(), said.address.as_str()), ("msisdn", number.as_str()), "{version}");
        let bound = backend.bind(&session, version).await.expect("bound");
        assert_eq!(bound, Address::Msisdn(number.clone()), "{version}");
    }
}

/// Whatever else is asked for, the request is understood.
pub async fn a_request_may_carry_a_link(backend: &IdentityBackend) {
    for version in VERSIONS {
        let link = Some("https://app.example/?a=b&c=%C3%A9#/done");
        let request = backend.request(&format!("link+{version}@example.org"), link);
        let token = backend.token(version).await;
        let opened = backend.port.request_token(backend.server.clone(), request, token).await;
        assert!(opened.expect("a session").sid.is_well_formed());
    }
}

/// A mail that nobody has read proves nothing.
pub async fn an_unproven_session_proves_nothing(backend: &IdentityBackend) {
    for version in VERSIONS {
        let session = backend.open(&format!("unproven+{version}@example.org"), version).await;
        let answer = backend.validated(&session, version).await;
        assert!(proves_nothing(&answer), "{version}: {answer:?}");
    }
}

/// Nor does a proof under another secret, nor a sid that is none.
pub async fn another_secret_or_sid_proves_nothing(backend: &IdentityBackend) {
    for version in VERSIONS {
        let session = backend.proven(&format!("other+{version}@example.org"), version).await;
        let guessed = RemoteCredentials { client_secret: secret("guessed"), ..session.clone() };
        let answer = backend.validated(&guessed, version).await;
        assert!(proves_nothing(&answer), "{version}: {answer:?}");
        let long = "1".repeat(300);
        for sid in
            ["999999999", "unknown", "", "a b", "1&client_secret=x", "é", "1\r\nHost: x", long.as_str()]
        {
            let unknown = RemoteCredentials { sid: Sid::new(sid), ..session.clone() };
            let answer = backend.validated(&unknown, version).await;
            assert!(proves_nothing(&answer), "{version} {sid:?}: {answer:?}");
            let answer = backend.bind(&unknown, version).await;
            assert!(matches!(answer, Err(IdentityServerError::Refused(_))), "{version} {sid:?}: {answer:?}");
        }
    }
}

/// What the server publishes is what was proven, for the account that was named; again is harmless.
pub async fn a_bind_publishes_what_was_proven(backend: &IdentityBackend) {
    for version in VERSIONS {
        let address = Address::Email(email(&format!("bind+{version}@example.org")));
        let session = backend.proven(address.as_str(), version).await;
        assert_eq!(backend.published(&address).await, None);
        for turn in ["first", "again"] {
            let bound = backend.bind(&session, version).await;
            assert_eq!(bound.expect("bound"), address, "{version} {turn}");
            assert_eq!(
                backend.published(&address).await.as_ref(),
                Some(&backend.user_id),
                "{version} {turn}"
            );
        }
    }
}

/// What was not proven is not published.
pub async fn an_unproven_session_is_not_bound(backend: &IdentityBackend) {
    for version in VERSIONS {
        let address = Address::Email(email(&format!("unbound+{version}@example.org")));
        let session = backend.open(address.as_str(), version).await;
        let answer = backend.bind(&session, version).await;
        assert!(matches!(answer, Err(IdentityServerError::Refused(_))), "{version}: {answer:?}");
        assert_eq!(backend.published(&address).await, None);
    }
}

/// The server takes the signature for the homeserver's; without a key it is not asked.
pub async fn an_unbind_is_signed_or_not_sent(backend: &IdentityBackend) {
    let address = Address::Email(email("unbind@example.org"));
    let session = backend.proven(address.as_str(), "v2").await;
    backend.bind(&session, "v2").await.expect("bound");
    let answer = backend.port.unbind(backend.server.clone(), backend.user_id.clone(), address.clone()).await;
    let (expected, left) = match backend.signs {
        true => (Unbound::Done, None),
        false => (Unbound::NoSupport, Some(backend.user_id.clone())),
    };
    assert_eq!(answer.expect("an answer"), expected);
    assert_eq!(backend.published(&address).await, left);
}

/// A homeserver signs for its own users alone.
pub async fn a_user_of_another_homeserver_is_not_unbound(backend: &IdentityBackend) {
    let address = Address::Email(email("foreign@example.org"));
    let session = backend.proven(address.as_str(), "v2").await;
    backend.bind(&session, "v2").await.expect("bound");
    let stranger = UserId::parse("@alice:elsewhere.example").expect("a user ID");
    let answer = backend.port.unbind(backend.server.clone(), stranger, address.clone()).await;
    assert_eq!(answer.expect("an answer"), Unbound::NoSupport);
    assert_eq!(backend.published(&address).await.as_ref(), Some(&backend.user_id));
}

/// What one call came to.
#[derive(Debug, PartialEq)]
enum Outcome {
    Done,
    Nothing,
    NoSupport,
    Refused(RemoteRefusal),
    Unavailable,
}

/// Everything that is sent in [`outcomes`] and must be in no error.
const UNTOLD: [&str; 4] = [SECRET, "hush.token", "told@example.org", "5ession"];

/// Each call in each version, and what it came to.
async fn outcomes(backend: &IdentityBackend) -> Vec<(String, Outcome)> {
    let mut outcomes = Vec::new();
    let server = || backend.server.clone();
    let session = || RemoteCredentials { sid: Sid::new("5ession"), client_secret: secret(SECRET) };
    for version in VERSIONS {
        let token = || (version == "v2").then(|| IdAccessToken::new("hush.token"));
        let request = backend.request("told@example.org", None);
        let asked = backend.port.request_token(server(), request, token()).await;
        outcomes.push((format!("{version} request_email_token"), came_to(asked.map(|_| Outcome::Done))));
        let asked = backend.port.validated(server(), session(), token()).await;
        let asked = asked.map(|said| said.map_or(Outcome::Nothing, |_| Outcome::Done));
        outcomes.push((format!("{version} validated"), came_to(asked)));
        let asked = backend.port.bind(server(), session(), backend.user_id.clone(), token()).await;
        outcomes.push((format!("{version} bind"), came_to(asked.map(|_| Outcome::Done))));
    }
    let address = Address::Email(email("told@example.org"));
    let asked = backend.port.unbind(server(), backend.user_id.clone(), address).await;
    let asked = asked.map(|unbound| match unbound {
        Unbound::Done => Outcome::Done,
        Unbound::NoSupport => Outcome::NoSupport,
    });
    outcomes.push(("unbind".to_owned(), came_to(asked)));
    outcomes
}

fn came_to(answer: Result<Outcome, IdentityServerError>) -> Outcome {
    match answer {
        Ok(outcome) => outcome,
        Err(IdentityServerError::Refused(refusal)) => Outcome::Refused(refusal),
        Err(IdentityServerError::Unavailable(error)) => {
            let told = format!("{error} {error:?} {}", error.source);
            for untold in UNTOLD {
                assert!(!told.contains(untold), "an error tells {untold}: {told}");
            }
            Outcome::Unavailable
        }
    }
}

fn says(status: u16, body: &Value) -> SiteMood {
    SiteMood::Says { status, headers: Vec::new(), body: body.to_string().into_bytes() }
}

fn says_html(status: u16) -> SiteMood {
    SiteMood::Says {
        status,
        headers: vec![("Content-Type".to_owned(), "text/html".to_owned())],
        body: b"<!DOCTYPE html><title>told@example.org</title>".to_vec(),
    }
}

async fn all_unavailable(backend: &IdentityBackend, mood: SiteMood) {
    let shown: String = format!("{mood:?}").chars().take(200).collect();
    backend.behaves(mood).await;
    for (call, outcome) in outcomes(backend).await {
        assert_eq!(outcome, Outcome::Unavailable, "{call}: {shown}");
    }
}

/// Down, slow, endless: each call ends, and says so.
pub async fn a_server_that_does_not_answer_is_unavailable(backend: &IdentityBackend) {
    for mood in [SiteMood::Gone, SiteMood::Silent, SiteMood::Endless] {
        all_unavailable(backend, mood).await;
    }
}

/// HTML, half an object, another type, too much of it, 5xx even in the Matrix format.
pub async fn what_is_no_matrix_answer_is_unavailable(backend: &IdentityBackend) {
    let bytes = |status, body: &[u8]| SiteMood::Says { status, headers: Vec::new(), body: body.to_vec() };
    let ten_megabytes = json!({"sid": "1", "medium": "email", "filler": "x".repeat(10_000_000)});
    for mood in [
        says_html(200),
        says_html(401),
        says_html(403),
        says_html(429),
        says_html(502),
        bytes(200, b""),
        bytes(204, b""),
        bytes(200, b"{\"sid\": \"1\""),
        bytes(200, b"[]"),
        bytes(200, b"null"),
        bytes(200, &"[".repeat(10_000).into_bytes()),
        bytes(200, b"{\"sid\": \"\xff\"}"),
        says(200, &ten_megabytes),
        says(403, &json!({"error": "no errcode"})),
        says(403, &json!({"errcode": 7})),
        says(500, &json!({"errcode": "M_UNKNOWN", "error": "told@example.org"})),
        says(503, &json!({"errcode": "M_LIMIT_EXCEEDED"})),
    ] {
        all_unavailable(backend, mood).await;
    }
}

/// Wherever it leads, nobody goes there.
pub async fn a_redirect_is_not_followed(backend: &IdentityBackend) {
    let moods = backend.moods.as_ref().expect("moods");
    for status in [301, 302, 303, 307, 308] {
        let before = moods.reached().await;
        let headers = vec![("Location".to_owned(), "/_matrix/identity/v2/elsewhere".to_owned())];
        all_unavailable(backend, SiteMood::Says { status, headers, body: b"{}".to_vec() }).await;
        assert_eq!(moods.reached().await - before, VERSIONS.len() * 3 + 1, "{status}: one request a call");
    }
}

/// A Matrix error of 4xx comes whole, whatever is in it.
pub async fn a_refusal_comes_whole(backend: &IdentityBackend) {
    for (status, errcode) in [
        (400, "M_SESSION_NOT_VALIDATED"),
        (401, "M_UNAUTHORIZED"),
        (401, "M_UNKNOWN_TOKEN"),
        (403, "M_TERMS_NOT_SIGNED"),
        (404, "M_NO_VALID_SESSION"),
        (404, "M_UNRECOGNIZED"),
        (418, "ORG.EXAMPLE.TEAPOT"),
        (429, "M_LIMIT_EXCEEDED"),
    ] {
        let body = json!({
            "errcode": errcode, "error": "Grüße", "retry_after_ms": 5, "soft_logout": true,
            "policies": {"terms": {"version": "1.10"}},
        });
        let body: Map<String, Value> = body.as_object().cloned().expect("an object");
        backend.behaves(says(status, &Value::Object(body.clone()))).await;
        for (call, outcome) in outcomes(backend).await {
            let expected = Outcome::Refused(RemoteRefusal { status, body: body.clone() });
            assert_eq!(outcome, expected, "{call}");
        }
    }
}

/// Servers in use answer 200 for a failure. It proves nothing and is no success.
pub async fn a_failure_in_a_200_is_no_success(backend: &IdentityBackend) {
    let good = json!({"sid": "1", "medium": "email", "address": "told@example.org", "validated_at": 1});
    for (name, value) in [
        ("errcode", json!("M_NO_VALID_SESSION")),
        ("errcode", json!("M_UNKNOWN_TOKEN")),
        ("success", json!(false)),
    ] {
        let mut body = good.clone();
        body[name] = value;
        backend.behaves(says(200, &body)).await;
        for (call, outcome) in outcomes(backend).await {
            let expected = if call.ends_with("validated") { Outcome::Nothing } else { Outcome::Unavailable };
            assert_eq!(outcome, expected, "{call}: {body}");
        }
    }
}

/// A 200 that does not say what was validated, and when, proves nothing.
pub async fn half_a_proof_is_none(backend: &IdentityBackend) {
    let whole = json!({"medium": "email", "address": "told@example.org", "validated_at": 1});
    backend.behaves(says(200, &whole)).await;
    let session = RemoteCredentials { sid: Sid::new("5ession"), client_secret: secret(SECRET) };
    for version in VERSIONS {
        let said = backend.validated(&session, version).await.expect("an answer");
        assert_eq!(said.map(|said| said.validated_at.as_ms()), Some(1), "{version}");
    }
    for name in ["medium", "address", "validated_at"] {
        for value in [json!(null), json!([]), json!("1"), json!(1.5), json!(-1), json!(true)] {
            if value.is_string() && name != "validated_at" {
                continue;
            }
            let mut half = whole.clone();
            half[name] = value;
            backend.behaves(says(200, &half)).await;
            for version in VERSIONS {
                let said = backend.validated(&session, version).await.expect("an answer");
                assert!(said.is_none(), "{version}: {half}");
            }
        }
    }
}

/// 400, 404 and 501 without a Matrix error say that nothing can be unbound there; with one they are a refusal.
pub async fn an_unbind_that_is_not_supported_is_told_from_a_refusal(backend: &IdentityBackend) {
    let unbind = || {
        let address = Address::Email(email("told@example.org"));
        backend.port.unbind(backend.server.clone(), backend.user_id.clone(), address)
    };
    for status in [400, 404, 501] {
        for mood in [says_html(status), says(status, &json!({"error": "no errcode"}))] {
            backend.behaves(mood).await;
            assert_eq!(came_to(unbind().await.map(|_| Outcome::NoSupport)), Outcome::NoSupport, "{status}");
            assert_eq!(unbind().await.expect("an answer"), Unbound::NoSupport, "{status}");
        }
        let body = json!({"errcode": "M_UNRECOGNIZED"}).as_object().cloned().expect("an object");
        backend.behaves(says(status, &Value::Object(body.clone()))).await;
        let refused = came_to(unbind().await.map(|_| Outcome::Done));
        assert_eq!(refused, Outcome::Refused(RemoteRefusal { status, body }));
    }
    backend.behaves(says(200, &json!({}))).await;
    assert_eq!(unbind().await.expect("an answer"), Unbound::Done);
}

/// No failure spoils the port.
pub async fn a_server_that_comes_back_is_asked_again(backend: &IdentityBackend) {
    for (turn, mood) in [SiteMood::Gone, SiteMood::Silent, says_html(502)].into_iter().enumerate() {
        all_unavailable(backend, mood).await;
        backend.behaves(SiteMood::Works).await;
        let address = format!("back{turn}@example.org");
        let session = backend.proven(&address, "v2").await;
        let said = backend.validated(&session, "v2").await.expect("an answer").expect("a proof");
        assert_eq!(said.address, address);
    }
}

/// Runs every case of the identity server's contract that needs nothing but a server that works; give it an async
/// expression that makes a fresh [`IdentityBackend`](crate::testing::contract::identity_server::IdentityBackend).
#[macro_export]
macro_rules! identity_server_contract {
    ($backend:expr) => {
        $crate::identity_server_cases! { $backend,
            what_was_proven_is_said
            a_request_may_carry_a_link
            an_unproven_session_proves_nothing
            another_secret_or_sid_proves_nothing
            a_bind_publishes_what_was_proven
            an_unproven_session_is_not_bound
            an_unbind_is_signed_or_not_sent
            a_user_of_another_homeserver_is_not_unbound
        }
    };
}

/// Runs the case that needs a server which sends SMS; give it an async expression that makes a fresh
/// [`IdentityBackend`](crate::testing::contract::identity_server::IdentityBackend).
#[macro_export]
macro_rules! identity_server_number_contract {
    ($backend:expr) => {
        $crate::identity_server_cases! { $backend,
            a_number_that_was_proven_is_said
        }
    };
}

/// Runs every case of the identity server's contract that needs a server which can be told to fail.
#[macro_export]
macro_rules! identity_server_mood_contract {
    ($backend:expr) => {
        $crate::identity_server_cases! { $backend,
            a_server_that_does_not_answer_is_unavailable
            what_is_no_matrix_answer_is_unavailable
            a_redirect_is_not_followed
            a_refusal_comes_whole
            a_failure_in_a_200_is_no_success
            half_a_proof_is_none
            an_unbind_that_is_not_supported_is_told_from_a_refusal
            a_server_that_comes_back_is_asked_again
        }
    };
}

/// One test a case.
#[doc(hidden)]
#[macro_export]
macro_rules! identity_server_cases {
    ($backend:expr, $($case:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let run = async {
                    let backend = $backend.await;
                    $crate::testing::contract::identity_server::$case(&backend).await;
                };
                assert!(tokio::time::timeout(std::time::Duration::from_secs(60), run).await.is_ok(), "timed out");
            }
        )*
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeIdentityServer;

    async fn fake(signs: bool) -> IdentityBackend {
        let site = match signs {
            true => FakeIdentityServer::signing_as("hs.example"),
            false => FakeIdentityServer::default(),
        };
        let site = Arc::new(site);
        IdentityBackend {
            port: site.clone(),
            server: IdentityServerName::parse("id.example").expect("a name"),
            site,
            user_id: UserId::parse("@alice:hs.example").expect("a user ID"),
            signs,
            moods: None,
            keep: Box::new(()),
        }
    }

    mod signing {
        crate::identity_server_contract!(super::fake(true));
        crate::identity_server_number_contract!(super::fake(true));
    }

    mod without_a_key {
        crate::identity_server_contract!(super::fake(false));
    }

    /// A case that no macro lists would never run.
    #[test]
    fn every_case_is_run_by_a_macro() {
        let file = include_str!("identity_server.rs");
        let (_, macros) = file.split_once("macro_rules!").expect("macros");
        let cases = file.lines().filter_map(|line| line.strip_prefix("pub async fn ")?.split_once('('));
        let missing: Vec<_> = cases.map(|(name, _)| name).filter(|name| !macros.contains(name)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
