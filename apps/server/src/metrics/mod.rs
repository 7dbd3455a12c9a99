//! What the server counts, as Prometheus scrapes it.
//!
//! The domain knows nothing of it: [`Builder::metrics`](crate::Builder::metrics) puts a decorator around each port, the
//! HTTP layers tell of requests, the relay of what it delivered. Every family stands in [`families`], with its help; the
//! page `docs/operating/monitoring.md` tells of each, and a test keeps the two equal. Labels have few values: routes as
//! they are written in the router, never a path, an address or an account.

mod calls;
mod families;
mod ports;
mod requests;
mod store;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use prometheus_client::encoding::prometheus_text::{self, encode};
use prometheus_client::registry::Registry;
use threepid_domain::model::{Payload, TrustedServers};
use threepid_domain::ports::{
    AccessTokens, AccountStates, Clock, HomeserverCapabilities, Housekeeping, IdentityServer, Mailer, Mirror,
    Outbox, RateLimiter, Reauthentication, SmsSender, Store, Unavailable,
};
use threepid_domain::use_cases::Delivered;
use tokio::time::Instant;

use families::{ConnectionLabels, Families, KindLabels, MessageLabels, TryLabels};
pub(crate) use requests::Requests;

/// What is owed is counted no more often than this, however often it is scraped.
const COUNTED_ANEW_AFTER: Duration = Duration::from_secs(2);

/// A scrape does not wait longer for storage to say what is owed.
const COUNTED_WITHIN: Duration = Duration::from_secs(2);

/// The server's metrics. Clones share them.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    families: Families,
    requests: Requests,
    backlog: OnceLock<Backlog>,
    pools: Mutex<Vec<Pools>>,
}

type Pools = Box<dyn Fn() -> Vec<PoolState> + Send + Sync>;

/// What is owed, and when it was last counted.
struct Backlog {
    outbox: Arc<dyn Outbox>,
    clock: Arc<dyn Clock>,
    counted: tokio::sync::Mutex<Option<Instant>>,
    /// Those that are known, and those that were ever met: a kind of which nothing is owed is 0, not what it was.
    kinds: Mutex<BTreeSet<String>>,
}

/// A pool of connections to a database, as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolState {
    /// What its connections are for, in a word.
    pub name: &'static str,
    /// How many are open.
    pub open: u32,
    /// How many of these wait for work.
    pub idle: u32,
    /// How many there may be.
    pub most: u32,
}

impl Metrics {
    /// Metrics that are all at zero, of this version of the program that serves.
    pub fn new(version: &str) -> Self {
        let mut registry = Registry::with_prefix("threepid");
        let families = Families::register(&mut registry);
        families.build_info(version);
        let requests = Requests::new(&families);
        let (backlog, pools) = (OnceLock::new(), Mutex::default());
        Self(Arc::new(Inner { registry, families, requests, backlog, pools }))
    }

    /// Has each scrape tell of these pools of connections.
    pub fn watch_pools(&self, pools: impl Fn() -> Vec<PoolState> + Send + Sync + 'static) {
        lock(&self.0.pools).push(Box::new(pools));
    }

    /// Everything, in Prometheus' text format.
    pub async fn render(&self) -> String {
        self.count_backlog().await;
        for pools in lock(&self.0.pools).iter() {
            pools().iter().for_each(|pool| self.set_pool(pool));
        }
        let mut text = String::new();
        // Writing to a string fails for nobody.
        let _ = encode(&mut text, &self.0.registry);
        text
    }

    /// `GET /metrics`, for a listener that only Prometheus reaches; [`Metrics::serve`] is one.
    pub fn router(&self) -> Router {
        Router::new().route("/metrics", get(scrape)).with_state(self.clone())
    }

    pub(crate) fn requests(&self) -> &Requests {
        &self.0.requests
    }

    pub(crate) fn panicked(&self) {
        self.0.families.panics.inc();
    }

    /// How a try of the relay's ended, and how long it took.
    pub(crate) fn tried(&self, kind: &'static str, ended: &Result<Delivered, Unavailable>, took: Duration) {
        let outcome = families::outcome_of_try(ended);
        self.0.families.tries.get_or_create(&TryLabels { kind, outcome }).inc();
        self.0.families.try_seconds.get_or_create(&KindLabels { kind }).observe(took.as_secs_f64());
    }

    pub(crate) fn watch_outbox(&self, outbox: &Arc<dyn Outbox>, clock: &Arc<dyn Clock>) {
        let (outbox, clock) = (Arc::clone(outbox), Arc::clone(clock));
        let kinds = Mutex::new(Payload::KINDS.map(str::to_owned).into());
        let backlog = Backlog { outbox, clock, counted: tokio::sync::Mutex::default(), kinds };
        // Metrics that two servers share tell of the first one's outbox.
        let _ = self.0.backlog.set(backlog);
    }

    pub(crate) fn store(&self, inner: Arc<dyn Store>) -> Arc<dyn Store> {
        Arc::new(store::Counted::new(inner, &self.0.families))
    }

    pub(crate) fn outbox(&self, inner: Arc<dyn Outbox>) -> Arc<dyn Outbox> {
        Arc::new(ports::CountedOutbox::new(inner, &self.0.families))
    }

    pub(crate) fn mailer(&self, inner: Arc<dyn Mailer>) -> Arc<dyn Mailer> {
        Arc::new(ports::CountedMailer::new(inner, &self.0.families))
    }

    pub(crate) fn sms_sender(&self, inner: Arc<dyn SmsSender>) -> Arc<dyn SmsSender> {
        Arc::new(ports::CountedSmsSender::new(inner, &self.0.families))
    }

    /// `local`: it is the database that is asked, and no homeserver.
    pub(crate) fn access_tokens(&self, inner: Arc<dyn AccessTokens>, local: bool) -> Arc<dyn AccessTokens> {
        let families = &self.0.families;
        Arc::new(if local {
            ports::CountedAccessTokens::called("local_access_tokens", inner, families)
        } else {
            ports::CountedAccessTokens::new(inner, families)
        })
    }

    pub(crate) fn rate_limiter(&self, inner: Arc<dyn RateLimiter>) -> Arc<dyn RateLimiter> {
        Arc::new(ports::CountedRateLimiter::new(inner, &self.0.families))
    }

    pub(crate) fn identity_servers(
        &self,
        inner: Arc<dyn IdentityServer>,
        trusted: &TrustedServers,
    ) -> Arc<dyn IdentityServer> {
        Arc::new(ports::CountedIdentityServers::new(inner, trusted, &self.0.families))
    }

    /// `local` as for [`Metrics::access_tokens`].
    pub(crate) fn reauthentication(
        &self,
        inner: Arc<dyn Reauthentication>,
        local: bool,
    ) -> Arc<dyn Reauthentication> {
        let families = &self.0.families;
        Arc::new(if local {
            ports::CountedReauthentication::called("local_reauthentication", inner, families)
        } else {
            ports::CountedReauthentication::new(inner, families)
        })
    }

    pub(crate) fn capabilities(
        &self,
        inner: Arc<dyn HomeserverCapabilities>,
    ) -> Arc<dyn HomeserverCapabilities> {
        Arc::new(ports::CountedCapabilities::new(inner, &self.0.families))
    }

    pub(crate) fn mirror(&self, inner: Arc<dyn Mirror>) -> Arc<dyn Mirror> {
        Arc::new(ports::CountedMirror::new(inner, &self.0.families))
    }

    pub(crate) fn housekeeping(&self, inner: Arc<dyn Housekeeping>) -> Arc<dyn Housekeeping> {
        Arc::new(ports::CountedHousekeeping::new(inner, &self.0.families))
    }

    pub(crate) fn account_states(&self, inner: Arc<dyn AccountStates>) -> Arc<dyn AccountStates> {
        Arc::new(ports::CountedAccountStates::new(inner, &self.0.families))
    }

    fn set_pool(&self, pool: &PoolState) {
        for (state, count) in [("open", pool.open), ("idle", pool.idle), ("most", pool.most)] {
            let labels = ConnectionLabels { pool: pool.name, state };
            self.0.families.connections.get_or_create(&labels).set(i64::from(count));
        }
    }

    /// Asks storage what is owed. Where it cannot say, what it said last stays, and the failed call is counted.
    async fn count_backlog(&self) {
        let Some(backlog) = self.0.backlog.get() else { return };
        let mut counted = backlog.counted.lock().await;
        if counted.is_some_and(|at| at.elapsed() < COUNTED_ANEW_AFTER) {
            return;
        }
        let Ok(Ok(by_kind)) = tokio::time::timeout(COUNTED_WITHIN, backlog.outbox.backlog()).await else {
            return;
        };
        *counted = Some(Instant::now());
        let (families, now) = (&self.0.families, backlog.clock.now());
        let mut kinds = lock(&backlog.kinds);
        kinds.extend(by_kind.iter().map(|of| of.kind.clone()));
        for kind in kinds.iter() {
            let of = by_kind.iter().find(|of| of.kind == *kind);
            let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
            let (owed, dead) = of.map_or((0, 0), |of| (count(of.owed), count(of.dead)));
            for (state, count) in [("owed", owed), ("dead", dead)] {
                families.messages.get_or_create(&MessageLabels { kind: kind.clone(), state }).set(count);
            }
            let oldest = of.and_then(|of| of.oldest).map_or(0.0, |oldest| now.since(oldest).as_secs_f64());
            families.oldest.get_or_create(&MessageLabels { kind: kind.clone(), state: "owed" }).set(oldest);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn scrape(State(metrics): State<Metrics>) -> Response {
    (StatusCode::OK, [(CONTENT_TYPE, prometheus_text::CONTENT_TYPE)], metrics.render().await).into_response()
}
