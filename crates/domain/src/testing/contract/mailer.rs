//! What a [`Mailer`] owes.

use std::any::Any;
use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;

use super::{Spawner, race};
use crate::model::{EmailAddress, MessageId};
use crate::ports::{DeliveryError, Mail, Mailer};

/// A mail as it lies at its next hop, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// The recipients of the envelope (SMTP `RCPT TO`), without angle brackets.
    pub recipients: Vec<String>,
    /// The Message-ID header, without angle brackets.
    pub message_id: String,
    /// The Auto-Submitted header, if there is one.
    pub auto_submitted: Option<String>,
    /// The subject.
    pub subject: String,
    /// The plain text part, `\r\n` as `\n`.
    pub text: String,
    /// The HTML part, `\r\n` as `\n`.
    pub html: String,
}

/// Where the mails of the mailer under test arrive.
#[async_trait]
pub trait Inbox: Send + Sync {
    /// Every mail that has arrived, in order.
    async fn arrived(&self) -> Vec<Arrived>;
}

/// How a next hop behaves from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HopMood {
    /// It takes every mail.
    Takes,
    /// It answers every mail with a 4xx status.
    Defers,
    /// It answers every mail with a 5xx status.
    Refuses,
    /// It accepts connections and says nothing.
    Silent,
    /// It accepts no connection, or drops it.
    Gone,
}

/// A next hop that can be told to fail.
#[async_trait]
pub trait Hop: Send + Sync {
    /// Behaves so from now on.
    async fn behave(&self, mood: HopMood);
}

/// A mailer, and the place where its mails arrive.
pub struct MailBackend {
    /// The mailer; whatever time it waits for its next hop is a few seconds at most.
    pub mailer: Arc<dyn Mailer>,
    /// Where its mails arrive.
    pub inbox: Arc<dyn Inbox>,
    /// The next hop, where it can be told to fail; `mail_hop_contract!` needs it.
    pub hop: Option<Arc<dyn Hop>>,
    /// What has to live as long as the mailer.
    pub keep: Box<dyn Any + Send + Sync>,
}

impl MailBackend {
    async fn sent(&self, mail: Mail) -> Arrived {
        self.mailer.send(mail).await.expect("the mail is taken");
        self.inbox.arrived().await.pop().expect("what was taken has arrived")
    }

    async fn hop_behaves(&self, mood: HopMood) {
        self.hop.as_ref().expect("mail_hop_contract! needs a hop").behave(mood).await;
    }
}

fn mail(id: &str, to: &str) -> Mail {
    Mail {
        id: MessageId::new(id),
        to: EmailAddress::parse(to).expect("an email address"),
        subject: "Confirm your address".to_owned(),
        text: "https://contacts.example/confirm?sid=1&token=2\n".to_owned(),
        html: "<a href=\"https://contacts.example/confirm?sid=1&amp;token=2\">Confirm</a>\n".to_owned(),
    }
}

/// `Ok` means that the next hop has it: one recipient, both parts.
pub async fn a_mail_arrives_with_what_it_says(backend: &MailBackend) {
    let mail = mail("message1", "alice@example.org");
    let arrived = backend.sent(mail.clone()).await;
    assert_eq!(arrived.recipients, ["alice@example.org"]);
    assert_eq!(arrived.subject, mail.subject);
    assert_eq!(arrived.text.trim_end(), mail.text.trim_end());
    assert_eq!(arrived.html.trim_end(), mail.html.trim_end());
    assert_eq!(backend.inbox.arrived().await.len(), 1);
}

/// Receivers tell a repeated mail by it.
pub async fn the_message_id_is_the_same_at_every_try(backend: &MailBackend) {
    let first = backend.sent(mail("message1", "alice@example.org")).await;
    let second = backend.sent(mail("message1", "alice@example.org")).await;
    assert_eq!(backend.inbox.arrived().await.len(), 2);
    assert_eq!(first.message_id, second.message_id);
    assert!(first.message_id.starts_with("message1"), "it is made of the mail's id: {}", first.message_id);
}

/// A new mail is not taken for an old one.
pub async fn different_mails_have_different_message_ids(backend: &MailBackend) {
    let first = backend.sent(mail("message1", "alice@example.org")).await;
    let second = backend.sent(mail("message2", "alice@example.org")).await;
    assert_ne!(first.message_id, second.message_id);
}

/// Mail servers want `xn--`.
pub async fn the_domain_is_written_in_ascii(backend: &MailBackend) {
    let arrived = backend.sent(mail("message1", "a@bücher.example")).await;
    assert_eq!(arrived.recipients, ["a@xn--bcher-kva.example"]);
}

/// So that nobody's holiday reply comes back (RFC 3834).
pub async fn the_mail_says_that_it_is_automatic(backend: &MailBackend) {
    let arrived = backend.sent(mail("message1", "alice@example.org")).await;
    assert_eq!(arrived.auto_submitted.as_deref(), Some("auto-generated"));
}

/// Neither long lines, nor lone dots, nor letters of any script are lost on the way.
pub async fn long_and_foreign_texts_arrive_whole(backend: &MailBackend) {
    let long = "https://contacts.example/".to_owned() + &"a=b".repeat(500);
    let mail = Mail {
        subject: "Bestätige deine Adresse · 確認 · ".to_owned() + &"x".repeat(100),
        text: format!("Grüße, 你好\n.\n..\nFrom here\n{long}\n"),
        html: format!("<p>Grüße, 你好</p>\n.\n<a href=\"{long}\">Bestätigen</a>\n"),
        ..mail("message1", "alice@example.org")
    };
    let arrived = backend.sent(mail.clone()).await;
    assert_eq!(arrived.subject, mail.subject);
    assert_eq!(arrived.text.trim_end(), mail.text.trim_end());
    assert_eq!(arrived.html.trim_end(), mail.html.trim_end());
}

/// A subject of several lines is refused or put on one; it never becomes a header or another recipient.
pub async fn a_subject_cannot_add_a_header(backend: &MailBackend) {
    let mail = Mail {
        subject: "Hello\r\nBcc: eve@example.org\r\nAuto-Submitted: no".to_owned(),
        ..mail("message1", "alice@example.org")
    };
    if backend.mailer.send(mail).await.is_ok() {
        let arrived = backend.inbox.arrived().await.pop().expect("what was taken has arrived");
        assert_eq!(arrived.recipients, ["alice@example.org"]);
        assert_eq!(arrived.auto_submitted.as_deref(), Some("auto-generated"));
        assert!(arrived.subject.contains("Bcc: eve@example.org"), "it is still the subject");
    } else {
        assert_eq!(backend.inbox.arrived().await, []);
    }
}

/// A mailer is shared.
pub async fn mails_sent_at_once_all_arrive(backend: &MailBackend, spawn: Spawner) {
    let task = |at: usize| {
        let mailer = backend.mailer.clone();
        let mail = mail(&format!("message{at}"), &format!("user{at}@example.org"));
        async move { mailer.send(mail).await.is_ok() }
    };
    let answers = race(spawn, (0..20).map(task).collect()).await;
    assert!(answers.iter().all(|ok| *ok), "{answers:?}");
    let arrived = backend.inbox.arrived().await;
    let recipients: HashSet<_> = arrived.iter().flat_map(|mail| mail.recipients.clone()).collect();
    assert_eq!((arrived.len(), recipients.len()), (20, 20));
}

async fn fails(backend: &MailBackend) -> DeliveryError {
    let answer = backend.mailer.send(mail("message1", "alice@example.org")).await;
    assert_eq!(backend.inbox.arrived().await, [], "nothing was taken");
    answer.expect_err("what was not taken is an error")
}

/// 4xx.
pub async fn a_deferred_mail_may_be_taken_later(backend: &MailBackend) {
    backend.hop_behaves(HopMood::Defers).await;
    let error = fails(backend).await;
    assert!(matches!(error, DeliveryError::Transient(_)), "{error:?}");
}

/// 5xx.
pub async fn a_refused_mail_is_not_tried_again(backend: &MailBackend) {
    backend.hop_behaves(HopMood::Refuses).await;
    let error = fails(backend).await;
    assert!(matches!(error, DeliveryError::Permanent(_)), "{error:?}");
}

/// A try ends within a bounded time, and what it does not know is transient.
pub async fn a_hop_that_says_nothing_is_given_up(backend: &MailBackend) {
    backend.hop_behaves(HopMood::Silent).await;
    let error = fails(backend).await;
    assert!(matches!(error, DeliveryError::Transient(_)), "{error:?}");
}

/// A mail server that restarts costs no mail.
pub async fn a_hop_that_is_gone_may_come_back(backend: &MailBackend) {
    backend.hop_behaves(HopMood::Gone).await;
    let error = fails(backend).await;
    assert!(matches!(error, DeliveryError::Transient(_)), "{error:?}");
}

/// No failure spoils the mailer: no dead connection is kept.
pub async fn a_mailer_that_failed_sends_again(backend: &MailBackend) {
    for (turn, mood) in
        [HopMood::Defers, HopMood::Refuses, HopMood::Gone, HopMood::Silent].into_iter().enumerate()
    {
        backend.hop_behaves(mood).await;
        let answer = backend.mailer.send(mail("message1", "alice@example.org")).await;
        assert!(answer.is_err(), "{mood:?}");
        backend.hop_behaves(HopMood::Takes).await;
        // A connection that was kept may turn out dead at the first use; what counts is that the next try gets through.
        let again = || backend.mailer.send(mail("message1", "alice@example.org"));
        assert!(again().await.is_ok() || again().await.is_ok(), "after {mood:?}");
        assert_eq!(backend.inbox.arrived().await.len(), turn + 1, "after {mood:?}");
    }
}
