//! Connects only where the [`Judgement`] permits.
//!
//! hyper's connector asks no resolver for an address literal, so the connector judges the host itself; the resolver
//! judges what a name stands for, and hands on nothing else.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower::Service;

use super::judgement::{Judgement, NotPermitted};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The result of a service, later.
type Later<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// What looks names up.
pub(super) trait Resolver:
    Service<
        Name,
        Response: Iterator<Item = SocketAddr> + Send,
        Error: Into<BoxError> + Send,
        Future: Send + 'static,
    > + Clone
    + Send
    + 'static
{
}

impl<R> Resolver for R where
    R: Service<
            Name,
            Response: Iterator<Item = SocketAddr> + Send,
            Error: Into<BoxError> + Send,
            Future: Send + 'static,
        > + Clone
        + Send
        + 'static
{
}

/// TCP that leaves TLS to others.
pub(super) fn tcp<R>(resolver: R, connect_timeout: Duration) -> HttpConnector<R> {
    let mut tcp = HttpConnector::new_with_resolver(resolver);
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(connect_timeout));
    tcp
}

/// Hands on the permitted ones of a name's addresses.
#[derive(Clone, Debug)]
pub(super) struct JudgedResolver<R> {
    inner: R,
    judgement: Judgement,
}

impl<R> JudgedResolver<R> {
    pub(super) fn new(inner: R, judgement: Judgement) -> Self {
        Self { inner, judgement }
    }
}

impl<R: Resolver> Service<Name> for JudgedResolver<R> {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = Later<Self::Response>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let judgement = self.judgement.clone();
        let host = name.as_str().to_owned();
        let looked_up = self.inner.call(name);
        Box::pin(async move {
            let addresses = looked_up.await.map_err(Into::into)?;
            let good: Vec<SocketAddr> = addresses.filter(|address| judgement.permits(address.ip())).collect();
            if good.is_empty() { Err(NotPermitted { host }.into()) } else { Ok(good.into_iter()) }
        })
    }
}

/// Connects to hosts, literal or named, that are permitted.
#[derive(Clone, Debug)]
pub(super) struct JudgedConnector<R> {
    tcp: HttpConnector<JudgedResolver<R>>,
    judgement: Judgement,
}

impl<R> JudgedConnector<R> {
    pub(super) fn new(tcp: HttpConnector<JudgedResolver<R>>, judgement: Judgement) -> Self {
        Self { tcp, judgement }
    }
}

impl<R: Resolver + Sync> Service<Uri> for JudgedConnector<R> {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Later<Self::Response>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let host = uri.host().unwrap_or_default();
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        if literal.is_ok_and(|address| !self.judgement.permits(address)) {
            let refusal = NotPermitted { host: host.to_owned() };
            return Box::pin(async { Err(refusal.into()) });
        }
        let connecting = self.tcp.call(uri);
        Box::pin(async { connecting.await.map_err(Into::into) })
    }
}
