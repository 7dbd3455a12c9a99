//! An account leaves the memory.

use std::collections::BTreeSet;

use async_trait::async_trait;

use super::{MemoryStore, OutboxRow, State};
use crate::model::{Address, BindingKey, Erased, Erasure, SessionState, Sid, SpentProof, UponErasure};
use crate::ports::{EndOfErasure, Erasures, Unavailable};
use crate::testing::lock;

/// How many `keep` did not keep.
fn drop_from<T>(list: &mut Vec<T>, keep: impl FnMut(&T) -> bool) -> usize {
    let had = list.len();
    list.retain(keep);
    had - list.len()
}

/// Whether both name the same, in any order.
fn is_same<'a, T: Ord + 'a>(one: impl Iterator<Item = &'a T>, other: impl Iterator<Item = &'a T>) -> bool {
    one.collect::<BTreeSet<_>>() == other.collect::<BTreeSet<_>>()
}

impl State {
    /// What becomes of each message of the account's, and which it is.
    fn messages_of(&self, erasure: &Erasure) -> Vec<(UponErasure, usize)> {
        let user = &erasure.user_id;
        let owns =
            |address: &Address| self.threepids.get(address).is_some_and(|owned| owned.user_id == *user);
        let is_spent = |sid: &Sid| {
            self.sessions.get(sid).is_some_and(
                |record| matches!(&record.state, SessionState::Consumed { by, .. } if by == user),
            )
        };
        let rows = self.outbox.iter().enumerate();
        rows.filter(|(_, row)| row.message.payload.is_about(user, owns, is_spent))
            .filter_map(|(index, row)| Some((row.record().upon_erasure()?, index)))
            .collect()
    }

    fn erase(&mut self, erasure: Erasure) -> EndOfErasure {
        let messages = self.messages_of(&erasure);
        let user = &erasure.user_id;
        let owned: Vec<Address> = self
            .threepids
            .values()
            .filter(|threepid| threepid.user_id == *user)
            .map(|threepid| threepid.address.clone())
            .collect();
        let bound: Vec<BindingKey> =
            self.bindings.keys().filter(|key| key.user_id == *user).cloned().collect();
        let to_replace = messages.iter().filter(|(fate, _)| *fate == UponErasure::IsReplaced);
        let to_replace =
            to_replace.filter_map(|(_, index)| self.outbox.get(*index)).map(|row| &row.message.id);
        if !is_same(owned.iter(), erasure.addresses.iter())
            || !is_same(bound.iter(), erasure.bindings.iter())
            || !is_same(to_replace, erasure.replaced.iter())
        {
            return EndOfErasure::Outdated;
        }
        let count = |fate: UponErasure| messages.iter().filter(|(this, _)| *this == fate).count();
        let mut erased = Erased {
            threepids: owned.len(),
            bindings: bound.len(),
            messages: count(UponErasure::Goes),
            dead_unbinds: count(UponErasure::IsMarked),
            owed_unbinds: erasure.unbinds.len(),
            ..Erased::default()
        };
        let mut fates = vec![None; self.outbox.len()];
        for (fate, index) in messages {
            if let Some(slot) = fates.get_mut(index) {
                *slot = Some(fate);
            }
        }
        let rows = std::mem::take(&mut self.outbox).into_iter().zip(fates);
        self.outbox = rows
            .filter_map(|(mut row, fate)| match fate {
                Some(UponErasure::Goes | UponErasure::IsReplaced) => None,
                Some(UponErasure::IsMarked) => {
                    row.message.payload = row.message.payload.to_leave_nothing();
                    Some(row)
                }
                Some(UponErasure::Stays) | None => Some(row),
            })
            .chain(erasure.unbinds.into_iter().map(OutboxRow::owed))
            .collect();
        self.threepids.retain(|_, threepid| threepid.user_id != *user);
        self.bindings.retain(|key, _| key.user_id != *user);
        let owns = |address: &Address| owned.contains(address);
        let had = self.sessions.len();
        self.sessions.retain(|_, record| !record.goes_with(user, owns));
        erased.sessions = had - self.sessions.len();
        let spent: Vec<SpentProof> =
            self.spent_proofs.iter().filter(|proof| proof.user_id == *user).cloned().collect();
        erased.spent_proofs = spent.len();
        erased.remote_sessions = drop_from(&mut self.remote_sessions, |session| {
            !owns(&session.address) && !session.is_proof_of(&spent)
        });
        for proof in self.spent_proofs.iter_mut().filter(|proof| proof.user_id == *user) {
            *proof = proof.clone().nameless();
        }
        let had = self.challenges.len();
        self.challenges.retain(|_, (challenge, _)| challenge.user_id != *user);
        erased.challenges = had - self.challenges.len();
        for entry in self.audit.iter_mut().filter(|entry| entry.user_id == *user) {
            *entry = entry.clone().nameless();
            erased.audit_entries += 1;
        }
        EndOfErasure::Done(erased)
    }
}

#[async_trait]
impl Erasures for MemoryStore {
    async fn erase(&self, erasure: Erasure) -> Result<EndOfErasure, Unavailable> {
        self.available()?;
        let enqueues = !erasure.unbinds.is_empty();
        let end = lock(&self.state).erase(erasure);
        if enqueues {
            self.ring();
        }
        Ok(end)
    }
}
