//! `GET /account/3pid`: an account's threepids.

use super::Contacts;
use crate::model::{Threepid, UserId};
use crate::ports::Unavailable;

impl Contacts {
    /// An account's threepids, oldest first.
    ///
    /// # Errors
    /// [`Unavailable`] when storage cannot answer now.
    pub async fn list(&self, user: &UserId) -> Result<Vec<Threepid>, Unavailable> {
        self.store.threepids(user).await
    }
}
