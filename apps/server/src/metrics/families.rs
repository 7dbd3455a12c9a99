//! Every family of metrics: its name, its labels and its help.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};
use std::sync::atomic::AtomicU64;
use threepid_domain::model::{AuditAction, AuditDoor, Payload};
use threepid_domain::ports::{Perishable, Unavailable};
use threepid_domain::use_cases::Delivered;

/// Upper bounds of answers' and calls' times, in seconds; the time limit of a request is 30 s.
const SECONDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// How a call of a port ended.
pub(super) const OUTCOMES: [&str; 4] = ["ok", "refused", "conflict", "unavailable"];

/// What becomes of a session.
pub(super) const EVENTS: [&str; 6] =
    ["opened", "opened_remotely", "validated", "consumed", "burnt", "expired"];

/// How a try of the relay's ends.
const TRIES: [&str; 7] = ["sent", "retried", "dead", "expired", "withheld", "lease_lost", "unsettled"];

/// What each door of a running server does to contacts.
const CHANGES: [(AuditAction, AuditDoor); 8] = [
    (AuditAction::Added, AuditDoor::Add),
    (AuditAction::Added, AuditDoor::AddReauthenticated),
    (AuditAction::Bound, AuditDoor::Add),
    (AuditAction::Bound, AuditDoor::Bind),
    (AuditAction::Unbound, AuditDoor::Unbind),
    (AuditAction::Removed, AuditDoor::Delete),
    (AuditAction::Unbound, AuditDoor::Delete),
    (AuditAction::Unbound, AuditDoor::Relay),
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct BuildLabels {
    pub(super) version: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RequestLabels {
    pub(super) method: &'static str,
    pub(super) route: String,
    pub(super) status: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RouteLabels {
    pub(super) method: &'static str,
    pub(super) route: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct StateLabels {
    pub(super) state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct KindLabels {
    pub(super) kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct TryLabels {
    pub(super) kind: &'static str,
    pub(super) outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct MessageLabels {
    pub(super) kind: String,
    pub(super) state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct EventLabels {
    pub(super) event: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ChangeLabels {
    pub(super) action: &'static str,
    pub(super) door: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct WhatLabels {
    pub(super) what: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct CallLabels {
    pub(super) port: &'static str,
    pub(super) call: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OutcomeLabels {
    pub(super) port: &'static str,
    pub(super) call: &'static str,
    pub(super) outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ServerLabels {
    pub(super) server: String,
    pub(super) outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct LimitLabels {
    pub(super) limit: &'static str,
    pub(super) verdict: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ConnectionLabels {
    pub(super) pool: &'static str,
    pub(super) state: &'static str,
}

/// Counters by labels.
pub(super) type Counters<L> = Family<L, Counter>;
/// Times by labels.
pub(super) type Times<L> = Family<L, Histogram, fn() -> Histogram>;
/// A number of seconds.
pub(super) type Seconds = Gauge<f64, AtomicU64>;

/// All of them. Clones share their values.
#[derive(Clone)]
pub(super) struct Families {
    pub(super) build: Family<BuildLabels, Gauge>,
    pub(super) requests: Counters<RequestLabels>,
    pub(super) request_seconds: Times<RouteLabels>,
    pub(super) in_flight: Gauge,
    pub(super) clients: Family<StateLabels, Gauge>,
    pub(super) panics: Counter,
    pub(super) queued: Counters<KindLabels>,
    pub(super) tries: Counters<TryLabels>,
    pub(super) try_seconds: Times<KindLabels>,
    pub(super) messages: Family<MessageLabels, Gauge>,
    pub(super) oldest: Family<MessageLabels, Seconds>,
    pub(super) sessions: Counters<EventLabels>,
    pub(super) changes: Counters<ChangeLabels>,
    pub(super) purged: Counters<WhatLabels>,
    pub(super) calls: Counters<OutcomeLabels>,
    pub(super) call_seconds: Times<CallLabels>,
    pub(super) servers: Counters<ServerLabels>,
    pub(super) limits: Counters<LimitLabels>,
    pub(super) connections: Family<ConnectionLabels, Gauge>,
}

fn histogram() -> Histogram {
    Histogram::new(SECONDS)
}

fn times<L: Clone + Eq + std::hash::Hash>() -> Times<L> {
    Family::new_with_constructor(histogram as fn() -> Histogram)
}

/// Registers a metric and gives it back.
fn registered<M: Metric + Clone>(
    registry: &mut Registry,
    name: &'static str,
    help: &'static str,
    metric: M,
) -> M {
    registry.register(name, help, metric.clone());
    metric
}

impl Families {
    /// Registers each, and puts at zero what alerts look at, so that the first event is a rise.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let r = registry;
        let families = Self {
            build: registered(r, "build_info", "Always 1; the version that runs", Family::default()),
            requests: registered(r, "http_requests", "Requests that were answered", Family::default()),
            request_seconds: registered(r, "http_request_duration_seconds", "How long answers took", times()),
            in_flight: registered(
                r,
                "http_requests_in_flight",
                "Requests being answered now",
                Gauge::default(),
            ),
            clients: registered(
                r,
                "http_connections",
                "Connections of clients: open, and the most there may be",
                Family::default(),
            ),
            panics: registered(
                r,
                "http_panics",
                "Panics of handlers that were caught and answered with 500",
                Counter::default(),
            ),
            queued: registered(r, "messages_queued", "Messages that units of work owed", Family::default()),
            tries: registered(r, "message_tries", "How the relay's tries ended", Family::default()),
            try_seconds: registered(
                r,
                "message_try_duration_seconds",
                "How long the relay's tries took",
                times(),
            ),
            messages: registered(r, "messages", "Messages in the outbox now", Family::default()),
            oldest: registered(
                r,
                "oldest_message_age_seconds",
                "For how long the oldest message has been owed; 0 where none is",
                Family::default(),
            ),
            sessions: registered(r, "sessions", "What became of validation sessions", Family::default()),
            changes: registered(r, "contact_changes", "Changes of contacts, as audited", Family::default()),
            purged: registered(
                r,
                "purged",
                "What had ended and was removed by housekeeping",
                Family::default(),
            ),
            calls: registered(
                r,
                "port_calls",
                "How calls of what the server stands on ended",
                Family::default(),
            ),
            call_seconds: registered(r, "port_call_duration_seconds", "How long these calls took", times()),
            servers: registered(
                r,
                "identity_server_calls",
                "How calls of each trusted identity server ended",
                Family::default(),
            ),
            limits: registered(
                r,
                "limit_verdicts",
                "What each limit let pass and refused",
                Family::default(),
            ),
            connections: registered(
                r,
                "database_connections",
                "Connections to the database: open, idle of these, and the most there may be",
                Family::default(),
            ),
        };
        families.start_at_zero();
        families
    }

    fn start_at_zero(&self) {
        for kind in Payload::KINDS {
            drop(self.queued.get_or_create(&KindLabels { kind }));
            for outcome in TRIES {
                drop(self.tries.get_or_create(&TryLabels { kind, outcome }));
            }
        }
        for event in EVENTS {
            drop(self.sessions.get_or_create(&EventLabels { event }));
        }
        for (action, door) in CHANGES {
            let labels = ChangeLabels { action: action.as_str(), door: door.as_str() };
            drop(self.changes.get_or_create(&labels));
        }
        for what in Perishable::ALL {
            drop(self.purged.get_or_create(&WhatLabels { what: what.as_str() }));
        }
    }

    pub(super) fn build_info(&self, version: &str) {
        self.build.get_or_create(&BuildLabels { version: version.to_owned() }).set(1);
    }
}

/// The label of how a try ended.
pub(super) fn outcome_of_try(ended: &Result<Delivered, Unavailable>) -> &'static str {
    match ended {
        Ok(Delivered::Sent) => "sent",
        Ok(Delivered::Retrying) => "retried",
        Ok(Delivered::Dead) => "dead",
        Ok(Delivered::Expired) => "expired",
        Ok(Delivered::Withheld) => "withheld",
        Ok(Delivered::LeaseLost) => "lease_lost",
        Err(_) => "unsettled",
    }
}
