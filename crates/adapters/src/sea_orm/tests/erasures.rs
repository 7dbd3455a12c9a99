//! What the contract kit cannot see: accounts of our own, and counts.

use sea_orm::{ConnectionTrait, Statement};
use threepid_domain::model::{AccessToken, Erased, Erasure, UserId};
use threepid_domain::ports::{AccountRecords as _, EndOfErasure, Erasures as _};

use super::accounts::{accounts, whose};
use super::{TestResult, open, user};
use crate::sea_orm::{Database, IssueTokenError, SeaOrmStore};

fn of(user_id: &UserId) -> Erasure {
    Erasure {
        user_id: user_id.clone(),
        addresses: Vec::new(),
        bindings: Vec::new(),
        replaced: Vec::new(),
        unbinds: Vec::new(),
        subjects: vec![user_id.as_str().to_owned(), "a hash".to_owned()],
    }
}

async fn subjects(database: &Database) -> Result<Vec<String>, sea_orm::DbErr> {
    let reader = database.reader();
    let backend = reader.get_database_backend();
    let all = Statement::from_string(backend, "SELECT subject FROM rate_limit ORDER BY subject");
    reader.query_all_raw(all).await?.iter().map(|row| row.try_get_by_index(0)).collect()
}

#[tokio::test]
async fn an_account_of_our_own_goes_with_its_tokens_and_its_neighbour_stays() -> TestResult {
    let folder = tempfile::tempdir()?;
    let database = open(&folder).await?;
    let (accounts, store) = (accounts(&database), SeaOrmStore::new(database.clone()));
    let (alice, bob) = (user("alice")?, user("bob")?);
    for (user_id, token) in [(&alice, "hers"), (&bob, "his")] {
        accounts.add(user_id).await?;
        accounts.set_password(user_id, "a password", [1; 16]).await?;
        accounts.issue_token(user_id, &AccessToken::new(token), None).await?;
    }
    assert!(store.kept_about(alice.clone()).await?.is_local);
    assert_eq!(store.accounts(None, 10).await?, [alice.clone(), bob.clone()]);
    let erased = Erased { is_local: true, ..Erased::default() };
    assert_eq!(store.erase(of(&alice)).await?, EndOfErasure::Done(erased));
    assert_eq!(store.erase(of(&alice)).await?, EndOfErasure::Done(Erased::default()));
    assert_eq!(accounts.list().await?, std::slice::from_ref(&bob));
    assert!(whose(&accounts, "hers").await.is_err());
    assert_eq!(whose(&accounts, "his").await?.user_id, bob);
    let refused = accounts.issue_token(&alice, &AccessToken::new("another"), None).await;
    assert!(matches!(refused, Err(IssueTokenError::NoSuchAccount(_))), "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn what_was_counted_under_an_account_is_forgotten_whatever_the_limit() -> TestResult {
    let folder = tempfile::tempdir()?;
    let database = open(&folder).await?;
    let strange = UserId::parse("@50%:example.org")?;
    // As the limiter writes them.
    let rows = "INSERT INTO rate_limit (name, subject, full_at_us) VALUES \
                ('failed_reauthentication_per_account', '@50%25:example.org', 1), \
                ('failed_reauthentication_per_account', '@50%:example.org', 1), \
                ('request_token_per_address', 'a hash', 1), \
                ('request_token_per_address', 'another hash', 1), \
                ('mails_per_hour', 'everybody', 1)";
    database.writer().execute_unprepared(rows).await?;
    SeaOrmStore::new(database.clone()).erase(of(&strange)).await?;
    assert_eq!(subjects(&database).await?, ["@50%:example.org", "another hash", "everybody"]);
    Ok(())
}
