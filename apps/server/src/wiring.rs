//! The only place that names adapters: from a [`Config`] to an [`App`] on real storage, real mail and real accounts.

mod sms;

use std::sync::Arc;

use threepid_adapters::homeserver::{Homeserver, HomeserverSettings, InvalidHomeserver};
use threepid_adapters::identity_server::{
    HyperIdentityServer, IdentityServerSettings, IdentityServerSettingsError, ServerSettings, SigningKey,
    SigningKeyError,
};
use threepid_adapters::lettre::{
    self, FileMailer, InvalidSmtpSettings, MemoryMailer, SmtpMailer, SmtpSecurity, SmtpSettings,
};
use threepid_adapters::limits::{InvalidLimit, LimitSettings, Limiter, Rate};
use threepid_adapters::outbound::OutboundSettings;
use threepid_adapters::remembered_lists::{ListMemory, RememberedLists};
use threepid_adapters::sea_orm::{
    ConnectSettings, Database, LocalAccounts, LocalReauthentication, PoolUse, SeaOrmStore, Tls,
};
use threepid_adapters::secrets::{RingSecrets, ServerKey, SystemClock};
use threepid_adapters::synapse_import::SynapseContacts;
use threepid_adapters::templates::{MinijinjaTemplates, TemplateSettings, page_style_csp_hash};
use threepid_domain::model::{AccessToken, AuditEntry, AuditQuery, DeviceId, Sid, UserId};
use threepid_domain::ports::{
    AccessTokens, AccountRecord, AccountRecords as _, HomeserverCapabilities, Limit, Mailer,
    Reauthentication, Secrets as _, Store,
};
use threepid_domain::use_cases::{Eraser, EraserPorts, Importer, ImporterPorts, OutboxDesk, Policy};
use threepid_server::{App, Builder, HttpSettings, Metrics, PoolState, WorkerSettings};

use crate::cli::Failure;
use crate::config::{
    Accounts, Allowance, Config, DatabaseTls, HomeserverAccounts, IdentityConfig, KeySource, Limits,
    MailTransport, Security, Sender, SmtpServer, SynapseAdmin,
};
use crate::demo::{Caught, Letter};

pub(crate) use sms::sms_sender;
pub(crate) use threepid_adapters::templates::PAGE_STYLE;

/// The demo's mailbox keeps so many mails.
const MAILS_CAUGHT: usize = 100;

/// Who knows whose a token is, asks users again who they are, and says what the homeserver can do.
struct Asking {
    access_tokens: Arc<dyn AccessTokens>,
    reauthentication: Arc<dyn Reauthentication>,
    capabilities: Option<Arc<dyn HomeserverCapabilities>>,
}

/// A database that is ready to be worked on, and the key it belongs to.
pub(crate) struct Opened {
    database: Database,
    secrets: Arc<RingSecrets>,
    clock: Arc<SystemClock>,
    accounts: LocalAccounts,
}

impl Opened {
    /// Opens the database, brings it to this version's schema, and makes sure that the key is the one it knows.
    ///
    /// # Errors
    /// [`Failure`].
    pub(crate) async fn open(config: &Config) -> Result<Self, Failure> {
        // The database first: where its folder is missing, that is what has to be said, not that the key has no place.
        let database = connect(&connect_settings(config)).await?;
        closed_unless_well(&database, Self::open_on(database.clone(), config)).await
    }

    /// Opens a database that is there and has this version's schema: neither it nor a key is made, and nothing is
    /// migrated.
    ///
    /// # Errors
    /// [`Failure`].
    pub(crate) async fn existing(config: &Config) -> Result<Self, Failure> {
        let settings = ConnectSettings { existing: true, ..connect_settings(config) };
        let database = connect(&settings).await?;
        closed_unless_well(&database, Self::existing_on(database.clone(), config)).await
    }

    async fn open_on(database: Database, config: &Config) -> Result<Self, Failure> {
        let key = match recognised_key(&database, config).await? {
            Some(key) => key,
            None => server_key(config)?,
        };
        database.migrate().await.map_err(|error| Failure::plain(&error))?;
        database.claim_key(&key.fingerprint()).await.map_err(|error| Failure::plain(&error))?;
        Ok(Self::with_key(database, &key))
    }

    async fn existing_on(database: Database, config: &Config) -> Result<Self, Failure> {
        let key = recognised_key(&database, config).await?;
        database.require_current().await.map_err(|error| Failure::plain(&error))?;
        let key = match (key, &config.server_key) {
            (Some(key), _) => key,
            (None, KeySource::Value(_)) => server_key(config)?,
            // Nothing in it was hashed yet, so that any key will do; this one is kept nowhere.
            (None, KeySource::File(_)) => ServerKey::generate(),
        };
        Ok(Self::with_key(database, &key))
    }

    fn with_key(database: Database, key: &ServerKey) -> Self {
        let (secrets, clock) = (Arc::new(RingSecrets::new(key)), Arc::new(SystemClock));
        let hashing = Arc::clone(&secrets);
        let accounts = LocalAccounts::new(database.clone(), Arc::clone(&clock) as _, move |token| {
            hashing.access_token_hash(token)
        });
        Self { database, secrets, clock, accounts }
    }

    /// The server on this database. Mail leaves through `mailer`; without one, no address can be proven.
    ///
    /// # Errors
    /// [`Failure`].
    pub(crate) fn app(
        &self,
        config: &Config,
        mailer: Option<Arc<dyn Mailer>>,
        metrics: Option<Metrics>,
    ) -> Result<App, Failure> {
        let store = Arc::new(SeaOrmStore::new(self.database.clone()));
        let asking = self.asking(config)?;
        let style = page_style_csp_hash().trim_matches('\'').to_owned();
        let mut builder = Builder::new(config.public_base_url.clone())
            .store(remembering(Arc::clone(&store) as _, config))
            .outbox(Arc::clone(&store) as _)
            .housekeeping(Arc::clone(&store) as _, config.housekeeping)
            .access_tokens(asking.access_tokens)
            .rate_limiter(Arc::new(self.limiter(config)?))
            .templates(Arc::new(templates(config)?))
            .clock(Arc::clone(&self.clock) as _)
            .secrets(Arc::clone(&self.secrets) as _)
            .policy(config.policy.clone())
            .retry(config.retry)
            .worker(WorkerSettings { concurrency: config.relay_concurrency, ..WorkerSettings::default() })
            .http(HttpSettings { page_style_csp_hash: Some(style), ..config.http.clone() });
        if let Some(mailer) = mailer {
            builder = builder.mailer(mailer);
        }
        if let Some(sms) = sms_sender(config)? {
            builder = builder.sms_sender(sms);
        }
        if let Some(capabilities) = asking.capabilities {
            builder = builder.capabilities(capabilities);
        }
        if let Some(identity_servers) = identity_servers(&config.identity)? {
            builder = builder.identity_servers(Arc::new(identity_servers));
        }
        if let Some(mirror) = &config.mirror {
            let synapse = synapse_at(mirror)?;
            builder = builder.mirror(Arc::new(synapse.mirror(AccessToken::new(mirror.token.expose()))));
        }
        if let Some((admin, settings)) = &config.sweep {
            let states = synapse_at(admin)?.account_states(AccessToken::new(admin.token.expose()));
            builder = builder.sweep(Arc::clone(&store) as _, store, Arc::new(states), *settings);
        }
        if let Some(metrics) = metrics {
            let database = self.database.clone();
            metrics.watch_pools(move || database.pools().into_iter().map(pool_state).collect());
            let local = matches!(config.accounts, Accounts::Local);
            builder = builder.metrics(metrics).accounts_are_local(local);
        }
        if config.asks_again {
            builder = builder.reauthentication(asking.reauthentication);
        }
        builder.build().map_err(|error| Failure::running("the server cannot be put together", error))
    }

    /// Who knows accounts: the homeserver, or our own table.
    fn asking(&self, config: &Config) -> Result<Asking, Failure> {
        let secrets = Arc::clone(&self.secrets);
        Ok(match &config.accounts {
            Accounts::Homeserver(accounts) => {
                let homeserver = homeserver(accounts)?;
                let probe = move |user: &UserId, sid: &Sid| secrets.probe_device_id(user, sid);
                Asking {
                    access_tokens: Arc::new(homeserver.tokens()),
                    reauthentication: Arc::new(homeserver.reauthentication(probe)),
                    capabilities: Some(Arc::new(homeserver.abilities())),
                }
            }
            Accounts::Local => {
                let new_session = move || secrets.new_challenge_session();
                let accounts = self.accounts.clone();
                Asking {
                    access_tokens: Arc::new(accounts.clone()),
                    reauthentication: Arc::new(LocalReauthentication::new(accounts, new_session)),
                    capabilities: None,
                }
            }
        })
    }

    /// Limits whose shared ones are counted in the database.
    fn limiter(&self, config: &Config) -> Result<Limiter, Failure> {
        let (clock, shared) = (Arc::clone(&self.clock) as _, Arc::new(self.database.clone()));
        Limiter::sharing(&limit_settings(&config.limits), clock, shared).map_err(invalid_limit)
    }

    /// Gives an account of our own a password.
    ///
    /// # Errors
    /// [`Failure`] when there is no such account, the password is empty, or storage cannot answer.
    pub(crate) async fn set_password(&self, user: &UserId, password: &str) -> Result<(), Failure> {
        let set = self.accounts.set_password(user, password, self.secrets.new_salt()).await;
        set.map_err(|error| Failure::running(format!("cannot set the password of {user}"), error))
    }

    /// Adds an account of our own; `false` when it was there already.
    ///
    /// # Errors
    /// [`Failure`] when storage cannot answer.
    pub(crate) async fn add_account(&self, user: &UserId, guest: bool) -> Result<bool, Failure> {
        let added = if guest { self.accounts.add_guest(user).await } else { self.accounts.add(user).await };
        added.map_err(|error| Failure::running(format!("cannot add {user}"), error))
    }

    /// A new access token of an account of our own.
    ///
    /// # Errors
    /// [`Failure`] when there is no such account, or storage cannot answer.
    pub(crate) async fn issue_token(
        &self,
        user: &UserId,
        device: Option<DeviceId>,
    ) -> Result<AccessToken, Failure> {
        let token = self.secrets.new_access_token();
        let issued = self.accounts.issue_token(user, &token, device.as_ref()).await;
        issued.map_err(|error| Failure::running(format!("cannot make a token for {user}"), error))?;
        Ok(token)
    }

    /// Every account of our own.
    ///
    /// # Errors
    /// [`Failure`] when storage cannot answer.
    pub(crate) async fn list_accounts(&self) -> Result<Vec<UserId>, Failure> {
        self.accounts.list().await.map_err(|error| Failure::running("cannot list accounts", error))
    }

    /// What is remembered of contacts' changes, newest first.
    ///
    /// # Errors
    /// [`Failure`] when storage cannot answer.
    pub(crate) async fn audit_trail(&self, query: AuditQuery) -> Result<Vec<AuditEntry>, Failure> {
        let told = SeaOrmStore::new(self.database.clone()).audit_trail(query).await;
        told.map_err(|error| Failure::running("cannot read the audit trail", error))
    }

    /// Everything that is kept about an account.
    ///
    /// # Errors
    /// [`Failure`] when storage cannot answer.
    pub(crate) async fn kept_about(&self, user: &UserId) -> Result<AccountRecord, Failure> {
        let kept = SeaOrmStore::new(self.database.clone()).kept_about(user.clone()).await;
        kept.map_err(|error| Failure::running(format!("cannot tell what is kept about {user}"), error))
    }

    /// What erases accounts.
    pub(crate) fn eraser(&self) -> Eraser {
        let store = Arc::new(SeaOrmStore::new(self.database.clone()));
        let ports = EraserPorts {
            records: Arc::clone(&store) as _,
            erasures: store,
            clock: Arc::clone(&self.clock) as _,
            secrets: Arc::clone(&self.secrets) as _,
        };
        Eraser::new(ports, Policy::default().unbind_within)
    }

    /// What decides about messages by hand.
    pub(crate) fn outbox_desk(&self) -> OutboxDesk {
        let records = Arc::new(SeaOrmStore::new(self.database.clone()));
        OutboxDesk::new(records, Arc::clone(&self.clock) as _, Policy::default().unbind_within)
    }

    /// What imports from `source`; with `homeserver`, only that homeserver's accounts.
    pub(crate) fn importer(&self, source: &Source, homeserver: Option<String>) -> Importer {
        let ports = ImporterPorts {
            source: Arc::new(source.clone()),
            store: Arc::new(SeaOrmStore::new(self.database.clone())),
            clock: Arc::clone(&self.clock) as _,
        };
        Importer::new(ports, homeserver)
    }

    /// A client secret for somebody who has none.
    pub(crate) fn new_client_secret(&self) -> String {
        self.secrets.new_sid().as_str().to_owned()
    }

    /// Closes the database, after what is under way.
    pub(crate) async fn close(&self) {
        self.database.close().await;
    }
}

fn pool_state(pool: PoolUse) -> PoolState {
    let PoolUse { name, open, idle, most } = pool;
    PoolState { name, open, idle, most }
}

/// Where contacts are imported from.
pub(crate) type Source = SynapseContacts;

/// Synapse's contacts, in its database.
///
/// # Errors
/// [`Failure`] when it is none of Synapse's, or cannot be opened.
pub(crate) async fn synapse_contacts(database: &str) -> Result<Source, Failure> {
    SynapseContacts::open(database).await.map_err(|error| Failure::plain(&error))
}

/// Makes everything that touches neither database nor network, and lets it go again: what fails here would have
/// stopped the start.
///
/// # Errors
/// [`Failure`], which names the setting.
pub(crate) fn rehearse(config: &Config) -> Result<(), Failure> {
    match &config.mail.transport {
        MailTransport::Smtp { .. } => drop(mailer(config)?),
        // The mailer would make its folder.
        MailTransport::File { sender, .. } => drop(mailboxes(sender)?),
        MailTransport::None => {}
    }
    sms_sender(config)?;
    Limiter::in_memory(&limit_settings(&config.limits), Arc::new(SystemClock)).map_err(invalid_limit)?;
    templates(config)?;
    if let Accounts::Homeserver(accounts) = &config.accounts {
        homeserver(accounts)?;
    }
    identity_servers(&config.identity)?;
    let sweep = config.sweep.as_ref().map(|(admin, _)| admin);
    for admin in config.mirror.iter().chain(sweep) {
        synapse_at(admin)?;
    }
    if let KeySource::Value(_) = &config.server_key {
        server_key(config)?;
    }
    Ok(())
}

/// Brings the database to this version's schema, and names the steps that it took.
///
/// # Errors
/// [`Failure`].
pub(crate) async fn migrate(config: &Config) -> Result<Vec<String>, Failure> {
    let database = connect(&connect_settings(config)).await?;
    let applied = async {
        recognised_key(&database, config).await?;
        database.migrate().await.map_err(|error| Failure::plain(&error))
    };
    let applied = applied.await;
    database.close().await;
    applied
}

/// The key that the database belongs to, before anything in it is changed; `None` where it belongs to none yet. Then a
/// key may be made; here it may not: a new one would open nothing.
async fn recognised_key(database: &Database, config: &Config) -> Result<Option<ServerKey>, Failure> {
    if database.key_fingerprint().await.map_err(|error| Failure::plain(&error))?.is_none() {
        return Ok(None);
    }
    let key = match &config.server_key {
        KeySource::Value(_) => server_key(config)?,
        KeySource::File(path) => ServerKey::load(path).map_err(|error| Failure::plain(&error))?,
    };
    database.recognise_key(&key.fingerprint()).await.map_err(|error| Failure::plain(&error))?;
    Ok(Some(key))
}

/// What sends mail, as the settings say.
///
/// # Errors
/// [`Failure`], which names the setting.
pub(crate) fn mailer(config: &Config) -> Result<Option<Arc<dyn Mailer>>, Failure> {
    match &config.mail.transport {
        MailTransport::None => Ok(None),
        MailTransport::File { sender, folder } => {
            let mailer = FileMailer::new(mailboxes(sender)?, folder, Arc::new(SystemClock));
            let mailer = mailer.map_err(|error| {
                Failure::running(format!("mail.folder {} cannot be made", folder.display()), error)
            })?;
            Ok(Some(Arc::new(mailer)))
        }
        MailTransport::Smtp { sender, server } => {
            let mailer = SmtpMailer::new(smtp_settings(sender, server));
            let mailer = mailer.map_err(|error| {
                let setting = match &error {
                    InvalidSmtpSettings::Sender(sender) => format!("mail.{}", sender.setting),
                    InvalidSmtpSettings::Host | InvalidSmtpSettings::Tls(_) => "mail.smtp.host".to_owned(),
                    InvalidSmtpSettings::HelloName => "mail.smtp.hello".to_owned(),
                    InvalidSmtpSettings::Connections => "mail.smtp.connections".to_owned(),
                    InvalidSmtpSettings::Timeout => "mail.smtp.timeout".to_owned(),
                    InvalidSmtpSettings::ExtraCa { .. } => "mail.smtp.ca_file".to_owned(),
                };
                Failure::setting(&setting, &error)
            })?;
            Ok(Some(Arc::new(mailer)))
        }
    }
}

/// A mailer that keeps what it is given, and the way to look at it.
///
/// # Errors
/// None that could come: the demo's sender is a mailbox.
pub(crate) fn memory_mailer() -> Result<(Arc<dyn Mailer>, Caught), Failure> {
    let sender = Sender { from: "threepid demo <noreply@demo.localhost>".to_owned(), reply_to: None };
    let mailer = Arc::new(MemoryMailer::new(mailboxes(&sender)?, MAILS_CAUGHT));
    let caught = Arc::clone(&mailer);
    let letters = move || {
        let caught = caught.caught().into_iter();
        caught.map(|mail| Letter { to: mail.recipient, subject: mail.subject, text: mail.text }).collect()
    };
    Ok((mailer, Arc::new(letters)))
}

/// The store, which remembers lists where this process owns the database.
fn remembering(store: Arc<dyn Store>, config: &Config) -> Arc<dyn Store> {
    let span = config.database.remember_contacts;
    if span.is_zero() {
        return store;
    }
    Arc::new(RememberedLists::new(store, ListMemory { span, ..ListMemory::default() }))
}

/// What became of a database that is open; where that went wrong, it is closed.
async fn closed_unless_well(
    database: &Database,
    opening: impl Future<Output = Result<Opened, Failure>>,
) -> Result<Opened, Failure> {
    let opened = opening.await;
    if opened.is_err() {
        database.close().await;
    }
    opened
}

async fn connect(settings: &ConnectSettings) -> Result<Database, Failure> {
    Database::connect(settings).await.map_err(|error| Failure::plain(&error))
}

fn connect_settings(config: &Config) -> ConnectSettings {
    let database = &config.database;
    ConnectSettings {
        acquire_timeout: database.acquire_timeout,
        readers: database.readers,
        connections: database.connections,
        statement_timeout: database.statement_timeout,
        password: database.password.as_ref().map(|password| password.expose().to_owned()),
        tls: database.tls.map(|tls| match tls {
            DatabaseTls::Disable => Tls::Disable,
            DatabaseTls::Prefer => Tls::Prefer,
            DatabaseTls::Require => Tls::Require,
            DatabaseTls::VerifyCa => Tls::VerifyCa,
            DatabaseTls::VerifyFull => Tls::VerifyFull,
        }),
        ca_file: database.ca_file.clone(),
        ..ConnectSettings::new(database.url.expose())
    }
}

fn server_key(config: &Config) -> Result<ServerKey, Failure> {
    match &config.server_key {
        KeySource::Value(value) => {
            ServerKey::parse(value.expose()).map_err(|error| Failure::setting("server_key.value", &error))
        }
        KeySource::File(path) => ServerKey::load_or_create(path).map_err(|error| Failure::plain(&error)),
    }
}

fn mailboxes(sender: &Sender) -> Result<lettre::Sender, Failure> {
    let read = lettre::Sender::parse(&sender.from, sender.reply_to.as_deref());
    read.map_err(|error| Failure::setting(&format!("mail.{}", error.setting), &error))
}

fn smtp_settings(sender: &Sender, server: &SmtpServer) -> SmtpSettings {
    let credentials = server.credentials.as_ref();
    SmtpSettings {
        security: match server.security {
            Security::None => SmtpSecurity::None,
            Security::Starttls => SmtpSecurity::StartTls,
            Security::Tls => SmtpSecurity::Tls,
        },
        credentials: credentials.map(|(user, password)| (user.clone(), password.expose().to_owned())),
        hello_name: server.hello.clone(),
        reply_to: sender.reply_to.clone(),
        timeout: server.timeout,
        send_timeout: server.send_timeout,
        connections: server.connections,
        extra_ca: server.ca_file.clone(),
        ..SmtpSettings::new(&server.host, server.port, &sender.from)
    }
}

fn invalid_limit(error: InvalidLimit) -> Failure {
    Failure::setting("limits", &error)
}

fn limit_settings(limits: &Limits) -> LimitSettings {
    let settings = LimitSettings::default().remembering(limits.max_subjects);
    Limit::ALL.iter().fold(settings, |settings, limit| {
        let rate = match limits.allowance(*limit) {
            Allowance::Rate { per_second, burst } => Some(Rate { per_second, burst }),
            Allowance::PerHour(most) => Rate::per_hour(most),
        };
        settings.with(*limit, rate)
    })
}

fn templates(config: &Config) -> Result<MinijinjaTemplates, Failure> {
    let settings =
        TemplateSettings { app_name: config.mail.app_name.clone(), folder: config.templates.clone() };
    MinijinjaTemplates::new(&settings).map_err(|error| Failure::setting("templates.folder", &error))
}

/// What asks identity servers; `None` where there is none to ask, and no key to ask one with to forget what it knows.
fn identity_servers(identity: &IdentityConfig) -> Result<Option<HyperIdentityServer>, Failure> {
    if identity.servers.is_empty() && identity.signing_key.is_none() {
        return Ok(None);
    }
    let signing_key = identity.signing_key.as_ref().map(|(file, homeserver)| {
        SigningKey::read(file, homeserver).map_err(|error| {
            let setting = match &error {
                SigningKeyError::Homeserver(_) => "signing_key.homeserver",
                _ => "signing_key.file",
            };
            Failure::setting(setting, &error)
        })
    });
    let servers = identity.servers.iter().map(|server| {
        let base_url = server.base_url.as_ref().map(|url| url.0.clone());
        (server.name.clone(), ServerSettings { base_url, v1_form: server.v1_form })
    });
    let settings = IdentityServerSettings {
        servers: servers.collect(),
        outbound: OutboundSettings {
            allow: identity.allow_networks.clone(),
            extra_ca_file: identity.ca_file.clone(),
            ..OutboundSettings::default()
        },
        timeout: identity.timeout,
        unbind_timeout: identity.unbind_timeout,
        max_answer_bytes: identity.max_answer_bytes,
        signing_key: signing_key.transpose()?,
    };
    let made = HyperIdentityServer::new(settings).map_err(|error| {
        let setting = match &error {
            IdentityServerSettingsError::BaseUrl { .. } => "identity_servers",
            IdentityServerSettingsError::Outbound(_) => "identity.ca_file",
        };
        Failure::setting(setting, &error)
    });
    made.map(Some)
}

fn homeserver(accounts: &HomeserverAccounts) -> Result<Homeserver, Failure> {
    let settings = HomeserverSettings {
        timeout: accounts.timeout,
        remember: accounts.remember,
        extra_ca: accounts.ca_file.clone(),
        ..HomeserverSettings::new(accounts.base_url.clone())
    };
    homeserver_at(&settings, "homeserver.base_url")
}

fn synapse_at(admin: &SynapseAdmin) -> Result<Homeserver, Failure> {
    let settings = HomeserverSettings {
        timeout: admin.timeout,
        extra_ca: admin.ca_file.clone(),
        ..HomeserverSettings::new(admin.url.clone())
    };
    homeserver_at(&settings, &format!("{}.synapse_admin_url", admin.section))
}

fn homeserver_at(settings: &HomeserverSettings, base_url: &str) -> Result<Homeserver, Failure> {
    Homeserver::new(settings).map_err(|error| {
        let setting = match &error {
            InvalidHomeserver::ExtraCa { .. } | InvalidHomeserver::Tls(_) => "homeserver.ca_file",
            InvalidHomeserver::BaseUrl => base_url,
            InvalidHomeserver::Timeout => "homeserver.timeout",
        };
        Failure::setting(setting, &error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_by_default_are_those_of_the_adapter() {
        assert_eq!(limit_settings(&Limits::default()), LimitSettings::default());
    }
}
