//! An HTTP server whose answers a story makes up.

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;

/// An answer: its status, its type, and its body.
pub(crate) type Reply = (u16, &'static str, String);

/// An answer of JSON.
pub(crate) fn json(status: u16, body: &Value) -> Reply {
    (status, "application/json", body.to_string())
}

/// Serves for as long as the test runs, on a free port; gives the address, without a slash at its end. `answer` is told the
/// path with its query, and the body, `null` where it is no JSON.
pub(crate) async fn fake(
    answer: impl Fn(&str, &Value) -> Reply + Send + Sync + 'static,
) -> Result<String, Box<dyn Error + Send + Sync>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let base_url = format!("http://{}", listener.local_addr()?);
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = Arc::clone(&answer);
                async move {
                    let to = request.uri().path_and_query().map_or("", |to| to.as_str()).to_owned();
                    let body = request.into_body().collect().await.map(|body| body.to_bytes());
                    let body = serde_json::from_slice(&body.unwrap_or_default()).unwrap_or_default();
                    let (status, content_type, text) = answer(&to, &body);
                    let mut response = Response::new(Full::new(Bytes::from(text)));
                    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or_default();
                    let content_type = hyper::header::HeaderValue::from_static(content_type);
                    response.headers_mut().insert(hyper::header::CONTENT_TYPE, content_type);
                    Ok::<_, Infallible>(response)
                }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    Ok(base_url)
}
