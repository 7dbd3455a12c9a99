//! When each subject's bucket is full again, with a bound on how many are remembered.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One number per subject. Never more than `capacity` of them.
pub(super) struct BoundedMap {
    full_at: Mutex<HashMap<String, i64>>,
    capacity: usize,
}

impl BoundedMap {
    pub(super) fn new(capacity: usize) -> Self {
        Self { full_at: Mutex::default(), capacity }
    }

    /// When the subject's bucket is full again; `None` where it is full.
    pub(super) fn get(&self, subject: &str) -> Option<i64> {
        self.lock().get(subject).copied()
    }

    /// Remembers when the subject's bucket is full again.
    pub(super) fn set(&self, subject: String, full_at: i64) {
        put(&mut self.lock(), self.capacity, subject, full_at);
    }

    /// Lets `decide` replace what is remembered of a subject; no other call comes between. A refusal leaves no trace.
    pub(super) fn replace<E>(
        &self,
        subject: String,
        decide: impl FnOnce(Option<i64>) -> Result<i64, E>,
    ) -> Result<(), E> {
        let mut full_at = self.lock();
        let next = decide(full_at.get(&subject).copied())?;
        put(&mut full_at, self.capacity, subject, next);
        Ok(())
    }

    /// Changes what is remembered of a subject, if it is remembered.
    pub(super) fn change(&self, subject: &str, change: impl FnOnce(i64) -> i64) {
        if let Some(full_at) = self.lock().get_mut(subject) {
            *full_at = change(*full_at);
        }
    }

    /// Forgets a subject.
    pub(super) fn forget(&self, subject: &str) {
        self.lock().remove(subject);
    }

    /// Nothing is left half done under the lock, so a panic elsewhere has broken nothing.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, i64>> {
        self.full_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn put(full_at: &mut HashMap<String, i64>, capacity: usize, subject: String, next: i64) {
    if full_at.len() >= capacity && !full_at.contains_key(&subject) {
        forget_half(full_at);
    }
    full_at.insert(subject, next);
}

/// Forgets at least half of the buckets: those that are full soonest, if they are not full already.
fn forget_half(full_at: &mut HashMap<String, i64>) {
    let mut times: Vec<i64> = full_at.values().copied().collect();
    let middle = times.len() / 2;
    let (_, median, _) = times.select_nth_unstable(middle);
    let median = *median;
    full_at.retain(|_, time| *time > median);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_holds_more_than_its_capacity_and_forgets_the_fullest_first() {
        let map = BoundedMap::new(100);
        map.set("busy".to_owned(), 1_000_000);
        for n in 0..10_000 {
            map.set(format!("subject {n}"), n);
            assert!(map.lock().len() <= 100);
        }
        assert_eq!(map.get("busy"), Some(1_000_000));
    }

    #[test]
    fn equal_buckets_make_room_too() {
        let map = BoundedMap::new(2);
        for n in 0..10 {
            map.set(format!("subject {n}"), 7);
            assert!(map.lock().len() <= 2);
        }
    }

    #[test]
    fn a_refusal_leaves_no_trace() {
        let map = BoundedMap::new(2);
        let refused: Result<(), ()> = map.replace("a".to_owned(), |_| Err(()));
        assert_eq!((refused, map.lock().len()), (Err(()), 0));
    }
}
