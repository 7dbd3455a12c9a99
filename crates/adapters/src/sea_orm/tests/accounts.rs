use std::sync::Arc;

use sea_orm::ConnectionTrait;
use threepid_domain::model::{AccessToken, Caller, DeviceId, KeyedHash, Timestamp};
use threepid_domain::ports::{AccessTokens, Clock, Credentials, Freshness, WhoseTokenError};

use super::{NOW, TestResult, open, user};
use crate::sea_orm::{Database, IssueTokenError, LocalAccounts};

struct AtNow;

impl Clock for AtNow {
    fn now(&self) -> Timestamp {
        NOW
    }
}

/// Not a hash that anyone should use, and one that tells tokens apart by their first 32 bytes.
fn hash(token: &AccessToken) -> KeyedHash {
    let mut bytes = [7; 32];
    for (byte, given) in bytes.iter_mut().zip(token.expose().bytes()) {
        *byte ^= given;
    }
    KeyedHash::new(bytes)
}

pub(super) fn accounts(database: &Database) -> LocalAccounts {
    LocalAccounts::new(database.clone(), Arc::new(AtNow), hash)
}

pub(super) async fn whose(accounts: &LocalAccounts, token: &str) -> Result<Caller, WhoseTokenError> {
    let credentials = Credentials { access_token: AccessToken::new(token), user_id: None, client_ip: None };
    accounts.whose(credentials, Freshness::ForChange).await
}

#[tokio::test]
async fn a_token_tells_its_account_and_device() -> TestResult {
    let folder = tempfile::tempdir()?;
    let database = open(&folder).await?;
    let accounts = accounts(&database);
    let (alice, guest) = (user("alice")?, user("guest")?);
    assert!(accounts.add(&alice).await?);
    assert!(accounts.add_guest(&guest).await?);
    accounts.issue_token(&alice, &AccessToken::new("one"), Some(&DeviceId("PHONE".to_owned()))).await?;
    accounts.issue_token(&alice, &AccessToken::new("two"), None).await?;
    accounts.issue_token(&guest, &AccessToken::new("three"), None).await?;
    let caller = |user_id, device: Option<&str>, is_guest| Caller {
        user_id,
        device_id: device.map(|device| DeviceId(device.to_owned())),
        is_guest,
    };
    assert_eq!(whose(&accounts, "one").await?, caller(alice.clone(), Some("PHONE"), false));
    assert_eq!(whose(&accounts, "two").await?, caller(alice.clone(), None, false));
    assert_eq!(whose(&accounts, "three").await?, caller(guest.clone(), None, true));
    assert!(matches!(whose(&accounts, "four").await, Err(WhoseTokenError::Unknown)));
    assert_eq!(accounts.list().await?, [alice, guest]);
    Ok(())
}

#[tokio::test]
async fn an_account_is_added_once() -> TestResult {
    let folder = tempfile::tempdir()?;
    let accounts = accounts(&open(&folder).await?);
    assert!(accounts.add(&user("alice")?).await?);
    assert!(!accounts.add_guest(&user("alice")?).await?);
    accounts.issue_token(&user("alice")?, &AccessToken::new("one"), None).await?;
    assert!(!whose(&accounts, "one").await?.is_guest, "it stays what it was");
    Ok(())
}

#[tokio::test]
async fn a_token_needs_an_account_and_is_issued_once() -> TestResult {
    let folder = tempfile::tempdir()?;
    let accounts = accounts(&open(&folder).await?);
    let token = AccessToken::new("one");
    let issued = accounts.issue_token(&user("alice")?, &token, None).await;
    assert!(matches!(issued, Err(IssueTokenError::NoSuchAccount(_))), "{issued:?}");
    accounts.add(&user("alice")?).await?;
    accounts.add(&user("bob")?).await?;
    accounts.issue_token(&user("alice")?, &token, None).await?;
    let issued = accounts.issue_token(&user("bob")?, &token, None).await;
    assert!(matches!(issued, Err(IssueTokenError::Taken)), "{issued:?}");
    assert_eq!(whose(&accounts, "one").await?.user_id, user("alice")?);
    Ok(())
}

#[tokio::test]
async fn no_file_of_the_database_holds_a_token() -> TestResult {
    let folder = tempfile::tempdir()?;
    let database = open(&folder).await?;
    let accounts = accounts(&database);
    accounts.add(&user("alice")?).await?;
    accounts.issue_token(&user("alice")?, &AccessToken::new("hush-hush-hush"), None).await?;
    database.writer().execute_unprepared("PRAGMA wal_checkpoint(PASSIVE)").await?;
    let mut seen = 0;
    for file in std::fs::read_dir(folder.path())? {
        let bytes = std::fs::read(file?.path())?;
        seen += bytes.len();
        assert!(!bytes.windows(14).any(|window| window == b"hush-hush-hush"));
    }
    assert!(seen > 0);
    Ok(())
}
