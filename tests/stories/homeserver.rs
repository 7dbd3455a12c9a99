//! Whose token it is, a real homeserver says; this server says nothing else and nothing more.

use serde_json::json;
use threepid_tests::peers::{SmtpServer, Synapse};
use threepid_tests::server::{Server, THREEPIDS};

use crate::{Story, shared_homeserver};

const UNKNOWN_TOKEN: &str = "M_UNKNOWN_TOKEN";

#[tokio::test]
async fn a_refusal_of_the_homeserver_is_passed_on_whole() -> Story {
    let homeserver = shared_homeserver().await?;
    let server = Server::builder().homeserver(homeserver.base_url()).start().await?;
    let theirs = homeserver.whoami("nobody-has-this-token").await?;
    let ours = server.list("nobody-has-this-token").await?;
    assert_eq!((ours.status, ours.json()), theirs);
    assert_eq!(ours.error(), (401, UNKNOWN_TOKEN.to_owned()));
    let ours = server.add("nobody-has-this-token", "a-sid", "secret-of-nobody").await?;
    assert_eq!((ours.status, ours.json()), theirs);
    assert_eq!(server.get(THREEPIDS, None).await?.error(), (401, "M_MISSING_TOKEN".to_owned()));
    Ok(server.end().await?)
}

#[tokio::test]
async fn after_a_logout_no_change_is_made_with_the_token_and_soon_nothing_is_read() -> Story {
    let homeserver = shared_homeserver().await?;
    let user = homeserver.new_user().await?;
    let smtp = SmtpServer::start().await?;
    let server = Server::builder().mail_to(&smtp).homeserver(homeserver.base_url()).start().await?;
    let sid = server.prove(&smtp, "alice@example.org", "secret-of-alice").await?;
    assert_eq!(server.list(&user.access_token).await?.status, 200, "from now on it is remembered");
    homeserver.logout(&user.access_token).await?;

    let refused = server.add(&user.access_token, &sid, "secret-of-alice").await?;
    assert_eq!(refused.error(), (401, UNKNOWN_TOKEN.to_owned()));
    let refused = server.list(&user.access_token).await?;
    assert_eq!(refused.error(), (401, UNKNOWN_TOKEN.to_owned()), "the refusal ended what was remembered");

    // The proof was not spent on that.
    let again = homeserver.login(&user.user_id, &user.password).await?;
    assert_eq!(server.add(&again.access_token, &sid, "secret-of-alice").await?.status, 200);
    assert_eq!(server.list(&again.access_token).await?.addresses(), ["alice@example.org"]);
    Ok(server.end().await?)
}

#[tokio::test]
async fn a_guest_has_no_contacts() -> Story {
    let homeserver = shared_homeserver().await?;
    let guest = homeserver.guest().await?;
    let server = Server::builder().homeserver(homeserver.base_url()).start().await?;
    let forbidden = (403, "M_GUEST_ACCESS_FORBIDDEN".to_owned());
    assert_eq!(server.list(&guest.access_token).await?.error(), forbidden);
    let added = server.add(&guest.access_token, "a-sid", "secret-of-a-guest").await?;
    assert_eq!(added.error(), forbidden);
    Ok(server.end().await?)
}

#[tokio::test]
async fn an_old_client_may_send_its_token_in_the_query() -> Story {
    let homeserver = shared_homeserver().await?;
    let user = homeserver.new_user().await?;
    let server = Server::builder().homeserver(homeserver.base_url()).start().await?;
    server.keep_secret(&user.access_token);
    let path = format!("{THREEPIDS}?access_token={}", user.access_token);
    assert_eq!(server.get(&path, None).await?.json(), json!({ "threepids": [] }));
    let both = server.get(&path, Some("the-header-wins")).await?;
    assert_eq!(both.error(), (401, UNKNOWN_TOKEN.to_owned()));
    Ok(server.end().await?)
}

#[tokio::test]
async fn while_the_homeserver_is_down_nothing_is_spent_and_what_is_remembered_is_read() -> Story {
    let mut homeserver = Synapse::start().await?;
    let alice = homeserver.new_user().await?.access_token;
    let bob = homeserver.new_user().await?.access_token;
    let smtp = SmtpServer::start().await?;
    let server = Server::builder().mail_to(&smtp).homeserver(homeserver.base_url()).start().await?;
    let sid = server.prove(&smtp, "alice@example.org", "secret-of-alice").await?;
    assert_eq!(server.list(&alice).await?.status, 200);

    homeserver.stop();
    assert_eq!(server.list(&alice).await?.status, 200, "she was asked about a moment ago");
    for answer in [server.list(&bob).await?, server.add(&alice, &sid, "secret-of-alice").await?] {
        assert_eq!(answer.error(), (503, "M_UNKNOWN".to_owned()), "{answer:?}");
        assert!(answer.header("retry-after").parse::<u32>()? > 0);
    }
    assert_eq!(server.list(&alice).await?.status, 200, "an outage says nothing about her token");
    // What needs no homeserver goes on.
    server.prove(&smtp, "bob@example.org", "secret-of-bob").await?;

    homeserver.start_again().await?;
    assert_eq!(server.add(&alice, &sid, "secret-of-alice").await?.status, 200);
    assert_eq!(server.list(&alice).await?.addresses(), ["alice@example.org"]);
    assert_eq!(server.list(&bob).await?.status, 200);
    Ok(server.end().await?)
}
