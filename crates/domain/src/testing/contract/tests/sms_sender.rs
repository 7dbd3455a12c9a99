//! The SMS sender's kit runs on a sender that keeps its promises, and is shown to fail on senders that break one.

use std::future::pending;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::FutureExt;

use crate::ports::{DeliveryError, Sms, SmsSender};
use crate::testing::contract::sms_sender as kit;
use crate::testing::contract::{ArrivedSms, Gateway, GatewayMood, Phones, SmsBackend};
use crate::testing::lock;

use super::spawn;

/// One promise that a sender breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    /// None.
    None,
    /// Says yes before the gateway has.
    SaysYesTooSoon,
    /// Takes every answer for a yes.
    BelievesAnyAnswer,
    /// Gives up whatever was not taken.
    GivesUpTooSoon,
    /// Never gives up.
    NeverGivesUp,
    /// Waits for ever.
    WaitsForEver,
    /// Sends once more by itself where it got no answer.
    RepeatsByItself,
    /// Gives the gateway no reference.
    ForgetsTheReference,
    /// Gives every try a reference of its own.
    CountsTries,
    /// Gives every SMS to one number the same reference.
    RefersToTheNumber,
    /// Cuts long texts off.
    CutsOff,
    /// Trims texts.
    Trims,
    /// Puts the text into a form without escaping it.
    DoesNotEscape,
    /// Writes the number into its errors.
    TellsTheNumber,
    /// Sends nothing while it sends another.
    DropsWhileBusy,
    /// Fails for good once it has failed.
    StaysBroken,
}

/// A gateway in memory, and the sender to it.
struct Sender {
    flaw: Flaw,
    mood: Mutex<GatewayMood>,
    arrived: Mutex<Vec<ArrivedSms>>,
    tries: Mutex<usize>,
    broken: Mutex<bool>,
}

/// What the gateway lets know.
enum Answer {
    Yes,
    Later,
    Never,
    Nonsense,
    Nothing,
}

impl Sender {
    fn backend(flaw: Flaw) -> SmsBackend {
        let sender = Arc::new(Self {
            flaw,
            mood: Mutex::new(GatewayMood::Takes),
            arrived: Mutex::default(),
            tries: Mutex::default(),
            broken: Mutex::default(),
        });
        SmsBackend {
            sender: sender.clone(),
            phones: sender.clone(),
            knows_references: true,
            gateway: Some(sender),
            keep: Box::new(()),
        }
    }

    fn written(&self, sms: &Sms) -> ArrivedSms {
        let tries = *lock(&self.tries);
        let reference = match self.flaw {
            Flaw::ForgetsTheReference => None,
            Flaw::CountsTries => Some(format!("{}-{tries}", sms.id)),
            Flaw::RefersToTheNumber => Some(format!("message1-{}", sms.to.as_str())),
            _ => Some(sms.id.as_str().to_owned()),
        };
        let text = match self.flaw {
            Flaw::CutsOff => sms.text.chars().take(160).collect(),
            Flaw::Trims => sms.text.trim().to_owned(),
            _ => sms.text.clone(),
        };
        let mut recipients = vec![sms.to.as_str().to_owned()];
        if let (Flaw::DoesNotEscape, Some((_, more))) = (self.flaw, text.split_once("&to=")) {
            recipients.push(more.to_owned());
        }
        ArrivedSms { recipients, text, reference }
    }

    async fn ask(&self, sms: &Sms) -> Answer {
        let mood = *lock(&self.mood);
        if matches!(mood, GatewayMood::Takes | GatewayMood::LosesTheAnswer) {
            let written = self.written(sms);
            lock(&self.arrived).push(written);
        }
        match mood {
            GatewayMood::Takes => Answer::Yes,
            GatewayMood::Defers => Answer::Later,
            GatewayMood::Refuses => Answer::Never,
            GatewayMood::Babbles => Answer::Nonsense,
            GatewayMood::Silent if self.flaw == Flaw::WaitsForEver => pending().await,
            GatewayMood::Silent | GatewayMood::Gone | GatewayMood::LosesTheAnswer => Answer::Nothing,
        }
    }
}

#[async_trait]
impl SmsSender for Sender {
    async fn send(&self, sms: Sms) -> Result<(), DeliveryError> {
        let turn = {
            let mut tries = lock(&self.tries);
            *tries += 1;
            *tries
        };
        let is_busy = self.flaw == Flaw::DropsWhileBusy && turn > 1;
        if is_busy || *lock(&self.broken) {
            return Err(DeliveryError::Transient("busy or broken".into()));
        }
        // The first is made to last until another has come.
        while self.flaw == Flaw::DropsWhileBusy && *lock(&self.tries) == 1 {
            tokio::task::yield_now().await;
        }
        let mut answer = self.ask(&sms).await;
        if self.flaw == Flaw::RepeatsByItself && matches!(answer, Answer::Nothing) {
            answer = self.ask(&sms).await;
        }
        let why = match self.flaw {
            Flaw::TellsTheNumber => format!("{} was not sent", sms.to.as_str()),
            _ => "it was not sent".to_owned(),
        };
        *lock(&self.broken) = self.flaw == Flaw::StaysBroken && !matches!(answer, Answer::Yes);
        match (answer, self.flaw) {
            (Answer::Yes, _) | (_, Flaw::SaysYesTooSoon) | (Answer::Nonsense, Flaw::BelievesAnyAnswer) => {
                Ok(())
            }
            (_, Flaw::GivesUpTooSoon) => Err(DeliveryError::Permanent(why.into())),
            (Answer::Never, flaw) if flaw != Flaw::NeverGivesUp => Err(DeliveryError::Permanent(why.into())),
            _ => Err(DeliveryError::Transient(why.into())),
        }
    }
}

#[async_trait]
impl Phones for Sender {
    async fn arrived(&self) -> Vec<ArrivedSms> {
        lock(&self.arrived).clone()
    }
}

#[async_trait]
impl Gateway for Sender {
    async fn behave(&self, mood: GatewayMood) {
        *lock(&self.mood) = mood;
    }
}

async fn honest() -> SmsBackend {
    Sender::backend(Flaw::None)
}

mod sender {
    crate::sms_sender_contract!(super::honest());
}

mod gateway {
    crate::sms_gateway_contract!(super::honest());
}

/// Whether a case fails on a sender with a flaw, as a test that panics.
macro_rules! catches {
    ($case:ident, $flaw:expr $(, $spawn:expr)?) => {{
        let backend = Sender::backend($flaw);
        let run = tokio::spawn(async move { kit::$case(&backend $(, $spawn)?).await });
        run.await.is_err_and(|error| error.is_panic())
    }};
}

#[tokio::test]
async fn a_yes_that_the_gateway_did_not_say_is_caught() {
    assert!(catches!(a_deferred_sms_may_be_taken_later, Flaw::SaysYesTooSoon));
    assert!(catches!(a_gateway_that_is_gone_may_come_back, Flaw::SaysYesTooSoon));
    assert!(catches!(an_answer_that_cannot_be_read_is_no_answer, Flaw::BelievesAnyAnswer));
}

#[tokio::test]
async fn a_sender_that_gives_up_too_soon_or_never_is_caught() {
    let flaw = Flaw::GivesUpTooSoon;
    assert!(catches!(a_deferred_sms_may_be_taken_later, flaw));
    assert!(catches!(an_answer_that_cannot_be_read_is_no_answer, flaw));
    assert!(catches!(a_gateway_that_says_nothing_is_given_up, flaw));
    assert!(catches!(a_gateway_that_is_gone_may_come_back, flaw));
    assert!(catches!(an_sms_whose_answer_was_lost_is_tried_again, flaw));
    assert!(catches!(a_refused_sms_is_not_tried_again, Flaw::NeverGivesUp));
}

#[test]
fn a_sender_that_waits_for_ever_is_caught() {
    let ends = |flaw| {
        let backend = Sender::backend(flaw);
        kit::a_gateway_that_says_nothing_is_given_up(&backend).now_or_never()
    };
    assert_eq!(ends(Flaw::None), Some(()), "in memory nothing waits");
    assert_eq!(ends(Flaw::WaitsForEver), None);
}

#[tokio::test]
async fn a_sender_that_repeats_by_itself_is_caught() {
    assert!(catches!(an_sms_whose_answer_was_lost_is_tried_again, Flaw::RepeatsByItself));
}

#[tokio::test]
async fn a_reference_that_tells_nothing_is_caught() {
    assert!(catches!(the_reference_is_the_same_at_every_try, Flaw::ForgetsTheReference));
    assert!(catches!(the_reference_is_the_same_at_every_try, Flaw::CountsTries));
    assert!(catches!(an_sms_whose_answer_was_lost_is_tried_again, Flaw::CountsTries));
    assert!(catches!(different_sms_have_different_references, Flaw::RefersToTheNumber));
}

#[tokio::test]
async fn a_text_that_is_not_sent_as_it_is_is_caught() {
    assert!(catches!(no_character_of_the_text_is_lost_or_changed, Flaw::CutsOff));
    assert!(catches!(no_character_of_the_text_is_lost_or_changed, Flaw::Trims));
    assert!(catches!(a_text_cannot_add_a_recipient, Flaw::DoesNotEscape));
}

#[tokio::test]
async fn an_error_that_tells_the_number_is_caught() {
    assert!(catches!(a_deferred_sms_may_be_taken_later, Flaw::TellsTheNumber));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_sender_that_cannot_be_shared_or_stays_broken_is_caught() {
    assert!(catches!(sms_sent_at_once_all_arrive, Flaw::DropsWhileBusy, spawn));
    assert!(catches!(a_sender_that_failed_sends_again, Flaw::StaysBroken));
}
