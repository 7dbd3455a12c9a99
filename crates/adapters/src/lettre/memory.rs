//! Mail that is only caught: for the demo's mailbox and for tests.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use threepid_domain::model::{EmailAddress, MessageId};
use threepid_domain::ports::{DeliveryError, Mail, Mailer};

use super::Sender;

/// A mail that was caught. Its `Debug` hides what it says.
#[derive(Clone, PartialEq, Eq)]
pub struct CaughtMail {
    /// The mail's id.
    pub id: MessageId,
    /// The recipient, in canonical form.
    pub to: EmailAddress,
    /// The envelope's recipient, as a mail server would have got it.
    pub recipient: String,
    /// The subject.
    pub subject: String,
    /// The plain text.
    pub text: String,
    /// The HTML.
    pub html: String,
    /// The whole message as a mail server would have got it (RFC 5322).
    pub raw: String,
}

impl fmt::Debug for CaughtMail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaughtMail").field("id", &self.id).field("to", &self.to).finish_non_exhaustive()
    }
}

/// [`Mailer`] that keeps the mails it was given last.
#[derive(Debug)]
pub struct MemoryMailer {
    sender: Sender,
    capacity: usize,
    caught: Mutex<VecDeque<CaughtMail>>,
}

impl MemoryMailer {
    /// Keeps the last `capacity` mails.
    pub fn new(sender: Sender, capacity: usize) -> Self {
        Self { sender, capacity, caught: Mutex::default() }
    }

    /// What was caught and is still kept, oldest first.
    pub fn caught(&self) -> Vec<CaughtMail> {
        self.caught.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

#[async_trait]
impl Mailer for MemoryMailer {
    async fn send(&self, mail: Mail) -> Result<(), DeliveryError> {
        let message = self.sender.compose(&mail)?;
        let recipient = message.envelope().to().iter().map(ToString::to_string).collect();
        let raw = String::from_utf8_lossy(&message.formatted()).into_owned();
        let Mail { id, to, subject, text, html } = mail;
        let mut caught = self.caught.lock().unwrap_or_else(PoisonError::into_inner);
        caught.push_back(CaughtMail { id, to, recipient, subject, text, html, raw });
        while caught.len() > self.capacity {
            caught.pop_front();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that meets an error has failed")]

    use super::*;

    #[tokio::test]
    async fn only_the_last_mails_are_kept_and_shown_oldest_first() {
        let mailer = MemoryMailer::new(Sender::parse("noreply@example.org", None).unwrap(), 2);
        for n in 1..=3 {
            let mail = Mail {
                id: MessageId::new(format!("m{n}")),
                to: EmailAddress::parse("alice@example.org").unwrap(),
                subject: "subject".to_owned(),
                text: "secret link".to_owned(),
                html: "<p>html</p>".to_owned(),
            };
            mailer.send(mail).await.unwrap();
        }
        let ids: Vec<String> = mailer.caught().iter().map(|mail| mail.id.to_string()).collect();
        assert_eq!(ids, ["m2", "m3"]);
        assert!(mailer.caught()[0].raw.contains("Message-ID: <m2@example.org>"));
        assert!(!format!("{mailer:?}").contains("secret link"));
    }
}
