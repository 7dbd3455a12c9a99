//! What the domain needs of the world, one trait a file.
//!
//! Every port is object-safe and held as `Arc<dyn Port>`; values go in and out by ownership, so a port can be
//! mocked (feature `mocks`) and implemented by anyone. What an adapter owes is written as MUST; each MUST has a case
//! in the contract kits (feature `testing`).

mod access_tokens;
mod account_records;
mod account_states;
mod capabilities;
mod clock;
mod contact_source;
mod erasures;
mod housekeeping;
mod identity_server;
mod mailer;
mod mirror;
mod outbox;
mod outbox_records;
mod rate_limiter;
mod reauthentication;
mod secrets;
mod sms_sender;
mod store;
mod templates;

pub use access_tokens::{AccessTokens, Credentials, Freshness, WhoseTokenError};
pub use account_records::{AccountRecord, AccountRecords, Counted, LocalToken};
pub use account_states::{AccountState, AccountStates};
pub use capabilities::{AnswerAsWritten, HomeserverCapabilities};
pub use clock::Clock;
pub use contact_source::{ContactSource, ForeignAccount, ForeignBinding, ForeignContact, SourceCounts};
pub use erasures::{EndOfErasure, Erasures};
pub use housekeeping::{Housekeeping, Perishable};
pub use identity_server::{
    IdentityServer, IdentityServerError, NoIdentityServers, OpenedRemotely, RemoteCredentials,
    RemoteRecipient, RemoteTokenRequest, RemoteValidation, Unbound,
};
pub use mailer::{DeliveryError, Mail, Mailer};
pub use mirror::Mirror;
pub use outbox::Outbox;
pub use outbox_records::OutboxRecords;
pub use rate_limiter::{EVERYBODY, Limit, OverLimit, RateLimiter, Scope, Verdict};
pub use reauthentication::{
    Answered, AskedAgain, ChallengeToPassOn, Reauthentication, ReauthenticationError,
};
pub use secrets::Secrets;
pub use sms_sender::{Sms, SmsSender};
pub use store::{CommitError, Conflict, Store};
pub use templates::{InUseMail, InUseSms, MailText, Page, Templates, ValidationMail, ValidationSms};

#[cfg(feature = "mocks")]
pub use self::{
    access_tokens::MockAccessTokens, account_records::MockAccountRecords, account_states::MockAccountStates,
    capabilities::MockHomeserverCapabilities, clock::MockClock, contact_source::MockContactSource,
    erasures::MockErasures, housekeeping::MockHousekeeping, identity_server::MockIdentityServer,
    mailer::MockMailer, mirror::MockMirror, outbox::MockOutbox, outbox_records::MockOutboxRecords,
    rate_limiter::MockRateLimiter, reauthentication::MockReauthentication, secrets::MockSecrets,
    sms_sender::MockSmsSender, store::MockStore, templates::MockTemplates,
};

/// What went wrong behind a port, as its adapter says it. The domain never reads it; operators do.
///
/// Its text holds no secret and no whole address.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A port could not do its work now. Nothing was changed that the port does not say.
#[derive(Debug, thiserror::Error)]
#[error("{port} is unavailable")]
pub struct Unavailable {
    /// Which port.
    pub port: &'static str,
    /// Why.
    #[source]
    pub source: BoxError,
}

impl Unavailable {
    /// `port` failed because of `source`.
    pub fn new(port: &'static str, source: impl Into<BoxError>) -> Self {
        Self { port, source: source.into() }
    }
}
