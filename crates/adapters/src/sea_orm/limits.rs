//! Counts that every instance has to know: one row for each limit and subject, changed by one statement or under the one
//! lock of SQLite, so that acts which come at once are judged one after the other. Acts that wait in one process share it.
//!
//! A row is the time at which its bucket is full; one whose time has passed says nothing and may be purged. PostgreSQL
//! does not sync counts to the disk before the answer, since all that a machine's failure forgets is who was about to be
//! refused; on SQLite they share the commits of the other changes, and are told before these.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, Statement, Value};
use threepid_domain::ports::Unavailable;

use super::connection::Database;
use super::error::{StorageError, unavailable};
use super::gathered::Batch;
use super::storable_subject;
use super::write::OnEach;
use crate::limits::{Act, Counted, SharedAct, SharedCounts};

const PORT: &str = "rate limiter";

/// For the transaction of this statement alone.
macro_rules! unsynced {
    () => {
        "set_config('synchronous_commit', 'off', true) IS NOT NULL"
    };
}

/// PostgreSQL. Parameters: limit, subjects, now, interval, empty_until, nonsense_after. The subjects are a list in JSON of
/// pairs: a subject, and `now` with as many intervals as it has acts. It gives a row for each subject all of whose acts
/// are allowed. No sum here is beyond what the column holds.
const TAKE: &str = concat!(
    "INSERT INTO rate_limit (name, subject, full_at_us) \
     SELECT $1, value ->> 0, CAST(value ->> 1 AS bigint) FROM json_array_elements(CAST($2 AS json)) WHERE ",
    unsynced!(),
    " ON CONFLICT (name, subject) DO UPDATE SET full_at_us = CASE \
       WHEN rate_limit.full_at_us > $6 THEN $5 \
       WHEN rate_limit.full_at_us > $3 THEN rate_limit.full_at_us + (excluded.full_at_us - $3) \
       ELSE excluded.full_at_us END \
     WHERE (rate_limit.full_at_us > $6 AND excluded.full_at_us - $3 = $4) \
        OR rate_limit.full_at_us <= $5 - (excluded.full_at_us - $3) \
     RETURNING subject, full_at_us"
);

/// SQLite. Parameter: pairs of a limit and a subject. It gives those of them that are counted.
const COUNTED: &str = "SELECT json_group_array(json_array(r.name, r.subject, r.full_at_us)) FROM json_each($1) AS asked \
     CROSS JOIN rate_limit AS r ON r.name = asked.value ->> 0 AND r.subject = asked.value ->> 1";

/// SQLite. Parameter: limit, subject and the new time, of each.
const COUNT: &str = "INSERT INTO rate_limit (name, subject, full_at_us) \
     SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each($1) WHERE true \
     ON CONFLICT (name, subject) DO UPDATE SET full_at_us = excluded.full_at_us";

/// Parameters: limit, subject, interval.
const GIVE_BACK: OnEach = OnEach {
    sqlite: "UPDATE rate_limit SET full_at_us = full_at_us - $3 WHERE name = $1 AND subject = $2",
    postgres: concat!(
        "UPDATE rate_limit SET full_at_us = full_at_us - $3 WHERE name = $1 AND subject = $2 AND ",
        unsynced!()
    ),
};

/// Parameters: limit, subject.
const READ: &str = "SELECT full_at_us FROM rate_limit WHERE name = $1 AND subject = $2";

/// Acts of one caller, which are judged in their order up to the first that is not allowed.
type Acts = Vec<SharedAct>;

/// What comes of acts under one limit that are judged at once.
struct SameLimit {
    limit: &'static str,
    /// When: at the time of the act that came last.
    act: Act,
    /// By subject, in one order everywhere, so that two statements which change the same rows do not deadlock.
    subjects: BTreeMap<String, Vec<usize>>,
}

impl SameLimit {
    /// By limit, with the places of the acts.
    fn sort(acts: &[&SharedAct]) -> Vec<Self> {
        let mut sorted: Vec<Self> = Vec::new();
        for (place, SharedAct { limit, subject, act }) in acts.iter().enumerate() {
            let same = sorted.iter_mut().find(|known| known.limit == *limit && known.act.has_same_rate(*act));
            match same {
                Some(known) => {
                    if act.now > known.act.now {
                        known.act = *act;
                    }
                    known.subjects.entry(subject.clone()).or_default().push(place);
                }
                None => {
                    let subjects = BTreeMap::from([(subject.clone(), vec![place])]);
                    sorted.push(Self { limit, act: *act, subjects });
                }
            }
        }
        sorted
    }

    /// The parameters of [`TAKE`] for the subjects all of whose acts a full bucket would allow.
    fn parameters(&self) -> Result<Vec<Value>, StorageError> {
        let Act { now, interval, empty_until, nonsense_after } = self.act;
        let full_at = |acts: usize| i64::try_from(acts).ok()?.checked_mul(interval)?.checked_add(now);
        let subjects: Vec<(&str, i64)> = self
            .subjects
            .iter()
            .filter_map(|(subject, places)| Some((subject.as_str(), full_at(places.len())?)))
            .filter(|(_, full_at)| *full_at <= empty_until)
            .collect();
        let subjects = serde_json::to_string(&subjects)?;
        let numbers = [now, interval, empty_until, nonsense_after].map(Value::from);
        Ok([self.limit.into(), subjects.into()].into_iter().chain(numbers).collect())
    }
}

impl Database {
    /// Judges acts, in their order. On SQLite they are told before they are durable, as on PostgreSQL; but once that came to
    /// nothing, such as on a full disk, nobody is told early until counts are durable again.
    async fn take_all(&self, batch: Batch<Acts, Vec<Counted>>) -> Result<Vec<Vec<Counted>>, StorageError> {
        if self.together().is_some() {
            let early = self.gathered().counts_hold.load(Ordering::Relaxed);
            let judged = self.write(move |transaction| {
                let batch = batch.clone();
                Box::pin(async move {
                    let judged = judge_in(transaction, &batch.keys()).await?;
                    if early {
                        batch.answer(judged.clone());
                    }
                    Ok(judged)
                })
            });
            let judged = judged.await.map_err(StorageError::from_statement);
            let hold = self.gathered().counts_hold.swap(judged.is_ok(), Ordering::Relaxed);
            if let (true, Err(error)) = (hold, &judged) {
                tracing::error!(%error, "counts of limits are not kept");
            }
            return judged;
        }
        let callers = batch.keys();
        let mut judged = vec![Vec::new(); callers.len()];
        // The first of each, then the second of those whose first is allowed, and so on.
        for round in 0.. {
            let due = callers
                .iter()
                .zip(&mut judged)
                .filter(|(_, judged)| judged.iter().all(|act: &Counted| act.is_allowed));
            let due = due.filter_map(|(acts, judged)| Some((acts.get(round)?, judged)));
            let (acts, judged): (Vec<_>, Vec<_>) = due.unzip();
            if acts.is_empty() {
                break;
            }
            for (judged, act) in judged.into_iter().zip(self.take_at_once(&acts).await?) {
                judged.push(act);
            }
        }
        Ok(judged)
    }

    /// Judges acts of as many callers by one statement for each limit.
    async fn take_at_once(&self, acts: &[&SharedAct]) -> Result<Vec<Counted>, StorageError> {
        let mut judged = vec![None; acts.len()];
        for same in SameLimit::sort(acts) {
            let full_at = self.take_together(&same).await?;
            for (subject, places) in &same.subjects {
                // The last of them left the bucket as it is; each before it, by an interval fuller.
                let mut left = i64::try_from(places.len()).unwrap_or(i64::MAX);
                let mut refused = None;
                for place in places {
                    left -= 1;
                    let counted = match (full_at.get(subject), refused) {
                        (Some(full_at), _) => {
                            let before = left.saturating_mul(same.act.interval);
                            Counted { is_allowed: true, full_at: full_at.saturating_sub(before) }
                        }
                        // Once one is refused, so are those that come at the same time.
                        (None, Some(refused)) => refused,
                        (None, None) => self.take_alone(&same, subject, places.len()).await?,
                    };
                    refused = refused.or((!counted.is_allowed).then_some(counted));
                    if let Some(judged) = judged.get_mut(*place) {
                        *judged = Some(counted);
                    }
                }
            }
        }
        let all: Option<Vec<Counted>> = judged.into_iter().collect();
        all.ok_or_else(|| StorageError::Undecided("an act was not judged".to_owned()))
    }

    /// When the buckets are full of the subjects all of whose acts are allowed.
    async fn take_together(&self, same: &SameLimit) -> Result<HashMap<String, i64>, StorageError> {
        // It is run where there is a server alone.
        let take = OnEach { sqlite: TAKE, postgres: TAKE };
        let rows = self.run_again(take, same.parameters()?).await?;
        let full_at = rows.iter().map(|row| Ok((row.try_get_by_index(0)?, row.try_get_by_index(1)?)));
        Ok(full_at.collect::<Result<_, DbErr>>()?)
    }

    /// Judges one of the acts of a subject that were not all allowed at once.
    async fn take_alone(
        &self,
        same: &SameLimit,
        subject: &str,
        acts: usize,
    ) -> Result<Counted, StorageError> {
        let (limit, act) = (same.limit, same.act);
        if acts > 1 {
            let subjects = BTreeMap::from([(subject.to_owned(), vec![0])]);
            let alone = SameLimit { limit, act, subjects };
            if let Some(full_at) = self.take_together(&alone).await?.remove(subject) {
                return Ok(Counted { is_allowed: true, full_at });
            }
        }
        // What is read after the refusal only says how long to wait.
        let full_at = self.read_count(limit, subject.to_owned()).await?;
        Ok(Counted { is_allowed: false, full_at: full_at.unwrap_or(act.empty_until) })
    }

    /// On SQLite in its place among the changes, since what was told may not be durable yet.
    async fn read_count(&self, limit: &'static str, subject: String) -> Result<Option<i64>, StorageError> {
        let backend = self.reader().get_database_backend();
        let read = Statement::from_sql_and_values(backend, READ, [limit.into(), subject.into()]);
        let row = if self.together().is_some() {
            let row = self.write(move |transaction| {
                let read = read.clone();
                Box::pin(async move { Ok(transaction.query_one_raw(read).await?) })
            });
            row.await.map_err(StorageError::from_statement)?
        } else {
            self.reader().query_one_raw(read).await?
        };
        Ok(row.map(|row| row.try_get_by_index(0)).transpose()?)
    }
}

/// Judges acts in a transaction that no other one that writes is beside.
async fn judge_in(
    transaction: &DatabaseTransaction,
    callers: &[Acts],
) -> Result<Vec<Vec<Counted>>, StorageError> {
    let run = |sql, list| Statement::from_sql_and_values(DbBackend::Sqlite, sql, [Value::from(list)]);
    let asked: BTreeSet<_> = callers.iter().flatten().map(|of| (of.limit, of.subject.as_str())).collect();
    let row = transaction.query_one_raw(run(COUNTED, serde_json::to_string(&asked)?)).await?;
    let known: Option<String> = row.map(|row| row.try_get_by_index(0)).transpose()?;
    let known: Vec<(String, String, i64)> = serde_json::from_str(known.as_deref().unwrap_or("[]"))?;
    let mut full_at: HashMap<_, _> =
        known.iter().map(|(limit, subject, at)| ((limit.as_str(), subject.as_str()), *at)).collect();
    let mut changed = BTreeMap::new();
    let mut judged = Vec::with_capacity(callers.len());
    for acts in callers {
        let mut of_caller: Vec<Counted> = Vec::with_capacity(acts.len());
        for SharedAct { limit, subject, act } in acts {
            let key = (*limit, subject.as_str());
            let before = full_at.get(&key).copied();
            let taken = act.take(before);
            if let Ok(at) = taken {
                full_at.insert(key, at);
                changed.insert(key, at);
            }
            let full_at = taken.unwrap_or_else(|_wait| before.unwrap_or(act.empty_until));
            of_caller.push(Counted { is_allowed: taken.is_ok(), full_at });
            if taken.is_err() {
                break;
            }
        }
        judged.push(of_caller);
    }
    if !changed.is_empty() {
        let changed: Vec<_> = changed.iter().map(|((limit, subject), at)| (limit, subject, at)).collect();
        transaction.execute_raw(run(COUNT, serde_json::to_string(&changed)?)).await?;
    }
    Ok(judged)
}

#[async_trait]
impl SharedCounts for Database {
    async fn take(&self, mut acts: Vec<SharedAct>) -> Result<Vec<Counted>, Unavailable> {
        for act in &mut acts {
            act.subject = storable_subject(&act.subject);
        }
        let database = self.clone();
        let judged = self.gathered().acts.ask(acts, move |batch| {
            let database = database.clone();
            async move { database.take_all(batch).await }
        });
        judged.await.map_err(unavailable(PORT))
    }

    async fn full_at(&self, limit: &'static str, subject: String) -> Result<Option<i64>, Unavailable> {
        self.read_count(limit, storable_subject(&subject)).await.map_err(unavailable(PORT))
    }

    async fn give_back(&self, limit: &'static str, subject: String, act: Act) -> Result<(), Unavailable> {
        let parameters = vec![limit.into(), storable_subject(&subject).into(), act.interval.into()];
        self.run_again(GIVE_BACK, parameters).await.map_err(unavailable(PORT))?;
        Ok(())
    }
}
