//! The kits run on the fakes, and are shown to fail on stores that break their promises.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;

use super::{Backend, BoxFuture, MailBackend, outbox as outbox_kit, store as store_kit};
use crate::model::{
    Address, AuditEntry, AuditQuery, Backlog, Binding, Challenge, Change, Claimed, IdentityServerName,
    KeyedHash, LeaseId, MessageId, RemoteSession, Settlement, Sid, SpentProof, Threepid, Timestamp,
    UnitOfWork, UserId, ValidationSession,
};
use crate::ports::{CommitError, Conflict, Outbox, Store, Unavailable};
use crate::testing::{MemoryStore, RecordingMailer};

mod sms_sender;

async fn memory() -> Backend {
    let store = Arc::new(MemoryStore::new());
    Backend::new(store.clone(), store.clone())
        .kept_by(store.clone())
        .shown_by(store.clone())
        .asked_by(store.clone())
        .erased_by(store)
}

async fn recording() -> MailBackend {
    let mailer = Arc::new(RecordingMailer::default());
    MailBackend { mailer: mailer.clone(), inbox: mailer.clone(), hop: Some(mailer), keep: Box::new(()) }
}

mod store {
    crate::store_contract!(super::memory());
}

mod outbox {
    crate::outbox_contract!(super::memory());
}

mod housekeeping {
    crate::housekeeping_contract!(super::memory());
}

mod account_records {
    crate::account_records_contract!(super::memory());
}

mod erasures {
    crate::erasures_contract!(super::memory());
}

mod outbox_records {
    crate::outbox_records_contract!(super::memory());
}

mod mailer {
    crate::mailer_contract!(super::recording());
}

mod mail_hop {
    crate::mail_hop_contract!(super::recording());
}

/// A case that no macro lists would never run.
#[test]
fn every_case_of_a_kit_is_run_by_its_macro() {
    let macros = include_str!("mod.rs");
    for kit in [
        include_str!("store.rs"),
        include_str!("store/audit.rs"),
        include_str!("store/elsewhere.rs"),
        include_str!("outbox.rs"),
        include_str!("account_records.rs"),
        include_str!("erasures.rs"),
        include_str!("housekeeping.rs"),
        include_str!("outbox_records.rs"),
        include_str!("mailer.rs"),
        include_str!("sms_sender.rs"),
    ] {
        let cases = kit.lines().filter_map(|line| line.strip_prefix("pub async fn ")?.split_once('('));
        let missing: Vec<_> = cases.map(|(name, _)| name).filter(|name| !macros.contains(name)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}

/// One promise that a store breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    /// Looks whether the address is free, and takes it later without looking again.
    ChecksThenInserts,
    /// Overwrites whatever revision is stored.
    IgnoresRevisions,
    /// Lets one key have two sessions.
    AllowsASecondSession,
    /// Commits each change on its own.
    CommitsOneByOne,
    /// Loses messages.
    LosesMessages,
    /// Lists in the wrong order.
    ListsBackwards,
    /// Spends a proof or a challenge again.
    SpendsAgain,
    /// Looks only whether a challenge is unspent, not whose it is.
    ForgetsWhoWasAsked,
    /// Takes an address from whoever owns it.
    TakesFromAnybody,
    /// Cancels nothing that is owed.
    CancelsNothing,
    /// Remembers removals that took nothing.
    RemembersWhatWasNot,
    /// Remembers changes that were not made.
    RemembersBeforehand,
    /// Remembers unbinds of accounts that were erased.
    RemembersTheErased,
    /// Claims hold nothing.
    LeasesNothing,
    /// Says yes to every settlement.
    SettlesEverything,
    /// Tries at once what should wait.
    RetriesAtOnce,
    /// Counts messages as owed only until they are claimed.
    CountsTheUnclaimed,
    /// Hears only what happens while it listens.
    SleepsThroughBells,
}

/// A store that keeps every promise but one.
struct Broken {
    inner: MemoryStore,
    flaw: Flaw,
    lookers: AtomicUsize,
}

fn broken(flaw: Flaw) -> Backend {
    let store = Arc::new(Broken { inner: MemoryStore::new(), flaw, lookers: AtomicUsize::new(0) });
    Backend::new(store.clone(), store)
}

impl Broken {
    async fn commit_change(&self, change: Change) -> Result<(), CommitError> {
        self.inner.commit(UnitOfWork::from_iter([change])).await
    }

    /// Writes what another may have written meanwhile, and does not notice.
    async fn check_then_insert(&self, unit: UnitOfWork) -> Result<(), CommitError> {
        for change in unit.changes() {
            if let Change::PutThreepid(threepid) = change {
                if self.inner.owner(&threepid.address).await?.is_some_and(|owner| owner != threepid.user_id) {
                    return Err(CommitError::Conflict(Conflict::AddressOwned));
                }
                // The moment between look and write, made long enough for all sixteen to look.
                self.lookers.fetch_add(1, Ordering::SeqCst);
                while !self.lookers.load(Ordering::SeqCst).is_multiple_of(16) {
                    tokio::task::yield_now().await;
                }
            }
        }
        match self.inner.commit(unit).await {
            Err(CommitError::Conflict(Conflict::AddressOwned)) => Ok(()),
            other => other,
        }
    }
}

#[async_trait]
impl Store for Broken {
    async fn session(&self, sid: &Sid) -> Result<Option<ValidationSession>, Unavailable> {
        self.inner.session(sid).await
    }

    async fn current_session(&self, key: KeyedHash) -> Result<Option<ValidationSession>, Unavailable> {
        self.inner.current_session(key).await
    }

    async fn owner(&self, address: &Address) -> Result<Option<UserId>, Unavailable> {
        self.inner.owner(address).await
    }

    async fn threepids(&self, user: &UserId) -> Result<Vec<Threepid>, Unavailable> {
        let mut threepids = self.inner.threepids(user).await?;
        if self.flaw == Flaw::ListsBackwards {
            threepids.reverse();
        }
        Ok(threepids)
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

    async fn commit(&self, unit: UnitOfWork) -> Result<(), CommitError> {
        match self.flaw {
            Flaw::ChecksThenInserts => self.check_then_insert(unit).await,
            Flaw::CommitsOneByOne => {
                for change in unit.into_changes() {
                    self.commit_change(change).await?;
                }
                Ok(())
            }
            Flaw::IgnoresRevisions => {
                let mut fresh = Vec::new();
                for change in unit.into_changes() {
                    fresh.push(match change {
                        Change::PutSession(session) => {
                            let stored = self.inner.session(session.sid()).await?;
                            let mut record = session.record().clone();
                            record.revision = stored.map_or(0, |stored| stored.record().revision);
                            Change::PutSession(ValidationSession::from_record(record))
                        }
                        other => other,
                    });
                }
                self.inner.commit(fresh.into_iter().collect()).await
            }
            Flaw::AllowsASecondSession => match self.inner.commit(unit.clone()).await {
                Err(CommitError::Conflict(Conflict::SessionExists)) => {
                    let supersede = |change| match change {
                        Change::PutSession(mut session) => {
                            session.supersede();
                            Change::PutSession(session)
                        }
                        other => other,
                    };
                    let superseded = unit.into_changes().into_iter().map(supersede).collect();
                    self.inner.commit(superseded).await
                }
                other => other,
            },
            Flaw::LosesMessages => {
                let is_kept = |change: &Change| !matches!(change, Change::Enqueue(_));
                let kept = unit.into_changes().into_iter().filter(is_kept).collect();
                self.inner.commit(kept).await
            }
            Flaw::SpendsAgain => match self.inner.commit(unit.clone()).await {
                Err(CommitError::Conflict(Conflict::ProofSpent | Conflict::ChallengeSpent)) => {
                    let spends =
                        |change: &Change| matches!(change, Change::SpendProof(_) | Change::SpendChallenge(_));
                    let rest = unit.into_changes().into_iter().filter(|change| !spends(change)).collect();
                    self.inner.commit(rest).await
                }
                other => other,
            },
            Flaw::ForgetsWhoWasAsked => {
                let mut changes = unit.into_changes();
                for change in &mut changes {
                    if let Change::SpendChallenge(challenge) = change
                        && let Some(known) = self.inner.challenge(&challenge.session).await?
                    {
                        *challenge = known;
                    }
                }
                self.inner.commit(changes.into_iter().collect()).await
            }
            Flaw::TakesFromAnybody => {
                let mut changes = unit.into_changes();
                for change in &mut changes {
                    if let Change::RemoveThreepid { user_id, address, .. } = change
                        && let Some(owner) = self.inner.owner(address).await?
                    {
                        *user_id = owner;
                    }
                }
                self.inner.commit(changes.into_iter().collect()).await
            }
            Flaw::CancelsNothing => {
                let is_kept = |change: &Change| !matches!(change, Change::CancelUnbind(_));
                let kept = unit.into_changes().into_iter().filter(is_kept).collect();
                self.inner.commit(kept).await
            }
            Flaw::RemembersWhatWasNot => {
                let mut changes = Vec::new();
                for change in unit.into_changes() {
                    if let Change::RemoveThreepid { user_id, address, audit: Some(entry) } = change {
                        changes.push(Change::RemoveThreepid { user_id, address, audit: None });
                        changes.push(Change::Audit(entry));
                    } else {
                        changes.push(change);
                    }
                }
                self.inner.commit(changes.into_iter().collect()).await
            }
            Flaw::RemembersTheErased => {
                let plain = |change| match change {
                    Change::AuditUnbind { entry, .. } => Change::Audit(entry),
                    other => other,
                };
                self.inner.commit(unit.into_changes().into_iter().map(plain).collect()).await
            }
            Flaw::RemembersBeforehand => {
                let is_entry = |change: &Change| matches!(change, Change::Audit(_));
                let (entries, rest): (Vec<_>, Vec<_>) = unit.into_changes().into_iter().partition(is_entry);
                self.inner.commit(entries.into_iter().collect()).await?;
                self.inner.commit(rest.into_iter().collect()).await
            }
            _ => self.inner.commit(unit).await,
        }
    }

    async fn audit_trail(&self, query: AuditQuery) -> Result<Vec<AuditEntry>, Unavailable> {
        let mut entries = self.inner.audit_trail(query).await?;
        if self.flaw == Flaw::ListsBackwards {
            entries.reverse();
        }
        Ok(entries)
    }

    async fn check(&self) -> Result<(), Unavailable> {
        self.inner.check().await
    }
}

#[async_trait]
impl Outbox for Broken {
    async fn claim(
        &self,
        now: Timestamp,
        lease: Duration,
        lease_id: LeaseId,
        limit: usize,
    ) -> Result<Vec<Claimed>, Unavailable> {
        let lease = if self.flaw == Flaw::LeasesNothing { Duration::ZERO } else { lease };
        self.inner.claim(now, lease, lease_id, limit).await
    }

    async fn settle(
        &self,
        id: &MessageId,
        lease_id: &LeaseId,
        now: Timestamp,
        settlement: Settlement,
    ) -> Result<bool, Unavailable> {
        let settlement = match settlement {
            Settlement::Retry { reason, .. } if self.flaw == Flaw::RetriesAtOnce => {
                Settlement::Retry { at: now, reason }
            }
            as_it_is => as_it_is,
        };
        let settled = self.inner.settle(id, lease_id, now, settlement).await?;
        Ok(settled || self.flaw == Flaw::SettlesEverything)
    }

    async fn backlog(&self) -> Result<Vec<Backlog>, Unavailable> {
        let mut backlog = self.inner.backlog().await?;
        if self.flaw == Flaw::CountsTheUnclaimed {
            let claimed = self.inner.outbox_rows().iter().filter(|row| row.lease.is_some()).count();
            for of in &mut backlog {
                of.owed = of.owed.saturating_sub(u64::try_from(claimed).unwrap_or(u64::MAX));
            }
        }
        Ok(backlog)
    }

    async fn woken(&self) {
        if self.flaw == Flaw::SleepsThroughBells {
            pending::<()>().await;
        }
        self.inner.woken().await;
    }
}

fn spawn(task: BoxFuture<()>) -> BoxFuture<()> {
    let task = tokio::spawn(task);
    Box::pin(async move { assert!(task.await.is_ok(), "a task of the case panicked") })
}

/// Whether a case fails on a backend, as a test that panics.
macro_rules! catches {
    ($kit:ident::$case:ident, $flaw:expr $(, $spawn:expr)?) => {{
        let backend = broken($flaw);
        let run = tokio::spawn(async move { $kit::$case(&backend $(, $spawn)?).await });
        run.await.is_err_and(|error| error.is_panic())
    }};
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_look_before_the_write_passes_one_by_one_and_fails_at_once() {
    let flaw = Flaw::ChecksThenInserts;
    assert!(!catches!(store_kit::an_address_belongs_to_whoever_added_it_first, Flaw::ListsBackwards));
    assert!(catches!(store_kit::two_accounts_that_add_one_address_at_once_have_one_winner, flaw, spawn));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_store_without_revisions_is_caught() {
    assert!(catches!(store_kit::a_session_of_another_revision_is_stale, Flaw::IgnoresRevisions));
    assert!(catches!(store_kit::one_revision_is_replaced_once, Flaw::IgnoresRevisions, spawn));
    assert!(catches!(store_kit::one_sid_used_twice_at_once_opens_one_session, Flaw::IgnoresRevisions, spawn));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_store_that_lets_one_key_have_two_sessions_is_caught() {
    let flaw = Flaw::AllowsASecondSession;
    assert!(catches!(store_kit::a_second_current_session_under_one_key_is_refused, flaw));
    assert!(catches!(store_kit::one_key_used_twice_at_once_opens_one_session, flaw, spawn));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_store_that_commits_changes_one_by_one_is_caught() {
    let flaw = Flaw::CommitsOneByOne;
    assert!(catches!(store_kit::a_unit_whose_third_change_conflicts_changes_nothing, flaw));
    assert!(catches!(store_kit::a_unit_is_applied_in_its_order, flaw));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_store_that_loses_messages_or_order_is_caught() {
    assert!(catches!(store_kit::a_message_is_claimable_once_its_unit_is_committed, Flaw::LosesMessages));
    assert!(catches!(store_kit::threepids_are_listed_oldest_first_then_by_address, Flaw::ListsBackwards));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_store_that_believes_twice_or_the_wrong_one_is_caught() {
    let flaw = Flaw::SpendsAgain;
    assert!(catches!(store_kit::an_identity_servers_proof_is_spent_once, flaw));
    assert!(catches!(
        store_kit::an_identity_servers_proof_presented_many_times_at_once_is_spent_once,
        flaw,
        spawn
    ));
    assert!(catches!(store_kit::a_challenge_answered_many_times_at_once_is_spent_once, flaw, spawn));
    assert!(catches!(store_kit::a_challenge_that_is_remembered_is_not_passed_on_anew, flaw));
    assert!(catches!(store_kit::a_challenge_is_spent_once_by_its_user_for_its_sid, Flaw::ForgetsWhoWasAsked));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_store_that_removes_too_much_or_too_little_is_caught() {
    let flaw = Flaw::TakesFromAnybody;
    assert!(catches!(store_kit::an_address_is_taken_only_from_the_account_that_is_named, flaw));
    let flaw = Flaw::CancelsNothing;
    assert!(catches!(store_kit::an_owed_unbind_is_cancelled_by_its_binding_claimed_or_not, flaw));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_store_that_lets_half_a_unit_about_other_servers_through_is_caught() {
    assert!(catches!(store_kit::a_unit_about_other_servers_is_whole_or_nothing, Flaw::CommitsOneByOne));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_store_whose_audit_trail_is_not_what_happened_is_caught() {
    let flaw = Flaw::RemembersWhatWasNot;
    assert!(catches!(store_kit::a_removal_that_took_nothing_is_not_remembered, flaw));
    assert!(catches!(
        store_kit::an_address_removed_many_times_at_once_is_remembered_as_removed_once,
        flaw,
        spawn
    ));
    let flaw = Flaw::RemembersTheErased;
    assert!(catches!(
        store_kit::an_unbind_done_while_one_that_leaves_nothing_is_owed_is_not_remembered,
        flaw
    ));
    let flaw = Flaw::RemembersBeforehand;
    assert!(catches!(store_kit::an_entry_stands_or_falls_with_the_change_that_it_tells_of, flaw));
    assert!(catches!(store_kit::the_audit_trail_is_told_newest_first, Flaw::ListsBackwards));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_outbox_without_leases_is_caught() {
    let flaw = Flaw::LeasesNothing;
    assert!(catches!(outbox_kit::a_claimed_message_is_not_claimed_again_before_its_lease_ends, flaw));
    assert!(catches!(outbox_kit::a_lease_has_one_heir, flaw, spawn));
    assert!(catches!(outbox_kit::leases_and_counts_outlive_a_restart, flaw));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_outbox_that_settles_wrongly_is_caught() {
    assert!(catches!(outbox_kit::a_lost_lease_settles_nothing, Flaw::SettlesEverything));
    assert!(catches!(outbox_kit::a_message_is_settled_once_per_claim, Flaw::SettlesEverything));
    assert!(catches!(outbox_kit::a_message_to_be_tried_again_waits_for_its_time, Flaw::RetriesAtOnce));
    assert!(catches!(outbox_kit::what_is_owed_and_what_is_dead_is_counted_by_kind, Flaw::CountsTheUnclaimed));
}

#[test]
fn an_outbox_that_sleeps_through_what_came_before_is_caught() {
    let woken = |flaw| {
        let backend = broken(flaw);
        outbox_kit::woken_returns_for_a_message_owed_just_before(&backend).now_or_never()
    };
    assert_eq!(woken(Flaw::ListsBackwards), Some(()), "in memory nothing waits");
    assert_eq!(woken(Flaw::SleepsThroughBells), None);
}
