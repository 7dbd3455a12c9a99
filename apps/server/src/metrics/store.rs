//! The decorator of `Store`: besides its calls it counts what committed units of work say of messages, sessions and
//! contacts.

use std::sync::Arc;

use async_trait::async_trait;
use prometheus_client::metrics::counter::Counter;
use threepid_domain::model::{
    Address, AuditEntry, AuditQuery, Binding, Challenge, Change, IdentityServerName, KeyedHash,
    RemoteSession, SessionState, Sid, SpentProof, Threepid, UnitOfWork, UserId, ValidationSession,
};
use threepid_domain::ports::{CommitError, Store, Unavailable};

use super::calls::Calls;
use super::families::{ChangeLabels, Counters, EventLabels, Families, KindLabels};
use super::ports::counted;

counted!(Reads: dyn Store = "store" {
    session, current_session, owner, threepids, remote_sessions, spent_proof, bindings, challenge, audit_trail, commit,
    check
});

pub(super) struct Counted {
    calls: Reads,
    queued: Counters<KindLabels>,
    sessions: Counters<EventLabels>,
    changes: Counters<ChangeLabels>,
}

impl Counted {
    pub(super) fn new(inner: Arc<dyn Store>, families: &Families) -> Self {
        Self {
            calls: Reads::new(inner, families),
            queued: families.queued.clone(),
            sessions: families.sessions.clone(),
            changes: families.changes.clone(),
        }
    }

    /// What is to be counted once the unit is committed.
    fn counters(&self, unit: &UnitOfWork) -> Vec<Counter> {
        let of_change = |change: &Change| match change {
            Change::Enqueue(message) | Change::EnqueueMirror(message) => {
                Some(self.queued.get_or_create_owned(&KindLabels { kind: message.payload.kind() }))
            }
            Change::PutSession(session) => event(session).map(|event| self.event(event)),
            Change::PutRemoteSession(_) => Some(self.event("opened_remotely")),
            _ => None,
        };
        let of_entry = |entry: &AuditEntry| {
            let labels = ChangeLabels { action: entry.action.as_str(), door: entry.door.as_str() };
            self.changes.get_or_create_owned(&labels)
        };
        unit.changes().iter().filter_map(of_change).chain(unit.audited().map(of_entry)).collect()
    }

    fn event(&self, event: &'static str) -> Counter {
        self.sessions.get_or_create_owned(&EventLabels { event })
    }
}

/// What a session comes to with this write, if it comes to something.
fn event(session: &ValidationSession) -> Option<&'static str> {
    let record = session.record();
    match (&record.state, record.current) {
        _ if record.revision == 0 => Some("opened"),
        (SessionState::Validated { .. }, true) => Some("validated"),
        (SessionState::Consumed { .. }, true) => Some("consumed"),
        (SessionState::Burnt, true) => Some("burnt"),
        // It gives way to a new one without having been used.
        (SessionState::Pending { .. } | SessionState::Validated { .. }, false) => Some("expired"),
        _ => None,
    }
}

#[async_trait]
impl Store for Counted {
    async fn session(&self, sid: &Sid) -> Result<Option<ValidationSession>, Unavailable> {
        self.calls.session.watch(self.calls.inner.session(sid)).await
    }

    async fn current_session(&self, key: KeyedHash) -> Result<Option<ValidationSession>, Unavailable> {
        self.calls.current_session.watch(self.calls.inner.current_session(key)).await
    }

    async fn owner(&self, address: &Address) -> Result<Option<UserId>, Unavailable> {
        self.calls.owner.watch(self.calls.inner.owner(address)).await
    }

    async fn threepids(&self, user: &UserId) -> Result<Vec<Threepid>, Unavailable> {
        self.calls.threepids.watch(self.calls.inner.threepids(user)).await
    }

    async fn remote_sessions(&self, sid: &Sid) -> Result<Vec<RemoteSession>, Unavailable> {
        self.calls.remote_sessions.watch(self.calls.inner.remote_sessions(sid)).await
    }

    async fn spent_proof(
        &self,
        server: &IdentityServerName,
        sid: &Sid,
    ) -> Result<Option<SpentProof>, Unavailable> {
        self.calls.spent_proof.watch(self.calls.inner.spent_proof(server, sid)).await
    }

    async fn bindings(&self, user: &UserId, address: &Address) -> Result<Vec<Binding>, Unavailable> {
        self.calls.bindings.watch(self.calls.inner.bindings(user, address)).await
    }

    async fn challenge(&self, session: &str) -> Result<Option<Challenge>, Unavailable> {
        self.calls.challenge.watch(self.calls.inner.challenge(session)).await
    }

    async fn audit_trail(&self, query: AuditQuery) -> Result<Vec<AuditEntry>, Unavailable> {
        self.calls.audit_trail.watch(self.calls.inner.audit_trail(query)).await
    }

    async fn commit(&self, unit: UnitOfWork) -> Result<(), CommitError> {
        let counters = self.counters(&unit);
        self.calls.commit.watch(self.calls.inner.commit(unit)).await?;
        for counter in counters {
            counter.inc();
        }
        Ok(())
    }

    async fn check(&self) -> Result<(), Unavailable> {
        self.calls.check.watch(self.calls.inner.check()).await
    }
}
