//! What can be asked of the server: one file, one command, with its input, its errors and its tests.
//!
//! Every door (HTTP, pages, command line) calls the same commands; the rules are written here and nowhere else.

mod add;
mod add_foreign;
mod add_reauthenticated;
mod audit;
mod bind;
mod delete;
mod deliver;
mod erase;
mod held_back;
mod import;
mod list;
mod mirror;
mod outbox;
mod request_email_token;
mod request_msisdn_token;
mod request_token;
mod submit_token;
mod sweep;
mod tidy;
mod unbind;
mod who_asks;

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

pub use add::{Add, AddError};
pub use add_reauthenticated::{AddReauthenticated, AddReauthenticatedError, Auth};
pub use bind::{Bind, BindError};
pub use delete::{Delete, DeleteError};
pub use deliver::{ConfirmLinks, Delivered, Relay, RelayPorts, RetryPolicy};
pub use erase::{EraseError, Eraser, EraserPorts};
pub use import::{
    ImportMode, ImportReport, ImportWatcher, Importer, ImporterPorts, SkipReason, SkippedRow, Tally,
};
pub use outbox::{DropError, OutboxDesk, RetryError, Undone};
pub use request_email_token::RequestEmailToken;
pub use request_msisdn_token::RequestMsisdnToken;
pub use request_token::{Opened, RequestTokenError};
pub use submit_token::{Confirmed, Door, SubmitToken, SubmitTokenError};
pub use sweep::{SweepError, Sweeper};
pub use tidy::{BATCH, Housekeeper, Retention};
pub use unbind::{Unbind, UnbindError, UnbindResult};
pub use who_asks::{WhoAsks, WhoAsksError};

use held_back::HeldBack;

use crate::model::{AddressRules, Lifetimes, TrustedServers, UnitOfWork, Validation};
use crate::ports::{
    Clock, CommitError, IdentityServer, Limit, OverLimit, RateLimiter, Reauthentication, Secrets, Store,
    Unavailable,
};

/// What the operator decides about contacts.
#[derive(Clone, Debug)]
pub struct Policy {
    /// How long tokens and proofs are good.
    pub lifetimes: Lifetimes,
    /// Which addresses may be added.
    pub rules: AddressRules,
    /// Whether this server can send mail.
    pub sends_mail: bool,
    /// Whether this server can send SMS.
    pub sends_sms: bool,
    /// Whether mails carry a code beside their link. SMS always do.
    pub mails_code: bool,
    /// Who validates addresses.
    pub validation: Validation,
    /// Which identity servers are trusted, and for what.
    pub trusted: TrustedServers,
    /// Whether accounts may change their contacts (`m.3pid_changes`).
    pub changes: Changes,
    /// What `POST /account/3pid`, which asks for no password, may do.
    pub deprecated_add: DeprecatedAdd,
    /// Whether nobody is told which addresses belong to accounts: asking for a token to one that does is answered as for
    /// any other, and whoever has it is informed. Heeded only with [`Validation::Direct`].
    pub hide_in_use: bool,
    /// Whether the homeserver keeps a copy of contacts, which every change is owed to.
    pub mirrors: bool,
    /// How long an owed unbind is worth trying. Default 30 days.
    pub unbind_within: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            lifetimes: Lifetimes::default(),
            rules: AddressRules::default(),
            sends_mail: false,
            sends_sms: false,
            mails_code: false,
            validation: Validation::default(),
            trusted: TrustedServers::default(),
            changes: Changes::default(),
            deprecated_add: DeprecatedAdd::default(),
            hide_in_use: false,
            mirrors: false,
            unbind_within: Duration::from_secs(30 * 24 * 60 * 60),
        }
    }
}

impl Policy {
    /// Whether nobody is told which addresses belong to accounts. An identity server that validates is asked nothing about
    /// addresses that do, so where one does, nothing is hidden.
    pub fn hides_in_use(&self) -> bool {
        self.hide_in_use && self.validation == Validation::Direct
    }
}

/// Whether accounts may change their contacts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Changes {
    /// They may.
    #[default]
    Permitted,
    /// They may only look.
    Forbidden,
}

/// What `POST /account/3pid` may do. It was deprecated because it adds an address without asking for the password.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeprecatedAdd {
    /// Whatever it could.
    #[default]
    On,
    /// Only sessions of identity servers.
    IdentityServerOnly,
    /// Nothing.
    Off,
}

/// The commands on accounts' contacts.
#[derive(Clone)]
pub struct Contacts {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    secrets: Arc<dyn Secrets>,
    rate_limiter: Arc<dyn RateLimiter>,
    identity_servers: Arc<dyn IdentityServer>,
    /// `None` where the operator has written out that nobody is asked again.
    reauthentication: Option<Arc<dyn Reauthentication>>,
    policy: Arc<Policy>,
    /// The request that asks, where one does.
    request_id: Option<String>,
    held_back: Arc<HeldBack>,
}

/// The ports that [`Contacts`] stands on.
#[derive(Clone)]
pub struct ContactsPorts {
    /// Where sessions and threepids are kept.
    pub store: Arc<dyn Store>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Randomness and the server's key.
    pub secrets: Arc<dyn Secrets>,
    /// How often somebody may do something.
    pub rate_limiter: Arc<dyn RateLimiter>,
    /// Other servers' identity service.
    pub identity_servers: Arc<dyn IdentityServer>,
    /// Who asks again for a proof of who is asking; `None` only where the operator has written that out.
    pub reauthentication: Option<Arc<dyn Reauthentication>>,
}

impl Contacts {
    /// The commands, on these ports and under this policy.
    pub fn new(ports: ContactsPorts, policy: Policy) -> Self {
        let ContactsPorts { store, clock, secrets, rate_limiter, identity_servers, reauthentication } = ports;
        Self {
            store,
            clock,
            secrets,
            rate_limiter,
            identity_servers,
            reauthentication,
            policy: Arc::new(policy),
            request_id: None,
            held_back: Arc::default(),
        }
    }

    /// Whether accounts may change their contacts, as `GET /capabilities` tells.
    pub fn changes(&self) -> Changes {
        self.policy.changes
    }

    /// Whether messages carry codes.
    pub fn sends_codes(&self) -> bool {
        self.policy.mails_code || self.policy.sends_sms
    }

    /// Counts one act of `subject`, if it may be done now.
    async fn take<E>(&self, limit: Limit, subject: String) -> Result<(), E>
    where
        E: From<OverLimit> + From<Unavailable>,
    {
        Ok(self.rate_limiter.take(limit, subject).await?.over(limit)?)
    }

    /// Takes an act back that proved to be none that counts. At worst it stays counted; the answer to it is worth more.
    async fn give_back(&self, limit: Limit, subject: String) {
        if let Err(error) = self.rate_limiter.give_back(limit, subject).await {
            tracing::warn!(limit = limit.name(), error = %error.source, "an answer that was not wrong stays counted");
        }
    }

    /// Commits a unit that no other unit can come before.
    async fn commit_unrivalled(&self, unit: UnitOfWork) -> Result<(), Unavailable> {
        match audit::commit(&*self.store, unit).await {
            Ok(()) => Ok(()),
            Err(CommitError::Conflict(conflict)) => Err(Unavailable::new("store", conflict)),
            Err(CommitError::Unavailable(error)) => Err(error),
        }
    }
}

/// Whom a client address is counted as: an IPv6 client has a whole /64 to itself and would otherwise have as many
/// tries as it likes. An IPv4 address that is written as IPv6 is the IPv4 address.
fn client_subject(client: IpAddr) -> String {
    match client.to_canonical() {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("{}/64", Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
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
mod alike;
#[cfg(test)]
mod interleaving;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that meets nonsense of its own fails")]

    use super::*;

    #[test]
    fn a_client_is_its_ipv4_address_or_its_ipv6_network() {
        for (client, counted_as) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
            ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
            ("::1", "::/64"),
        ] {
            assert_eq!(client_subject(client.parse().unwrap()), counted_as);
        }
    }
}
