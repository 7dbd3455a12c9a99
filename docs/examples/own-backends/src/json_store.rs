//! Storage in one JSON file, which is read anew for every call and replaced in one step by every change.
//!
//! All state is one value. A change locks, reads, applies every part, and only then writes: that is the whole of "all or
//! nothing". The lock is a file's, so several processes may share the folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use threepid_domain::model::{
    Address, AuditEntry, AuditQuery, Backlog, Binding, BindingKey, Challenge, Change, Claimed,
    IdentityServerName, KeyedHash, LeaseId, MessageId, OutboxMessage, RemoteSession, SessionRecord,
    Settlement, Sid, SpentProof, Threepid, Timestamp, UnitOfWork, UserId, ValidationSession,
};
use threepid_domain::ports::{CommitError, Conflict, Outbox, Store, Unavailable};
use tokio::sync::Notify;

use crate::spool_mailer::write_durably;

#[derive(Clone, Default, Serialize, Deserialize)]
struct State {
    sessions: BTreeMap<String, SessionRecord>,
    threepids: Vec<Threepid>,
    remote_sessions: Vec<RemoteSession>,
    spent_proofs: Vec<SpentProof>,
    bindings: Vec<Binding>,
    challenges: Vec<Challenge>,
    spent_challenges: Vec<String>,
    messages: Vec<Row>,
    audit: Vec<AuditEntry>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Row {
    message: OutboxMessage,
    attempts: u32,
    lease: Option<(LeaseId, Timestamp)>,
    /// Why it cannot be delivered; sent, expired and cancelled messages are dropped.
    dead: Option<String>,
}

/// Sessions, threepids and owed messages in one JSON file.
#[derive(Clone)]
pub struct JsonStore {
    file: PathBuf,
    enqueued: Arc<Notify>,
}

impl JsonStore {
    /// Opens the file, or starts a new one.
    ///
    /// # Errors
    /// When the file is there and cannot be read, or is no storage of ours.
    pub fn open(file: &Path) -> std::io::Result<Self> {
        read(file)?;
        Ok(Self { file: file.to_owned(), enqueued: Arc::new(Notify::new()) })
    }

    /// What is stored now.
    async fn state(&self) -> Result<State, Unavailable> {
        let file = self.file.clone();
        let read = tokio::task::spawn_blocking(move || read(&file)).await;
        read.map_err(unavailable)?.map_err(unavailable)
    }

    /// Changes what is stored, alone. It goes on when the caller goes away: a blocking task is never cancelled.
    async fn change<T, E>(
        &self,
        change: impl FnOnce(&mut State) -> Result<T, E> + Send + 'static,
    ) -> Result<Result<T, E>, Unavailable>
    where
        T: Send + 'static,
        E: Send + 'static,
    {
        let file = self.file.clone();
        let changed = tokio::task::spawn_blocking(move || {
            let alone = std::fs::File::create(file.with_extension("lock"))?;
            alone.lock()?;
            let mut state = read(&file)?;
            let outcome = change(&mut state);
            if outcome.is_ok() {
                write_durably(&file, &state)?;
            }
            Ok::<_, std::io::Error>(outcome)
        });
        changed.await.map_err(unavailable)?.map_err(unavailable)
    }
}

fn read(file: &Path) -> std::io::Result<State> {
    match std::fs::read(file) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(State::default()),
        Err(error) => Err(error),
    }
}

fn unavailable(error: impl std::error::Error + Send + Sync + 'static) -> Unavailable {
    Unavailable::new("json store", error)
}

fn apply(state: &mut State, change: Change) -> Result<(), Conflict> {
    match change {
        Change::PutSession(session) => return put_session(state, session.record().clone()),
        Change::PutThreepid(threepid) => return put_threepid(state, threepid),
        Change::ImportThreepid(threepid) => return import_threepid(state, threepid),
        Change::RemoveThreepid { user_id, address, audit } => {
            let before = state.threepids.len();
            state.threepids.retain(|known| known.user_id != user_id || known.address != address);
            if state.threepids.len() < before {
                state.audit.extend(audit);
            }
        }
        Change::Audit(entry) => state.audit.push(entry),
        Change::AuditUnbind { entry, .. } => {
            let is_erased = |row: &Row| {
                row.dead.is_none()
                    && row.message.payload.leaves_nothing()
                    && row.message.payload.binding() == entry.binding()
            };
            if !state.messages.iter().any(is_erased) {
                state.audit.push(entry);
            }
        }
        Change::Enqueue(message) => {
            state.messages.push(Row { message, attempts: 0, lease: None, dead: None })
        }
        Change::EnqueueMirror(message) => {
            state.messages.retain(|row| row.dead.is_some() || row.lease.is_some() || !is_same(row, &message));
            state.messages.push(Row { message, attempts: 0, lease: None, dead: None });
        }
        Change::PutRemoteSession(session) => {
            state.remote_sessions.retain(|known| known.sid != session.sid || known.server != session.server);
            state.remote_sessions.push(session);
        }
        Change::SpendProof(proof) => {
            if state.spent_proofs.iter().any(|known| known.sid == proof.sid && known.server == proof.server) {
                return Err(Conflict::ProofSpent);
            }
            state.spent_proofs.push(proof);
        }
        Change::PutBinding(binding) => {
            state.bindings.retain(|known| known.key() != binding.key());
            state.bindings.push(binding);
        }
        Change::RemoveBinding { key, until } => {
            state.bindings.retain(|known| known.key() != key || known.since > until);
        }
        Change::CancelUnbind(key) => cancel_unbind(state, &key),
        Change::PutChallenge(challenge) => {
            if state.challenges.iter().all(|known| known.session != challenge.session) {
                state.challenges.push(challenge);
            }
        }
        Change::SpendChallenge(challenge) => return spend_challenge(state, &challenge),
    }
    Ok(())
}

/// Whether both mirror the same account.
fn is_same(row: &Row, newer: &OutboxMessage) -> bool {
    let mirrored = newer.payload.mirrored();
    mirrored.is_some() && row.message.payload.mirrored() == mirrored
}

fn put_session(state: &mut State, mut record: SessionRecord) -> Result<(), Conflict> {
    let stored = state.sessions.get(record.sid.as_str()).map_or(0, |stored| stored.revision);
    if stored != record.revision {
        return Err(Conflict::StaleSession);
    }
    let rival = |other: &SessionRecord| other.current && other.key == record.key && other.sid != record.sid;
    if record.current && state.sessions.values().any(rival) {
        return Err(Conflict::SessionExists);
    }
    record.revision += 1;
    state.sessions.insert(record.sid.as_str().to_owned(), record);
    Ok(())
}

fn put_threepid(state: &mut State, threepid: Threepid) -> Result<(), Conflict> {
    match state.threepids.iter_mut().find(|known| known.address == threepid.address) {
        Some(known) if known.user_id != threepid.user_id => return Err(Conflict::AddressOwned),
        Some(known) => known.validated_at = threepid.validated_at,
        None => state.threepids.push(threepid),
    }
    Ok(())
}

fn import_threepid(state: &mut State, threepid: Threepid) -> Result<(), Conflict> {
    match state.threepids.iter().find(|known| known.address == threepid.address) {
        Some(known) if known.user_id != threepid.user_id => return Err(Conflict::AddressOwned),
        Some(_) => {}
        None => state.threepids.push(threepid),
    }
    Ok(())
}

fn cancel_unbind(state: &mut State, key: &BindingKey) {
    state.messages.retain(|row| row.dead.is_some() || row.message.payload.binding().as_ref() != Some(key));
}

fn spend_challenge(state: &mut State, challenge: &Challenge) -> Result<(), Conflict> {
    let is_it = |known: &Challenge| {
        known.session == challenge.session && known.user_id == challenge.user_id && known.sid == challenge.sid
    };
    if !state.challenges.iter().any(is_it) || state.spent_challenges.contains(&challenge.session) {
        return Err(Conflict::ChallengeSpent);
    }
    state.spent_challenges.push(challenge.session.clone());
    Ok(())
}

#[async_trait]
impl Store for JsonStore {
    async fn session(&self, sid: &Sid) -> Result<Option<ValidationSession>, Unavailable> {
        let state = self.state().await?;
        Ok(state.sessions.get(sid.as_str()).cloned().map(ValidationSession::from_record))
    }

    async fn current_session(&self, key: KeyedHash) -> Result<Option<ValidationSession>, Unavailable> {
        let state = self.state().await?;
        let current = state.sessions.values().find(|session| session.current && session.key == key);
        Ok(current.cloned().map(ValidationSession::from_record))
    }

    async fn owner(&self, address: &Address) -> Result<Option<UserId>, Unavailable> {
        let state = self.state().await?;
        Ok(state.threepids.iter().find(|known| known.address == *address).map(|known| known.user_id.clone()))
    }

    async fn threepids(&self, user: &UserId) -> Result<Vec<Threepid>, Unavailable> {
        let state = self.state().await?;
        let mut theirs: Vec<_> =
            state.threepids.iter().filter(|known| known.user_id == *user).cloned().collect();
        theirs.sort_by(|a, b| (a.added_at, &a.address).cmp(&(b.added_at, &b.address)));
        Ok(theirs)
    }

    async fn remote_sessions(&self, sid: &Sid) -> Result<Vec<RemoteSession>, Unavailable> {
        let state = self.state().await?;
        let mut sessions: Vec<_> =
            state.remote_sessions.iter().filter(|known| known.sid == *sid).cloned().collect();
        sessions.sort_by(|a, b| (b.opened_at, &a.server).cmp(&(a.opened_at, &b.server)));
        Ok(sessions)
    }

    async fn spent_proof(
        &self,
        server: &IdentityServerName,
        sid: &Sid,
    ) -> Result<Option<SpentProof>, Unavailable> {
        let state = self.state().await?;
        Ok(state.spent_proofs.iter().find(|known| known.sid == *sid && known.server == *server).cloned())
    }

    async fn bindings(&self, user: &UserId, address: &Address) -> Result<Vec<Binding>, Unavailable> {
        let state = self.state().await?;
        let is_theirs = |known: &&Binding| known.user_id == *user && known.address == *address;
        let mut theirs: Vec<_> = state.bindings.iter().filter(is_theirs).cloned().collect();
        theirs.sort_by(|a, b| a.server.cmp(&b.server));
        Ok(theirs)
    }

    async fn challenge(&self, session: &str) -> Result<Option<Challenge>, Unavailable> {
        let state = self.state().await?;
        if state.spent_challenges.iter().any(|spent| spent == session) {
            return Ok(None);
        }
        Ok(state.challenges.iter().find(|known| known.session == session).cloned())
    }

    async fn audit_trail(&self, query: AuditQuery) -> Result<Vec<AuditEntry>, Unavailable> {
        let state = self.state().await?;
        let is_asked_for = |entry: &AuditEntry| {
            query.user_id.as_ref().is_none_or(|user_id| entry.user_id == *user_id)
                && query.address.as_ref().is_none_or(|address| entry.address == *address)
        };
        let mut found: Vec<_> = state.audit.into_iter().rev().filter(is_asked_for).collect();
        found.sort_by_key(|entry| std::cmp::Reverse(entry.at));
        found.truncate(query.limit);
        Ok(found)
    }

    async fn commit(&self, unit: UnitOfWork) -> Result<(), CommitError> {
        let enqueues = unit.enqueues();
        let applied = self
            .change(move |state| unit.into_changes().into_iter().try_for_each(|change| apply(state, change)));
        applied.await?.map_err(CommitError::Conflict)?;
        if enqueues {
            self.enqueued.notify_one();
        }
        Ok(())
    }

    async fn check(&self) -> Result<(), Unavailable> {
        Ok(())
    }
}

#[async_trait]
impl Outbox for JsonStore {
    async fn claim(
        &self,
        now: Timestamp,
        lease: Duration,
        lease_id: LeaseId,
        limit: usize,
    ) -> Result<Vec<Claimed>, Unavailable> {
        let claimed = self.change(move |state| {
            let is_free = |row: &&mut Row| {
                let is_leased = row.lease.as_ref().is_some_and(|(_, until)| now < *until);
                row.dead.is_none() && row.message.due_at <= now && !is_leased
            };
            let mut due: Vec<_> = state.messages.iter_mut().filter(is_free).collect();
            due.sort_by_key(|row| (row.message.due_at, row.message.created_at));
            let claim = |row: &mut Row| {
                row.attempts += 1;
                row.lease = Some((lease_id.clone(), now.plus(lease)));
                Claimed { message: row.message.clone(), attempt: row.attempts, lease: lease_id.clone() }
            };
            Ok::<_, std::convert::Infallible>(due.into_iter().take(limit).map(claim).collect())
        });
        let Ok(claimed) = claimed.await?;
        Ok(claimed)
    }

    async fn settle(
        &self,
        id: &MessageId,
        lease_id: &LeaseId,
        _now: Timestamp,
        settlement: Settlement,
    ) -> Result<bool, Unavailable> {
        let (id, lease_id) = (id.clone(), lease_id.clone());
        let settled = self.change(move |state| {
            let is_it = |row: &Row| {
                row.message.id == id && row.lease.as_ref().is_some_and(|(holder, _)| *holder == lease_id)
            };
            let Some(at) = state.messages.iter().position(is_it) else { return Ok(false) };
            let mut row = state.messages.swap_remove(at);
            row.lease = None;
            match settlement {
                Settlement::Sent | Settlement::Expired | Settlement::Forget => return Ok(true),
                Settlement::Retry { at, .. } => row.message.due_at = at,
                Settlement::Dead { reason } => row.dead = Some(reason),
            }
            state.messages.push(row);
            Ok::<_, std::convert::Infallible>(true)
        });
        let Ok(settled) = settled.await?;
        Ok(settled)
    }

    async fn backlog(&self) -> Result<Vec<Backlog>, Unavailable> {
        let mut by_kind: BTreeMap<&str, Backlog> = BTreeMap::new();
        for Row { message, dead, .. } in &self.state().await?.messages {
            let kind = message.payload.kind();
            let nothing = || Backlog { kind: kind.to_owned(), owed: 0, oldest: None, dead: 0 };
            let of = by_kind.entry(kind).or_insert_with(nothing);
            if dead.is_some() {
                of.dead += 1;
            } else {
                of.owed += 1;
                of.oldest = Some(of.oldest.map_or(message.created_at, |at| at.min(message.created_at)));
            }
        }
        Ok(by_kind.into_values().collect())
    }

    async fn woken(&self) {
        self.enqueued.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use threepid_domain::testing::contract::{Backend, Handles};

    use super::*;

    fn open(file: &Path) -> Handles {
        // A storage that does not open fails the test that asked for it, with the reason in its output.
        let store = JsonStore::open(file).unwrap_or_else(|error| unreachable!("{error}"));
        Handles { store: Arc::new(store.clone()), outbox: Arc::new(store) }
    }

    async fn fresh() -> Backend {
        let folder = tempfile::tempdir().unwrap_or_else(|error| unreachable!("{error}"));
        let file = folder.path().join("threepid.json");
        let Handles { store, outbox } = open(&file);
        Backend::new(store, outbox).keeping(folder).reopened_by(move || {
            let handles = open(&file);
            async move { handles }
        })
    }

    mod store {
        threepid_domain::store_contract!(super::fresh());
    }

    mod outbox {
        threepid_domain::outbox_contract!(super::fresh());
    }
}
