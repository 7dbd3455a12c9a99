//! Sending one SMS.

use async_trait::async_trait;

use super::DeliveryError;
use crate::model::{MessageId, Msisdn};

/// A rendered SMS. Its `Debug` hides what it says.
#[derive(Clone, PartialEq, Eq)]
pub struct Sms {
    /// Stable over every try; a gateway that knows references is given it, so that it can tell a repeated message.
    pub id: MessageId,
    /// The one recipient.
    pub to: Msisdn,
    /// The text.
    pub text: String,
}

impl std::fmt::Debug for Sms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let to = self.to.masked();
        f.debug_struct("Sms").field("id", &self.id).field("to", &to).finish_non_exhaustive()
    }
}

/// Hands an SMS to a gateway.
///
/// An adapter:
/// - MUST answer `Ok` only when the gateway has taken the SMS;
/// - MUST send `text` as it is, to `to` alone;
/// - MUST give `id` to a gateway that can tell by it that a message is repeated;
/// - MUST end within a bounded time;
/// - MUST call an error permanent only where no later try can succeed; whatever it does not know is transient: no
///   answer, an answer that it cannot read.
#[cfg_attr(feature = "mocks", mockall::automock)]
#[async_trait]
pub trait SmsSender: Send + Sync {
    /// Sends one SMS.
    ///
    /// # Errors
    /// [`DeliveryError`].
    async fn send(&self, sms: Sms) -> Result<(), DeliveryError>;
}
