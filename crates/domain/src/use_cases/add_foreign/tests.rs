#![expect(clippy::unwrap_used, reason = "a test that meets nonsense of its own fails")]

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::model::{AddressRules, RemoteRefusal, Rule, Sid, TrustedServer, TrustedServers};
use crate::ports::{IdentityServer, MockIdentityServer};
use crate::testing::{CommitFailure, FixedClock, Fixture, RowState, ServerReply};
use crate::use_cases::interleaving::{at_once, contacts};
use crate::use_cases::{Changes, ContactsPorts, Delete, DeprecatedAdd, Policy, UnbindResult};

const HOUR: Duration = Duration::from_secs(60 * 60);
const MS: Duration = Duration::from_millis(1);
const ID: &str = "id.example";
const ADDRESS: &str = "shared@example.org";
const ALICE: &str = "@alice:example.org";
const BOB: &str = "@bob:example.org";

/// A request with a session of `id.example`.
fn foreign(user: &str, sid: &Sid, bind: bool) -> Add {
    Fixture::add_from(ID, user, sid, "secret", bind)
}

fn refusal(status: u16, body: &Value) -> RemoteRefusal {
    RemoteRefusal { status, body: body.as_object().cloned().unwrap() }
}

/// The calls that reached identity servers, by name.
fn calls(fixture: &Fixture) -> Vec<&'static str> {
    fixture.identity_servers.asked().into_iter().map(|asked| asked.call).collect()
}

fn owners(fixture: &Fixture) -> Vec<String> {
    fixture.store.all_threepids().into_iter().map(|threepid| threepid.user_id.to_string()).collect()
}

fn states(fixture: &Fixture) -> Vec<BindingState> {
    fixture.store.all_bindings().into_iter().map(|binding| binding.state).collect()
}

fn published(fixture: &Fixture) -> Option<String> {
    let owner = fixture.identity_servers.published(&Fixture::server(ID), &Fixture::address(ADDRESS));
    owner.map(|owner| owner.to_string())
}

async fn is_unspent(fixture: &Fixture, sid: &Sid) -> bool {
    let ports = &fixture.ports;
    ports.store.spent_proof(&Fixture::server(ID), sid).await.unwrap().is_none()
}

/// The fixture's commands, asking these identity servers.
fn asking(fixture: &Fixture, identity_servers: impl IdentityServer + 'static) -> Contacts {
    let identity_servers = Arc::new(identity_servers);
    fixture.contacts_with(ContactsPorts { identity_servers, ..fixture.ports.clone() })
}

fn said(medium: &str, address: &str, at: Timestamp) -> RemoteValidation {
    RemoteValidation { medium: medium.to_owned(), address: address.to_owned(), validated_at: at }
}

#[tokio::test]
async fn an_identity_servers_word_adds_the_address_and_is_spent() {
    for (token, version_two) in [(Some("token"), true), (None, false)] {
        let fixture = Fixture::trusting();
        let sid = fixture.proven_at(ID, ADDRESS, "secret");
        fixture.clock.advance(HOUR);
        let add = Add {
            id_access_token: token.map(crate::model::IdAccessToken::new),
            ..foreign(ALICE, &sid, false)
        };
        fixture.contacts.add(add).await.unwrap();
        let expected = Threepid {
            user_id: Fixture::user(ALICE),
            address: Fixture::address(ADDRESS),
            validated_at: FixedClock::START,
            added_at: FixedClock::START.plus(HOUR),
        };
        assert_eq!(fixture.store.all_threepids(), [expected]);
        assert!(!is_unspent(&fixture, &sid).await);
        let asked = fixture.identity_servers.asked();
        assert_eq!((asked.len(), asked[0].call, asked[0].with_token), (1, "validated", version_two));
        assert_eq!((states(&fixture), published(&fixture)), (vec![], None));
    }
}

#[tokio::test]
async fn the_same_request_again_is_answered_from_the_record() {
    let fixture = Fixture::trusting();
    let sid = fixture.proven_at(ID, ADDRESS, "secret");
    fixture.contacts.add(foreign(ALICE, &sid, false)).await.unwrap();
    let before = fixture.store.all_threepids();
    fixture.clock.advance(48 * HOUR);
    fixture.contacts.add(foreign(ALICE, &sid, false)).await.unwrap();
    let other_secret = Fixture::add_from(ID, ALICE, &sid, "other", false);
    for other in [other_secret, foreign(BOB, &sid, false), foreign(BOB, &sid, true)] {
        assert!(matches!(fixture.contacts.add(other).await, Err(AddError::AuthFailed)));
    }
    assert_eq!(fixture.store.all_threepids(), before);
    assert_eq!(calls(&fixture), ["validated"], "the server was asked once");
}

#[tokio::test]
async fn a_spent_proof_does_not_bring_back_an_address_that_is_gone() {
    let fixture = Fixture::trusting();
    let sid = fixture.proven_at(ID, ADDRESS, "secret");
    fixture.contacts.add(foreign(ALICE, &sid, true)).await.unwrap();
    let delete =
        Delete { user_id: Fixture::user(ALICE), address: Fixture::address(ADDRESS), id_server: None };
    fixture.contacts.delete(delete).await.unwrap();
    for bind in [false, true] {
        let again = fixture.contacts.add(foreign(ALICE, &sid, bind)).await;
        assert!(matches!(again, Err(AddError::AuthFailed)));
    }
    assert_eq!((owners(&fixture), published(&fixture)), (vec![], None));
}

#[tokio::test]
async fn what_the_server_does_not_say_is_not_proven() {
    let fixture = Fixture::trusting();
    let (id, secret) = (Fixture::server(ID), Fixture::secret("secret"));
    let unproven = fixture.identity_servers.open(&id, &secret, &Fixture::address(ADDRESS));
    let proven = fixture.proven_at(ID, ADDRESS, "secret");
    for add in [
        foreign(ALICE, &unproven, true),
        foreign(ALICE, &Sid::new("unknown"), true),
        Fixture::add_from(ID, ALICE, &proven, "other", true),
        Fixture::add_from("validates.example", ALICE, &proven, "secret", false),
    ] {
        let answer = fixture.contacts.add(add.clone()).await;
        assert!(matches!(answer, Err(AddError::AuthFailed)), "{add:?}: {answer:?}");
    }
    for (status, errcode) in
        [(400, "M_SESSION_NOT_VALIDATED"), (404, "M_NO_VALID_SESSION"), (400, "M_SESSION_EXPIRED")]
    {
        let refusal = refusal(status, &json!({"errcode": errcode, "error": "no"}));
        fixture.identity_servers.next_is(ServerReply::Refused(refusal));
        let answer = fixture.contacts.add(foreign(ALICE, &proven, true)).await;
        assert!(matches!(answer, Err(AddError::AuthFailed)), "{errcode}");
    }
    let mut silent = MockIdentityServer::new();
    silent.expect_validated().times(1).returning(|_, _, _| Ok(None));
    let answer = asking(&fixture, silent).add(foreign(ALICE, &proven, true)).await;
    assert!(matches!(answer, Err(AddError::AuthFailed)), "200 without a medium");
    assert_eq!((owners(&fixture), states(&fixture)), (vec![], vec![]));
    assert!(is_unspent(&fixture, &proven).await);
}

#[tokio::test]
async fn a_word_is_good_for_a_day_and_five_minutes_ahead_count_as_now() {
    let now = FixedClock::START.plus(100 * HOUR);
    let back = |span: Duration| Timestamp::from_ms(now.as_ms() - u64::try_from(span.as_millis()).unwrap());
    for (validated_at, expected) in [
        (now, Some(now)),
        (back(MS), Some(back(MS))),
        (back(24 * HOUR - MS), Some(back(24 * HOUR - MS))),
        (back(24 * HOUR), None),
        (back(365 * 24 * HOUR), None),
        (Timestamp::from_ms(0), None),
        (now.plus(MS), Some(now)),
        (now.plus(HOUR / 12), Some(now)),
        (now.plus(HOUR / 12 + MS), None),
        (now.plus(365 * 24 * HOUR), None),
        (Timestamp::from_ms(u64::MAX), None),
    ] {
        let fixture = Fixture::trusting();
        fixture.clock.set(now);
        let sid = fixture.proven_at(ID, ADDRESS, "secret");
        fixture.identity_servers.says(&Fixture::server(ID), &sid, said("email", ADDRESS, validated_at));
        let answer = fixture.contacts.add(foreign(ALICE, &sid, false)).await;
        let added: Vec<_> = fixture.store.all_threepids().into_iter().map(|t| t.validated_at).collect();
        match expected {
            Some(expected) => assert_eq!((answer.is_ok(), added), (true, vec![expected]), "{validated_at:?}"),
            None => {
                assert!(matches!(answer, Err(AddError::AuthFailed)), "{validated_at:?}: {answer:?}");
                assert_eq!(added, []);
                assert!(is_unspent(&fixture, &sid).await);
            }
        }
    }
}

#[tokio::test]
async fn a_word_is_brought_into_canonical_form_or_proves_nothing() {
    for (medium, address, expected) in [
        ("email", " Shared@EXAMPLE.org ", Some("shared@example.org")),
        ("email", "x@xn--bcher-kva.example", Some("x@bücher.example")),
        ("msisdn", "447700900813", Some("447700900813")),
        ("email", "no address", None),
        ("email", "", None),
        ("email", "a@b@example.org", None),
        ("msisdn", "shared@example.org", None),
        ("m.carrier-pigeon", "shared@example.org", None),
        ("", "shared@example.org", None),
        ("Email", "shared@example.org", None),
    ] {
        let fixture = Fixture::trusting();
        let sid = fixture.proven_at(ID, ADDRESS, "secret");
        fixture.identity_servers.says(&Fixture::server(ID), &sid, said(medium, address, FixedClock::START));
        let answer = fixture.contacts.add(foreign(ALICE, &sid, false)).await;
        let added: Vec<_> =
            fixture.store.all_threepids().into_iter().map(|t| t.address.as_str().to_owned()).collect();
        assert_eq!(added.first().map(String::as_str), expected, "{medium} {address}");
        match expected {
            Some(_) => assert!(answer.is_ok()),
            None => assert!(matches!(answer, Err(AddError::AuthFailed)), "{medium} {address}: {answer:?}"),
        }
    }
}

#[tokio::test]
async fn the_operators_rules_hold_for_another_servers_word() {
    let rules = AddressRules::new(vec![], vec![Rule::domain("example.org").unwrap()]);
    let policy = Policy { rules, trusted: Fixture::trusted(), ..Policy::default() };
    let fixture = Fixture::with_policy(policy);
    let sid = fixture.proven_at(ID, ADDRESS, "secret");
    let answer = fixture.contacts.add(foreign(ALICE, &sid, true)).await;
    assert!(matches!(answer, Err(AddError::Denied)), "{answer:?}");
    assert_eq!((owners(&fixture), calls(&fixture)), (vec![], vec!["validated"]));
    assert!(is_unspent(&fixture, &sid).await);
}

#[tokio::test]
async fn a_session_of_ours_is_never_looked_up_elsewhere_and_never_bound() {
    let fixture = Fixture::trusting();
    let sid = fixture.proven(ADDRESS, "secret").await;
    let pending = fixture.request("pending@example.org", "secret", 1).await.unwrap();
    for refused in [Fixture::add_from(ID, ALICE, &sid, "other", true), foreign(ALICE, &pending, true)] {
        assert!(matches!(fixture.contacts.add(refused).await, Err(AddError::AuthFailed)));
    }
    fixture.contacts.add(foreign(ALICE, &sid, true)).await.unwrap();
    assert_eq!((owners(&fixture), states(&fixture)), (vec![ALICE.to_owned()], vec![]));
    assert_eq!(calls(&fixture), [""; 0]);
}

#[tokio::test]
async fn only_a_server_that_is_trusted_for_what_is_asked_is_asked() {
    let fixture = Fixture::trusting();
    for (server, bind) in [
        ("binds.example", false),
        ("binds.example", true),
        ("validates.example", true),
        ("stranger.example", false),
        ("id.example:8090", false),
    ] {
        let sid = fixture.proven_at(server, ADDRESS, "secret");
        let add = Fixture::add_from(server, ALICE, &sid, "secret", bind);
        let answer = fixture.contacts.add(add).await;
        assert!(matches!(answer, Err(AddError::ServerNotTrusted)), "{server} {bind}: {answer:?}");
    }
    let sid = fixture.proven_at(ID, ADDRESS, "secret");
    let nameless = fixture.add(ALICE, &sid, "secret").await;
    assert!(matches!(nameless, Err(AddError::IdServerMissing)));
    let binds = TrustedServer { name: Fixture::server(ID), validates: false, binds: true };
    let policy = Policy { trusted: TrustedServers::new(vec![binds]), ..Policy::default() };
    let nobody_validates = Fixture::with_policy(policy).add(ALICE, &sid, "secret").await;
    assert!(matches!(nobody_validates, Err(AddError::AuthFailed)), "naming a server would not help");
    assert_eq!((calls(&fixture), owners(&fixture)), (vec![], vec![]));

    let sid = fixture.proven_at("validates.example", ADDRESS, "secret");
    let add = Fixture::add_from("validates.example", ALICE, &sid, "secret", false);
    fixture.contacts.add(add).await.unwrap();
}

#[tokio::test]
async fn the_operators_switches_hold() {
    for (changes, deprecated_add, ours, theirs) in [
        (Changes::Forbidden, DeprecatedAdd::On, false, false),
        (Changes::Permitted, DeprecatedAdd::Off, false, false),
        (Changes::Permitted, DeprecatedAdd::IdentityServerOnly, false, true),
        (Changes::Permitted, DeprecatedAdd::On, true, true),
    ] {
        let before = Fixture::trusting();
        let own = before.proven("own@example.org", "secret").await;
        let policy = Policy { changes, deprecated_add, trusted: Fixture::trusted(), ..Policy::default() };
        let contacts = Contacts::new(before.ports.clone(), policy);
        let sid = before.proven_at(ID, ADDRESS, "secret");
        for (add, is_permitted) in
            [(Fixture::add_of(ALICE, &own, "secret"), ours), (foreign(ALICE, &sid, true), theirs)]
        {
            let answer = contacts.add(add).await;
            let what = format!("{changes:?} {deprecated_add:?}: {answer:?}");
            assert_eq!(answer.is_ok(), is_permitted, "{what}");
            assert!(is_permitted || matches!(answer, Err(AddError::ChangesForbidden)), "{what}");
        }
        assert_eq!(calls(&before).is_empty(), !theirs);
    }
}

#[tokio::test]
async fn a_refusal_is_passed_on_in_words_that_log_nobody_out_and_the_proof_is_kept() {
    let fixture = Fixture::trusting();
    let sid = fixture.proven_at(ID, ADDRESS, "secret");
    for (status, body, passed_status, passed_body) in [
        (
            403,
            json!({"errcode": "M_TERMS_NOT_SIGNED", "error": "sign"}),
            403,
            json!({"errcode": "M_TERMS_NOT_SIGNED", "error": "sign"}),
        ),
        (
            401,
            json!({"errcode": "M_UNAUTHORIZED", "error": "no", "soft_logout": true}),
            403,
            json!({"errcode": "M_FORBIDDEN", "error": "no"}),
        ),
        (403, json!({"errcode": "M_UNKNOWN_TOKEN"}), 403, json!({"errcode": "M_FORBIDDEN"})),
        (
            429,
            json!({"errcode": "M_LIMIT_EXCEEDED", "retry_after_ms": 7}),
            429,
            json!({"errcode": "M_LIMIT_EXCEEDED", "retry_after_ms": 7}),
        ),
    ] {
        fixture.identity_servers.next_is(ServerReply::Refused(refusal(status, &body)));
        match fixture.contacts.add(foreign(ALICE, &sid, false)).await {
            Err(AddError::Refused(passed)) => assert_eq!(passed, refusal(passed_status, &passed_body)),
            other => assert!(matches!(other, Err(AddError::Refused(_))), "{body}: {other:?}"),
        }
    }
    assert!(is_unspent(&fixture, &sid).await);
    fixture.contacts.add(foreign(ALICE, &sid, false)).await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_down_costs_no_proof() {
    let fixture = Fixture::trusting();
    let sid = fixture.proven_at(ID, ADDRESS, "secret");
    for reply in [ServerReply::Down, ServerReply::AnswerLost] {
        fixture.identity_servers.next_is(reply);
        let answer = fixture.contacts.add(foreign(ALICE, &sid, true)).await;
        assert!(matches!(answer, Err(AddError::Unavailable(_))), "{answer:?}");
        assert_eq!((owners(&fixture), states(&fixture)), (vec![], vec![]));
    }
    fixture.contacts.add(foreign(ALICE, &sid, true)).await.unwrap();
    assert_eq!(published(&fixture).as_deref(), Some(ALICE));
}

#[tokio::test]
async fn another_accounts_address_is_refused_and_the_proof_is_kept() {
    let fixture = Fixture::trusting();
    let (hers, his) = (fixture.proven_at(ID, ADDRESS, "secret"), fixture.proven_at(ID, ADDRESS, "secret"));
    fixture.contacts.add(foreign(ALICE, &hers, false)).await.unwrap();
    let answer = fixture.contacts.add(foreign(BOB, &his, true)).await;
    assert!(matches!(answer, Err(AddError::InUse)), "{answer:?}");
    assert!(is_unspent(&fixture, &his).await);
    assert_eq!((owners(&fixture), published(&fixture)), (vec![ALICE.to_owned()], None));

    fixture.clock.advance(HOUR);
    let hers_again = fixture.proven_at(ID, ADDRESS, "secret");
    fixture.contacts.add(foreign(ALICE, &hers_again, false)).await.unwrap();
    let threepid = fixture.store.all_threepids().remove(0);
    let expected = (FixedClock::START.plus(HOUR), FixedClock::START);
    assert_eq!((threepid.validated_at, threepid.added_at), expected, "one's own, proven anew");
}

#[tokio::test]
async fn sessions_of_two_servers_under_one_sid_are_two_proofs() {
    let fixture = Fixture::trusting();
    let sid = fixture.proven_at(ID, ADDRESS, "secret");
    let mut other = MockIdentityServer::new();
    let word = said("email", "other@example.org", FixedClock::START);
    other.expect_validated().times(1).returning(move |_, _, _| Ok(Some(word.clone())));
    fixture.contacts.add(foreign(ALICE, &sid, false)).await.unwrap();
    let add = Fixture::add_from("validates.example", BOB, &sid, "secret", false);
    asking(&fixture, other).add(add).await.unwrap();
    assert_eq!(owners(&fixture), [BOB, ALICE]);
}

#[tokio::test]
async fn a_bind_is_recorded_as_pending_before_the_call_and_as_bound_after() {
    let fixture = Fixture::trusting();
    let sid = fixture.proven_at(ID, ADDRESS, "secret");
    let (store, word) = (fixture.store.clone(), said("email", ADDRESS, FixedClock::START));
    let mut server = MockIdentityServer::new();
    server.expect_validated().times(1).returning(move |_, _, _| Ok(Some(word.clone())));
    server.expect_bind().times(1).returning(move |_, _, user, token| {
        assert_eq!(store.all_bindings()[0].state, BindingState::Pending);
        assert_eq!(store.all_threepids().len(), 1, "added before it is bound");
        assert_eq!((user.as_str(), token.is_some()), (ALICE, true));
        Ok(Fixture::address(ADDRESS))
    });
    asking(&fixture, server).add(foreign(ALICE, &sid, true)).await.unwrap();
    let expected = Binding {
        user_id: Fixture::user(ALICE),
        address: Fixture::address(ADDRESS),
        server: Fixture::server(ID),
        state: BindingState::Bound,
        since: FixedClock::START,
    };
    assert_eq!(fixture.store.all_bindings(), [expected]);
}

#[tokio::test]
async fn if_binding_fails_the_address_stays_and_the_same_request_completes_it() {
    let terms = refusal(403, &json!({"errcode": "M_TERMS_NOT_SIGNED", "error": "sign"}));
    let token = refusal(401, &json!({"errcode": "M_UNKNOWN_TOKEN", "error": "who"}));
    let as_passed_on = refusal(403, &json!({"errcode": "M_FORBIDDEN", "error": "who"}));
    for (reply, passed_on) in [
        (ServerReply::Refused(terms.clone()), Some(terms)),
        (ServerReply::Refused(token), Some(as_passed_on)),
        (ServerReply::Down, None),
        (ServerReply::AnswerLost, None),
    ] {
        let fixture = Fixture::trusting();
        let sid = fixture.proven_at(ID, ADDRESS, "secret");
        // The word first, as usual; then the bind, twice.
        fixture.contacts.add(foreign(ALICE, &sid, false)).await.unwrap();
        for _ in 0..2 {
            fixture.identity_servers.next_is(reply.clone());
            let answer = fixture.contacts.add(foreign(ALICE, &sid, true)).await;
            match (&answer, &passed_on) {
                (Err(AddError::Refused(refusal)), Some(expected)) => assert_eq!(refusal, expected),
                (Err(AddError::Unavailable(_)), None) => {}
                other => assert!(answer.is_err() && passed_on.is_none(), "{reply:?}: {other:?}"),
            }
            assert_eq!(
                (owners(&fixture), states(&fixture)),
                (vec![ALICE.to_owned()], vec![BindingState::Pending])
            );
        }
        for _ in 0..2 {
            fixture.contacts.add(foreign(ALICE, &sid, true)).await.unwrap();
            assert_eq!(
                (states(&fixture), published(&fixture).as_deref()),
                (vec![BindingState::Bound], Some(ALICE))
            );
        }
        assert_eq!(calls(&fixture), ["validated", "bind", "bind", "bind"], "once bound, nobody is asked");
    }
}

#[tokio::test]
async fn a_crash_between_any_two_steps_is_resumed_by_the_same_request() {
    for failure in [CommitFailure::BeforeApply, CommitFailure::AfterApply] {
        for step in [0, 1] {
            let fixture = Fixture::trusting();
            let sid = fixture.proven_at(ID, ADDRESS, "secret");
            fixture.store.fail_commits_after(step, 1, failure);
            let lost = fixture.contacts.add(foreign(ALICE, &sid, true)).await;
            let what = format!("{failure:?} of commit {step}");
            assert!(matches!(lost, Err(AddError::Unavailable(_))), "{what}");
            let is_added = step == 1 || failure == CommitFailure::AfterApply;
            assert_eq!(!owners(&fixture).is_empty(), is_added, "{what}");
            assert_eq!(published(&fixture).is_some(), step == 1, "{what}");
            fixture.contacts.add(foreign(ALICE, &sid, true)).await.unwrap();
            assert_eq!(owners(&fixture), [ALICE], "{what}");
            assert_eq!(states(&fixture), [BindingState::Bound], "{what}");
            assert_eq!(published(&fixture).as_deref(), Some(ALICE), "{what}");
        }
    }
}

#[tokio::test]
async fn a_server_that_publishes_another_address_than_it_validated_is_not_believed() {
    let fixture = Fixture::trusting();
    let sid = fixture.proven_at(ID, ADDRESS, "secret");
    let word = said("email", ADDRESS, FixedClock::START);
    let mut server = MockIdentityServer::new();
    server.expect_validated().times(1).returning(move |_, _, _| Ok(Some(word.clone())));
    server.expect_bind().times(1).returning(|_, _, _, _| Ok(Fixture::address("other@example.org")));
    let answer = asking(&fixture, server).add(foreign(ALICE, &sid, true)).await;
    assert!(matches!(answer, Err(AddError::Unavailable(_))), "{answer:?}");
    assert_eq!((owners(&fixture), states(&fixture)), (vec![ALICE.to_owned()], vec![BindingState::Pending]));
}

async fn deleted_while_the_server_is_down() -> Fixture {
    let fixture = Fixture::trusting();
    let sid = fixture.proven_at(ID, ADDRESS, "secret");
    fixture.contacts.add(foreign(ALICE, &sid, true)).await.unwrap();
    fixture.identity_servers.next_is(ServerReply::Down);
    let delete =
        Delete { user_id: Fixture::user(ALICE), address: Fixture::address(ADDRESS), id_server: None };
    assert_eq!(fixture.contacts.delete(delete).await.unwrap(), UnbindResult::NoSupport);
    assert_eq!(fixture.store.outbox_rows().len(), 1);
    fixture.clock.advance(HOUR);
    fixture
}

#[tokio::test]
async fn a_new_bind_cancels_an_owed_unbind_and_one_without_bind_does_not() {
    let fixture = deleted_while_the_server_is_down().await;
    let sid = fixture.proven_at(ID, ADDRESS, "secret");
    fixture.contacts.add(foreign(ALICE, &sid, false)).await.unwrap();
    assert_eq!(fixture.store.outbox_rows().len(), 1);
    fixture.contacts.add(foreign(ALICE, &sid, true)).await.unwrap();
    assert_eq!(fixture.store.outbox_rows(), []);
    fixture.deliver().await;
    assert_eq!((states(&fixture), published(&fixture).as_deref()), (vec![BindingState::Bound], Some(ALICE)));
}

#[tokio::test]
async fn what_was_spent_and_bound_before_a_deletion_is_bound_anew_and_not_taken_as_settled() {
    // The address comes back by another proof while the unbind is still owed, then the old request is repeated.
    let fixture = Fixture::trusting();
    let first = fixture.proven_at(ID, ADDRESS, "secret");
    fixture.contacts.add(foreign(ALICE, &first, true)).await.unwrap();
    fixture.identity_servers.next_is(ServerReply::Down);
    let delete =
        Delete { user_id: Fixture::user(ALICE), address: Fixture::address(ADDRESS), id_server: None };
    fixture.contacts.delete(delete).await.unwrap();
    let own = fixture.proven(ADDRESS, "own").await;
    fixture.add(ALICE, &own, "own").await.unwrap();
    fixture.clock.advance(HOUR);
    fixture.contacts.add(foreign(ALICE, &first, true)).await.unwrap();
    let owes_unbind = |fixture: &Fixture| {
        let rows = fixture.store.outbox_rows();
        rows.iter().any(|row| row.message.payload.kind() == "unbind" && row.state == RowState::Owed)
    };
    assert!(!owes_unbind(&fixture));
    fixture.deliver().await;
    assert_eq!((states(&fixture), published(&fixture).as_deref()), (vec![BindingState::Bound], Some(ALICE)));
}

#[tokio::test]
async fn a_deletion_while_the_server_is_asked_to_bind_is_not_undone() {
    let fixture = Fixture::trusting();
    let sid = fixture.proven_at(ID, ADDRESS, "secret");
    let (contacts, word) = (fixture.contacts.clone(), said("email", ADDRESS, FixedClock::START));
    let identity_servers = fixture.identity_servers.clone();
    let mut server = MockIdentityServer::new();
    server.expect_validated().times(1).returning(move |_, _, _| Ok(Some(word.clone())));
    server.expect_bind().times(1).returning(move |_, _, _, _| {
        identity_servers.next_is(ServerReply::Down);
        let delete =
            Delete { user_id: Fixture::user(ALICE), address: Fixture::address(ADDRESS), id_server: None };
        futures_util::FutureExt::now_or_never(contacts.delete(delete)).unwrap().unwrap();
        Ok(Fixture::address(ADDRESS))
    });
    fixture.clock.advance(HOUR);
    asking(&fixture, server).add(foreign(ALICE, &sid, true)).await.unwrap();
    assert_eq!(owners(&fixture), [""; 0]);
    assert_eq!(states(&fixture), [BindingState::Bound], "the record says what the server says");
    fixture.clock.advance(HOUR);
    fixture.deliver().await;
    assert_eq!(calls(&fixture), ["unbind", "unbind"], "the owed one was tried again");
    assert_eq!(states(&fixture), []);
}

#[tokio::test]
async fn a_store_that_is_down_is_said_to_be_and_nobody_is_asked() {
    let fixture = Fixture::trusting();
    let sid = fixture.proven_at(ID, ADDRESS, "secret");
    fixture.store.set_available(false);
    let answer = fixture.contacts.add(foreign(ALICE, &sid, true)).await;
    assert!(matches!(answer, Err(AddError::Unavailable(_))));
    assert_eq!(calls(&fixture), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_proof_presented_by_many_accounts_at_once_is_spent_by_one() {
    for bind in [false, true] {
        let fixture = Fixture::trusting();
        let sid = fixture.proven_at(ID, ADDRESS, "secret");
        let contacts = contacts(&fixture);
        let answers = at_once((0..20).map(|user| {
            let (contacts, add) =
                (contacts.clone(), foreign(&format!("@user{user}:example.org"), &sid, bind));
            async move { contacts.add(add).await }
        }))
        .await;
        let won: Vec<_> = (0..20).filter(|user| answers[*user].is_ok()).collect();
        let refused = |answer: &&Result<(), AddError>| matches!(answer, Err(AddError::AuthFailed));
        assert_eq!((won.len(), answers.iter().filter(refused).count()), (1, 19), "{answers:?}");
        let winner = format!("@user{}:example.org", won[0]);
        assert_eq!(owners(&fixture), [winner.as_str()]);
        assert_eq!(published(&fixture), bind.then_some(winner));
        assert_eq!(fixture.store.all_bindings().len(), usize::from(bind));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_same_request_at_once_succeeds_each_time_and_adds_once() {
    for bind in [false, true] {
        let fixture = Fixture::trusting();
        let sid = fixture.proven_at(ID, ADDRESS, "secret");
        let contacts = contacts(&fixture);
        let answers = at_once((0..20).map(|_| {
            let (contacts, add) = (contacts.clone(), foreign(ALICE, &sid, bind));
            async move { contacts.add(add).await }
        }))
        .await;
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        assert_eq!(owners(&fixture), [ALICE]);
        assert_eq!(published(&fixture), bind.then(|| ALICE.to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_accounts_with_proofs_of_one_address_one_wins_and_the_other_keeps_its_proof() {
    for _ in 0..10 {
        let fixture = Fixture::trusting();
        let sids = [(); 2].map(|()| fixture.proven_at(ID, ADDRESS, "secret"));
        let contacts = contacts(&fixture);
        let answers = at_once([ALICE, BOB].into_iter().zip(sids.clone()).map(|(user, sid)| {
            let (contacts, add) = (contacts.clone(), foreign(user, &sid, true));
            async move { contacts.add(add).await }
        }))
        .await;
        let (winner, loser) = if answers[0].is_ok() { (0, 1) } else { (1, 0) };
        assert!(answers[winner].is_ok() && matches!(answers[loser], Err(AddError::InUse)), "{answers:?}");
        assert_eq!(
            (owners(&fixture), published(&fixture).as_deref()),
            (vec![[ALICE, BOB][winner].to_owned()], Some([ALICE, BOB][winner]))
        );
        assert!(is_unspent(&fixture, &sids[loser]).await);
    }
}
