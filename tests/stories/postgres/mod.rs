//! PostgreSQL: the contract kits, what is refused at start, several instances, and faults.
//!
//! One cluster serves every test of this program; each test has a database of its own.

mod connect;
mod contract;
mod faults;
mod instances;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use threepid_adapters::sea_orm::{ConnectSettings, Database, SeaOrmStore};
use threepid_domain::model::{
    Address, EmailAddress, Generation, KeyedHash, Lifetimes, Medium, MessageId, OutboxMessage, Payload,
    SendAttempt, Sid, Threepid, Timestamp, UserId, ValidationSession,
};
use threepid_tests::peers::{PeerError, Postgres};
use tokio::sync::OnceCell;

type TestResult = Result<(), Box<dyn Error + Send + Sync>>;

const NOW: Timestamp = Timestamp::from_ms(1_700_000_000_000);

/// How long a test waits for what should happen soon.
const SOON: Duration = Duration::from_secs(30);

/// The cluster that the tests share. It ends with this program, and its folder with the next run of `tests/run`.
async fn cluster() -> Result<&'static Postgres, PeerError> {
    static CLUSTER: OnceCell<Postgres> = OnceCell::const_new();
    CLUSTER.get_or_try_init(Postgres::start).await
}

/// The URL of a new, empty database.
async fn empty() -> Result<String, PeerError> {
    let cluster = cluster().await?;
    Ok(cluster.url(&cluster.create_database().await?))
}

/// The name of the database in a URL of the cluster.
fn database_name(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or_default()
}

fn settings(url: &str) -> ConnectSettings {
    ConnectSettings { connections: 4, ..ConnectSettings::new(url) }
}

async fn migrated(url: &str) -> Result<Database, Box<dyn Error + Send + Sync>> {
    let database = Database::connect(&settings(url)).await?;
    database.migrate().await?;
    Ok(database)
}

async fn open(url: &str) -> Result<Arc<SeaOrmStore>, Box<dyn Error + Send + Sync>> {
    Ok(Arc::new(SeaOrmStore::new(migrated(url).await?)))
}

fn user(name: &str) -> Result<UserId, Box<dyn Error + Send + Sync>> {
    Ok(UserId::parse(&format!("@{name}:example.org"))?)
}

fn email(text: &str) -> Result<Address, Box<dyn Error + Send + Sync>> {
    Ok(Address::parse(Medium::Email, text)?)
}

fn session(sid: &str, key: [u8; 32]) -> Result<ValidationSession, Box<dyn Error + Send + Sync>> {
    Ok(ValidationSession::open(
        Sid::new(sid),
        KeyedHash::new(key),
        email("alice@example.org")?,
        SendAttempt::new(1)?,
        None,
        NOW,
        &Lifetimes::default(),
    ))
}

fn threepid(owner: &str, address: &str) -> Result<Threepid, Box<dyn Error + Send + Sync>> {
    Ok(Threepid { user_id: user(owner)?, address: email(address)?, validated_at: NOW, added_at: NOW })
}

fn message(id: &str) -> Result<OutboxMessage, Box<dyn Error + Send + Sync>> {
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
