//! The wiring by hand: ports go in, an [`App`] comes out. Nothing here knows an adapter.

use std::sync::Arc;

use axum::Router;
use threepid_domain::ports::{
    AccessTokens, AccountRecords, AccountStates, Clock, Erasures, HomeserverCapabilities, Housekeeping,
    IdentityServer, Mailer, Mirror, NoIdentityServers, Outbox, RateLimiter, Reauthentication, Secrets,
    SmsSender, Store, Templates,
};
use threepid_domain::use_cases::{
    ConfirmLinks, Contacts, ContactsPorts, Eraser, EraserPorts, Housekeeper, Policy, Relay, RelayPorts,
    RetryPolicy, Sweeper, WhoAsks,
};
use url::Url;

use crate::housekeeping::{Caretaker, HousekeepingSettings};
use crate::http::{self, Api, HttpSettings};
use crate::metrics::Metrics;
use crate::sweep::{Sweep, SweepSettings};
use crate::worker::{Worker, WorkerSettings};

/// Gathers the ports and settings of an [`App`].
///
/// Every port has to be given but the mailer and the SMS sender; whatever is missing, [`Builder::build`] names.
pub struct Builder {
    public_base_url: Url,
    store: Option<Arc<dyn Store>>,
    outbox: Option<Arc<dyn Outbox>>,
    mailer: Option<Arc<dyn Mailer>>,
    sms_sender: Option<Arc<dyn SmsSender>>,
    access_tokens: Option<Arc<dyn AccessTokens>>,
    rate_limiter: Option<Arc<dyn RateLimiter>>,
    templates: Option<Arc<dyn Templates>>,
    clock: Option<Arc<dyn Clock>>,
    secrets: Option<Arc<dyn Secrets>>,
    identity_servers: Option<Arc<dyn IdentityServer>>,
    reauthentication: Option<Arc<dyn Reauthentication>>,
    mirror: Option<Arc<dyn Mirror>>,
    capabilities: Option<Arc<dyn HomeserverCapabilities>>,
    housekeeping: Option<(Arc<dyn Housekeeping>, HousekeepingSettings)>,
    sweep: Option<SweepPorts>,
    policy: Policy,
    retry: RetryPolicy,
    http: HttpSettings,
    worker: WorkerSettings,
    metrics: Option<Metrics>,
    accounts_are_local: bool,
}

/// What the sweep stands on, but for the clock and the secrets.
struct SweepPorts {
    records: Arc<dyn AccountRecords>,
    erasures: Arc<dyn Erasures>,
    states: Arc<dyn AccountStates>,
    settings: SweepSettings,
}

/// Why no [`App`] was built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// These ports were not given.
    #[error("missing: {}", .0.join(", "))]
    Missing(Vec<&'static str>),
    /// Links in mails could not lead there.
    #[error("the public base URL must be http or https with a host, without user info, query and fragment")]
    PublicBaseUrl,
}

impl Builder {
    /// Begins. `public_base_url` is where clients and browsers reach this server, e.g. `https://matrix.example.org`;
    /// the links in mails begin with it. A path prefix is kept in links, and the proxy in front strips it.
    pub fn new(public_base_url: Url) -> Self {
        Self {
            public_base_url,
            store: None,
            outbox: None,
            mailer: None,
            sms_sender: None,
            access_tokens: None,
            rate_limiter: None,
            templates: None,
            clock: None,
            secrets: None,
            identity_servers: None,
            reauthentication: None,
            mirror: None,
            capabilities: None,
            housekeeping: None,
            sweep: None,
            policy: Policy::default(),
            retry: RetryPolicy::default(),
            http: HttpSettings::default(),
            worker: WorkerSettings::default(),
            metrics: None,
            accounts_are_local: false,
        }
    }

    /// Where sessions and threepids are kept.
    #[must_use]
    pub fn store(mut self, store: Arc<dyn Store>) -> Self {
        self.store = Some(store);
        self
    }

    /// The queue of owed messages; needed where there is a mailer, an SMS sender or an identity server.
    #[must_use]
    pub fn outbox(mut self, outbox: Arc<dyn Outbox>) -> Self {
        self.outbox = Some(outbox);
        self
    }

    /// What sends mail. Without it, requests for an email token are refused with `M_THREEPID_MEDIUM_NOT_SUPPORTED`.
    #[must_use]
    pub fn mailer(mut self, mailer: Arc<dyn Mailer>) -> Self {
        self.mailer = Some(mailer);
        self
    }

    /// What sends SMS. Without it, requests for a code to a phone number are refused with
    /// `M_THREEPID_MEDIUM_NOT_SUPPORTED`.
    #[must_use]
    pub fn sms_sender(mut self, sms_sender: Arc<dyn SmsSender>) -> Self {
        self.sms_sender = Some(sms_sender);
        self
    }

    /// What knows whose an access token is.
    #[must_use]
    pub fn access_tokens(mut self, access_tokens: Arc<dyn AccessTokens>) -> Self {
        self.access_tokens = Some(access_tokens);
        self
    }

    /// What counts requests for tokens.
    #[must_use]
    pub fn rate_limiter(mut self, rate_limiter: Arc<dyn RateLimiter>) -> Self {
        self.rate_limiter = Some(rate_limiter);
        self
    }

    /// The texts of mails and pages.
    #[must_use]
    pub fn templates(mut self, templates: Arc<dyn Templates>) -> Self {
        self.templates = Some(templates);
        self
    }

    /// The time.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Randomness, and the server's key.
    #[must_use]
    pub fn secrets(mut self, secrets: Arc<dyn Secrets>) -> Self {
        self.secrets = Some(secrets);
        self
    }

    /// What asks identity servers. Without it none is asked; which ones may be is the policy's to say.
    #[must_use]
    pub fn identity_servers(mut self, identity_servers: Arc<dyn IdentityServer>) -> Self {
        self.identity_servers = Some(identity_servers);
        self
    }

    /// What asks users again who they are before they add an address. Without it, and that is to be a decision,
    /// `POST /account/3pid/add` asks nobody.
    #[must_use]
    pub fn reauthentication(mut self, reauthentication: Arc<dyn Reauthentication>) -> Self {
        self.reauthentication = Some(reauthentication);
        self
    }

    /// What knows the homeserver's capabilities, which `GET /capabilities` passes on. Without it the answer is this
    /// server's own.
    #[must_use]
    pub fn capabilities(mut self, capabilities: Arc<dyn HomeserverCapabilities>) -> Self {
        self.capabilities = Some(capabilities);
        self
    }

    /// The homeserver's own copy of contacts, which every change is told to through the outbox. Without it, none is.
    #[must_use]
    pub fn mirror(mut self, mirror: Arc<dyn Mirror>) -> Self {
        self.mirror = Some(mirror);
        self
    }

    /// What removes what has ended. Without it, everything is kept.
    #[must_use]
    pub fn housekeeping(
        mut self,
        housekeeping: Arc<dyn Housekeeping>,
        settings: HousekeepingSettings,
    ) -> Self {
        self.housekeeping = Some((housekeeping, settings));
        self
    }

    /// What knows which accounts the homeserver has deactivated; these are erased, from the storage that `records` and
    /// `erasures` look at. Without it, accounts stay until somebody erases them.
    #[must_use]
    pub fn sweep(
        mut self,
        records: Arc<dyn AccountRecords>,
        erasures: Arc<dyn Erasures>,
        states: Arc<dyn AccountStates>,
        settings: SweepSettings,
    ) -> Self {
        self.sweep = Some(SweepPorts { records, erasures, states, settings });
        self
    }

    /// What the operator decides about contacts. `sends_mail`, `sends_sms` and `mirrors` are set by whether
    /// there is a mailer, an SMS sender, and a mirror.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// When a mail that was not taken is tried again.
    #[must_use]
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// How requests are taken.
    #[must_use]
    pub fn http(mut self, http: HttpSettings) -> Self {
        self.http = http;
        self
    }

    /// How the relay works.
    #[must_use]
    pub fn worker(mut self, worker: WorkerSettings) -> Self {
        self.worker = worker;
        self
    }

    /// Counts what happens, also in every port that was given. Without it nothing is counted.
    #[must_use]
    pub fn metrics(mut self, metrics: Metrics) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// Whether what knows access tokens and what asks again stand on this server's own database and on no homeserver.
    /// [`Metrics`] count their calls as `local_access_tokens` and `local_reauthentication` then.
    #[must_use]
    pub fn accounts_are_local(mut self, local: bool) -> Self {
        self.accounts_are_local = local;
        self
    }

    /// Puts a counter around every port.
    fn counted(mut self) -> Self {
        let Some(metrics) = self.metrics.clone() else { return self };
        if let (Some(outbox), Some(clock)) = (&self.outbox, &self.clock) {
            let counted = metrics.outbox(Arc::clone(outbox));
            metrics.watch_outbox(&counted, clock);
            self.outbox = Some(counted);
        }
        self.store = self.store.map(|port| metrics.store(port));
        self.mailer = self.mailer.map(|port| metrics.mailer(port));
        self.sms_sender = self.sms_sender.map(|port| metrics.sms_sender(port));
        self.access_tokens =
            self.access_tokens.map(|port| metrics.access_tokens(port, self.accounts_are_local));
        self.rate_limiter = self.rate_limiter.map(|port| metrics.rate_limiter(port));
        let trusted = &self.policy.trusted;
        self.identity_servers = self.identity_servers.map(|port| metrics.identity_servers(port, trusted));
        let local = self.accounts_are_local;
        self.reauthentication = self.reauthentication.map(|port| metrics.reauthentication(port, local));
        self.capabilities = self.capabilities.map(|port| metrics.capabilities(port));
        self.mirror = self.mirror.map(|port| metrics.mirror(port));
        self.housekeeping = self.housekeeping.map(|(port, settings)| (metrics.housekeeping(port), settings));
        self.sweep =
            self.sweep.map(|ports| SweepPorts { states: metrics.account_states(ports.states), ..ports });
        self
    }

    /// Puts it together. Nothing is opened, asked or started yet.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn build(self) -> Result<App, BuildError> {
        if !is_public_base(&self.public_base_url) {
            return Err(BuildError::PublicBaseUrl);
        }
        self.counted().assemble()
    }

    fn assemble(self) -> Result<App, BuildError> {
        let mut missing = Vec::new();
        let owes = self.mailer.is_some() || self.sms_sender.is_some() || self.identity_servers.is_some();
        if owes && self.outbox.is_none() {
            missing.push("outbox");
        }
        for (is_missing, port) in [
            (self.store.is_none(), "store"),
            (self.access_tokens.is_none(), "access_tokens"),
            (self.rate_limiter.is_none(), "rate_limiter"),
            (self.templates.is_none(), "templates"),
            (self.clock.is_none(), "clock"),
            (self.secrets.is_none(), "secrets"),
        ] {
            if is_missing {
                missing.push(port);
            }
        }
        let (
            Some(store),
            Some(access_tokens),
            Some(rate_limiter),
            Some(templates),
            Some(clock),
            Some(secrets),
        ) = (self.store, self.access_tokens, self.rate_limiter, self.templates, self.clock, self.secrets)
        else {
            return Err(BuildError::Missing(missing));
        };
        if !missing.is_empty() {
            return Err(BuildError::Missing(missing));
        }
        let identity_servers = self.identity_servers.unwrap_or_else(|| Arc::new(NoIdentityServers));
        let links = ConfirmLinks::new(&self.public_base_url);
        let worker = self.outbox.map(|outbox| {
            let ports = RelayPorts {
                outbox,
                store: Arc::clone(&store),
                mailer: self.mailer.clone(),
                sms: self.sms_sender.clone(),
                identity_servers: Arc::clone(&identity_servers),
                mirror: self.mirror.clone(),
                templates: Arc::clone(&templates),
                clock: Arc::clone(&clock),
                secrets: Arc::clone(&secrets),
                rate_limiter: Arc::clone(&rate_limiter),
            };
            let relay = Relay::new(ports, links.clone(), self.policy.lifetimes.token, self.retry);
            Worker::new(relay, self.worker, self.metrics.clone())
        });
        let caretaker = self.housekeeping.map(|(housekeeping, settings)| {
            let lifetimes = self.policy.lifetimes;
            let housekeeper =
                Housekeeper::new(housekeeping, Arc::clone(&clock), lifetimes, settings.retention);
            Caretaker::new(housekeeper, settings)
        });
        let sweep = self.sweep.map(|SweepPorts { records, erasures, states, settings }| {
            let ports = EraserPorts {
                records: Arc::clone(&records),
                erasures,
                clock: Arc::clone(&clock),
                secrets: Arc::clone(&secrets),
            };
            Sweep::new(Sweeper::new(records, states, Eraser::new(ports, self.policy.unbind_within)), settings)
        });
        let policy = Policy {
            sends_mail: self.mailer.is_some(),
            sends_sms: self.sms_sender.is_some(),
            mirrors: self.mirror.is_some(),
            ..self.policy
        };
        let request_ids = secrets.new_message_id().as_str().to_owned();
        let who_asks = WhoAsks::new(access_tokens, self.capabilities, Arc::clone(&rate_limiter));
        let ports = ContactsPorts {
            store: Arc::clone(&store),
            clock,
            secrets,
            rate_limiter,
            identity_servers,
            reauthentication: self.reauthentication,
        };
        let contacts = Contacts::new(ports, policy);
        let api =
            Api::new(contacts, store, who_asks, templates, links, self.http, self.metrics, &request_ids);
        Ok(App { api, worker, caretaker, sweep })
    }
}

/// Whether links can be built on `url`.
fn is_public_base(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none()
}

/// The server, ready to be mounted or run.
#[derive(Clone)]
pub struct App {
    pub(crate) api: Api,
    worker: Option<Worker>,
    caretaker: Option<Caretaker>,
    sweep: Option<Sweep>,
}

impl App {
    /// The routes alone, for a server that has its own fallback, CORS headers, panic catcher and logs.
    ///
    /// It serves `/_matrix/client/{r0,v3}/account/3pid…`, `/_matrix/client/{r0,v3}/capabilities`, `/_threepid/…` and `/health/…`. A client's address is read
    /// from [`axum::extract::ConnectInfo`] of a [`std::net::SocketAddr`], so give it to the router's make-service.
    pub fn router(&self) -> Router {
        http::router(&self.api)
    }

    /// The whole HTTP surface: the routes, and around them the specification's JSON for 404, CORS headers on every
    /// answer, a catcher of panics, request ids and one line of log per request.
    pub fn standalone(&self) -> Router {
        http::standalone(&self.api, None)
    }

    /// The relay, to be run beside the router; `None` where there is no outbox. [`App::serve`] runs it by itself.
    ///
    /// Each call gives another relay on the same outbox; one is enough.
    pub fn worker(&self) -> Option<Worker> {
        self.worker.clone()
    }

    /// What removes what has ended, to be run beside the router; `None` where nothing was said to do it.
    /// [`App::serve`] runs it by itself.
    pub fn caretaker(&self) -> Option<Caretaker> {
        self.caretaker.clone()
    }

    /// What erases accounts that the homeserver has deactivated, to be run beside the router; `None` where nothing knows
    /// of any. [`App::serve`] runs it by itself.
    pub fn sweep(&self) -> Option<Sweep> {
        self.sweep.clone()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::panic, reason = "what a test stands on fails it")]

    use std::sync::Arc;

    use threepid_domain::testing::{MemoryStore, OpenLimiter, RecordingMailer};

    use super::*;

    fn builder(url: &str) -> Builder {
        Builder::new(Url::parse(url).unwrap_or_else(|error| panic!("{url}: {error}")))
    }

    #[test]
    fn whatever_is_missing_is_named() {
        let built = builder("https://contacts.example/").build().err();
        let all = ["store", "access_tokens", "rate_limiter", "templates", "clock", "secrets"];
        assert_eq!(built, Some(BuildError::Missing(all.to_vec())));
        let some = builder("https://contacts.example/")
            .store(Arc::new(MemoryStore::new()))
            .rate_limiter(Arc::new(OpenLimiter))
            .mailer(Arc::new(RecordingMailer::default()));
        let error = some.build().err().map(|error| error.to_string());
        assert_eq!(error.as_deref(), Some("missing: outbox, access_tokens, templates, clock, secrets"));
    }

    #[test]
    fn links_need_a_base_that_a_browser_can_open() {
        for url in [
            "ftp://contacts.example/",
            "mailto:a@example.org",
            "https://user@contacts.example/",
            "https://contacts.example/?a",
            "https://contacts.example/#a",
        ] {
            assert_eq!(builder(url).build().err(), Some(BuildError::PublicBaseUrl), "{url}");
        }
    }
}
