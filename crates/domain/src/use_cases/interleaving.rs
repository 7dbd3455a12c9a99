//! Commands that really meet: a store that lets others run before and after each call.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::task::yield_now;

use crate::model::{
    Address, AuditEntry, AuditQuery, Binding, Challenge, IdentityServerName, KeyedHash, RemoteSession, Sid,
    SpentProof, Threepid, UnitOfWork, UserId, ValidationSession,
};
use crate::ports::{CommitError, Store, Unavailable};
use crate::testing::{Fixture, MemoryStore};
use crate::use_cases::Contacts;

/// The fixture's store, yielding around each call, so that commands which run at once all read before one writes.
struct Interleaving(Arc<MemoryStore>);

/// The fixture's commands, on such a store.
pub(super) fn contacts(fixture: &Fixture) -> Contacts {
    fixture.contacts_on(Arc::new(Interleaving(fixture.store.clone())))
}

/// Runs `tasks` on the runtime's threads at once; what each answered, in their order.
#[expect(clippy::unwrap_used, reason = "a task that panics fails its test")]
pub(super) async fn at_once<F>(tasks: impl IntoIterator<Item = F>) -> Vec<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    let running: Vec<_> = tasks.into_iter().map(tokio::spawn).collect();
    let mut answers = Vec::new();
    for task in running {
        answers.push(task.await.unwrap());
    }
    answers
}

#[async_trait]
impl Store for Interleaving {
    async fn session(&self, sid: &Sid) -> Result<Option<ValidationSession>, Unavailable> {
        yield_now().await;
        let answer = self.0.session(sid).await;
        yield_now().await;
        answer
    }

    async fn current_session(&self, key: KeyedHash) -> Result<Option<ValidationSession>, Unavailable> {
        yield_now().await;
        let answer = self.0.current_session(key).await;
        yield_now().await;
        answer
    }

    async fn owner(&self, address: &Address) -> Result<Option<UserId>, Unavailable> {
        yield_now().await;
        let answer = self.0.owner(address).await;
        yield_now().await;
        answer
    }

    async fn threepids(&self, user: &UserId) -> Result<Vec<Threepid>, Unavailable> {
        self.0.threepids(user).await
    }

    async fn remote_sessions(&self, sid: &Sid) -> Result<Vec<RemoteSession>, Unavailable> {
        self.0.remote_sessions(sid).await
    }

    async fn spent_proof(
        &self,
        server: &IdentityServerName,
        sid: &Sid,
    ) -> Result<Option<SpentProof>, Unavailable> {
        yield_now().await;
        let answer = self.0.spent_proof(server, sid).await;
        yield_now().await;
        answer
    }

    async fn bindings(&self, user: &UserId, address: &Address) -> Result<Vec<Binding>, Unavailable> {
        yield_now().await;
        let answer = self.0.bindings(user, address).await;
        yield_now().await;
        answer
    }

    async fn challenge(&self, session: &str) -> Result<Option<Challenge>, Unavailable> {
        yield_now().await;
        let answer = self.0.challenge(session).await;
        yield_now().await;
        answer
    }

    async fn audit_trail(&self, query: AuditQuery) -> Result<Vec<AuditEntry>, Unavailable> {
        self.0.audit_trail(query).await
    }

    async fn commit(&self, unit: UnitOfWork) -> Result<(), CommitError> {
        yield_now().await;
        let answer = self.0.commit(unit).await;
        yield_now().await;
        answer
    }

    async fn check(&self) -> Result<(), Unavailable> {
        self.0.check().await
    }
}
