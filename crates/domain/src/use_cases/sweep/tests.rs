#![expect(clippy::unwrap_used, reason = "a test that meets nonsense of its own fails")]

use std::time::Duration;

use super::*;
use crate::ports::MockAccountStates;
use crate::testing::Fixture;
use crate::use_cases::EraserPorts;

const ALICE: &str = "@alice:example.org";
const BOB: &str = "@bob:example.org";

async fn two_accounts() -> Fixture {
    let fixture = Fixture::new();
    for (user, address) in [(ALICE, "alice@example.org"), (BOB, "bob@example.org")] {
        let sid = fixture.proven(address, "secret").await;
        fixture.add(user, &sid, "secret").await.unwrap();
    }
    fixture
}

fn sweeper(
    fixture: &Fixture,
    says: impl Fn(&UserId) -> Result<AccountState, Unavailable> + Send + 'static,
) -> Sweeper {
    let mut states = MockAccountStates::new();
    states.expect_state().returning(move |user_id| says(&user_id));
    let ports = EraserPorts {
        records: fixture.store.clone(),
        erasures: fixture.store.clone(),
        clock: fixture.clock.clone(),
        secrets: fixture.secrets.clone(),
    };
    let eraser = Eraser::new(ports, Duration::from_secs(60 * 60));
    Sweeper::new(fixture.store.clone(), Arc::new(states), eraser)
}

fn owners(fixture: &Fixture) -> Vec<String> {
    fixture.store.all_threepids().into_iter().map(|threepid| threepid.user_id.to_string()).collect()
}

#[tokio::test]
async fn who_is_deactivated_is_erased_and_whoever_sweeps_next_finds_nothing() {
    let fixture = two_accounts().await;
    let is_alice = |user_id: &UserId| user_id.as_str() == ALICE;
    let sweeper = sweeper(&fixture, move |user_id| {
        Ok(if is_alice(user_id) { AccountState::Deactivated } else { AccountState::NotDeactivated })
    });
    assert_eq!(sweeper.count().await.unwrap(), 2);
    let accounts = sweeper.accounts(None).await.unwrap();
    assert_eq!(accounts, [ALICE, BOB].map(Fixture::user));
    let erased = sweeper.sweep(&accounts[0]).await.unwrap().unwrap();
    assert_eq!((erased.threepids, erased.sessions), (1, 1));
    assert_eq!(sweeper.sweep(&accounts[1]).await.unwrap(), None);
    assert_eq!(owners(&fixture), [BOB]);
    // Another instance had the same list.
    assert_eq!(sweeper.sweep(&accounts[0]).await.unwrap(), Some(Erased::default()));
    assert_eq!(sweeper.accounts(None).await.unwrap(), [Fixture::user(BOB)]);
    assert_eq!(sweeper.accounts(Some(Fixture::user(BOB))).await.unwrap(), []);
}

#[tokio::test]
async fn whoever_is_not_told_of_stays() {
    let fixture = two_accounts().await;
    let sweeper = sweeper(&fixture, |_| Err(Unavailable::new("homeserver", "down")));
    let ended = sweeper.sweep(&Fixture::user(ALICE)).await;
    assert!(matches!(ended, Err(SweepError::NotTold(_))), "{ended:?}");
    assert_eq!(owners(&fixture), [ALICE, BOB]);
}
