//! What the settings mean together. A [`Config`] makes sense as a whole, and nothing after it asks again.

use std::fmt;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use threepid_domain::model::{
    AddressRules, Lifetimes, Medium, Rule, TrustedServer, TrustedServers, Validation,
};
use threepid_domain::use_cases::{Changes, DeprecatedAdd, Policy, Retention, RetryPolicy};
use threepid_server::{ForwardingHeader, HousekeepingSettings, HttpSettings, SweepSettings};
use url::Url;

use super::Problem;
use super::database::DatabaseConfig;
use super::limits::Limits;
use super::settings::{self, Settings};
use super::sms::SmsTransport;
use super::values::{
    self, AccountsChoice, AddressRule, BaseUrl, DatabaseUrl, DeprecatedAddChoice, LogFormat, Mailbox,
    ReauthenticationChoice, Secret, Security, Span, Transport, TrustedIdentityServer, ValidationChoice,
};

/// A client waits for its deletion so long.
const LONGEST_UNBIND: Duration = Duration::from_secs(10);

/// What a server is started with.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) public_base_url: Url,
    pub(crate) listen: SocketAddr,
    pub(crate) database: DatabaseConfig,
    pub(crate) server_key: KeySource,
    pub(crate) accounts: Accounts,
    /// Who asks again; it is the one that knows access tokens, or nobody.
    pub(crate) asks_again: bool,
    pub(crate) identity: IdentityConfig,
    pub(crate) mirror: Option<SynapseAdmin>,
    /// What is asked which accounts have ended, and how.
    pub(crate) sweep: Option<(SynapseAdmin, SweepSettings)>,
    pub(crate) mail: MailConfig,
    pub(crate) sms: SmsTransport,
    pub(crate) policy: Policy,
    pub(crate) limits: Limits,
    pub(crate) http: HttpSettings,
    pub(crate) retry: RetryPolicy,
    /// How many mails are sent at a time.
    pub(crate) relay_concurrency: usize,
    pub(crate) housekeeping: HousekeepingSettings,
    pub(crate) templates: Option<PathBuf>,
    pub(crate) log: LogConfig,
    /// Where metrics are told, if they are.
    pub(crate) metrics: Option<SocketAddr>,
    /// What is allowed and still unwise.
    pub(crate) warnings: Vec<Problem>,
}

/// Where the server's key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeySource {
    /// In the settings.
    Value(Secret),
    /// In a file, which is made if it is not there.
    File(PathBuf),
}

/// Who knows access tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Accounts {
    /// The homeserver.
    Homeserver(HomeserverAccounts),
    /// A table of our own.
    Local,
}

/// How the homeserver is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HomeserverAccounts {
    pub(crate) base_url: Url,
    pub(crate) timeout: Duration,
    pub(crate) remember: Duration,
    pub(crate) ca_file: Option<PathBuf>,
}

/// How identity servers are asked.
#[derive(Clone, Debug)]
pub(crate) struct IdentityConfig {
    pub(crate) servers: Vec<TrustedIdentityServer>,
    pub(crate) timeout: Duration,
    pub(crate) unbind_timeout: Duration,
    pub(crate) max_answer_bytes: usize,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) allow_networks: Vec<IpNet>,
    /// The homeserver's key file and name.
    pub(crate) signing_key: Option<(PathBuf, String)>,
}

/// How Synapse's admin API is asked.
#[derive(Clone, Debug)]
pub(crate) struct SynapseAdmin {
    /// The section that says so.
    pub(crate) section: &'static str,
    pub(crate) url: Url,
    pub(crate) token: Secret,
    pub(crate) timeout: Duration,
    pub(crate) ca_file: Option<PathBuf>,
}

/// How mails look and leave.
#[derive(Clone, Debug)]
pub(crate) struct MailConfig {
    pub(crate) app_name: String,
    pub(crate) transport: MailTransport,
}

/// How mails leave, with the sender that every mail needs.
#[derive(Clone, Debug)]
pub(crate) enum MailTransport {
    Smtp { sender: Sender, server: SmtpServer },
    File { sender: Sender, folder: PathBuf },
    None,
}

impl fmt::Display for MailTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Smtp { server, .. } => write!(f, "smtp to {}:{}", server.host, server.port),
            Self::File { folder, .. } => write!(f, "files in {}", folder.display()),
            Self::None => f.write_str("none"),
        }
    }
}

/// Who a mail is from.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    pub(crate) from: String,
    pub(crate) reply_to: Option<String>,
}

/// The mail server.
#[derive(Clone, Debug)]
pub(crate) struct SmtpServer {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) security: Security,
    pub(crate) credentials: Option<(String, Secret)>,
    pub(crate) hello: Option<String>,
    pub(crate) timeout: Duration,
    pub(crate) send_timeout: Duration,
    pub(crate) connections: usize,
    pub(crate) ca_file: Option<PathBuf>,
}

/// How logs look.
#[derive(Clone, Debug)]
pub(crate) struct LogConfig {
    pub(crate) format: LogFormat,
    pub(crate) level: String,
}

impl Config {
    /// The demo's settings: everything in one folder, accounts of its own, and no mail that leaves the process. What is
    /// not named here has its default.
    ///
    /// # Errors
    /// What is wrong, such as a folder whose name no database can have.
    pub(crate) fn for_demo(folder: &Path, address: SocketAddr) -> Result<Self, Vec<Problem>> {
        let url = Url::parse(&format!("http://{address}"));
        Self::new(Settings {
            public_base_url: url.ok().map(BaseUrl),
            listen: address,
            accounts: AccountsChoice::Local,
            database: settings::Database {
                url: DatabaseUrl::new(folder.join("threepid.db").to_string_lossy()),
                ..Default::default()
            },
            mail: settings::Mail {
                transport: Transport::None,
                app_name: "Matrix (demo)".to_owned(),
                ..Default::default()
            },
            log: settings::Log { format: LogFormat::Text, level: "warn".to_owned() },
            ..Settings::default()
        })
    }

    /// Judges the settings as a whole.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub(crate) fn new(settings: Settings) -> Result<Self, Vec<Problem>> {
        let mut judge = Judge::default();
        let public_base_url = judge.required(
            "public_base_url",
            settings.public_base_url,
            "is required: the http or https address of this server from outside, such as \"https://matrix.example.org\"",
        );
        let transport = mail_transport(&settings.mail, &mut judge);
        let settings::Mirror { synapse_admin_url, token, token_file } = settings.mirror;
        let token = AdminToken { token, token_file };
        let mirror = synapse_admin("mirror", synapse_admin_url, token, &settings.homeserver, &mut judge);
        let sweep = sweep(settings.sweep, settings.accounts, &settings.homeserver, &mut judge);
        let accounts = accounts(settings.accounts, settings.homeserver, &mut judge);
        let asks_again = judge.asks_again(settings.reauthentication, settings.accounts);
        let database = DatabaseConfig::new(settings.database, &mut judge);
        let server_key = key_source(settings.server_key, &database, &mut judge);
        let rules = AddressRules::new(
            rules("addresses.allow", &settings.addresses.allow, &mut judge),
            rules("addresses.deny", &settings.addresses.deny, &mut judge),
        );
        let lifetimes = Lifetimes {
            token: judge.positive("lifetimes.token", settings.lifetimes.token),
            validated: judge.positive("lifetimes.validated", settings.lifetimes.validated),
        };
        let http = judge.http(settings.http);
        judge.limits(&settings.limits);
        judge.must(settings.relay.concurrency > 0, "relay.concurrency", "must be at least 1");
        let retry = judge.retry(&settings.relay, settings.mail.smtp.send_timeout);
        let sms = SmsTransport::new(settings.sms, retry.lease, &mut judge);
        let housekeeping = HousekeepingSettings {
            every: judge.positive("housekeeping.every", settings.housekeeping.every),
            retention: Retention {
                settled_messages: settings.housekeeping.settled_messages.0,
                audit_entries: settings.housekeeping.audit_entries.0,
            },
            ..HousekeepingSettings::default()
        };
        let level = settings.log.level;
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&level) {
            judge.wrong("log.level", format!("{level:?} is no level and no filter: {error}"));
        }
        let changes = if settings.changes { Changes::Permitted } else { Changes::Forbidden };
        let deprecated_add = match settings.deprecated_add {
            DeprecatedAddChoice::On => DeprecatedAdd::On,
            DeprecatedAddChoice::IdentityServerOnly => DeprecatedAdd::IdentityServerOnly,
            DeprecatedAddChoice::Off => DeprecatedAdd::Off,
        };
        let (trusted, validation) = judge.trust(&settings.identity_servers, settings.validation);
        judge.must(
            !settings.hide_in_use || validation == Validation::Direct,
            "hide_in_use",
            "can be true only where validation is \"direct\": an identity server sends its token to whoever has the address",
        );
        let undercuts = match deprecated_add {
            DeprecatedAdd::On => true,
            DeprecatedAdd::IdentityServerOnly => trusted.first_that_validates().is_some(),
            DeprecatedAdd::Off => false,
        };
        judge.warn_about_adding(asks_again, undercuts, changes);
        let identity = judge.identity(settings.identity_servers, settings.identity, settings.signing_key);
        judge.warn_about_clear_text(public_base_url.as_ref().map(|url| &url.0), &settings.listen, &transport);
        let (Some(public_base_url), Some(transport), Some(sms), Some(accounts), Some(server_key)) =
            (public_base_url, transport, sms, accounts, server_key)
        else {
            return Err(judge.problems);
        };
        if !judge.problems.is_empty() {
            return Err(judge.problems);
        }
        let sends_mail = !matches!(transport, MailTransport::None);
        Ok(Self {
            public_base_url: public_base_url.0,
            listen: settings.listen,
            database,
            server_key,
            accounts,
            asks_again,
            identity,
            mirror,
            sweep,
            mail: MailConfig { app_name: settings.mail.app_name, transport },
            sms,
            policy: Policy {
                lifetimes,
                rules,
                sends_mail,
                mails_code: settings.mail.code,
                hide_in_use: settings.hide_in_use,
                changes,
                deprecated_add,
                validation,
                trusted,
                ..Policy::default()
            },
            limits: settings.limits,
            http,
            retry,
            relay_concurrency: settings.relay.concurrency,
            housekeeping,
            templates: settings.templates.folder,
            log: LogConfig { format: settings.log.format, level },
            metrics: settings.metrics.listen,
            warnings: judge.warnings,
        })
    }
}

/// Collects what is wrong, so that one start tells all of it.
#[derive(Default)]
pub(super) struct Judge {
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl Judge {
    pub(super) fn wrong(&mut self, setting: &str, text: impl Into<String>) {
        self.problems.push(Problem::new(setting, text));
    }

    pub(super) fn warn(&mut self, setting: &str, text: &str) {
        self.warnings.push(Problem::new(setting, text));
    }

    pub(super) fn must(&mut self, holds: bool, setting: &str, text: &str) {
        if !holds {
            self.wrong(setting, text);
        }
    }

    fn required<T>(&mut self, setting: &str, value: Option<T>, text: &str) -> Option<T> {
        self.must(value.is_some(), setting, text);
        value
    }

    pub(super) fn positive(&mut self, setting: &str, span: Span) -> Duration {
        self.must(!span.0.is_zero(), setting, "must be longer than zero, such as \"30s\"");
        span.0
    }

    fn http(&mut self, http: settings::Http) -> HttpSettings {
        self.must(http.max_body_bytes > 0, "http.max_body_bytes", "must be more than 0 bytes");
        self.must(http.max_header_bytes >= 8192, "http.max_header_bytes", "must be at least 8192 bytes");
        self.must(http.max_connections > 0, "http.max_connections", "must be at least 1");
        HttpSettings {
            trusted_proxies: http.trusted_proxies.into_iter().map(|network| network.0).collect(),
            forwarding_header: match http.forwarding_header {
                values::ForwardingHeader::XForwardedFor => ForwardingHeader::XForwardedFor,
                values::ForwardingHeader::Forwarded => ForwardingHeader::Forwarded,
            },
            max_body_bytes: http.max_body_bytes,
            max_header_bytes: http.max_header_bytes,
            max_connections: http.max_connections,
            header_timeout: self.positive("http.header_timeout", http.header_timeout),
            body_timeout: self.positive("http.body_timeout", http.body_timeout),
            request_timeout: self.positive("http.request_timeout", http.request_timeout),
            answer_timeout: self.positive("http.answer_timeout", http.answer_timeout),
            shutdown_grace: http.shutdown_grace.0,
            ..HttpSettings::default()
        }
    }

    fn retry(&mut self, relay: &settings::RelaySettings, send_timeout: Span) -> RetryPolicy {
        let retry = RetryPolicy {
            first: self.positive("relay.first_retry", relay.first_retry),
            longest: relay.longest_retry.0,
            lease: relay.lease.0,
        };
        self.must(
            retry.longest >= retry.first,
            "relay.longest_retry",
            "must not be shorter than relay.first_retry",
        );
        self.must(
            retry.lease > send_timeout.0,
            "relay.lease",
            "must be longer than mail.smtp.send_timeout, or a mail could be sent twice",
        );
        retry
    }

    /// What a setting's file says, without the line break at its end.
    pub(super) fn secret_from(&mut self, setting: &str, path: &Path) -> Option<Secret> {
        match fs::read_to_string(path) {
            Ok(text) => {
                let text = text.strip_suffix('\n').unwrap_or(&text);
                Some(Secret::new(text.strip_suffix('\r').unwrap_or(text)))
            }
            Err(error) => {
                self.wrong(setting, format!("{} cannot be read: {error}", path.display()));
                None
            }
        }
    }

    /// Whether users are asked again who they are. Who knows access tokens is who can ask.
    fn asks_again(&mut self, choice: Option<ReauthenticationChoice>, accounts: AccountsChoice) -> bool {
        match (choice, accounts) {
            (None, _)
            | (Some(ReauthenticationChoice::Homeserver), AccountsChoice::Homeserver)
            | (Some(ReauthenticationChoice::Local), AccountsChoice::Local) => true,
            (Some(ReauthenticationChoice::None), _) => false,
            (Some(ReauthenticationChoice::Homeserver), AccountsChoice::Local) => {
                self.wrong("reauthentication", "can be \"homeserver\" only where accounts is");
                true
            }
            (Some(ReauthenticationChoice::Local), AccountsChoice::Homeserver) => {
                self.wrong("reauthentication", "can be \"local\" only where accounts is");
                true
            }
        }
    }

    /// Whom to trust for what.
    fn trust(
        &mut self,
        servers: &[TrustedIdentityServer],
        validation: ValidationChoice,
    ) -> (TrustedServers, Validation) {
        for (index, server) in servers.iter().enumerate() {
            let is_new = servers.iter().take(index).all(|earlier| earlier.name != server.name);
            self.must(is_new, &format!("identity_servers[{index}].name"), "is there twice");
        }
        let trusted = servers.iter().map(|server| TrustedServer {
            name: server.name.clone(),
            validates: server.validates,
            binds: server.binds,
        });
        let trusted = TrustedServers::new(trusted.collect());
        let validation = match validation {
            ValidationChoice::Direct => Validation::Direct,
            ValidationChoice::IdentityServer => Validation::IdentityServer,
        };
        self.must(
            validation == Validation::Direct || trusted.first_that_validates().is_some(),
            "validation",
            "can be \"identity_server\" only where one of identity_servers has validates = true",
        );
        (trusted, validation)
    }

    fn identity(
        &mut self,
        servers: Vec<TrustedIdentityServer>,
        identity: settings::Identity,
        signing_key: settings::SigningKey,
    ) -> IdentityConfig {
        self.must(identity.max_answer_bytes > 0, "identity.max_answer_bytes", "must be more than 0 bytes");
        self.must(
            identity.unbind_timeout.0 <= LONGEST_UNBIND,
            "identity.unbind_timeout",
            "must be at most \"10s\": clients wait for it",
        );
        let signing_key = match (signing_key.file, signing_key.homeserver) {
            (Some(file), Some(homeserver)) => Some((file, homeserver)),
            (None, None) => None,
            (Some(_), None) => {
                self.wrong("signing_key.homeserver", "is required with signing_key.file");
                None
            }
            (None, Some(_)) => {
                self.wrong("signing_key.file", "is required with signing_key.homeserver");
                None
            }
        };
        IdentityConfig {
            servers,
            timeout: self.positive("identity.timeout", identity.timeout),
            unbind_timeout: self.positive("identity.unbind_timeout", identity.unbind_timeout),
            max_answer_bytes: identity.max_answer_bytes,
            ca_file: identity.ca_file,
            allow_networks: identity.allow_networks.into_iter().map(|network| network.0).collect(),
            signing_key,
        }
    }

    fn warn_about_adding(&mut self, asks_again: bool, deprecated_add_undercuts: bool, changes: Changes) {
        if changes == Changes::Forbidden {
            return;
        }
        if !asks_again {
            self.warnings.push(Problem::new(
                "reauthentication",
                "is \"none\": whoever has an access token can add an address of their own to its account, and reset \
                 its password by mail where the homeserver does that",
            ));
        } else if deprecated_add_undercuts {
            self.warnings.push(Problem::new(
                "deprecated_add",
                "is not \"off\": POST /account/3pid adds an address without asking again who is there, so a stolen \
                 access token is enough; make it \"off\" once no client needs it",
            ));
        }
    }

    fn warn_about_clear_text(
        &mut self,
        public_base_url: Option<&Url>,
        listen: &SocketAddr,
        transport: &Option<MailTransport>,
    ) {
        if public_base_url.is_some_and(|url| url.scheme() == "http" && !is_this_machine(url.host_str())) {
            self.warnings.push(Problem::new(
                "public_base_url",
                "is http: links and tokens can be read on the way; put a reverse proxy with TLS in front",
            ));
        }
        if !listen.ip().is_loopback() {
            self.warnings.push(Problem::new(
                "listen",
                "is open to the network without TLS; only a reverse proxy should reach it",
            ));
        }
        if let Some(MailTransport::Smtp { server, .. }) = transport
            && server.security == Security::None
            && !is_this_machine(Some(&server.host))
        {
            self.warnings.push(Problem::new(
                "mail.smtp.security",
                "is \"none\" towards another machine: mails, and the password if there is one, go in clear text",
            ));
        }
    }
}

pub(super) fn is_this_machine(host: Option<&str>) -> bool {
    let host = host.unwrap_or_default();
    let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || literal.is_ok_and(|ip| ip.is_loopback())
}

fn accounts(choice: AccountsChoice, homeserver: settings::Homeserver, judge: &mut Judge) -> Option<Accounts> {
    match choice {
        AccountsChoice::Local => Some(Accounts::Local),
        AccountsChoice::Homeserver => {
            let timeout = judge.positive("homeserver.timeout", homeserver.timeout);
            let base_url = judge.required(
                "homeserver.base_url",
                homeserver.base_url,
                "is required while accounts is \"homeserver\": where this server reaches it, such as \"http://localhost:8008\"",
            )?;
            Some(Accounts::Homeserver(HomeserverAccounts {
                base_url: base_url.0,
                timeout,
                remember: homeserver.remember.0,
                ca_file: homeserver.ca_file,
            }))
        }
    }
}

/// An administrator's token, given in one of two ways.
struct AdminToken {
    token: Option<Secret>,
    token_file: Option<PathBuf>,
}

fn synapse_admin(
    section: &'static str,
    url: Option<BaseUrl>,
    given: AdminToken,
    homeserver: &settings::Homeserver,
    judge: &mut Judge,
) -> Option<SynapseAdmin> {
    let AdminToken { token, token_file } = given;
    let name = |setting: &str| format!("{section}.{setting}");
    let Some(BaseUrl(url)) = url else {
        judge.must(
            token.is_none() && token_file.is_none(),
            &name("synapse_admin_url"),
            &format!("is required with {section}.token: where this server reaches Synapse, such as \"http://localhost:8008\""),
        );
        return None;
    };
    if url.scheme() == "http" && !is_this_machine(url.host_str()) {
        judge.warn(
            &name("synapse_admin_url"),
            "is http towards another machine: an administrator's token goes in clear text",
        );
    }
    let token = match (token, token_file) {
        (Some(_), Some(_)) => {
            let text = format!("is given together with {section}.token; keep one of them");
            judge.wrong(&name("token_file"), text);
            return None;
        }
        (Some(token), None) => token,
        (None, Some(path)) => judge.secret_from(&name("token_file"), &path)?,
        (None, None) => {
            let text = format!("is required with {section}.synapse_admin_url, or {section}.token_file is");
            judge.wrong(&name("token"), text);
            return None;
        }
    };
    let is_token = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic());
    judge.must(is_token(token.expose()), &name("token"), "must be an access token, without spaces");
    let (timeout, ca_file) = (homeserver.timeout.0, homeserver.ca_file.clone());
    Some(SynapseAdmin { section, url, token, timeout, ca_file })
}

fn sweep(
    sweep: settings::SweepChoice,
    accounts: AccountsChoice,
    homeserver: &settings::Homeserver,
    judge: &mut Judge,
) -> Option<(SynapseAdmin, SweepSettings)> {
    let settings::SweepChoice { synapse_admin_url, token, token_file, every } = sweep;
    let every = judge.positive("sweep.every", every);
    judge.must(
        synapse_admin_url.is_none() || accounts == AccountsChoice::Homeserver,
        "sweep.synapse_admin_url",
        "can be given only where accounts is \"homeserver\": Synapse does not know other accounts",
    );
    let token = AdminToken { token, token_file };
    let admin = synapse_admin("sweep", synapse_admin_url, token, homeserver, judge)?;
    Some((admin, SweepSettings { every, ..SweepSettings::default() }))
}

fn key_source(key: settings::ServerKey, database: &DatabaseConfig, judge: &mut Judge) -> Option<KeySource> {
    match (key.value, key.file) {
        (Some(_), Some(_)) => {
            judge.wrong("server_key.file", "is given together with server_key.value; keep one of them");
            None
        }
        (Some(value), None) => Some(KeySource::Value(value)),
        (None, Some(file)) => Some(KeySource::File(file)),
        (None, None) if database.url.is_shared() => {
            judge.wrong(
                "server_key.value",
                "is required with PostgreSQL, the same for every instance (openssl rand -hex 32), or server_key.file is",
            );
            None
        }
        (None, None) => database.key_beside().map(KeySource::File),
    }
}

fn mail_transport(mail: &settings::Mail, judge: &mut Judge) -> Option<MailTransport> {
    if mail.transport == Transport::None {
        return Some(MailTransport::None);
    }
    let one_line = !mail.app_name.trim().is_empty() && !mail.app_name.contains(char::is_control);
    judge.must(one_line, "mail.app_name", "must be one line of text");
    let server = match mail.transport {
        Transport::Smtp => Some(smtp_server(&mail.smtp, judge)?),
        Transport::File | Transport::None => None,
    };
    let from = judge.required(
        "mail.from",
        mail.from.clone(),
        "is required unless mail.transport is \"none\": a mailbox such as \"Example <noreply@example.org>\"",
    )?;
    let sender = Sender { from: from.0, reply_to: mail.reply_to.clone().map(|Mailbox(text)| text) };
    Some(match server {
        Some(server) => MailTransport::Smtp { sender, server },
        None => MailTransport::File { sender, folder: mail.folder.clone() },
    })
}

fn smtp_server(smtp: &settings::Smtp, judge: &mut Judge) -> Option<SmtpServer> {
    let is_name =
        |text: &str| !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control());
    judge.must(
        is_name(&smtp.host) && !smtp.host.contains('/'),
        "mail.smtp.host",
        "must be a host name or an IP address, without scheme and port",
    );
    judge.must(smtp.hello.as_deref().is_none_or(is_name), "mail.smtp.hello", "must be a host name");
    judge.must(smtp.port != Some(0), "mail.smtp.port", "must be from 1 to 65535");
    judge.must(smtp.connections > 0, "mail.smtp.connections", "must be at least 1");
    let timeout = judge.positive("mail.smtp.timeout", smtp.timeout);
    let send_timeout = judge.positive("mail.smtp.send_timeout", smtp.send_timeout);
    let password = match (&smtp.password, &smtp.password_file) {
        (Some(_), Some(_)) => {
            judge.wrong(
                "mail.smtp.password_file",
                "is given together with mail.smtp.password; keep one of them",
            );
            return None;
        }
        (Some(password), None) => Some(password.clone()),
        (None, Some(path)) => Some(judge.secret_from("mail.smtp.password_file", path)?),
        (None, None) => None,
    };
    let credentials = match (&smtp.user, password) {
        (Some(user), Some(password)) => Some((user.clone(), password)),
        (None, None) => None,
        (Some(_), None) => {
            judge.wrong(
                "mail.smtp.password",
                "is required with mail.smtp.user, or mail.smtp.password_file is",
            );
            return None;
        }
        (None, Some(_)) => {
            judge.wrong("mail.smtp.user", "is required with mail.smtp.password");
            return None;
        }
    };
    let usual_port = match smtp.security {
        Security::None => 25,
        Security::Starttls => 587,
        Security::Tls => 465,
    };
    Some(SmtpServer {
        host: smtp.host.clone(),
        port: smtp.port.unwrap_or(usual_port),
        security: smtp.security,
        credentials,
        hello: smtp.hello.clone(),
        timeout,
        send_timeout,
        connections: smtp.connections,
        ca_file: smtp.ca_file.clone(),
    })
}

fn rules(setting: &str, rules: &[AddressRule], judge: &mut Judge) -> Vec<Rule> {
    let mut read = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        let name = format!("{setting}[{index}]");
        let made = match (&rule.domain, &rule.country, rule.medium, &rule.pattern) {
            (Some(domain), None, None | Some(Medium::Email), None) => Rule::domain(domain),
            (None, Some(country), None | Some(Medium::Msisdn), None) => Rule::country(country),
            (None, None, Some(medium), Some(pattern)) => Rule::pattern(medium, pattern),
            _ => {
                judge.wrong(
                    &name,
                    "must be { domain = \"example.org\" }, { country = \"GB\" } or \
                     { medium = \"email\", pattern = \"[a-z]+@example[.]org\" }",
                );
                continue;
            }
        };
        match made {
            Ok(rule) => read.push(rule),
            Err(error) => judge.wrong(&name, one_line(&error.to_string())),
        }
    }
    read
}

/// A message that spans lines, such as that of a broken pattern, on one.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
