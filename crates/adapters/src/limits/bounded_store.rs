//! Where governor keeps its buckets, with a bound on how many there are.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use governor::nanos::Nanos;
use governor::state::StateStore;

/// One number per subject: when its bucket will be full again. Never more than `capacity` of them.
pub(super) struct BoundedStore {
    full_at: Mutex<HashMap<String, Nanos>>,
    capacity: usize,
}

impl BoundedStore {
    pub(super) fn new(capacity: usize) -> Self {
        Self { full_at: Mutex::default(), capacity }
    }

    /// Nothing is left half done under the lock, so a panic elsewhere has broken nothing.
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Nanos>> {
        self.full_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StateStore for BoundedStore {
    type Key = String;

    fn measure_and_replace<T, F, E>(&self, key: &String, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut full_at = self.lock();
        if let Some(known) = full_at.get_mut(key) {
            let (taken, next) = f(Some(*known))?;
            *known = next;
            return Ok(taken);
        }
        let (taken, next) = f(None)?;
        if full_at.len() >= self.capacity {
            forget_half(&mut full_at);
        }
        full_at.insert(key.clone(), next);
        Ok(taken)
    }
}

/// Forgets at least half of the buckets: those that are full soonest, if they are not full already.
fn forget_half(full_at: &mut HashMap<String, Nanos>) {
    let mut times: Vec<Nanos> = full_at.values().copied().collect();
    let middle = times.len() / 2;
    let (_, median, _) = times.select_nth_unstable(middle);
    let median = *median;
    full_at.retain(|_, time| *time > median);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill_until(store: &BoundedStore, subject: &str, full_at: u64) {
        let taken: Result<(), ()> =
            store.measure_and_replace(&subject.to_owned(), |_| Ok(((), Nanos::new(full_at))));
        assert_eq!(taken, Ok(()));
    }

    #[test]
    fn it_never_holds_more_than_its_capacity_and_forgets_the_fullest_first() {
        let store = BoundedStore::new(100);
        fill_until(&store, "busy", 1_000_000);
        for n in 0..10_000 {
            fill_until(&store, &format!("subject {n}"), n);
            assert!(store.lock().len() <= 100);
        }
        assert!(store.lock().contains_key("busy"));
    }

    #[test]
    fn equal_buckets_make_room_too() {
        let store = BoundedStore::new(2);
        for n in 0..10 {
            fill_until(&store, &format!("subject {n}"), 7);
            assert!(store.lock().len() <= 2);
        }
    }

    #[test]
    fn a_refusal_leaves_no_trace() {
        let store = BoundedStore::new(2);
        let refused: Result<(), ()> = store.measure_and_replace(&"a".to_owned(), |_| Err(()));
        assert_eq!((refused, store.lock().len()), (Err(()), 0));
    }
}
