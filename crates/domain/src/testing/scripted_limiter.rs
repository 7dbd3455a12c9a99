//! A limit that answers what a test says.

use std::collections::VecDeque;
use std::sync::Mutex;

use async_trait::async_trait;

use super::lock;
use crate::ports::{Limit, RateLimiter, Unavailable, Verdict};

/// Gives the scripted verdicts in turn, then allows everything; records whom it was asked about.
#[derive(Debug, Default)]
pub struct ScriptedLimiter {
    verdicts: Mutex<VecDeque<Option<Verdict>>>,
    looks: Mutex<VecDeque<Verdict>>,
    taken: Mutex<Vec<(Limit, String)>>,
    given_back: Mutex<Vec<(Limit, String)>>,
}

impl ScriptedLimiter {
    /// The next answer that is not scripted yet.
    pub fn next_is(&self, verdict: Verdict) {
        lock(&self.verdicts).push_back(Some(verdict));
    }

    /// The next answer that is not scripted yet: the limiter cannot count.
    pub fn next_is_unavailable(&self) {
        lock(&self.verdicts).push_back(None);
    }

    /// The next answer to a mere look that is not scripted yet.
    pub fn next_look_is(&self, verdict: Verdict) {
        lock(&self.looks).push_back(verdict);
    }

    /// What was given back, in order: the limit and its subject.
    pub fn given_back(&self) -> Vec<(Limit, String)> {
        lock(&self.given_back).clone()
    }

    /// What was counted, in order: the limit and its subject.
    pub fn taken(&self) -> Vec<(Limit, String)> {
        lock(&self.taken).clone()
    }
}

#[async_trait]
impl RateLimiter for ScriptedLimiter {
    async fn take(&self, limit: Limit, subject: String) -> Result<Verdict, Unavailable> {
        lock(&self.taken).push((limit, subject));
        let next = lock(&self.verdicts).pop_front().unwrap_or(Some(Verdict::Allowed));
        next.ok_or_else(|| Unavailable::new("rate limiter", "switched off by the test"))
    }

    async fn look(&self, _limit: Limit, _subject: String) -> Result<Verdict, Unavailable> {
        Ok(lock(&self.looks).pop_front().unwrap_or(Verdict::Allowed))
    }

    async fn give_back(&self, limit: Limit, subject: String) -> Result<(), Unavailable> {
        lock(&self.given_back).push((limit, subject));
        Ok(())
    }
}
