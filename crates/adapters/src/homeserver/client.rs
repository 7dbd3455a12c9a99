//! Asking over HTTP: bounded in time and size, to one address, without following redirects.

use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT,
};
use hyper::{Method, Request, Response, Uri, body::Incoming};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use threepid_domain::ports::{Credentials, Unavailable};
use url::Url;

use super::answer::Answer;
use super::{HomeserverSettings, PORT};
use crate::tls::{TlsError, client_config, no_one_trusted};

/// More is no answer to any of our questions.
const LARGEST_BODY: usize = 64 * 1024;

/// Shorter than what common servers wait before they close an idle connection.
const LONGEST_IDLE: Duration = Duration::from_secs(4);

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Settings that reach no homeserver. The text names the setting.
#[derive(Debug, thiserror::Error)]
pub enum InvalidHomeserver {
    /// The address is none.
    #[error("base_url must be an http or https URL without user, query and fragment")]
    BaseUrl,
    /// Nothing could be asked in no time.
    #[error("timeout must be above 0")]
    Timeout,
    /// The certificates cannot be read.
    #[error("extra_ca {}: {reason}", .path.display())]
    ExtraCa {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        reason: String,
    },
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

/// Why nothing was asked, or not answered.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// What cannot stand in a header is nobody's token.
    NobodysToken,
    Unavailable(Unavailable),
}

impl From<Unavailable> for NoAnswer {
    fn from(error: Unavailable) -> Self {
        Self::Unavailable(error)
    }
}

/// Whether a request may be sent again where nobody knows whether it arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Asking changes nothing.
    Safe,
    /// The homeserver counts wrong answers, and some answers are good once.
    Unsafe,
}

/// One question.
pub(super) struct Question {
    pub(super) method: Method,
    /// Below the base URL.
    pub(super) path: Cow<'static, str>,
    /// JSON; empty for none.
    pub(super) body: Bytes,
    pub(super) repeat: Repeat,
}

impl Question {
    /// A question that is all in its path.
    pub(super) fn get(path: &'static str) -> Self {
        Self { method: Method::GET, path: Cow::Borrowed(path), body: Bytes::new(), repeat: Repeat::Safe }
    }
}

/// Asks the homeserver, each time as the client whose credentials are given.
#[derive(Clone)]
pub(super) struct Client {
    pool: Pool<HttpsConnector<HttpConnector>, Full<Bytes>>,
    base_url: Url,
    timeout: Duration,
}

impl Client {
    pub(super) fn new(settings: &HomeserverSettings) -> Result<Self, InvalidHomeserver> {
        if settings.timeout.is_zero() {
            return Err(InvalidHomeserver::Timeout);
        }
        let base_url = checked(&settings.base_url)?;
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls(settings)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        let pool = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(LONGEST_IDLE)
            .build(connector);
        Ok(Self { pool, base_url, timeout: settings.timeout })
    }

    pub(super) async fn ask(&self, question: Question, asker: &Credentials) -> Result<Answer, NoAnswer> {
        let repeat = question.repeat;
        let request = self.request(question, asker)?;
        match tokio::time::timeout(self.timeout, self.exchange(request, repeat)).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(unavailable("no answer in time").into()),
        }
    }

    fn request(&self, question: Question, asker: &Credentials) -> Result<Request<Full<Bytes>>, NoAnswer> {
        let bearer = HeaderValue::try_from(format!("Bearer {}", asker.access_token.expose()));
        let mut bearer = bearer.map_err(|_| NoAnswer::NobodysToken)?;
        bearer.set_sensitive(true);
        let mut url = self.base_url.clone();
        url.set_path(&format!("{}{}", url.path().trim_end_matches('/'), question.path));
        if let Some(user_id) = &asker.user_id {
            url.query_pairs_mut().append_pair("user_id", user_id.as_str());
        }
        let uri = Uri::try_from(url.as_str()).map_err(|_| unavailable("its address cannot be asked"))?;
        let has_body = !question.body.is_empty();
        let mut request = Request::new(Full::new(question.body));
        *request.method_mut() = question.method;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.insert(AUTHORIZATION, bearer);
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("threepid/", env!("CARGO_PKG_VERSION"))));
        if has_body {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(client) = asker.client_ip {
            let client = HeaderValue::try_from(client.to_canonical().to_string());
            headers.insert(FORWARDED_FOR, client.map_err(|_| unavailable("the client's address"))?);
        }
        Ok(request)
    }

    async fn exchange(&self, request: Request<Full<Bytes>>, repeat: Repeat) -> Result<Answer, Unavailable> {
        let response = self.send(request, repeat).await?;
        let status = response.status();
        let retry_after = text(response.headers(), RETRY_AFTER).and_then(|seconds| seconds.parse().ok());
        let content_type = text(response.headers(), CONTENT_TYPE);
        let body = Limited::new(response.into_body(), LARGEST_BODY).collect().await;
        let body = body.map_err(|error| unavailable(&chain(&*error)))?.to_bytes();
        Ok(Answer { status, retry_after, content_type, body })
    }

    /// Sends it, and perhaps once more where a connection that had been kept turned out to be closed.
    async fn send(
        &self,
        request: Request<Full<Bytes>>,
        repeat: Repeat,
    ) -> Result<Response<Incoming>, Unavailable> {
        match self.pool.request(request.clone()).await {
            Err(error) if repeat == Repeat::Safe && !error.is_connect() => self.pool.request(request).await,
            sent => sent,
        }
        .map_err(|error| unavailable(&chain(&error)))
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

fn checked(base_url: &Url) -> Result<Url, InvalidHomeserver> {
    let is_plain = matches!(base_url.scheme(), "http" | "https")
        && base_url.has_host()
        && base_url.username().is_empty()
        && base_url.password().is_none()
        && base_url.query().is_none()
        && base_url.fragment().is_none();
    if !is_plain {
        return Err(InvalidHomeserver::BaseUrl);
    }
    Ok(base_url.clone())
}

fn tls(settings: &HomeserverSettings) -> Result<ClientConfig, InvalidHomeserver> {
    let extra_ca = settings.extra_ca.as_deref();
    let config = match settings.base_url.scheme() {
        "http" => no_one_trusted(extra_ca),
        _ => client_config(extra_ca),
    };
    config.map_err(|error| match error {
        TlsError::ExtraCa(reason) => {
            InvalidHomeserver::ExtraCa { path: extra_ca.map(Path::to_owned).unwrap_or_default(), reason }
        }
        TlsError::Setup(reason) => InvalidHomeserver::Tls(reason),
    })
}

fn unavailable(why: &str) -> Unavailable {
    Unavailable::new(PORT, why)
}

/// An error and its causes, in one line; hyper keeps the cause that matters at the end. No request is in them.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
