#![expect(clippy::unwrap_used, reason = "a test that meets nonsense of its own fails")]

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::model::{AddressRules, Medium, OutboxMessage, Payload, Rule, Sid, Token, Validation};
use crate::ports::{
    EVERYBODY, Limit, MockIdentityServer, OpenedRemotely, OverLimit, RemoteTokenRequest, Verdict,
};
use crate::testing::{Asked, FixedClock, Fixture, RowState};
use crate::use_cases::interleaving::{at_once, contacts};
use crate::use_cases::{Changes, ContactsPorts, Delivered, Policy};

const HOUR: Duration = Duration::from_secs(60 * 60);
const NUMBER: &str = "447700900813";

#[tokio::test]
async fn a_number_is_proven_by_its_code_and_added() {
    let fixture = Fixture::new();
    let sid = fixture.request_sms(NUMBER, "secret", 1).await.unwrap();
    let rows = fixture.store.outbox_rows();
    let generation = fixture.store.sessions()[0].record().tokens[0].generation;
    let expected = OutboxMessage {
        id: rows[0].message.id.clone(),
        payload: Payload::ValidationSms { to: Fixture::number(NUMBER), sid: sid.clone(), generation },
        created_at: FixedClock::START,
        due_at: FixedClock::START,
        not_after: FixedClock::START.plus(HOUR),
    };
    assert_eq!((rows.len(), &rows[0].message), (1, &expected));
    assert_eq!(fixture.deliver().await, [Delivered::Sent]);
    let sms = fixture.sms.taken().remove(0);
    assert_eq!((&sms.id, sms.to.as_str()), (&expected.id, NUMBER));
    fixture.submit(&sid, Token::new(sms.text)).await.unwrap();
    fixture.add("@alice:example.org", &sid, "secret").await.unwrap();
    let owned = fixture.ports.store.threepids(&Fixture::user("@alice:example.org")).await.unwrap();
    assert_eq!((owned[0].address.medium(), owned[0].address.as_str()), (Medium::Msisdn, NUMBER));
    assert_eq!(fixture.mailer.tried(), []);
}

#[tokio::test]
async fn a_client_is_told_that_there_is_a_code_each_time_it_asks() {
    let fixture = Fixture::new();
    for attempt in [1, 1, 2] {
        let request = Fixture::msisdn_request_for(NUMBER, "secret", attempt);
        let opened = fixture.contacts.request_msisdn_token(request).await.unwrap();
        let sid = fixture.store.sessions()[0].sid().clone();
        assert_eq!(opened, Opened { sid, submit_url: None, has_code: true });
    }
    assert_eq!(fixture.store.outbox_rows().len(), 2);
    assert!(fixture.request("a@example.org", "secret", 1).await.is_ok());
    assert!(
        !fixture.store.sessions()[1].has_code(),
        "a mail carries a link alone until the operator says so"
    );
}

#[tokio::test]
async fn a_number_and_a_mailbox_under_one_secret_are_two_sessions() {
    let fixture = Fixture::new();
    let by_sms = fixture.request_sms(NUMBER, "secret", 1).await.unwrap();
    assert_ne!(fixture.request("447700900813@example.org", "secret", 1).await.unwrap(), by_sms);
    assert_ne!(fixture.request_sms("447700900814", "secret", 1).await.unwrap(), by_sms);
    assert_eq!(fixture.request_sms(NUMBER, "secret", 1).await.unwrap(), by_sms);
}

#[tokio::test]
async fn a_server_without_a_gateway_says_so_and_counts_nothing() {
    let fixture = Fixture::with_policy(Policy { sends_mail: true, ..Policy::default() });
    let answer = fixture.request_sms(NUMBER, "secret", 1).await;
    assert!(matches!(answer, Err(RequestTokenError::MediumNotSupported(Medium::Msisdn))));
    assert_eq!((fixture.limiter.taken(), fixture.store.sessions()), (vec![], vec![]));
    let without_mail = Fixture::with_policy(Policy { sends_sms: true, ..Policy::default() });
    assert!(without_mail.request_sms(NUMBER, "secret", 1).await.is_ok());
    let answer = without_mail.request("a@example.org", "secret", 1).await;
    assert!(matches!(answer, Err(RequestTokenError::MediumNotSupported(Medium::Email))));
}

#[tokio::test]
async fn the_rules_of_every_request_hold_for_numbers() {
    let base = Policy { sends_sms: true, ..Policy::default() };
    let rules = AddressRules::new(vec![Rule::country("US").unwrap()], vec![]);
    let denying = Fixture::with_policy(Policy { rules, ..base.clone() });
    assert!(matches!(denying.request_sms(NUMBER, "secret", 1).await, Err(RequestTokenError::Denied)));
    assert!(denying.request_sms("15208782491", "secret", 1).await.is_ok());
    let forbidding = Fixture::with_policy(Policy { changes: Changes::Forbidden, ..base });
    let answer = forbidding.request_sms(NUMBER, "secret", 1).await;
    assert!(matches!(answer, Err(RequestTokenError::ChangesForbidden)));

    let fixture = Fixture::new();
    let sid = fixture.request_sms(NUMBER, "secret", 1).await.unwrap();
    fixture.submit(&sid, Token::new(fixture.newest_code(&sid).expose())).await.unwrap();
    fixture.add("@alice:example.org", &sid, "secret").await.unwrap();
    assert!(matches!(fixture.request_sms(NUMBER, "other", 1).await, Err(RequestTokenError::InUse)));
}

#[tokio::test]
async fn sms_are_counted_apart_from_mails_and_each_once() {
    let fixture = Fixture::new();
    let in_all = |limit| {
        let taken = fixture.limiter.taken().into_iter();
        taken.filter(|taken| *taken == (limit, EVERYBODY.to_owned())).count()
    };
    fixture.request_sms(NUMBER, "secret", 1).await.unwrap();
    fixture.request_sms(NUMBER, "secret", 1).await.unwrap();
    assert_eq!((in_all(Limit::SmsInAll), in_all(Limit::MailsInAll)), (1, 0));
    fixture.request("a@example.org", "secret", 1).await.unwrap();
    assert_eq!((in_all(Limit::SmsInAll), in_all(Limit::MailsInAll)), (1, 1));

    let retry_after = Duration::from_secs(60);
    fixture.limiter.next_is(Verdict::Allowed);
    fixture.limiter.next_is(Verdict::RetryAfter(retry_after));
    let answer = fixture.request_sms(NUMBER, "secret", 2).await;
    let expected = OverLimit { limit: Limit::SmsInAll, retry_after };
    assert!(matches!(answer, Err(RequestTokenError::Limited(over)) if over == expected));
    assert_eq!(fixture.store.outbox_rows().len(), 2, "no SMS beyond the limit");
}

#[tokio::test]
async fn requests_are_limited_per_client_and_per_number() {
    let fixture = Fixture::new();
    let mut request = Fixture::msisdn_request_for(NUMBER, "secret", 1);
    request.client_ip = Some("192.0.2.7".parse().unwrap());
    fixture.contacts.request_msisdn_token(request).await.unwrap();
    let taken = fixture.limiter.taken();
    assert_eq!(taken[0], (Limit::RequestTokenPerClient, "192.0.2.7".to_owned()));
    assert_eq!(taken[1].0, Limit::RequestTokenPerAddress);
    assert!(!taken[1].1.contains("7700900"), "the limiter keeps no number");
}

#[tokio::test]
async fn an_sms_that_no_gateway_takes_waits_and_ends_with_its_code() {
    let fixture = Fixture::new();
    fixture.request_sms(NUMBER, "secret", 1).await.unwrap();
    fixture.sms.next_is(crate::testing::Reply::Transient);
    assert_eq!(fixture.deliver().await, [Delivered::Retrying]);
    fixture.clock.advance(HOUR);
    assert_eq!(fixture.deliver().await, [Delivered::Expired]);
    assert_eq!((fixture.sms.tried().len(), fixture.sms.taken()), (1, vec![]));

    fixture.request_sms(NUMBER, "secret", 2).await.unwrap();
    fixture.sms.next_is(crate::testing::Reply::Permanent);
    assert_eq!(fixture.deliver().await, [Delivered::Dead]);
    let dead = fixture.store.outbox_rows().remove(1);
    assert!(matches!(dead.state, RowState::Dead(reason) if !reason.contains("7700900")));

    let without =
        fixture.relay_with(crate::use_cases::RelayPorts { sms: None, ..fixture.relay_ports.clone() });
    fixture.request_sms(NUMBER, "secret", 3).await.unwrap();
    let claimed = without.claim(1).await.unwrap().remove(0);
    assert_eq!(without.deliver(claimed).await.unwrap(), Delivered::Retrying);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_same_request_many_times_at_once_is_one_session_and_one_sms() {
    let fixture = Fixture::new();
    let contacts = contacts(&fixture);
    let answers = at_once((0..20).map(|_| {
        let contacts = contacts.clone();
        let request = Fixture::msisdn_request_for(NUMBER, "secret", 1);
        async move { contacts.request_msisdn_token(request).await.unwrap() }
    }))
    .await;
    assert!(answers.iter().all(|opened| *opened == answers[0]), "{answers:?}");
    assert_eq!((fixture.store.sessions().len(), fixture.store.outbox_rows().len()), (1, 1));
}

#[tokio::test]
async fn an_identity_server_is_asked_for_a_number_as_for_a_mailbox() {
    let fixture = Fixture::with_policy(Policy {
        validation: Validation::IdentityServer,
        trusted: Fixture::trusted(),
        ..Policy::default()
    });
    let request = RequestMsisdnToken {
        id_server: Some(Fixture::server("validates.example")),
        id_access_token: Some(IdAccessToken::new("token")),
        ..Fixture::msisdn_request_for(NUMBER, "secret", 7)
    };
    let opened = fixture.contacts.request_msisdn_token(request.clone()).await.unwrap();
    let server = Fixture::server("validates.example");
    let asked = Asked { call: "request_token", server: server.clone(), with_token: true };
    assert_eq!(fixture.identity_servers.asked(), [asked]);
    let remembered = fixture.ports.store.remote_sessions(&opened.sid).await.unwrap();
    assert_eq!((remembered[0].server.clone(), remembered[0].address.as_str()), (server, NUMBER));
    assert_eq!((fixture.store.sessions(), fixture.store.outbox_rows()), (vec![], vec![]));

    let mut server = MockIdentityServer::new();
    server.expect_request_token().times(1).returning(|_, request, _| {
        let expected = RemoteTokenRequest {
            client_secret: Fixture::secret("secret"),
            to: RemoteRecipient::Msisdn {
                number: Fixture::number(NUMBER),
                country: Country::parse("GB").unwrap(),
            },
            send_attempt: Fixture::attempt(7),
            next_link: None,
        };
        assert_eq!(request, expected);
        let submit_url = Some("https://id.example/submit".to_owned());
        Ok(OpenedRemotely { sid: Sid::new("theirs"), submit_url })
    });
    let ports = ContactsPorts { identity_servers: Arc::new(server), ..fixture.ports.clone() };
    let opened = fixture.contacts_with(ports).request_msisdn_token(request).await.unwrap();
    let submit_url = Some("https://id.example/submit".to_owned());
    assert_eq!(opened, Opened { sid: Sid::new("theirs"), submit_url, has_code: false });
}
