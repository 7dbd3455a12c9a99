//! What the homeserver says that it can do.

use async_trait::async_trait;

use super::{Credentials, Unavailable};

/// An answer that is passed on as it is written: no number in it is read, no key moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerAsWritten {
    /// The status it came with, 2xx or 4xx.
    pub status: u16,
    /// What it says that its body is.
    pub content_type: Option<String>,
    /// How long to wait before asking again, in seconds.
    pub retry_after: Option<u64>,
    /// The bytes of the body.
    pub body: Vec<u8>,
}

/// Asks the homeserver for its [capabilities], as the client would.
///
/// An adapter MUST show the client's own credentials and no others, MUST follow no redirect, MUST end within a bounded
/// time and with a bounded body, MUST give 2xx and 4xx as they came, and everything else as [`Unavailable`].
///
/// [capabilities]: https://spec.matrix.org/v1.18/client-server-api/#get_matrixclientv3capabilities
#[cfg_attr(feature = "mocks", mockall::automock)]
#[async_trait]
pub trait HomeserverCapabilities: Send + Sync {
    /// The homeserver's answer to this client.
    ///
    /// # Errors
    /// [`Unavailable`] when it does not answer.
    async fn capabilities(&self, credentials: Credentials) -> Result<AnswerAsWritten, Unavailable>;
}
