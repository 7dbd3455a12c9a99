//! Everything wired on fakes, so that a test of a command is about the command.

use std::sync::Arc;

use url::Url;

use super::{
    CountedSecrets, FakeIdentityServer, FakeReauthentication, FixedClock, MemoryStore, PlainTemplates,
    RecordingMailer, RecordingSmsSender, ScriptedLimiter,
};
use crate::model::{
    Address, ClientSecret, Code, Country, EmailAddress, IdAccessToken, IdentityServerName, Medium, Msisdn,
    SendAttempt, Sid, Token, TrustedServer, TrustedServers, UserId, ValidationSession,
};
use crate::ports::{Clock, Secrets, Store};
use crate::use_cases::{
    Add, AddError, ConfirmLinks, Confirmed, Contacts, ContactsPorts, Delivered, Door, Policy, Relay,
    RelayPorts, RequestEmailToken, RequestMsisdnToken, RequestTokenError, RetryPolicy, SubmitToken,
    SubmitTokenError,
};

/// The commands and the relay on fakes, and handles to the fakes.
#[derive(Clone)]
pub struct Fixture {
    /// Store and outbox.
    pub store: Arc<MemoryStore>,
    /// The clock; it starts at [`FixedClock::START`].
    pub clock: Arc<FixedClock>,
    /// Ids and derivations.
    pub secrets: Arc<CountedSecrets>,
    /// The mail server.
    pub mailer: Arc<RecordingMailer>,
    /// The SMS gateway.
    pub sms: Arc<RecordingSmsSender>,
    /// The limiter; it allows everything until told otherwise.
    pub limiter: Arc<ScriptedLimiter>,
    /// Every identity server; they are asked as by the homeserver `example.org`.
    pub identity_servers: Arc<FakeIdentityServer>,
    /// The homeserver that asks again.
    pub reauthentication: Arc<FakeReauthentication>,
    /// The commands.
    pub contacts: Contacts,
    /// The relay; links lead to `https://contacts.example/_threepid/confirm`.
    pub relay: Relay,
    /// What the commands stand on, for a test that brings some port of its own.
    pub ports: ContactsPorts,
    /// What the relay stands on, likewise.
    pub relay_ports: RelayPorts,
    policy: Policy,
}

impl Default for Fixture {
    fn default() -> Self {
        Self::new()
    }
}

#[expect(clippy::expect_used, reason = "a fixture that is given nonsense fails the test that gave it")]
impl Fixture {
    /// A server that sends mail and SMS, under the default policy.
    pub fn new() -> Self {
        Self::with_policy(Policy { sends_mail: true, sends_sms: true, ..Policy::default() })
    }

    /// A server under `policy`.
    pub fn with_policy(policy: Policy) -> Self {
        let store = Arc::new(MemoryStore::new());
        let clock = Arc::new(FixedClock::default());
        let secrets = Arc::new(CountedSecrets::default());
        let mailer = Arc::new(RecordingMailer::default());
        let sms = Arc::new(RecordingSmsSender::default());
        let limiter = Arc::new(ScriptedLimiter::default());
        let identity_servers = Arc::new(FakeIdentityServer::signing_as("example.org"));
        let reauthentication = Arc::new(FakeReauthentication::default());
        let ports = ContactsPorts {
            store: store.clone(),
            clock: clock.clone(),
            secrets: secrets.clone(),
            rate_limiter: limiter.clone(),
            identity_servers: identity_servers.clone(),
            reauthentication: Some(reauthentication.clone()),
        };
        let contacts = Contacts::new(ports.clone(), policy.clone());
        let relay_ports = RelayPorts {
            outbox: store.clone(),
            store: store.clone(),
            mailer: Some(mailer.clone()),
            sms: Some(sms.clone()),
            identity_servers: identity_servers.clone(),
            mirror: None,
            templates: Arc::new(PlainTemplates),
            clock: clock.clone(),
            secrets: secrets.clone(),
            rate_limiter: limiter.clone(),
        };
        let relay = relay_on(relay_ports.clone(), &policy);
        Self {
            store,
            clock,
            secrets,
            mailer,
            sms,
            limiter,
            identity_servers,
            reauthentication,
            contacts,
            relay,
            ports,
            relay_ports,
            policy,
        }
    }

    /// A server that sends mail and trusts three identity servers: `id.example` for all, `validates.example` and
    /// `binds.example` for what their names say.
    pub fn trusting() -> Self {
        Self::with_policy(Policy { sends_mail: true, trusted: Self::trusted(), ..Policy::default() })
    }

    /// The identity servers of [`Fixture::trusting`].
    pub fn trusted() -> TrustedServers {
        let servers = [("id", true, true), ("validates", true, false), ("binds", false, true)];
        let server = |(name, validates, binds)| TrustedServer {
            name: Self::server(&format!("{name}.example")),
            validates,
            binds,
        };
        TrustedServers::new(servers.into_iter().map(server).collect())
    }

    /// The commands under the same policy, on another store.
    pub fn contacts_on(&self, store: Arc<dyn Store>) -> Contacts {
        self.contacts_with(ContactsPorts { store, ..self.ports.clone() })
    }

    /// The commands under the same policy, on other ports.
    pub fn contacts_with(&self, ports: ContactsPorts) -> Contacts {
        Contacts::new(ports, self.policy.clone())
    }

    /// A relay under the same policy, on other ports.
    pub fn relay_with(&self, ports: RelayPorts) -> Relay {
        relay_on(ports, &self.policy)
    }

    /// A user ID.
    pub fn user(text: &str) -> UserId {
        UserId::parse(text).expect("a user ID")
    }

    /// An email address.
    pub fn email(text: &str) -> EmailAddress {
        EmailAddress::parse(text).expect("an email address")
    }

    /// An email address, as the model's address.
    pub fn address(text: &str) -> Address {
        Address::parse(Medium::Email, text).expect("an email address")
    }

    /// An identity server's name.
    pub fn server(text: &str) -> IdentityServerName {
        IdentityServerName::parse(text).expect("a server name")
    }

    /// A client secret.
    pub fn secret(text: &str) -> ClientSecret {
        ClientSecret::parse(text).expect("a client secret")
    }

    /// A `send_attempt`.
    pub fn attempt(count: i128) -> SendAttempt {
        SendAttempt::new(count).expect("a send_attempt")
    }

    /// The request that [`Fixture::request`] makes.
    pub fn request_for(email: &str, client_secret: &str, attempt: i128) -> RequestEmailToken {
        RequestEmailToken {
            client_secret: Self::secret(client_secret),
            email: Self::email(email),
            send_attempt: Self::attempt(attempt),
            next_link: None,
            client_ip: None,
            id_server: None,
            id_access_token: None,
        }
    }

    /// A phone number.
    pub fn number(text: &str) -> Msisdn {
        Msisdn::parse(text).expect("a phone number")
    }

    /// The request that [`Fixture::request_sms`] makes, as from Great Britain.
    pub fn msisdn_request_for(number: &str, client_secret: &str, attempt: i128) -> RequestMsisdnToken {
        RequestMsisdnToken {
            client_secret: Self::secret(client_secret),
            number: Self::number(number),
            country: Country::parse("GB").expect("a country"),
            send_attempt: Self::attempt(attempt),
            next_link: None,
            client_ip: None,
            id_server: None,
            id_access_token: None,
        }
    }

    /// Requests a code.
    ///
    /// # Errors
    /// [`RequestTokenError`], as the command.
    pub async fn request_sms(
        &self,
        number: &str,
        client_secret: &str,
        attempt: i128,
    ) -> Result<Sid, RequestTokenError> {
        let request = Self::msisdn_request_for(number, client_secret, attempt);
        Ok(self.contacts.request_msisdn_token(request).await?.sid)
    }

    /// Requests a token.
    ///
    /// # Errors
    /// [`RequestTokenError`], as the command.
    pub async fn request(
        &self,
        email: &str,
        client_secret: &str,
        attempt: i128,
    ) -> Result<Sid, RequestTokenError> {
        let opened =
            self.contacts.request_email_token(Self::request_for(email, client_secret, attempt)).await?;
        Ok(opened.sid)
    }

    /// Claims and delivers whatever is due, once each.
    pub async fn deliver(&self) -> Vec<Delivered> {
        let mut delivered = Vec::new();
        for claimed in self.relay.claim(usize::MAX).await.expect("the outbox answers") {
            delivered.push(self.relay.deliver(claimed).await.expect("the outbox answers"));
        }
        delivered
    }

    /// The session and the token in the link of the last mail that was taken.
    pub fn last_link(&self) -> Option<(Sid, Token)> {
        let link = Url::parse(self.mailer.taken().last()?.text.trim()).ok()?;
        let query = |name: &str| link.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value);
        Some((Sid::new(query("sid")?), Token::new(query("token")?)))
    }

    /// The token that was last issued for a session, whether or not its mail has gone out.
    pub fn newest_token(&self, sid: &Sid) -> Token {
        let sessions = self.store.sessions();
        let session = sessions.iter().find(|session| session.sid() == sid);
        let issued = session.and_then(ValidationSession::newest_token).expect("a session of this store");
        self.secrets.token(sid, issued.generation)
    }

    /// The code that was last issued for a session, whether or not its message has gone out.
    pub fn newest_code(&self, sid: &Sid) -> Code {
        let sessions = self.store.sessions();
        let session = sessions.iter().find(|session| session.sid() == sid);
        let issued = session.and_then(ValidationSession::newest_token).expect("a session of this store");
        self.secrets.code(sid, issued.generation)
    }

    /// Brings a token back through the link.
    ///
    /// # Errors
    /// [`SubmitTokenError`], as the command.
    pub async fn submit(&self, sid: &Sid, token: Token) -> Result<Confirmed, SubmitTokenError> {
        let submit = SubmitToken { sid: sid.clone(), token, door: Door::Link, client_ip: None };
        self.contacts.submit_token(submit).await
    }

    /// A session whose address is proven.
    pub async fn proven(&self, email: &str, client_secret: &str) -> Sid {
        let sid = self.request(email, client_secret, 1).await.expect("the request is answered");
        self.submit(&sid, self.newest_token(&sid)).await.expect("the token is right");
        sid
    }

    /// Adds a session's address to an account.
    ///
    /// # Errors
    /// [`AddError`], as the command.
    pub async fn add(&self, user: &str, sid: &Sid, client_secret: &str) -> Result<(), AddError> {
        self.contacts.add(Self::add_of(user, sid, client_secret)).await
    }

    /// A session at an identity server whose address is proven there, just now.
    pub fn proven_at(&self, server: &str, email: &str, client_secret: &str) -> Sid {
        let (server, now) = (Self::server(server), self.clock.now());
        let sid = self.identity_servers.open(&server, &Self::secret(client_secret), &Self::address(email));
        self.identity_servers.prove(&server, &sid, now);
        sid
    }

    /// The request that adds, and where `bind` says so publishes, what a session of `server` proves.
    pub fn add_from(server: &str, user: &str, sid: &Sid, client_secret: &str, bind: bool) -> Add {
        Add {
            id_server: Some(Self::server(server)),
            id_access_token: Some(IdAccessToken::new("token")),
            bind,
            ..Self::add_of(user, sid, client_secret)
        }
    }

    /// The request that [`Fixture::add`] makes.
    pub fn add_of(user: &str, sid: &Sid, client_secret: &str) -> Add {
        Add {
            user_id: Self::user(user),
            sid: sid.clone(),
            client_secret: Self::secret(client_secret),
            id_server: None,
            id_access_token: None,
            bind: false,
        }
    }
}

#[expect(clippy::expect_used, reason = "it is a URL")]
fn relay_on(ports: RelayPorts, policy: &Policy) -> Relay {
    let links = ConfirmLinks::new(&Url::parse("https://contacts.example/").expect("a URL"));
    Relay::new(ports, links, policy.lifetimes.token, RetryPolicy::default())
}
