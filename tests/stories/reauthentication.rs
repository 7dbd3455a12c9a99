//! Before `POST /account/3pid/add` adds an address, a real homeserver asks again who is asking.

use std::time::Duration;

use reqwest::{Client, Method};
use serde_json::{Value, json};
use threepid_tests::peers::{SmtpServer, Synapse, User, wait_until};
use threepid_tests::server::{Answer, Server, THREEPIDS};

use crate::{Story, shared_homeserver};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const ADD: &str = "/_matrix/client/v3/account/3pid/add";
const CAPABILITIES: &str = "/_matrix/client/v3/capabilities";

/// A server beside `homeserver` that leaves the deprecated way to add closed, and the mail server it uses.
async fn beside(homeserver: &Synapse) -> Outcome<(SmtpServer, Server)> {
    let smtp = SmtpServer::start().await?;
    let server = Server::builder().mail_to(&smtp).homeserver(homeserver.base_url());
    Ok((smtp, server.text("deprecated_add", "off").start().await?))
}

async fn add(server: &Server, token: &str, sid: &str, secret: &str, auth: Value) -> Outcome<Answer> {
    let mut body = json!({ "sid": sid, "client_secret": secret });
    if !auth.is_null() {
        body["auth"] = auth;
    }
    Ok(server.post(ADD, Some(token), &body).await?)
}

fn password(user: &User, password: &str, session: &Value) -> Value {
    json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": user.user_id },
        "password": password,
        "session": session,
    })
}

/// The session of a challenge, once it is sure that it is one.
fn challenged(answer: &Answer) -> Outcome<Value> {
    let body = answer.json();
    let is_challenge = answer.status == 401 && body["session"].is_string();
    let offers_password = body["flows"]
        .as_array()
        .is_some_and(|flows| flows.iter().any(|flow| flow["stages"] == json!(["m.login.password"])));
    if is_challenge && offers_password {
        Ok(body["session"].clone())
    } else {
        Err(format!("{answer:?}").into())
    }
}

async fn devices(homeserver: &Synapse, token: &str) -> Outcome<Vec<Value>> {
    let url = format!("{}/_matrix/client/v3/devices", homeserver.base_url());
    let answer: Value = Client::new().get(url).bearer_auth(token).send().await?.json().await?;
    let devices = answer["devices"].as_array().ok_or("no devices")?;
    Ok(devices.iter().map(|device| device["device_id"].clone()).collect())
}

#[tokio::test]
async fn an_address_is_added_once_the_homeserver_has_heard_the_password() -> Story {
    let homeserver = shared_homeserver().await?;
    let alice = homeserver.new_user().await?;
    homeserver.login(&alice.user_id, &alice.password).await?;
    let before = devices(homeserver, &alice.access_token).await?;
    let (smtp, server) = beside(homeserver).await?;
    server.keep_secret(&alice.password);
    let (token, secret) = (alice.access_token.as_str(), "secret-of-alice");
    let sid = server.prove(&smtp, "alice@example.org", secret).await?;

    let session = challenged(&add(&server, token, &sid, secret, Value::Null).await?)?;
    let wrong = add(&server, token, &sid, secret, password(&alice, "not-her-password", &session)).await?;
    assert_eq!(wrong.error(), (401, "M_FORBIDDEN".to_owned()));
    assert_eq!(challenged(&wrong)?, session, "she may try again");
    assert_eq!(server.list(token).await?.json(), json!({ "threepids": [] }));
    let right = add(&server, token, &sid, secret, password(&alice, &alice.password, &session)).await?;
    assert_eq!((right.status, right.json()), (200, json!({})));
    assert_eq!(server.list(token).await?.addresses(), ["alice@example.org"]);
    assert_eq!(devices(homeserver, token).await?, before, "asking through delete_devices deletes none");
    let deprecated = server.add(token, &sid, secret).await?;
    assert_eq!(deprecated.error(), (403, "M_FORBIDDEN".to_owned()));

    // An answer that names no session gets the one of the bare request.
    let sid = server.prove(&smtp, "second@example.org", secret).await?;
    let mut auth = password(&alice, &alice.password, &Value::Null);
    auth.as_object_mut().ok_or("an object")?.remove("session");
    assert_eq!(add(&server, token, &sid, secret, auth).await?.status, 200);
    assert_eq!(server.list(token).await?.addresses(), ["alice@example.org", "second@example.org"]);
    Ok(server.end().await?)
}

#[tokio::test]
async fn a_completed_challenge_opens_no_other_session_and_serves_no_other_user() -> Story {
    let homeserver = shared_homeserver().await?;
    let (alice, bob) = (homeserver.new_user().await?, homeserver.new_user().await?);
    let (smtp, mut server) = beside(homeserver).await?;
    let (token, secret) = (alice.access_token.as_str(), "secret-of-alice");
    let first = server.prove(&smtp, "first@example.org", secret).await?;
    let second = server.prove(&smtp, "second@example.org", secret).await?;
    let session = challenged(&add(&server, token, &first, secret, Value::Null).await?)?;
    let auth = password(&alice, &alice.password, &session);
    assert_eq!(add(&server, token, &first, secret, auth.clone()).await?.status, 200);

    let only_session = json!({ "session": session });
    for replayed in [auth.clone(), only_session.clone()] {
        let again = add(&server, token, &second, secret, replayed.clone()).await?;
        assert_ne!(challenged(&again)?, session, "another sid needs another challenge");
        let again = add(&server, &bob.access_token, &second, secret, replayed).await?;
        assert_ne!(challenged(&again)?, session, "and so does another user");
    }
    assert_eq!(server.terminate().await?, 0);
    server.launch().await?;
    let again = add(&server, token, &second, secret, only_session).await?;
    assert_ne!(challenged(&again)?, session, "a restart forgets nothing");
    assert_eq!(server.list(token).await?.addresses(), ["first@example.org"]);
    Ok(server.end().await?)
}

#[tokio::test]
async fn a_completed_challenge_sent_many_times_at_once_adds_one_address() -> Story {
    let homeserver = shared_homeserver().await?;
    let alice = homeserver.new_user().await?;
    let smtp = SmtpServer::start().await?;
    // An answer counts against the limit on wrong ones until it is judged.
    let server = Server::builder().mail_to(&smtp).homeserver(homeserver.base_url());
    let server = server.set("limits.failed_reauthentication_per_account.burst", 100).start().await?;
    let (token, secret) = (alice.access_token.as_str(), "secret-of-alice");
    let first = server.prove(&smtp, "first@example.org", secret).await?;
    let second = server.prove(&smtp, "second@example.org", secret).await?;
    let session = challenged(&add(&server, token, &first, secret, Value::Null).await?)?;
    let auth = password(&alice, &alice.password, &session);
    // One challenge, answered once, and everything that could be got with it at the same moment.
    let sent = (0..12).map(|number| {
        let sid = if number % 3 == 2 { &second } else { &first };
        add(&server, token, sid, secret, auth.clone())
    });
    let answers = futures_util::future::join_all(sent).await;
    let mut added = 0;
    for (number, answer) in answers.into_iter().enumerate() {
        let answer = answer?;
        if number % 3 != 2 && answer.status == 200 {
            added += 1;
        } else {
            assert_ne!(challenged(&answer)?, session, "{number}: what is spent is asked for anew");
        }
    }
    assert!(added > 0);
    assert_eq!(server.list(token).await?.addresses(), ["first@example.org"]);
    Ok(server.end().await?)
}

#[tokio::test]
async fn a_grace_period_of_the_homeserver_is_no_proof() -> Story {
    let homeserver = Synapse::builder().settings("ui_auth: { session_timeout: 1h }").start().await?;
    let alice = homeserver.new_user().await?;
    let alice = homeserver.login(&alice.user_id, &alice.password).await?;
    let (smtp, server) = beside(&homeserver).await?;
    let (token, secret) = (alice.access_token.as_str(), "secret-of-alice");
    let sid = server.prove(&smtp, "alice@example.org", secret).await?;
    for auth in [Value::Null, password(&alice, &alice.password, &json!("any"))] {
        let refused = add(&server, token, &sid, secret, auth).await?;
        assert_eq!(refused.error(), (403, "M_FORBIDDEN".to_owned()));
    }
    server.wait_for_log(&["ui_auth.session_timeout"]).await?;
    assert_eq!(server.list(token).await?.json(), json!({ "threepids": [] }));
    Ok(server.end().await?)
}

#[tokio::test]
async fn what_the_homeserver_says_of_an_account_reaches_its_client_whole() -> Story {
    let homeserver = Synapse::builder().settings("session_lifetime: 24h").start().await?;
    let (admin, locked) = (homeserver.register_admin("keeper").await?, homeserver.new_user().await?);
    let (smtp, server) = beside(&homeserver).await?;
    let secret = "secret-of-the-locked";
    let sid = server.prove(&smtp, "locked@example.org", secret).await?;
    let url = format!("{}/_synapse/admin/v2/users/{}", homeserver.base_url(), locked.user_id);
    let lock = Client::new().put(url).bearer_auth(&admin.access_token).json(&json!({ "locked": true }));
    assert_eq!(lock.send().await?.status(), 200);

    let theirs = homeserver.whoami(&locked.access_token).await?;
    assert_eq!(
        (theirs.0, &theirs.1["errcode"], &theirs.1["soft_logout"]),
        (401, &json!("M_USER_LOCKED"), &json!(true))
    );
    let ours = add(&server, &locked.access_token, &sid, secret, Value::Null).await?;
    assert_eq!((ours.status, ours.json()), theirs);
    Ok(server.end().await?)
}

#[tokio::test]
async fn a_token_that_has_run_out_is_a_soft_logout_here_too() -> Story {
    let homeserver = Synapse::builder().settings("session_lifetime: 3s").start().await?;
    let alice = homeserver.new_user().await?;
    let alice = homeserver.login(&alice.user_id, &alice.password).await?;
    let (_smtp, server) = beside(&homeserver).await?;
    let theirs = wait_until("the end of the token", Duration::from_secs(60), || async {
        let answer = homeserver.whoami(&alice.access_token).await?;
        Ok((answer.0 == 401).then_some(answer))
    })
    .await?;
    assert_eq!(theirs.1["soft_logout"], json!(true));
    let ours = add(&server, &alice.access_token, "a-sid", "a-secret-of-hers", Value::Null).await?;
    assert_eq!((ours.status, ours.json()), theirs);
    Ok(server.end().await?)
}

#[tokio::test]
async fn while_the_homeserver_is_down_nobody_is_asked_and_nothing_is_spent() -> Story {
    let mut homeserver = Synapse::start().await?;
    let alice = homeserver.new_user().await?;
    let (smtp, server) = beside(&homeserver).await?;
    let (token, secret) = (alice.access_token.as_str(), "secret-of-alice");
    let sid = server.prove(&smtp, "alice@example.org", secret).await?;
    let session = challenged(&add(&server, token, &sid, secret, Value::Null).await?)?;
    let auth = password(&alice, &alice.password, &session);
    homeserver.stop();
    for answer in
        [add(&server, token, &sid, secret, auth.clone()).await?, server.get(CAPABILITIES, Some(token)).await?]
    {
        assert_eq!(answer.error(), (503, "M_UNKNOWN".to_owned()));
        assert!(answer.header("retry-after").parse::<u32>()? > 0);
    }
    homeserver.start_again().await?;
    let answer = add(&server, token, &sid, secret, auth).await?;
    assert_eq!(answer.status, 200, "{answer:?}");
    Ok(server.end().await?)
}

#[tokio::test]
async fn the_homeservers_capabilities_are_passed_on_but_for_ours() -> Story {
    let homeserver = shared_homeserver().await?;
    let alice = homeserver.new_user().await?.access_token;
    let url = format!("{}{CAPABILITIES}", homeserver.base_url());
    let mut theirs: Value = Client::new().get(url).bearer_auth(&alice).send().await?.json().await?;
    for changes in [true, false] {
        let server =
            Server::builder().homeserver(homeserver.base_url()).set("changes", changes).start().await?;
        theirs["capabilities"]["m.3pid_changes"] = json!({ "enabled": changes });
        for path in [CAPABILITIES, "/_matrix/client/r0/capabilities"] {
            assert_eq!(server.get(path, Some(&alice)).await?.json(), theirs);
        }
        let unknown = server.get(CAPABILITIES, Some("nobody-has-this-token")).await?;
        assert_eq!(unknown.error(), (401, "M_UNKNOWN_TOKEN".to_owned()));
        server.end().await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_account_of_our_own_is_asked_for_its_own_password() -> Story {
    let smtp = SmtpServer::start().await?;
    let server = Server::builder().mail_to(&smtp).text("deprecated_add", "off").start().await?;
    let (alice, bob) =
        (server.account("@alice:example.org").await?, server.account("@bob:example.org").await?);
    let file = server.folder().join("password");
    std::fs::write(&file, "open-sesame-7\n")?;
    server.keep_secret("open-sesame-7");
    let file = file.to_string_lossy().into_owned();
    let (status, said) =
        server.run(&["account", "password", "@alice:example.org", "--password-file", &file]).await?;
    assert_eq!(status, 0, "{said}");
    let secret = "secret-of-alice";
    let sid = server.prove(&smtp, "alice@example.org", secret).await?;

    let nobody = add(&server, &bob, &sid, secret, Value::Null).await?;
    assert_eq!(nobody.error(), (403, "M_FORBIDDEN".to_owned()), "bob has no password to be asked for");
    let session = challenged(&add(&server, &alice, &sid, secret, Value::Null).await?)?;
    let auth = |password: &str| {
        let identifier = json!({ "type": "m.id.user", "user": "alice" });
        json!({ "type": "m.login.password", "identifier": identifier, "password": password, "session": session })
    };
    let wrong = add(&server, &alice, &sid, secret, auth("open-sesame-8")).await?;
    assert_eq!(wrong.error(), (401, "M_FORBIDDEN".to_owned()));
    assert_eq!(add(&server, &alice, &sid, secret, auth("open-sesame-7")).await?.status, 200);
    assert_eq!(server.get(THREEPIDS, Some(&alice)).await?.addresses(), ["alice@example.org"]);

    // Guessing is slow.
    let sid = server.prove(&smtp, "second@example.org", secret).await?;
    let session = challenged(&add(&server, &alice, &sid, secret, Value::Null).await?)?;
    let mut answers = Vec::new();
    for guess in 0..6 {
        let auth = json!({
            "type": "m.login.password", "user": "alice", "password": format!("guess {guess}"), "session": session,
        });
        answers.push(add(&server, &alice, &sid, secret, auth).await?);
    }
    let limited = answers.iter().find(|answer| answer.status == 429).ok_or("no guess was refused")?;
    assert_eq!(limited.error(), (429, "M_LIMIT_EXCEEDED".to_owned()));
    assert!(limited.json()["retry_after_ms"].as_u64().is_some_and(|ms| ms > 0));
    assert!(limited.header("retry-after").parse::<u32>()? > 0);
    let request = server.request(Method::GET, CAPABILITIES, Some(&alice));
    let capabilities = server.send(request).await?.json();
    assert_eq!(capabilities["capabilities"]["m.3pid_changes"], json!({ "enabled": true }));
    Ok(server.end().await?)
}
