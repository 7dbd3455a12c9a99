//! Mail as JSON files in a folder, from where another program takes them.

use std::io::Write;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use threepid_domain::ports::{DeliveryError, Mail, Mailer};

/// A mail as it lies in the folder.
#[derive(Debug, Serialize, Deserialize)]
pub struct SpooledMail {
    /// `local@domain`, the domain in ASCII.
    pub to: String,
    /// Without angle brackets; the same at every try.
    pub message_id: String,
    /// `auto-generated`.
    pub auto_submitted: String,
    /// One line.
    pub subject: String,
    /// Plain text.
    pub text: String,
    /// HTML.
    pub html: String,
}

/// Writes each mail to a file of its own. A mail that is tried again has the same Message-ID in another file.
pub struct SpoolMailer {
    folder: PathBuf,
}

impl SpoolMailer {
    /// A mailer that writes into `folder`, which has to exist.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }
}

#[async_trait]
impl Mailer for SpoolMailer {
    async fn send(&self, mail: Mail) -> Result<(), DeliveryError> {
        let folder = self.folder.clone();
        let spooled = SpooledMail {
            to: format!("{}@{}", mail.to.local(), mail.to.ascii_domain()),
            message_id: format!("{}@spool.example", mail.id),
            auto_submitted: "auto-generated".to_owned(),
            subject: mail.subject,
            text: mail.text,
            html: mail.html,
        };
        let written = tokio::task::spawn_blocking(move || spool(&folder, &spooled)).await;
        // A full disk may have room again: whatever fails here is worth another try.
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(DeliveryError::Transient(error.into())),
            Err(error) => Err(DeliveryError::Transient(error.into())),
        }
    }
}

/// Writes a new file under a name that nobody has. Whoever looks for `*.json` never finds half a mail.
fn spool(folder: &Path, mail: &SpooledMail) -> std::io::Result<()> {
    let name = tempfile::Builder::new().prefix("mail-").suffix(".json").make_in(folder, |path| {
        if path.exists() { Err(std::io::ErrorKind::AlreadyExists.into()) } else { Ok(path.to_owned()) }
    })?;
    write_durably(name.as_file(), mail)?;
    // The mail stays; only the guard that would remove it goes.
    name.keep().map(drop).map_err(|error| error.error)
}

/// Replaces `file` in one step: whoever reads it sees the old content or the new, also after a crash.
pub(crate) fn write_durably(file: &Path, content: &impl Serialize) -> std::io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    let mut new = tempfile::NamedTempFile::new_in(folder)?;
    new.write_all(&serde_json::to_vec(content)?)?;
    new.as_file().sync_all()?;
    new.persist(file)?;
    std::fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use threepid_domain::testing::contract::{Arrived, Inbox, MailBackend};

    use super::*;

    struct Folder(PathBuf);

    #[async_trait]
    impl Inbox for Folder {
        async fn arrived(&self) -> Vec<Arrived> {
            let files = std::fs::read_dir(&self.0).into_iter().flatten().flatten();
            let mut files: Vec<_> =
                files.filter_map(|f| Some((f.metadata().ok()?.modified().ok()?, f.path()))).collect();
            files.sort();
            files.into_iter().filter_map(|(_, path)| read(&path)).collect()
        }
    }

    fn read(path: &Path) -> Option<Arrived> {
        let mail: SpooledMail = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        Some(Arrived {
            recipients: vec![mail.to],
            message_id: mail.message_id,
            auto_submitted: Some(mail.auto_submitted),
            subject: mail.subject,
            text: mail.text,
            html: mail.html,
        })
    }

    async fn fresh() -> MailBackend {
        let folder = tempfile::tempdir();
        let path = folder.as_ref().map(|folder| folder.path().to_owned()).unwrap_or_default();
        MailBackend {
            mailer: Arc::new(SpoolMailer::new(&path)),
            inbox: Arc::new(Folder(path)),
            hop: None,
            keep: Box::new(folder),
        }
    }

    threepid_domain::mailer_contract!(fresh());
}
