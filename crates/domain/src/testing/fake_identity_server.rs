//! Identity servers in memory.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

use async_trait::async_trait;
use serde_json::json;

use super::contract::identity_server::IdentitySite;
use super::lock;
use crate::model::{
    Address, ClientSecret, IdAccessToken, IdentityServerName, Medium, RemoteRefusal, Sid, Timestamp, UserId,
};
use crate::ports::{
    IdentityServer, IdentityServerError, OpenedRemotely, RemoteCredentials, RemoteTokenRequest,
    RemoteValidation, Unavailable, Unbound,
};

/// How the servers end one call.
#[derive(Clone, Debug, PartialEq)]
pub enum ServerReply {
    /// With this refusal, nothing done.
    Refused(RemoteRefusal),
    /// Not at all, nothing done.
    Down,
    /// It is done, and the answer that says so is lost.
    AnswerLost,
}

/// Which call reached which server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The port's method.
    pub call: &'static str,
    /// The server.
    pub server: IdentityServerName,
    /// Whether a token was given (v2).
    pub with_token: bool,
}

/// A session at one of the servers.
struct Session {
    client_secret: ClientSecret,
    address: Address,
    said: Option<RemoteValidation>,
}

#[derive(Default)]
struct State {
    script: VecDeque<ServerReply>,
    asked: Vec<Asked>,
    opened: u64,
    sessions: BTreeMap<(IdentityServerName, Sid), Session>,
    published: BTreeMap<(IdentityServerName, Address), UserId>,
}

/// Every identity server that is asked, each with sessions and bindings of its own. It gives the scripted replies in
/// turn, then does what it is asked.
#[derive(Default)]
pub struct FakeIdentityServer {
    homeserver: Option<String>,
    state: Mutex<State>,
}

impl FakeIdentityServer {
    /// Unbinds are signed as `homeserver`; without it, none is sent.
    pub fn signing_as(homeserver: &str) -> Self {
        Self { homeserver: Some(homeserver.to_owned()), ..Self::default() }
    }

    /// A client opens a session by itself.
    pub fn open(&self, server: &IdentityServerName, client_secret: &ClientSecret, address: &Address) -> Sid {
        lock(&self.state).open(server, client_secret, address)
    }

    /// The session's address is proven at `at`. An unknown session stays unknown.
    pub fn prove(&self, server: &IdentityServerName, sid: &Sid, at: Timestamp) {
        if let Some(session) = lock(&self.state).sessions.get_mut(&(server.clone(), sid.clone())) {
            session.said = Some(RemoteValidation {
                medium: session.address.medium().as_str().to_owned(),
                address: session.address.as_str().to_owned(),
                validated_at: at,
            });
        }
    }

    /// The server says this of the session from now on, be it true or not.
    pub fn says(&self, server: &IdentityServerName, sid: &Sid, said: RemoteValidation) {
        if let Some(session) = lock(&self.state).sessions.get_mut(&(server.clone(), sid.clone())) {
            session.said = Some(said);
        }
    }

    /// The next reply that is not scripted yet.
    pub fn next_is(&self, reply: ServerReply) {
        lock(&self.state).script.push_back(reply);
    }

    /// Every call that reached a server, in order.
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.state).asked.clone()
    }

    /// Whom the server publishes the address for.
    pub fn published(&self, server: &IdentityServerName, address: &Address) -> Option<UserId> {
        lock(&self.state).published.get(&(server.clone(), address.clone())).cloned()
    }

    /// One call: recorded, and ended as the script says.
    fn call<T>(
        &self,
        call: &'static str,
        server: &IdentityServerName,
        with_token: bool,
        act: impl FnOnce(&mut State) -> Result<T, RemoteRefusal>,
    ) -> Result<T, IdentityServerError> {
        let mut state = lock(&self.state);
        state.asked.push(Asked { call, server: server.clone(), with_token });
        let down = || IdentityServerError::Unavailable(Unavailable::new("identity server", "scripted"));
        match state.script.pop_front() {
            Some(ServerReply::Refused(refusal)) => Err(IdentityServerError::Refused(refusal)),
            Some(ServerReply::Down) => Err(down()),
            Some(ServerReply::AnswerLost) => {
                act(&mut state).map_err(IdentityServerError::Refused)?;
                Err(down())
            }
            None => act(&mut state).map_err(IdentityServerError::Refused),
        }
    }
}

impl State {
    fn open(&mut self, server: &IdentityServerName, secret: &ClientSecret, address: &Address) -> Sid {
        self.opened += 1;
        let sid = Sid::new(format!("remote{}", self.opened));
        let session = Session { client_secret: secret.clone(), address: address.clone(), said: None };
        self.sessions.insert((server.clone(), sid.clone()), session);
        sid
    }

    fn said(
        &self,
        server: &IdentityServerName,
        given: &RemoteCredentials,
    ) -> Result<RemoteValidation, RemoteRefusal> {
        let session = self.sessions.get(&(server.clone(), given.sid.clone()));
        let session = session.filter(|session| session.client_secret == given.client_secret);
        let session = session.ok_or_else(|| refusal(404, "M_NO_VALID_SESSION"))?;
        session.said.clone().ok_or_else(|| refusal(400, "M_SESSION_NOT_VALIDATED"))
    }
}

fn refusal(status: u16, errcode: &str) -> RemoteRefusal {
    let body = json!({"errcode": errcode, "error": "No"}).as_object().cloned().unwrap_or_default();
    RemoteRefusal { status, body }
}

#[async_trait]
impl IdentityServer for FakeIdentityServer {
    async fn request_token(
        &self,
        server: IdentityServerName,
        request: RemoteTokenRequest,
        id_access_token: Option<IdAccessToken>,
    ) -> Result<OpenedRemotely, IdentityServerError> {
        self.call("request_token", &server, id_access_token.is_some(), |state| {
            let sid = state.open(&server, &request.client_secret, &request.to.address());
            Ok(OpenedRemotely { sid, submit_url: None })
        })
    }

    async fn validated(
        &self,
        server: IdentityServerName,
        session: RemoteCredentials,
        id_access_token: Option<IdAccessToken>,
    ) -> Result<Option<RemoteValidation>, IdentityServerError> {
        self.call("validated", &server, id_access_token.is_some(), |state| {
            state.said(&server, &session).map(Some)
        })
    }

    async fn bind(
        &self,
        server: IdentityServerName,
        session: RemoteCredentials,
        user_id: UserId,
        id_access_token: Option<IdAccessToken>,
    ) -> Result<Address, IdentityServerError> {
        self.call("bind", &server, id_access_token.is_some(), |state| {
            let said = state.said(&server, &session)?;
            let medium = Medium::parse(&said.medium);
            let address = medium.and_then(|medium| Address::parse(medium, &said.address).ok());
            let address = address.ok_or_else(|| refusal(400, "M_INVALID_PARAM"))?;
            state.published.insert((server.clone(), address.clone()), user_id);
            Ok(address)
        })
    }

    async fn unbind(
        &self,
        server: IdentityServerName,
        user_id: UserId,
        address: Address,
    ) -> Result<Unbound, IdentityServerError> {
        if self.homeserver.as_deref() != Some(user_id.server_name()) {
            return Ok(Unbound::NoSupport);
        }
        self.call("unbind", &server, false, |state| {
            let binding = (server.clone(), address);
            if state.published.get(&binding) == Some(&user_id) {
                state.published.remove(&binding);
            }
            Ok(Unbound::Done)
        })
    }
}

#[async_trait]
impl IdentitySite for FakeIdentityServer {
    async fn token(&self, _user_id: &UserId) -> IdAccessToken {
        IdAccessToken::new("token")
    }

    async fn prove(&self, server: &IdentityServerName, session: &RemoteCredentials) {
        Self::prove(self, server, &session.sid, Timestamp::from_ms(1_700_000_000_000));
    }

    async fn published(&self, server: &IdentityServerName, address: &Address) -> Option<UserId> {
        Self::published(self, server, address)
    }
}
