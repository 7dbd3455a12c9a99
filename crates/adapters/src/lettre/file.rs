//! Mail into a folder, one `.eml` file each: for a machine without a mail server, and for another program to pick up.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use threepid_domain::ports::{Clock, DeliveryError, Mail, Mailer};
use tokio::fs;
use tokio::io::AsyncWriteExt as _;

use super::Sender;
use super::reason::Reason;

/// [`Mailer`] into a folder. The files' names sort by time: `{ms since 1970}-{count}-{message id}.eml`. They are
/// readable by the server's user alone, and whole as soon as they have their name.
pub struct FileMailer {
    sender: Sender,
    folder: PathBuf,
    clock: Arc<dyn Clock>,
    count: AtomicU64,
}

impl FileMailer {
    /// Writes into `folder`, which is made when it is not there.
    ///
    /// # Errors
    /// The [`io::Error`] when it can be neither found nor made.
    pub fn new(sender: Sender, folder: &Path, clock: Arc<dyn Clock>) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        Ok(Self { sender, folder: folder.to_owned(), clock, count: AtomicU64::new(0) })
    }

    async fn write(&self, name: &str, message: &[u8]) -> io::Result<()> {
        let draft = self.folder.join(format!(".{name}.draft"));
        let written = write_private(&draft, message).await;
        let placed = match written {
            Ok(()) => fs::rename(&draft, self.folder.join(name)).await,
            Err(error) => Err(error),
        };
        if placed.is_err() {
            // The draft may never have come to be; the error that counts is the first one.
            let _ = fs::remove_file(&draft).await;
        }
        placed
    }
}

impl std::fmt::Debug for FileMailer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileMailer").field("folder", &self.folder).finish_non_exhaustive()
    }
}

async fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    options.mode(0o600);
    let mut file = options.open(path).await?;
    file.write_all(bytes).await?;
    file.sync_all().await
}

#[async_trait]
impl Mailer for FileMailer {
    async fn send(&self, mail: Mail) -> Result<(), DeliveryError> {
        let message = self.sender.compose(&mail)?.formatted();
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let name = format!("{:013}-{count:06}-{}.eml", self.clock.now().as_ms(), mail.id);
        let written = self.write(&name, &message).await;
        // A full disk may have room again.
        written.map_err(|error| DeliveryError::Transient(Reason::new(&error.to_string()).into()))
    }
}
