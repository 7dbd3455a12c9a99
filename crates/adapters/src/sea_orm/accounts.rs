//! Accounts of our own, for the demo, tests and embedders that have no homeserver to ask.
//!
//! An access token is made by the caller and kept as its keyed hash alone; a password is kept as its Argon2 hash.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use sea_orm::ActiveValue::Set;
use sea_orm::sea_query::{Expr, OnConflict, Order};
use sea_orm::{ColumnTrait as _, DbErr, EntityTrait, QueryFilter as _, QueryOrder, SqlErr};
use threepid_domain::model::{AccessToken, Caller, DeviceId, KeyedHash, UserId};
use threepid_domain::ports::{AccessTokens, Clock, Credentials, Freshness, Unavailable, WhoseTokenError};

use super::connection::Database;
use super::entities::{account, account_token, ms};
use super::error::{StorageError, unavailable};
use super::gathered::Batch;
use super::passwords::Passwords;
use super::write::OnEach;

const PORT: &str = "local accounts";

/// Accounts and access tokens in tables of our own.
#[derive(Clone)]
pub struct LocalAccounts {
    database: Database,
    clock: Arc<dyn Clock>,
    hash: Arc<dyn Fn(&AccessToken) -> KeyedHash + Send + Sync>,
    passwords: Passwords,
}

impl fmt::Debug for LocalAccounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalAccounts").field("database", &self.database).finish_non_exhaustive()
    }
}

/// A token that was not issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueTokenError {
    /// No account has this user ID.
    #[error("there is no account {0}: add it first")]
    NoSuchAccount(UserId),
    /// The token is in use. Whoever makes tokens makes each but once.
    #[error("this access token was issued before")]
    Taken,
    /// Storage cannot answer now.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// A password that was not set.
#[derive(Debug, thiserror::Error)]
pub enum SetPasswordError {
    /// No account has this user ID.
    #[error("there is no account {0}: add it first")]
    NoSuchAccount(UserId),
    /// Whoever answers nothing would be right.
    #[error("the password is empty")]
    Empty,
    /// Storage cannot answer now.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl LocalAccounts {
    /// The accounts in a migrated database. `hash` is the keyed hash of an access token, under the server's key.
    pub fn new(
        database: Database,
        clock: Arc<dyn Clock>,
        hash: impl Fn(&AccessToken) -> KeyedHash + Send + Sync + 'static,
    ) -> Self {
        Self { database, clock, hash: Arc::new(hash), passwords: Passwords::new() }
    }

    /// Adds an account. `false` when it was there already; it stays what it was.
    ///
    /// # Errors
    /// [`Unavailable`] when storage cannot answer now.
    pub async fn add(&self, user: &UserId) -> Result<bool, Unavailable> {
        self.insert(user, false).await
    }

    /// Adds a guest's account; guests have no contacts. `false` when the account was there already.
    ///
    /// # Errors
    /// [`Unavailable`] when storage cannot answer now.
    pub async fn add_guest(&self, user: &UserId) -> Result<bool, Unavailable> {
        self.insert(user, true).await
    }

    async fn insert(&self, user: &UserId, is_guest: bool) -> Result<bool, Unavailable> {
        let row = account::ActiveModel {
            user_id: Set(user.as_str().to_owned()),
            is_guest: Set(is_guest),
            created_at: Set(ms(self.clock.now())),
            password_hash: Set(None),
        };
        let inserted = account::Entity::insert(row)
            .on_conflict(OnConflict::new().do_nothing().to_owned())
            .exec_without_returning(self.database.writer())
            .await;
        Ok(inserted.map_err(down)? > 0)
    }

    /// Gives an account one more access token, at a device where one is named.
    ///
    /// # Errors
    /// [`IssueTokenError`].
    pub async fn issue_token(
        &self,
        user: &UserId,
        token: &AccessToken,
        device_id: Option<&DeviceId>,
    ) -> Result<(), IssueTokenError> {
        // It may be erased before the token is there: then the foreign key refuses it.
        let account =
            account::Entity::find_by_id(user.as_str()).one(self.database.reader()).await.map_err(down)?;
        if account.is_none() {
            return Err(IssueTokenError::NoSuchAccount(user.clone()));
        }
        let row = account_token::ActiveModel {
            token_hash: Set((self.hash)(token).to_hex()),
            user_id: Set(user.as_str().to_owned()),
            device_id: Set(device_id.map(|device| device.0.clone())),
            created_at: Set(ms(self.clock.now())),
        };
        let inserted = account_token::Entity::insert(row)
            .on_conflict(OnConflict::new().do_nothing().to_owned())
            .exec_without_returning(self.database.writer())
            .await;
        match inserted {
            Ok(0) => Err(IssueTokenError::Taken),
            Ok(_) => Ok(()),
            Err(error) if matches!(error.sql_err(), Some(SqlErr::ForeignKeyConstraintViolation(_))) => {
                Err(IssueTokenError::NoSuchAccount(user.clone()))
            }
            Err(error) => Err(down(error).into()),
        }
    }

    /// Gives an account this password, in place of one that it has. `salt` is 128 random bits.
    ///
    /// # Errors
    /// [`SetPasswordError`].
    pub async fn set_password(
        &self,
        user: &UserId,
        password: &str,
        salt: [u8; 16],
    ) -> Result<(), SetPasswordError> {
        if password.is_empty() {
            return Err(SetPasswordError::Empty);
        }
        let hash = self.passwords.hash(password.to_owned(), salt).await?;
        let updated = account::Entity::update_many()
            .col_expr(account::Column::PasswordHash, Expr::value(hash))
            .filter(account::Column::UserId.eq(user.as_str()))
            .exec(self.database.writer())
            .await
            .map_err(down)?;
        if updated.rows_affected > 0 { Ok(()) } else { Err(SetPasswordError::NoSuchAccount(user.clone())) }
    }

    pub(super) fn passwords(&self) -> &Passwords {
        &self.passwords
    }

    /// The hash of an account's password; `None` where there is no account, or none with a password.
    pub(super) async fn password_hash(&self, user: &UserId) -> Result<Option<String>, Unavailable> {
        let account = account::Entity::find_by_id(user.as_str()).one(self.database.reader()).await;
        Ok(account.map_err(down)?.and_then(|account| account.password_hash))
    }

    /// Every account, by user ID.
    ///
    /// # Errors
    /// [`Unavailable`] when storage cannot answer now.
    pub async fn list(&self) -> Result<Vec<UserId>, Unavailable> {
        let rows = account::Entity::find()
            .order_by(account::Column::UserId, Order::Asc)
            .all(self.database.reader())
            .await
            .map_err(down)?;
        rows.iter().map(|row| parse(&row.user_id)).collect::<Result<_, _>>().map_err(unavailable(PORT))
    }

    async fn find(&self, token: &AccessToken) -> Result<Option<Caller>, StorageError> {
        let database = self.database.clone();
        let run = move |batch: Batch<_, _>| {
            let database = database.clone();
            async move { find_all(&database, &batch.keys()).await }
        };
        self.database.gathered().tokens.ask((self.hash)(token), run).await?
    }
}

/// Parameter: hashes of access tokens.
const CALLERS: OnEach = OnEach {
    sqlite: "SELECT json_group_array(json_array(t.token_hash, t.device_id, a.user_id, \
             iif(a.is_guest, json('true'), json('false')))) FROM json_each($1) AS asked \
             CROSS JOIN account_token AS t ON t.token_hash = asked.value \
             CROSS JOIN account AS a ON a.user_id = t.user_id",
    postgres: "SELECT CAST(json_agg(json_build_array(t.token_hash, t.device_id, a.user_id, a.is_guest)) AS text) \
               FROM json_array_elements_text(CAST($1 AS json)) AS asked \
               JOIN account_token AS t ON t.token_hash = asked.value \
               JOIN account AS a ON a.user_id = t.user_id",
};

/// Whose the tokens with these hashes are.
async fn find_all(
    database: &Database,
    hashes: &[KeyedHash],
) -> Result<Vec<Result<Option<Caller>, StorageError>>, StorageError> {
    let hashes: Vec<String> = hashes.iter().map(KeyedHash::to_hex).collect();
    let asked: BTreeSet<&str> = hashes.iter().map(String::as_str).collect();
    let rows: Vec<(String, Option<String>, String, bool)> = database.look_up(CALLERS, &asked).await?;
    let found = |hash: &String| {
        let Some((_, device_id, user_id, is_guest)) = rows.iter().find(|row| row.0 == *hash) else {
            return Ok(None);
        };
        let device_id = device_id.clone().map(DeviceId);
        Ok(Some(Caller { user_id: parse(user_id)?, device_id, is_guest: *is_guest }))
    };
    Ok(hashes.iter().map(found).collect())
}

#[async_trait]
impl AccessTokens for LocalAccounts {
    // The table is asked every time, so every answer is fresh. There are no application services here, so no token
    // speaks for another user.
    async fn whose(
        &self,
        credentials: Credentials,
        _freshness: Freshness,
    ) -> Result<Caller, WhoseTokenError> {
        let found = self.find(&credentials.access_token).await.map_err(unavailable(PORT))?;
        found.ok_or(WhoseTokenError::Unknown)
    }
}

fn parse(user_id: &str) -> Result<UserId, StorageError> {
    UserId::parse(user_id).map_err(|_| StorageError::corrupt("account", "user_id is no Matrix user ID"))
}

fn down(error: DbErr) -> Unavailable {
    unavailable(PORT)(error.into())
}
