//! The mailer's contract, on all three.

#![expect(clippy::unwrap_used, reason = "a test that meets an error has failed")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mailparse::{MailHeaderMap as _, ParsedMail};
use threepid_domain::model::Timestamp;
use threepid_domain::testing::FixedClock;
use threepid_domain::testing::contract::{Arrived, Hop, HopMood, Inbox, MailBackend};

use super::smtp::tests::{Script, Server, Step};
use super::{FileMailer, MemoryMailer, Sender, SmtpMailer, SmtpSettings};

const FROM: &str = "Example <noreply@example.org>";

fn sender() -> Sender {
    Sender::parse(FROM, None).unwrap()
}

/// Reads a message as a mail program would. `recipients`: those of the envelope; the header's where there is none.
fn read(recipients: Option<Vec<String>>, message: &[u8]) -> Arrived {
    let parsed = mailparse::parse_mail(message).unwrap();
    let header = |name| parsed.headers.get_first_value(name);
    assert_eq!(parsed.ctype.mimetype, "multipart/alternative");
    assert_eq!(header("From").as_deref(), Some(FROM));
    assert!(header("Date").is_some());
    let part = |mimetype: &str| {
        let is_it = |part: &&ParsedMail<'_>| part.ctype.mimetype == mimetype;
        parsed.subparts.iter().find(is_it).unwrap().get_body().unwrap().replace("\r\n", "\n")
    };
    Arrived {
        recipients: recipients.unwrap_or_else(|| vec![header("To").unwrap()]),
        message_id: header("Message-ID").unwrap().trim_matches(['<', '>']).to_owned(),
        auto_submitted: header("Auto-Submitted"),
        subject: header("Subject").unwrap(),
        text: part("text/plain"),
        html: part("text/html"),
    }
}

mod memory {
    use super::*;

    struct Caught(Arc<MemoryMailer>);

    #[async_trait]
    impl Inbox for Caught {
        async fn arrived(&self) -> Vec<Arrived> {
            let caught = self.0.caught().into_iter();
            caught.map(|mail| read(Some(vec![mail.recipient]), mail.raw.as_bytes())).collect()
        }
    }

    async fn fresh() -> MailBackend {
        let mailer = Arc::new(MemoryMailer::new(sender(), 100));
        let inbox = Arc::new(Caught(mailer.clone()));
        MailBackend { mailer, inbox, hop: None, keep: Box::new(()) }
    }

    threepid_domain::mailer_contract!(fresh());
}

mod file {
    use super::*;

    struct Folder(PathBuf);

    #[async_trait]
    impl Inbox for Folder {
        async fn arrived(&self) -> Vec<Arrived> {
            let entries = std::fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path());
            let mut files: Vec<PathBuf> = entries.collect();
            assert!(files.iter().all(|file| file.extension().is_some_and(|extension| extension == "eml")));
            files.sort();
            files.iter().map(|file| read(None, &std::fs::read(file).unwrap())).collect()
        }
    }

    async fn fresh() -> MailBackend {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made/on/the/way");
        let mailer =
            FileMailer::new(sender(), &path, Arc::new(FixedClock::at(Timestamp::from_ms(1_700_000_000_000))))
                .unwrap();
        MailBackend {
            mailer: Arc::new(mailer),
            inbox: Arc::new(Folder(path)),
            hop: None,
            keep: Box::new(folder),
        }
    }

    threepid_domain::mailer_contract!(fresh());

    #[cfg(unix)]
    #[tokio::test]
    async fn a_mail_in_a_file_is_for_the_server_s_user_alone() {
        use std::os::unix::fs::PermissionsExt as _;

        let backend = fresh().await;
        threepid_domain::testing::contract::mailer::a_mail_arrives_with_what_it_says(&backend).await;
        let folder = backend.keep.downcast_ref::<tempfile::TempDir>().unwrap().path().join("made/on/the/way");
        for entry in std::fs::read_dir(folder).unwrap() {
            assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
    }
}

mod smtp {
    use super::*;

    #[async_trait]
    impl Inbox for Server {
        async fn arrived(&self) -> Vec<Arrived> {
            self.seen.taken().into_iter().map(|(to, message)| read(Some(to), message.as_bytes())).collect()
        }
    }

    #[async_trait]
    impl Hop for Server {
        async fn behave(&self, mood: HopMood) {
            let usual = Script::default();
            self.follow(match mood {
                HopMood::Takes => usual,
                HopMood::Defers => Script { rcpt: Step::Reply("451 4.7.1 later"), ..usual },
                HopMood::Refuses => Script { rcpt: Step::Reply("550 5.1.1 no"), ..usual },
                HopMood::Silent => {
                    Script { greeting: Step::Hang, mail: Step::Hang, other: Step::Hang, ..usual }
                }
                HopMood::Gone => {
                    Script { greeting: Step::Drop, mail: Step::Drop, other: Step::Drop, ..usual }
                }
            });
        }
    }

    async fn fresh() -> MailBackend {
        let server = Arc::new(Server::start(Script::default()).await);
        let settings = SmtpSettings { timeout: Duration::from_secs(2), ..server.settings() };
        let mailer = Arc::new(SmtpMailer::new(settings).unwrap());
        MailBackend { mailer, inbox: server.clone(), hop: Some(server.clone()), keep: Box::new(server) }
    }

    threepid_domain::mailer_contract!(fresh());
    threepid_domain::mail_hop_contract!(fresh());
}
