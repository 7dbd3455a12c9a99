//! Lists of contacts that were read a moment ago, as a decorator of any [`Store`].
//!
//! It knows from each unit of work whose list changes, and forgets that list before the unit is answered. So it is right
//! only where every change goes through it: where one process owns the storage. What another process changes there (a
//! command of the operator's) is seen once what is remembered has ended.
//!
//! A read that began before a change must not be remembered after it. So each change is noted when it begins and when it
//! is over, and a read is remembered only where neither happened meanwhile and none was under way.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use threepid_domain::model::{
    Address, AuditEntry, AuditQuery, Binding, Challenge, IdentityServerName, KeyedHash, RemoteSession, Sid,
    SpentProof, Threepid, UnitOfWork, UserId, ValidationSession,
};
use threepid_domain::ports::{CommitError, Store, Unavailable};
use tokio::time::Instant;
use tracing::Instrument;

/// So many shares the memory has, each under a lock of its own.
const SHARDS: usize = 64;

/// What is remembered, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListMemory {
    /// A list is remembered for so long after it was read. Default 1 s.
    pub span: Duration,
    /// So many lists are remembered at most. Default 10,000.
    pub most: usize,
}

impl Default for ListMemory {
    fn default() -> Self {
        Self { span: Duration::from_secs(1), most: 10_000 }
    }
}

/// A store whose lists of contacts are remembered.
pub struct RememberedLists {
    inner: Arc<dyn Store>,
    memory: Arc<Memory>,
}

impl RememberedLists {
    /// Remembers lists of `inner`, which nobody else may change.
    pub fn new(inner: Arc<dyn Store>, memory: ListMemory) -> Self {
        Self { inner, memory: Arc::new(Memory::new(memory)) }
    }
}

struct Memory {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
    span: Duration,
    /// How many lists one shard remembers.
    most: usize,
}

#[derive(Default)]
struct Shard {
    lists: HashMap<UserId, Remembered>,
    /// How often a change of a list in this shard began or ended.
    changes: u64,
    /// How many changes are under way.
    under_way: usize,
}

struct Remembered {
    threepids: Vec<Threepid>,
    until: Instant,
}

/// How the shard stood when a read began.
#[derive(Clone, Copy)]
struct Began {
    changes: u64,
    at: Instant,
}

impl Memory {
    fn new(memory: ListMemory) -> Self {
        Self {
            shards: std::iter::repeat_with(Mutex::default).take(SHARDS).collect(),
            hasher: RandomState::new(),
            span: memory.span,
            most: memory.most.div_ceil(SHARDS),
        }
    }

    fn place(&self, user: &UserId) -> usize {
        usize::try_from(self.hasher.hash_one(user) % SHARDS as u64).unwrap_or(0)
    }

    /// Nothing is left half done under the lock, so a panic elsewhere has broken nothing.
    fn shard(&self, place: usize) -> Option<MutexGuard<'_, Shard>> {
        self.shards.get(place).map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The list, if it is remembered; otherwise how things stand, if what is read now may be remembered.
    fn look(&self, user: &UserId) -> Result<Vec<Threepid>, Option<Began>> {
        let at = Instant::now();
        let shard = self.shard(self.place(user)).ok_or(None)?;
        match shard.lists.get(user) {
            Some(remembered) if at < remembered.until => Ok(remembered.threepids.clone()),
            _ if shard.under_way == 0 => Err(Some(Began { changes: shard.changes, at })),
            _ => Err(None),
        }
    }

    fn remember(&self, user: &UserId, threepids: &[Threepid], began: Began) {
        let Some(mut shard) = self.shard(self.place(user)) else { return };
        if shard.under_way > 0 || shard.changes != began.changes {
            return;
        }
        if shard.lists.len() >= self.most && !shard.lists.contains_key(user) {
            shard.make_room(began.at, self.most);
        }
        let remembered = Remembered { threepids: threepids.to_vec(), until: began.at + self.span };
        shard.lists.insert(user.clone(), remembered);
    }

    fn forget(&self, users: &[UserId], note: impl Fn(&mut Shard)) {
        for user in users {
            if let Some(mut shard) = self.shard(self.place(user)) {
                shard.changes = shard.changes.wrapping_add(1);
                shard.lists.remove(user);
                note(&mut shard);
            }
        }
    }
}

impl Shard {
    /// Forgets what has ended; where that is not enough, everything: it costs one read each.
    fn make_room(&mut self, now: Instant, most: usize) {
        self.lists.retain(|_, remembered| now < remembered.until);
        if self.lists.len() >= most {
            self.lists.clear();
        }
    }
}

#[async_trait]
impl Store for RememberedLists {
    async fn threepids(&self, user: &UserId) -> Result<Vec<Threepid>, Unavailable> {
        match self.memory.look(user) {
            Ok(threepids) => Ok(threepids),
            Err(None) => self.inner.threepids(user).await,
            Err(Some(began)) => {
                let threepids = self.inner.threepids(user).await?;
                self.memory.remember(user, &threepids, began);
                Ok(threepids)
            }
        }
    }

    async fn commit(&self, unit: UnitOfWork) -> Result<(), CommitError> {
        let users: Vec<UserId> = unit.changed_lists().cloned().collect();
        if users.is_empty() {
            return self.inner.commit(unit).await;
        }
        let (inner, memory) = (Arc::clone(&self.inner), Arc::clone(&self.memory));
        // In a task of its own, since the unit goes on where the caller goes away. Should it break off, these lists are
        // not remembered any more: nobody knows whether they change yet.
        let task = async move {
            memory.forget(&users, |shard| shard.under_way += 1);
            let committed = inner.commit(unit).await;
            memory.forget(&users, |shard| shard.under_way -= 1);
            committed
        };
        let committed = tokio::spawn(task.in_current_span()).await;
        committed.unwrap_or_else(|error| Err(Unavailable::new("store", error).into()))
    }

    async fn session(&self, sid: &Sid) -> Result<Option<ValidationSession>, Unavailable> {
        self.inner.session(sid).await
    }

    async fn current_session(&self, key: KeyedHash) -> Result<Option<ValidationSession>, Unavailable> {
        self.inner.current_session(key).await
    }

    async fn owner(&self, address: &Address) -> Result<Option<UserId>, Unavailable> {
        self.inner.owner(address).await
    }

    async fn remote_sessions(&self, sid: &Sid) -> Result<Vec<RemoteSession>, Unavailable> {
        self.inner.remote_sessions(sid).await
    }

    async fn spent_proof(
        &self,
        server: &IdentityServerName,
        sid: &Sid,
    ) -> Result<Option<SpentProof>, Unavailable> {
        self.inner.spent_proof(server, sid).await
    }

    async fn bindings(&self, user: &UserId, address: &Address) -> Result<Vec<Binding>, Unavailable> {
        self.inner.bindings(user, address).await
    }

    async fn challenge(&self, session: &str) -> Result<Option<Challenge>, Unavailable> {
        self.inner.challenge(session).await
    }

    async fn audit_trail(&self, query: AuditQuery) -> Result<Vec<AuditEntry>, Unavailable> {
        self.inner.audit_trail(query).await
    }

    async fn check(&self) -> Result<(), Unavailable> {
        self.inner.check().await
    }
}

#[cfg(test)]
mod tests;
