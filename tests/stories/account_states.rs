//! Accounts in every state that a real homeserver knows: what it says of them reaches the client, and nothing else does.

use reqwest::Client;
use serde_json::{Value, json};
use threepid_tests::peers::{SmtpServer, Synapse, temp_folder};
use threepid_tests::server::{Server, THREEPIDS};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::Story;

const ADD: &str = "/_matrix/client/v3/account/3pid/add";

#[tokio::test]
async fn a_deactivated_account_is_refused_as_the_homeserver_refuses_it() -> Story {
    let homeserver = Synapse::start().await?;
    let keeper = homeserver.register_admin("keeper").await?;
    let alice = homeserver.new_user().await?;
    let smtp = SmtpServer::start().await?;
    let server = Server::builder().mail_to(&smtp).homeserver(homeserver.base_url()).start().await?;
    let sid = server.prove(&smtp, "alice@example.org", "secret-of-alice").await?;
    let path = format!("/_synapse/admin/v1/deactivate/{}", alice.user_id);
    homeserver.post(&path, Some(&keeper.access_token), &json!({ "erase": false })).await?;

    let theirs = homeserver.whoami(&alice.access_token).await?;
    assert_eq!((theirs.0, &theirs.1["errcode"]), (401, &json!("M_UNKNOWN_TOKEN")));
    let body = json!({ "sid": sid, "client_secret": "secret-of-alice" });
    for ours in [
        server.list(&alice.access_token).await?,
        server.add(&alice.access_token, &sid, "secret-of-alice").await?,
        server.post(ADD, Some(&alice.access_token), &body).await?,
    ] {
        assert_eq!((ours.status, ours.json()), theirs);
    }
    Ok(server.end().await?)
}

#[tokio::test]
async fn a_suspended_account_does_here_what_the_homeserver_lets_it_do() -> Story {
    let homeserver =
        Synapse::builder().settings("experimental_features: { msc3823_account_suspension: true }");
    let homeserver = homeserver.start().await?;
    let keeper = homeserver.register_admin("keeper").await?;
    let alice = homeserver.new_user().await?;
    let server = Server::builder().homeserver(homeserver.base_url()).start().await?;
    let path = format!("/_synapse/admin/v1/suspend/{}", alice.user_id);
    homeserver.put(&path, Some(&keeper.access_token), &json!({ "suspend": true })).await?;

    // Synapse answers whoami to the suspended, who may look at their account: so may they here.
    let theirs = homeserver.whoami(&alice.access_token).await?;
    assert_eq!((theirs.0, &theirs.1["user_id"]), (200, &json!(alice.user_id)));
    assert_eq!(server.list(&alice.access_token).await?.json(), json!({ "threepids": [] }));
    // What it asks them before a change is what they are asked here.
    let url = format!("{}/_matrix/client/v3/delete_devices", homeserver.base_url());
    let body = json!({ "devices": ["THERE_IS_NO_SUCH_DEVICE"] });
    let theirs = Client::new().post(url).bearer_auth(&alice.access_token).json(&body).send().await?;
    let (status, theirs) = (theirs.status().as_u16(), theirs.json::<Value>().await?);
    let body = json!({ "sid": "a-sid", "client_secret": "secret-of-alice" });
    let ours = server.post(ADD, Some(&alice.access_token), &body).await?;
    assert_eq!((ours.status, &ours.json()["flows"]), (status, &theirs["flows"]));
    assert_eq!(ours.json()["errcode"], theirs["errcode"]);
    Ok(server.end().await?)
}

#[tokio::test]
async fn an_application_service_acts_for_its_users_and_is_not_asked_so_it_cannot_add() -> Story {
    let folder = temp_folder("application-service")?;
    let registration = folder.path().join("bridge.yaml");
    let token = "the-token-of-a-bridge-0123456789";
    std::fs::write(
        &registration,
        format!(
            "id: bridge\nurl: null\nas_token: {token}\nhs_token: another-token-0123456789\n\
             sender_localpart: bridge\nnamespaces: {{ users: [{{ exclusive: true, regex: '@bridged_.*' }}] }}\n"
        ),
    )?;
    let settings = format!("app_service_config_files: [\"{}\"]", registration.display());
    let homeserver = Synapse::builder().settings(&settings).start().await?;
    let user = json!({ "type": "m.login.application_service", "username": "bridged_alice" });
    homeserver.post("/_matrix/client/v3/register", Some(token), &user).await?;
    let smtp = SmtpServer::start().await?;
    let server = Server::builder().mail_to(&smtp).homeserver(homeserver.base_url()).start().await?;
    let sid = server.prove(&smtp, "bridged@example.org", "secret-of-a-bridge").await?;

    let acting = "user_id=%40bridged_alice%3Alocalhost";
    let list = format!("{THREEPIDS}?{acting}");
    assert_eq!(server.get(&list, Some(token)).await?.json(), json!({ "threepids": [] }));
    let stranger = format!("{THREEPIDS}?user_id=%40stranger%3Alocalhost");
    let refused = server.get(&stranger, Some(token)).await?;
    assert_eq!(refused.error(), (403, "M_FORBIDDEN".to_owned()), "the homeserver's word: {refused:?}");

    let body = json!({ "sid": sid, "client_secret": "secret-of-a-bridge" });
    let refused = server.post(&format!("{ADD}?{acting}"), Some(token), &body).await?;
    assert_eq!(refused.error(), (403, "M_FORBIDDEN".to_owned()), "nobody was asked: {refused:?}");
    // The way that asks nobody by its specification adds it to the user it acts for, and to no other.
    let creds = json!({ "three_pid_creds": body });
    assert_eq!(server.post(&list, Some(token), &creds).await?.status, 200);
    assert_eq!(server.get(&list, Some(token)).await?.addresses(), ["bridged@example.org"]);
    assert_eq!(server.get(THREEPIDS, Some(token)).await?.json(), json!({ "threepids": [] }));
    Ok(server.end().await?)
}

/// Answers whoami for one account, and asks for SSO before anything else.
async fn homeserver_with_sso_alone() -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let base = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    Ok(base)
}

fn sso_challenge() -> Value {
    json!({
        "flows": [{ "stages": ["m.login.sso"] }],
        "params": { "m.login.sso": { "identity_providers": [{ "id": "oidc", "name": "Example" }] } },
        "session": "a-session-of-sso",
        "completed": [],
    })
}

async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = [0; 4096];
    let read = stream.read(&mut request).await?;
    let head = String::from_utf8_lossy(request.get(..read).unwrap_or_default()).into_owned();
    let (status, body) = if head.contains("/whoami") {
        ("200 OK", json!({ "user_id": "@alice:example.org", "device_id": "DEVICE" }))
    } else {
        ("401 Unauthorized", sso_challenge())
    };
    let body = body.to_string();
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await
}

#[tokio::test]
async fn a_homeserver_that_knows_only_sso_has_its_flows_passed_on_whole() -> Story {
    let smtp = SmtpServer::start().await?;
    let server = Server::builder().mail_to(&smtp).homeserver(&homeserver_with_sso_alone().await?);
    let server = server.start().await?;
    let sid = server.prove(&smtp, "alice@example.org", "secret-of-alice").await?;
    let add = |auth: Option<Value>| {
        let mut body = json!({ "sid": sid, "client_secret": "secret-of-alice" });
        if let Some(auth) = auth {
            body["auth"] = auth;
        }
        body
    };
    let asked = server.post(ADD, Some("a-token-of-alice"), &add(None)).await?;
    assert_eq!((asked.status, asked.json()), (401, sso_challenge()));
    // The client comes back from the browser with nothing but the session. Here nobody went there.
    let back = json!({ "session": "a-session-of-sso" });
    let again = server.post(ADD, Some("a-token-of-alice"), &add(Some(back))).await?;
    assert_eq!((again.status, again.json()), (401, sso_challenge()));
    assert_eq!(server.list("a-token-of-alice").await?.json(), json!({ "threepids": [] }));
    Ok(server.end().await?)
}
