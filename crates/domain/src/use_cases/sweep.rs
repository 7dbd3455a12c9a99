//! Accounts that the homeserver has deactivated are erased here.

use std::sync::Arc;

use super::{EraseError, Eraser};
use crate::model::{Erased, UserId};
use crate::ports::{AccountRecords, AccountState, AccountStates, Unavailable};

/// So many accounts are named at a time.
const PAGE: usize = 500;

/// Looks for accounts that have ended.
#[derive(Clone)]
pub struct Sweeper {
    records: Arc<dyn AccountRecords>,
    states: Arc<dyn AccountStates>,
    eraser: Eraser,
}

/// Why nothing is known to have become of an account.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// The homeserver does not say whether the account has ended. Nothing was changed.
    #[error("the homeserver does not say whether an account has ended")]
    NotTold(#[source] Unavailable),
    /// It has ended, and could not be erased.
    #[error(transparent)]
    NotErased(#[from] EraseError),
}

impl Sweeper {
    /// Asks `states` about those whom `records` names, and has `eraser` erase who is gone.
    pub fn new(records: Arc<dyn AccountRecords>, states: Arc<dyn AccountStates>, eraser: Eraser) -> Self {
        Self { records, states, eraser }
    }

    /// The accounts to ask about, after `after` or from the beginning; none once that was the last.
    ///
    /// # Errors
    /// [`Unavailable`] when storage cannot answer now.
    pub async fn accounts(&self, after: Option<UserId>) -> Result<Vec<UserId>, Unavailable> {
        self.records.accounts(after, PAGE).await
    }

    /// How many accounts there are to ask about.
    ///
    /// # Errors
    /// [`Unavailable`] when storage cannot answer now.
    pub async fn count(&self) -> Result<usize, Unavailable> {
        let (mut count, mut last) = (0, None);
        loop {
            let page = self.accounts(last).await?;
            count += page.len();
            last = page.last().cloned();
            if last.is_none() {
                return Ok(count);
            }
        }
    }

    /// Erases an account if the homeserver says that it was deactivated; what that was, where it did.
    ///
    /// # Errors
    /// [`SweepError`].
    pub async fn sweep(&self, user_id: &UserId) -> Result<Option<Erased>, SweepError> {
        match self.states.state(user_id.clone()).await.map_err(SweepError::NotTold)? {
            AccountState::NotDeactivated => Ok(None),
            AccountState::Deactivated => Ok(Some(self.eraser.erase(user_id).await?)),
        }
    }
}

#[cfg(test)]
mod tests;
