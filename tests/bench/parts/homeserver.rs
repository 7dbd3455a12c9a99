//! A homeserver that knows whose tokens are: `tok-0000042` is `@u0000042:bench.example`'s.

use std::convert::Infallible;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;

use super::{end_of_orders, tell};
use crate::Outcome;

pub(super) async fn run() -> Outcome<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    tell(&json!({ "port": listener.local_addr()?.port() }));
    tokio::select! {
        ended = serve(listener) => ended,
        () = end_of_orders() => Ok(()),
    }
}

async fn serve(listener: TcpListener) -> Outcome<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let service =
            service_fn(|request: Request<Incoming>| async move { Ok::<_, Infallible>(answer(&request)) });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

fn answer(request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let shown = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    let number = shown.and_then(|shown| shown.strip_prefix("Bearer tok-"));
    let (status, body) = match number {
        Some(number) => (200, json!({ "user_id": format!("@u{number}:bench.example"), "is_guest": false })),
        None => (401, json!({ "errcode": "M_UNKNOWN_TOKEN", "error": "unknown" })),
    };
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or_default();
    response
}
