//! Questions of one kind that come while such a question is under way wait for it, and are then asked together.
//!
//! To the database a statement for many costs hardly more than a statement for one: on SQLite most of its time goes into
//! waking the thread that owns the connection, on PostgreSQL into the way there and back. Nobody waits for company: where
//! nothing is under way, a question is asked at once, alone.
//!
//! What is asked is never older than the question: a statement is begun after all the questions that it answers.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::Instrument;

use super::error::StorageError;

/// So many questions are asked together at most.
const MOST_AT_ONCE: usize = 64;

/// Questions that wait, and how many batches of them are under way.
pub(super) struct Gathered<K, V> {
    waiting: Mutex<Waiting<K, V>>,
    lanes: usize,
    patience: Duration,
}

struct Waiting<K, V> {
    asked: VecDeque<Asked<K, V>>,
    /// How many batches are under way.
    busy: usize,
    /// Whether one of them is about to take what waits.
    is_awaited: bool,
}

struct Asked<K, V> {
    key: K,
    answer: oneshot::Sender<Result<V, StorageError>>,
    since: Instant,
}

impl<K: Send + Sync + 'static, V: Send + 'static> Gathered<K, V> {
    /// At most `lanes` batches are under way at once. What has waited for longer than `patience` is given up before it is
    /// asked.
    pub(super) fn new(lanes: usize, patience: Duration) -> Arc<Self> {
        let waiting = Mutex::new(Waiting { asked: VecDeque::new(), busy: 0, is_awaited: false });
        Arc::new(Self { waiting, lanes, patience })
    }

    /// The answer for `key`. `run` answers for the keys of a batch, in their order; the first who comes runs it for those
    /// who come later, so all bring the same.
    ///
    /// What was asked is run whether or not its caller still waits.
    pub(super) async fn ask<R>(
        self: &Arc<Self>,
        key: K,
        run: impl Fn(Batch<K, V>) -> R + Send + 'static,
    ) -> Result<V, StorageError>
    where
        R: Future<Output = Result<Vec<V>, StorageError>> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        if let Some(lane) = self.wait(Asked { key, answer, since: Instant::now() }) {
            tokio::spawn(lane.work_off(run).in_current_span());
        }
        answered.await.map_err(|_| StorageError::Undecided("the statement broke off".to_owned()))?
    }

    /// Adds a question; a lane for it, where none is about to take it and one is free.
    fn wait(self: &Arc<Self>, asked: Asked<K, V>) -> Option<Lane<K, V>> {
        let mut waiting = self.lock();
        waiting.asked.push_back(asked);
        if waiting.is_awaited || waiting.busy == self.lanes {
            return None;
        }
        waiting.is_awaited = true;
        waiting.busy += 1;
        Some(Lane { gathered: Arc::clone(self), is_open: true })
    }

    fn take(&self) -> Taken<K, V> {
        let mut waiting = self.lock();
        waiting.is_awaited = false;
        let count = waiting.asked.len().min(MOST_AT_ONCE);
        let asked: Vec<_> = waiting.asked.drain(..count).collect();
        drop(waiting);
        let (mut keys, mut answers) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for Asked { key, answer, since } in asked {
            if since.elapsed() > self.patience {
                let late = "too many questions wait for the database".to_owned();
                let _ = answer.send(Err(StorageError::Undecided(late)));
            } else {
                keys.push(key);
                answers.push(answer);
            }
        }
        Taken { keys: keys.into(), answers }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<K, V>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is asked together. It takes what waits when its keys are asked for, and no earlier.
pub(super) struct Batch<K, V>(Arc<Taking<K, V>>);

struct Taking<K, V> {
    gathered: Arc<Gathered<K, V>>,
    taken: Mutex<Option<Taken<K, V>>>,
}

struct Taken<K, V> {
    keys: Arc<[K]>,
    /// Empty once they are given.
    answers: Vec<oneshot::Sender<Result<V, StorageError>>>,
}

impl<K, V> Clone for Batch<K, V> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Send + Sync + 'static, V: Send + 'static> Batch<K, V> {
    fn new(gathered: &Arc<Gathered<K, V>>) -> Self {
        Self(Arc::new(Taking { gathered: Arc::clone(gathered), taken: Mutex::new(None) }))
    }

    /// Its keys; the same, however often they are asked for.
    pub(super) fn keys(&self) -> Arc<[K]> {
        let mut taken = self.lock();
        Arc::clone(&taken.get_or_insert_with(|| self.0.gathered.take()).keys)
    }

    /// Answers, before whoever runs the batch has ended. The first answer counts.
    pub(super) fn answer(&self, values: Vec<V>) {
        self.answer_each(values.into_iter().map(Ok));
    }

    fn fail(&self, error: &StorageError) {
        self.keys();
        self.answer_each(std::iter::repeat_with(|| Err(error.for_another())));
    }

    fn answer_each(&self, values: impl Iterator<Item = Result<V, StorageError>>) {
        let answers = self.lock().as_mut().map(|taken| std::mem::take(&mut taken.answers));
        for (answer, value) in answers.unwrap_or_default().into_iter().zip(values) {
            // A caller that went away wants none.
            let _ = answer.send(value);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Taken<K, V>>> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks what waits, and again, until nothing does.
struct Lane<K: Send + Sync + 'static, V: Send + 'static> {
    gathered: Arc<Gathered<K, V>>,
    is_open: bool,
}

impl<K: Send + Sync + 'static, V: Send + 'static> Lane<K, V> {
    async fn work_off<R>(mut self, run: impl Fn(Batch<K, V>) -> R + Send)
    where
        R: Future<Output = Result<Vec<V>, StorageError>> + Send,
    {
        while self.is_open {
            let batch = Batch::new(&self.gathered);
            match run(batch.clone()).await {
                Ok(values) => batch.answer(values),
                Err(error) => batch.fail(&error),
            }
            self.go_on();
        }
    }

    /// Closes the lane, unless something waits that nobody is about to take.
    fn go_on(&mut self) {
        let mut waiting = self.gathered.lock();
        if waiting.asked.is_empty() || waiting.is_awaited {
            waiting.busy -= 1;
            self.is_open = false;
        } else {
            waiting.is_awaited = true;
        }
    }
}

impl<K: Send + Sync + 'static, V: Send + 'static> Drop for Lane<K, V> {
    /// Where a lane breaks off, nobody may wait for it for ever.
    fn drop(&mut self) {
        if self.is_open {
            let mut waiting = self.gathered.lock();
            waiting.busy -= 1;
            waiting.is_awaited = false;
            let left = std::mem::take(&mut waiting.asked);
            drop(waiting);
            drop(left);
        }
    }
}

/// So many places that a statement for `count` keys has: a power of two, so that few statements differ.
pub(super) fn padded<T: Clone>(mut keys: Vec<T>) -> Vec<T> {
    if let Some(last) = keys.last().cloned() {
        keys.resize(keys.len().next_power_of_two(), last);
    }
    keys
}

#[cfg(test)]
mod tests {
    #![expect(clippy::panic, reason = "what a test stands on fails it")]

    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    type Answers = std::pin::Pin<Box<dyn Future<Output = Result<Vec<u32>, StorageError>> + Send>>;

    /// Doubles numbers, and keeps how many were asked together; each statement waits for a permit.
    #[derive(Clone)]
    struct Doubles {
        asked: Arc<Mutex<Vec<usize>>>,
        gate: Arc<Semaphore>,
    }

    impl Doubles {
        fn new() -> Self {
            Self { asked: Arc::default(), gate: Arc::new(Semaphore::new(0)) }
        }

        fn run(&self) -> impl Fn(Batch<u32, u32>) -> Answers + Send + use<> {
            let own = self.clone();
            move |batch| {
                let own = own.clone();
                Box::pin(async move {
                    let keys = batch.keys();
                    own.asked.lock().unwrap_or_else(PoisonError::into_inner).push(keys.len());
                    own.gate.acquire().await.unwrap_or_else(|error| panic!("{error}")).forget();
                    Ok(keys.iter().map(|key| key * 2).collect())
                })
            }
        }

        fn asked(&self) -> Vec<usize> {
            self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
        }
    }

    async fn settle() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_comes_meanwhile_is_asked_together_and_each_has_its_own_answer() {
        let (gathered, doubles) = (Gathered::new(1, PATIENCE), Doubles::new());
        let mut tasks = Vec::new();
        for key in 0..100 {
            let (gathered, run) = (Arc::clone(&gathered), doubles.run());
            tasks.push(tokio::spawn(async move { gathered.ask(key, run).await }));
        }
        settle().await;
        doubles.gate.add_permits(100);
        for (key, task) in (0..).zip(tasks) {
            assert!(matches!(task.await, Ok(Ok(answer)) if answer == key * 2), "{key}");
        }
        let asked = doubles.asked();
        assert_eq!(asked.iter().sum::<usize>(), 100);
        assert!(asked.len() <= 4 && asked.iter().all(|count| *count <= MOST_AT_ONCE), "{asked:?}");
    }

    #[tokio::test]
    async fn nobody_waits_for_company_and_no_more_than_the_lanes_are_busy() {
        let (gathered, doubles) = (Gathered::new(2, PATIENCE), Doubles::new());
        let mut tasks = Vec::new();
        for key in 0..4 {
            let (gathered, run) = (Arc::clone(&gathered), doubles.run());
            tasks.push(tokio::spawn(async move { gathered.ask(key, run).await }));
            settle().await;
        }
        assert_eq!(doubles.asked(), [1, 1], "two at once, and two wait");
        doubles.gate.add_permits(4);
        for task in tasks {
            assert!(matches!(task.await, Ok(Ok(_))));
        }
        assert_eq!(doubles.asked().iter().sum::<usize>(), 4);
        assert_eq!(gathered.lock().busy, 0);
    }

    #[tokio::test]
    async fn what_was_asked_is_run_though_its_caller_went_away() {
        let (gathered, doubles) = (Gathered::new(1, PATIENCE), Doubles::new());
        let asking = {
            let (gathered, run) = (Arc::clone(&gathered), doubles.run());
            tokio::spawn(async move { gathered.ask(1, run).await })
        };
        settle().await;
        let gone = {
            let (gathered, run) = (Arc::clone(&gathered), doubles.run());
            tokio::spawn(async move { gathered.ask(2, run).await })
        };
        settle().await;
        gone.abort();
        doubles.gate.add_permits(2);
        assert!(matches!(asking.await, Ok(Ok(2))));
        settle().await;
        assert_eq!(doubles.asked(), [1, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_waited_for_too_long_is_not_asked() {
        let (gathered, doubles) = (Gathered::new(1, PATIENCE), Doubles::new());
        let ask = |key| {
            let (gathered, run) = (Arc::clone(&gathered), doubles.run());
            tokio::spawn(async move { gathered.ask(key, run).await })
        };
        let first = ask(1);
        settle().await;
        let second = ask(2);
        settle().await;
        tokio::time::advance(PATIENCE * 2).await;
        doubles.gate.add_permits(2);
        assert!(matches!(first.await, Ok(Ok(2))), "what is under way has no limit here");
        assert!(matches!(second.await, Ok(Err(StorageError::Undecided(_)))));
        assert_eq!(doubles.asked().iter().sum::<usize>(), 1);
    }

    #[tokio::test]
    async fn a_lane_that_breaks_off_holds_nobody() {
        let gathered = Gathered::<u32, u32>::new(1, PATIENCE);
        let (count, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let ask = || {
            let (gathered, count, gate) = (Arc::clone(&gathered), Arc::clone(&count), Arc::clone(&gate));
            tokio::spawn(async move {
                let run = move |batch: Batch<u32, u32>| {
                    let (count, gate) = (Arc::clone(&count), Arc::clone(&gate));
                    async move {
                        let _permit = gate.acquire().await;
                        assert!(count.fetch_add(1, Ordering::Relaxed) > 0, "the first one breaks off");
                        Ok(batch.keys().to_vec())
                    }
                };
                gathered.ask(7, run).await
            })
        };
        let asking = [ask(), ask(), ask()];
        settle().await;
        gate.add_permits(1);
        for asked in asking {
            assert!(matches!(asked.await, Ok(Err(StorageError::Undecided(_)))));
        }
        assert!(matches!(ask().await, Ok(Ok(7))));
    }

    /// Those who come before the keys are taken are in the batch, and who comes after that has another one at once.
    #[tokio::test]
    async fn a_batch_takes_what_waits_when_its_keys_are_asked_for() {
        let gathered = Gathered::<u32, usize>::new(usize::MAX, PATIENCE);
        let (begin, end) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let ask = |key| {
            let (gathered, begin, end) = (Arc::clone(&gathered), Arc::clone(&begin), Arc::clone(&end));
            tokio::spawn(async move {
                let run = move |batch: Batch<u32, usize>| {
                    let (begin, end) = (Arc::clone(&begin), Arc::clone(&end));
                    async move {
                        begin.acquire().await.unwrap_or_else(|error| panic!("{error}")).forget();
                        let count = batch.keys().len();
                        assert_eq!(batch.keys().len(), count, "they stay the same");
                        end.acquire().await.unwrap_or_else(|error| panic!("{error}")).forget();
                        Ok(vec![count; count])
                    }
                };
                gathered.ask(key, run).await
            })
        };
        let first = [ask(1), ask(2), ask(3)];
        settle().await;
        begin.add_permits(2);
        settle().await;
        let second = ask(4);
        settle().await;
        end.add_permits(2);
        for asked in first {
            assert!(matches!(asked.await, Ok(Ok(3))));
        }
        assert!(matches!(second.await, Ok(Ok(1))));
        settle().await;
        let waiting = gathered.lock();
        assert_eq!((waiting.busy, waiting.is_awaited, waiting.asked.len()), (0, false, 0));
    }

    #[tokio::test]
    async fn a_batch_that_fails_or_never_begins_tells_each() {
        let gathered = Gathered::<u32, u32>::new(1, PATIENCE);
        let run = |_batch| async { Err(StorageError::Database("no".to_owned())) };
        let failed = tokio::join!(gathered.ask(1, run), gathered.ask(2, run));
        for failed in [failed.0, failed.1] {
            assert!(matches!(failed, Err(StorageError::Undecided(reason)) if reason == "no"));
        }
        assert!(gathered.lock().asked.is_empty());
    }

    #[tokio::test]
    async fn an_answer_may_come_before_the_end() {
        let (gathered, gate) = (Gathered::<u32, u32>::new(1, PATIENCE), Arc::new(Semaphore::new(0)));
        let inner = Arc::clone(&gate);
        let run = move |batch: Batch<u32, u32>| {
            let gate = Arc::clone(&inner);
            async move {
                batch.answer(batch.keys().to_vec());
                let _permit = gate.acquire().await;
                Ok(vec![0])
            }
        };
        assert!(matches!(gathered.ask(7, run).await, Ok(7)));
        gate.add_permits(1);
    }

    #[test]
    fn keys_are_padded_to_a_power_of_two() {
        for (count, padded_to) in [(0, 0), (1, 1), (2, 2), (3, 4), (5, 8), (64, 64)] {
            assert_eq!(padded((0..count).collect()).len(), padded_to);
        }
    }
}
