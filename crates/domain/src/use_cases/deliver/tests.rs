#![expect(clippy::unwrap_used, reason = "a test that meets nonsense of its own fails")]

use super::*;
use crate::model::{Binding, BindingState, MessageId, RemoteRefusal};
use crate::ports::{MockIdentityServer, MockMailer, MockOutbox, MockTemplates, Store};
use crate::testing::{
    CommitFailure, CountedSecrets, FixedClock, Fixture, MemoryStore, PlainTemplates, RecordingMailer, Reply,
    RowState,
};
use crate::use_cases::Policy;

const ALICE: &str = "alice@example.org";
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

fn links() -> ConfirmLinks {
    ConfirmLinks::new(&Url::parse("https://contacts.example").unwrap())
}

/// A relay beside the fixture's own, with other ports where a test brings them.
fn relay(
    fixture: &Fixture,
    outbox: Arc<dyn Outbox>,
    mailer: Arc<dyn Mailer>,
    templates: Arc<dyn Templates>,
) -> Relay {
    let ports = RelayPorts { outbox, mailer: Some(mailer), templates, ..fixture.relay_ports.clone() };
    Relay::new(ports, links(), HOUR, RetryPolicy::default())
}

async fn owing() -> Fixture {
    let fixture = Fixture::new();
    fixture.request(ALICE, "secret", 1).await.unwrap();
    fixture
}

#[tokio::test]
async fn an_owed_mail_goes_out_once_with_a_link_that_proves_the_address() {
    let fixture = owing().await;
    assert_eq!(fixture.deliver().await, [Delivered::Sent]);
    let mail = fixture.mailer.taken().remove(0);
    let row = fixture.store.outbox_rows().remove(0);
    assert_eq!((&mail.id, mail.to.as_str()), (&row.message.id, ALICE));
    assert_eq!((row.state, row.attempts, row.lease), (RowState::Sent, 1, None));
    let (sid, token) = fixture.last_link().unwrap();
    fixture.submit(&sid, token).await.unwrap();
    fixture.clock.advance(HOUR / 2);
    assert_eq!(fixture.deliver().await, []);
}

#[tokio::test]
async fn each_mail_carries_the_token_of_its_own_generation() {
    let fixture = owing().await;
    fixture.request(ALICE, "secret", 2).await.unwrap();
    assert_eq!(fixture.deliver().await, [Delivered::Sent, Delivered::Sent]);
    let texts: Vec<_> = fixture.mailer.taken().into_iter().map(|mail| mail.text).collect();
    assert_ne!(texts[0], texts[1]);
    let (sid, token) = fixture.last_link().unwrap();
    assert_eq!(token, fixture.newest_token(&sid));
}

#[tokio::test]
async fn neither_outbox_nor_sessions_hold_a_token() {
    let fixture = owing().await;
    let sid = fixture.store.sessions()[0].sid().clone();
    let token = fixture.newest_token(&sid);
    let row = serde_json::to_string(&fixture.store.outbox_rows()[0].message).unwrap();
    assert!(!row.contains(token.expose()));
    let issued = serde_json::to_string(&fixture.store.sessions()[0].record().tokens).unwrap();
    assert!(!issued.contains(token.expose()));
}

#[tokio::test]
async fn a_mail_that_is_not_taken_now_is_tried_again_later_under_the_same_message_id() {
    let fixture = owing().await;
    for _ in 0..3 {
        fixture.mailer.next_is(Reply::Transient);
    }
    for (wait, next) in [(0, 5), (5, 10), (10, 20)] {
        fixture.clock.advance(Duration::from_secs(wait).saturating_sub(Duration::from_millis(1)));
        if wait > 0 {
            assert_eq!(fixture.deliver().await, [], "a millisecond early");
            fixture.clock.advance(Duration::from_millis(1));
        }
        assert_eq!(fixture.deliver().await, [Delivered::Retrying]);
        let row = fixture.store.outbox_rows().remove(0);
        assert_eq!(row.message.due_at.as_ms(), now(&fixture) + next * 1000);
        assert_eq!(row.last_error.as_deref(), Some("not delivered now: scripted: Transient"));
    }
    fixture.clock.advance(Duration::from_secs(20));
    assert_eq!(fixture.deliver().await, [Delivered::Sent]);
    let tried = fixture.mailer.tried();
    assert_eq!((tried.len(), fixture.mailer.taken().len()), (4, 1));
    assert!(tried.iter().all(|mail| *mail == tried[0]), "the same mail each time");
}

fn now(fixture: &Fixture) -> u64 {
    use crate::ports::Clock;
    fixture.clock.now().as_ms()
}

#[tokio::test]
async fn a_mail_that_nobody_will_take_is_dead_and_kept() {
    let fixture = owing().await;
    fixture.mailer.next_is(Reply::Permanent);
    assert_eq!(fixture.deliver().await, [Delivered::Dead]);
    let row = fixture.store.outbox_rows().remove(0);
    assert_eq!(row.state, RowState::Dead("not deliverable: scripted: Permanent".to_owned()));
    fixture.clock.advance(HOUR / 2);
    assert_eq!(fixture.deliver().await, []);
    assert_eq!(fixture.mailer.tried().len(), 1);
}

#[tokio::test]
async fn a_mail_whose_token_has_ended_is_expired_and_not_sent() {
    let fixture = owing().await;
    fixture.clock.advance(HOUR - Duration::from_millis(1));
    let in_time = fixture.relay.claim(1).await.unwrap().remove(0);
    fixture.clock.advance(Duration::from_millis(1));
    assert_eq!(fixture.relay.deliver(in_time).await.unwrap(), Delivered::Expired);
    assert_eq!(fixture.store.outbox_rows()[0].state, RowState::Expired);
    assert_eq!(fixture.mailer.tried(), []);
}

#[tokio::test]
async fn a_mail_that_is_never_taken_ends_as_expired_at_its_tokens_end() {
    let fixture = owing().await;
    let end = fixture.store.outbox_rows()[0].message.not_after;
    for _ in 0..100 {
        fixture.mailer.next_is(Reply::Transient);
    }
    let mut outcomes = Vec::new();
    while let RowState::Owed = fixture.store.outbox_rows()[0].state {
        let due = fixture.store.outbox_rows()[0].message.due_at;
        assert!(due <= end, "its end is not missed");
        fixture.clock.set(due);
        outcomes.extend(fixture.deliver().await);
    }
    assert_eq!(outcomes.pop(), Some(Delivered::Expired));
    assert!(outcomes.len() > 6 && outcomes.iter().all(|o| *o == Delivered::Retrying), "{outcomes:?}");
    assert_eq!(now(&fixture), end.as_ms());
}

#[tokio::test]
async fn a_settlement_that_fails_sends_the_mail_again_under_the_same_message_id() {
    let fixture = owing().await;
    let claimed = fixture.relay.claim(10).await.unwrap().remove(0);
    fixture.store.set_available(false);
    assert!(fixture.relay.deliver(claimed).await.is_err());
    fixture.store.set_available(true);
    assert_eq!(fixture.deliver().await, [], "the lease still holds");
    fixture.clock.advance(2 * MINUTE);
    assert_eq!(fixture.deliver().await, [Delivered::Sent]);
    let taken = fixture.mailer.taken();
    assert_eq!(taken.len(), 2);
    assert_eq!(taken[0].id, taken[1].id);
    assert_eq!(fixture.store.outbox_rows()[0].attempts, 2);
}

#[tokio::test]
async fn a_lost_answer_of_the_mail_server_sends_the_same_mail_again() {
    let fixture = owing().await;
    fixture.mailer.next_is(Reply::TakenAnswerLost);
    assert_eq!(fixture.deliver().await, [Delivered::Retrying]);
    fixture.clock.advance(MINUTE);
    assert_eq!(fixture.deliver().await, [Delivered::Sent]);
    let taken = fixture.mailer.taken();
    assert_eq!((taken.len(), &taken[0]), (2, &taken[1]));
}

#[tokio::test]
async fn a_relay_that_lost_its_lease_does_not_settle() {
    for reply in [Reply::Taken, Reply::Transient, Reply::Permanent] {
        let fixture = owing().await;
        let slow = fixture.relay.claim(10).await.unwrap().remove(0);
        fixture.clock.advance(2 * MINUTE);
        let other = fixture.relay.claim(10).await.unwrap().remove(0);
        fixture.mailer.next_is(reply);
        assert_eq!(fixture.relay.deliver(slow).await.unwrap(), Delivered::LeaseLost, "{reply:?}");
        assert_eq!(fixture.store.outbox_rows()[0].state, RowState::Owed, "{reply:?}");
        assert_eq!(fixture.relay.deliver(other).await.unwrap(), Delivered::Sent, "{reply:?}");
    }
}

#[tokio::test]
async fn a_crash_between_claim_and_send_loses_nothing() {
    let fixture = owing().await;
    drop(fixture.relay.claim(10).await.unwrap());
    fixture.clock.advance(2 * MINUTE);
    assert_eq!(fixture.deliver().await, [Delivered::Sent]);
    assert_eq!(fixture.mailer.taken().len(), 1);
}

#[tokio::test]
async fn a_broken_template_is_tried_again_and_sends_nothing() {
    let fixture = owing().await;
    let mut templates = MockTemplates::new();
    templates
        .expect_validation_mail()
        .times(1)
        .returning(|_| Err(Unavailable::new("templates", "no such file")));
    let mut mailer = MockMailer::new();
    mailer.expect_send().never();
    let relay = relay(&fixture, fixture.store.clone(), Arc::new(mailer), Arc::new(templates));
    let claimed = relay.claim(1).await.unwrap().remove(0);
    assert_eq!(relay.deliver(claimed).await.unwrap(), Delivered::Retrying);
    let reason = fixture.store.outbox_rows()[0].last_error.clone().unwrap();
    assert_eq!(reason, "not delivered now: templates is unavailable: no such file");
}

#[tokio::test]
async fn an_outbox_that_is_down_is_said_to_be() {
    let fixture = Fixture::new();
    fixture.store.set_available(false);
    assert!(fixture.relay.claim(10).await.is_err());
}

#[tokio::test]
async fn a_claim_asks_for_the_lease_and_the_limit_that_were_set() {
    let fixture = Fixture::new();
    let mut outbox = MockOutbox::new();
    outbox
        .expect_claim()
        .times(1)
        .withf(|now, lease, id, limit| {
            (*now, *lease, id.as_str(), *limit) == (FixedClock::START, 2 * MINUTE, "lease1", 7)
        })
        .returning(|_, _, _, _| Ok(vec![]));
    let relay =
        relay(&fixture, Arc::new(outbox), Arc::new(RecordingMailer::default()), Arc::new(PlainTemplates));
    assert_eq!(relay.claim(7).await.unwrap(), []);
}

#[tokio::test]
async fn the_relay_is_woken_by_a_request() {
    let fixture = owing().await;
    fixture.relay.woken().await;
    assert_eq!(fixture.deliver().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn relays_at_once_send_each_mail_once() {
    let fixture = Fixture::new();
    for user in 0..40 {
        fixture.request(&format!("user{user}@example.org"), "secret", 1).await.unwrap();
    }
    let relays = (0..4).map(|_| {
        let relay = fixture.relay.clone();
        async move {
            loop {
                let claimed = relay.claim(3).await.unwrap();
                if claimed.is_empty() {
                    return;
                }
                for claimed in claimed {
                    assert_eq!(relay.deliver(claimed).await.unwrap(), Delivered::Sent);
                }
            }
        }
    });
    crate::use_cases::interleaving::at_once(relays).await;
    let recipients: std::collections::HashSet<_> =
        fixture.mailer.taken().into_iter().map(|mail| mail.to.as_str().to_owned()).collect();
    assert_eq!((fixture.mailer.taken().len(), recipients.len()), (40, 40));
}

#[test]
fn links_keep_the_public_address_and_its_path() {
    for (base, expected) in [
        ("https://contacts.example", "https://contacts.example/_threepid/confirm"),
        ("https://contacts.example/", "https://contacts.example/_threepid/confirm"),
        ("http://127.0.0.1:8090/a/b/", "http://127.0.0.1:8090/a/b/_threepid/confirm"),
        ("https://contacts.example/?x=1#y", "https://contacts.example/_threepid/confirm"),
    ] {
        let links = ConfirmLinks::new(&Url::parse(base).unwrap());
        assert_eq!(links.action(), expected);
        let link = links.link(&Sid::new("a&b"), &Token::new("t-_="));
        assert_eq!(link, format!("{expected}?sid=a%26b&token=t-_%3D"));
    }
}

#[test]
fn waits_double_up_to_the_longest() {
    let policy = RetryPolicy::default();
    let seconds: Vec<_> = (1..=10).map(|attempt| policy.wait(attempt, 0.0).as_secs()).collect();
    assert_eq!(seconds, [5, 10, 20, 40, 80, 160, 320, 600, 600, 600]);
}

mod generated {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_wait_is_between_half_of_it_and_all_of_it(attempt in any::<u32>(), jitter in any::<f64>()) {
            let policy = RetryPolicy::default();
            let (wait, full) = (policy.wait(attempt, jitter), policy.wait(attempt, 0.0));
            prop_assert!(full / 2 <= wait && wait <= full, "{wait:?} of {full:?}");
            prop_assert!(full <= policy.longest);
        }
    }
}

#[tokio::test]
async fn a_store_shared_with_strangers_delivers_what_they_owe_too() {
    // The relay knows nothing but the outbox: whatever was committed by anyone is delivered.
    let (fixture, store) = (owing().await, Arc::new(MemoryStore::new()));
    let message = fixture.store.outbox_rows().remove(0).message;
    store.commit(crate::model::UnitOfWork::new().enqueue(message)).await.unwrap();
    let mailer = Arc::new(RecordingMailer::default());
    let ports = RelayPorts {
        outbox: store,
        mailer: Some(mailer.clone()),
        secrets: Arc::new(CountedSecrets::default()),
        ..fixture.relay_ports.clone()
    };
    let relay = Relay::new(ports, links(), HOUR, RetryPolicy::default());
    let claimed = relay.claim(1).await.unwrap().remove(0);
    assert_eq!(relay.deliver(claimed).await.unwrap(), Delivered::Sent);
    fixture.deliver().await;
    assert_eq!(mailer.taken(), fixture.mailer.taken(), "another instance under the same key says the same");
}

fn key() -> BindingKey {
    BindingKey {
        user_id: Fixture::user("@alice:example.org"),
        address: Fixture::address(ALICE),
        server: Fixture::server("id.example"),
    }
}

/// A binding, and an unbind that is owed since it was made.
async fn owing_unbind() -> Fixture {
    let fixture = Fixture::trusting();
    let BindingKey { user_id, address, server } = key();
    let binding = Binding {
        user_id: user_id.clone(),
        address: address.clone(),
        server: server.clone(),
        state: BindingState::Pending,
        since: FixedClock::START,
    };
    let owed = OutboxMessage {
        id: MessageId::new("unbind"),
        payload: Payload::Unbind { user_id, address, server, forget: false },
        created_at: FixedClock::START,
        due_at: FixedClock::START,
        not_after: FixedClock::START.plus(HOUR),
    };
    fixture.store.commit(UnitOfWork::new().put_binding(binding).enqueue(owed)).await.unwrap();
    fixture
}

fn unbinding(
    fixture: &Fixture,
    unbind: impl Fn() -> Result<Unbound, IdentityServerError> + Send + Sync + 'static,
) -> Relay {
    let mut server = MockIdentityServer::new();
    server.expect_unbind().times(1).returning(move |server, user, address| {
        assert_eq!(BindingKey { user_id: user, address, server }, key());
        unbind()
    });
    let ports = RelayPorts { identity_servers: Arc::new(server), ..fixture.relay_ports.clone() };
    fixture.relay_with(ports)
}

#[tokio::test]
async fn each_answer_of_an_identity_server_settles_an_owed_unbind() {
    let refused = || {
        let body = serde_json::json!({"errcode": "M_UNAUTHORIZED", "error": "alice@example.org"});
        let body = body.as_object().cloned().unwrap_or_default();
        IdentityServerError::Refused(RemoteRefusal { status: 401, body })
    };
    let down = || IdentityServerError::Unavailable(Unavailable::new("identity server", "slow"));
    type Answer = Box<dyn Fn() -> Result<Unbound, IdentityServerError> + Send + Sync>;
    let cases: [(Answer, Delivered, Option<&str>, bool); 4] = [
        (Box::new(|| Ok(Unbound::Done)), Delivered::Sent, None, false),
        (
            Box::new(|| Ok(Unbound::NoSupport)),
            Delivered::Dead,
            Some("not deliverable: the server does not support it"),
            true,
        ),
        (
            Box::new(move || Err(refused())),
            Delivered::Dead,
            Some("not deliverable: the identity server refused with status 401"),
            true,
        ),
        (
            Box::new(move || Err(down())),
            Delivered::Retrying,
            Some("not delivered now: identity server is unavailable: slow"),
            true,
        ),
    ];
    for (answer, expected, reason, is_kept) in cases {
        let fixture = owing_unbind().await;
        let claimed = fixture.relay.claim(1).await.unwrap().remove(0);
        assert_eq!(unbinding(&fixture, answer).deliver(claimed).await.unwrap(), expected);
        assert_eq!(fixture.store.all_bindings().len(), usize::from(is_kept), "{expected:?}");
        let row = fixture.store.outbox_rows().remove(0);
        let said = match row.state {
            RowState::Dead(reason) => Some(reason),
            _ => row.last_error,
        };
        assert_eq!(said.as_deref(), reason, "no address is told");
    }
}

#[tokio::test]
async fn a_record_that_cannot_be_dropped_has_the_server_asked_again() {
    let fixture = owing_unbind().await;
    fixture.store.fail_commits(1, CommitFailure::BeforeApply);
    assert_eq!(fixture.deliver().await, [Delivered::Retrying]);
    assert_eq!(fixture.store.all_bindings().len(), 1);
    fixture.clock.advance(MINUTE);
    assert_eq!(fixture.deliver().await, [Delivered::Sent]);
    assert_eq!(fixture.store.all_bindings(), []);
    assert_eq!(fixture.identity_servers.asked().len(), 2);
}

#[tokio::test]
async fn what_was_bound_anew_since_an_unbind_was_owed_stays_bound() {
    let fixture = owing_unbind().await;
    let claimed = fixture.relay.claim(1).await.unwrap().remove(0);
    let known = fixture.store.all_bindings().remove(0);
    let since = FixedClock::START.plus(Duration::from_millis(1));
    let anew = Binding { since, ..known };
    fixture.store.commit(UnitOfWork::new().put_binding(anew.clone()).cancel_unbind(key())).await.unwrap();
    assert_eq!(fixture.relay.deliver(claimed).await.unwrap(), Delivered::LeaseLost);
    assert_eq!((fixture.store.all_bindings(), fixture.identity_servers.asked()), (vec![anew], vec![]));
}

#[tokio::test]
async fn without_a_mailer_unbinds_go_out_and_mails_wait() {
    let fixture = owing_unbind().await;
    fixture.request(ALICE, "secret", 1).await.unwrap();
    let relay = fixture.relay_with(RelayPorts { mailer: None, ..fixture.relay_ports.clone() });
    let mut outcomes = Vec::new();
    for claimed in relay.claim(10).await.unwrap() {
        outcomes.push(relay.deliver(claimed).await.unwrap());
    }
    assert_eq!(outcomes, [Delivered::Sent, Delivered::Retrying]);
}

#[tokio::test]
async fn a_mail_carries_its_code_where_the_operator_says_so() {
    let fixture = Fixture::with_policy(Policy { sends_mail: true, mails_code: true, ..Policy::default() });
    let sid = fixture.request(ALICE, "secret", 1).await.unwrap();
    assert_eq!(fixture.deliver().await, [Delivered::Sent]);
    let text = fixture.mailer.taken().remove(0).text;
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("https://contacts.example/_threepid/confirm?sid="), "{text}");
    assert_eq!(lines[1..], [fixture.newest_code(&sid).expose()]);
    assert!(links().submit_url() == "https://contacts.example/_threepid/submit_token");
}
