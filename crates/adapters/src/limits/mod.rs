//! Rate limits: each subject of each limit has a bucket of its own that holds `burst` acts and fills again at a steady
//! rate.
//!
//! What only this process has to know is kept in memory. What every instance has to know is kept where they all look
//! ([`SharedCounts`]); memory then holds what was last seen there, so that whoever is over a limit anyway costs no look.
//! Memory is bounded: where a limit sees more subjects than it may keep, it forgets the half that acted least, which is
//! the half that is nearest to having a full bucket anyway.

mod bounded_map;
mod bucket;

use std::sync::Arc;

use async_trait::async_trait;
use threepid_domain::ports::{Clock, Limit, OverLimit, RateLimiter, Scope, Unavailable, Verdict};

use bounded_map::BoundedMap;
pub use bucket::Act;
use bucket::Bucket;

/// How fast one subject may act.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Acts per second over a long time; above 0.
    pub per_second: f64,
    /// Acts at once, before the rate begins to hold; at least 1.
    pub burst: u32,
}

impl Rate {
    /// Synapse's for requests that send mail: five, then about one in five and a half minutes.
    pub const SYNAPSES: Self = Self { per_second: 0.003, burst: 5 };

    /// So many in any hour, whenever it begins: a quarter of them at once, the others evenly. `None` for fewer than two.
    pub fn per_hour(most: u32) -> Option<Self> {
        let burst = most.div_ceil(4);
        let rest = most.checked_sub(burst).filter(|rest| *rest > 0)?;
        Some(Self { per_second: f64::from(rest) / 3600.0, burst })
    }

    /// The default of a limit.
    pub fn default_of(limit: Limit) -> Self {
        match limit {
            Limit::RequestTokenPerClient | Limit::RequestTokenPerAddress => Self::SYNAPSES,
            // A thousand in any hour; see `per_hour`.
            Limit::MailsInAll => Self { per_second: 750.0 / 3600.0, burst: 250 },
            // A hundred in any hour.
            Limit::SmsInAll => Self { per_second: 75.0 / 3600.0, burst: 25 },
            Limit::SubmitPerClient => Self { per_second: 0.5, burst: 30 },
            Limit::SubmitPerSession => Self { per_second: 0.1, burst: 10 },
            // Ten a day, since codes are few.
            Limit::CodesPerAddress => Self { per_second: 0.000_116, burst: 10 },
            // One a day.
            Limit::InUseNoticePerAddress => Self { per_second: 0.000_011_5, burst: 1 },
            Limit::FailedTokensPerClient => Self { per_second: 0.2, burst: 30 },
            Limit::FailedReauthenticationPerAccount => Self { per_second: 0.17, burst: 3 },
        }
    }
}

/// The rate of each limit, and how much is remembered.
#[derive(Clone, Debug, PartialEq)]
pub struct LimitSettings {
    rates: Vec<Option<Rate>>,
    max_subjects: usize,
}

impl Default for LimitSettings {
    fn default() -> Self {
        let rates = Limit::ALL.iter().map(|limit| Some(Rate::default_of(*limit))).collect();
        Self { rates, max_subjects: 100_000 }
    }
}

impl LimitSettings {
    /// The same, but each limit remembers so many subjects, about 150 bytes each; at least 2. Default 100 000.
    #[must_use]
    pub fn remembering(self, max_subjects: usize) -> Self {
        Self { max_subjects, ..self }
    }

    /// The same, with another rate for `limit`; none limits nothing.
    #[must_use]
    pub fn with(mut self, limit: Limit, rate: Option<Rate>) -> Self {
        if let Some(place) = self.rates.get_mut(limit as usize) {
            *place = rate;
        }
        self
    }
}

/// Settings that make no limit. The text names the setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLimit {
    /// A rate that is no rate.
    #[error("{0}: per_second must be above 0, burst at least 1, and burst / per_second at most a year")]
    Rate(&'static str),
    /// A memory that holds nothing.
    #[error("max_subjects must be at least 2")]
    MaxSubjects,
}

/// What became of an act that was counted where every instance looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Whether it was allowed, and so counted.
    pub is_allowed: bool,
    /// When the bucket is full again now.
    pub full_at: i64,
}

/// An act that is counted where every instance looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedAct {
    /// The limit's name.
    pub limit: &'static str,
    /// Whose it is.
    pub subject: String,
    /// When, and at what rate.
    pub act: Act,
}

/// Where the counts are that every instance has to know: for each limit's name and subject the time in microseconds
/// since the epoch at which the bucket is full.
#[async_trait]
pub trait SharedCounts: Send + Sync {
    /// Counts these acts, in their order, up to the first that is not allowed: gives what became of each up to that one.
    /// Acts that come at once MUST be judged one after the other.
    ///
    /// # Errors
    /// [`Unavailable`] when it cannot count now.
    async fn take(&self, acts: Vec<SharedAct>) -> Result<Vec<Counted>, Unavailable>;

    /// When the bucket is full; `None` where it is.
    ///
    /// # Errors
    /// [`Unavailable`] when it cannot tell now.
    async fn full_at(&self, limit: &'static str, subject: String) -> Result<Option<i64>, Unavailable>;

    /// Takes an act back.
    ///
    /// # Errors
    /// [`Unavailable`] when it cannot count now.
    async fn give_back(&self, limit: &'static str, subject: String, act: Act) -> Result<(), Unavailable>;
}

/// [`RateLimiter`] in memory, and where every instance looks.
pub struct Limiter {
    clock: Arc<dyn Clock>,
    shared: Option<Arc<dyn SharedCounts>>,
    /// By `limit as usize`; `None` where nothing is limited.
    limits: Vec<Option<(Bucket, BoundedMap)>>,
}

impl std::fmt::Debug for Limiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Limiter")
    }
}

impl Limiter {
    /// Limits of this process alone, shared ones included.
    ///
    /// # Errors
    /// [`InvalidLimit`].
    pub fn in_memory(settings: &LimitSettings, clock: Arc<dyn Clock>) -> Result<Self, InvalidLimit> {
        Self::new(settings, clock, None)
    }

    /// Limits whose shared ones are counted in `shared`.
    ///
    /// # Errors
    /// [`InvalidLimit`].
    pub fn sharing(
        settings: &LimitSettings,
        clock: Arc<dyn Clock>,
        shared: Arc<dyn SharedCounts>,
    ) -> Result<Self, InvalidLimit> {
        Self::new(settings, clock, Some(shared))
    }

    fn new(
        settings: &LimitSettings,
        clock: Arc<dyn Clock>,
        shared: Option<Arc<dyn SharedCounts>>,
    ) -> Result<Self, InvalidLimit> {
        if settings.max_subjects < 2 {
            return Err(InvalidLimit::MaxSubjects);
        }
        let made = Limit::ALL.iter().zip(&settings.rates).map(|(limit, rate)| {
            let Some(rate) = rate else { return Ok(None) };
            let bucket = Bucket::new(*rate).ok_or(InvalidLimit::Rate(limit.name()))?;
            Ok(Some((bucket, BoundedMap::new(settings.max_subjects))))
        });
        Ok(Self { clock, shared, limits: made.collect::<Result<_, _>>()? })
    }

    /// An act now, and what memory holds of the limit; `None` where nothing is limited.
    fn act(&self, limit: Limit) -> Option<(Act, &BoundedMap)> {
        let (bucket, known) = self.limits.get(limit as usize)?.as_ref()?;
        Some((bucket.act(self.clock.now()), known))
    }

    fn shared(&self, limit: Limit) -> Option<&dyn SharedCounts> {
        self.shared.as_deref().filter(|_| limit.scope() == Scope::Shared)
    }

    /// Counts acts where every instance looks, up to the first that is not allowed, and remembers what it learnt.
    async fn take_shared(
        &self,
        acts: Vec<(Limit, String, Act)>,
    ) -> Result<Result<(), OverLimit>, Unavailable> {
        let Some(shared) = self.shared.as_deref().filter(|_| !acts.is_empty()) else { return Ok(Ok(())) };
        let asked = acts.iter().map(|(limit, subject, act)| SharedAct {
            limit: limit.name(),
            subject: subject.clone(),
            act: *act,
        });
        let counted = shared.take(asked.collect()).await?;
        let is_whole = counted.len() == acts.len() || counted.last().is_some_and(|last| !last.is_allowed);
        if !is_whole {
            return Err(Unavailable::new("rate limiter", "an act was not judged"));
        }
        let mut judged = Ok(());
        for ((limit, subject, act), counted) in acts.into_iter().zip(counted) {
            if let Some((_, known)) = self.act(limit) {
                known.set(subject, counted.full_at);
            }
            if !counted.is_allowed {
                judged = Err(OverLimit { limit, retry_after: act.wait(counted.full_at) });
            }
        }
        Ok(judged)
    }
}

#[async_trait]
impl RateLimiter for Limiter {
    async fn take(&self, limit: Limit, subject: String) -> Result<Verdict, Unavailable> {
        let taken = self.take_each(vec![(limit, subject)]).await?;
        Ok(taken.map_or_else(|over| Verdict::RetryAfter(over.retry_after), |()| Verdict::Allowed))
    }

    async fn take_each(&self, acts: Vec<(Limit, String)>) -> Result<Result<(), OverLimit>, Unavailable> {
        let mut shared = Vec::new();
        for (limit, subject) in acts {
            let Some((act, known)) = self.act(limit) else { continue };
            let over = |retry_after| OverLimit { limit, retry_after };
            let is_shared = self.shared(limit).is_some();
            let judged = if is_shared {
                act.take(known.get(&subject)).map(|_| shared.push((limit, subject, act))).map_err(over)
            } else if let Err(over) = self.take_shared(std::mem::take(&mut shared)).await? {
                return Ok(Err(over));
            } else {
                known.replace(subject, |full_at| act.take(full_at)).map(drop).map_err(over)
            };
            if judged.is_err() {
                // Nothing follows it, but what came before it is counted.
                return Ok(self.take_shared(shared).await?.and(judged));
            }
        }
        self.take_shared(shared).await
    }

    fn known(&self, limit: Limit, subject: &str) -> Verdict {
        self.act(limit).map_or(Verdict::Allowed, |(act, known)| verdict(act.take(known.get(subject))))
    }

    async fn look(&self, limit: Limit, subject: String) -> Result<Verdict, Unavailable> {
        let Some((act, known)) = self.act(limit) else { return Ok(Verdict::Allowed) };
        let seen = act.take(known.get(&subject));
        let Some(shared) = self.shared(limit).filter(|_| seen.is_ok()) else { return Ok(verdict(seen)) };
        Ok(verdict(act.take(shared.full_at(limit.name(), subject).await?)))
    }

    async fn give_back(&self, limit: Limit, subject: String) -> Result<(), Unavailable> {
        let Some((act, known)) = self.act(limit) else { return Ok(()) };
        match self.shared(limit) {
            Some(shared) => {
                known.forget(&subject);
                shared.give_back(limit.name(), subject, act).await?;
            }
            None => known.change(&subject, |full_at| full_at.saturating_sub(act.interval)),
        }
        Ok(())
    }
}

fn verdict<T>(taken: Result<T, std::time::Duration>) -> Verdict {
    match taken {
        Ok(_) => Verdict::Allowed,
        Err(wait) => Verdict::RetryAfter(wait),
    }
}

#[cfg(test)]
mod tests;
