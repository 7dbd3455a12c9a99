//! SMS as lines of one file, from where a modem's program takes them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use threepid_domain::ports::{DeliveryError, Sms, SmsSender};
use tokio::sync::Mutex;

/// An SMS as it stands in the file: one JSON object a line. Lines that are none mean nothing.
#[derive(Debug, Serialize, Deserialize)]
pub struct Line {
    /// The same at every try: a reader that has it already leaves it out.
    pub id: String,
    /// E.164 digits.
    pub to: String,
    /// The text.
    pub text: String,
}

/// Appends each SMS to a file.
pub struct LineSmsSender {
    file: PathBuf,
    one_at_a_time: Arc<Mutex<()>>,
}

impl LineSmsSender {
    /// A sender that appends to `file`, which is made if it is not there.
    pub fn new(file: &Path) -> Self {
        Self { file: file.to_owned(), one_at_a_time: Arc::default() }
    }
}

#[async_trait]
impl SmsSender for LineSmsSender {
    async fn send(&self, sms: Sms) -> Result<(), DeliveryError> {
        let file = self.file.clone();
        let line = Line { id: sms.id.to_string(), to: sms.to.as_str().to_owned(), text: sms.text };
        // The guard goes along: a send that is abandoned still ends its line before another begins.
        let turn = self.one_at_a_time.clone().lock_owned().await;
        let written = tokio::task::spawn_blocking(move || {
            let written = append(&file, &line);
            drop(turn);
            written
        });
        // A full disk may have room again: whatever fails here is worth another try.
        match written.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(DeliveryError::Transient(error.into())),
            Err(error) => Err(DeliveryError::Transient(error.into())),
        }
    }
}

fn append(file: &Path, line: &Line) -> std::io::Result<()> {
    // A line that a full disk cut off before ends here, and spoils no other.
    let bytes = format!("\n{}\n", serde_json::to_string(line)?);
    let mut file = std::fs::File::options().create(true).append(true).open(file)?;
    file.write_all(bytes.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use threepid_domain::testing::contract::{ArrivedSms, Phones, SmsBackend};

    use super::*;

    struct Lines(PathBuf);

    #[async_trait]
    impl Phones for Lines {
        async fn arrived(&self) -> Vec<ArrivedSms> {
            let file = std::fs::read_to_string(&self.0).unwrap_or_default();
            let lines = file.lines().filter_map(|line| serde_json::from_str(line).ok());
            lines
                .map(|Line { id, to, text }| ArrivedSms { recipients: vec![to], text, reference: Some(id) })
                .collect()
        }
    }

    async fn fresh() -> SmsBackend {
        let folder = tempfile::tempdir();
        let file = folder.as_ref().map(|folder| folder.path().join("sms")).unwrap_or_default();
        SmsBackend {
            sender: Arc::new(LineSmsSender::new(&file)),
            phones: Arc::new(Lines(file)),
            knows_references: true,
            gateway: None,
            keep: Box::new(folder),
        }
    }

    threepid_domain::sms_sender_contract!(fresh());
}
