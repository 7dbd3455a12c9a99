//! The sweep: every now and then, the homeserver is asked about each account that anything is kept about, one after the
//! other, and who was deactivated there is erased here.
//!
//! Any number of instances may do it at once: who is erased twice is erased once. One that breaks off begins anew the next
//! time.

use std::time::Duration;

use threepid_domain::use_cases::{SweepError, Sweeper};
use tokio_util::sync::CancellationToken;

/// A round in which the homeserver has said nothing so often in a row has no use.
const SILENCES: usize = 5;

/// How the sweep works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SweepSettings {
    /// So often it asks about every account. Default a day.
    pub every: Duration,
    /// The longest pause between two accounts; shorter where there are so many that the round would not end in time.
    /// Default 1 s.
    pub longest_pause: Duration,
}

impl Default for SweepSettings {
    fn default() -> Self {
        Self { every: Duration::from_secs(24 * 60 * 60), longest_pause: Duration::from_secs(1) }
    }
}

/// Erases accounts that have ended, until it is told to stop.
#[derive(Clone)]
pub struct Sweep {
    sweeper: Sweeper,
    settings: SweepSettings,
}

/// What a round has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Round {
    asked: usize,
    erased: usize,
    /// About so many nothing is known.
    unanswered: usize,
    /// So many have ended and could not be erased.
    kept: usize,
    /// So many of both are the last.
    in_a_row: usize,
}

impl Sweep {
    pub(crate) fn new(sweeper: Sweeper, settings: SweepSettings) -> Self {
        Self { sweeper, settings }
    }

    /// Asks, erases and waits, until `shutdown`. It stops between two accounts.
    pub async fn run(self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            let begun = tokio::time::Instant::now();
            let mut round = Round::default();
            let ended = self.round(&mut round, &shutdown).await;
            let Round { asked, erased, unanswered, kept, .. } = round;
            match ended {
                Ok(()) => {
                    tracing::info!(
                        asked,
                        erased,
                        unanswered,
                        kept,
                        "accounts that have ended were looked for"
                    )
                }
                Err(error) => {
                    let error = crate::http::chain(&*error);
                    tracing::warn!(
                        asked,
                        erased,
                        unanswered,
                        kept,
                        error,
                        "accounts that have ended cannot be looked for now"
                    );
                }
            }
            rest(&shutdown, self.settings.every.saturating_sub(begun.elapsed())).await;
        }
    }

    async fn round(
        &self,
        round: &mut Round,
        shutdown: &CancellationToken,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let pause = self.pause(self.sweeper.count().await?);
        let mut last = None;
        loop {
            let page = self.sweeper.accounts(last).await?;
            for user_id in &page {
                if shutdown.is_cancelled() {
                    return Ok(());
                }
                round.asked += 1;
                match self.sweeper.sweep(user_id).await {
                    Ok(erased) => {
                        round.erased += usize::from(erased.is_some());
                        round.in_a_row = 0;
                    }
                    Err(error) => {
                        // One that cannot be erased is not in the way of those after it.
                        match &error {
                            SweepError::NotTold(_) => round.unanswered += 1,
                            SweepError::NotErased(_) => {
                                round.kept += 1;
                                let error = crate::http::chain(&error);
                                tracing::warn!(%user_id, error, "an account has ended and cannot be erased now");
                            }
                        }
                        round.in_a_row += 1;
                        if round.in_a_row == SILENCES {
                            return Err(error.into());
                        }
                    }
                }
                rest(shutdown, pause).await;
            }
            last = page.last().cloned();
            if last.is_none() {
                return Ok(());
            }
        }
    }

    /// The pause after each of so many accounts.
    fn pause(&self, count: usize) -> Duration {
        let count = u32::try_from(count).unwrap_or(u32::MAX).max(1);
        (self.settings.every / count / 2).min(self.settings.longest_pause)
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

    use async_trait::async_trait;
    use threepid_domain::model::Erasure;
    use threepid_domain::ports::{AccountState, EndOfErasure, Erasures, MockAccountStates, Unavailable};
    use threepid_domain::testing::MemoryStore;

    use super::*;
    use crate::http::testing::Server;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    /// A server that sweeps, and the homeserver's answer to the so-manieth question about an account.
    fn sweeping(
        says: impl Fn(&str, usize) -> Result<AccountState, Unavailable> + Send + 'static,
    ) -> (Server, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let mut states = MockAccountStates::new();
        states.expect_state().returning(move |user_id| {
            let count = counted.fetch_add(1, Ordering::SeqCst);
            says(user_id.as_str(), count)
        });
        (Server::sweeping(Arc::new(states)), asked)
    }

    async fn own(server: &Server, count: usize) {
        for number in 0..count {
            server.added(&format!("@u{number}:example.org"), &format!("a{number}@example.org")).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_deactivated_is_erased_and_the_others_are_asked_about_again_a_day_later() {
        let (server, asked) = sweeping(|user_id, _| {
            let is_gone = user_id == "@u1:example.org";
            Ok(if is_gone { AccountState::Deactivated } else { AccountState::NotDeactivated })
        });
        own(&server, 3).await;
        let stop = CancellationToken::new();
        let Some(sweep) = server.app.sweep() else { unreachable!("it was given one") };
        let sweep = tokio::spawn(sweep.run(stop.clone()));
        tokio::time::sleep(DAY - Duration::from_secs(1)).await;
        let owners: Vec<_> = server.store.all_threepids().iter().map(|one| one.user_id.to_string()).collect();
        assert_eq!(owners, ["@u0:example.org", "@u2:example.org"]);
        assert_eq!(asked.load(Ordering::SeqCst), 3);
        tokio::time::sleep(DAY).await;
        assert_eq!(asked.load(Ordering::SeqCst), 5);
        stop.cancel();
        assert!(sweep.await.is_ok());
    }

    /// Cannot erase one account.
    struct Stubborn(Arc<MemoryStore>, &'static str);

    #[async_trait]
    impl Erasures for Stubborn {
        async fn erase(&self, erasure: Erasure) -> Result<EndOfErasure, Unavailable> {
            if erasure.user_id.as_str() == self.1 {
                return Err(Unavailable::new("erasures", "a row is corrupt"));
            }
            self.0.erase(erasure).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_cannot_be_erased_is_not_in_the_way_of_those_after_it() {
        let mut states = MockAccountStates::new();
        states.expect_state().returning(|_| Ok(AccountState::Deactivated));
        let stubborn = |store| Arc::new(Stubborn(store, "@u0:example.org")) as Arc<dyn Erasures>;
        let server = Server::sweeping_by(Arc::new(states), stubborn);
        own(&server, 3).await;
        let stop = CancellationToken::new();
        let Some(sweep) = server.app.sweep() else { unreachable!("it was given one") };
        let sweep = tokio::spawn(sweep.run(stop.clone()));
        tokio::time::sleep(DAY - Duration::from_secs(1)).await;
        let owners: Vec<_> = server.store.all_threepids().iter().map(|one| one.user_id.to_string()).collect();
        assert_eq!(owners, ["@u0:example.org"]);
        stop.cancel();
        assert!(sweep.await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_homeserver_that_says_nothing_is_left_alone_until_the_next_time_and_nobody_is_erased() {
        let (server, asked) = sweeping(|_, count| match count {
            // A silence now and then ends nothing.
            0 | 4 => Ok(AccountState::NotDeactivated),
            _ => Err(Unavailable::new("homeserver", "down")),
        });
        own(&server, 20).await;
        let stop = CancellationToken::new();
        let Some(sweep) = server.app.sweep() else { unreachable!("it was given one") };
        let sweep = tokio::spawn(sweep.run(stop.clone()));
        tokio::time::sleep(DAY - Duration::from_secs(1)).await;
        assert_eq!(asked.load(Ordering::SeqCst), 10, "given up after five in a row");
        assert_eq!(server.store.all_threepids().len(), 20);
        stop.cancel();
        assert!(sweep.await.is_ok());
    }

    #[tokio::test]
    async fn a_round_of_any_number_of_accounts_ends_in_time() {
        let (server, _) = sweeping(|_, _| Ok(AccountState::NotDeactivated));
        let Some(sweep) = server.app.sweep() else { unreachable!("it was given one") };
        assert_eq!(sweep.pause(0), Duration::from_secs(1));
        assert_eq!(sweep.pause(1000), Duration::from_secs(1));
        assert!(sweep.pause(1_000_000) * 1_000_000 < DAY);
    }
}
