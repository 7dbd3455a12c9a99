//! Texts that people read.

use std::time::Duration;

use super::Unavailable;
use crate::model::{Code, EmailAddress, Medium, Msisdn};

/// What the validation mail has to say. Its `Debug` hides the link and the code.
#[derive(Clone, PartialEq, Eq)]
pub struct ValidationMail {
    /// To whom it goes.
    pub to: EmailAddress,
    /// The link that leads to the confirm page.
    pub link: String,
    /// The code that may be given back instead, where there is to be one.
    pub code: Option<Code>,
    /// How long the link is good, from when it was asked for.
    pub valid_for: Duration,
}

impl std::fmt::Debug for ValidationMail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ValidationMail").field("to", &self.to).finish_non_exhaustive()
    }
}

/// What the validation SMS has to say. Its `Debug` hides the code and the link.
#[derive(Clone, PartialEq, Eq)]
pub struct ValidationSms {
    /// To whom it goes.
    pub to: Msisdn,
    /// The code.
    pub code: Code,
    /// A link that leads to the confirm page, for a text that would rather have one.
    pub link: String,
    /// How long both are good, from when they were asked for.
    pub valid_for: Duration,
}

impl std::fmt::Debug for ValidationSms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ValidationSms").field("to", &self.to).finish_non_exhaustive()
    }
}

/// What the mail has to say that informs whoever has an address: nothing that proves anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InUseMail {
    /// To whom it goes.
    pub to: EmailAddress,
}

/// What the SMS has to say that informs whoever has a number: nothing that proves anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InUseSms {
    /// To whom it goes.
    pub to: Msisdn,
}

/// A mail's texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailText {
    /// One line.
    pub subject: String,
    /// Plain text.
    pub text: String,
    /// HTML, whose every inserted value is escaped.
    pub html: String,
}

/// A page that a browser shows. Its `Debug` hides token and code.
#[derive(Clone, PartialEq, Eq)]
pub enum Page {
    /// Asks to confirm: a form that posts `sid` and `token` to `action`.
    Confirm {
        /// Where the form goes.
        action: String,
        /// The session.
        sid: String,
        /// The token of the link.
        token: String,
    },
    /// Asks for the code: a form that posts `sid` and `code` to `action`.
    EnterCode {
        /// Where the form goes.
        action: String,
        /// The session.
        sid: String,
        /// What the field holds already.
        code: String,
        /// Whether a code was given that was not right.
        is_again: bool,
    },
    /// The address is confirmed.
    Confirmed {
        /// What kind of address it is.
        medium: Medium,
    },
    /// The one page for every proof that failed.
    Failed,
    /// Nothing could be done now; try again.
    TryAgain,
}

impl std::fmt::Debug for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Confirm { .. } => "Page::Confirm",
            Self::EnterCode { .. } => "Page::EnterCode",
            Self::Confirmed { .. } => "Page::Confirmed",
            Self::Failed => "Page::Failed",
            Self::TryAgain => "Page::TryAgain",
        })
    }
}

/// Renders texts. An adapter MUST escape every value it inserts into HTML, and MUST NOT let a subject span lines.
#[cfg_attr(feature = "mocks", mockall::automock)]
pub trait Templates: Send + Sync {
    /// The mail that proves an address.
    ///
    /// # Errors
    /// [`Unavailable`] when a template is broken.
    fn validation_mail(&self, mail: ValidationMail) -> Result<MailText, Unavailable>;

    /// The text of the SMS that proves a number.
    ///
    /// # Errors
    /// [`Unavailable`] when a template is broken.
    fn validation_sms(&self, sms: ValidationSms) -> Result<String, Unavailable>;

    /// The mail that tells whoever has an address that somebody asked to add it, and that nothing was changed.
    ///
    /// # Errors
    /// [`Unavailable`] when a template is broken.
    fn in_use_mail(&self, mail: InUseMail) -> Result<MailText, Unavailable>;

    /// The text of the SMS that says the same of a number.
    ///
    /// # Errors
    /// [`Unavailable`] when a template is broken.
    fn in_use_sms(&self, sms: InUseSms) -> Result<String, Unavailable>;

    /// A page, whole.
    ///
    /// # Errors
    /// [`Unavailable`] when a template is broken.
    fn page(&self, page: Page) -> Result<String, Unavailable>;
}
