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
    /// begins with 32, goes on to more while half of them are settled within a quarter of a second, and to fewer where
    /// that takes more than a second. Default 128.
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
                    pace.settled();
                    if is_full && in_flight.len() * 2 <= pace.most && !storage.lasts() {
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

/// How many messages are held at once.
struct Pace {
    most: usize,
    limit: usize,
    /// Since when it is watched how fast they are settled, and how many were.
    since: Instant,
    settled: usize,
}

impl Pace {
    /// What it holds at first, and of a server that takes its time.
    const FEW: usize = 32;
    /// Half of them are settled within this time: it may hold twice as many.
    const FAST: Duration = Duration::from_millis(250);
    /// Half of them are not settled within this time: it may hold half as many.
    const SLOW: Duration = Duration::from_secs(1);

    fn new(limit: usize) -> Self {
        Self { most: limit.min(Self::FEW), limit, since: Instant::now(), settled: 0 }
    }

    /// So many are held now.
    fn holds(&mut self, held: usize) {
        if held < self.most {
            // Everything that is owed is in hand, so there is nothing to be learnt, and next time it begins anew.
            *self = Self::new(self.limit);
        } else if self.since.elapsed() > Self::SLOW {
            self.go_on_with(self.most / 2);
        }
    }

    /// One more is settled.
    fn settled(&mut self) {
        self.settled += 1;
        if self.settled * 2 >= self.most {
            let is_fast = self.since.elapsed() <= Self::FAST;
            self.go_on_with(if is_fast { self.most.saturating_mul(2) } else { self.most });
        }
    }

    fn go_on_with(&mut self, most: usize) {
        self.most = most.clamp(self.limit.min(Self::FEW), self.limit);
        (self.since, self.settled) = (Instant::now(), 0);
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

    /// A mailer with four connections, each of which takes this long for a mail.
    struct Steady {
        each: Duration,
        connections: Semaphore,
        held: AtomicUsize,
        most: AtomicUsize,
        sent: AtomicUsize,
    }

    #[async_trait]
    impl Mailer for Steady {
        async fn send(&self, _mail: Mail) -> Result<(), DeliveryError> {
            let held = self.held.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(held, Ordering::SeqCst);
            let connection = self.connections.acquire().await;
            tokio::time::sleep(self.each).await;
            self.held.fetch_sub(1, Ordering::SeqCst);
            self.sent.fetch_add(1, Ordering::SeqCst);
            connection.map(drop).map_err(|error| DeliveryError::Permanent(error.into()))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_holds_many_only_while_they_are_settled_fast() {
        for (ms, limit, expected) in [(1, 128, 128), (1, 40, 40), (1, 7, 7), (2000, 128, 32), (200, 128, 32)]
        {
            let zero = || AtomicUsize::new(0);
            let mailer = Arc::new(Steady {
                each: Duration::from_millis(ms),
                connections: Semaphore::new(4),
                held: zero(),
                most: zero(),
                sent: zero(),
            });
            let settings = WorkerSettings { concurrency: limit, ..WorkerSettings::default() };
            let server = Server::built(|builder| builder.mailer(mailer.clone()).worker(settings));
            for count in 0..400 {
                server.pending(&format!("a{count}@example.org"), "secret").await;
            }
            let (stop, relay) = start(&server);
            let all = tokio::time::timeout(Duration::from_secs(600), async {
                while mailer.sent.load(Ordering::SeqCst) < 400 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
            assert!(all.await.is_ok(), "all are sent");
            assert_eq!(mailer.most.load(Ordering::SeqCst), expected, "{ms} ms, at most {limit}");
            stop.cancel();
            assert!(relay.await.is_ok());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_becomes_slow_is_given_fewer() {
        let mut pace = Pace::new(128);
        for most in [32, 64, 128, 128] {
            assert_eq!(pace.most, most);
            pace.holds(most);
            (0..most / 2).for_each(|_| pace.settled());
        }
        for most in [128, 64, 32, 32] {
            assert_eq!(pace.most, most);
            // A poll in between makes no time shorter.
            tokio::time::advance(Pace::SLOW).await;
            pace.holds(128);
            pace.settled();
            tokio::time::advance(Duration::from_millis(1)).await;
            pace.holds(128);
        }
        (0..16).for_each(|_| pace.settled());
        assert_eq!(pace.most, 64);
        pace.holds(63);
        assert_eq!(pace.most, 32, "what was owed is in hand");
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
