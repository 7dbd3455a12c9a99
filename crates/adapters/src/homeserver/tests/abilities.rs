//! What the homeserver can do, passed on to the byte.

use threepid_domain::ports::{AnswerAsWritten, HomeserverCapabilities as _, Unavailable};

use super::*;

async fn asked(peer: &Peer) -> Result<AnswerAsWritten, Unavailable> {
    Homeserver::new(&peer.settings()).unwrap().abilities().capabilities(credentials("secret-token")).await
}

fn written(status: u16, more: &str, body: &str) -> Does {
    Does::Answer(head(status, more, body.as_bytes()), body.as_bytes().to_vec())
}

#[tokio::test]
async fn the_client_asks_with_its_own_token() {
    let peer = Peer::start(json(200, &json!({"capabilities": {}}))).await;
    let masquerading = Credentials {
        user_id: Some(UserId::parse("@bot:b").unwrap()),
        client_ip: Some("192.0.2.7".parse().unwrap()),
        ..credentials("secret-token")
    };
    let abilities = Homeserver::new(&peer.settings()).unwrap().abilities();
    abilities.capabilities(masquerading).await.unwrap();
    let asked = peer.asked().remove(0).to_ascii_lowercase();
    assert!(
        asked.starts_with("get /_matrix/client/v3/capabilities?user_id=%40bot%3ab http/1.1\r\n"),
        "{asked}"
    );
    assert!(asked.contains("\r\nauthorization: bearer secret-token\r\n"), "{asked}");
    assert!(asked.contains("\r\nx-forwarded-for: 192.0.2.7\r\n"), "{asked}");
}

#[tokio::test]
async fn what_is_for_the_client_is_passed_on_to_the_byte() {
    let peer = Peer::start(Does::Hang).await;
    for (status, body) in [
        (200, "{ \"capabilities\" : {\"z\":123456789012345678901234567890,\"a\":1.10}}"),
        (200, "<html>"),
        (401, "{\"errcode\":\"M_UNKNOWN_TOKEN\",\"soft_logout\":true}"),
        (404, "404 page not found"),
        (429, "{}"),
    ] {
        peer.now(written(status, "Content-Type: text/x; a=b\r\nRetry-After: 7\r\n", body));
        let expected = AnswerAsWritten {
            status,
            content_type: Some("text/x; a=b".to_owned()),
            retry_after: Some(7),
            body: body.as_bytes().to_vec(),
        };
        assert_eq!(asked(&peer).await.unwrap(), expected);
    }
}

#[tokio::test]
async fn what_is_not_for_the_client_is_unavailable() {
    let peer = Peer::start(Does::Hang).await;
    let redirect = format!("Location: {}elsewhere\r\n", peer.base_url);
    for does in [
        json(500, &json!({"errcode": "M_UNKNOWN"})),
        html(502),
        written(302, &redirect, ""),
        written(200, "", &"x".repeat(64 * 1024 + 1)),
        Does::Answer("nonsense\r\n\r\n".to_owned(), Vec::new()),
        Does::AnswerAndClose(head(200, "", b"{}"), Vec::new()),
    ] {
        peer.now(does.clone());
        assert!(asked(&peer).await.is_err(), "{does:?}");
    }
    assert!(peer.asked().iter().all(|request| request.starts_with("GET /_matrix/")), "no redirect followed");
}
