//! Mail over SMTP, into files, into memory, through [lettre].
//!
//! All three write the same message: text and HTML, from the operator's address to the one recipient, under a
//! Message-ID that stays the same at every try, marked as sent by a machine ([RFC 3834]) so that no holiday reply
//! comes back.
//!
//! [lettre]: https://docs.rs/lettre
//! [RFC 3834]: https://www.rfc-editor.org/rfc/rfc3834

mod compose;
#[cfg(test)]
mod contract_tests;
mod file;
mod memory;
mod reason;
mod smtp;

pub use compose::{InvalidSender, Sender};
pub use file::FileMailer;
pub use memory::{CaughtMail, MemoryMailer};
pub use smtp::{InvalidSmtpSettings, SmtpMailer, SmtpSecurity, SmtpSettings};
