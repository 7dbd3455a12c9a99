#![expect(clippy::unwrap_used, reason = "a test that meets nonsense of its own fails")]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::model::{SessionState, Token, ValidationSession};
use crate::ports::MockStore;
use crate::testing::{CommitFailure, FixedClock, Fixture};
use crate::use_cases::interleaving::{at_once, contacts};

const HOUR: Duration = Duration::from_secs(60 * 60);
const ADDRESS: &str = "shared@example.org";
const ALICE: &str = "@alice:example.org";
const BOB: &str = "@bob:example.org";

fn on(store: MockStore) -> Contacts {
    Fixture::new().contacts_on(Arc::new(store))
}

fn down() -> Unavailable {
    Unavailable::new("store", "down")
}

async fn listed(fixture: &Fixture, user: &str) -> Vec<Threepid> {
    fixture.contacts.list(&Fixture::user(user)).await.unwrap()
}

fn session(fixture: &Fixture, sid: &Sid) -> ValidationSession {
    fixture.store.sessions().into_iter().find(|session| session.sid() == sid).unwrap()
}

fn is_unspent(fixture: &Fixture, sid: &Sid) -> bool {
    matches!(session(fixture, sid).record().state, SessionState::Validated { .. })
}

#[tokio::test]
async fn a_proven_address_is_added_and_listed_and_its_proof_is_spent() {
    let fixture = Fixture::new();
    assert_eq!(listed(&fixture, ALICE).await, []);
    let sid = fixture.proven(ADDRESS, "secret").await;
    fixture.clock.advance(Duration::from_secs(9));
    fixture.add(ALICE, &sid, "secret").await.unwrap();
    let expected = Threepid {
        user_id: Fixture::user(ALICE),
        address: Fixture::address(ADDRESS),
        validated_at: FixedClock::START,
        added_at: FixedClock::START.plus(Duration::from_secs(9)),
    };
    assert_eq!(listed(&fixture, ALICE).await, [expected]);
    let spent = SessionState::Consumed { validated_at: FixedClock::START, by: Fixture::user(ALICE) };
    assert_eq!(session(&fixture, &sid).record().state, spent);
}

#[tokio::test]
async fn what_proves_nothing_to_the_caller_adds_nothing() {
    let fixture = Fixture::new();
    let unproven = fixture.request("unproven@example.org", "secret", 1).await.unwrap();
    let spent = fixture.proven("spent@example.org", "secret").await;
    fixture.add(BOB, &spent, "secret").await.unwrap();
    let burnt = fixture.request("burnt@example.org", "secret", 1).await.unwrap();
    for _ in 0..5 {
        let _ = fixture.submit(&burnt, Token::new("wrong")).await;
    }
    let proven = fixture.proven(ADDRESS, "secret").await;
    let unknown = Sid::new("unknown");
    for (sid, secret) in [
        (&unproven, "secret"),
        (&spent, "secret"),
        (&burnt, "secret"),
        (&proven, "other"),
        (&unknown, "secret"),
    ] {
        let before = fixture.store.sessions();
        assert!(matches!(fixture.add(ALICE, sid, secret).await, Err(AddError::AuthFailed)), "{sid} {secret}");
        assert_eq!(fixture.store.sessions(), before, "{sid} {secret}");
    }
    assert_eq!(listed(&fixture, ALICE).await, []);
}

#[tokio::test]
async fn a_proof_is_good_for_a_day() {
    let fixture = Fixture::new();
    let (early, late) =
        (fixture.proven("a@example.org", "s").await, fixture.proven("b@example.org", "s").await);
    fixture.clock.advance(HOUR * 24 - Duration::from_millis(1));
    assert!(fixture.add(ALICE, &early, "s").await.is_ok());
    fixture.clock.advance(Duration::from_millis(1));
    assert!(matches!(fixture.add(ALICE, &late, "s").await, Err(AddError::AuthFailed)));
}

#[tokio::test]
async fn the_same_add_again_is_harmless() {
    let fixture = Fixture::new();
    let sid = fixture.proven(ADDRESS, "secret").await;
    fixture.add(ALICE, &sid, "secret").await.unwrap();
    let before = listed(&fixture, ALICE).await;
    fixture.clock.advance(HOUR * 48);
    fixture.add(ALICE, &sid, "secret").await.unwrap();
    assert_eq!(listed(&fixture, ALICE).await, before);
    assert!(matches!(fixture.add(ALICE, &sid, "other").await, Err(AddError::AuthFailed)));
}

#[tokio::test]
async fn a_spent_proof_does_not_bring_back_an_address_that_is_gone() {
    let fixture = Fixture::new();
    let sid = fixture.proven(ADDRESS, "secret").await;
    fixture.add(ALICE, &sid, "secret").await.unwrap();
    let spent = session(&fixture, &sid);
    for owner in [None, Some(Fixture::user(BOB))] {
        let (spent, mut store) = (spent.clone(), MockStore::new());
        store.expect_session().returning(move |_| Ok(Some(spent.clone())));
        store.expect_owner().times(1).returning(move |_| Ok(owner.clone()));
        let answer = on(store).add(Fixture::add_of(ALICE, &sid, "secret")).await;
        assert!(matches!(answer, Err(AddError::AuthFailed)));
    }
}

#[tokio::test]
async fn another_accounts_address_is_refused_and_the_proof_is_kept() {
    let fixture = Fixture::new();
    let (hers, his) = (fixture.proven(ADDRESS, "alice").await, fixture.proven(ADDRESS, "bob").await);
    fixture.add(ALICE, &hers, "alice").await.unwrap();
    assert!(matches!(fixture.add(BOB, &his, "bob").await, Err(AddError::InUse)));
    assert!(is_unspent(&fixture, &his));
    assert_eq!(listed(&fixture, BOB).await, []);
    assert_eq!(listed(&fixture, ALICE).await.len(), 1);
}

#[tokio::test]
async fn a_new_proof_of_ones_own_address_moves_validated_at_and_not_added_at() {
    let fixture = Fixture::new();
    let first = fixture.proven(ADDRESS, "first").await;
    let second = fixture.request(ADDRESS, "second", 1).await.unwrap();
    fixture.add(ALICE, &first, "first").await.unwrap();
    fixture.clock.advance(HOUR / 2);
    fixture.submit(&second, fixture.newest_token(&second)).await.unwrap();
    fixture.clock.advance(HOUR);
    fixture.add(ALICE, &second, "second").await.unwrap();
    let threepids = listed(&fixture, ALICE).await;
    assert_eq!(threepids.len(), 1);
    assert_eq!(threepids[0].added_at, FixedClock::START);
    assert_eq!(threepids[0].validated_at, FixedClock::START.plus(HOUR / 2));
}

#[tokio::test]
async fn a_store_that_fails_at_any_call_is_said_to_be_unavailable() {
    let fixture = Fixture::new();
    let sid = fixture.proven(ADDRESS, "secret").await;
    let proven = session(&fixture, &sid);
    let mut store = MockStore::new();
    store.expect_session().times(1).returning(|_| Err(down()));
    let answer = on(store).add(Fixture::add_of(ALICE, &sid, "secret")).await;
    assert!(matches!(answer, Err(AddError::Unavailable(_))), "session");

    let mut store = MockStore::new();
    store.expect_session().times(1).returning(move |_| Ok(Some(proven.clone())));
    store.expect_commit().times(1).returning(|_| Err(down().into()));
    let answer = on(store).add(Fixture::add_of(ALICE, &sid, "secret")).await;
    assert!(matches!(answer, Err(AddError::Unavailable(_))), "commit");

    fixture.add(ALICE, &sid, "secret").await.unwrap();
    let spent = session(&fixture, &sid);
    let mut store = MockStore::new();
    store.expect_session().times(1).returning(move |_| Ok(Some(spent.clone())));
    store.expect_owner().times(1).returning(|_| Err(down()));
    let answer = on(store).add(Fixture::add_of(ALICE, &sid, "secret")).await;
    assert!(matches!(answer, Err(AddError::Unavailable(_))), "owner");

    let mut store = MockStore::new();
    store.expect_threepids().times(1).returning(|_| Err(down()));
    assert!(on(store).list(&Fixture::user(ALICE)).await.is_err(), "threepids");
}

#[tokio::test]
async fn a_conflict_is_decided_anew_on_what_is_stored_by_then() {
    let fixture = Fixture::new();
    let sid = fixture.proven(ADDRESS, "secret").await;
    let proven = session(&fixture, &sid);
    fixture.add(BOB, &sid, "secret").await.unwrap();
    let spent = session(&fixture, &sid);
    let mut store = MockStore::new();
    let mut reads = vec![spent, proven.clone()];
    store.expect_session().times(2).returning(move |_| Ok(reads.pop()));
    store.expect_commit().times(1).returning(|_| Err(CommitError::Conflict(Conflict::StaleSession)));
    let answer = on(store).add(Fixture::add_of(ALICE, &sid, "secret")).await;
    assert!(matches!(answer, Err(AddError::AuthFailed)), "spent by another on the way");

    let mut store = MockStore::new();
    let mut answers = vec![Ok(()), Err(CommitError::Conflict(Conflict::StaleSession))];
    store.expect_session().times(2).returning(move |_| Ok(Some(proven.clone())));
    store.expect_commit().times(2).returning(move |unit| {
        assert_eq!(
            unit.changes().len(),
            3,
            "the proof is spent where the address is added and that is remembered"
        );
        answers.pop().unwrap()
    });
    assert!(on(store).add(Fixture::add_of(ALICE, &sid, "secret")).await.is_ok());
}

#[tokio::test]
async fn a_storm_of_conflicts_ends() {
    let fixture = Fixture::new();
    let sid = fixture.proven(ADDRESS, "secret").await;
    let proven = session(&fixture, &sid);
    let mut store = MockStore::new();
    store.expect_session().times(DECISIONS).returning(move |_| Ok(Some(proven.clone())));
    store.expect_commit().returning(|_| Err(CommitError::Conflict(Conflict::StaleSession)));
    let answer = on(store).add(Fixture::add_of(ALICE, &sid, "secret")).await;
    assert!(matches!(answer, Err(AddError::Unavailable(_))));
}

#[tokio::test]
async fn after_a_lost_answer_the_same_add_succeeds() {
    for failure in [CommitFailure::BeforeApply, CommitFailure::AfterApply] {
        let fixture = Fixture::new();
        let sid = fixture.proven(ADDRESS, "secret").await;
        fixture.store.fail_commits(1, failure);
        let lost = fixture.add(ALICE, &sid, "secret").await;
        assert!(matches!(lost, Err(AddError::Unavailable(_))), "{failure:?}");
        assert_eq!(is_unspent(&fixture, &sid), failure == CommitFailure::BeforeApply);
        fixture.add(ALICE, &sid, "secret").await.unwrap();
        assert_eq!(listed(&fixture, ALICE).await.len(), 1, "{failure:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_accounts_that_add_one_address_at_once_one_wins_and_the_other_keeps_its_proof() {
    for _ in 0..20 {
        let fixture = Fixture::new();
        let contacts = contacts(&fixture);
        let (hers, his) = (fixture.proven(ADDRESS, "alice").await, fixture.proven(ADDRESS, "bob").await);
        let adds = [Fixture::add_of(ALICE, &hers, "alice"), Fixture::add_of(BOB, &his, "bob")].map(|add| {
            let contacts = contacts.clone();
            async move { contacts.add(add).await }
        });
        let answers = at_once(adds).await;
        let (winner, loser) = if answers[0].is_ok() { (0, 1) } else { (1, 0) };
        assert!(answers[winner].is_ok() && matches!(answers[loser], Err(AddError::InUse)), "{answers:?}");
        assert_eq!(is_unspent(&fixture, &hers), winner == 1);
        assert_eq!(is_unspent(&fixture, &his), winner == 0);
        let owners: Vec<_> = fixture.store.all_threepids().into_iter().map(|t| t.user_id).collect();
        assert_eq!(owners, [Fixture::user([ALICE, BOB][winner])]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_same_add_at_once_succeeds_each_time_and_adds_once() {
    let fixture = Fixture::new();
    let sid = fixture.proven(ADDRESS, "secret").await;
    let contacts = contacts(&fixture);
    let answers = at_once((0..20).map(|_| {
        let (contacts, add) = (contacts.clone(), Fixture::add_of(ALICE, &sid, "secret"));
        async move { contacts.add(add).await }
    }))
    .await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(listed(&fixture, ALICE).await.len(), 1);
    assert_eq!(session(&fixture, &sid).record().revision, 3, "opened, proven, spent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_proof_presented_by_many_accounts_at_once_is_spent_by_one() {
    let fixture = Fixture::new();
    let sid = fixture.proven(ADDRESS, "secret").await;
    let contacts = contacts(&fixture);
    let answers = at_once((0..20).map(|user| {
        let (contacts, add) =
            (contacts.clone(), Fixture::add_of(&format!("@user{user}:example.org"), &sid, "secret"));
        async move { contacts.add(add).await }
    }))
    .await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1, "{answers:?}");
    let refused =
        |answer: &&Result<(), AddError>| matches!(answer, Err(AddError::AuthFailed | AddError::InUse));
    assert_eq!(answers.iter().filter(refused).count(), 19, "{answers:?}");
    assert_eq!(fixture.store.all_threepids().len(), 1);
}

mod generated {
    use proptest::prelude::*;

    use super::*;

    /// What clients do, in any order: two accounts, two addresses, three secrets.
    #[derive(Clone, Debug)]
    enum Act {
        Request { address: usize, secret: usize, attempt: u8 },
        Submit { session: usize, right: bool },
        Add { session: usize, user: usize, secret: usize },
        Wait(u32),
        LoseAnswers { after: bool },
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            3 => (0..2_usize, 0..3_usize, 0..4_u8)
                .prop_map(|(address, secret, attempt)| Act::Request { address, secret, attempt }),
            4 => (any::<usize>(), prop::bool::weighted(0.8))
                .prop_map(|(session, right)| Act::Submit { session, right }),
            5 => (any::<usize>(), 0..2_usize, 0..3_usize)
                .prop_map(|(session, user, secret)| Act::Add { session, user, secret }),
            1 => (0..100_000_000_u32).prop_map(Act::Wait),
            1 => any::<bool>().prop_map(|after| Act::LoseAnswers { after }),
        ]
    }

    proptest! {
        #[test]
        fn whatever_clients_do_an_address_has_one_owner_for_good_and_each_owner_a_proof(
            acts in prop::collection::vec(act(), 1..60),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let addresses = [ADDRESS, "other@example.org"];
                let (users, secrets) = ([ALICE, BOB], ["s1", "s2", "s3"]);
                let fixture = Fixture::new();
                let mut owners: HashMap<Address, UserId> = HashMap::new();
                for act in acts {
                    let sessions = fixture.store.sessions();
                    let pick = |which: usize| Some(sessions.get(which.checked_rem(sessions.len())?)?.sid().clone());
                    match act {
                        Act::Request { address, secret, attempt } => {
                            let owned = owners.contains_key(&Fixture::address(addresses[address]));
                            let answer = fixture.request(addresses[address], secrets[secret], attempt.into()).await;
                            prop_assert!(!owned || answer.is_err(), "no mail to an address in use");
                        }
                        Act::Submit { session, right } => {
                            if let Some(sid) = pick(session) {
                                let token = if right { fixture.newest_token(&sid) } else { Token::new("wrong") };
                                let answer = fixture.submit(&sid, token).await;
                                prop_assert!(right || answer.is_err());
                            }
                        }
                        Act::Add { session, user, secret } => {
                            if let Some(sid) = pick(session) {
                                let answer = fixture.add(users[user], &sid, secrets[secret]).await;
                                if answer.is_ok() {
                                    let stored = fixture.store.sessions();
                                    let proof = stored.iter().find(|session| *session.sid() == sid).unwrap();
                                    let spent = matches!(&proof.record().state,
                                        SessionState::Consumed { by, .. } if by.as_str() == users[user]);
                                    prop_assert!(spent);
                                }
                            }
                        }
                        Act::Wait(ms) => fixture.clock.advance(Duration::from_millis(ms.into())),
                        Act::LoseAnswers { after } => fixture.store.fail_commits(
                            1,
                            if after { CommitFailure::AfterApply } else { CommitFailure::BeforeApply },
                        ),
                    }
                    for threepid in fixture.store.all_threepids() {
                        let owner = owners.entry(threepid.address.clone()).or_insert(threepid.user_id.clone());
                        prop_assert_eq!(&*owner, &threepid.user_id, "an address never moves");
                        let proven = fixture.store.sessions().into_iter().any(|session| {
                            let by_owner = matches!(&session.record().state,
                                SessionState::Consumed { by, validated_at }
                                    if *by == threepid.user_id && *validated_at == threepid.validated_at);
                            by_owner && *session.address() == threepid.address
                        });
                        prop_assert!(proven, "whoever owns an address has spent a proof of it");
                    }
                    let listed = listed(&fixture, ALICE).await.len() + listed(&fixture, BOB).await.len();
                    prop_assert_eq!(listed, fixture.store.all_threepids().len());
                }
                Ok(())
            })?;
        }
    }
}
