//! No limit.

use async_trait::async_trait;

use crate::ports::{Limit, RateLimiter, Unavailable, Verdict};

/// Allows everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenLimiter;

#[async_trait]
impl RateLimiter for OpenLimiter {
    async fn take(&self, _limit: Limit, _subject: String) -> Result<Verdict, Unavailable> {
        Ok(Verdict::Allowed)
    }

    async fn look(&self, _limit: Limit, _subject: String) -> Result<Verdict, Unavailable> {
        Ok(Verdict::Allowed)
    }

    async fn give_back(&self, _limit: Limit, _subject: String) -> Result<(), Unavailable> {
        Ok(())
    }
}
