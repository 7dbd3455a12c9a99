//! What can be asked of the server: one file, one command, with its input, its errors and its tests.
//!
//! Every door (HTTP, pages, command line) calls the same commands; the rules are written here and nowhere else.

mod add;
mod add_foreign;
mod deliver;
mod list;
mod request_email_token;
mod submit_token;

use std::sync::Arc;

pub use add::{Add, AddError};
pub use deliver::{ConfirmLinks, Delivered, Relay, RetryPolicy};
pub use request_email_token::{Opened, RequestEmailToken, RequestTokenError};
pub use submit_token::{Confirmed, Door, SubmitToken, SubmitTokenError};

use crate::model::{AddressRules, Lifetimes, TrustedServers, Validation};
use crate::ports::{Clock, IdentityServer, RateLimiter, Secrets, Store, Unavailable};

/// What the operator decides about contacts.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// How long tokens and proofs are good.
    pub lifetimes: Lifetimes,
    /// Which addresses may be added.
    pub rules: AddressRules,
    /// Whether this server can send mail.
    pub sends_mail: bool,
    /// Who validates addresses.
    pub validation: Validation,
    /// Which identity servers are trusted, and for what.
    pub trusted: TrustedServers,
}

/// The commands on accounts' contacts.
#[derive(Clone)]
pub struct Contacts {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    secrets: Arc<dyn Secrets>,
    rate_limiter: Arc<dyn RateLimiter>,
    identity_servers: Arc<dyn IdentityServer>,
    policy: Arc<Policy>,
}

impl Contacts {
    /// The commands, on these ports and under this policy.
    pub fn new(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        secrets: Arc<dyn Secrets>,
        rate_limiter: Arc<dyn RateLimiter>,
        identity_servers: Arc<dyn IdentityServer>,
        policy: Policy,
    ) -> Self {
        Self { store, clock, secrets, rate_limiter, identity_servers, policy: Arc::new(policy) }
    }
}

/// A unit that meets a conflict is decided anew on what is stored now, so often at most. Each conflict means that
/// another unit went through, so only a storm of requests for one session gets that far.
const DECISIONS: usize = 32;

/// A storm it was.
fn too_many_conflicts() -> Unavailable {
    Unavailable::new("store", format!("{DECISIONS} conflicts in a row"))
}

#[cfg(test)]
mod interleaving;
