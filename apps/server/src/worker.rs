//! The relay's loop: what is owed is claimed in batches and delivered, several at a time.
//!
//! While there is more, it claims once half of what it may hold is settled: each claim is a commit that is waited for. What
//! is claimed and waits for a connection to a slow server would use up the time that its try may take, so it holds many only
//! while many are settled fast.
//!
//! It loses nothing: what it claimed and did not settle comes back when the lease ends.

use std::time::Duration;

use threepid_domain::model::Claimed;
use threepid_domain::ports::Unavailable;
use threepid_domain::use_cases::{Delivered, Relay};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// How the relay works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerSettings {
    /// So many messages are claimed and not settled yet, at most, and so many a crash may send twice; at least 1. It
    /// begins with 32, and goes on to more while half of them are settled within a quarter of a second. Default 128.
    pub concurrency: usize,
    /// So often it looks for what has become due, besides being woken. Default 1 s.
    pub poll: Duration,
    /// While storage cannot answer, it looks less and less often, down to this. Default 30 s.
    pub longest_pause: Duration,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self { concurrency: 128, poll: Duration::from_secs(1), longest_pause: Duration::from_secs(30) }
    }
}

/// Delivers what the outbox holds, until it is told to stop.
#[derive(Clone)]
pub struct Worker {
    relay: Relay,
    settings: WorkerSettings,
    metrics: Option<Metrics>,
}

impl Worker {
    pub(crate) fn new(relay: Relay, settings: WorkerSettings, metrics: Option<Metrics>) -> Self {
        let concurrency = settings.concurrency.max(1);
        Self { relay, settings: WorkerSettings { concurrency, ..settings }, metrics }
    }

    /// Claims and delivers until `shutdown`; then claims no more, and returns once what is in flight is settled.
    ///
    /// A try that is dropped instead is not lost: its lease ends, and it is tried again.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut storage = Outage::default();
        let mut in_flight = JoinSet::new();
        let mut pace = Pace::new(self.settings.concurrency);
        while !shutdown.is_cancelled() {
            let free = pace.most.saturating_sub(in_flight.len());
            let claimed = self.claim(free, &mut storage).await;
            for message in claimed {
                in_flight.spawn(deliver(self.relay.clone(), self.metrics.clone(), message));
            }
            pace.holds(in_flight.len());
            self.wait(&shutdown, &mut in_flight, &mut pace, &mut storage).await;
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
        pace: &mut Pace,
        storage: &mut Outage,
    ) {
        let is_full = in_flight.len() >= pace.most;
        let pause = storage.pause(&self.settings);
        let sleep = tokio::time::sleep(pause);
        tokio::pin!(sleep);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(ended) = in_flight.join_next() => {
                    note(ended, storage);
                    if is_full && in_flight.len() * 2 <= pace.most && !storage.lasts() {
                        return pace.is_half_done();
                    }
                }
                // During an outage each new message would wake it, and each time for nothing.
                () = self.relay.woken(), if !storage.lasts() => return,
                () = &mut sleep => return,
            }
        }
    }
}

/// How many messages are held at once.
struct Pace {
    most: usize,
    limit: usize,
    /// Since when it holds as many as it may, or fewer, but more than half.
    full_since: Option<Instant>,
}

impl Pace {
    /// What it holds of a server that takes its time.
    const FEW: usize = 32;
    /// Half of them are settled within this time: it may hold twice as many.
    const FAST: Duration = Duration::from_millis(250);
    /// Half of them took longer: it may hold half as many.
    const SLOW: Duration = Duration::from_secs(1);

    fn new(limit: usize) -> Self {
        Self { most: limit.min(Self::FEW), limit, full_since: None }
    }

    fn holds(&mut self, held: usize) {
        if held >= self.most {
            self.full_since.get_or_insert_with(Instant::now);
        }
    }

    fn is_half_done(&mut self) {
        let Some(since) = self.full_since.take() else { return };
        let most = match since.elapsed() {
            took if took <= Self::FAST => self.most.saturating_mul(2),
            took if took > Self::SLOW => self.most / 2,
            _ => self.most,
        };
        self.most = most.clamp(self.limit.min(Self::FEW), self.limit);
    }
}

/// Delivers one message, and counts how that ended.
async fn deliver(relay: Relay, metrics: Option<Metrics>, claimed: Claimed) -> Result<Delivered, Unavailable> {
    let (kind, begun) = (claimed.message.payload.kind(), Instant::now());
    let ended = relay.deliver(claimed).await;
    if let Some(metrics) = metrics {
        metrics.tried(kind, &ended, begun.elapsed());
    }
    ended
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

#[cfg(test)]
mod tests {
    #![expect(clippy::panic, reason = "what a test stands on fails it")]

    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use threepid_domain::ports::{DeliveryError, Mail, Mailer, MockOutbox};
    use threepid_domain::testing::{Reply, RowState};
    use tokio::sync::Semaphore;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::http::testing::Server;

    /// A mailer that holds every mail until it is let through.
    struct SlowMailer {
        at_once: AtomicUsize,
        begun: AtomicUsize,
        most: AtomicUsize,
        gate: Semaphore,
    }

    impl SlowMailer {
        fn new() -> Arc<Self> {
            let zero = || AtomicUsize::new(0);
            Arc::new(Self { at_once: zero(), begun: zero(), most: zero(), gate: Semaphore::new(0) })
        }

        fn begun(&self) -> usize {
            self.begun.load(Ordering::SeqCst)
        }
    }

    #[async_trait]
    impl Mailer for SlowMailer {
        async fn send(&self, _mail: Mail) -> Result<(), DeliveryError> {
            let at_once = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(at_once, Ordering::SeqCst);
            self.begun.fetch_add(1, Ordering::SeqCst);
            let through = self.gate.acquire().await;
            self.at_once.fetch_sub(1, Ordering::SeqCst);
            through.map(|permit| permit.forget()).map_err(|error| DeliveryError::Permanent(error.into()))
        }
    }

    fn start(server: &Server) -> (CancellationToken, JoinHandle<()>) {
        let stop = CancellationToken::new();
        let Some(worker) = server.app.worker() else { panic!("there is a mailer") };
        (stop.clone(), tokio::spawn(worker.run(stop)))
    }

    /// Lets the others run until `what` holds; ten seconds at most, of the test's own time.
    async fn until(what: impl Fn() -> bool) {
        let reached = tokio::time::timeout(Duration::from_secs(10), async {
            while !what() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(reached.await.is_ok(), "it did not come to that in time");
    }

    fn sent(server: &Server) -> usize {
        server.store.outbox_rows().iter().filter(|row| row.state == RowState::Sent).count()
    }

    #[tokio::test(start_paused = true)]
    async fn it_holds_many_while_they_are_settled_fast() {
        let mut pace = Pace::new(100);
        let mut held = Vec::new();
        for ms in [250, 250, 250, 251, 1000, 1001, 1001, 5000, 10] {
            held.push(pace.most);
            pace.holds(pace.most);
            tokio::time::advance(Duration::from_millis(ms)).await;
            // What is claimed in between does not make the time any shorter.
            pace.holds(pace.most);
            pace.is_half_done();
        }
        assert_eq!(held, [32, 64, 100, 100, 100, 100, 50, 32, 32]);
        assert_eq!(pace.most, 64);
        pace.holds(pace.most - 1);
        pace.is_half_done();
        assert_eq!(pace.most, 64, "it was not full");
        assert_eq!((Pace::new(1).most, Pace::new(40).most), (1, 32));
        let mut one = Pace::new(1);
        one.holds(1);
        tokio::time::advance(Duration::from_secs(60)).await;
        one.is_half_done();
        assert_eq!(one.most, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_mail_goes_out_as_soon_as_it_is_owed() {
        let server = Server::built(|builder| {
            let poll = Duration::from_secs(3600);
            builder.worker(WorkerSettings { poll, ..WorkerSettings::default() })
        });
        let (stop, relay) = start(&server);
        for count in 1..=3 {
            server.pending(&format!("a{count}@example.org"), "secret").await;
            until(|| sent(&server) == count).await;
        }
        stop.cancel();
        assert!(relay.await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_mail_that_was_not_taken_is_tried_again_when_it_is_due() {
        let server = Server::new();
        server.mailer.next_is(Reply::Transient);
        let (stop, relay) = start(&server);
        server.pending("a@example.org", "secret").await;
        until(|| server.mailer.tried().len() == 1).await;
        server.clock.advance(Duration::from_secs(5));
        until(|| sent(&server) == 1).await;
        stop.cancel();
        assert!(relay.await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn several_are_delivered_at_a_time_and_never_more_than_set() {
        let mailer = SlowMailer::new();
        let server = Server::built(|builder| {
            let settings = WorkerSettings { concurrency: 3, ..WorkerSettings::default() };
            builder.mailer(mailer.clone()).worker(settings)
        });
        for count in 0..10 {
            server.pending(&format!("a{count}@example.org"), "secret").await;
        }
        let (stop, relay) = start(&server);
        until(|| mailer.begun() == 3).await;
        mailer.gate.add_permits(1);
        until(|| mailer.begun() == 4).await;
        mailer.gate.add_permits(9);
        until(|| sent(&server) == 10).await;
        assert_eq!(mailer.most.load(Ordering::SeqCst), 3);
        stop.cancel();
        assert!(relay.await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_end_nothing_more_is_claimed_and_what_is_in_flight_is_settled() {
        let mailer = SlowMailer::new();
        let server = Server::built(|builder| {
            let settings = WorkerSettings { concurrency: 1, ..WorkerSettings::default() };
            builder.mailer(mailer.clone()).worker(settings)
        });
        server.pending("a@example.org", "secret").await;
        server.pending("b@example.org", "secret").await;
        let (stop, relay) = start(&server);
        until(|| mailer.begun() == 1).await;
        stop.cancel();
        mailer.gate.add_permits(2);
        assert!(relay.await.is_ok());
        assert_eq!((sent(&server), mailer.begun()), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn during_an_outage_it_looks_less_often_and_afterwards_goes_on() {
        let server = Server::new();
        server.pending("a@example.org", "secret").await;
        server.store.set_available(false);
        let (stop, relay) = start(&server);
        tokio::time::sleep(Duration::from_secs(300)).await;
        assert!(server.mailer.tried().is_empty());
        server.store.set_available(true);
        tokio::time::timeout(Duration::from_secs(31), async {
            while sent(&server) == 0 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("it did not come back within the longest pause"));
        stop.cancel();
        assert!(relay.await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_asked_about_with_growing_pauses() {
        let claims = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&claims);
        let mut outbox = MockOutbox::new();
        outbox.expect_claim().returning(move |_, _, _, _| {
            counted.fetch_add(1, Ordering::SeqCst);
            Err(Unavailable::new("outbox", "down"))
        });
        // An outbox that is rung all the time does not shorten the pauses.
        outbox.expect_woken().returning(|| ());
        let server = Server::built(|builder| builder.outbox(Arc::new(outbox)));
        let (stop, relay) = start(&server);
        tokio::time::sleep(Duration::from_secs(90)).await;
        // After 0, 2, 6, 14, 30, 60 and 90 seconds.
        assert!((6..=7).contains(&claims.load(Ordering::SeqCst)), "{claims:?}");
        stop.cancel();
        assert!(relay.await.is_ok());
    }
}
