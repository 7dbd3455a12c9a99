//! Sending one mail.

use async_trait::async_trait;

use super::BoxError;
use crate::model::{EmailAddress, MessageId};

/// A rendered mail. Its `Debug` hides what it says.
#[derive(Clone, PartialEq, Eq)]
pub struct Mail {
    /// Stable over every try; the Message-ID is made of it.
    pub id: MessageId,
    /// The one recipient.
    pub to: EmailAddress,
    /// The subject, one line.
    pub subject: String,
    /// The plain text.
    pub text: String,
    /// The same as HTML.
    pub html: String,
}

impl std::fmt::Debug for Mail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mail").field("id", &self.id).field("to", &self.to).finish_non_exhaustive()
    }
}

/// Hands a mail to the next hop.
///
/// An adapter:
/// - MUST answer `Ok` only when the next hop has taken the mail;
/// - MUST use `id` for a Message-ID that is the same at every try;
/// - MUST send to `to` alone, its domain in ASCII (`xn--`), as multipart of text and HTML;
/// - MUST mark the mail `Auto-Submitted: auto-generated`;
/// - MUST end within a bounded time;
/// - MUST call an error permanent only where no later try can succeed: a 5xx answer, or a mail that cannot be written;
///   whatever it does not know is transient.
#[cfg_attr(feature = "mocks", mockall::automock)]
#[async_trait]
pub trait Mailer: Send + Sync {
    /// Sends one mail.
    ///
    /// # Errors
    /// [`DeliveryError`].
    async fn send(&self, mail: Mail) -> Result<(), DeliveryError>;
}

/// A message that the next hop did not take. The texts hold no secret and no whole address.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// It may be taken later.
    #[error("not delivered now")]
    Transient(#[source] BoxError),
    /// It will never be taken.
    #[error("not deliverable")]
    Permanent(#[source] BoxError),
}
