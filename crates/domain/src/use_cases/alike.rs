//! With [`Policy::hide_in_use`], a taken address and a free one are alike: the same calls of the same ports in the same
//! order, and the same answers, over everything that somebody can do who cannot read what is sent to the address.

#![expect(clippy::unwrap_used, reason = "a test that meets nonsense of its own fails")]

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value};

use super::*;
use crate::model::{
    AccessToken, Address, AuditEntry, AuditQuery, Binding, Challenge, Change, ClientSecret, Code, Generation,
    IdAccessToken, IdentityServerName, KeyedHash, LeaseId, Medium, MessageId, Payload, RemoteSession, Sid,
    SpentProof, Threepid, Timestamp, Token, UserId, ValidationSession,
};
use crate::ports::{
    Answered, AskedAgain, ChallengeToPassOn, Credentials, IdentityServerError, OpenedRemotely,
    ReauthenticationError, RemoteCredentials, RemoteTokenRequest, RemoteValidation, Unbound, Verdict,
};
use crate::testing::{FakeReauthentication, Fixture};

const EMAIL: &str = "alice@example.org";
const NUMBER: &str = "447700900813";
const HOUR: Duration = Duration::from_secs(60 * 60);

/// What was called, in order: the port, the call, and how much was asked of it.
#[derive(Clone, Default)]
struct Journal(Arc<Mutex<Vec<String>>>);

impl Journal {
    fn note(&self, call: impl Into<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(call.into());
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A port that notes its calls, and passes each on.
struct Noted<P: ?Sized>(Arc<P>, Journal);

#[async_trait]
impl Store for Noted<dyn Store> {
    async fn session(&self, sid: &Sid) -> Result<Option<ValidationSession>, Unavailable> {
        let found = self.0.session(sid).await;
        self.1.note(format!("store.session found={:?}", found.as_ref().map(Option::is_some)));
        found
    }

    async fn current_session(&self, key: KeyedHash) -> Result<Option<ValidationSession>, Unavailable> {
        let found = self.0.current_session(key).await;
        self.1.note(format!("store.current_session found={:?}", found.as_ref().map(Option::is_some)));
        found
    }

    async fn owner(&self, address: &Address) -> Result<Option<UserId>, Unavailable> {
        self.1.note("store.owner");
        self.0.owner(address).await
    }

    async fn threepids(&self, user: &UserId) -> Result<Vec<Threepid>, Unavailable> {
        self.1.note("store.threepids");
        self.0.threepids(user).await
    }

    async fn remote_sessions(&self, sid: &Sid) -> Result<Vec<RemoteSession>, Unavailable> {
        self.1.note("store.remote_sessions");
        self.0.remote_sessions(sid).await
    }

    async fn spent_proof(
        &self,
        server: &IdentityServerName,
        sid: &Sid,
    ) -> Result<Option<SpentProof>, Unavailable> {
        self.1.note("store.spent_proof");
        self.0.spent_proof(server, sid).await
    }

    async fn bindings(&self, user: &UserId, address: &Address) -> Result<Vec<Binding>, Unavailable> {
        self.1.note("store.bindings");
        self.0.bindings(user, address).await
    }

    async fn challenge(&self, session: &str) -> Result<Option<Challenge>, Unavailable> {
        self.1.note("store.challenge");
        self.0.challenge(session).await
    }

    async fn audit_trail(&self, query: AuditQuery) -> Result<Vec<AuditEntry>, Unavailable> {
        self.1.note("store.audit_trail");
        self.0.audit_trail(query).await
    }

    async fn commit(&self, unit: UnitOfWork) -> Result<(), CommitError> {
        let mut call = "store.commit".to_owned();
        for change in unit.changes() {
            let _ = match change {
                Change::PutSession(session) => {
                    let record = session.record();
                    let seen = (&record.state, record.current, record.send_attempt, record.tokens.len());
                    write!(call, " session={seen:?}")
                }
                Change::Enqueue(message) => {
                    write!(call, " message={:?}", (message.created_at, message.due_at, message.not_after))
                }
                other => write!(call, " {other:?}"),
            };
        }
        self.1.note(call);
        self.0.commit(unit).await
    }

    async fn check(&self) -> Result<(), Unavailable> {
        self.1.note("store.check");
        self.0.check().await
    }
}

#[async_trait]
impl RateLimiter for Noted<dyn RateLimiter> {
    async fn take(&self, limit: Limit, subject: String) -> Result<Verdict, Unavailable> {
        self.1.note(format!("rate_limiter.take {}", limit.name()));
        self.0.take(limit, subject).await
    }

    fn known(&self, limit: Limit, subject: &str) -> Verdict {
        self.1.note(format!("rate_limiter.known {}", limit.name()));
        self.0.known(limit, subject)
    }

    async fn look(&self, limit: Limit, subject: String) -> Result<Verdict, Unavailable> {
        self.1.note(format!("rate_limiter.look {}", limit.name()));
        self.0.look(limit, subject).await
    }

    async fn give_back(&self, limit: Limit, subject: String) -> Result<(), Unavailable> {
        self.1.note(format!("rate_limiter.give_back {}", limit.name()));
        self.0.give_back(limit, subject).await
    }
}

impl Clock for Noted<dyn Clock> {
    fn now(&self) -> Timestamp {
        self.1.note("clock.now");
        self.0.now()
    }
}

impl Secrets for Noted<dyn Secrets> {
    fn new_sid(&self) -> Sid {
        self.1.note("secrets.new_sid");
        self.0.new_sid()
    }

    fn new_message_id(&self) -> MessageId {
        self.1.note("secrets.new_message_id");
        self.0.new_message_id()
    }

    fn new_lease_id(&self) -> LeaseId {
        self.1.note("secrets.new_lease_id");
        self.0.new_lease_id()
    }

    fn jitter(&self) -> f64 {
        self.1.note("secrets.jitter");
        self.0.jitter()
    }

    fn token(&self, sid: &Sid, generation: Generation) -> Token {
        self.1.note(format!("secrets.token {generation:?}"));
        self.0.token(sid, generation)
    }

    fn code(&self, sid: &Sid, generation: Generation) -> Code {
        self.1.note(format!("secrets.code {generation:?}"));
        self.0.code(sid, generation)
    }

    fn session_key(&self, address: &Address, client_secret: &ClientSecret) -> KeyedHash {
        self.1.note("secrets.session_key");
        self.0.session_key(address, client_secret)
    }

    fn address_key(&self, address: &Address) -> KeyedHash {
        self.1.note("secrets.address_key");
        self.0.address_key(address)
    }
}

#[async_trait]
impl IdentityServer for Noted<dyn IdentityServer> {
    async fn request_token(
        &self,
        server: IdentityServerName,
        request: RemoteTokenRequest,
        token: Option<IdAccessToken>,
    ) -> Result<OpenedRemotely, IdentityServerError> {
        self.1.note("identity_server.request_token");
        self.0.request_token(server, request, token).await
    }

    async fn validated(
        &self,
        server: IdentityServerName,
        session: RemoteCredentials,
        token: Option<IdAccessToken>,
    ) -> Result<Option<RemoteValidation>, IdentityServerError> {
        self.1.note("identity_server.validated");
        self.0.validated(server, session, token).await
    }

    async fn bind(
        &self,
        server: IdentityServerName,
        session: RemoteCredentials,
        user_id: UserId,
        token: Option<IdAccessToken>,
    ) -> Result<Address, IdentityServerError> {
        self.1.note("identity_server.bind");
        self.0.bind(server, session, user_id, token).await
    }

    async fn unbind(
        &self,
        server: IdentityServerName,
        user_id: UserId,
        address: Address,
    ) -> Result<Unbound, IdentityServerError> {
        self.1.note("identity_server.unbind");
        self.0.unbind(server, user_id, address).await
    }
}

#[async_trait]
impl Reauthentication for Noted<dyn Reauthentication> {
    async fn challenge(&self, asked: AskedAgain) -> Result<ChallengeToPassOn, ReauthenticationError> {
        self.1.note("reauthentication.challenge");
        self.0.challenge(asked).await
    }

    async fn answer(
        &self,
        asked: AskedAgain,
        auth: Map<String, Value>,
    ) -> Result<Answered, ReauthenticationError> {
        self.1.note("reauthentication.answer");
        self.0.answer(asked, auth).await
    }
}

/// Somebody who asks about one address, and what they and the ports saw.
struct Stranger {
    fixture: Fixture,
    contacts: Contacts,
    journal: Journal,
    medium: Medium,
    saw: Vec<(String, String, Vec<String>)>,
}

impl Stranger {
    /// On a server where the address is free, or belongs to an account.
    async fn before(policy: Policy, medium: Medium, is_taken: bool) -> Self {
        let fixture = Fixture::with_policy(policy);
        if is_taken {
            let address = match medium {
                Medium::Email => Fixture::address(EMAIL),
                Medium::Msisdn => Address::Msisdn(Fixture::number(NUMBER)),
            };
            let at = fixture.clock.now();
            let user_id = Fixture::user("@holder:example.org");
            let held = Threepid { user_id, address, validated_at: at, added_at: at };
            fixture.store.commit(UnitOfWork::new().put_threepid(held)).await.unwrap();
        }
        let (journal, ports) = (Journal::default(), fixture.ports.clone());
        let noted = ContactsPorts {
            store: Arc::new(Noted(ports.store, journal.clone())),
            clock: Arc::new(Noted(ports.clock, journal.clone())),
            secrets: Arc::new(Noted(ports.secrets, journal.clone())),
            rate_limiter: Arc::new(Noted(ports.rate_limiter, journal.clone())),
            identity_servers: Arc::new(Noted(ports.identity_servers, journal.clone())),
            reauthentication: ports.reauthentication.map(|port| Arc::new(Noted(port, journal.clone())) as _),
        };
        let contacts = fixture.contacts_with(noted);
        Self { fixture, contacts, journal, medium, saw: Vec::new() }
    }

    fn see<T: std::fmt::Debug, E: std::fmt::Debug>(&mut self, what: &str, answer: &Result<T, E>) {
        self.saw.push((what.to_owned(), format!("{answer:?}"), self.journal.take()));
    }

    async fn request(&mut self, what: &str, secret: &str, attempt: i128) -> Sid {
        let client_ip = Some([192, 0, 2, 1].into());
        let answer = match self.medium {
            Medium::Email => {
                let request = Fixture::request_for(EMAIL, secret, attempt);
                self.contacts.request_email_token(RequestEmailToken { client_ip, ..request }).await
            }
            Medium::Msisdn => {
                let request = Fixture::msisdn_request_for(NUMBER, secret, attempt);
                self.contacts.request_msisdn_token(RequestMsisdnToken { client_ip, ..request }).await
            }
        };
        self.see(what, &answer);
        answer.map_or_else(|_| Sid::new("none"), |opened| opened.sid)
    }

    async fn submit(&mut self, what: &str, sid: &Sid, token: &str, door: Door) {
        let (sid, token, client_ip) = (sid.clone(), Token::new(token), Some([192, 0, 2, 1].into()));
        let answer = self.contacts.submit_token(SubmitToken { sid, token, door, client_ip }).await;
        self.see(what, &answer);
    }

    async fn add(&mut self, what: &str, sid: &Sid, secret: &str) {
        let answer = self.contacts.add(Fixture::add_of("@stranger:example.org", sid, secret)).await;
        self.see(&format!("{what}, deprecated"), &answer);
        let challenged = self.add_reauthenticated(sid, secret, None).await;
        self.see(&format!("{what}, challenged"), &challenged);
        let Err(AddReauthenticatedError::Challenged(challenge)) = challenged else { return };
        for password in ["wrong", "right"] {
            let auth = Auth(FakeReauthentication::auth(Some(&challenge.session), password));
            let answer = self.add_reauthenticated(sid, secret, Some(auth)).await;
            self.see(&format!("{what}, answered {password}"), &answer);
        }
    }

    async fn add_reauthenticated(
        &self,
        sid: &Sid,
        secret: &str,
        auth: Option<Auth>,
    ) -> Result<(), AddReauthenticatedError> {
        let credentials =
            Credentials { access_token: AccessToken::new("token"), user_id: None, client_ip: None };
        let add = AddReauthenticated {
            user_id: Fixture::user("@stranger:example.org"),
            credentials,
            sid: sid.clone(),
            client_secret: Fixture::secret(secret),
            auth,
        };
        self.contacts.add_reauthenticated(add).await
    }

    /// What an account can do with an address that is not its own.
    async fn meddle(&mut self, what: &str) {
        let user_id = Fixture::user("@stranger:example.org");
        let address = match self.medium {
            Medium::Email => Fixture::address(EMAIL),
            Medium::Msisdn => Address::Msisdn(Fixture::number(NUMBER)),
        };
        let listed = self.contacts.list(&user_id).await;
        self.see(&format!("{what}, list"), &listed);
        for id_server in [None, Some(Fixture::server("id.example"))] {
            let delete =
                Delete { user_id: user_id.clone(), address: address.clone(), id_server: id_server.clone() };
            let deleted = self.contacts.delete(delete).await;
            self.see(&format!("{what}, delete"), &deleted);
            let unbind = Unbind { user_id: user_id.clone(), address: address.clone(), id_server };
            let unbound = self.contacts.unbind(unbind).await;
            self.see(&format!("{what}, unbind"), &unbound);
        }
        let bind = Bind {
            user_id,
            id_server: Fixture::server("id.example"),
            id_access_token: IdAccessToken::new("token"),
            sid: Sid::new("elsewhere"),
            client_secret: Fixture::secret("secret"),
        };
        let bound = self.contacts.bind(bind).await;
        self.see(&format!("{what}, bind"), &bound);
    }

    /// Everything that can be done without what is sent to the address.
    async fn tries_everything(mut self) -> Self {
        let json = |secret: &str| Door::Client(Fixture::secret(secret));
        let sid = self.request("a request", "secret", 1).await;
        self.request("the same again", "secret", 1).await;
        self.request("a lower attempt", "secret", 0).await;
        self.request("a higher attempt", "secret", 2).await;
        self.request("another secret", "other", 1).await;
        self.add("an add before the proof", &sid, "secret").await;
        self.add("an add under another secret", &sid, "other").await;
        self.meddle("what is not one's own").await;
        self.request("the same after that", "secret", 2).await;
        self.submit("a wrong token, as JSON", &sid, "wrong", json("secret")).await;
        self.submit("a wrong secret", &sid, "wrong", json("wrong")).await;
        self.submit("a wrong code, as JSON", &sid, "000000", json("secret")).await;
        self.submit("a wrong token, by the page", &sid, "wrong", Door::Link).await;
        self.submit("a wrong code, by the page", &sid, "111111", Door::Link).await;
        self.request("an attempt before it is burnt", "secret", 3).await;
        self.submit("the token that burns it", &sid, "wrong", Door::Link).await;
        self.submit("a token after that", &sid, "wrong", json("secret")).await;
        self.add("an add when it is burnt", &sid, "secret").await;
        let sid = self.request("a request when it is burnt", "secret", 1).await;
        self.fixture.clock.advance(HOUR);
        self.submit("a token when it has ended", &sid, "wrong", json("secret")).await;
        self.add("an add when it has ended", &sid, "secret").await;
        self.request("a request when it has ended", "secret", 1).await;
        self.fixture.limiter.next_is(Verdict::RetryAfter(HOUR));
        self.request("a request of a client over its limit", "secret", 2).await;
        self.fixture.limiter.next_is(Verdict::Allowed);
        self.fixture.limiter.next_is(Verdict::RetryAfter(HOUR));
        self.request("a request over the address's limit", "secret", 2).await;
        self.fixture.limiter.next_is(Verdict::Allowed);
        self.fixture.limiter.next_is(Verdict::Allowed);
        self.fixture.limiter.next_is(Verdict::RetryAfter(HOUR));
        self.request("a request over the bound in all", "secret", 2).await;
        self.request("a request when there is room again", "secret", 2).await;
        self
    }
}

fn policies(hide_in_use: bool) -> [Policy; 2] {
    [false, true].map(|mails_code| Policy {
        sends_mail: true,
        sends_sms: true,
        mails_code,
        hide_in_use,
        ..Policy::default()
    })
}

#[tokio::test]
async fn a_taken_address_and_a_free_one_get_the_same_answers_after_the_same_calls() {
    for (medium, policy) in [Medium::Email, Medium::Msisdn]
        .into_iter()
        .flat_map(|medium| policies(true).map(|policy| (medium, policy)))
    {
        let free = Stranger::before(policy.clone(), medium, false).await.tries_everything().await;
        let taken = Stranger::before(policy, medium, true).await.tries_everything().await;
        assert!(free.saw.len() > 30, "{}", free.saw.len());
        for (free, taken) in free.saw.iter().zip(&taken.saw) {
            assert_eq!(free, taken);
        }
        assert_eq!(free.saw.len(), taken.saw.len());
        let first = &free.saw[0];
        assert!(
            first.1.starts_with("Ok(") && first.2.iter().any(|call| call.starts_with("store.commit")),
            "{first:?}"
        );
        let kinds = |stranger: &Stranger| -> Vec<bool> {
            let rows = stranger.fixture.store.outbox_rows();
            rows.iter().map(|row| row.message.payload.informed().is_some()).collect()
        };
        let owed = kinds(&free).len();
        assert_eq!((kinds(&free), kinds(&taken)), (vec![false; owed], vec![true; owed]));
    }
}

#[tokio::test]
async fn where_nothing_is_hidden_the_first_answer_tells() {
    for policy in policies(false) {
        let free = Stranger::before(policy.clone(), Medium::Email, false).await.tries_everything().await;
        let taken = Stranger::before(policy, Medium::Email, true).await.tries_everything().await;
        assert_ne!(free.saw[0], taken.saw[0]);
        assert_eq!(taken.saw[0].1, "Err(InUse)");
    }
}

/// A server that hides, and an address that `@holder:example.org` has.
async fn held() -> Fixture {
    let policy = policies(true).into_iter().next().unwrap();
    Stranger::before(policy, Medium::Email, true).await.fixture
}

async fn give_up(fixture: &Fixture) {
    let (user_id, address) = (Fixture::user("@holder:example.org"), Fixture::address(EMAIL));
    fixture.store.commit(UnitOfWork::new().remove_threepid(user_id, address)).await.unwrap();
}

async fn take(fixture: &Fixture) {
    let at = fixture.clock.now();
    let (user_id, address) = (Fixture::user("@holder:example.org"), Fixture::address(EMAIL));
    let held = Threepid { user_id, address, validated_at: at, added_at: at };
    fixture.store.commit(UnitOfWork::new().put_threepid(held)).await.unwrap();
}

#[tokio::test]
async fn no_token_and_no_code_proves_a_session_that_was_asked_for_while_the_address_was_taken() {
    for policy in policies(true) {
        let fixture = Stranger::before(policy, Medium::Email, true).await.fixture;
        let sid = fixture.request(EMAIL, "secret", 1).await.unwrap();
        give_up(&fixture).await;
        let code = Token::new(fixture.newest_code(&sid).expose());
        for token in [fixture.newest_token(&sid), code, fixture.newest_token(&sid)] {
            let refused = fixture.submit(&sid, token).await;
            assert!(matches!(refused, Err(SubmitTokenError::Incorrect)), "{refused:?}");
        }
        let refused = fixture.add("@stranger:example.org", &sid, "secret").await;
        assert!(matches!(refused, Err(AddError::AuthFailed)), "{refused:?}");
        let wrong = fixture.store.sessions().remove(0).record().state.clone();
        assert_eq!(
            wrong,
            crate::model::SessionState::Pending { wrong_tokens: 3 },
            "they count as wrong ones"
        );
    }
}

#[tokio::test]
async fn whoever_has_the_address_gets_no_token_either() {
    let fixture = held().await;
    let sid = fixture.request(EMAIL, "secret", 1).await.unwrap();
    assert_eq!(fixture.deliver().await, [Delivered::Sent]);
    let mail = fixture.mailer.taken().remove(0);
    let token = fixture.newest_token(&sid);
    assert!(!format!("{mail:?}").contains(token.expose()) && fixture.last_link().is_none(), "{mail:?}");
    let refused = fixture.add("@holder:example.org", &sid, "secret").await;
    assert!(matches!(refused, Err(AddError::AuthFailed)), "{refused:?}");
}

#[tokio::test]
async fn once_the_address_is_free_a_new_message_of_the_same_session_proves_it() {
    let fixture = held().await;
    let sid = fixture.request(EMAIL, "secret", 1).await.unwrap();
    let told_to_nobody = fixture.newest_token(&sid);
    give_up(&fixture).await;
    assert_eq!(fixture.request(EMAIL, "secret", 2).await.unwrap(), sid, "nobody sees that anything changed");
    assert!(fixture.submit(&sid, told_to_nobody).await.is_err());
    fixture.deliver().await;
    let (linked, token) = fixture.last_link().unwrap();
    assert_eq!(linked, sid);
    fixture.submit(&sid, token).await.unwrap();
    fixture.add("@stranger:example.org", &sid, "secret").await.unwrap();
}

#[tokio::test]
async fn in_use_is_told_only_where_the_address_was_taken_after_the_proof() {
    for (is_taken_first, told) in [(true, "AuthFailed"), (false, "InUse")] {
        let policy = policies(true).into_iter().next().unwrap();
        let mut stranger = Stranger::before(policy, Medium::Email, false).await;
        let sid = stranger.fixture.request(EMAIL, "secret", 1).await.unwrap();
        let token = stranger.fixture.newest_token(&sid);
        let step = Duration::from_secs(1);
        stranger.fixture.clock.advance(step);
        if is_taken_first {
            take(&stranger.fixture).await;
            let early = stranger.fixture.add("@stranger:example.org", &sid, "secret").await;
            assert!(matches!(early, Err(AddError::AuthFailed)), "{early:?}");
        }
        stranger.fixture.clock.advance(step);
        stranger.fixture.submit(&sid, token).await.unwrap();
        stranger.fixture.clock.advance(step);
        if !is_taken_first {
            take(&stranger.fixture).await;
        }
        stranger.add("an add", &sid, "secret").await;
        let answers: Vec<_> =
            stranger.saw.iter().map(|(what, answer, _)| (what.as_str(), answer.as_str())).collect();
        let (deprecated, reauthenticated) = (format!("Err({told})"), format!("Err(Add({told}))"));
        assert_eq!(answers[0], ("an add, deprecated", deprecated.as_str()));
        assert_eq!(answers[3], ("an add, answered right", reauthenticated.as_str()));
        let own = stranger.fixture.add("@holder:example.org", &sid, "secret").await;
        assert!(own.is_ok(), "nothing was spent, and the address is the holder's: {own:?}");
    }
}

#[tokio::test]
async fn an_identity_servers_proof_tells_no_more() {
    let trusted = Fixture::trusted();
    let policy = Policy { trusted, ..policies(true).into_iter().next().unwrap() };
    for (is_taken_first, told) in [(true, "Err(AuthFailed)"), (false, "Err(InUse)")] {
        let fixture = Fixture::with_policy(policy.clone());
        let step = Duration::from_secs(1);
        if is_taken_first {
            take(&fixture).await;
            fixture.clock.advance(step);
        }
        let sid = fixture.proven_at("id.example", EMAIL, "secret");
        fixture.clock.advance(step);
        if !is_taken_first {
            take(&fixture).await;
        }
        let add = Fixture::add_from("id.example", "@stranger:example.org", &sid, "secret", false);
        assert_eq!(format!("{:?}", fixture.contacts.add(add).await), told);
    }
}

#[tokio::test]
async fn whoever_has_an_address_is_told_once_a_day_and_no_failed_try_counts() {
    let fixture = held().await;
    fixture.mailer.next_is(crate::testing::Reply::Transient);
    fixture.request(EMAIL, "secret", 1).await.unwrap();
    assert_eq!(fixture.deliver().await, [Delivered::Retrying]);
    let counted =
        (Limit::InUseNoticePerAddress, fixture.secrets.address_key(&Fixture::address(EMAIL)).to_hex());
    assert_eq!(fixture.limiter.taken().last(), Some(&counted));
    assert_eq!(fixture.limiter.given_back(), [counted]);
    fixture.clock.advance(Duration::from_secs(10));
    assert_eq!(fixture.deliver().await, [Delivered::Sent]);
    fixture.request(EMAIL, "secret", 2).await.unwrap();
    let asked = fixture.limiter.taken().len();
    fixture.limiter.next_is(Verdict::RetryAfter(HOUR));
    assert_eq!(fixture.deliver().await, [Delivered::Withheld]);
    assert_eq!(fixture.limiter.taken().len(), asked + 1);
    assert_eq!(fixture.store.outbox_rows()[1].state, crate::testing::RowState::Expired, "it is settled");
    fixture.request(EMAIL, "secret", 3).await.unwrap();
    fixture.limiter.next_is_unavailable();
    assert_eq!(fixture.deliver().await, [Delivered::Retrying], "whoever cannot count does not send");
    assert_eq!((fixture.mailer.taken().len(), fixture.limiter.given_back().len()), (1, 1));
    let payloads = fixture.store.outbox_rows().into_iter().map(|row| row.message.payload);
    assert!(payloads.into_iter().all(|payload| payload == Payload::InUseMail { to: Fixture::email(EMAIL) }));
}

#[tokio::test]
async fn whoever_has_a_number_is_told_by_sms() {
    let policy = policies(true).into_iter().next().unwrap();
    let fixture = Stranger::before(policy, Medium::Msisdn, true).await.fixture;
    let sid = fixture.request_sms(NUMBER, "secret", 1).await.unwrap();
    assert_eq!(fixture.deliver().await, [Delivered::Sent]);
    let sms = fixture.sms.taken().remove(0);
    assert_eq!((sms.to.as_str(), sms.text.as_str()), (NUMBER, "It is in use"));
    let refused = fixture.submit(&sid, Token::new(fixture.newest_code(&sid).expose())).await;
    assert!(matches!(refused, Err(SubmitTokenError::Incorrect)), "{refused:?}");
}

#[tokio::test]
async fn an_identity_server_that_validates_hides_nothing() {
    let validation = Validation::IdentityServer;
    let policy = Policy { trusted: Fixture::trusted(), validation, hide_in_use: true, ..Policy::default() };
    let fixture = Fixture::with_policy(policy);
    take(&fixture).await;
    let refused = fixture.request(EMAIL, "secret", 1).await;
    assert!(matches!(refused, Err(RequestTokenError::InUse)), "{refused:?}");
}

#[tokio::test]
async fn where_it_is_hidden_messages_leave_a_little_later_at_random_and_elsewhere_at_once() {
    for (hide_in_use, lifetime, later) in
        [(true, HOUR, 2500), (true, Duration::from_secs(10), 500), (false, HOUR, 0)]
    {
        let lifetimes = Lifetimes { token: lifetime, ..Lifetimes::default() };
        let policy = Policy { sends_mail: true, hide_in_use, lifetimes, ..Policy::default() };
        let fixture = Fixture::with_policy(policy);
        fixture.secrets.set_jitter(0.5);
        fixture.request(EMAIL, "secret", 1).await.unwrap();
        let message = fixture.store.outbox_rows().remove(0).message;
        assert_eq!(message.due_at.as_ms() - message.created_at.as_ms(), later);
        assert!(message.due_at < message.not_after);
    }
}
