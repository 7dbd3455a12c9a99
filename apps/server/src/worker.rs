//! The relay's loop: what is owed is claimed in batches and delivered, several at a time.
//!
//! It loses nothing: what it claimed and did not settle comes back when the lease ends.

use std::time::Duration;

use threepid_domain::model::Claimed;
use threepid_domain::ports::Unavailable;
use threepid_domain::use_cases::{Delivered, Relay};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

/// How the relay works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerSettings {
    /// So many messages are delivered at a time; at least 1. Default 8.
    pub concurrency: usize,
    /// So often it looks for what has become due, besides being woken. Default 1 s.
    pub poll: Duration,
    /// While storage cannot answer, it looks less and less often, down to this. Default 30 s.
    pub longest_pause: Duration,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self { concurrency: 8, poll: Duration::from_secs(1), longest_pause: Duration::from_secs(30) }
    }
}

/// Delivers what the outbox holds, until it is told to stop.
#[derive(Clone)]
pub struct Worker {
    relay: Relay,
    settings: WorkerSettings,
}

impl Worker {
    pub(crate) fn new(relay: Relay, settings: WorkerSettings) -> Self {
        let concurrency = settings.concurrency.max(1);
        Self { relay, settings: WorkerSettings { concurrency, ..settings } }
    }

    /// Claims and delivers until `shutdown`; then claims no more, and returns once what is in flight is settled.
    ///
    /// A try that is dropped instead is not lost: its lease ends, and it is tried again.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut storage = Outage::default();
        let mut in_flight = JoinSet::new();
        while !shutdown.is_cancelled() {
            let claimed = self.claim(self.settings.concurrency - in_flight.len(), &mut storage).await;
            let may_hold_more = in_flight.len() + claimed.len() == self.settings.concurrency;
            for message in claimed {
                let relay = self.relay.clone();
                in_flight.spawn(async move { relay.deliver(message).await });
            }
            self.wait(&shutdown, &mut in_flight, may_hold_more, &mut storage).await;
        }
        while let Some(ended) = in_flight.join_next().await {
            note(ended, &mut storage);
        }
    }

    async fn claim(&self, free: usize, storage: &mut Outage) -> Vec<Claimed> {
        if free == 0 {
            return Vec::new();
        }
        match self.relay.claim(free).await {
            Ok(claimed) => {
                storage.over();
                claimed
            }
            Err(error) => {
                storage.failed(&error);
                Vec::new()
            }
        }
    }

    /// Returns when claiming makes sense again.
    async fn wait(
        &self,
        shutdown: &CancellationToken,
        in_flight: &mut JoinSet<Result<Delivered, Unavailable>>,
        may_hold_more: bool,
        storage: &mut Outage,
    ) {
        let pause = storage.pause(&self.settings);
        let sleep = tokio::time::sleep(pause);
        tokio::pin!(sleep);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(ended) = in_flight.join_next() => {
                    note(ended, storage);
                    if may_hold_more && !storage.lasts() {
                        return;
                    }
                }
                // During an outage each new message would wake it, and each time for nothing.
                () = self.relay.woken(), if !storage.lasts() => return,
                () = &mut sleep => return,
            }
        }
    }
}

/// Says how a try ended, where the relay itself could not.
fn note(ended: Result<Result<Delivered, Unavailable>, JoinError>, storage: &mut Outage) {
    match ended {
        Ok(Ok(_delivered)) => {}
        Ok(Err(error)) => storage.failed(&error),
        Err(error) => tracing::error!(%error, "a delivery broke off; it is tried again when its lease ends"),
    }
}

/// Storage that cannot answer is said once when it begins and once when it ends.
#[derive(Default)]
struct Outage {
    failures: u32,
}

impl Outage {
    fn failed(&mut self, error: &Unavailable) {
        if self.failures == 0 {
            tracing::error!(error = crate::http::chain(error), "the outbox cannot answer; mail waits");
        }
        self.failures = self.failures.saturating_add(1);
    }

    fn over(&mut self) {
        if self.failures > 0 {
            tracing::info!(failures = self.failures, "the outbox answers again");
        }
        self.failures = 0;
    }

    fn lasts(&self) -> bool {
        self.failures > 0
    }

    /// The poll, and during an outage twice as long each time.
    fn pause(&self, settings: &WorkerSettings) -> Duration {
        let doubled = settings.poll.saturating_mul(2_u32.saturating_pow(self.failures.min(16)));
        if self.lasts() { doubled.min(settings.longest_pause.max(settings.poll)) } else { settings.poll }
    }
}
