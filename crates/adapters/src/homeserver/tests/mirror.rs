//! Synapse's copy: read first, written only where it differs, and never made.

use threepid_domain::model::{Address, Medium, Threepid, Timestamp};
use threepid_domain::ports::{DeliveryError, Mirror as _};

use super::*;

const ALICE: &str = "@alice/ü:b";

fn threepid(medium: Medium, address: &str) -> Threepid {
    Threepid {
        user_id: UserId::parse(ALICE).unwrap(),
        address: Address::parse(medium, address).unwrap(),
        validated_at: Timestamp::from_ms(1),
        added_at: Timestamp::from_ms(2),
    }
}

async fn put(peer: &Peer, threepids: Vec<Threepid>) -> Result<(), DeliveryError> {
    let settings = HomeserverSettings { timeout: Duration::from_millis(300), ..peer.settings() };
    let mirror = Homeserver::new(&settings).unwrap().mirror(AccessToken::new("admins-token"));
    mirror.put(UserId::parse(ALICE).unwrap(), threepids).await
}

fn synapse_has(addresses: &[(&str, &str)]) -> Value {
    let contact =
        |(medium, address): &(&str, &str)| json!({"medium": medium, "address": address, "added_at": 1});
    json!({"name": ALICE, "deactivated": false, "threepids": addresses.iter().map(contact).collect::<Vec<_>>()})
}

fn both() -> Vec<Threepid> {
    vec![threepid(Medium::Email, "Alice@Example.org"), threepid(Medium::Msisdn, "447700900813")]
}

#[tokio::test]
async fn a_copy_that_is_equal_already_is_not_written() {
    let there = synapse_has(&[("msisdn", "447700900813"), ("email", "alice@example.org")]);
    let peer = Peer::start(json(200, &there)).await;
    put(&peer, both()).await.unwrap();
    let asked = peer.asked();
    assert_eq!(asked.len(), 1);
    let asked = asked[0].to_ascii_lowercase();
    assert!(asked.starts_with("get /_synapse/admin/v2/users/%40alice%2f%c3%bc%3ab http/1.1\r\n"), "{asked}");
    assert!(asked.contains("\r\nauthorization: bearer admins-token\r\n"), "{asked}");
}

#[tokio::test]
async fn a_copy_that_differs_is_replaced_whole() {
    let peer = Peer::start(json(200, &synapse_has(&[("email", "old@example.org")]))).await;
    // This Synapse answers the PUT with its old list, too: then it was not replaced.
    let kept = put(&peer, both()).await;
    assert!(matches!(kept, Err(DeliveryError::Transient(_))), "{kept:?}");
    let asked = peer.asked();
    assert!(
        asked[1].starts_with("PUT /_synapse/admin/v2/users/%40alice%2F%C3%BC%3Ab HTTP/1.1\r\n"),
        "{asked:?}"
    );
    let body: Value = serde_json::from_str(asked[1].split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(
        body,
        json!({"threepids": [
            {"medium": "email", "address": "alice@example.org"},
            {"medium": "msisdn", "address": "447700900813"},
        ]})
    );
    let none = put(&peer, Vec::new()).await;
    assert!(matches!(none, Err(DeliveryError::Transient(_))), "{none:?}");
    assert!(peer.asked()[3].ends_with("{\"threepids\":[]}"), "{:?}", peer.asked());
}

#[tokio::test]
async fn whom_synapse_does_not_know_or_has_deactivated_is_left_alone_for_good() {
    let deactivated = json!({"name": ALICE, "deactivated": true, "threepids": []});
    let unknown = json!({"errcode": "M_NOT_FOUND", "error": "User not found"});
    let bad = json!({"errcode": "M_INVALID_PARAM", "error": "alice@example.org is strange"});
    for (status, body) in [(200, &deactivated), (404, &unknown), (400, &bad)] {
        let peer = Peer::start(json(status, body)).await;
        let refused = put(&peer, both()).await;
        assert!(matches!(refused, Err(DeliveryError::Permanent(_))), "{status}: {refused:?}");
        assert!(!format!("{refused:?}").contains("alice@"), "{refused:?}");
        assert_eq!(peer.asked().len(), 1, "an account is not made");
    }
}

#[tokio::test]
async fn whatever_can_be_mended_is_tried_again() {
    let peer = Peer::start(Does::Hang).await;
    assert!(matches!(put(&peer, both()).await, Err(DeliveryError::Transient(_))), "nothing in time");
    for does in [
        json(401, &json!({"errcode": "M_UNKNOWN_TOKEN"})),
        json(403, &json!({"errcode": "M_FORBIDDEN", "error": "You are not a server admin"})),
        json(429, &json!({"errcode": "M_LIMIT_EXCEEDED"})),
        json(500, &json!({"errcode": "M_UNKNOWN", "error": "Failed to remove threepid"})),
        // A proxy in between knows no such path.
        html(404),
        html(200),
        json(200, &json!({})),
    ] {
        peer.now(does.clone());
        let failed = put(&peer, both()).await;
        assert!(matches!(failed, Err(DeliveryError::Transient(_))), "{does:?}: {failed:?}");
    }
}
