//! A real SMTP server (aiosmtpd) that keeps what it receives and misbehaves on demand.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use regex::Regex;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::ca::TestCa;
use super::process::{PeerError, Process, Spec, repository, temp_folder, wait_until};
use crate::kept;

/// How long `wait_for_mail` waits.
const MAIL_WITHIN: Duration = Duration::from_secs(30);

/// How the server wants to be spoken to. TLS carries a certificate for `localhost` and `127.0.0.1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SmtpSecurity {
    /// Plain text.
    None,
    /// STARTTLS, required before anything else.
    StartTls,
    /// TLS from the first byte.
    Tls,
}

/// What the server does to whoever sends; changes hold from the next command on, on open connections too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SmtpMode {
    /// Takes everything.
    Accept,
    /// Ends all connections and refuses new ones; the port stays the server's own.
    Refuse,
    /// 451 to every recipient.
    DeferRecipient,
    /// 451 to every message.
    DeferMessage,
    /// 550 to every recipient.
    RejectRecipient,
    /// Says nothing any more: new connections are not greeted, open ones get no answer.
    Hang,
    /// Loses the message and the connection after the message's end, without an answer.
    Drop,
    /// Keeps the message, and drops the connection without an answer: the sender cannot know.
    KeepAndDrop,
}

impl SmtpMode {
    fn word(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Refuse => "refuse",
            Self::DeferRecipient => "defer-rcpt",
            Self::DeferMessage => "defer-data",
            Self::RejectRecipient => "reject-rcpt",
            Self::Hang => "hang",
            Self::Drop => "drop",
            Self::KeepAndDrop => "keep-and-drop",
        }
    }
}

/// A mail as it arrived.
#[derive(Debug, Clone)]
pub struct CapturedMail {
    /// The envelope's sender, empty for `<>`.
    pub from: String,
    /// The envelope's recipients.
    pub to: Vec<String>,
    /// The message, byte for byte.
    pub raw: Vec<u8>,
    /// The headers in their order, encoded words and folding undone.
    pub headers: Vec<(String, String)>,
    /// The first `text/plain` part, transfer encoding undone.
    pub text: Option<String>,
    /// The first `text/html` part, transfer encoding undone.
    pub html: Option<String>,
    /// Whether it came over TLS.
    pub tls: bool,
    /// Whether the sender had logged in.
    pub authenticated: bool,
    /// Whether the sender asked for SMTPUTF8.
    pub smtputf8: bool,
}

impl CapturedMail {
    /// The first header of that name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The link to the confirm page, out of the text part.
    ///
    /// # Errors
    ///
    /// There is none; the error quotes the text.
    pub fn confirm_link(&self) -> Result<String, PeerError> {
        let text = self.text.as_deref().unwrap_or_default();
        let pattern = Regex::new(r"https?://\S+/_threepid/confirm\?[^\s<>]+")
            .map_err(|error| PeerError::new(error.to_string()))?;
        let found = pattern.find(text).map(|found| found.as_str().to_owned());
        let link = found.ok_or_else(|| PeerError::new(format!("no link to the confirm page in: {text}")))?;
        if let Some((_, token)) = link.split_once("token=") {
            kept::secret("token", token.split('&').next().unwrap_or(token));
        }
        Ok(link)
    }

    fn read(path: &Path) -> Result<Self, PeerError> {
        let value: Value = serde_json::from_slice(&std::fs::read(path)?)?;
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        let raw = STANDARD
            .decode(value["raw"].as_str().unwrap_or_default())
            .map_err(|error| PeerError::new(error.to_string()))?;
        let headers = value["headers"].as_array().into_iter().flatten();
        strings(&value["to"]).iter().for_each(|address| kept::secret("address", address));
        Ok(Self {
            from: text("from").unwrap_or_default(),
            to: strings(&value["to"]),
            raw,
            headers: headers
                .map(strings)
                .filter_map(|pair| <[String; 2]>::try_from(pair).ok())
                .map(|[name, content]| (name, content))
                .collect(),
            text: text("text"),
            html: text("html"),
            tls: value["tls"] == true,
            authenticated: value["authenticated"] == true,
            smtputf8: value["smtputf8"] == true,
        })
    }
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Settings of a server that is about to start.
#[derive(Debug)]
pub struct SmtpServerBuilder {
    security: SmtpSecurity,
    login: Option<(String, String)>,
    smtputf8: bool,
}

impl SmtpServerBuilder {
    /// How the server wants to be spoken to; plain text unless set.
    pub fn security(mut self, security: SmtpSecurity) -> Self {
        self.security = security;
        self
    }

    /// Requires AUTH PLAIN or LOGIN with this user and password.
    pub fn login(mut self, user: &str, password: &str) -> Self {
        self.login = Some((user.to_owned(), password.to_owned()));
        self
    }

    /// Does not offer SMTPUTF8, so that addresses outside ASCII cannot be sent to.
    pub fn without_smtputf8(mut self) -> Self {
        self.smtputf8 = false;
        self
    }

    /// Starts the server.
    ///
    /// # Errors
    ///
    /// It is not installed, or does not start.
    pub async fn start(self) -> Result<SmtpServer, PeerError> {
        let folder = temp_folder("smtp")?;
        let ca = TestCa::new()?;
        let certificate = ca.issue(&["localhost", "127.0.0.1"])?;
        let settings = json!({
            "directory": folder.path(),
            "security": match self.security {
                SmtpSecurity::None => "none",
                SmtpSecurity::StartTls => "starttls",
                SmtpSecurity::Tls => "tls",
            },
            "certificate": certificate.certificate,
            "key": certificate.key,
            "user": self.login.as_ref().map(|login| &login.0),
            "password": self.login.as_ref().map(|login| &login.1),
            "smtputf8": self.smtputf8,
        });
        let spec = Spec::python("smtp")?
            .arg("-u")
            .arg(repository().join("tests/peers/smtp_server.py"))
            .arg(settings.to_string());
        let mut process = Process::start(spec, folder.path())?;
        let ready = folder.path().join("ready.json");
        let ports: Value = process
            .ready(|| async {
                match std::fs::read(&ready) {
                    Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
                    Err(_) => Ok(None),
                }
            })
            .await?;
        let port = |name: &str| {
            ports[name]
                .as_u64()
                .and_then(|port| u16::try_from(port).ok())
                .ok_or_else(|| process.failure("named no port"))
        };
        let (port, control) = (port("port")?, port("control")?);
        Ok(SmtpServer { port, control, process, ca, folder })
    }
}

/// A running SMTP server.
#[derive(Debug)]
pub struct SmtpServer {
    port: u16,
    control: u16,
    process: Process,
    ca: TestCa,
    folder: TempDir,
}

impl SmtpServer {
    /// A server that speaks plain text and asks for no login.
    ///
    /// # Errors
    ///
    /// It is not installed, or does not start.
    pub async fn start() -> Result<Self, PeerError> {
        Self::builder().start().await
    }

    /// A server with settings.
    pub fn builder() -> SmtpServerBuilder {
        SmtpServerBuilder { security: SmtpSecurity::None, login: None, smtputf8: true }
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The authority that issued the server's certificate.
    pub fn ca(&self) -> &TestCa {
        &self.ca
    }

    /// The server's own log.
    pub fn log(&self) -> &Path {
        self.process.log()
    }

    /// Changes what the server does; it holds when this returns.
    ///
    /// # Errors
    ///
    /// The server has ended.
    pub async fn set_mode(&self, mode: SmtpMode) -> Result<(), PeerError> {
        let answer = self.tell(mode.word()).await?;
        if answer == "ok" { Ok(()) } else { Err(self.process.failure(&format!("answered {answer:?}"))) }
    }

    /// How many connections were taken so far.
    ///
    /// # Errors
    ///
    /// The server has ended.
    pub async fn connections(&self) -> Result<u64, PeerError> {
        Ok(self.counts().await?.0)
    }

    /// How often a sender has met the server's misbehaviour so far (refused connections cannot be counted).
    ///
    /// # Errors
    ///
    /// The server has ended.
    pub async fn faults(&self) -> Result<u64, PeerError> {
        Ok(self.counts().await?.1)
    }

    /// Waits until senders have met the server's misbehaviour `count` times in all.
    ///
    /// # Errors
    ///
    /// They have not after 30 s.
    pub async fn wait_for_faults(&self, count: u64) -> Result<(), PeerError> {
        wait_until(&format!("{count} failed deliveries"), MAIL_WITHIN, || async {
            Ok((self.faults().await? >= count).then_some(()))
        })
        .await
    }

    /// Every mail that arrived, oldest first.
    ///
    /// # Errors
    ///
    /// A mail cannot be read.
    pub fn mails(&self) -> Result<Vec<CapturedMail>, PeerError> {
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(self.folder.path().join("mails"))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                paths.push(path);
            }
        }
        paths.sort();
        paths.iter().map(|path| CapturedMail::read(path)).collect()
    }

    /// The mail that arrived as the `number`th, from 1; `None` as long as there is none.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn mail(&self, number: u64) -> Result<Option<CapturedMail>, PeerError> {
        let path = self.folder.path().join("mails").join(format!("{number:06}.json"));
        if path.exists() { CapturedMail::read(&path).map(Some) } else { Ok(None) }
    }

    /// Waits for the first mail that `wanted` says yes to, among those that are there and those to come.
    ///
    /// # Errors
    ///
    /// None came within 30 s; the error says how many others did.
    pub async fn wait_for_mail(
        &self,
        wanted: impl Fn(&CapturedMail) -> bool,
    ) -> Result<CapturedMail, PeerError> {
        let found =
            wait_until("a mail", MAIL_WITHIN, || async { Ok(self.mails()?.into_iter().find(&wanted)) });
        match found.await {
            Ok(mail) => Ok(mail),
            Err(error) => Err(self.process.failure(&format!("({error}) has {} mails", self.mails()?.len()))),
        }
    }

    /// Waits for a mail to that recipient.
    ///
    /// # Errors
    ///
    /// None came within 30 s.
    pub async fn wait_for_mail_to(&self, recipient: &str) -> Result<CapturedMail, PeerError> {
        self.wait_for_mail(|mail| mail.to.iter().any(|to| to == recipient)).await
    }

    async fn counts(&self) -> Result<(u64, u64), PeerError> {
        let answer = self.tell("counts").await?;
        let mut numbers = answer.split(' ').filter_map(|number| number.parse().ok());
        match (numbers.next(), numbers.next()) {
            (Some(connections), Some(faults)) => Ok((connections, faults)),
            _ => Err(self.process.failure(&format!("answered {answer:?}"))),
        }
    }

    async fn tell(&self, command: &str) -> Result<String, PeerError> {
        let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", self.control)).await?);
        stream.write_all(format!("{command}\n").as_bytes()).await?;
        stream.flush().await?;
        let mut answer = String::new();
        stream.read_line(&mut answer).await?;
        Ok(answer.trim().to_owned())
    }
}
