//! An SMS gateway in memory.

use std::collections::VecDeque;
use std::sync::Mutex;

use async_trait::async_trait;

use super::{Reply, lock};
use crate::ports::{BoxError, DeliveryError, Sms, SmsSender};

/// Gives the scripted replies in turn, then takes everything; records every try and every SMS it took.
#[derive(Debug, Default)]
pub struct RecordingSmsSender {
    script: Mutex<VecDeque<Reply>>,
    tried: Mutex<Vec<Sms>>,
    taken: Mutex<Vec<Sms>>,
}

impl RecordingSmsSender {
    /// The next reply that is not scripted yet.
    pub fn next_is(&self, reply: Reply) {
        lock(&self.script).push_back(reply);
    }

    /// Every SMS that was tried, in order, the ones not taken included.
    pub fn tried(&self) -> Vec<Sms> {
        lock(&self.tried).clone()
    }

    /// Every SMS that was taken, in order.
    pub fn taken(&self) -> Vec<Sms> {
        lock(&self.taken).clone()
    }
}

#[async_trait]
impl SmsSender for RecordingSmsSender {
    async fn send(&self, sms: Sms) -> Result<(), DeliveryError> {
        lock(&self.tried).push(sms.clone());
        let reply = lock(&self.script).pop_front().unwrap_or(Reply::Taken);
        if matches!(reply, Reply::Taken | Reply::TakenAnswerLost) {
            lock(&self.taken).push(sms);
        }
        let as_scripted = || -> BoxError { format!("scripted: {reply:?}").into() };
        match reply {
            Reply::Taken => Ok(()),
            Reply::Transient | Reply::TakenAnswerLost => Err(DeliveryError::Transient(as_scripted())),
            Reply::Permanent => Err(DeliveryError::Permanent(as_scripted())),
        }
    }
}
