//! What has ended leaves the memory.

use async_trait::async_trait;

use super::{MemoryStore, RowState};
use crate::model::Timestamp;
use crate::ports::{Housekeeping, Perishable, Unavailable};
use crate::testing::lock;

/// Of the things with these times, the ones to remove: those before `before`, the oldest `limit`. Gives a judgement on
/// each in turn.
fn oldest(times: Vec<Option<Timestamp>>, before: Timestamp, limit: usize) -> Vec<bool> {
    let mut due: Vec<_> = times
        .iter()
        .enumerate()
        .filter_map(|(index, time)| time.filter(|time| *time < before).map(|time| (time, index)))
        .collect();
    due.sort_unstable();
    due.truncate(limit);
    let mut judged = vec![false; times.len()];
    for (_, index) in due {
        if let Some(judged) = judged.get_mut(index) {
            *judged = true;
        }
    }
    judged
}

/// Removes from a list; how many.
fn purge<T>(
    list: &mut Vec<T>,
    time: impl Fn(&T) -> Option<Timestamp>,
    before: Timestamp,
    limit: usize,
) -> usize {
    let mut judged = oldest(list.iter().map(time).collect(), before, limit).into_iter();
    let had = list.len();
    list.retain(|_| !judged.next().unwrap_or_default());
    had - list.len()
}

#[async_trait]
impl Housekeeping for MemoryStore {
    async fn purge(&self, what: Perishable, before: Timestamp, limit: usize) -> Result<usize, Unavailable> {
        self.available()?;
        let mut state = lock(&self.state);
        Ok(match what {
            Perishable::Sessions => {
                let mut sessions: Vec<_> = state.sessions.drain().collect();
                let removed = purge(&mut sessions, |(_, record)| Some(record.last_time()), before, limit);
                state.sessions.extend(sessions);
                removed
            }
            Perishable::RemoteSessions => {
                purge(&mut state.remote_sessions, |session| Some(session.opened_at), before, limit)
            }
            Perishable::SpentProofs => {
                purge(&mut state.spent_proofs, |proof| Some(proof.spent_at), before, limit)
            }
            Perishable::Challenges => {
                let mut challenges: Vec<_> = state.challenges.drain().collect();
                let time =
                    |(_, (challenge, _)): &(_, (crate::model::Challenge, _))| Some(challenge.issued_at);
                let removed = purge(&mut challenges, time, before, limit);
                state.challenges.extend(challenges);
                removed
            }
            Perishable::SettledMessages => {
                let time = |row: &super::OutboxRow| match row.state {
                    RowState::Sent | RowState::Expired => row.settled_at,
                    RowState::Owed | RowState::Dead(_) => None,
                };
                purge(&mut state.outbox, time, before, limit)
            }
            Perishable::AuditEntries => purge(&mut state.audit, |entry| Some(entry.at), before, limit),
            // The memory store counts nothing.
            Perishable::Counts => 0,
        })
    }
}
