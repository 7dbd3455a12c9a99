//! The reference of reading: hyper alone, answering the same bytes to whatever it is asked.

use std::convert::Infallible;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{end_of_orders, tell, text};
use crate::Outcome;

pub(super) async fn run(settings: &Value) -> Outcome<()> {
    let body = Bytes::from(text(settings, "body")?.to_owned());
    let mut headers = Vec::new();
    for (name, value) in settings["headers"].as_object().into_iter().flatten() {
        let value = HeaderValue::from_str(value.as_str().unwrap_or_default())?;
        headers.push((HeaderName::from_bytes(name.as_bytes())?, value));
    }
    let listener = match settings["port"].as_u64() {
        Some(port) => TcpListener::bind(("127.0.0.1", u16::try_from(port)?)).await?,
        None => TcpListener::bind("127.0.0.1:0").await?,
    };
    tell(&json!({ "port": listener.local_addr()?.port() }));
    if settings["stays"] == true {
        return serve(listener, headers, body).await;
    }
    tokio::select! {
        ended = serve(listener, headers, body) => ended,
        () = end_of_orders() => Ok(()),
    }
}

async fn serve(listener: TcpListener, headers: Vec<(HeaderName, HeaderValue)>, body: Bytes) -> Outcome<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (headers, body) = (headers.clone(), body.clone());
        let service = service_fn(move |_request: Request<Incoming>| {
            let mut response = Response::new(Full::new(body.clone()));
            for (name, value) in &headers {
                response.headers_mut().insert(name.clone(), value.clone());
            }
            async { Ok::<_, Infallible>(response) }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}
