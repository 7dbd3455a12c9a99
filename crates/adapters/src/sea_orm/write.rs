//! How a change reaches the engine.
//!
//! On PostgreSQL each is a transaction of its own (those that only add share one, see `gathered.rs`), which is run anew
//! where it collided with another one or its connection was cut before the engine was told to commit. On SQLite, where one connection writes and each commit waits
//! for the disk, they queue for [`Together`], which commits what waits in one transaction.
//!
//! Either way a change is answered once it is durable, and by its own outcome: see [`Together`]. Counts of limits alone are
//! told earlier.

use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, ExecResult, QueryResult,
    SqliteTransactionMode, Statement, StatementBuilder, TransactionOptions, TransactionTrait, Value,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::connection::Database;
use super::error::{ApplyError, StorageError};

/// So often a change is tried that collides with others, or meets connections that were cut.
pub(super) const TRIES: usize = 10;

/// The longest pause after the first try; after each further one it may be twice as long, up to the longest of all.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(160);

/// So many changes share a transaction at most: the first of them waits for the last.
const MOST_AT_ONCE: usize = 128;

/// So many changes wait at most; who comes then waits outside.
const QUEUE: usize = 1024;

/// A statement as each engine reads it.
#[derive(Clone, Copy)]
pub(super) struct OnEach {
    pub(super) sqlite: &'static str,
    pub(super) postgres: &'static str,
}

impl OnEach {
    pub(super) fn on(self, backend: DbBackend) -> &'static str {
        if backend == DbBackend::Sqlite { self.sqlite } else { self.postgres }
    }
}

/// The statements of a change.
pub(super) type Steps<'t, T> = Pin<Box<dyn Future<Output = Result<T, ApplyError>> + Send + 't>>;

/// A change. It may be run more than once; what the tries before have done is undone by then.
pub(super) trait Work<T>:
    for<'t> Fn(&'t DatabaseTransaction) -> Steps<'t, T> + Send + Sync + 'static
{
}

impl<T, F> Work<T> for F where F: for<'t> Fn(&'t DatabaseTransaction) -> Steps<'t, T> + Send + Sync + 'static {}

impl Database {
    /// Runs `work` in a transaction, and answers once it is committed.
    pub(super) async fn write<T: Send + 'static>(&self, work: impl Work<T>) -> Result<T, ApplyError> {
        match self.together() {
            Some(together) => together.write(work).await,
            None => self.write_alone(work).await,
        }
    }

    /// Runs a single statement that changes something; how many rows it changed.
    pub(super) async fn execute(&self, statement: &impl StatementBuilder) -> Result<u64, StorageError> {
        let Some(together) = self.together() else {
            return Ok(self.writer().execute(statement).await?.rows_affected());
        };
        let statement = statement.build(&self.writer().get_database_backend());
        let changed = together.write(move |transaction| {
            let statement = statement.clone();
            Box::pin(async move { Ok(transaction.execute_raw(statement).await?) })
        });
        let changed: ExecResult = changed.await.map_err(StorageError::from_statement)?;
        Ok(changed.rows_affected())
    }

    /// Runs a single statement that changes something and is written for each engine; the rows that it gives.
    pub(super) async fn run(
        &self,
        statement: OnEach,
        parameters: Vec<Value>,
    ) -> Result<Vec<QueryResult>, StorageError> {
        let backend = self.writer().get_database_backend();
        let statement = Statement::from_sql_and_values(backend, statement.on(backend), parameters);
        if self.together().is_some() {
            let written = self.write(move |transaction| {
                let statement = statement.clone();
                Box::pin(async move { Ok(transaction.query_all_raw(statement).await?) })
            });
            return written.await.map_err(StorageError::from_statement);
        }
        // As a transaction of its own.
        let mut tries = 1;
        loop {
            match self.writer().query_all_raw(statement.clone()).await.map_err(StorageError::from) {
                Err(StorageError::Collision(_)) if tries < TRIES => {
                    step_aside(tries).await;
                    tries += 1;
                }
                ended => return ended,
            }
        }
    }

    /// The same, anew where its connection was cut. The statement may be run twice, so this is for those that do no harm
    /// then.
    pub(super) async fn run_again(
        &self,
        statement: OnEach,
        parameters: Vec<Value>,
    ) -> Result<Vec<QueryResult>, StorageError> {
        let mut tries = 1;
        loop {
            match self.run(statement, parameters.clone()).await {
                Err(StorageError::Cut(_)) if tries < TRIES => {
                    step_aside(tries).await;
                    tries += 1;
                }
                ended => return ended,
            }
        }
    }

    async fn write_alone<T>(&self, work: impl Work<T>) -> Result<T, ApplyError> {
        let mut tries = 1;
        loop {
            match attempt(self.writer(), &work).await {
                Ok(done) => return Ok(done),
                Err(Failed::Undone(ApplyError::Storage(
                    StorageError::Collision(_) | StorageError::Cut(_),
                )))
                | Err(Failed::Unbegun(StorageError::Cut(_)))
                | Err(Failed::Unknown(StorageError::Collision(_)))
                    if tries < TRIES =>
                {
                    step_aside(tries).await;
                    tries += 1;
                }
                Err(Failed::Undone(error)) => return Err(error),
                Err(Failed::Unbegun(error) | Failed::Unknown(error)) => {
                    return Err(error.for_another().into());
                }
            }
        }
    }
}

/// Waits after so many tries, for a time drawn by lot: of changes that are in each other's way, the ones that come back at
/// once meet again.
pub(super) async fn step_aside(tries: usize) {
    let doublings = u32::try_from(tries.clamp(1, TRIES) - 1).unwrap_or(0);
    let longest = (FIRST_PAUSE * 2_u32.pow(doublings)).min(LONGEST_PAUSE);
    tokio::time::sleep(longest.mul_f64(fastrand::f64())).await;
}

/// How far a transaction came that failed.
enum Failed {
    /// There is none.
    Unbegun(StorageError),
    /// The engine was not told to commit: nothing is done.
    Undone(ApplyError),
    /// It was, and its answer is not known; but after a collision nothing is done.
    Unknown(StorageError),
}

/// A transaction that writes. SQLite takes its lock now: one that took it at its first write could meet a snapshot that
/// is too old, and no waiting would mend that.
pub(super) async fn begin(connection: &DatabaseConnection) -> Result<DatabaseTransaction, DbErr> {
    let options = TransactionOptions {
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        ..TransactionOptions::default()
    };
    connection.begin_with_options(options).await
}

/// Runs `work` in a transaction of its own, once.
async fn attempt<T>(connection: &DatabaseConnection, work: &impl Work<T>) -> Result<T, Failed> {
    let transaction = begin(connection).await.map_err(|error| Failed::Unbegun(error.into()))?;
    match work(&transaction).await {
        Ok(done) => match transaction.commit().await {
            Ok(()) => Ok(done),
            Err(error) => Err(Failed::Unknown(error.into())),
        },
        Err(error) => {
            undo(transaction).await;
            Err(Failed::Undone(error))
        }
    }
}

/// Rolls back. A transaction that cannot be ends with its connection, which is not used again.
async fn undo(transaction: DatabaseTransaction) {
    if let Err(error) = transaction.rollback().await {
        tracing::debug!(%error, "a transaction ended with its connection");
    }
}

/// Commits the changes that wait in one transaction, in the order in which they came, so that they share one wait for
/// the disk.
///
/// - Nobody is answered before that transaction is durable, but for whoever tells what it came to by itself.
/// - A conflict is undone on its own, back to its savepoint, and answered as a conflict; the others stand. Since
///   conflicts are rare and savepoints cost a third, the changes are first run without; the first conflict
///   undoes them all, and they are run again, each behind a savepoint.
/// - Whatever else goes wrong undoes the transaction, at once: where the disk is full, the engine has ended it by
///   itself, and the next statement would be committed on its own. Then each change is run alone.
/// - What is in the queue is done, whether or not its caller still waits; but what has waited for longer than a caller
///   may wait for a connection is given up before it is begun.
pub(super) struct Together {
    queue: mpsc::Sender<Queued>,
    patience: Duration,
}

enum Queued {
    Change(Box<dyn Job>),
    /// No more will come.
    End(oneshot::Sender<()>),
}

impl Together {
    /// Begins to write through `connection`. Each change waits for it for as long as `patience`.
    pub(super) fn start(connection: DatabaseConnection, patience: Duration) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(work_off(connection, waiting, patience));
        Self { queue, patience }
    }

    async fn write<T: Send + 'static>(&self, work: impl Work<T>) -> Result<T, ApplyError> {
        let (answer, answered) = oneshot::channel();
        let change = Change { work, answer, outcome: None, since: Instant::now() };
        let queued = self.queue.send_timeout(Queued::Change(Box::new(change)), self.patience).await;
        queued.map_err(|error| match error {
            mpsc::error::SendTimeoutError::Timeout(_) => too_late(),
            mpsc::error::SendTimeoutError::Closed(_) => {
                StorageError::Undecided("the database is closed".into())
            }
        })?;
        answered.await.map_err(|_| StorageError::Undecided("the transaction broke off".into()))?
    }

    /// Ends once all that was queued before is done. What comes later fails.
    pub(super) async fn close(&self) {
        let (ended, end) = oneshot::channel();
        // Where the queue is closed, somebody else has seen to it.
        if self.queue.send(Queued::End(ended)).await.is_ok() {
            let _ = end.await;
        }
    }
}

fn too_late() -> StorageError {
    StorageError::Undecided("too many changes wait for the database".to_owned())
}

/// A change in the queue, whatever it answers.
#[async_trait]
trait Job: Send {
    /// Runs it, and keeps what came of it.
    async fn run(&mut self, transaction: &DatabaseTransaction) -> Ran;

    /// Answers with what came of it, or with the reason why that is not so.
    fn answer(self: Box<Self>, committed: Result<(), StorageError>);

    fn has_waited(&self) -> Duration;
}

/// What came of a change in a transaction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ran {
    Done,
    Conflict,
    Broken,
}

struct Change<T, W> {
    work: W,
    answer: oneshot::Sender<Result<T, ApplyError>>,
    outcome: Option<Result<T, ApplyError>>,
    since: Instant,
}

#[async_trait]
impl<T: Send, W: Work<T>> Job for Change<T, W> {
    async fn run(&mut self, transaction: &DatabaseTransaction) -> Ran {
        let outcome = (self.work)(transaction).await;
        let ran = match &outcome {
            Ok(_) => Ran::Done,
            Err(ApplyError::Conflict(_)) => Ran::Conflict,
            Err(ApplyError::Storage(_)) => Ran::Broken,
        };
        self.outcome = Some(outcome);
        ran
    }

    fn answer(self: Box<Self>, committed: Result<(), StorageError>) {
        let nothing = || Err(StorageError::Undecided("it was not run".to_owned()).into());
        let answer = match committed {
            Ok(()) => self.outcome.unwrap_or_else(nothing),
            Err(error) => Err(error.into()),
        };
        // A caller that went away wants none.
        let _ = self.answer.send(answer);
    }

    fn has_waited(&self) -> Duration {
        self.since.elapsed()
    }
}

/// Takes what waits, commits it, and so on, until the queue is closed and empty.
async fn work_off(connection: DatabaseConnection, mut queue: mpsc::Receiver<Queued>, patience: Duration) {
    let mut ends = Vec::new();
    while let Some(first) = queue.recv().await {
        let (mut changes, mut next) = (Vec::new(), Some(first));
        while let Some(queued) = next {
            match queued {
                Queued::Change(change) if change.has_waited() > patience => change.answer(Err(too_late())),
                Queued::Change(change) => changes.push(change),
                Queued::End(end) => {
                    queue.close();
                    ends.push(end);
                }
            }
            next = if changes.len() < MOST_AT_ONCE { queue.try_recv().ok() } else { None };
        }
        let group = tokio::spawn(commit_all(connection.clone(), changes));
        // In a task of its own: what breaks off there does not end the queue. Its callers learn of it.
        if let Err(error) = group.await {
            tracing::error!(%error, "a transaction broke off");
        }
    }
    for end in ends {
        let _ = end.send(());
    }
}

async fn commit_all(connection: DatabaseConnection, mut changes: Vec<Box<dyn Job>>) {
    for behind_savepoints in [false, true] {
        if changes.len() < 2 {
            break;
        }
        match commit_group(&connection, &mut changes, behind_savepoints).await {
            Ok(()) => return changes.into_iter().for_each(|change| change.answer(Ok(()))),
            Err(Ended::Told(error)) => return fail(changes, &error),
            Err(Ended::Undone(Ran::Conflict)) => {}
            Err(Ended::Undone(_)) => break,
        }
    }
    let mut changes = changes.into_iter();
    while let Some(change) = changes.next() {
        let mut alone = vec![change];
        match commit_group(&connection, &mut alone, false).await {
            // Undone by what came of it, so that is the answer.
            Ok(()) | Err(Ended::Undone(_)) => alone.into_iter().for_each(|change| change.answer(Ok(()))),
            Err(Ended::Told(error)) => {
                alone.extend(changes);
                return fail(alone, &error);
            }
        }
    }
}

/// Answers that nothing of this is known to be done. Conflicts, too: what they met may be undone.
fn fail(changes: Vec<Box<dyn Job>>, error: &StorageError) {
    for change in changes {
        change.answer(Err(error.for_another()));
    }
}

/// Why no transaction was committed.
enum Ended {
    /// A change could not be, and so none was.
    Undone(Ran),
    /// The engine said why there is none, or was told to commit and did not say that it did.
    Told(StorageError),
}

impl From<DbErr> for Ended {
    fn from(error: DbErr) -> Self {
        Self::Told(error.into())
    }
}

/// Runs the changes in one transaction. With savepoints a conflict is undone by itself; without, it undoes all.
async fn commit_group(
    connection: &DatabaseConnection,
    changes: &mut [Box<dyn Job>],
    behind_savepoints: bool,
) -> Result<(), Ended> {
    let transaction = begin(connection).await?;
    for change in changes {
        let ran = if behind_savepoints {
            run_behind_savepoint(&transaction, change).await
        } else {
            Ok(change.run(&transaction).await)
                .and_then(|ran| if ran == Ran::Done { Ok(()) } else { Err(ran) })
        };
        if let Err(ran) = ran {
            undo(transaction).await;
            return Err(Ended::Undone(ran));
        }
    }
    Ok(transaction.commit().await?)
}

/// Runs one change. What it did is there afterwards, or it met a conflict and nothing of it is.
async fn run_behind_savepoint(
    transaction: &DatabaseTransaction,
    change: &mut Box<dyn Job>,
) -> Result<(), Ran> {
    let savepoint = transaction.begin().await.map_err(|_| Ran::Broken)?;
    let ended = match change.run(&savepoint).await {
        Ran::Done => savepoint.commit().await,
        Ran::Conflict => savepoint.rollback().await,
        Ran::Broken => return Err(Ran::Broken),
    };
    ended.map_err(|_| Ran::Broken)
}
