//! Requests by route. A route's handles are found by its template without anything being allocated, once it was asked
//! for before.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use http::Method;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::families::{Families, RequestLabels, RouteLabels, StateLabels};

/// Methods by name; a client may make up others.
const METHODS: [&str; 7] = ["GET", "POST", "OPTIONS", "HEAD", "PUT", "DELETE", "other"];

/// Counts requests.
pub(crate) struct Requests {
    families: Families,
    /// One map a method of [`METHODS`].
    routes: [RwLock<HashMap<String, Arc<Route>>>; METHODS.len()],
}

struct Route {
    seconds: Histogram,
    /// There are few statuses a route.
    answers: RwLock<Vec<(u16, Counter)>>,
}

/// Counts a request as being answered, or a connection as open, until it is dropped, however it ended.
pub(crate) struct Held(Gauge);

impl Held {
    fn one_of(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Requests {
    pub(super) fn new(families: &Families) -> Self {
        Self { families: families.clone(), routes: Default::default() }
    }

    /// A request has come.
    pub(crate) fn begun(&self) -> Held {
        Held::one_of(self.families.in_flight.clone())
    }

    /// There may be so many connections.
    pub(crate) fn connections_at_most(&self, most: usize) {
        drop(self.families.clients.get_or_create(&StateLabels { state: "open" }));
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        self.families.clients.get_or_create(&StateLabels { state: "most" }).set(most);
    }

    /// A client has connected.
    pub(crate) fn connected(&self) -> Held {
        Held::one_of(self.families.clients.get_or_create_owned(&StateLabels { state: "open" }))
    }

    /// A request of this route was answered.
    pub(crate) fn answered(&self, method: &Method, route: &str, status: u16, took: Duration) {
        let found = METHODS.iter().position(|name| *name == method.as_str());
        let index = found.unwrap_or(METHODS.len() - 1);
        let known = self.routes[index].read().unwrap_or_else(PoisonError::into_inner).get(route).cloned();
        let handles = known.unwrap_or_else(|| self.make(index, route));
        handles.seconds.observe(took.as_secs_f64());
        let answers = handles.answers.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, counter)) = answers.iter().find(|(known, _)| *known == status) {
            counter.inc();
            return;
        }
        drop(answers);
        let counter = self.counter(METHODS[index], route, status);
        counter.inc();
        let mut answers = handles.answers.write().unwrap_or_else(PoisonError::into_inner);
        if answers.iter().all(|(known, _)| *known != status) {
            answers.push((status, counter));
        }
    }

    fn make(&self, index: usize, route: &str) -> Arc<Route> {
        let labels = RouteLabels { method: METHODS[index], route: route.to_owned() };
        let seconds = self.families.request_seconds.get_or_create_owned(&labels);
        // At zero from now on, so that the first failure of a route is a rise.
        let answers = [500, 503].map(|status| (status, self.counter(METHODS[index], route, status)));
        let made = Arc::new(Route { seconds, answers: RwLock::new(answers.to_vec()) });
        let mut routes = self.routes[index].write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(routes.entry(route.to_owned()).or_insert(made))
    }

    fn counter(&self, method: &'static str, route: &str, status: u16) -> Counter {
        let labels = RequestLabels { method, route: route.to_owned(), status: status.into() };
        self.families.requests.get_or_create_owned(&labels)
    }
}
