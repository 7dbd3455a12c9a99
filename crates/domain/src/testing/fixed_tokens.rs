//! Access tokens that a test hands out.

use std::collections::HashMap;
use std::sync::Mutex;

use async_trait::async_trait;

use super::lock;
use crate::model::{Caller, DeviceId, UserId};
use crate::ports::{AccessTokens, Credentials, Freshness, Unavailable, WhoseTokenError};

/// Knows the tokens it was told, and no others.
#[derive(Debug, Default)]
pub struct FixedTokens {
    callers: Mutex<HashMap<String, Caller>>,
    down: Mutex<bool>,
    asked: Mutex<Vec<Freshness>>,
}

impl FixedTokens {
    /// Knows nobody.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets `token` stand for `user`, on a device of its own; a former owner of the token loses it.
    #[must_use]
    pub fn with(self, token: &str, user: UserId) -> Self {
        let device_id = Some(DeviceId(format!("DEVICE-{token}")));
        self.put(token, Caller { user_id: user, device_id, is_guest: false });
        self
    }

    /// Lets `token` stand for `caller`.
    pub fn put(&self, token: &str, caller: Caller) {
        lock(&self.callers).insert(token.to_owned(), caller);
    }

    /// Forgets `token`.
    pub fn revoke(&self, token: &str) {
        lock(&self.callers).remove(token);
    }

    /// Whether the tokens can be asked at all.
    pub fn set_available(&self, available: bool) {
        *lock(&self.down) = !available;
    }

    /// How fresh each answer so far had to be.
    pub fn asked(&self) -> Vec<Freshness> {
        lock(&self.asked).clone()
    }
}

#[async_trait]
impl AccessTokens for FixedTokens {
    async fn whose(&self, credentials: Credentials, freshness: Freshness) -> Result<Caller, WhoseTokenError> {
        lock(&self.asked).push(freshness);
        if *lock(&self.down) {
            return Err(Unavailable::new("access tokens", "switched off by the test").into());
        }
        let caller = lock(&self.callers).get(credentials.access_token.expose()).cloned();
        caller.ok_or(WhoseTokenError::Unknown)
    }
}
