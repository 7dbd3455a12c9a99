//! Pages that a browser shows, and what they forbid it.
//!
//! A page holds a token, so it is kept by nobody, told to nobody by a `Referer`, framed by nobody, and runs nothing.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use http::{HeaderValue, StatusCode};
use threepid_domain::ports::Page;

use super::Api;
use super::error::ApiError;

/// A page with its status.
pub(crate) fn page(api: &Api, status: StatusCode, page: Page) -> Response {
    let has_form = matches!(page, Page::Confirm { .. } | Page::EnterCode { .. });
    let html = match api.templates.page(page) {
        Ok(html) => html,
        Err(error) => return ApiError::from(error).into_response(),
    };
    let mut response = guarded(api, has_form, Body::from(html));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    response
}

/// Sends the browser on, by GET, and does not tell where it came from.
pub(crate) fn redirect(api: &Api, to: &str) -> Response {
    let mut response = guarded(api, false, Body::empty());
    *response.status_mut() = StatusCode::SEE_OTHER;
    // A parsed URL is ASCII, so it always fits.
    if let Ok(location) = HeaderValue::from_str(to) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

fn guarded(api: &Api, has_form: bool, body: Body) -> Response {
    let style = match &api.settings.page_style_csp_hash {
        Some(hash) => format!("'{hash}'"),
        None => "'none'".to_owned(),
    };
    // The confirmation may lead to a `next_link` anywhere, and Chromium holds `form-action` against where a form's
    // answer redirects to as well. Nothing can be slipped into the page for this to matter: it has no script, and every
    // value in it is escaped.
    let form = if has_form { "'self' https: http:" } else { "'none'" };
    let policy = format!(
        "default-src 'none'; style-src {style}; form-action {form}; base-uri 'none'; frame-ancestors 'none'"
    );
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    // A hash that is no header value is a broken setting; then the browser is let do nothing at all.
    let strictest = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_str(&policy).unwrap_or(strictest));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    response
}
