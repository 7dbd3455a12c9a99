//! An account has ended only where Synapse itself says so of this very account.

use threepid_domain::ports::{AccountState, AccountStates as _, Unavailable};

use super::*;

const ALICE: &str = "@alice/ü:b";

async fn state(peer: &Peer) -> Result<AccountState, Unavailable> {
    let settings = HomeserverSettings { timeout: Duration::from_millis(300), ..peer.settings() };
    let states = Homeserver::new(&settings).unwrap().account_states(AccessToken::new("admins-token"));
    states.state(UserId::parse(ALICE).unwrap()).await
}

#[tokio::test]
async fn synapses_word_on_this_very_account_counts() {
    let peer = Peer::start(json(200, &json!({"name": ALICE, "deactivated": true, "erased": false}))).await;
    assert_eq!(state(&peer).await.unwrap(), AccountState::Deactivated);
    let asked = peer.asked().remove(0).to_ascii_lowercase();
    assert!(asked.starts_with("get /_synapse/admin/v2/users/%40alice%2f%c3%bc%3ab http/1.1\r\n"), "{asked}");
    assert!(asked.contains("\r\nauthorization: bearer admins-token\r\n"), "{asked}");
    for still in [
        json!({"name": ALICE, "deactivated": false}),
        json!({"name": ALICE, "deactivated": "true"}),
        json!({"name": ALICE, "deactivated": 1}),
        json!({"name": ALICE, "locked": true}),
    ] {
        peer.now(json(200, &still));
        assert_eq!(state(&peer).await.unwrap(), AccountState::NotDeactivated, "{still}");
    }
}

#[tokio::test]
async fn whom_synapse_does_not_know_has_not_ended() {
    let unknown = json!({"errcode": "M_NOT_FOUND", "error": "User not found"});
    let elsewhere = json!({"errcode": "M_UNKNOWN", "error": "Can only look up local users"});
    for (status, body) in [(404, &unknown), (400, &elsewhere)] {
        let peer = Peer::start(json(status, body)).await;
        assert_eq!(state(&peer).await.unwrap(), AccountState::NotDeactivated, "{status}");
    }
}

#[tokio::test]
async fn nothing_else_is_an_answer() {
    let peer = Peer::start(Does::Hang).await;
    assert!(state(&peer).await.is_err(), "nothing in time");
    let gone = json!({"name": ALICE, "deactivated": true});
    for does in [
        json(200, &json!({"name": "@bob:b", "deactivated": true})),
        json(200, &json!({"deactivated": true})),
        json(200, &json!({})),
        json(200, &json!([gone])),
        html(200),
        html(404),
        json(404, &gone),
        json(201, &gone),
        json(301, &gone),
        json(401, &json!({"errcode": "M_UNKNOWN_TOKEN", "deactivated": true})),
        json(403, &json!({"errcode": "M_FORBIDDEN"})),
        json(403, &json!({"errcode": "M_USER_DEACTIVATED"})),
        json(429, &json!({"errcode": "M_LIMIT_EXCEEDED"})),
        json(500, &gone),
        html(502),
    ] {
        peer.now(does.clone());
        let state = state(&peer).await;
        assert!(state.is_err(), "{does:?}: {state:?}");
    }
}
