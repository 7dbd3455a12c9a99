//! The doors: one file per endpoint, with its request, its handler and its tests.
//!
//! A handler extracts, parses, calls one command, presents. What goes wrong becomes an [`error::ApiError`], and that
//! file alone knows statuses and error codes.

mod add;
mod add_reauthenticated;
mod bind;
mod caller;
mod capabilities;
mod client_ip;
mod confirm;
mod delete;
mod error;
#[cfg(test)]
mod generated;
mod health;
mod json;
mod layers;
mod list;
mod openapi;
mod page;
mod request_email_token;
mod request_msisdn_token;
mod routes;
mod settings;
mod submit_token;
#[cfg(test)]
pub(crate) mod testing;
mod unbind;

use std::sync::Arc;

use axum::Router;
use threepid_domain::ports::{Store, Templates};
use threepid_domain::use_cases::{ConfirmLinks, Contacts, WhoAsks};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

pub(crate) use error::chain;
pub(crate) use openapi::DOCUMENT;
pub(crate) use routes::router;
pub use settings::{ForwardingHeader, HttpSettings};

use crate::metrics::Metrics;
use layers::RequestIds;

/// What handlers stand on.
#[derive(Clone)]
pub(crate) struct Api(Arc<Parts>);

/// The parts of an [`Api`].
pub(crate) struct Parts {
    contacts: Contacts,
    store: Arc<dyn Store>,
    who_asks: WhoAsks,
    templates: Arc<dyn Templates>,
    links: ConfirmLinks,
    pub(crate) settings: HttpSettings,
    pub(crate) metrics: Option<Metrics>,
    request_ids: RequestIds,
    /// Commands that have begun, whether or not their clients still wait.
    pub(crate) commands: TaskTracker,
}

impl std::ops::Deref for Api {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl Api {
    #[expect(
        clippy::too_many_arguments,
        reason = "one call, in the builder, and each argument has its own type"
    )]
    pub(crate) fn new(
        contacts: Contacts,
        store: Arc<dyn Store>,
        who_asks: WhoAsks,
        templates: Arc<dyn Templates>,
        links: ConfirmLinks,
        settings: HttpSettings,
        metrics: Option<Metrics>,
        request_ids: &str,
    ) -> Self {
        let (request_ids, commands) = (RequestIds::new(request_ids), TaskTracker::new());
        Self(Arc::new(Parts {
            contacts,
            store,
            who_asks,
            templates,
            links,
            settings,
            metrics,
            request_ids,
            commands,
        }))
    }

    /// Runs a command to its end, even if the client goes away and the handler is dropped.
    async fn finish<F>(&self, command: impl FnOnce(Contacts) -> F) -> F::Output
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let contacts = self.contacts.clone();
        let contacts = match layers::request_id() {
            Some(id) => contacts.for_request(id),
            None => contacts,
        };
        let command = command(contacts).in_current_span();
        match self.commands.spawn(command).await {
            Ok(answer) => answer,
            Err(error) => match error.try_into_panic() {
                // The panic goes on here, where the request's catcher sees it.
                Ok(panic) => std::panic::resume_unwind(panic),
                // Only a runtime that is being torn down cancels it, and this task with it.
                Err(_cancelled) => std::future::pending().await,
            },
        }
    }
}

/// The routes and everything around them; `extra` is mounted beside them.
pub(crate) fn standalone(api: &Api, extra: Option<Router>) -> Router {
    let router = router(api).merge(extra.unwrap_or_default()).fallback(layers::not_found);
    layers::around(router, api)
}
