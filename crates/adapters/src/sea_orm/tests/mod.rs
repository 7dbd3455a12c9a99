//! Tests on SQLite files, each in a folder of its own.

mod accounts;
mod connect;
mod contract;
mod erasures;
#[cfg(feature = "limits")]
mod limits;
mod outbox;
mod reauthentication;
mod store;
mod write;

use std::time::Duration;

use tempfile::TempDir;
use threepid_domain::model::{
    Address, EmailAddress, Generation, KeyedHash, Lifetimes, Medium, MessageId, OutboxMessage, Payload,
    SendAttempt, Sid, Threepid, Timestamp, UserId, ValidationSession,
};

use super::{ConnectSettings, Database};

type TestResult = Result<(), Box<dyn std::error::Error + Send + Sync>>;

const NOW: Timestamp = Timestamp::from_ms(1_700_000_000_000);

/// How long a test waits for what should happen at once.
const SOON: Duration = Duration::from_secs(20);

fn url(folder: &TempDir) -> String {
    format!("sqlite://{}", folder.path().join("threepid.db").display())
}

async fn open(folder: &TempDir) -> Result<Database, super::ConnectError> {
    let database = Database::connect(&ConnectSettings::new(url(folder))).await?;
    database.migrate().await?;
    Ok(database)
}

fn user(name: &str) -> Result<UserId, Box<dyn std::error::Error + Send + Sync>> {
    Ok(UserId::parse(&format!("@{name}:example.org"))?)
}

fn email(text: &str) -> Result<Address, Box<dyn std::error::Error + Send + Sync>> {
    Ok(Address::parse(Medium::Email, text)?)
}

fn session(sid: &str, key: u8) -> Result<ValidationSession, Box<dyn std::error::Error + Send + Sync>> {
    Ok(ValidationSession::open(
        Sid::new(sid),
        KeyedHash::new([key; 32]),
        email("alice@example.org")?,
        SendAttempt::new(1)?,
        None,
        NOW,
        &Lifetimes::default(),
    ))
}

fn threepid(owner: &str, address: &str) -> Result<Threepid, Box<dyn std::error::Error + Send + Sync>> {
    Ok(Threepid { user_id: user(owner)?, address: email(address)?, validated_at: NOW, added_at: NOW })
}

fn message(id: &str) -> Result<OutboxMessage, Box<dyn std::error::Error + Send + Sync>> {
    Ok(OutboxMessage {
        id: MessageId::new(id),
        payload: Payload::ValidationMail {
            to: EmailAddress::parse("alice@example.org")?,
            sid: Sid::new("sid"),
            generation: Generation(1),
            with_code: false,
        },
        created_at: NOW,
        due_at: NOW,
        not_after: NOW.plus(Duration::from_secs(3600)),
    })
}
