//! Every endpoint in every generation: what each outcome answers. The shapes are checked as everywhere, by the schemas.

use reqwest::Method;
use serde_json::{Value, json};
use threepid_tests::peers::{SmsGateway, SmtpServer};
use threepid_tests::schemas::{ENDPOINTS, GENERATIONS};
use threepid_tests::server::{Answer, Server, THREEPIDS, link_part};

use crate::Story;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const PASSWORD: &str = "open-sesame-7";

/// The endpoints of a generation: method and whole path. `GET /capabilities` was never unstable.
fn endpoints(generation: &str) -> Vec<(Method, String)> {
    let served =
        ENDPOINTS.into_iter().filter(|(_, path, _)| *path != "/capabilities" || generation != "unstable");
    served.map(|(method, path, _)| (method, format!("/_matrix/client/{generation}{path}"))).collect()
}

fn asks_for_no_token(path: &str) -> bool {
    path.ends_with("/requestToken")
}

#[tokio::test]
async fn whoever_shows_no_good_token_is_told_so_at_every_endpoint_of_every_generation() -> Story {
    let server = Server::builder().start().await?;
    let (status, _) = server.run(&["account", "add", "--guest", "@guest:example.org"]).await?;
    assert_eq!(status, 0);
    let guest = server.account("@guest:example.org").await?;
    let mut asked = 0;
    for (method, path) in GENERATIONS.iter().flat_map(|generation| endpoints(generation)) {
        if asks_for_no_token(&path) {
            continue;
        }
        for (token, status, errcode) in [
            (None, 401, "M_MISSING_TOKEN"),
            (Some("nobody-has-this-token"), 401, "M_UNKNOWN_TOKEN"),
            (Some(guest.as_str()), 403, "M_GUEST_ACCESS_FORBIDDEN"),
        ] {
            // Guests may know what the server can do.
            if path.ends_with("/capabilities") && status == 403 {
                continue;
            }
            let answer = server.send(server.request(method.clone(), &path, token).body("{}")).await?;
            assert_eq!(answer.error(), (status, errcode.to_owned()), "{method} {path}");
            asked += 1;
        }
    }
    assert!(asked > 50, "{asked}");
    Ok(server.end().await?)
}

#[tokio::test]
async fn what_is_no_request_is_refused_at_every_endpoint_of_every_generation() -> Story {
    let smtp = SmtpServer::start().await?;
    let server = Server::builder().mail_to(&smtp).start().await?;
    let alice = server.account("@alice:example.org").await?;
    for (method, path) in GENERATIONS.iter().flat_map(|generation| endpoints(generation)) {
        let send = |method: Method, path: &str, body: Vec<u8>| {
            server.send(server.request(method, path, Some(&alice)).body(body))
        };
        let unrecognised = "M_UNRECOGNIZED".to_owned();
        let other = send(Method::PUT, &path, b"{}".to_vec()).await?;
        assert_eq!(other.error(), (405, unrecognised.clone()), "{path}");
        for below in ["/", "/nothing-here"] {
            let answer = send(method.clone(), &format!("{path}{below}"), b"{}".to_vec()).await?;
            assert_eq!(answer.error(), (404, unrecognised.clone()), "{path}{below}");
        }
        let preflight = server.send(server.request(Method::OPTIONS, &path, None)).await?;
        assert_eq!(preflight.status, 204, "{path}");
        if method != Method::POST {
            continue;
        }
        for (body, status, errcode) in [
            (b"{".to_vec(), 400, "M_NOT_JSON"),
            (b"[]".to_vec(), 400, "M_BAD_JSON"),
            (b"{}".to_vec(), 400, "M_MISSING_PARAM"),
            (vec![b' '; 65 * 1024], 413, "M_TOO_LARGE"),
        ] {
            let answer = send(Method::POST, &path, body).await?;
            assert_eq!(answer.error(), (status, errcode.to_owned()), "{path}");
        }
    }
    Ok(server.end().await?)
}

/// Requests of one generation.
struct Client<'a> {
    server: &'a Server,
    generation: &'static str,
}

impl Client<'_> {
    async fn post(&self, path: &str, token: Option<&str>, body: Value) -> Outcome<Answer> {
        let path = format!("/_matrix/client/{}/account/3pid{path}", self.generation);
        Ok(self.server.post(&path, token, &body).await?)
    }

    async fn list(&self, token: &str) -> Outcome<Vec<String>> {
        let path = format!("/_matrix/client/{}/account/3pid", self.generation);
        Ok(self.server.get(&path, Some(token)).await?.addresses())
    }
}

#[tokio::test]
async fn the_life_of_an_address_is_the_same_in_every_generation() -> Story {
    let (smtp, gateway) = (SmtpServer::start().await?, SmsGateway::start().await?);
    let server = Server::builder()
        .mail_to(&smtp)
        .set("limits.failed_reauthentication_per_account.burst", 1000)
        .sms_to(&gateway)
        .set("addresses.deny", "[{ domain = \"denied.example\" }, { country = \"DE\" }]")
        .set("identity_servers", "[{ name = \"id.example.org\", base_url = \"http://127.0.0.1:1\" }]")
        .start()
        .await?;
    let (alice, bob) =
        (server.account("@alice:example.org").await?, server.account("@bob:example.org").await?);
    let file = server.folder().join("password");
    std::fs::write(&file, PASSWORD)?;
    server.keep_secret(PASSWORD);
    let file = file.to_string_lossy().into_owned();
    let set = ["account", "password", "@alice:example.org", "--password-file", &file];
    assert_eq!(server.run(&set).await?.0, 0);
    for generation in GENERATIONS {
        let client = Client { server: &server, generation };
        one_life(&client, &smtp, &alice, &bob).await.map_err(|error| format!("{generation}: {error}"))?;
    }
    Ok(server.end().await?)
}

async fn one_life(client: &Client<'_>, smtp: &SmtpServer, alice: &str, bob: &str) -> Story {
    let error = |status: u16, errcode: &str| (status, errcode.to_owned());
    let (email, secret) = (format!("{}@example.org", client.generation), "secret-of-alice");
    let request = |email: &str| json!({ "client_secret": secret, "email": email, "send_attempt": 1 });

    let denied = client.post("/email/requestToken", None, request("a@denied.example")).await?;
    assert_eq!(denied.error(), error(403, "M_THREEPID_DENIED"));
    let invalid = client.post("/email/requestToken", None, request("no address")).await?;
    assert_eq!(invalid.error(), error(400, "M_INVALID_PARAM"));
    for (country, phone_number, refusal) in [
        ("DE", "0151 23456789", error(403, "M_THREEPID_DENIED")),
        ("GB", "no number", error(400, "M_INVALID_PARAM")),
        ("UK", "07700 900813", error(400, "M_INVALID_PARAM")),
    ] {
        let body = json!({
            "client_secret": secret, "country": country, "phone_number": phone_number, "send_attempt": 1,
        });
        let refused = client.post("/msisdn/requestToken", None, body).await?;
        assert_eq!(refused.error(), refusal, "{country} {phone_number}");
    }
    let sid = client.post("/email/requestToken", None, request(&email)).await?.sid()?;

    // Nothing is proven yet.
    let creds = json!({ "client_secret": secret, "sid": sid });
    let unproven = client.post("", Some(alice), json!({ "three_pid_creds": creds })).await?;
    assert_eq!(unproven.error(), error(403, "M_THREEPID_AUTH_FAILED"));
    let add = |auth: Value| json!({ "client_secret": secret, "sid": sid, "auth": auth });
    let challenge = async || -> Outcome<Value> {
        let asked = client.post("/add", Some(alice), creds.clone()).await?;
        assert_eq!(asked.status, 401, "{asked:?}");
        Ok(json!({
            "type": "m.login.password", "password": PASSWORD, "session": asked.json()["session"],
            "identifier": { "type": "m.id.user", "user": "alice" },
        }))
    };
    let unproven = client.post("/add", Some(alice), add(challenge().await?)).await?;
    assert_eq!(unproven.error(), error(400, "M_THREEPID_AUTH_FAILED"));
    let mail = smtp.wait_for_mail_to(&email).await?;
    let wrong = client.server.submit(&sid, secret, "not-the-token-of-this").await?;
    assert_eq!(wrong.error(), error(400, "M_TOKEN_INCORRECT"));
    let right = client.server.submit(&sid, secret, &link_part(&mail.confirm_link()?, "token")?).await?;
    assert_eq!((right.status, right.json()), (200, json!({ "success": true })));

    let added = client.post("/add", Some(alice), add(challenge().await?)).await?;
    assert_eq!((added.status, added.json()), (200, json!({})));
    assert_eq!(client.list(alice).await?, [email.as_str()]);
    let taken = client.post("/email/requestToken", None, request(&email)).await?;
    assert_eq!(taken.error(), error(400, "M_THREEPID_IN_USE"));
    let spent = client.post("", Some(bob), json!({ "three_pid_creds": creds })).await?;
    assert_eq!(spent.error(), error(403, "M_THREEPID_AUTH_FAILED"));

    let bind = |id_server: &str| {
        json!({
            "client_secret": secret, "sid": sid, "id_server": id_server, "id_access_token": "a-token-of-theirs",
        })
    };
    for (id_server, refusal) in [
        ("stranger.example", error(400, "M_SERVER_NOT_TRUSTED")),
        ("https://id.example.org", error(400, "M_INVALID_PARAM")),
        // Nobody answers there.
        ("id.example.org", error(503, "M_UNKNOWN")),
    ] {
        let refused = client.post("/bind", Some(alice), bind(id_server)).await?;
        assert_eq!(refused.error(), refusal, "{id_server}");
    }
    let gone = json!({ "medium": "email", "address": email });
    let stranger = json!({ "medium": "email", "address": email, "id_server": "stranger.example" });
    let refused = client.post("/unbind", Some(alice), stranger.clone()).await?;
    assert_eq!(refused.error(), error(400, "M_SERVER_NOT_TRUSTED"));
    let nothing = json!({ "id_server_unbind_result": "no-support" });
    assert_eq!(client.post("/unbind", Some(bob), gone.clone()).await?.json(), nothing);

    // Bob cannot take it away; Alice can, in any case of letters, and twice.
    assert_eq!(client.post("/delete", Some(bob), gone.clone()).await?.json(), nothing);
    assert_eq!(client.list(alice).await?, [email.as_str()]);
    let shouted = json!({ "medium": "email", "address": email.to_uppercase() });
    for body in [shouted, stranger] {
        let deleted = client.post("/delete", Some(alice), body).await?;
        assert_eq!((deleted.status, deleted.json()), (200, nothing.clone()));
        assert!(client.list(alice).await?.is_empty());
    }
    let medium = client.post("/delete", Some(alice), json!({ "medium": "fax", "address": email })).await?;
    assert_eq!(medium.error(), error(400, "M_INVALID_PARAM"));
    Ok(())
}

#[tokio::test]
async fn a_server_that_sends_nothing_and_one_that_is_asked_too_often_say_so_in_every_generation() -> Story {
    let without = Server::builder().start().await?;
    let (smtp, gateway) = (SmtpServer::start().await?, SmsGateway::start().await?);
    let by_mail = json!({ "client_secret": "secret-of-alice", "email": "a@example.org", "send_attempt": 1 });
    let by_sms = json!({
        "client_secret": "secret-of-alice", "country": "GB", "phone_number": "07700 900813", "send_attempt": 1,
    });
    let strict = Server::builder().mail_to(&smtp).sms_to(&gateway);
    // Whatever the medium, it is one client.
    let strict = strict.set("limits.request_token_per_client.burst", 2);
    let strict = strict.set("limits.request_token_per_client.per_second", 0.003).start().await?;
    let both = [("email", by_mail), ("msisdn", by_sms)];
    let path = |generation: &str, medium: &str| {
        format!("/_matrix/client/{generation}/account/3pid/{medium}/requestToken")
    };
    for (medium, request) in &both {
        assert_eq!(strict.post(&path("v3", medium), None, request).await?.status, 200);
    }
    for generation in GENERATIONS {
        for (medium, request) in &both {
            let answer = without.post(&path(generation, medium), None, request).await?;
            assert_eq!(answer.error(), (400, "M_THREEPID_MEDIUM_NOT_SUPPORTED".to_owned()));
            let limited = strict.post(&path(generation, medium), None, request).await?;
            assert_eq!(limited.error(), (429, "M_LIMIT_EXCEEDED".to_owned()));
            let (ms, s) =
                (limited.json()["retry_after_ms"].as_u64(), limited.header("retry-after").parse::<u64>()?);
            assert!(ms.is_some_and(|ms| ms > 1000 && ms.div_ceil(1000) == s), "{limited:?}");
        }
    }
    assert_eq!(without.get(THREEPIDS, None).await?.error().0, 401);
    without.end().await?;
    Ok(strict.end().await?)
}
