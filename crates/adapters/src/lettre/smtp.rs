//! Mail to a mail server, over SMTP ([RFC 5321]) with none, STARTTLS or implicit TLS.
//!
//! What counts as permanent is said by the phase. Before `MAIL FROM` (connecting, TLS, signing in) everything is
//! transient: it tells about the server or the settings, and the mail may well be taken once they are mended. From
//! there on a 5xx reply is permanent. So is a recipient that the server cannot write, because it lacks SMTPUTF8
//! ([RFC 6531]).
//!
//! The connections are kept here and not in lettre's own pool: that one takes a connection back in the middle of a
//! command whose time ran out, and would read the late reply as the answer to the next mail's command.
//!
//! A mail takes two round trips where the server takes commands in a row ([RFC 2920]), and else four. What a mail holds
//! leaves in one write: the end of it, sent alone, would wait until the server's system has acknowledged the rest.
//!
//! [RFC 5321]: https://www.rfc-editor.org/rfc/rfc5321
//! [RFC 6531]: https://www.rfc-editor.org/rfc/rfc6531
//! [RFC 2920]: https://www.rfc-editor.org/rfc/rfc2920

use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use lettre::Message;
use lettre::transport::smtp::Error as SmtpError;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, TlsParameters};
use lettre::transport::smtp::commands::{Data, Ehlo, Mail as MailFrom, Rcpt};
use lettre::transport::smtp::extension::{ClientId, Extension, MailBodyParameter, MailParameter};
use lettre::transport::smtp::response::{Response, Severity};
use threepid_domain::ports::{DeliveryError, Mail, Mailer};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::reason::Reason;
use super::{InvalidSender, Sender};

/// A connection that was idle for longer is not used again; servers close them after a while.
const LONGEST_IDLE: Duration = Duration::from_secs(30);

/// A connection that was used within this time is used again without asking whether it is still there.
const JUST_USED: Duration = Duration::from_secs(1);

/// How long a server's goodbye is waited for; ours is sent by then.
const GOODBYE: Duration = Duration::from_millis(200);

/// How the connection is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SmtpSecurity {
    /// Not at all: for a mail server on this machine.
    None,
    /// TLS after `STARTTLS`, required; usual port 587.
    StartTls,
    /// TLS from the first byte; usual port 465.
    Tls,
}

/// The mail server, and how to speak with it. Its `Debug` hides user and password.
#[derive(Clone)]
pub struct SmtpSettings {
    /// Host name or IP address; the name that its certificate is checked against.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// How the connection is protected. Default [`SmtpSecurity::StartTls`].
    pub security: SmtpSecurity,
    /// User and password, where the server wants them. Default none.
    pub credentials: Option<(String, String)>,
    /// What this machine calls itself in `EHLO`: a host name or an IP address. Default its host name.
    pub hello_name: Option<String>,
    /// Whom the mails are from: `Example <noreply@example.org>`.
    pub from: String,
    /// Where answers go. Default none.
    pub reply_to: Option<String>,
    /// The longest that connecting (with TLS and sign-in), and then each reply of the server, may take. Default 30 s.
    pub timeout: Duration,
    /// The longest that one mail may take, the wait for a free connection included. Default 60 s.
    pub send_timeout: Duration,
    /// How many connections there are at most; at least 1. Default 4.
    pub connections: usize,
    /// A PEM file with certificates that are trusted besides the public ones. Default none.
    pub extra_ca: Option<PathBuf>,
}

impl SmtpSettings {
    /// Defaults for everything but the server and the sender.
    pub fn new(host: impl Into<String>, port: u16, from: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            port,
            security: SmtpSecurity::StartTls,
            credentials: None,
            hello_name: None,
            from: from.into(),
            reply_to: None,
            timeout: Duration::from_secs(30),
            send_timeout: Duration::from_secs(60),
            connections: 4,
            extra_ca: None,
        }
    }
}

impl fmt::Debug for SmtpSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmtpSettings")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("security", &self.security)
            .field("credentials", &self.credentials.as_ref().map(|_| "…"))
            .field("from", &self.from)
            .finish_non_exhaustive()
    }
}

/// Settings that reach no mail server. The text names the setting.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSmtpSettings {
    /// The sender is none.
    #[error(transparent)]
    Sender(#[from] InvalidSender),
    /// The host is empty or holds spaces.
    #[error("host must be a host name or an IP address")]
    Host,
    /// The name for `EHLO` is empty or holds spaces.
    #[error("hello_name must be a host name or an IP address")]
    HelloName,
    /// There would be no connection.
    #[error("connections must be at least 1")]
    Connections,
    /// Nothing could be sent in no time.
    #[error("timeout and send_timeout must be above 0")]
    Timeout,
    /// The certificates cannot be read.
    #[error("extra_ca {}: {reason}", .path.display())]
    ExtraCa {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// TLS cannot be set up with this host.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

/// [`Mailer`] over SMTP.
pub struct SmtpMailer {
    sender: Sender,
    settings: SmtpSettings,
    hello_name: ClientId,
    tls: Option<TlsParameters>,
    slots: Semaphore,
    idle: Mutex<Vec<(Connection, Instant)>>,
}

/// A connection to the mail server, greeted and signed in.
struct Connection {
    smtp: AsyncSmtpConnection,
    /// Whether the server takes a command before it has answered the one before it.
    pipelines: bool,
}

impl SmtpMailer {
    /// Reads the settings; nothing is connected yet.
    ///
    /// # Errors
    /// [`InvalidSmtpSettings`].
    pub fn new(settings: SmtpSettings) -> Result<Self, InvalidSmtpSettings> {
        let sender = Sender::parse(&settings.from, settings.reply_to.as_deref())?;
        if !is_name(&settings.host) {
            return Err(InvalidSmtpSettings::Host);
        }
        let hello_name = match settings.hello_name.as_deref() {
            None => ClientId::default(),
            Some(name) if !is_name(name) => return Err(InvalidSmtpSettings::HelloName),
            Some(name) => match name.parse() {
                Ok(std::net::IpAddr::V4(ip)) => ClientId::Ipv4(ip),
                Ok(std::net::IpAddr::V6(ip)) => ClientId::Ipv6(ip),
                Err(_) => ClientId::Domain(name.to_owned()),
            },
        };
        if settings.connections == 0 || settings.connections > Semaphore::MAX_PERMITS {
            return Err(InvalidSmtpSettings::Connections);
        }
        if settings.timeout.is_zero() || settings.send_timeout.is_zero() {
            return Err(InvalidSmtpSettings::Timeout);
        }
        let tls = match settings.security {
            SmtpSecurity::None => None,
            SmtpSecurity::StartTls | SmtpSecurity::Tls => Some(tls_parameters(&settings)?),
        };
        let slots = Semaphore::new(settings.connections);
        Ok(Self { sender, hello_name, tls, slots, idle: Mutex::default(), settings })
    }

    async fn deliver(&self, message: &Message) -> Result<(), DeliveryError> {
        // The semaphore is never closed; if it were, the mail could go out later.
        let _slot = self.slots.acquire().await.map_err(|_| transient("no connection is free"))?;
        if let Some(mut connection) = self.just_used() {
            match self.transfer(&mut connection, message).await {
                // The server closed it meanwhile, and knows nothing of this mail.
                Err(Failed::AtOnce(_)) => {}
                ended => return self.end(connection, ended).await,
            }
        }
        let mut connection = self.connection().await?;
        let ended = self.transfer(&mut connection, message).await;
        self.end(connection, ended).await
    }

    /// Keeps the connection for the next mail, or closes it.
    async fn end(&self, mut connection: Connection, ended: Result<(), Failed>) -> Result<(), DeliveryError> {
        match ended {
            Ok(()) => {
                self.lock().push((connection, Instant::now()));
                Ok(())
            }
            Err(Failed::AtOnce(error) | Failed::Later(error)) => {
                // What the server thinks of the half mail is unknown, so the connection ends here.
                let _ = timeout(GOODBYE, connection.smtp.abort()).await;
                Err(error)
            }
        }
    }

    /// The connection used last, if that was a moment ago.
    fn just_used(&self) -> Option<Connection> {
        let mut idle = self.lock();
        let last = idle.pop_if(|(_, since)| since.elapsed() < JUST_USED)?;
        Some(last.0)
    }

    /// A connection that answers: the one used last, or a new one.
    async fn connection(&self) -> Result<Connection, DeliveryError> {
        loop {
            let Some((mut connection, since)) = self.lock().pop() else { break };
            if since.elapsed() < LONGEST_IDLE
                && timeout(self.settings.timeout, connection.smtp.test_connected()).await == Ok(true)
            {
                return Ok(connection);
            }
        }
        let connected = timeout(self.settings.timeout, self.connect()).await;
        let connected = connected.map_err(|_| transient("connecting to the mail server took too long"))?;
        connected.map_err(|error| transient(&format!("connecting to the mail server: {error}")))
    }

    async fn connect(&self) -> Result<Connection, Box<dyn std::error::Error + Send + Sync>> {
        let SmtpSettings { host, port, security, timeout, .. } = &self.settings;
        let from_the_start = self.tls.clone().filter(|_| *security == SmtpSecurity::Tls);
        let server = (host.as_str(), *port);
        let mut connection = AsyncSmtpConnection::connect_tokio1(
            server,
            Some(*timeout),
            &self.hello_name,
            from_the_start,
            None,
        )
        .await?;
        if let Some(tls) = self.tls.clone().filter(|_| *security == SmtpSecurity::StartTls) {
            connection.starttls(tls, &self.hello_name).await?;
        }
        // Asked once more, since lettre reads of the first answer only what it makes use of itself.
        let pipelines = match connection.command(Ehlo::new(self.hello_name.clone())).await {
            Ok(hello) => hello.message().any(|line| line.trim().eq_ignore_ascii_case("PIPELINING")),
            // It was understood, and refused. After anything else the next reply could be the rest of this one.
            Err(error) if error.status().is_some_and(|code| u16::from(code) != 421) => false,
            Err(error) => return Err(error.into()),
        };
        if let Some((user, password)) = &self.settings.credentials {
            let credentials = Credentials::new(user.clone(), password.clone());
            // The reply could repeat what was sent, so only its code is told.
            connection.auth(DEFAULT_MECHANISMS, &credentials).await.map_err(|error| {
                match error.status() {
                    Some(code) => format!("the mail server refused the user or the password ({code})").into(),
                    None => Box::<dyn std::error::Error + Send + Sync>::from(error),
                }
            })?;
        }
        Ok(Connection { smtp: connection, pipelines })
    }

    async fn transfer(&self, connection: &mut Connection, message: &Message) -> Result<(), Failed> {
        let Connection { smtp: connection, pipelines } = connection;
        let bytes = message.formatted();
        let envelope = message.envelope();
        let has = |extension| connection.server_info().supports_feature(extension);
        let mut parameters = Vec::new();
        let addresses = envelope.to().iter().chain(envelope.from());
        if addresses.map(AsRef::<str>::as_ref).any(|address: &str| !address.is_ascii()) {
            if !has(Extension::SmtpUtfEight) {
                return Err(Failed::Later(permanent(
                    "the mail server cannot write the recipient's address (it lacks SMTPUTF8)",
                )));
            }
            parameters.push(MailParameter::SmtpUtfEight);
        }
        if !bytes.is_ascii() {
            if !has(Extension::EightBitMime) {
                return Err(Failed::Later(permanent(
                    "the mail server cannot carry this mail (it lacks 8BITMIME)",
                )));
            }
            parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
        }
        let mut commands = vec![MailFrom::new(envelope.from().cloned(), parameters).to_string()];
        commands.extend(envelope.to().iter().map(|to| Rcpt::new(to.clone(), Vec::new()).to_string()));
        commands.push(Data.to_string());
        if *pipelines {
            // Where one is refused the connection ends, and with it a mail that was begun without a recipient.
            let mut response = self.answer(connection.command(commands.concat())).await?;
            for _ in commands.iter().skip(1) {
                is_in_turn(&response, Severity::PositiveCompletion)?;
                response = self.answer(connection.read_response()).await.map_err(Failed::later)?;
            }
            is_in_turn(&response, Severity::PositiveIntermediate)?;
        } else {
            let last = commands.len() - 1;
            for (place, command) in commands.into_iter().enumerate() {
                let answered = self.answer(connection.command(command)).await;
                let response = if place == 0 { answered? } else { answered.map_err(Failed::later)? };
                let is_last = place == last;
                is_in_turn(
                    &response,
                    if is_last { Severity::PositiveIntermediate } else { Severity::PositiveCompletion },
                )?;
            }
        }
        let answered = match str::from_utf8(&bytes) {
            Ok(text) => self.answer(connection.command(content(text))).await,
            Err(_) => self.answer(connection.message(&bytes)).await,
        };
        is_in_turn(&answered.map_err(Failed::later)?, Severity::PositiveCompletion)
    }

    /// Waits for the reply to one command.
    async fn answer(
        &self,
        command: impl Future<Output = Result<Response, SmtpError>>,
    ) -> Result<Response, Failed> {
        match timeout(self.settings.timeout, command).await {
            Err(_) => Err(Failed::Later(transient("the mail server took too long to answer"))),
            Ok(Ok(response)) => Ok(response),
            // 530 asks for TLS or a sign-in: it tells about the settings, not about the mail.
            Ok(Err(error))
                if error.is_permanent() && error.status().is_none_or(|code| u16::from(code) != 530) =>
            {
                Err(Failed::Later(permanent(&error.to_string())))
            }
            // There was no reply, or only that the server closes the connection.
            Ok(Err(error)) if error.status().is_none_or(|code| u16::from(code) == 421) => {
                Err(Failed::AtOnce(transient(&error.to_string())))
            }
            Ok(Err(error)) => Err(Failed::Later(transient(&error.to_string()))),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Connection, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a reply is one to what was asked: 354 asks for the mail, 2xx ends a command. Another one is not this command's.
fn is_in_turn(response: &Response, expected: Severity) -> Result<(), Failed> {
    if response.code().severity == expected {
        return Ok(());
    }
    Err(Failed::Later(transient(&format!("the mail server answered out of turn ({})", response.code()))))
}

/// What follows `DATA`: a line that begins with a dot has another one put before it, and a dot alone ends the mail.
fn content(mail: &str) -> String {
    let mut content = mail.replace("\r\n.", "\r\n..");
    if mail.starts_with('.') {
        content.insert(0, '.');
    }
    content.push_str(if mail.ends_with("\r\n") { ".\r\n" } else { "\r\n.\r\n" });
    content
}

/// Why a mail was not taken.
enum Failed {
    /// The connection broke at the first command: the server knows nothing of the mail.
    AtOnce(DeliveryError),
    /// Anything else.
    Later(DeliveryError),
}

impl Failed {
    /// The same, at a later command.
    fn later(self) -> Self {
        let (Self::AtOnce(error) | Self::Later(error)) = self;
        Self::Later(error)
    }
}

impl fmt::Debug for SmtpMailer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmtpMailer").field("settings", &self.settings).finish_non_exhaustive()
    }
}

#[async_trait]
impl Mailer for SmtpMailer {
    async fn send(&self, mail: Mail) -> Result<(), DeliveryError> {
        let message = self.sender.compose(&mail)?;
        // Whatever is dropped when time runs out takes its connection with it.
        let delivered = timeout(self.settings.send_timeout, self.deliver(&message)).await;
        delivered.unwrap_or_else(|_| Err(transient("sending took too long")))
    }
}

fn transient(reason: &str) -> DeliveryError {
    DeliveryError::Transient(Reason::new(reason).into())
}

fn permanent(reason: &str) -> DeliveryError {
    DeliveryError::Permanent(Reason::new(reason).into())
}

/// Fit for one word of a command.
fn is_name(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control())
}

fn tls_parameters(settings: &SmtpSettings) -> Result<TlsParameters, InvalidSmtpSettings> {
    let mut builder = TlsParameters::builder(settings.host.clone());
    if let Some(path) = &settings.extra_ca {
        let refused = |reason: String| InvalidSmtpSettings::ExtraCa { path: path.clone(), reason };
        let pem = std::fs::read(path).map_err(|error| refused(error.to_string()))?;
        let certificate = Certificate::from_pem(&pem).map_err(|error| refused(error.to_string()))?;
        // lettre takes a file without any certificate for none to add.
        if !String::from_utf8_lossy(&pem).contains("-----BEGIN CERTIFICATE-----") {
            return Err(refused("it holds no certificate in PEM".to_owned()));
        }
        builder = builder.add_root_certificate(certificate);
    }
    builder.build().map_err(|error| InvalidSmtpSettings::Tls(error.to_string()))
}

#[cfg(test)]
pub(super) mod tests;
