//! Requests to hosts that clients choose: one connector, through which all of them go.
//!
//! The host of such a request is judged before anything is connected to: as a literal, and by each address that its
//! name resolves to. The judged address is the one connected to, so a name cannot change its mind in between. Only
//! `https` is spoken there. A host that the operator's settings name is not judged, and may be spoken to in plain
//! `http`. Nothing follows a redirect, and every exchange is bounded in time and size.

mod connector;
mod judgement;
mod tls;

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{Request, Response};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::GaiResolver;
use hyper_util::rt::{TokioExecutor, TokioTimer};
pub use ipnet::IpNet;

use connector::{JudgedConnector, JudgedResolver, tcp};
pub use judgement::{Judgement, NotPermitted};

/// How long a connection that nobody uses is kept.
const IDLE: Duration = Duration::from_secs(15);

/// A status line and headers may be this long, in bytes.
const HEAD_BYTES: usize = 64 * 1024;

/// How hosts are reached.
#[derive(Clone, Debug)]
pub struct OutboundSettings {
    /// Networks that are denied besides the ones that [`Judgement`] always denies.
    pub deny: Vec<IpNet>,
    /// Networks that are permitted although they are denied.
    pub allow: Vec<IpNet>,
    /// A PEM file of certificate authorities that are trusted besides the system's.
    pub extra_ca_file: Option<PathBuf>,
    /// A TCP connection is there within this time; 5 s.
    pub connect_timeout: Duration,
}

impl Default for OutboundSettings {
    fn default() -> Self {
        Self {
            deny: Vec::new(),
            allow: Vec::new(),
            extra_ca_file: None,
            connect_timeout: Duration::from_secs(5),
        }
    }
}

/// Why no request can be sent to anyone.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// The file of certificate authorities cannot be read, or holds none.
    #[error("cannot use the certificate authorities in {path}: {why}")]
    ExtraCa {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// No certificate can be verified: the system has no certificate authorities.
    #[error("cannot verify certificates: {0}")]
    Tls(String),
}

/// Who named the host that a request goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamedBy {
    /// The operator: not judged, `http` or `https`.
    Settings,
    /// A client: judged, `https` only.
    Client,
}

/// The bounds of one exchange.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// From the look-up of the name to the last byte of the answer.
    pub time: Duration,
    /// The answer's body, in bytes.
    pub body_bytes: usize,
}

/// Why there is no answer. The texts hold nothing of the request but its host.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The host is an address that is not connected to, or resolves to none other.
    #[error(transparent)]
    NotPermitted(#[from] NotPermitted),
    /// The answer was not whole in time.
    #[error("no whole answer within {} s", .0.as_secs_f32())]
    TimedOut(Duration),
    /// The answer's body is too long.
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
    /// No connection, or one that broke.
    #[error("{0}")]
    Broken(String),
}

/// Sends requests.
#[derive(Clone, Debug)]
pub struct Outbound {
    to_clients_choice: Client<HttpsConnector<JudgedConnector<GaiResolver>>, Full<Bytes>>,
    to_settings_choice: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Outbound {
    /// Reads the certificate authorities; connects to nobody yet.
    ///
    /// # Errors
    /// [`OutboundError`].
    pub fn new(settings: &OutboundSettings) -> Result<Self, OutboundError> {
        let tls = tls::client_config(settings.extra_ca_file.as_deref())?;
        let judgement = Judgement::new(settings.deny.clone(), settings.allow.clone());
        let resolver = JudgedResolver::new(GaiResolver::new(), judgement.clone());
        let judged = JudgedConnector::new(tcp(resolver, settings.connect_timeout), judgement);
        let unjudged = tcp(GaiResolver::new(), settings.connect_timeout);
        let https = || HttpsConnectorBuilder::new().with_tls_config(tls.clone());
        let mut client = Client::builder(TokioExecutor::new());
        client
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(8)
            .http1_max_buf_size(HEAD_BYTES);
        Ok(Self {
            to_clients_choice: client.build(https().https_only().enable_http1().wrap_connector(judged)),
            to_settings_choice: client.build(https().https_or_http().enable_http1().wrap_connector(unjudged)),
        })
    }

    /// Sends a request and reads the answer, whatever its status. A redirect is an answer like any other.
    ///
    /// # Errors
    /// [`ExchangeError`]. Whether the request was acted upon is not known then, unless it was not permitted.
    pub async fn exchange(
        &self,
        named_by: NamedBy,
        request: Request<Bytes>,
        bounds: Bounds,
    ) -> Result<Response<Bytes>, ExchangeError> {
        let request = request.map(Full::new);
        let exchange = async {
            let response = match named_by {
                NamedBy::Client => self.to_clients_choice.request(request).await,
                NamedBy::Settings => self.to_settings_choice.request(request).await,
            };
            let (head, body) = response.map_err(|error| because(&error))?.into_parts();
            let read = Limited::new(body, bounds.body_bytes).collect().await;
            let body = read.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
                Some(_) => ExchangeError::TooLong(bounds.body_bytes),
                None => because(&*error),
            })?;
            Ok(Response::from_parts(head, body.to_bytes()))
        };
        tokio::time::timeout(bounds.time, exchange).await.unwrap_or(Err(ExchangeError::TimedOut(bounds.time)))
    }
}

/// What a chain of errors comes down to, in one line.
fn because(error: &(dyn std::error::Error + 'static)) -> ExchangeError {
    let chain = || std::iter::successors(Some(error), |error| error.source());
    // An `io::Error` hides what it wraps from `source`.
    let wrapped = |error: &&(dyn std::error::Error + 'static)| {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        inner.and_then(|inner| inner.downcast_ref::<NotPermitted>()).cloned()
    };
    let plain = |error: &(dyn std::error::Error + 'static)| error.downcast_ref::<NotPermitted>().cloned();
    if let Some(refusal) = chain().find_map(|error| plain(error).or_else(|| wrapped(&error))) {
        return ExchangeError::NotPermitted(refusal);
    }
    let mut lines: Vec<String> = chain().map(ToString::to_string).collect();
    lines.dedup_by(|later, earlier| earlier.contains(later.as_str()));
    ExchangeError::Broken(lines.join(": "))
}

#[cfg(test)]
mod tests;
