//! Storage in memory: what an adapter of [`Store`] and [`Outbox`] owes, in its shortest form.
//!
//! One lock around everything makes each unit of work whole; a unit is applied to a copy, which replaces the state
//! only once every change went through.

use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::sync::Mutex;
use std::task::{Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;

mod account_records;
mod erasures;
mod housekeeping;
mod outbox_records;

use super::lock;
use crate::model::{
    Address, AuditEntry, AuditQuery, Backlog, Binding, BindingKey, Challenge, Change, Claimed,
    IdentityServerName, KeyedHash, LeaseId, MessageId, OutboxMessage, RemoteSession, SessionRecord,
    Settlement, Sid, SpentProof, Threepid, Timestamp, UnitOfWork, UserId, ValidationSession,
};
use crate::ports::{CommitError, Conflict, Outbox, Store, Unavailable};

/// Where a message of the outbox stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowState {
    /// It is still owed.
    Owed,
    /// The next hop took it.
    Sent,
    /// It cannot be delivered, for this reason.
    Dead(String),
    /// It was not worth sending any more.
    Expired,
}

/// A row of the outbox, as [`MemoryStore::outbox_rows`] shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxRow {
    /// The message; its `due_at` moves with each retry.
    pub message: OutboxMessage,
    /// How often it was claimed.
    pub attempts: u32,
    /// The claim it is under, and when that ends.
    pub lease: Option<(LeaseId, Timestamp)>,
    /// Where it stands.
    pub state: RowState,
    /// Why the last try failed, if it did.
    pub last_error: Option<String>,
    /// When it was settled, if it was.
    pub settled_at: Option<Timestamp>,
}

/// When a commit that is told to fail does so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitFailure {
    /// Nothing is applied.
    BeforeApply,
    /// The unit is applied, and the answer that says so is lost.
    AfterApply,
}

#[derive(Clone, Debug, Default)]
struct State {
    sessions: HashMap<Sid, SessionRecord>,
    threepids: BTreeMap<Address, Threepid>,
    outbox: Vec<OutboxRow>,
    remote_sessions: Vec<RemoteSession>,
    spent_proofs: Vec<SpentProof>,
    bindings: BTreeMap<BindingKey, Binding>,
    challenges: HashMap<String, (Challenge, ChallengeState)>,
    audit: Vec<AuditEntry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChallengeState {
    PassedOn,
    Spent,
}

#[derive(Debug, Default)]
struct Switches {
    down: bool,
    passing_commits: usize,
    failing_commits: usize,
    failure: Option<CommitFailure>,
}

#[derive(Debug, Default)]
struct Bell {
    rung: bool,
    waiting: Vec<Waker>,
}

/// [`Store`] and [`Outbox`] in memory, which can be looked into and told to fail.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: Mutex<State>,
    switches: Mutex<Switches>,
    bell: Mutex<Bell>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes every call fail, or work again.
    pub fn set_available(&self, available: bool) {
        lock(&self.switches).down = !available;
    }

    /// Makes the next `count` commits fail.
    pub fn fail_commits(&self, count: usize, failure: CommitFailure) {
        self.fail_commits_after(0, count, failure);
    }

    /// Lets the next `passing` commits through, then makes `count` commits fail.
    pub fn fail_commits_after(&self, passing: usize, count: usize, failure: CommitFailure) {
        let mut switches = lock(&self.switches);
        switches.passing_commits = passing;
        switches.failing_commits = count;
        switches.failure = Some(failure);
    }

    /// Every message of the outbox, settled ones included, in the order in which they were owed.
    pub fn outbox_rows(&self) -> Vec<OutboxRow> {
        lock(&self.state).outbox.clone()
    }

    /// Every session, oldest first.
    pub fn sessions(&self) -> Vec<ValidationSession> {
        let mut records: Vec<_> = lock(&self.state).sessions.values().cloned().collect();
        records.sort_by(|a, b| (a.created_at, &a.sid).cmp(&(b.created_at, &b.sid)));
        records.into_iter().map(ValidationSession::from_record).collect()
    }

    /// Every account's threepids, by address.
    pub fn all_threepids(&self) -> Vec<Threepid> {
        lock(&self.state).threepids.values().cloned().collect()
    }

    /// Every binding, by account, address and server.
    pub fn all_bindings(&self) -> Vec<Binding> {
        lock(&self.state).bindings.values().cloned().collect()
    }

    /// Every audit entry, in the order in which they were committed.
    pub fn audit_entries(&self) -> Vec<AuditEntry> {
        lock(&self.state).audit.clone()
    }

    fn available(&self) -> Result<(), Unavailable> {
        if lock(&self.switches).down { Err(switched_off()) } else { Ok(()) }
    }

    /// How this commit is to fail, if it is.
    fn failure_of_this_commit(&self) -> Option<CommitFailure> {
        let mut switches = lock(&self.switches);
        if let Some(passing) = switches.passing_commits.checked_sub(1) {
            switches.passing_commits = passing;
            return None;
        }
        switches.failing_commits = switches.failing_commits.checked_sub(1)?;
        switches.failure
    }

    fn ring(&self) {
        let mut bell = lock(&self.bell);
        bell.rung = true;
        bell.waiting.drain(..).for_each(Waker::wake);
    }
}

fn switched_off() -> Unavailable {
    Unavailable::new("memory store", "switched off by the test")
}

impl State {
    fn apply(&mut self, change: Change) -> Result<(), Conflict> {
        match change {
            Change::PutSession(session) => self.put_session(session.record().clone()),
            Change::PutThreepid(threepid) => self.put_threepid(threepid),
            Change::ImportThreepid(threepid) => self.import_threepid(threepid),
            Change::Enqueue(message) => {
                self.outbox.push(OutboxRow::owed(message));
                Ok(())
            }
            Change::EnqueueMirror(message) => {
                let is_same = |row: &OutboxRow| match message.payload.mirrored() {
                    Some(user_id) => row.message.payload.mirrored() == Some(user_id),
                    None => false,
                };
                let waits = |row: &OutboxRow| row.state == RowState::Owed && row.lease.is_none();
                self.outbox.retain(|row| !(waits(row) && is_same(row)));
                self.outbox.push(OutboxRow::owed(message));
                Ok(())
            }
            Change::PutRemoteSession(session) => {
                self.remote_sessions
                    .retain(|known| known.server != session.server || known.sid != session.sid);
                self.remote_sessions.push(session);
                Ok(())
            }
            Change::SpendProof(proof) => self.spend_proof(proof),
            Change::PutBinding(binding) => {
                self.bindings.insert(binding.key(), binding);
                Ok(())
            }
            Change::RemoveBinding { key, until } => {
                if self.bindings.get(&key).is_some_and(|binding| binding.since <= until) {
                    self.bindings.remove(&key);
                }
                Ok(())
            }
            Change::RemoveThreepid { user_id, address, audit } => {
                if self.threepids.get(&address).is_some_and(|owned| owned.user_id == user_id) {
                    self.threepids.remove(&address);
                    self.audit.extend(audit);
                }
                Ok(())
            }
            Change::Audit(entry) => {
                self.audit.push(entry);
                Ok(())
            }
            Change::AuditUnbind { entry, message: _ } => {
                let is_erased = |row: &OutboxRow| {
                    row.state == RowState::Owed
                        && row.message.payload.leaves_nothing()
                        && row.message.payload.binding() == entry.binding()
                };
                if !self.outbox.iter().any(is_erased) {
                    self.audit.push(entry);
                }
                Ok(())
            }
            Change::CancelUnbind(key) => {
                let is_cancelled = |row: &OutboxRow| {
                    row.state == RowState::Owed && row.message.payload.binding().as_ref() == Some(&key)
                };
                self.outbox.retain(|row| !is_cancelled(row));
                Ok(())
            }
            Change::PutChallenge(challenge) => {
                let known = self.challenges.entry(challenge.session.clone());
                known.or_insert((challenge, ChallengeState::PassedOn));
                Ok(())
            }
            Change::SpendChallenge(challenge) => self.spend_challenge(&challenge),
        }
    }

    fn spend_proof(&mut self, proof: SpentProof) -> Result<(), Conflict> {
        if self.spent_proofs.iter().any(|spent| spent.server == proof.server && spent.sid == proof.sid) {
            return Err(Conflict::ProofSpent);
        }
        self.spent_proofs.push(proof);
        Ok(())
    }

    fn spend_challenge(&mut self, challenge: &Challenge) -> Result<(), Conflict> {
        match self.challenges.get_mut(&challenge.session) {
            Some((known, state @ ChallengeState::PassedOn))
                if known.user_id == challenge.user_id && known.sid == challenge.sid =>
            {
                *state = ChallengeState::Spent;
                Ok(())
            }
            _ => Err(Conflict::ChallengeSpent),
        }
    }

    fn put_session(&mut self, mut record: SessionRecord) -> Result<(), Conflict> {
        let stored = self.sessions.get(&record.sid).map_or(0, |stored| stored.revision);
        if stored != record.revision {
            return Err(Conflict::StaleSession);
        }
        let is_other = |other: &&SessionRecord| other.sid != record.sid && other.current;
        if record.current && self.sessions.values().filter(is_other).any(|other| other.key == record.key) {
            return Err(Conflict::SessionExists);
        }
        record.revision += 1;
        self.sessions.insert(record.sid.clone(), record);
        Ok(())
    }

    fn put_threepid(&mut self, threepid: Threepid) -> Result<(), Conflict> {
        match self.threepids.get_mut(&threepid.address) {
            Some(owned) if owned.user_id != threepid.user_id => return Err(Conflict::AddressOwned),
            Some(own) => own.validated_at = threepid.validated_at,
            None => {
                self.threepids.insert(threepid.address.clone(), threepid);
            }
        }
        Ok(())
    }

    fn import_threepid(&mut self, threepid: Threepid) -> Result<(), Conflict> {
        let owned = self.threepids.entry(threepid.address.clone()).or_insert_with(|| threepid.clone());
        if owned.user_id == threepid.user_id { Ok(()) } else { Err(Conflict::AddressOwned) }
    }
}

impl OutboxRow {
    fn owed(message: OutboxMessage) -> Self {
        Self { message, attempts: 0, lease: None, state: RowState::Owed, last_error: None, settled_at: None }
    }

    fn is_claimable(&self, now: Timestamp) -> bool {
        let is_leased = self.lease.as_ref().is_some_and(|(_, ends)| now < *ends);
        self.state == RowState::Owed && self.message.due_at <= now && !is_leased
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn session(&self, sid: &Sid) -> Result<Option<ValidationSession>, Unavailable> {
        self.available()?;
        Ok(lock(&self.state).sessions.get(sid).cloned().map(ValidationSession::from_record))
    }

    async fn current_session(&self, key: KeyedHash) -> Result<Option<ValidationSession>, Unavailable> {
        self.available()?;
        let state = lock(&self.state);
        let found = state.sessions.values().find(|record| record.current && record.key == key);
        Ok(found.cloned().map(ValidationSession::from_record))
    }

    async fn owner(&self, address: &Address) -> Result<Option<UserId>, Unavailable> {
        self.available()?;
        Ok(lock(&self.state).threepids.get(address).map(|threepid| threepid.user_id.clone()))
    }

    async fn threepids(&self, user: &UserId) -> Result<Vec<Threepid>, Unavailable> {
        self.available()?;
        let state = lock(&self.state);
        let mut own: Vec<_> = state.threepids.values().filter(|t| t.user_id == *user).cloned().collect();
        // Stable: those of one millisecond stay in the order of their addresses.
        own.sort_by_key(|threepid| threepid.added_at);
        Ok(own)
    }

    async fn remote_sessions(&self, sid: &Sid) -> Result<Vec<RemoteSession>, Unavailable> {
        self.available()?;
        let state = lock(&self.state);
        let found = state.remote_sessions.iter().filter(|session| session.sid == *sid);
        let mut found: Vec<_> = found.cloned().collect();
        found.sort_by(|a, b| (b.opened_at, &a.server).cmp(&(a.opened_at, &b.server)));
        Ok(found)
    }

    async fn spent_proof(
        &self,
        server: &IdentityServerName,
        sid: &Sid,
    ) -> Result<Option<SpentProof>, Unavailable> {
        self.available()?;
        let state = lock(&self.state);
        Ok(state.spent_proofs.iter().find(|spent| spent.server == *server && spent.sid == *sid).cloned())
    }

    async fn bindings(&self, user: &UserId, address: &Address) -> Result<Vec<Binding>, Unavailable> {
        self.available()?;
        let state = lock(&self.state);
        let is_theirs = |binding: &&Binding| binding.user_id == *user && binding.address == *address;
        Ok(state.bindings.values().filter(is_theirs).cloned().collect())
    }

    async fn challenge(&self, session: &str) -> Result<Option<Challenge>, Unavailable> {
        self.available()?;
        let state = lock(&self.state);
        Ok(match state.challenges.get(session) {
            Some((challenge, ChallengeState::PassedOn)) => Some(challenge.clone()),
            _ => None,
        })
    }

    async fn audit_trail(&self, query: AuditQuery) -> Result<Vec<AuditEntry>, Unavailable> {
        self.available()?;
        let AuditQuery { user_id, address, limit } = query;
        let state = lock(&self.state);
        let is_asked_for = |entry: &&AuditEntry| {
            user_id.as_ref().is_none_or(|user_id| entry.user_id == *user_id)
                && address.as_ref().is_none_or(|address| entry.address == *address)
        };
        let mut found: Vec<_> = state.audit.iter().rev().filter(is_asked_for).cloned().collect();
        // Stable: those of one millisecond stay in the order of their commits, the last one first.
        found.sort_by_key(|entry| std::cmp::Reverse(entry.at));
        found.truncate(limit);
        Ok(found)
    }

    async fn commit(&self, unit: UnitOfWork) -> Result<(), CommitError> {
        self.available()?;
        let failure = self.failure_of_this_commit();
        if failure == Some(CommitFailure::BeforeApply) {
            return Err(switched_off().into());
        }
        let enqueues = unit.enqueues();
        {
            let mut state = lock(&self.state);
            let mut changed = state.clone();
            for change in unit.into_changes() {
                changed.apply(change).map_err(CommitError::Conflict)?;
            }
            *state = changed;
        }
        if enqueues {
            self.ring();
        }
        if failure.is_some() { Err(switched_off().into()) } else { Ok(()) }
    }

    async fn check(&self) -> Result<(), Unavailable> {
        self.available()
    }
}

#[async_trait]
impl Outbox for MemoryStore {
    async fn claim(
        &self,
        now: Timestamp,
        lease: Duration,
        lease_id: LeaseId,
        limit: usize,
    ) -> Result<Vec<Claimed>, Unavailable> {
        self.available()?;
        let mut state = lock(&self.state);
        let mut due: Vec<_> = state.outbox.iter_mut().filter(|row| row.is_claimable(now)).collect();
        due.sort_by_key(|row| row.message.due_at);
        due.truncate(limit);
        let claim = |row: &mut OutboxRow| {
            row.attempts += 1;
            row.lease = Some((lease_id.clone(), now.plus(lease)));
            Claimed { message: row.message.clone(), attempt: row.attempts, lease: lease_id.clone() }
        };
        Ok(due.into_iter().map(claim).collect())
    }

    async fn settle(
        &self,
        id: &MessageId,
        lease_id: &LeaseId,
        now: Timestamp,
        settlement: Settlement,
    ) -> Result<bool, Unavailable> {
        self.available()?;
        let mut state = lock(&self.state);
        let is_held = |row: &&mut OutboxRow| {
            row.message.id == *id && row.lease.as_ref().is_some_and(|(held, _)| held == lease_id)
        };
        let Some(row) = state.outbox.iter_mut().find(is_held) else { return Ok(false) };
        if settlement == Settlement::Forget {
            state.outbox.retain(|row| row.message.id != *id);
            return Ok(true);
        }
        row.lease = None;
        if !matches!(settlement, Settlement::Retry { .. }) {
            row.settled_at = Some(now);
        }
        match settlement {
            Settlement::Sent => row.state = RowState::Sent,
            Settlement::Expired => row.state = RowState::Expired,
            Settlement::Forget => {}
            Settlement::Dead { reason } => row.state = RowState::Dead(reason),
            Settlement::Retry { at, reason } => {
                row.message.due_at = at;
                row.last_error = Some(reason);
            }
        }
        Ok(true)
    }

    async fn backlog(&self) -> Result<Vec<Backlog>, Unavailable> {
        self.available()?;
        let state = lock(&self.state);
        let mut by_kind: BTreeMap<&str, Backlog> = BTreeMap::new();
        for OutboxRow { message, state, .. } in &state.outbox {
            let kind = message.payload.kind();
            let of = by_kind.entry(kind).or_insert_with(|| Backlog {
                kind: kind.to_owned(),
                owed: 0,
                oldest: None,
                dead: 0,
            });
            match state {
                RowState::Owed => {
                    of.owed += 1;
                    of.oldest = Some(of.oldest.map_or(message.created_at, |at| at.min(message.created_at)));
                }
                RowState::Dead(_) => of.dead += 1,
                RowState::Sent | RowState::Expired => {}
            }
        }
        Ok(by_kind.into_values().collect())
    }

    async fn woken(&self) {
        poll_fn(|context| {
            let mut bell = lock(&self.bell);
            if std::mem::take(&mut bell.rung) {
                return Poll::Ready(());
            }
            if !bell.waiting.iter().any(|waiting| waiting.will_wake(context.waker())) {
                bell.waiting.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}
