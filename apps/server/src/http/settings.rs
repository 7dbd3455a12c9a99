//! How requests are taken.

use std::time::Duration;

use ipnet::IpNet;

/// How requests are taken. Start from [`HttpSettings::default`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpSettings {
    /// The proxies whose word on a client's address is taken. Default: none.
    pub trusted_proxies: Vec<IpNet>,
    /// The header in which they give it. Default: `X-Forwarded-For`.
    pub forwarding_header: ForwardingHeader,
    /// The longest body, in bytes; more is 413. Default 65 536.
    pub max_body_bytes: usize,
    /// How long a request's body may take to arrive; longer is 408. Default 10 s.
    pub body_timeout: Duration,
    /// How long a request may take in all; longer is 503, while a command that has begun still ends. Default 30 s.
    pub request_timeout: Duration,
    /// How long a request's head may take to arrive, and how long a connection may idle. Default 15 s.
    pub header_timeout: Duration,
    /// The largest head of a request, in bytes, at least 8 192; more is 431. Default 16 384.
    pub max_header_bytes: usize,
    /// So many connections are held at a time; others wait to be accepted. Default 4 096.
    pub max_connections: usize,
    /// How long a client may take to accept an answer; then its connection is closed. Default 30 s.
    pub answer_timeout: Duration,
    /// How long requests in flight and the relay have to end once the server is told to stop. Default 30 s.
    pub shutdown_grace: Duration,
    /// The hash of the pages' inline style as the Content-Security-Policy writes it, without quotes:
    /// `sha256-…` in Base64. `None`: no style is let through.
    pub page_style_csp_hash: Option<String>,
}

/// The header in which a trusted proxy says who its client was. Only one is read: a proxy that writes the one passes
/// the other on as the client made it up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardingHeader {
    /// `X-Forwarded-For`.
    #[default]
    XForwardedFor,
    /// `Forwarded`, of [RFC 7239](https://www.rfc-editor.org/rfc/rfc7239).
    Forwarded,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            trusted_proxies: Vec::new(),
            forwarding_header: ForwardingHeader::default(),
            max_body_bytes: 64 * 1024,
            body_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            header_timeout: Duration::from_secs(15),
            max_header_bytes: 16 * 1024,
            max_connections: 4096,
            answer_timeout: Duration::from_secs(30),
            shutdown_grace: Duration::from_secs(30),
            page_style_csp_hash: None,
        }
    }
}
