//! Accounts that the homeserver has deactivated are erased, and on nobody else's word.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sea_orm::ConnectionTrait as _;
use serde_json::{Value, json};
use threepid_tests::peers::{PeerError, SmtpServer, Synapse, wait_until};
use threepid_tests::server::Server;

use crate::Story;
use crate::fake::{self, Reply, fake};

const SOON: Duration = Duration::from_secs(30);

/// What is kept about an account.
async fn kept(server: &Server, user: &str) -> Result<Value, PeerError> {
    let (_, said) = server.run(&["account", "show", user, "--json"]).await?;
    let line = said.lines().find(|line| line.starts_with('{')).unwrap_or_default();
    let kept: Value = serde_json::from_str(line).unwrap_or_default();
    assert!(kept["threepids"].is_array(), "{said}");
    Ok(kept)
}

fn count(kept: &Value) -> usize {
    kept.as_object().into_iter().flatten().filter_map(|(_, list)| list.as_array()).map(Vec::len).sum()
}

#[tokio::test]
async fn an_account_that_synapse_has_deactivated_is_erased_and_its_neighbour_stays() -> Story {
    let homeserver = Synapse::start().await?;
    let admin = homeserver.register_admin("admin").await?;
    let alice = homeserver.register("alice").await?;
    let bob = homeserver.register("bob").await?;
    let smtp = SmtpServer::start().await?;
    let server = Server::builder()
        .homeserver(homeserver.base_url())
        .mail_to(&smtp)
        .text("sweep.synapse_admin_url", homeserver.base_url())
        .text("sweep.token", &admin.access_token)
        .text("sweep.every", "300ms")
        .start()
        .await?;
    server.keep_secret(&admin.access_token);
    for (user, address) in [(&alice, "alice@example.org"), (&bob, "bob@example.org")] {
        let sid = server.prove(&smtp, address, "secret-of-theirs").await?;
        assert_eq!(server.add(&user.access_token, &sid, "secret-of-theirs").await?.status, 200);
    }
    server.wait_for_log(&["accounts that have ended were looked for", "\"asked\":2", "\"erased\":0"]).await?;
    let bobs = kept(&server, &bob.user_id).await?;

    let path = format!("/_synapse/admin/v1/deactivate/{}", alice.user_id);
    homeserver.post(&path, Some(&admin.access_token), &json!({ "erase": false })).await?;
    wait_until("the end of an account", SOON, || async {
        Ok((count(&kept(&server, &alice.user_id).await?) == 0).then_some(()))
    })
    .await?;
    server.wait_for_log(&["accounts that have ended were looked for", "\"erased\":1"]).await?;
    assert_eq!(kept(&server, &bob.user_id).await?, bobs);
    assert_eq!(server.list(&bob.access_token).await?.addresses(), ["bob@example.org"]);
    Ok(server.end().await?)
}

#[tokio::test]
async fn nobody_is_erased_on_a_homeservers_error_or_on_what_stands_before_it() -> Story {
    let reply: Arc<Mutex<Reply>> = Arc::new(Mutex::new(fake::json(500, &json!({}))));
    let asked = Arc::new(AtomicUsize::new(0));
    let (says, counted) = (Arc::clone(&reply), Arc::clone(&asked));
    let homeserver = fake(move |to, _body| {
        assert_eq!(to, "/_synapse/admin/v2/users/%40alice%3Aexample.org");
        counted.fetch_add(1, Ordering::SeqCst);
        says.lock().unwrap_or_else(PoisonError::into_inner).clone()
    })
    .await?;
    let server = Server::builder()
        .homeserver(&homeserver)
        .text("sweep.synapse_admin_url", &homeserver)
        .text("sweep.token", "the-token-of-an-admin")
        .text("sweep.every", "20ms")
        .start()
        .await?;
    server.keep_secret("the-token-of-an-admin");
    let file = format!("sqlite://{}", server.folder().join("threepid.db").display());
    let database = sea_orm::Database::connect(file).await?;
    let threepid = "INSERT INTO threepid (medium, address, user_id, validated_at, added_at) \
                    VALUES ('email', 'alice@example.org', '@alice:example.org', 1, 1)";
    database.execute_unprepared(threepid).await?;
    database.close().await?;

    let gone = json!({ "name": "@alice:example.org", "deactivated": true });
    let page = |status| (status, "text/html", "<html>gone</html>".to_owned());
    for says in [
        fake::json(500, &gone),
        fake::json(404, &json!({ "errcode": "M_NOT_FOUND", "error": "User not found" })),
        fake::json(404, &gone),
        fake::json(403, &json!({ "errcode": "M_USER_DEACTIVATED" })),
        fake::json(200, &json!({ "name": "@alice:example.org", "deactivated": false })),
        fake::json(200, &json!({ "name": "@bob:example.org", "deactivated": true })),
        page(200),
        page(404),
        page(502),
    ] {
        *reply.lock().unwrap_or_else(PoisonError::into_inner) = says;
        let before = asked.load(Ordering::SeqCst);
        wait_until("some more questions", SOON, || async {
            Ok((asked.load(Ordering::SeqCst) > before + 3).then_some(()))
        })
        .await?;
    }
    assert_eq!(count(&kept(&server, "@alice:example.org").await?), 1);

    *reply.lock().unwrap_or_else(PoisonError::into_inner) = fake::json(200, &gone);
    wait_until("the end of the account", SOON, || async {
        Ok((count(&kept(&server, "@alice:example.org").await?) == 0).then_some(()))
    })
    .await?;
    Ok(server.end().await?)
}
