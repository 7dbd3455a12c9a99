//! The homeserver, asked as its own client would ask, with the client's own token; the mirror and the question whether an
//! account was deactivated alone come with an administrator's.
//!
//! ```text
//! Homeserver ──▶ HomeserverTokens             AccessTokens            GET  account/whoami
//!            ├─▶ HomeserverReauthentication   Reauthentication        POST delete_devices
//!            ├─▶ HomeserverAbilities          HomeserverCapabilities  GET  capabilities
//!            ├─▶ SynapseMirror                Mirror                  GET, PUT /_synapse/admin/v2/users
//!            └─▶ SynapseAccountStates         AccountStates           GET  /_synapse/admin/v2/users
//! ```
//!
//! Every exchange is bounded in time and size. Redirects are not followed: a token goes to the homeserver and nowhere
//! else. What a proxy in between says (a 401, 403 or 404 without an `errcode`, HTML) is never taken for the homeserver's
//! word.

mod abilities;
mod account_states;
mod answer;
mod client;
mod mirror;
mod reauthentication;
mod tokens;

use std::time::Duration;

use threepid_domain::model::{AccessToken, DeviceId, Sid, UserId};
use url::Url;

pub use abilities::HomeserverAbilities;
pub use account_states::SynapseAccountStates;
use client::Client;
pub use client::InvalidHomeserver;
pub use mirror::SynapseMirror;
pub use reauthentication::HomeserverReauthentication;
pub use tokens::HomeserverTokens;

/// What an error calls this port.
const PORT: &str = "homeserver";

/// Where the homeserver is, and how it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HomeserverSettings {
    /// Its base URL, `http` or `https`; a path in front of `/_matrix` is kept.
    pub base_url: Url,
    /// The longest that one question may take. Default 10 s.
    pub timeout: Duration,
    /// How long a good answer serves for reading; zero never. Default 30 s.
    pub remember: Duration,
    /// How many answers are remembered at most, about 300 bytes each. Default 10 000.
    pub remember_at_most: u64,
    /// A PEM file with certificates that are trusted besides the system's. Default none.
    pub extra_ca: Option<std::path::PathBuf>,
}

impl HomeserverSettings {
    /// Defaults for everything but the address.
    pub fn new(base_url: Url) -> Self {
        Self {
            base_url,
            timeout: Duration::from_secs(10),
            remember: Duration::from_secs(30),
            remember_at_most: 10_000,
            extra_ca: None,
        }
    }
}

/// The way to one homeserver, which its adapters share.
#[derive(Clone)]
pub struct Homeserver {
    client: Client,
    remember: Duration,
    remember_at_most: u64,
}

impl Homeserver {
    /// Reads the settings; nothing is asked yet.
    ///
    /// # Errors
    /// [`InvalidHomeserver`].
    pub fn new(settings: &HomeserverSettings) -> Result<Self, InvalidHomeserver> {
        let client = Client::new(settings)?;
        Ok(Self { client, remember: settings.remember, remember_at_most: settings.remember_at_most })
    }

    /// Knows whose tokens are.
    pub fn tokens(&self) -> HomeserverTokens {
        HomeserverTokens::new(self.client.clone(), self.remember, self.remember_at_most)
    }

    /// Asks users again who they are. `probe` names a device that cannot exist: the same for a user and sid, and with at
    /// least 128 bits that nobody can guess.
    pub fn reauthentication(
        &self,
        probe: impl Fn(&UserId, &Sid) -> DeviceId + Send + Sync + 'static,
    ) -> HomeserverReauthentication {
        HomeserverReauthentication::new(self.client.clone(), probe)
    }

    /// Knows what the homeserver can do.
    pub fn abilities(&self) -> HomeserverAbilities {
        HomeserverAbilities::new(self.client.clone())
    }

    /// Keeps Synapse's own list of contacts equal to ours, with the token of one of its administrators.
    pub fn mirror(&self, admin_token: AccessToken) -> SynapseMirror {
        SynapseMirror::new(self.client.clone(), admin_token)
    }

    /// Knows which accounts Synapse has deactivated, with the token of one of its administrators.
    pub fn account_states(&self, admin_token: AccessToken) -> SynapseAccountStates {
        SynapseAccountStates::new(self.client.clone(), admin_token)
    }
}

impl std::fmt::Debug for Homeserver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Homeserver")
    }
}

#[cfg(test)]
mod tests;
