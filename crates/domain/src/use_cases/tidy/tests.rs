#![expect(clippy::unwrap_used, reason = "a test that meets nonsense of its own fails")]

use super::*;
use crate::model::{Challenge, Sid};
use crate::ports::Store as _;
use crate::testing::{Fixture, Reply, RowState};
use crate::use_cases::{AddError, Delivered};

const HOUR: Duration = Duration::from_secs(60 * 60);
const MS: Duration = Duration::from_millis(1);
const ALICE: &str = "@alice:example.org";
const BOB: &str = "@bob:example.org";
const ADDRESS: &str = "a@example.org";
const ID: &str = "id.example";

fn housekeeper(fixture: &Fixture) -> Housekeeper {
    let (store, clock) = (fixture.store.clone(), fixture.clock.clone());
    Housekeeper::new(store, clock, Lifetimes::default(), Retention::default())
}

/// Removes all that is due; how many of each.
async fn tidied(fixture: &Fixture) -> Vec<(&'static str, usize)> {
    let housekeeper = housekeeper(fixture);
    let mut tidied = Vec::new();
    for what in Perishable::ALL {
        match housekeeper.tidy(what).await.unwrap() {
            0 => {}
            count => tidied.push((what.as_str(), count)),
        }
    }
    tidied
}

#[tokio::test]
async fn whoever_repeats_an_add_is_told_the_same_for_a_day_at_least_after_the_last_moment_to_spend_the_proof()
{
    let fixture = Fixture::new();
    let sid = fixture.proven(ADDRESS, "secret").await;
    fixture.deliver().await;
    // The last moment at which the proof can be spent.
    fixture.clock.advance(24 * HOUR - MS);
    fixture.add(ALICE, &sid, "secret").await.unwrap();
    fixture.clock.advance(24 * HOUR);
    assert_eq!(tidied(&fixture).await, []);
    fixture.add(ALICE, &sid, "secret").await.unwrap();
    fixture.clock.advance(2 * HOUR);
    assert_eq!(tidied(&fixture).await, [("sessions", 1)]);
    // Neither its account nor another one can spend it once more.
    for user in [ALICE, BOB] {
        assert!(matches!(fixture.add(user, &sid, "secret").await, Err(AddError::AuthFailed)), "{user}");
    }
    assert_eq!(fixture.store.all_threepids().len(), 1);
}

#[tokio::test]
async fn a_session_whose_link_is_good_is_kept_however_long_ago_it_was_opened() {
    let fixture = Fixture::new();
    let sid = fixture.request(ADDRESS, "secret", 1).await.unwrap();
    for attempt in 2..=300 {
        fixture.clock.advance(HOUR - MS);
        assert_eq!(fixture.request(ADDRESS, "secret", attempt).await.unwrap(), sid);
        fixture.deliver().await;
        assert!(tidied(&fixture).await.iter().all(|(what, _)| *what == "settled_messages"));
    }
    fixture.submit(&sid, fixture.newest_token(&sid)).await.unwrap();
    fixture.add(ALICE, &sid, "secret").await.unwrap();
}

#[tokio::test]
async fn a_request_for_a_session_that_has_left_opens_a_new_one() {
    let fixture = Fixture::new();
    let old = fixture.request(ADDRESS, "secret", 1).await.unwrap();
    fixture.clock.advance(50 * HOUR + MS);
    assert_eq!(tidied(&fixture).await, [("sessions", 1)]);
    let new = fixture.request(ADDRESS, "secret", 1).await.unwrap();
    assert_ne!(new, old);
    assert_eq!(fixture.store.sessions().len(), 1);
}

#[tokio::test]
async fn an_identity_servers_proof_stays_spent_for_as_long_as_anybody_could_present_it() {
    let fixture = Fixture::trusting();
    let sid = fixture.proven_at(ID, ADDRESS, "secret");
    fixture.contacts.add(Fixture::add_from(ID, ALICE, &sid, "secret", false)).await.unwrap();
    // Each time the link is clicked again, the server calls the proof a new one.
    for _ in 0..30 {
        fixture.clock.advance(24 * HOUR);
        assert_eq!(tidied(&fixture).await, []);
        fixture.identity_servers.prove(&Fixture::server(ID), &sid, fixture.clock.now());
        let stolen = fixture.contacts.add(Fixture::add_from(ID, BOB, &sid, "secret", false)).await;
        assert!(matches!(stolen, Err(AddError::AuthFailed)), "{stolen:?}");
        fixture.contacts.add(Fixture::add_from(ID, ALICE, &sid, "secret", false)).await.unwrap();
    }
    fixture.clock.advance(24 * HOUR + MS);
    assert_eq!(tidied(&fixture).await, [("spent_proofs", 1)]);
}

#[tokio::test]
async fn a_challenge_leaves_after_a_week_and_is_then_as_good_as_never_passed_on() {
    let fixture = Fixture::new();
    let challenge = |session: &str| Challenge {
        session: session.to_owned(),
        user_id: Fixture::user(ALICE),
        sid: Sid::new("sid"),
        issued_at: fixture.clock.now(),
    };
    let (spent, unspent) = (challenge("spent"), challenge("unspent"));
    let unit = crate::model::UnitOfWork::new().put_challenge(spent.clone()).put_challenge(unspent);
    fixture.store.commit(unit.spend_challenge(spent)).await.unwrap();
    fixture.clock.advance(7 * 24 * HOUR);
    assert_eq!(tidied(&fixture).await, []);
    fixture.clock.advance(MS);
    assert_eq!(tidied(&fixture).await, [("challenges", 2)]);
    for session in ["spent", "unspent"] {
        assert_eq!(fixture.store.challenge(session).await.unwrap(), None);
    }
}

#[tokio::test]
async fn messages_that_are_owed_or_dead_stay_and_settled_ones_leave_after_a_week() {
    let fixture = Fixture::new();
    for (address, reply) in [("sent@example.org", None), ("dead@example.org", Some(Reply::Permanent))] {
        reply.into_iter().for_each(|reply| fixture.mailer.next_is(reply));
        fixture.request(address, "secret", 1).await.unwrap();
        fixture.deliver().await;
    }
    fixture.request("late@example.org", "secret", 1).await.unwrap();
    fixture.clock.advance(HOUR);
    assert_eq!(fixture.deliver().await, [Delivered::Expired]);
    fixture.request("owed@example.org", "secret", 1).await.unwrap();
    fixture.clock.advance(7 * 24 * HOUR);
    assert_eq!(tidied(&fixture).await, [("sessions", 4), ("settled_messages", 1)]);
    fixture.clock.advance(MS);
    assert_eq!(tidied(&fixture).await, [("settled_messages", 1)]);
    fixture.clock.advance(1000 * 24 * HOUR);
    assert_eq!(tidied(&fixture).await, []);
    let states: Vec<_> = fixture.store.outbox_rows().into_iter().map(|row| row.state).collect();
    assert!(matches!(*states, [RowState::Dead(_), RowState::Owed]), "{states:?}");
}

#[tokio::test]
async fn the_audit_trail_is_kept_for_a_year() {
    let fixture = Fixture::new();
    let sid = fixture.proven(ADDRESS, "secret").await;
    fixture.deliver().await;
    fixture.add(ALICE, &sid, "secret").await.unwrap();
    fixture.clock.advance(Retention::default().audit_entries);
    assert!(tidied(&fixture).await.iter().all(|(what, _)| *what != "audit_entries"));
    fixture.clock.advance(MS);
    assert_eq!(tidied(&fixture).await, [("audit_entries", 1)]);
}

#[tokio::test]
async fn one_batch_is_bounded() {
    let fixture = Fixture::new();
    for number in 0..=BATCH {
        fixture.request(&format!("a{number}@example.org"), "secret", 1).await.unwrap();
    }
    fixture.clock.advance(100 * HOUR);
    let housekeeper = housekeeper(&fixture);
    assert_eq!(housekeeper.tidy(Perishable::Sessions).await.unwrap(), BATCH);
    assert_eq!(housekeeper.tidy(Perishable::Sessions).await.unwrap(), 1);
    assert_eq!(housekeeper.tidy(Perishable::Sessions).await.unwrap(), 0);
}
