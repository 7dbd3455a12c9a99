//! Proving again who is asking, before an address is added.

use async_trait::async_trait;
use serde_json::{Map, Value};

use super::{Credentials, Unavailable};
use crate::model::{RemoteRefusal, Sid, UserId};

/// Who is asked, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskedAgain {
    /// What the client showed.
    pub credentials: Credentials,
    /// The account behind it.
    pub user_id: UserId,
    /// The validation session whose proof is to be spent.
    pub sid: Sid,
}

/// A challenge as the client gets it. Its `Debug` shows no part of it.
#[derive(Clone, PartialEq)]
pub struct ChallengeToPassOn {
    /// The challenge's session.
    pub session: String,
    /// The whole body: `flows`, `params`, `session`, and after a wrong answer `completed`, `errcode`, `error`.
    pub body: Map<String, Value>,
}

impl std::fmt::Debug for ChallengeToPassOn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ChallengeToPassOn(…)")
    }
}

/// What became of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Answered {
    /// It is proven who is asking.
    Proven,
    /// More is asked, or the answer was wrong.
    Again(ChallengeToPassOn),
}

/// Asks again who is asking, by [User-Interactive Authentication].
///
/// An adapter MUST NOT take for proof an answer to a challenge that nobody was asked, MUST NOT change anything at the
/// homeserver, MUST end within a bounded time, and MUST NOT keep or log what the client answers.
///
/// [User-Interactive Authentication]: https://spec.matrix.org/v1.18/client-server-api/#user-interactive-authentication-api
#[cfg_attr(feature = "mocks", mockall::automock)]
#[async_trait]
pub trait Reauthentication: Send + Sync {
    /// A fresh challenge.
    ///
    /// # Errors
    /// [`ReauthenticationError`].
    async fn challenge(&self, asked: AskedAgain) -> Result<ChallengeToPassOn, ReauthenticationError>;

    /// Judges an answer: the client's `auth` object, its `session` included. The caller has made sure that the session
    /// is one that was passed on to this user for this sid, and that a fresh challenge is still asked.
    ///
    /// # Errors
    /// [`ReauthenticationError`].
    async fn answer(
        &self,
        asked: AskedAgain,
        auth: Map<String, Value>,
    ) -> Result<Answered, ReauthenticationError>;
}

/// Nobody could be asked.
#[derive(Debug, thiserror::Error)]
pub enum ReauthenticationError {
    /// Whoever should ask lets the request through unasked, or cannot ask; that is no proof.
    #[error("nobody was asked")]
    NotAsked,
    /// The homeserver refused with an answer of its own, which is passed on whole.
    #[error("the homeserver refused with status {}", .0.status)]
    Refused(RemoteRefusal),
    /// It cannot be asked now.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}
