//! What an [`SmsSender`] owes.

use std::any::Any;
use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;

use super::{Spawner, race};
use crate::model::{MessageId, Msisdn};
use crate::ports::{DeliveryError, Sms, SmsSender};

/// An SMS as it lies at the gateway, every encoding undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArrivedSms {
    /// Every number that it is for, as E.164 digits without the plus.
    pub recipients: Vec<String>,
    /// The text.
    pub text: String,
    /// What the gateway was given to tell a repeated SMS by; `None` where it has no place for it.
    pub reference: Option<String>,
}

/// Where the SMS of the sender under test arrive.
#[async_trait]
pub trait Phones: Send + Sync {
    /// Every SMS that was taken, in order.
    async fn arrived(&self) -> Vec<ArrivedSms>;
}

/// How a gateway behaves from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatewayMood {
    /// It takes every SMS.
    Takes,
    /// It takes none for now: it is too busy, or has no credit.
    Defers,
    /// It takes none ever: it says that there is no such number.
    Refuses,
    /// It takes none, and answers what no gateway would: a proxy's page, for example.
    Babbles,
    /// It accepts connections and says nothing.
    Silent,
    /// It accepts no connection, or drops it.
    Gone,
    /// It takes every SMS, and its answer is lost.
    LosesTheAnswer,
}

/// A gateway that can be told to fail.
#[async_trait]
pub trait Gateway: Send + Sync {
    /// Behaves so from now on.
    async fn behave(&self, mood: GatewayMood);
}

/// A sender, and the place where its SMS arrive.
pub struct SmsBackend {
    /// The sender; whatever time it waits for its gateway is a few seconds at most.
    pub sender: Arc<dyn SmsSender>,
    /// Where its SMS arrive.
    pub phones: Arc<dyn Phones>,
    /// Whether the gateway can tell by a reference that an SMS is repeated. One that can has to be given it.
    pub knows_references: bool,
    /// The gateway, where it can be told to fail; `sms_gateway_contract!` needs it.
    pub gateway: Option<Arc<dyn Gateway>>,
    /// What has to live as long as the sender.
    pub keep: Box<dyn Any + Send + Sync>,
}

impl SmsBackend {
    async fn sent(&self, sms: Sms) -> ArrivedSms {
        self.sender.send(sms).await.expect("the SMS is taken");
        self.phones.arrived().await.pop().expect("what was taken has arrived")
    }

    async fn gateway_behaves(&self, mood: GatewayMood) {
        self.gateway.as_ref().expect("sms_gateway_contract! needs a gateway").behave(mood).await;
    }

    fn told_by(&self, arrived: &ArrivedSms) -> Option<String> {
        let is_as_said = arrived.reference.is_some() == self.knows_references;
        assert!(is_as_said, "the gateway is given a reference where it knows one: {arrived:?}");
        arrived.reference.clone()
    }
}

const NUMBER: &str = "447700900813";

fn sms(id: &str, to: &str) -> Sms {
    Sms {
        id: MessageId::new(id),
        to: Msisdn::parse(to).expect("a number"),
        text: "482913 is your code".to_owned(),
    }
}

/// `Ok` means that the gateway has it, once: one recipient, the whole text.
pub async fn an_sms_arrives_with_what_it_says(backend: &SmsBackend) {
    let sms = sms("message1", NUMBER);
    let arrived = backend.sent(sms.clone()).await;
    assert_eq!(arrived.recipients, [NUMBER]);
    assert_eq!(arrived.text, sms.text);
    assert_eq!(backend.phones.arrived().await.len(), 1);
}

/// The shortest and the longest numbers that there are.
pub async fn numbers_of_any_length_arrive(backend: &SmsBackend) {
    for number in ["2908123", "447700900813", "881612345678901"] {
        assert_eq!(backend.sent(sms("message1", number)).await.recipients, [number]);
    }
}

/// Whatever a transport has a meaning for is text here: quotes, escapes, percent signs, line breaks, braces.
pub async fn no_character_of_the_text_is_lost_or_changed(backend: &SmsBackend) {
    for text in [
        "482913",
        "Grüße, 你好, שלום, 🦀",
        "a+b c%20d%2Be %",
        "\"quoted\" \\n 'and' \\u0041 back\\slash",
        "one\ntwo\n\nfour\ttab",
        "<b>&amp;</b> & ; = ? # /",
        "{{ to }} {% raw %} {# no #} ${x} %s",
        " spaces around ",
    ] {
        let arrived = backend.sent(Sms { text: text.to_owned(), ..sms("message1", NUMBER) }).await;
        assert_eq!((arrived.text.as_str(), arrived.recipients), (text, vec![NUMBER.to_owned()]));
    }
    let long = "0123456789".repeat(100);
    let arrived = backend.sent(Sms { text: long.clone(), ..sms("message1", NUMBER) }).await;
    assert_eq!(arrived.text, long, "a long text is not cut off");
}

/// A text may look like a part of the request; it never becomes one.
pub async fn a_text_cannot_add_a_recipient(backend: &SmsBackend) {
    for text in [
        "x&to=15005550006",
        "x\",\"to\":\"15005550006",
        "x\r\nTo: 15005550006\r\n\r\n",
        "x</text><to>15005550006</to>",
        "x', to='15005550006",
    ] {
        let arrived = backend.sent(Sms { text: text.to_owned(), ..sms("message1", NUMBER) }).await;
        assert_eq!((arrived.recipients, arrived.text), (vec![NUMBER.to_owned()], text.to_owned()));
    }
}

/// A gateway tells a repeated SMS by it.
pub async fn the_reference_is_the_same_at_every_try(backend: &SmsBackend) {
    let first = backend.sent(sms("message1", NUMBER)).await;
    let second = backend.sent(sms("message1", NUMBER)).await;
    let (first, second) = (backend.told_by(&first), backend.told_by(&second));
    assert_eq!(first, second);
    let is_made_of_it = first.as_ref().is_none_or(|reference| reference.contains("message1"));
    assert!(is_made_of_it, "it is made of the SMS's id: {first:?}");
}

/// A new SMS is not taken for an old one, even if it says the same.
pub async fn different_sms_have_different_references(backend: &SmsBackend) {
    let first = backend.sent(sms("message1", NUMBER)).await;
    let second = backend.sent(sms("message2", NUMBER)).await;
    let (first, second) = (backend.told_by(&first), backend.told_by(&second));
    assert!(first.is_none() || first != second, "{first:?}");
}

/// A sender is shared.
pub async fn sms_sent_at_once_all_arrive(backend: &SmsBackend, spawn: Spawner) {
    let task = |at: usize| {
        let sender = backend.sender.clone();
        let sms =
            Sms { text: format!("text {at}"), ..sms(&format!("message{at}"), &format!("4477009008{at:02}")) };
        async move { sender.send(sms).await.is_ok() }
    };
    let answers = race(spawn, (0..20).map(task).collect()).await;
    assert!(answers.iter().all(|ok| *ok), "{answers:?}");
    let arrived = backend.phones.arrived().await;
    let pairs: HashSet<_> = arrived.iter().map(|sms| (sms.recipients.clone(), sms.text.clone())).collect();
    let sent: HashSet<_> =
        (0..20).map(|at| (vec![format!("4477009008{at:02}")], format!("text {at}"))).collect();
    assert_eq!((arrived.len(), pairs), (20, sent));
}

async fn fails(backend: &SmsBackend, mood: GatewayMood) -> DeliveryError {
    backend.gateway_behaves(mood).await;
    let answer = backend.sender.send(sms("message1", NUMBER)).await;
    let error = answer.expect_err("what the gateway did not say that it took is an error");
    assert_says_no_number(&error);
    error
}

/// Error texts are logged.
fn assert_says_no_number(error: &DeliveryError) {
    let mut said = format!("{error} {error:?}");
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        said = format!("{said} {error} {error:?}");
        cause = error.source();
    }
    assert!(!said.contains(NUMBER) && !said.contains("482913"), "no whole number, no code: {said}");
}

async fn fails_for_now(backend: &SmsBackend, mood: GatewayMood) {
    let error = fails(backend, mood).await;
    assert!(matches!(error, DeliveryError::Transient(_)), "{mood:?}: {error:?}");
    assert_eq!(backend.phones.arrived().await, [], "nothing was taken");
}

/// It will have credit again.
pub async fn a_deferred_sms_may_be_taken_later(backend: &SmsBackend) {
    fails_for_now(backend, GatewayMood::Defers).await;
}

/// No later try would succeed.
pub async fn a_refused_sms_is_not_tried_again(backend: &SmsBackend) {
    let error = fails(backend, GatewayMood::Refuses).await;
    assert!(matches!(error, DeliveryError::Permanent(_)), "{error:?}");
    assert_eq!(backend.phones.arrived().await, [], "nothing was taken");
}

/// An answer that cannot be read is neither a yes nor a no.
pub async fn an_answer_that_cannot_be_read_is_no_answer(backend: &SmsBackend) {
    fails_for_now(backend, GatewayMood::Babbles).await;
}

/// A try ends within a bounded time, and what it does not know is transient.
pub async fn a_gateway_that_says_nothing_is_given_up(backend: &SmsBackend) {
    fails_for_now(backend, GatewayMood::Silent).await;
}

/// A gateway that restarts costs no SMS.
pub async fn a_gateway_that_is_gone_may_come_back(backend: &SmsBackend) {
    fails_for_now(backend, GatewayMood::Gone).await;
}

/// Nobody knows that it arrived, so it is tried again, under the same reference.
pub async fn an_sms_whose_answer_was_lost_is_tried_again(backend: &SmsBackend) {
    let error = fails(backend, GatewayMood::LosesTheAnswer).await;
    assert!(matches!(error, DeliveryError::Transient(_)), "{error:?}");
    let lost = backend.phones.arrived().await;
    assert_eq!(lost.len(), 1, "one try hands it over once: {lost:?}");
    backend.gateway_behaves(GatewayMood::Takes).await;
    let again = backend.sent(sms("message1", NUMBER)).await;
    assert_eq!(lost, [again]);
}

/// No failure spoils the sender: no dead connection is kept.
pub async fn a_sender_that_failed_sends_again(backend: &SmsBackend) {
    for (turn, mood) in [
        GatewayMood::Defers,
        GatewayMood::Refuses,
        GatewayMood::Babbles,
        GatewayMood::Gone,
        GatewayMood::Silent,
    ]
    .into_iter()
    .enumerate()
    {
        fails(backend, mood).await;
        backend.gateway_behaves(GatewayMood::Takes).await;
        // A connection that was kept may turn out dead at the first use; what counts is that the next try gets through.
        let again = || backend.sender.send(sms("message1", NUMBER));
        assert!(again().await.is_ok() || again().await.is_ok(), "after {mood:?}");
        assert_eq!(backend.phones.arrived().await.len(), turn + 1, "after {mood:?}");
    }
}
