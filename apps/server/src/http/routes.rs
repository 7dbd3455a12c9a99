//! The one list of routes: the router and the OpenAPI document are both made from it.

use axum::Router;
use axum::handler::Handler;
use axum::routing::{self, MethodRouter};
use http::Method;

use super::openapi::Operation;
use super::{
    Api, add, add_reauthenticated, bind, capabilities, confirm, delete, health, layers, list, openapi,
    request_email_token, request_msisdn_token, submit_token, unbind,
};

/// The name of the part of a path that says which generation of the API is asked.
pub(crate) const VERSION: &str = "version";
/// The generations of the contacts' API. Clients still ask `unstable` where they learnt it there.
const CONTACTS: &[&str] = &["r0", "v3", "unstable"];
/// The generations of the capabilities.
const CAPABILITIES: &[&str] = &["r0", "v3"];

/// A method of a path, what answers it, and what the document says about it.
pub(crate) struct Route {
    pub(crate) method: Method,
    /// The path; `{version}` stands for each of `versions`.
    pub(crate) path: String,
    pub(crate) versions: &'static [&'static str],
    pub(crate) operation: &'static Operation,
    answers: MethodRouter<Api>,
}

impl Route {
    fn get<H: Handler<T, Api>, T: 'static>(path: &str, operation: &'static Operation, handler: H) -> Self {
        Self {
            method: Method::GET,
            path: path.to_owned(),
            versions: &[],
            operation,
            answers: routing::get(handler),
        }
    }

    fn post<H: Handler<T, Api>, T: 'static>(path: &str, operation: &'static Operation, handler: H) -> Self {
        Self {
            method: Method::POST,
            path: path.to_owned(),
            versions: &[],
            operation,
            answers: routing::post(handler),
        }
    }

    /// The same below `/_matrix/client/{version}`, in these generations.
    fn of(self, versions: &'static [&'static str]) -> Self {
        Self { path: format!("/_matrix/client/{{{VERSION}}}{}", self.path), versions, ..self }
    }

    /// The paths in full.
    fn paths(&self) -> Vec<String> {
        if self.versions.is_empty() {
            return vec![self.path.clone()];
        }
        let in_full = |version: &&str| self.path.replace(&format!("{{{VERSION}}}"), version);
        self.versions.iter().map(in_full).collect()
    }
}

/// The list.
pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::get("/account/3pid", &list::OPERATION, list::handle).of(CONTACTS),
        Route::post("/account/3pid", &add::OPERATION, add::handle).of(CONTACTS),
        Route::post(
            "/account/3pid/email/requestToken",
            &request_email_token::OPERATION,
            request_email_token::handle,
        )
        .of(CONTACTS),
        Route::post(
            "/account/3pid/msisdn/requestToken",
            &request_msisdn_token::OPERATION,
            request_msisdn_token::handle,
        )
        .of(CONTACTS),
        Route::post("/account/3pid/add", &add_reauthenticated::OPERATION, add_reauthenticated::handle)
            .of(CONTACTS),
        Route::post("/account/3pid/bind", &bind::OPERATION, bind::handle).of(CONTACTS),
        Route::post("/account/3pid/unbind", &unbind::OPERATION, unbind::handle).of(CONTACTS),
        Route::post("/account/3pid/delete", &delete::OPERATION, delete::handle).of(CONTACTS),
        Route::get("/capabilities", &capabilities::OPERATION, capabilities::handle).of(CAPABILITIES),
        Route::get("/_threepid/confirm", &confirm::SHOW, confirm::show),
        Route::post("/_threepid/confirm", &confirm::SUBMIT, confirm::submit),
        Route::post("/_threepid/submit_token", &submit_token::OPERATION, submit_token::handle),
        Route::get("/_threepid/openapi.json", &openapi::OPERATION, openapi::handle),
        Route::get("/health/live", &health::LIVE, health::live),
        Route::get("/health/ready", &health::READY, health::ready),
    ]
}

/// The routes, without a fallback.
pub(crate) fn router(api: &Api) -> Router {
    let mut router = Router::new();
    for route in routes() {
        for path in route.paths() {
            router = router.route(&path, route.answers.clone());
        }
    }
    router.method_not_allowed_fallback(layers::method_not_allowed).with_state(api.clone())
}
