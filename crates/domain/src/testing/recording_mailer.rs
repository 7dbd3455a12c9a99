//! A mail server in memory.

use std::collections::VecDeque;
use std::sync::Mutex;

use async_trait::async_trait;

use super::contract::{Arrived, Hop, HopMood, Inbox};
use super::lock;
use crate::ports::{BoxError, DeliveryError, Mail, Mailer};

/// How the mailer ends one try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The mail is taken.
    Taken,
    /// The mail is not taken now, as after a 4xx answer.
    Transient,
    /// The mail will never be taken, as after a 5xx answer.
    Permanent,
    /// The mail is taken, and the answer that says so is lost.
    TakenAnswerLost,
}

/// Gives the scripted replies in turn, then takes everything; records every try and every mail it took.
#[derive(Debug, Default)]
pub struct RecordingMailer {
    script: Mutex<VecDeque<Reply>>,
    mood: Mutex<Option<Reply>>,
    tried: Mutex<Vec<Mail>>,
    taken: Mutex<Vec<Mail>>,
}

impl RecordingMailer {
    /// The next reply that is not scripted yet.
    pub fn next_is(&self, reply: Reply) {
        lock(&self.script).push_back(reply);
    }

    /// Every mail that was tried, in order, the ones not taken included.
    pub fn tried(&self) -> Vec<Mail> {
        lock(&self.tried).clone()
    }

    /// Every mail that was taken, in order.
    pub fn taken(&self) -> Vec<Mail> {
        lock(&self.taken).clone()
    }
}

#[async_trait]
impl Mailer for RecordingMailer {
    async fn send(&self, mail: Mail) -> Result<(), DeliveryError> {
        lock(&self.tried).push(mail.clone());
        let scripted = lock(&self.script).pop_front();
        let reply = scripted.or(*lock(&self.mood)).unwrap_or(Reply::Taken);
        if matches!(reply, Reply::Taken | Reply::TakenAnswerLost) {
            lock(&self.taken).push(mail);
        }
        let as_scripted = || -> BoxError { format!("scripted: {reply:?}").into() };
        match reply {
            Reply::Taken => Ok(()),
            Reply::Transient | Reply::TakenAnswerLost => Err(DeliveryError::Transient(as_scripted())),
            Reply::Permanent => Err(DeliveryError::Permanent(as_scripted())),
        }
    }
}

#[async_trait]
impl Inbox for RecordingMailer {
    async fn arrived(&self) -> Vec<Arrived> {
        let arrived = |mail: Mail| Arrived {
            recipients: vec![format!("{}@{}", mail.to.local(), mail.to.ascii_domain())],
            message_id: mail.id.as_str().to_owned(),
            auto_submitted: Some("auto-generated".to_owned()),
            subject: mail.subject,
            text: mail.text,
            html: mail.html,
        };
        self.taken().into_iter().map(arrived).collect()
    }
}

#[async_trait]
impl Hop for RecordingMailer {
    async fn behave(&self, mood: HopMood) {
        *lock(&self.mood) = Some(match mood {
            HopMood::Takes => Reply::Taken,
            HopMood::Refuses => Reply::Permanent,
            HopMood::Defers | HopMood::Silent | HopMood::Gone => Reply::Transient,
        });
    }
}
