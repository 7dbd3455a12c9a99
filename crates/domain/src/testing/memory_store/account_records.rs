//! What is in memory about one account.

use std::collections::BTreeSet;

use async_trait::async_trait;

use super::{MemoryStore, OutboxRow};
use crate::model::{Address, Payload, SessionState, Sid, UserId, ValidationSession};
use crate::ports::{AccountRecord, AccountRecords, Unavailable};
use crate::testing::lock;

#[async_trait]
impl AccountRecords for MemoryStore {
    async fn kept_about(&self, user: UserId) -> Result<AccountRecord, Unavailable> {
        self.available()?;
        let state = lock(&self.state);
        let owns =
            |address: &Address| state.threepids.get(address).is_some_and(|owned| owned.user_id == user);
        let has_spent =
            |session: &SessionState| matches!(session, SessionState::Consumed { by, .. } if *by == user);
        let mut sessions: Vec<_> = state
            .sessions
            .values()
            .filter(|record| has_spent(&record.state) || owns(&record.address))
            .cloned()
            .collect();
        sessions.sort_by(|a, b| (a.created_at, &a.sid).cmp(&(b.created_at, &b.sid)));
        let mut threepids: Vec<_> =
            state.threepids.values().filter(|threepid| threepid.user_id == user).cloned().collect();
        threepids.sort_by_key(|threepid| threepid.added_at);
        let mut spent_proofs: Vec<_> =
            state.spent_proofs.iter().filter(|proof| proof.user_id == user).cloned().collect();
        spent_proofs.sort_by_key(|proof| proof.spent_at);
        let mut remote_sessions: Vec<_> = state
            .remote_sessions
            .iter()
            .filter(|session| owns(&session.address) || session.is_proof_of(&spent_proofs))
            .cloned()
            .collect();
        remote_sessions.sort_by_key(|session| session.opened_at);
        let mut bindings: Vec<_> =
            state.bindings.values().filter(|binding| binding.user_id == user).cloned().collect();
        bindings.sort_by_key(|binding| binding.since);
        let challenges = state.challenges.values().map(|(challenge, _)| challenge);
        let mut challenges: Vec<_> =
            challenges.filter(|challenge| challenge.user_id == user).cloned().collect();
        challenges.sort_by_key(|challenge| challenge.issued_at);
        let is_spent = |sid: &Sid| state.sessions.get(sid).is_some_and(|record| has_spent(&record.state));
        let messages = state.outbox.iter().filter(|row| row.message.payload.is_about(&user, owns, is_spent));
        let mut messages: Vec<_> = messages.map(OutboxRow::record).collect();
        messages.sort_by_key(|message| message.created_at);
        let mut audit: Vec<_> = state.audit.iter().filter(|entry| entry.user_id == user).cloned().collect();
        audit.sort_by_key(|entry| entry.at);
        let sessions = sessions.into_iter().map(ValidationSession::from_record).collect();
        Ok(AccountRecord {
            threepids,
            sessions,
            remote_sessions,
            spent_proofs,
            bindings,
            challenges,
            messages,
            audit,
            // The memory store has no accounts of its own, and counts nothing.
            is_local: false,
            access_tokens: Vec::new(),
            counts: Vec::new(),
        })
    }

    async fn accounts(&self, after: Option<UserId>, limit: usize) -> Result<Vec<UserId>, Unavailable> {
        self.available()?;
        let state = lock(&self.state);
        let spent = state.sessions.values().filter_map(|record| match &record.state {
            SessionState::Consumed { by, .. } => Some(by),
            _ => None,
        });
        let payloads = state.outbox.iter().map(|row| &row.message.payload);
        let told = payloads.filter(|payload| !payload.leaves_nothing()).filter_map(Payload::account);
        let named: BTreeSet<_> = state
            .threepids
            .values()
            .map(|threepid| &threepid.user_id)
            .chain(spent)
            .chain(state.spent_proofs.iter().map(|proof| &proof.user_id))
            .chain(state.bindings.values().map(|binding| &binding.user_id))
            .chain(state.challenges.values().map(|(challenge, _)| &challenge.user_id))
            .chain(state.audit.iter().map(|entry| &entry.user_id))
            .chain(told)
            .filter(|user_id| {
                **user_id != UserId::erased() && after.as_ref().is_none_or(|after| after < *user_id)
            })
            .collect();
        Ok(named.into_iter().take(limit).cloned().collect())
    }
}
