//! What the requests of both versions have in common.

use bytes::Bytes;
use hyper::Request;
use hyper::header::CONTENT_TYPE;

/// Why a request is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotSendable {
    /// The access token is none that a header can carry.
    Token,
    /// This field's text is none that the specification allows.
    Form(&'static str),
}

pub(super) fn get(uri: String) -> Result<Request<Bytes>, NotSendable> {
    Request::get(uri).body(Bytes::new()).map_err(|_| NotSendable::Form("uri"))
}

pub(super) fn post(uri: String, content_type: &str, body: Bytes) -> Result<Request<Bytes>, NotSendable> {
    let request = Request::post(uri).header(CONTENT_TYPE, content_type).body(body);
    request.map_err(|_| NotSendable::Form("uri"))
}
