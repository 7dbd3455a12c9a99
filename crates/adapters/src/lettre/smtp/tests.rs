#![expect(clippy::unwrap_used, reason = "a test that meets an error has failed")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use threepid_domain::model::{EmailAddress, MessageId};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// What a mail server does at one step.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// It gives this reply.
    Reply(&'static str),
    /// It says nothing any more.
    Hang,
    /// It closes the connection.
    Drop,
}

use Step::{Drop as Dropped, Hang, Reply};

/// A mail server that does as it is told.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) greeting: Step,
    pub(crate) extensions: &'static [&'static str],
    pub(crate) auth: Step,
    pub(crate) mail: Step,
    pub(crate) rcpt: Step,
    pub(crate) data: Step,
    pub(crate) end: Step,
    /// What it does at every other command.
    pub(crate) other: Step,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            greeting: Reply("220 mx.example ESMTP"),
            extensions: &["8BITMIME", "AUTH PLAIN"],
            auth: Reply("235 2.7.0 welcome"),
            mail: Reply("250 ok"),
            rcpt: Reply("250 ok"),
            data: Reply("354 go on"),
            end: Reply("250 2.0.0 queued"),
            other: Reply("250 ok"),
        }
    }
}

/// A server that waits for no command, and one that does not say so.
fn both() -> [Script; 2] {
    let pipelines = Script { extensions: &["8BITMIME", "AUTH PLAIN", "PIPELINING"], ..Script::default() };
    [Script::default(), pipelines]
}

#[derive(Default)]
pub(crate) struct Seen {
    connections: AtomicUsize,
    lines: Mutex<Vec<String>>,
    taken: Mutex<Vec<(Vec<String>, String)>>,
}

impl Seen {
    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// The mails that were taken: recipients and message.
    pub(crate) fn taken(&self) -> Vec<(Vec<String>, String)> {
        self.taken.lock().unwrap().clone()
    }

    /// The lines that begin with `command`.
    fn commands(&self, command: &str) -> Vec<String> {
        self.lines().into_iter().filter(|line| line.starts_with(command)).collect()
    }
}

pub(crate) struct Server {
    address: SocketAddr,
    script: Arc<Mutex<Script>>,
    pub(crate) seen: Arc<Seen>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (script, seen) = (Arc::new(Mutex::new(script)), Arc::new(Seen::default()));
        let (followed, noted) = (script.clone(), seen.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                noted.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(converse(stream, followed.clone(), noted.clone()));
            }
        });
        Self { address, script, seen, task }
    }

    pub(crate) fn settings(&self) -> SmtpSettings {
        SmtpSettings {
            security: SmtpSecurity::None,
            timeout: Duration::from_millis(300),
            send_timeout: Duration::from_secs(5),
            hello_name: Some("client.example".to_owned()),
            ..SmtpSettings::new("127.0.0.1", self.address.port(), "Example <noreply@example.org>")
        }
    }

    fn mailer(&self) -> SmtpMailer {
        SmtpMailer::new(self.settings()).unwrap()
    }

    fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn follow(&self, script: Script) {
        *self.script.lock().unwrap() = script;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Speaks SMTP on one connection until it ends. `None` is its end.
async fn converse(stream: TcpStream, script: Arc<Mutex<Script>>, seen: Arc<Seen>) -> Option<()> {
    let script = || script.lock().unwrap().clone();
    let mut stream = BufReader::new(stream);
    act(&mut stream, script().greeting).await?;
    let mut recipients = Vec::new();
    loop {
        let line = read_line(&mut stream).await?;
        seen.lines.lock().unwrap().push(line.clone());
        let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        match verb.as_str() {
            "EHLO" => {
                let extensions: String =
                    script().extensions.iter().map(|name| format!("250-{name}\r\n")).collect();
                let reply = format!("250-mx.example\r\n{extensions}250 SIZE 1000000\r\n");
                stream.get_mut().write_all(reply.as_bytes()).await.ok()?;
            }
            "AUTH" => act(&mut stream, script().auth).await?,
            "MAIL" => act(&mut stream, script().mail).await?,
            "RCPT" => {
                recipients.push(line.trim_start_matches("RCPT TO:<").trim_end_matches('>').to_owned());
                act(&mut stream, script().rcpt).await?;
            }
            "DATA" => {
                act(&mut stream, script().data).await?;
                let mut message = String::new();
                loop {
                    let line = read_line(&mut stream).await?;
                    seen.lines.lock().unwrap().push(line.clone());
                    if line == "." {
                        break;
                    }
                    message.push_str(line.strip_prefix('.').unwrap_or(&line));
                    message.push_str("\r\n");
                }
                let end = script().end;
                let mail = (std::mem::take(&mut recipients), message);
                if matches!(end, Reply(text) if text.starts_with('2')) {
                    seen.taken.lock().unwrap().push(mail);
                }
                act(&mut stream, end).await?;
            }
            _ => act(&mut stream, script().other).await?,
        }
    }
}

async fn read_line(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = String::new();
    let read = stream.read_line(&mut line).await.ok()?;
    (read > 0).then(|| line.trim_end_matches(['\r', '\n']).to_owned())
}

async fn act(stream: &mut BufReader<TcpStream>, step: Step) -> Option<()> {
    match step {
        Reply(text) => stream.get_mut().write_all(format!("{text}\r\n").as_bytes()).await.ok(),
        Dropped => None,
        Hang => {
            // Until the other side gives up.
            let _ = stream.read_to_end(&mut Vec::new()).await;
            None
        }
    }
}

fn mail_to(to: &str) -> Mail {
    Mail {
        id: MessageId::new("m1"),
        to: EmailAddress::parse(to).unwrap(),
        subject: "Confirm".to_owned(),
        text: "https://example.org/confirm\n.\n..\nend\n".to_owned(),
        html: "<p>https://example.org/confirm</p>".to_owned(),
    }
}

fn mail() -> Mail {
    mail_to("alice@example.org")
}

fn told(error: &DeliveryError) -> String {
    format!("{error}: {}", std::error::Error::source(error).unwrap())
}

#[tokio::test]
async fn a_mail_is_given_to_the_server_and_the_connection_is_used_again() {
    for usual in both() {
        let usual = || usual.clone();
        let server = Server::start(usual()).await;
        let mailer = server.mailer();
        mailer.send(mail()).await.unwrap();
        mailer.send(mail()).await.unwrap();
        assert_eq!(server.connections(), 1);
        assert_eq!(server.seen.commands("EHLO"), ["EHLO client.example"; 2]);
        assert_eq!(server.seen.commands("MAIL"), ["MAIL FROM:<noreply@example.org>"; 2]);
        assert_eq!(server.seen.commands("RCPT"), ["RCPT TO:<alice@example.org>"; 2]);
        assert_eq!(server.seen.commands("Message-ID"), ["Message-ID: <m1@example.org>"; 2]);
        assert_eq!(server.seen.commands("..."), ["..."; 2], "lone dots are doubled on the way");
    }
}

/// It answers once it has everything that may be sent without an answer.
#[tokio::test]
async fn a_server_that_pipelines_is_sent_what_needs_no_answer_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let hello = "250-mx.example\r\n250 PIPELINING\r\n";
        stream.write_all(b"220 mx.example ESMTP\r\n").await.unwrap();
        for (until, reply) in [
            ("\r\n", hello),
            ("\r\n", hello),
            ("DATA\r\n", "250 ok\r\n250 ok\r\n354 go on\r\n"),
            ("\r\n.\r\n", "250 queued\r\n"),
        ] {
            let mut said = Vec::new();
            while !said.ends_with(until.as_bytes()) {
                assert!(stream.read_buf(&mut said).await.unwrap() > 0);
            }
            stream.write_all(reply.as_bytes()).await.unwrap();
        }
    });
    let settings = SmtpSettings {
        security: SmtpSecurity::None,
        ..SmtpSettings::new("127.0.0.1", port, "noreply@example.org")
    };
    SmtpMailer::new(settings).unwrap().send(mail()).await.unwrap();
    server.await.unwrap();
}

#[test]
fn no_line_of_a_mail_ends_it() {
    for (mail, sent) in [
        ("", "\r\n.\r\n"),
        ("a", "a\r\n.\r\n"),
        ("a\r\n", "a\r\n.\r\n"),
        (".\r\n.\r\n..\r\na.b\r\n", "..\r\n..\r\n...\r\na.b\r\n.\r\n"),
        ("a\r\n\r\n.", "a\r\n\r\n..\r\n.\r\n"),
    ] {
        assert_eq!(content(mail), sent, "{mail:?}");
    }
}

#[tokio::test]
async fn the_server_gets_the_domain_in_ascii() {
    let server = Server::start(Script::default()).await;
    server.mailer().send(mail_to("alice@bücher.example")).await.unwrap();
    assert_eq!(server.seen.commands("RCPT"), ["RCPT TO:<alice@xn--bcher-kva.example>"]);
}

#[tokio::test]
async fn a_5xx_reply_to_the_mail_is_permanent_and_a_4xx_reply_is_not() {
    for usual in both() {
        let usual = || usual.clone();
        let server = Server::start(usual()).await;
        let mailer = server.mailer();
        for (script, permanent) in [
            (Script { mail: Reply("550 5.7.1 no"), ..usual() }, true),
            (Script { rcpt: Reply("550 5.1.1 no such user"), ..usual() }, true),
            (Script { rcpt: Reply("450-4.2.1 busy\r\n450 4.2.1 later"), ..usual() }, false),
            (Script { rcpt: Reply("451 4.7.1 greylisted"), ..usual() }, false),
            (Script { data: Reply("554 5.5.1 no"), ..usual() }, true),
            (Script { end: Reply("552 5.3.4 too big"), ..usual() }, true),
            (Script { end: Reply("452 4.3.1 disk full"), ..usual() }, false),
            (Script { mail: Reply("530 5.7.0 must issue STARTTLS first"), ..usual() }, false),
            (Script { mail: Reply("nonsense"), ..usual() }, false),
            (Script { mail: Reply("354 go on"), ..usual() }, false),
            (Script { data: Reply("250 ok"), ..usual() }, false),
            (Script { end: Reply("354 go on"), ..usual() }, false),
            (Script { greeting: Reply("554 5.7.1 not you"), ..usual() }, false),
            (Script { greeting: Reply("421 too many"), ..usual() }, false),
        ] {
            server.follow(script.clone());
            let error = mailer.send(mail()).await.unwrap_err();
            assert_eq!(
                matches!(error, DeliveryError::Permanent(_)),
                permanent,
                "{script:?}: {}",
                told(&error)
            );
        }
        server.follow(usual());
        mailer.send(mail()).await.unwrap();
        assert_eq!(server.seen.taken().len(), 1, "what was refused is not taken without its recipient");
    }
}

#[tokio::test]
async fn a_server_that_hangs_or_drops_is_given_up_and_tried_anew() {
    for usual in both() {
        let usual = || usual.clone();
        let server = Server::start(usual()).await;
        let mailer = server.mailer();
        for script in [
            Script { greeting: Hang, ..usual() },
            Script { greeting: Dropped, ..usual() },
            Script { mail: Hang, ..usual() },
            Script { mail: Dropped, ..usual() },
            Script { rcpt: Hang, ..usual() },
            Script { data: Dropped, ..usual() },
            Script { end: Hang, ..usual() },
            Script { end: Dropped, ..usual() },
        ] {
            server.follow(script.clone());
            let error = mailer.send(mail()).await.unwrap_err();
            assert!(matches!(error, DeliveryError::Transient(_)), "{script:?}: {}", told(&error));
            server.follow(usual());
            mailer.send(mail()).await.unwrap();
            // The next script begins with a new connection.
            mailer.lock().clear();
        }
    }
}

#[tokio::test]
async fn one_mail_ends_in_bounded_time_however_slow_the_server_is() {
    let server = Server::start(Script { rcpt: Hang, ..Script::default() }).await;
    let settings = SmtpSettings {
        timeout: Duration::from_secs(600),
        send_timeout: Duration::from_millis(200),
        connections: 1,
        ..server.settings()
    };
    let mailer = SmtpMailer::new(settings).unwrap();
    // The second waits for the only connection, and no longer than it may.
    let (first, second) = tokio::join!(mailer.send(mail()), mailer.send(mail()));
    for error in [first.unwrap_err(), second.unwrap_err()] {
        assert_eq!(told(&error), "not delivered now: sending took too long");
    }
    server.follow(Script::default());
    mailer.send(mail()).await.unwrap();
}

#[tokio::test]
async fn a_late_reply_is_never_taken_for_the_next_mail_s() {
    for usual in both() {
        let usual = || usual.clone();
        let server = Server::start(Script { end: Hang, ..usual() }).await;
        let mailer = server.mailer();
        mailer.send(mail()).await.unwrap_err();
        server.follow(Script { rcpt: Reply("550 no"), ..usual() });
        assert!(matches!(mailer.send(mail()).await, Err(DeliveryError::Permanent(_))));
        assert_eq!(server.connections(), 2);
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_transient() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let settings = SmtpSettings {
        security: SmtpSecurity::None,
        ..SmtpSettings::new("127.0.0.1", port, "noreply@example.org")
    };
    let error = SmtpMailer::new(settings).unwrap().send(mail()).await.unwrap_err();
    assert!(matches!(error, DeliveryError::Transient(_)), "{}", told(&error));
}

#[tokio::test]
async fn a_connection_that_the_server_closed_is_replaced_without_notice() {
    for usual in both() {
        let usual = || usual.clone();
        let server = Server::start(usual()).await;
        let mailer = server.mailer();
        mailer.send(mail()).await.unwrap();
        let (mut connection, _) = mailer.lock().pop().unwrap();
        connection.smtp.abort().await;
        mailer.lock().push((connection, Instant::now()));
        mailer.send(mail()).await.unwrap();
        assert_eq!(server.connections(), 2);
    }
}

#[tokio::test]
async fn a_connection_that_the_server_ends_with_421_is_replaced_once() {
    for usual in both() {
        let usual = || usual.clone();
        let server = Server::start(usual()).await;
        let mailer = server.mailer();
        mailer.send(mail()).await.unwrap();
        server.follow(Script { mail: Reply("421 4.3.2 closing"), ..usual() });
        assert!(matches!(mailer.send(mail()).await, Err(DeliveryError::Transient(_))));
        assert_eq!(server.connections(), 2, "a new one is tried, and no third");
    }
}

#[tokio::test]
async fn an_address_beyond_ascii_needs_a_server_that_can_write_it() {
    let server = Server::start(Script::default()).await;
    let error = server.mailer().send(mail_to("jürgen@example.org")).await.unwrap_err();
    assert!(matches!(error, DeliveryError::Permanent(_)));
    assert!(told(&error).contains("SMTPUTF8"), "{}", told(&error));
    assert_eq!(server.seen.commands("MAIL"), [] as [&str; 0]);

    server.follow(Script { extensions: &["8BITMIME", "SMTPUTF8"], ..Script::default() });
    server.mailer().send(mail_to("jürgen@example.org")).await.unwrap();
    assert_eq!(server.seen.commands("RCPT"), ["RCPT TO:<jürgen@example.org>"]);
    assert!(server.seen.commands("MAIL")[0].contains("SMTPUTF8"));
}

#[tokio::test]
async fn starttls_that_the_server_does_not_offer_is_not_done_without() {
    let server = Server::start(Script::default()).await;
    let credentials = Some(("user".to_owned(), "password".to_owned()));
    let settings = SmtpSettings { security: SmtpSecurity::StartTls, credentials, ..server.settings() };
    let error = SmtpMailer::new(settings).unwrap().send(mail()).await.unwrap_err();
    assert!(matches!(error, DeliveryError::Transient(_)));
    assert!(told(&error).contains("STARTTLS"), "{}", told(&error));
    assert!(server.seen.lines().iter().all(|line| !line.starts_with("AUTH") && !line.starts_with("MAIL")));
}

#[tokio::test]
async fn a_refused_sign_in_is_the_operator_s_to_mend_and_tells_no_secret() {
    let server =
        Server::start(Script { auth: Reply("535 5.7.8 dXNlcgBodXNo hush no"), ..Script::default() }).await;
    let credentials = Some(("user".to_owned(), "hush".to_owned()));
    let settings = SmtpSettings { credentials, ..server.settings() };
    assert!(!format!("{settings:?}").contains("hush"));
    let mailer = SmtpMailer::new(settings).unwrap();
    assert!(!format!("{mailer:?}").contains("hush"));
    let error = mailer.send(mail()).await.unwrap_err();
    assert!(matches!(error, DeliveryError::Transient(_)));
    let told = told(&error);
    assert!(told.contains("refused the user or the password (535)") && !told.contains("hush"), "{told}");

    server.follow(Script::default());
    mailer.send(mail()).await.unwrap();
    assert_eq!(server.seen.commands("AUTH").last().unwrap(), "AUTH PLAIN AHVzZXIAaHVzaA==");
}

#[tokio::test]
async fn a_reply_that_repeats_the_address_is_told_without_it() {
    let rcpt = Reply("550 5.1.1 <alice@example.org>: Recipient address rejected");
    let server = Server::start(Script { rcpt, ..Script::default() }).await;
    let told = told(&server.mailer().send(mail()).await.unwrap_err());
    assert!(!told.contains("alice"), "{told}");
    assert!(told.contains("550") && told.contains("Recipient address rejected"), "{told}");
}

#[tokio::test]
async fn no_header_can_be_added_by_a_subject() {
    let server = Server::start(Script::default()).await;
    let subject = "Hello\r\nBcc: eve@example.org".to_owned();
    let refused = server.mailer().send(Mail { subject, ..mail() }).await;
    assert!(matches!(refused, Err(DeliveryError::Permanent(_))));
    assert_eq!(server.connections(), 0);
}

#[test]
fn settings_that_reach_no_server_are_refused_by_name() {
    let usual = || SmtpSettings::new("mx.example", 587, "noreply@example.org");
    let folder = tempfile::tempdir().unwrap();
    let no_pem = folder.path().join("ca.pem");
    std::fs::write(&no_pem, "no certificate").unwrap();
    for (settings, named) in [
        (SmtpSettings { host: " ".to_owned(), ..usual() }, "host"),
        (SmtpSettings { hello_name: Some("a\r\nb".to_owned()), ..usual() }, "hello_name"),
        (SmtpSettings { from: "nobody".to_owned(), ..usual() }, "from"),
        (SmtpSettings { reply_to: Some("nobody".to_owned()), ..usual() }, "reply_to"),
        (SmtpSettings { connections: 0, ..usual() }, "connections"),
        (SmtpSettings { timeout: Duration::ZERO, ..usual() }, "timeout"),
        (SmtpSettings { extra_ca: Some(no_pem), ..usual() }, "extra_ca"),
        (SmtpSettings { extra_ca: Some(folder.path().join("no.pem")), ..usual() }, "extra_ca"),
    ] {
        let said = SmtpMailer::new(settings).unwrap_err().to_string();
        assert!(said.contains(named), "{named}: {said}");
    }
    assert!(SmtpMailer::new(usual()).is_ok());
}
