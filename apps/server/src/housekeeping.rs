//! The caretaker: every now and then, what has ended is removed, in small batches with pauses between them.
//!
//! Any number of instances may do it at once. One that breaks off has removed what it had removed, and goes on the next
//! time.

use std::time::Duration;

use threepid_domain::ports::{Perishable, Unavailable};
use threepid_domain::use_cases::{BATCH, Housekeeper, Retention};
use tokio_util::sync::CancellationToken;

/// How the caretaker works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HousekeepingSettings {
    /// So often it looks for what has ended. Default 10 min.
    pub every: Duration,
    /// The pause after each batch, in which storage is the others'. Default 50 ms.
    pub pause: Duration,
    /// How long is kept what nobody but the operator looks at.
    pub retention: Retention,
}

impl Default for HousekeepingSettings {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(10 * 60),
            pause: Duration::from_millis(50),
            retention: Retention::default(),
        }
    }
}

/// Removes what has ended, until it is told to stop.
#[derive(Clone)]
pub struct Caretaker {
    housekeeper: Housekeeper,
    settings: HousekeepingSettings,
}

impl Caretaker {
    pub(crate) fn new(housekeeper: Housekeeper, settings: HousekeepingSettings) -> Self {
        Self { housekeeper, settings }
    }

    /// Looks, removes and waits, until `shutdown`. It stops between two batches.
    pub async fn run(self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            self.round(&shutdown).await;
            rest(&shutdown, self.settings.every).await;
        }
    }

    async fn round(&self, shutdown: &CancellationToken) {
        for what in Perishable::ALL {
            match self.clear(what, shutdown).await {
                Ok(0) => {}
                Ok(removed) => tracing::info!(what = what.as_str(), removed, "what had ended was removed"),
                Err(error) => {
                    let error = crate::http::chain(&error);
                    tracing::warn!(what = what.as_str(), error, "what has ended cannot be removed now");
                    return;
                }
            }
        }
    }

    /// Removes batch after batch, until one is not full: either nothing is left, or another instance is at it.
    async fn clear(&self, what: Perishable, shutdown: &CancellationToken) -> Result<usize, Unavailable> {
        let mut removed = 0;
        while !shutdown.is_cancelled() {
            let batch = self.housekeeper.tidy(what).await?;
            removed += batch;
            if batch < BATCH {
                break;
            }
            rest(shutdown, self.settings.pause).await;
        }
        Ok(removed)
    }
}

/// Waits; less where it is told to stop.
async fn rest(shutdown: &CancellationToken, pause: Duration) {
    let _either = tokio::time::timeout(pause, shutdown.cancelled()).await;
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use threepid_domain::ports::MockHousekeeping;

    use super::*;
    use crate::http::testing::Server;

    const HOUR: Duration = Duration::from_secs(60 * 60);

    #[tokio::test(start_paused = true)]
    async fn what_has_ended_is_removed_batch_after_batch_and_the_rest_stays() {
        let server = Server::new();
        let store = server.store.clone();
        for number in 0..BATCH + 3 {
            server.pending(&format!("a{number}@example.org"), "secret").await;
        }
        server.clock.advance(60 * HOUR);
        server.pending("young@example.org", "secret").await;
        let stop = CancellationToken::new();
        let Some(caretaker) = server.app.caretaker() else { unreachable!("it was given one") };
        let caretaker = tokio::spawn(caretaker.run(stop.clone()));
        let cleared = tokio::time::timeout(HOUR, async {
            while store.sessions().len() > 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(cleared.await.is_ok(), "{} are left", store.sessions().len());
        stop.cancel();
        assert!(caretaker.await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_ends_a_round_and_the_next_one_comes() {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        let mut housekeeping = MockHousekeeping::new();
        housekeeping.expect_purge().returning(move |_, _, _| {
            counted.fetch_add(1, Ordering::SeqCst);
            Err(Unavailable::new("housekeeping", "down"))
        });
        let server =
            Server::built(|builder| builder.housekeeping(Arc::new(housekeeping), Default::default()));
        let stop = CancellationToken::new();
        let Some(caretaker) = server.app.caretaker() else { unreachable!("it was given one") };
        let caretaker = tokio::spawn(caretaker.run(stop.clone()));
        tokio::time::sleep(HOUR - Duration::from_secs(1)).await;
        assert_eq!(calls.load(Ordering::SeqCst), 6, "one call each ten minutes");
        stop.cancel();
        assert!(caretaker.await.is_ok());
    }
}
