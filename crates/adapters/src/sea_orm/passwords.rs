//! Passwords as Argon2id hashes, with the parameters that OWASP recommends (19 MiB, two passes).
//!
//! Hashing takes tens of milliseconds of a processor and a good deal of memory, so it happens beside the tasks that
//! answer requests, and only so many at a time.

use std::sync::Arc;
use std::time::Duration;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{Error, PasswordHasher as _, PasswordVerifier as _};
use threepid_domain::ports::Unavailable;
use tokio::sync::Semaphore;

use super::error::{StorageError, unavailable};

/// Hashes at a time: 19 MiB each.
const AT_A_TIME: usize = 4;

/// The longest wait for a turn.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

const PORT: &str = "password hashing";

/// Hashes and verifies passwords. Clones share the bound.
#[derive(Clone, Debug)]
pub(super) struct Passwords {
    turns: Arc<Semaphore>,
}

impl Passwords {
    pub(super) fn new() -> Self {
        Self { turns: Arc::new(Semaphore::new(AT_A_TIME)) }
    }

    /// The hash of a password, as a PHC string.
    pub(super) async fn hash(&self, password: String, salt: [u8; 16]) -> Result<String, Unavailable> {
        let hashed =
            self.work(move || Argon2::default().hash_password_with_salt(password.as_bytes(), &salt)).await?;
        Ok(hashed.map_err(|error| Unavailable::new(PORT, error.to_string()))?.to_string())
    }

    /// Whether `password` is the one behind `hash`.
    pub(super) async fn verify(&self, password: String, hash: String) -> Result<bool, Unavailable> {
        let verified = self.work(move || {
            let hash = PasswordHash::new(&hash).map_err(|_| Error::Crypto)?;
            Argon2::default().verify_password(password.as_bytes(), &hash)
        });
        match verified.await? {
            Ok(()) => Ok(true),
            Err(Error::PasswordInvalid) => Ok(false),
            Err(_) => {
                Err(unavailable(PORT)(StorageError::corrupt("account", "password_hash is no Argon2 hash")))
            }
        }
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Unavailable> {
        let turn = tokio::time::timeout(LONGEST_WAIT, Arc::clone(&self.turns).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(Unavailable::new(PORT, "too many passwords at once")) };
        let done = tokio::task::spawn_blocking(move || {
            // It goes on to its end, whether or not somebody waits, and so does its turn.
            let _turn = turn;
            work()
        });
        done.await.map_err(|error| Unavailable::new(PORT, error))
    }
}
