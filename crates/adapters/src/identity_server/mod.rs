//! Asks identity servers over HTTP: the [identity service API], v2 with a client's token, v1 without one.
//!
//! A server that the settings give a `base_url` is asked there. Any other is asked at `https://{name}`, through the
//! guard of [`outbound`](crate::outbound). Nothing that was sent or answered is kept or logged.
//!
//! [identity service API]: https://spec.matrix.org/v1.18/identity-service-api/

mod answer;
mod requests;
mod signing_key;
mod unbind;
mod v1;
mod v2;

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hyper::Request;
use hyper::header::{ACCEPT, HeaderValue, USER_AGENT};
use serde_json::{Map, Value, json};
use threepid_domain::model::{Address, IdAccessToken, IdentityServerName, RemoteRefusal, UserId};
use threepid_domain::ports::{
    IdentityServer, IdentityServerError, OpenedRemotely, RemoteCredentials, RemoteTokenRequest,
    RemoteValidation, Unavailable, Unbound,
};
use url::Url;

use crate::outbound::{Bounds, NamedBy, Outbound, OutboundError, OutboundSettings};
use answer::{Answer, Published};
use requests::NotSendable;
pub use signing_key::{SigningKey, SigningKeyError};

/// How identity servers are asked.
#[derive(Debug)]
pub struct IdentityServerSettings {
    /// What is known of single servers.
    pub servers: HashMap<IdentityServerName, ServerSettings>,
    /// How hosts without a `base_url` are reached.
    pub outbound: OutboundSettings,
    /// A whole exchange, from the look-up of the name to the last byte; 10 s.
    pub timeout: Duration,
    /// The same for an unbind; 8 s, since a client waits for its deletion meanwhile.
    pub unbind_timeout: Duration,
    /// An answer's body, in bytes; 64 KiB.
    pub max_answer_bytes: usize,
    /// The homeserver's key; without one, no unbind is sent.
    pub signing_key: Option<SigningKey>,
}

impl Default for IdentityServerSettings {
    fn default() -> Self {
        Self {
            servers: HashMap::new(),
            outbound: OutboundSettings::default(),
            timeout: Duration::from_secs(10),
            unbind_timeout: Duration::from_secs(8),
            max_answer_bytes: 64 * 1024,
            signing_key: None,
        }
    }
}

/// What is known of one server.
#[derive(Clone, Debug, Default)]
pub struct ServerSettings {
    /// Where it is asked: `http` or `https`, host, port and a path that goes before every path. Without one it is
    /// asked at `https://{name}`.
    pub base_url: Option<Url>,
    /// Whether it reads forms on v1, where others read JSON.
    pub v1_form: bool,
}

/// Why no identity server can be asked.
#[derive(Debug, thiserror::Error)]
pub enum IdentityServerSettingsError {
    /// A `base_url` is none.
    #[error("the base_url of {server} {why}")]
    BaseUrl {
        /// Whose.
        server: IdentityServerName,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The connector cannot be made.
    #[error(transparent)]
    Outbound(#[from] OutboundError),
}

/// Asks identity servers through hyper.
#[derive(Debug)]
pub struct HyperIdentityServer {
    servers: HashMap<IdentityServerName, Site>,
    outbound: Outbound,
    exchange: Bounds,
    unbind: Bounds,
    signing_key: Option<SigningKey>,
}

/// Where and how one server is asked.
#[derive(Clone)]
struct Site {
    /// Without a slash at its end.
    base: String,
    named_by: NamedBy,
    v1_body: v1::Body,
}

// A base URL is the operator's own business.
impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site").field("named_by", &self.named_by).finish_non_exhaustive()
    }
}

impl Site {
    fn by_name(server: &IdentityServerName) -> String {
        format!("https://{server}")
    }

    fn new(server: &IdentityServerName, settings: ServerSettings) -> Result<Self, &'static str> {
        let (base, named_by) = match settings.base_url {
            None => (Self::by_name(server), NamedBy::Client),
            Some(url) => (base(&url)?, NamedBy::Settings),
        };
        let v1_body = if settings.v1_form { v1::Body::Form } else { v1::Body::Json };
        Ok(Self { base, named_by, v1_body })
    }
}

fn base(url: &Url) -> Result<String, &'static str> {
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err("is no http or https URL");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("has user information, which is never sent");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("has a query or a fragment");
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

impl HyperIdentityServer {
    /// Checks the settings; asks nobody yet.
    ///
    /// # Errors
    /// [`IdentityServerSettingsError`].
    pub fn new(settings: IdentityServerSettings) -> Result<Self, IdentityServerSettingsError> {
        let mut servers = HashMap::new();
        for (server, settings) in settings.servers {
            let site = Site::new(&server, settings)
                .map_err(|why| IdentityServerSettingsError::BaseUrl { server: server.clone(), why })?;
            servers.insert(server, site);
        }
        let within = |time| Bounds { time, body_bytes: settings.max_answer_bytes };
        Ok(Self {
            servers,
            outbound: Outbound::new(&settings.outbound)?,
            exchange: within(settings.timeout),
            unbind: within(settings.unbind_timeout),
            signing_key: settings.signing_key,
        })
    }

    fn site(&self, server: &IdentityServerName) -> Site {
        self.servers.get(server).cloned().unwrap_or_else(|| Site {
            base: Site::by_name(server),
            named_by: NamedBy::Client,
            v1_body: v1::Body::Json,
        })
    }

    /// Sends a request to `server`, and reads what it answers.
    async fn send(
        &self,
        server: &IdentityServerName,
        named_by: NamedBy,
        request: Result<Request<Bytes>, NotSendable>,
        bounds: Bounds,
    ) -> Result<Answer, IdentityServerError> {
        let mut request = request.map_err(|why| not_sendable(server, why))?;
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("threepid/", env!("CARGO_PKG_VERSION"))));
        match self.outbound.exchange(named_by, request, bounds).await {
            Ok(response) => Ok(Answer::read(response)),
            Err(error) => Err(unavailable(server, error)),
        }
    }

    /// Sends a request to `server`, and takes an object in a 2xx for an answer.
    async fn ask(
        &self,
        server: &IdentityServerName,
        named_by: NamedBy,
        request: Result<Request<Bytes>, NotSendable>,
    ) -> Result<Map<String, Value>, IdentityServerError> {
        match self.send(server, named_by, request, self.exchange).await? {
            Answer::Object(object) => Ok(object),
            Answer::Error(refusal) if (400..500).contains(&refusal.status) => {
                Err(IdentityServerError::Refused(refusal))
            }
            other => Err(unavailable(server, other.told())),
        }
    }
}

#[async_trait]
impl IdentityServer for HyperIdentityServer {
    async fn request_token(
        &self,
        server: IdentityServerName,
        request: RemoteTokenRequest,
        id_access_token: Option<IdAccessToken>,
    ) -> Result<OpenedRemotely, IdentityServerError> {
        let site = self.site(&server);
        let request = match &id_access_token {
            Some(token) => v2::request_token(&site.base, token, &request),
            None => v1::request_token(&site.base, site.v1_body, &request),
        };
        let object = self.ask(&server, site.named_by, request).await?;
        answer::opened(&object)
            .ok_or_else(|| unavailable(&server, "answered 2xx without the identifier of a session"))
    }

    async fn validated(
        &self,
        server: IdentityServerName,
        session: RemoteCredentials,
        id_access_token: Option<IdAccessToken>,
    ) -> Result<Option<RemoteValidation>, IdentityServerError> {
        // No server has opened a session under an identifier against the grammar.
        if !session.sid.is_well_formed() {
            return Ok(None);
        }
        let site = self.site(&server);
        let request = match &id_access_token {
            Some(token) => v2::validated(&site.base, token, &session),
            None => v1::validated(&site.base, &session),
        };
        let object = self.ask(&server, site.named_by, request).await?;
        Ok(answer::validated(&object))
    }

    async fn bind(
        &self,
        server: IdentityServerName,
        session: RemoteCredentials,
        user_id: UserId,
        id_access_token: Option<IdAccessToken>,
    ) -> Result<Address, IdentityServerError> {
        // The server would say the same, if the identifier could be sent.
        if !session.sid.is_well_formed() {
            return Err(refused(404, "M_NO_VALID_SESSION", "The sid names no session"));
        }
        let site = self.site(&server);
        let request = match &id_access_token {
            Some(token) => v2::bind(&site.base, token, &session, &user_id),
            None => v1::bind(&site.base, site.v1_body, &session, &user_id),
        };
        let object = self.ask(&server, site.named_by, request).await?;
        if answer::failed(&object) {
            return Err(unavailable(&server, Answer::Object(object).told()));
        }
        match answer::published(&object, user_id.as_str()) {
            Published::Address(address) => Ok(address),
            Published::Wrong(what) => Err(unavailable(&server, what)),
            // It was bound: what the session proves is what was published.
            Published::Untold => {
                let said = self.validated(server.clone(), session, id_access_token).await?;
                let address = said.and_then(|said| answer::address_of(&said.medium, &said.address));
                address.ok_or_else(|| unavailable(&server, "does not say what it published"))
            }
        }
    }

    async fn unbind(
        &self,
        server: IdentityServerName,
        user_id: UserId,
        address: Address,
    ) -> Result<Unbound, IdentityServerError> {
        let Some(key) = self.signing_key.as_ref().filter(|key| key.homeserver() == user_id.server_name())
        else {
            return Ok(Unbound::NoSupport);
        };
        let site = self.site(&server);
        let request = unbind::signed(&site.base, &server, key, &user_id, &address);
        match self.send(&server, site.named_by, request, self.unbind).await? {
            Answer::Object(object) if !answer::failed(&object) => Ok(Unbound::Done),
            Answer::Error(refusal) if matches!(refusal.status, 400..=499 | 501) => {
                Err(IdentityServerError::Refused(refusal))
            }
            Answer::Bare(status) if matches!(status.as_u16(), 400 | 404 | 501) => Ok(Unbound::NoSupport),
            other => Err(unavailable(&server, other.told())),
        }
    }
}

fn unavailable(server: &IdentityServerName, what: impl fmt::Display) -> IdentityServerError {
    Unavailable::new("identity server", format!("{server}: {what}")).into()
}

fn refused(status: u16, errcode: &str, error: &str) -> IdentityServerError {
    let body = Map::from_iter([("errcode".to_owned(), json!(errcode)), ("error".to_owned(), json!(error))]);
    IdentityServerError::Refused(RemoteRefusal { status, body })
}

/// The server would say the same of a token that no header can carry as of any unknown one.
fn not_sendable(server: &IdentityServerName, why: NotSendable) -> IdentityServerError {
    match why {
        NotSendable::Token => refused(401, "M_UNAUTHORIZED", "The id_access_token is not one"),
        NotSendable::Form(field) => unavailable(server, format!("cannot be asked: bad {field}")),
    }
}

#[cfg(test)]
mod tests;
