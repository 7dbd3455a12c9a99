//! Synapse reads a list of its own at sign-in by email; the mirror keeps it equal to ours.

use std::time::Duration;

use serde_json::json;
use threepid_tests::peers::{PeerError, SmtpServer, Synapse, User, wait_until};
use threepid_tests::server::{Server, THREEPIDS};

use crate::Story;

const SOON: Duration = Duration::from_secs(30);

/// Signs in at Synapse as a user would who knows an email address and a password.
async fn sign_in(homeserver: &Synapse, user: &User, address: &str) -> Result<Option<String>, PeerError> {
    let body = json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.thirdparty", "medium": "email", "address": address },
        "password": user.password,
    });
    let answer = homeserver.post("/_matrix/client/v3/login", None, &body).await;
    Ok(answer.ok().and_then(|answer| answer["user_id"].as_str().map(str::to_owned)))
}

#[tokio::test]
async fn an_address_added_here_signs_in_at_synapse_until_it_is_deleted_here() -> Story {
    let homeserver = Synapse::start().await?;
    let admin = homeserver.register_admin("admin").await?;
    let alice = homeserver.register("alice").await?;
    let smtp = SmtpServer::start().await?;
    let mut server = Server::builder()
        .homeserver(homeserver.base_url())
        .mail_to(&smtp)
        .text("mirror.synapse_admin_url", homeserver.base_url())
        .text("mirror.token", &admin.access_token)
        // What is being told when the program is killed comes back when its lease ends.
        .text("mail.smtp.send_timeout", "2s")
        .text("relay.lease", "3s")
        .start()
        .await?;
    server.keep_secret(&admin.access_token);
    assert_eq!(sign_in(&homeserver, &alice, "alice@example.org").await?, None, "nobody has it yet");

    for (address, secret) in
        [("alice@example.org", "secret-of-home"), ("alice@work.example", "secret-of-work")]
    {
        let sid = server.prove(&smtp, address, secret).await?;
        assert_eq!(server.add(&alice.access_token, &sid, secret).await?.status, 200);
    }
    // Whatever was not told yet is owed on disk.
    server.kill()?;
    server.launch().await?;
    for address in ["alice@example.org", "Alice@Work.Example"] {
        let as_whom =
            wait_until("the sign-in by email", SOON, || sign_in(&homeserver, &alice, address)).await?;
        assert_eq!(as_whom, alice.user_id);
    }

    let delete = format!("{THREEPIDS}/delete");
    let body = json!({ "medium": "email", "address": "alice@example.org" });
    assert_eq!(server.post(&delete, Some(&alice.access_token), &body).await?.status, 200);
    wait_until("the end of the sign-in by email", SOON, || async {
        let as_whom = sign_in(&homeserver, &alice, "alice@example.org").await?;
        Ok(as_whom.is_none().then_some(()))
    })
    .await?;
    assert_eq!(sign_in(&homeserver, &alice, "alice@work.example").await?, Some(alice.user_id.clone()));
    let theirs = homeserver.get(THREEPIDS, Some(&alice.access_token)).await?;
    assert_eq!(theirs["threepids"].as_array().map(Vec::len), Some(1), "{theirs}");
    Ok(server.end().await?)
}
