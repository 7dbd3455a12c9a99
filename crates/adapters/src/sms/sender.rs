//! Asking the gateway: bounded in time and size, without following redirects, once.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use threepid_domain::ports::{DeliveryError, Sms, SmsSender};

use super::answer::{Meaning, Verdict};
use super::request::{SmsRequest, Writer};
use super::{HttpSmsSettings, InvalidHttpSms};
use crate::tls::{TlsError, client_config, no_one_trusted};

/// Of an answer's head, and of its body. More is no answer to one SMS.
const LARGEST_ANSWER: usize = 64 * 1024;

/// [`SmsSender`] that asks a gateway over HTTP.
pub struct HttpSmsSender {
    writer: Writer,
    meaning: Meaning,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    timeout: Duration,
}

impl HttpSmsSender {
    /// Reads the settings and tries every template; nothing is connected yet.
    ///
    /// # Errors
    /// [`InvalidHttpSms`], which names the setting.
    pub fn new(settings: &HttpSmsSettings) -> Result<Self, InvalidHttpSms> {
        if settings.timeout.is_zero() {
            return Err(InvalidHttpSms::new("timeout", "must be longer than zero"));
        }
        let writer = Writer::new(settings)?;
        let meaning = Meaning::new(settings)?;
        let extra_ca = settings.extra_ca.as_deref();
        let tls = if writer.is_clear_text() { no_one_trusted(extra_ca) } else { client_config(extra_ca) };
        let tls = tls.map_err(|error| match error {
            TlsError::ExtraCa(reason) => {
                let path = extra_ca.unwrap_or(Path::new(""));
                InvalidHttpSms::new("extra_ca", format!("{}: {reason}", path.display()))
            }
            TlsError::Setup(reason) => InvalidHttpSms::new("url", format!("TLS cannot be set up: {reason}")),
        })?;
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .retry_canceled_requests(false)
            .http1_max_buf_size(LARGEST_ANSWER)
            .build(connector);
        Ok(Self { writer, meaning, client, timeout: settings.timeout })
    }

    /// What the gateway would be asked for this SMS. It holds the gateway's secrets.
    ///
    /// # Errors
    /// [`DeliveryError::Transient`] when it cannot be written: the templates are the operator's to mend.
    pub fn request(&self, sms: &Sms) -> Result<SmsRequest, DeliveryError> {
        self.writer
            .write(sms)
            .map_err(|error| transient(format!("the request cannot be written: {}: {error}", error.setting)))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Verdict {
        let response = match self.client.request(request).await {
            Ok(response) => response,
            Err(error) => return Verdict::TryAgain(format!("the gateway gave no answer: {}", chain(&error))),
        };
        let status = response.status().as_u16();
        if !self.meaning.depends_on_the_body(status) {
            return self.meaning.judge(status, "");
        }
        match Limited::new(response.into_body(), LARGEST_ANSWER).collect().await {
            Ok(body) => self.meaning.judge(status, &String::from_utf8_lossy(&body.to_bytes())),
            Err(error) => Verdict::TryAgain(format!(
                "the gateway answered with status {status}, and its body cannot be read: {}",
                chain(&*error)
            )),
        }
    }
}

impl fmt::Debug for HttpSmsSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpSmsSender")
    }
}

#[async_trait]
impl SmsSender for HttpSmsSender {
    async fn send(&self, sms: Sms) -> Result<(), DeliveryError> {
        let request = http_request(self.request(&sms)?)?;
        match tokio::time::timeout(self.timeout, self.exchange(request)).await {
            Err(_) => Err(transient("the gateway gave no answer in time".to_owned())),
            Ok(Verdict::Sent) => Ok(()),
            Ok(Verdict::TryAgain(reason)) => Err(transient(reason)),
            Ok(Verdict::GiveUp(reason)) => Err(DeliveryError::Permanent(reason.into())),
        }
    }
}

fn http_request(request: SmsRequest) -> Result<Request<Full<Bytes>>, DeliveryError> {
    // What was parsed as a URL and as header values when it was written fails here no more.
    let unwritable = || transient("the request cannot be written".to_owned());
    let uri = Uri::try_from(request.url.as_str()).map_err(|_| unwritable())?;
    let mut builder = Request::builder().method(request.method.as_str()).uri(uri);
    for (name, value) in &request.headers {
        let mut value = hyper::header::HeaderValue::from_str(value).map_err(|_| unwritable())?;
        value.set_sensitive(true);
        builder = builder.header(name.as_str(), value);
    }
    builder.body(Full::new(Bytes::from(request.body))).map_err(|_| unwritable())
}

fn transient(reason: String) -> DeliveryError {
    DeliveryError::Transient(reason.into())
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
