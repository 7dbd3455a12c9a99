#![expect(clippy::expect_used, reason = "without a store there is nothing to test")]

use std::sync::atomic::{AtomicUsize, Ordering};

use threepid_domain::model::{Medium, Timestamp};
use threepid_domain::ports::Conflict;
use threepid_domain::testing::MemoryStore;
use threepid_domain::testing::contract::{Backend, Handles};
use tokio::sync::Semaphore;

use super::*;

type TestResult = Result<(), Box<dyn std::error::Error + Send + Sync>>;

const SPAN: Duration = Duration::from_secs(1);

async fn fresh() -> Backend {
    let inner = Arc::new(MemoryStore::default());
    let remembering = |inner: Arc<MemoryStore>| Arc::new(RememberedLists::new(inner, ListMemory::default()));
    let again = inner.clone();
    let reopen = move || {
        let inner = again.clone();
        async move { Handles { store: remembering(inner.clone()), outbox: inner } }
    };
    Backend::new(remembering(inner.clone()), inner.clone()).reopened_by(reopen)
}

mod contract {
    threepid_domain::store_contract!(super::fresh());
}

/// A store that counts reads of lists, and holds reads and commits at a gate where it is told to.
#[derive(Default)]
struct Gated {
    store: MemoryStore,
    reads: AtomicUsize,
    after_read: Option<Semaphore>,
    before_commit: Option<Semaphore>,
    at_gate: AtomicUsize,
}

impl Gated {
    async fn pass(&self, gate: Option<&Semaphore>) {
        let Some(gate) = gate else { return };
        self.at_gate.fetch_add(1, Ordering::SeqCst);
        gate.acquire().await.expect("the gate is never closed").forget();
    }

    /// Waits until so many have come to a gate.
    async fn until_at_gate(&self, count: usize) {
        let come = async {
            while self.at_gate.load(Ordering::SeqCst) < count {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), come).await.expect("somebody comes to the gate");
    }

    fn reads(&self) -> usize {
        self.reads.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Store for Gated {
    async fn threepids(&self, user: &UserId) -> Result<Vec<Threepid>, Unavailable> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let read = self.store.threepids(user).await;
        self.pass(self.after_read.as_ref()).await;
        read
    }

    async fn commit(&self, unit: UnitOfWork) -> Result<(), CommitError> {
        self.pass(self.before_commit.as_ref()).await;
        self.store.commit(unit).await
    }

    async fn session(&self, sid: &Sid) -> Result<Option<ValidationSession>, Unavailable> {
        self.store.session(sid).await
    }

    async fn current_session(&self, key: KeyedHash) -> Result<Option<ValidationSession>, Unavailable> {
        self.store.current_session(key).await
    }

    async fn owner(&self, address: &Address) -> Result<Option<UserId>, Unavailable> {
        self.store.owner(address).await
    }

    async fn remote_sessions(&self, sid: &Sid) -> Result<Vec<RemoteSession>, Unavailable> {
        self.store.remote_sessions(sid).await
    }

    async fn spent_proof(
        &self,
        server: &IdentityServerName,
        sid: &Sid,
    ) -> Result<Option<SpentProof>, Unavailable> {
        self.store.spent_proof(server, sid).await
    }

    async fn bindings(&self, user: &UserId, address: &Address) -> Result<Vec<Binding>, Unavailable> {
        self.store.bindings(user, address).await
    }

    async fn challenge(&self, session: &str) -> Result<Option<Challenge>, Unavailable> {
        self.store.challenge(session).await
    }

    async fn audit_trail(&self, query: AuditQuery) -> Result<Vec<AuditEntry>, Unavailable> {
        self.store.audit_trail(query).await
    }

    async fn check(&self) -> Result<(), Unavailable> {
        self.store.check().await
    }
}

fn alice() -> UserId {
    UserId::parse("@alice:example.org").expect("a user id")
}

fn address(name: &str) -> Address {
    Address::parse(Medium::Email, &format!("{name}@example.org")).expect("an address")
}

fn adds(name: &str) -> UnitOfWork {
    let now = Timestamp::from_ms(1_700_000_000_000);
    let threepid = Threepid { user_id: alice(), address: address(name), validated_at: now, added_at: now };
    UnitOfWork::new().put_threepid(threepid)
}

fn remembering(inner: &Arc<Gated>, most: usize) -> Arc<RememberedLists> {
    Arc::new(RememberedLists::new(inner.clone(), ListMemory { span: SPAN, most }))
}

async fn names(store: &dyn Store) -> Vec<String> {
    let threepids = store.threepids(&alice()).await.expect("the store answers");
    threepids.iter().map(|threepid| threepid.address.as_str().to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_list_is_read_once_until_its_time_is_over() -> TestResult {
    let inner = Arc::new(Gated::default());
    let store = remembering(&inner, 100);
    store.commit(adds("a")).await?;
    for _ in 0..3 {
        assert_eq!(names(&*store).await, ["a@example.org"]);
    }
    assert_eq!(inner.reads(), 1);
    // Another process.
    inner.store.commit(adds("b")).await?;
    tokio::time::advance(SPAN - Duration::from_millis(1)).await;
    assert_eq!(names(&*store).await, ["a@example.org"]);
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(names(&*store).await, ["a@example.org", "b@example.org"]);
    assert_eq!(inner.reads(), 2);
    Ok(())
}

#[tokio::test]
async fn each_change_of_a_list_is_seen_at_once() -> TestResult {
    let inner = Arc::new(Gated::default());
    let store = remembering(&inner, 100);
    assert_eq!(names(&*store).await, [""; 0]);
    store.commit(adds("a")).await?;
    assert_eq!(names(&*store).await, ["a@example.org"]);
    let imported = adds("b").into_changes().into_iter().filter_map(|change| match change {
        threepid_domain::model::Change::PutThreepid(threepid) => Some(threepid),
        _ => None,
    });
    let unit = imported.fold(UnitOfWork::new(), UnitOfWork::import_threepid);
    store.commit(unit).await?;
    assert_eq!(names(&*store).await, ["a@example.org", "b@example.org"]);
    store.commit(UnitOfWork::new().remove_threepid(alice(), address("a"))).await?;
    assert_eq!(names(&*store).await, ["b@example.org"]);
    Ok(())
}

#[tokio::test]
async fn a_change_that_failed_forgets_no_more_than_it_has_to() -> TestResult {
    let inner = Arc::new(Gated::default());
    let store = remembering(&inner, 100);
    let bob = UserId::parse("@bob:example.org")?;
    store.commit(adds("a")).await?;
    let of_bob = UnitOfWork::new().put_threepid(Threepid { user_id: bob, ..first(&adds("a")) });
    let refused = store.commit(of_bob).await;
    assert!(matches!(refused, Err(CommitError::Conflict(Conflict::AddressOwned))), "{refused:?}");
    for _ in 0..2 {
        assert_eq!(names(&*store).await, ["a@example.org"]);
    }
    assert_eq!(inner.reads(), 1);
    Ok(())
}

fn first(unit: &UnitOfWork) -> Threepid {
    match unit.changes() {
        [threepid_domain::model::Change::PutThreepid(threepid)] => threepid.clone(),
        _ => unreachable!("it adds one"),
    }
}

#[tokio::test]
async fn a_read_that_began_before_a_change_is_not_remembered_after_it() -> TestResult {
    let inner = Arc::new(Gated { after_read: Some(Semaphore::new(0)), ..Gated::default() });
    let store = remembering(&inner, 100);
    let slow = tokio::spawn({
        let store = store.clone();
        async move { names(&*store).await }
    });
    inner.until_at_gate(1).await;
    store.commit(adds("a")).await?;
    let gate = inner.after_read.as_ref().expect("there is a gate");
    gate.add_permits(10);
    assert_eq!(slow.await?, [""; 0]);
    assert_eq!(names(&*store).await, ["a@example.org"]);
    Ok(())
}

#[tokio::test]
async fn what_is_read_while_a_change_is_under_way_is_not_remembered() -> TestResult {
    let inner = Arc::new(Gated { before_commit: Some(Semaphore::new(0)), ..Gated::default() });
    let store = remembering(&inner, 100);
    let change = tokio::spawn({
        let store = store.clone();
        async move { store.commit(adds("a")).await }
    });
    inner.until_at_gate(1).await;
    assert_eq!(names(&*store).await, [""; 0]);
    inner.before_commit.as_ref().expect("there is a gate").add_permits(1);
    change.await??;
    assert_eq!(names(&*store).await, ["a@example.org"]);
    Ok(())
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_no_list_from_before_its_change() -> TestResult {
    let inner = Arc::new(Gated { before_commit: Some(Semaphore::new(0)), ..Gated::default() });
    let store = remembering(&inner, 100);
    let change = tokio::spawn({
        let store = store.clone();
        async move { store.commit(adds("a")).await }
    });
    inner.until_at_gate(1).await;
    change.abort();
    assert_eq!(names(&*store).await, [""; 0]);
    inner.before_commit.as_ref().expect("there is a gate").add_permits(1);
    let done = async {
        while names(&*store).await.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), done).await?;
    Ok(())
}

#[tokio::test]
async fn it_remembers_no_more_lists_than_it_may() -> TestResult {
    let inner = Arc::new(Gated::default());
    let store = remembering(&inner, 2 * SHARDS);
    for number in 0..50 * SHARDS {
        store.threepids(&UserId::parse(&format!("@u{number}:example.org"))?).await?;
    }
    let remembered: usize =
        (0..SHARDS).filter_map(|place| store.memory.shard(place)).map(|shard| shard.lists.len()).sum();
    assert!((1..=2 * SHARDS).contains(&remembered), "{remembered}");
    Ok(())
}
