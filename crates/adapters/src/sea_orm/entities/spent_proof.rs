//! Identity servers' proofs that were spent. The primary key is server and sid, so each is spent once.

use sea_orm::ActiveValue::Set;
use sea_orm::entity::prelude::*;
use threepid_domain::model::{KeyedHash, Sid, SpentProof};

use super::{address, ms, server, timestamp, user_id};
use crate::sea_orm::StorageError;

const TABLE: &str = "spent_proof";

/// A row.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "spent_proof")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub server: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub sid: String,
    pub user_id: String,
    pub key: String,
    pub medium: String,
    pub address: String,
    pub spent_at: i64,
}

impl ActiveModelBehavior for ActiveModel {}

impl From<&SpentProof> for ActiveModel {
    fn from(proof: &SpentProof) -> Self {
        Self {
            server: Set(proof.server.as_str().to_owned()),
            sid: Set(proof.sid.as_str().to_owned()),
            user_id: Set(proof.user_id.as_str().to_owned()),
            key: Set(proof.key.to_hex()),
            medium: Set(proof.address.medium().as_str().to_owned()),
            address: Set(proof.address.as_str().to_owned()),
            spent_at: Set(ms(proof.spent_at)),
        }
    }
}

impl Model {
    /// The spent proof that the row holds.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] when no such thing can be.
    pub(in crate::sea_orm) fn parse(self) -> Result<SpentProof, StorageError> {
        let key = KeyedHash::from_hex(&self.key);
        Ok(SpentProof {
            server: server(TABLE, &self.server)?,
            user_id: user_id(TABLE, &self.user_id)?,
            key: key.ok_or_else(|| StorageError::corrupt(TABLE, "key is no keyed hash"))?,
            address: address(TABLE, &self.medium, &self.address)?,
            spent_at: timestamp(self.spent_at),
            sid: Sid::new(self.sid),
        })
    }
}
