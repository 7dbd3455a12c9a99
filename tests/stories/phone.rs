//! Phone numbers and codes: numbers, gateways and codes of every kind, a real client, and the page in a real browser.

use std::time::{Duration, Instant};

use regex::Regex;
use serde_json::{Value, json};
use threepid_tests::peers::{
    Appearance, Chromium, ChromiumOptions, Nginx, NodeScript, PeerError, SmsGateway, SmsMode, SmtpServer,
    TestCa, User, Viewport, artifacts, free_port, front, wait_until,
};
use threepid_tests::schemas::GENERATIONS;
use threepid_tests::server::{Answer, CONFIRM, SUBMIT_TOKEN, Server, ServerBuilder, THREEPIDS};

use crate::confirm_page::{assert_readable, node};
use crate::{Story, shared_homeserver};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const SECRET: &str = "secret-of-alice";
const PASSWORD: &str = "open-sesame-7";
/// What an answer may take at most, on a machine that does other things, too.
const AT_ONCE: Duration = Duration::from_secs(3);
const SOON: Duration = Duration::from_secs(30);

/// One of the numbers that no phone has: as it is dialled at home, as it is kept, and as people read it.
struct Number {
    dialled: String,
    digits: String,
    shown: String,
}

impl Number {
    fn nth(nth: usize) -> Self {
        Self {
            dialled: format!("07700 900{nth:03}"),
            digits: format!("447700900{nth:03}"),
            shown: format!("+44 7700 900{nth:03}"),
        }
    }

    /// As logs and lists show it.
    fn masked(&self) -> String {
        format!("44…{}", &self.digits[10..])
    }
}

fn error(status: u16, errcode: &str) -> (u16, String) {
    (status, errcode.to_owned())
}

fn incorrect() -> (u16, String) {
    error(400, "M_TOKEN_INCORRECT")
}

/// So many codes that are not this one.
fn wrong_codes(code: &str, count: usize) -> Vec<String> {
    let guesses = (0..).map(|guess| format!("{guess:06}"));
    guesses.filter(|guess| guess != code).take(count).collect()
}

async fn ask(server: &Server, number: &Number, secret: &str, attempt: u64) -> Outcome<String> {
    Ok(server.request_code("GB", &number.dialled, secret, attempt).await?.sid()?)
}

/// Asks for an SMS, and gives the session and the code in it.
async fn asked(server: &Server, gateway: &SmsGateway, number: &Number) -> Outcome<(String, String)> {
    let sid = ask(server, number, SECRET, 1).await?;
    Ok((sid, server.code_at(gateway, &number.digits).await?))
}

async fn is_right(server: &Server, sid: &str, code: &str) -> Story {
    let submitted = server.submit(sid, SECRET, code).await?;
    assert_eq!((submitted.status, submitted.json()), (200, json!({ "success": true })));
    Ok(())
}

/// Whatever was owed before this came before this.
async fn nothing_else_is_owed(server: &Server, gateway: &SmsGateway, messages: usize) -> Story {
    let last = Number::nth(999);
    asked(server, gateway, &last).await?;
    assert_eq!(gateway.messages().len(), messages + 1);
    Ok(())
}

// The whole of it.

#[tokio::test]
async fn a_number_is_asked_for_proven_added_listed_and_deleted_in_every_generation() -> Story {
    let gateway = SmsGateway::start().await?;
    let server = Server::builder().sms_to(&gateway).text("mail.app_name", "Example Chat").start().await?;
    let (alice, bob) =
        (server.account("@alice:example.org").await?, server.account("@bob:example.org").await?);
    let file = server.folder().join("password");
    std::fs::write(&file, PASSWORD)?;
    server.keep_secret(PASSWORD);
    let file = file.to_string_lossy().into_owned();
    let set = ["account", "password", "@alice:example.org", "--password-file", &file];
    assert_eq!(server.run(&set).await?.0, 0);
    for (nth, generation) in GENERATIONS.into_iter().enumerate() {
        let client = Client { server: &server, generation };
        let life = one_life(&client, &gateway, &Number::nth(nth), &alice, &bob).await;
        life.map_err(|error| format!("{generation}: {error}"))?;
    }
    assert_eq!(gateway.messages().len(), GENERATIONS.len());
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

    async fn list(&self, token: &str) -> Outcome<Answer> {
        let path = format!("/_matrix/client/{}/account/3pid", self.generation);
        Ok(self.server.get(&path, Some(token)).await?)
    }
}

async fn one_life(
    client: &Client<'_>,
    gateway: &SmsGateway,
    number: &Number,
    alice: &str,
    bob: &str,
) -> Story {
    let server = client.server;
    server.keep_secret(&number.dialled);
    let request = json!({
        "client_secret": SECRET, "country": "GB", "phone_number": number.dialled, "send_attempt": 1,
        "id_server": "vector.im", "id_access_token": "ignored-here",
    });
    let opened = client.post("/msisdn/requestToken", None, request.clone()).await?;
    let sid = opened.sid()?;
    let submit_url = server.url(SUBMIT_TOKEN);
    let told =
        json!({ "sid": sid, "submit_url": submit_url, "msisdn": number.digits, "intl_fmt": number.shown });
    assert_eq!(opened.json(), told);

    let sms = gateway.wait_for_sms_to(&number.digits).await?;
    let code = sms.code()?;
    server.keep_code(&code);
    assert_eq!(sms.to, [number.digits.as_str()], "to nobody else");
    assert!(sms.text.starts_with(&format!("{code} is your code for Example Chat.")), "{}", sms.text);
    assert!(sms.text.contains("good for 1 hour") && sms.text.contains("Give it to nobody"), "{}", sms.text);
    assert!(sms.text.is_ascii() && sms.text.len() <= 160, "one SMS is enough: {}", sms.text);
    for secret in [SECRET, sid.as_str(), "http", &number.digits[2..]] {
        assert!(!sms.text.contains(secret), "{secret}: {}", sms.text);
    }

    // Nothing is proven yet.
    let creds = json!({ "client_secret": SECRET, "sid": sid });
    let unproven = client.post("", Some(alice), json!({ "three_pid_creds": creds })).await?;
    assert_eq!(unproven.error(), error(403, "M_THREEPID_AUTH_FAILED"));
    let add = |auth: Value| json!({ "client_secret": SECRET, "sid": sid, "auth": auth });
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
    let submit = json!({ "sid": sid, "client_secret": SECRET, "token": code });
    for _again in 0..2 {
        let submitted = server.post(&submit_url, None, &submit).await?;
        assert_eq!((submitted.status, submitted.json()), (200, json!({ "success": true })));
    }
    let added = client.post("/add", Some(alice), add(challenge().await?)).await?;
    assert_eq!((added.status, added.json()), (200, json!({})));

    let listed = client.list(alice).await?;
    assert_eq!(listed.addresses(), [number.digits.as_str()]);
    let threepid = &listed.json()["threepids"][0];
    assert_eq!(threepid["medium"], "msisdn");
    assert!(threepid["validated_at"].as_u64() <= threepid["added_at"].as_u64(), "{threepid}");
    assert!(client.list(bob).await?.addresses().is_empty());
    let taken = client.post("/msisdn/requestToken", None, request).await?;
    assert_eq!(taken.error(), error(400, "M_THREEPID_IN_USE"));
    let spent = client.post("", Some(bob), json!({ "three_pid_creds": creds })).await?;
    assert_eq!(spent.error(), error(403, "M_THREEPID_AUTH_FAILED"));

    let nothing = json!({ "id_server_unbind_result": "no-support" });
    let gone = json!({ "medium": "msisdn", "address": number.digits });
    assert_eq!(client.post("/delete", Some(bob), gone.clone()).await?.json(), nothing);
    assert_eq!(client.list(alice).await?.addresses(), [number.digits.as_str()], "it is not his to delete");
    for _again in 0..2 {
        let deleted = client.post("/delete", Some(alice), gone.clone()).await?;
        assert_eq!((deleted.status, deleted.json()), (200, nothing.clone()));
        assert!(client.list(alice).await?.addresses().is_empty());
    }
    Ok(())
}

/// What matrix-js-sdk was asked and what it gave, line by line.
struct JsSdk<'a> {
    ca: &'a TestCa,
    base_url: String,
    user: &'a User,
    transcript: Vec<String>,
}

impl JsSdk<'_> {
    async fn call(&mut self, method: &str, arguments: Value) -> Outcome<Value> {
        let script = NodeScript::new("client.mjs")
            .arg(&self.base_url)
            .arg(&self.user.access_token)
            .arg("")
            .arg(method)
            .arg(&arguments.to_string());
        let answer = script.trust(self.ca).run().await?.json()?;
        let line = format!("{method}{arguments}\n  -> {answer}");
        self.transcript.push(line.replace(&self.user.password, "(her password)"));
        Ok(answer)
    }
}

#[tokio::test]
async fn matrix_js_sdk_adds_and_removes_a_number_through_the_front() -> Story {
    let homeserver = shared_homeserver().await?;
    let alice = homeserver.new_user().await?;
    let (ca, gateway, port) = (TestCa::new()?, SmsGateway::start().await?, free_port()?);
    let base_url = format!("https://127.0.0.1:{port}");
    let server = Server::builder()
        .sms_to(&gateway)
        .homeserver(homeserver.base_url())
        .text("public_base_url", &base_url)
        .text("deprecated_add", "off")
        .start()
        .await?;
    server.keep_secret(&alice.password);
    let locations = front(server.base_url(), homeserver.base_url());
    let _front = Nginx::start(&ca, Some(port), &["127.0.0.1"], &locations).await?;
    let mut client = JsSdk { ca: &ca, base_url: base_url.clone(), user: &alice, transcript: Vec::new() };
    let number = Number::nth(813);

    let refused = client.call("requestAdd3pidMsisdnToken", json!(["GB", "07700", SECRET, 1])).await?;
    assert_eq!((&refused["status"], &refused["errcode"]), (&json!(400), &json!("M_INVALID_PARAM")));
    let request = json!(["GB", number.dialled, SECRET, 1]);
    let opened = client.call("requestAdd3pidMsisdnToken", request.clone()).await?;
    let submit_url = format!("{base_url}{SUBMIT_TOKEN}");
    let sid = opened["body"]["sid"].clone();
    let told =
        json!({ "sid": sid, "submit_url": submit_url, "msisdn": number.digits, "intl_fmt": number.shown });
    assert_eq!(opened, json!({ "status": 200, "body": told }));
    assert_eq!(client.call("requestAdd3pidMsisdnToken", request.clone()).await?, opened);
    let code = server.code_at(&gateway, &number.digits).await?;
    client.transcript.push(format!("SMS to {}: {}", number.digits, gateway.messages()[0].text));

    let mut wrong = wrong_codes(&code, 1);
    wrong.push(code[..5].to_owned());
    for wrong in wrong {
        let submit = json!([submit_url, sid, SECRET, wrong]);
        let refused = client.call("submitMsisdnTokenOtherUrl", submit).await?;
        assert_eq!((&refused["status"], &refused["errcode"]), (&json!(400), &json!("M_TOKEN_INCORRECT")));
    }
    let typed = halves(&code, " ");
    let submitted = client.call("submitMsisdnTokenOtherUrl", json!([submit_url, sid, SECRET, typed])).await?;
    assert_eq!(submitted, json!({ "status": 200, "body": { "success": true } }));

    let mut data = json!({ "client_secret": SECRET, "sid": sid });
    let challenged = client.call("addThreePidOnly", json!([data])).await?;
    assert_eq!(challenged["status"], 401, "{challenged}");
    data["auth"] = json!({
        "type": "m.login.password", "identifier": { "type": "m.id.user", "user": alice.user_id },
        "password": alice.password, "session": challenged["body"]["session"],
    });
    let added = client.call("addThreePidOnly", json!([data])).await?;
    assert_eq!(added, json!({ "status": 200, "body": {} }));
    let listed = client.call("getThreePids", json!([])).await?;
    let threepid = &listed["body"]["threepids"][0];
    assert_eq!((&threepid["medium"], &threepid["address"]), (&json!("msisdn"), &json!(number.digits)));
    let taken = client.call("requestAdd3pidMsisdnToken", request).await?;
    assert_eq!((&taken["status"], &taken["errcode"]), (&json!(400), &json!("M_THREEPID_IN_USE")));
    let deleted = client.call("deleteThreePid", json!(["msisdn", threepid["address"]])).await?;
    assert_eq!(deleted["body"], json!({ "id_server_unbind_result": "no-support" }), "{deleted}");
    let listed = client.call("getThreePids", json!([])).await?;
    assert_eq!(listed["body"], json!({ "threepids": [] }));

    assert_eq!(gateway.messages().len(), 1);
    std::fs::write(artifacts()?.join("phone-matrix-js-sdk.txt"), client.transcript.join("\n") + "\n")?;
    Ok(server.end().await?)
}

// Gateways.

/// Asks, and is answered without waiting for the gateway.
async fn answered_at_once(server: &Server, number: &Number) -> Outcome<String> {
    let started = Instant::now();
    let sid = ask(server, number, SECRET, 1).await?;
    let took = started.elapsed();
    assert!(took < AT_ONCE, "an answer waits for no gateway: {took:?}");
    Ok(sid)
}

/// The story of a fault that passes.
async fn the_sms_comes_once_after(mode: SmsMode) -> Story {
    let gateway = SmsGateway::start().await?;
    let server = Server::builder().sms_to(&gateway).start().await?;
    let number = Number::nth(1);
    gateway.set_mode(mode);
    let sid = answered_at_once(&server, &number).await?;
    server.wait_for_log(&["will be tried again", "validation_sms", &number.masked()]).await?;
    assert!(gateway.messages().is_empty());
    gateway.set_mode(SmsMode::Accept);
    let code = server.code_at(&gateway, &number.digits).await?;
    server.wait_for_log(&["delivered to the next hop", &number.masked()]).await?;
    is_right(&server, &sid, &code).await?;
    nothing_else_is_owed(&server, &gateway, 1).await?;
    Ok(server.end().await?)
}

#[tokio::test]
async fn the_sms_comes_once_after_a_gateway_failed() -> Story {
    the_sms_comes_once_after(SmsMode::Fail).await
}

#[tokio::test]
async fn the_sms_comes_once_after_a_gateway_answered_with_a_page() -> Story {
    the_sms_comes_once_after(SmsMode::Page).await
}

#[tokio::test]
async fn the_sms_comes_once_after_a_gateway_knew_no_such_key() -> Story {
    the_sms_comes_once_after(SmsMode::Unauthorized).await
}

#[tokio::test]
async fn the_sms_comes_once_after_a_gateway_sent_the_server_elsewhere() -> Story {
    the_sms_comes_once_after(SmsMode::Redirect).await
}

#[tokio::test]
async fn the_sms_comes_once_after_a_gateway_dropped_the_connection() -> Story {
    the_sms_comes_once_after(SmsMode::Drop).await
}

#[tokio::test]
async fn the_sms_comes_once_after_a_gateway_hung() -> Story {
    the_sms_comes_once_after(SmsMode::Hang).await
}

#[tokio::test]
async fn the_sms_comes_once_after_a_gateway_was_down_even_through_a_power_cut() -> Story {
    let gateway = SmsGateway::start().await?;
    let mut server = Server::builder().sms_to(&gateway).start().await?;
    let port = gateway.stop().await;
    let number = Number::nth(2);
    let sid = answered_at_once(&server, &number).await?;
    server.wait_for_log(&["will be tried again", &number.masked()]).await?;
    server.kill()?;
    server.launch().await?;
    let gateway = SmsGateway::start_at(port).await?;
    let code = server.code_at(&gateway, &number.digits).await?;
    is_right(&server, &sid, &code).await?;
    nothing_else_is_owed(&server, &gateway, 1).await?;
    Ok(server.end().await?)
}

#[tokio::test]
async fn a_slow_gateway_gets_each_sms_once_and_keeps_nobody_waiting() -> Story {
    let gateway = SmsGateway::start().await?;
    let server = Server::builder().sms_to(&gateway).text("sms.http.timeout", "30s").start().await?;
    gateway.set_mode(SmsMode::AcceptAfter(AT_ONCE + Duration::from_secs(1)));
    let number = Number::nth(3);
    let sid = answered_at_once(&server, &number).await?;
    // The phone may have it before the gateway has said so.
    let code = server.code_at(&gateway, &number.digits).await?;
    is_right(&server, &sid, &code).await?;
    server.wait_for_log(&["delivered to the next hop", &number.masked()]).await?;
    assert_eq!(gateway.requests(), 1);
    Ok(server.end().await?)
}

/// The gateway takes the SMS and the server does not hear of it.
async fn the_sms_comes_again_under_its_id_after(mode: SmsMode) -> Story {
    let gateway = SmsGateway::start().await?;
    let server = Server::builder().sms_to(&gateway).start().await?;
    let number = Number::nth(4);
    gateway.set_mode(mode);
    let sid = answered_at_once(&server, &number).await?;
    gateway.wait_for_requests(1).await?;
    server.wait_for_log(&["will be tried again", &number.masked()]).await?;
    gateway.set_mode(SmsMode::Accept);
    server.wait_for_log(&["delivered to the next hop", &number.masked()]).await?;
    let messages = gateway.messages();
    let [first, again @ ..] = &messages[..] else { return Err("no SMS".into()) };
    assert!(!again.is_empty(), "the unanswered one and its repetition");
    assert!(first.id.as_ref().is_some_and(|id| !id.is_empty()), "{first:?}");
    for sms in again {
        assert_eq!((&sms.id, &sms.to, &sms.text), (&first.id, &first.to, &first.text));
    }
    let code = server.code_at(&gateway, &number.digits).await?;
    is_right(&server, &sid, &code).await?;
    let (_, listed) = server.run(&["outbox", "list", "--state", "sent", "--json"]).await?;
    let listed: Value = serde_json::from_str(listed.trim())?;
    assert_eq!(listed["id"].as_str(), first.id.as_deref(), "the id is the outbox's: {listed}");
    nothing_else_is_owed(&server, &gateway, messages.len()).await?;
    Ok(server.end().await?)
}

#[tokio::test]
async fn a_gateway_that_takes_an_sms_and_times_out_gets_it_again_under_the_same_id() -> Story {
    the_sms_comes_again_under_its_id_after(SmsMode::KeepAndHang).await
}

#[tokio::test]
async fn a_gateway_that_takes_an_sms_and_drops_the_connection_gets_it_again_under_the_same_id() -> Story {
    the_sms_comes_again_under_its_id_after(SmsMode::KeepAndDrop).await
}

/// The dead messages as JSON, once there are so many.
async fn dead(server: &Server, count: usize) -> Result<Vec<Value>, PeerError> {
    wait_until("the dead messages", SOON, || async {
        let (status, said) = server.run(&["outbox", "list", "--json"]).await?;
        assert_eq!(status, 0, "{said}");
        let listed: Vec<Value> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Ok((listed.len() == count).then_some(listed))
    })
    .await
}

#[tokio::test]
async fn an_sms_that_a_gateway_will_never_take_waits_for_an_operator() -> Story {
    let gateway = SmsGateway::start().await?;
    let server = Server::builder().sms_to(&gateway).start().await?;
    gateway.set_mode(SmsMode::Reject);
    let number = Number::nth(13);
    let sid = answered_at_once(&server, &number).await?;
    let line = server.wait_for_log(&["kept as dead", "validation_sms", &number.masked()]).await?;
    assert!(line.contains("status 400"), "{line}");
    let listed = dead(&server, 1).await?;
    let [sms] = &listed[..] else { return Err(format!("{listed:?}").into()) };
    assert_eq!((&sms["kind"], &sms["state"]), (&json!("validation_sms"), &json!("dead")));
    assert_eq!((&sms["address"], &sms["attempts"]), (&json!(number.masked()), &json!(1)));
    assert!(sms["last_error"].as_str().is_some_and(|error| error.contains("status 400")), "{sms}");
    // Masked, unless asked for whole.
    let (_, list) = server.run(&["outbox", "list"]).await?;
    assert!(list.contains(&number.masked()) && !list.contains(&number.digits), "{list}");
    let (_, whole) = server.run(&["outbox", "list", "--whole"]).await?;
    assert!(whole.contains(&number.digits), "{whole}");

    // It is not tried again by itself: what was owed later has come meanwhile.
    gateway.set_mode(SmsMode::Accept);
    nothing_else_is_owed(&server, &gateway, 0).await?;
    assert_eq!(gateway.requests(), 2);
    let id = sms["id"].as_str().ok_or("an id")?;
    let (status, said) = server.run(&["outbox", "retry", id]).await?;
    assert!(status == 0 && said.contains("the validation_sms is tried again now"), "{said}");
    let code = server.code_at(&gateway, &number.digits).await?;
    is_right(&server, &sid, &code).await?;

    // A new wish is a new SMS, too.
    gateway.set_mode(SmsMode::Reject);
    let other = Number::nth(14);
    ask(&server, &other, SECRET, 1).await?;
    let listed = dead(&server, 1).await?;
    let id = listed[0]["id"].as_str().ok_or("an id")?;
    let (status, said) = server.run(&["outbox", "drop", id]).await?;
    assert!(status == 0 && said.contains("its user can ask for another"), "{said}");
    gateway.set_mode(SmsMode::Accept);
    let sid = ask(&server, &other, SECRET, 2).await?;
    let code = server.code_at(&gateway, &other.digits).await?;
    is_right(&server, &sid, &code).await?;
    Ok(server.end().await?)
}

#[tokio::test]
async fn an_sms_that_comes_too_late_is_not_sent() -> Story {
    let gateway = SmsGateway::start().await?;
    let server = Server::builder().sms_to(&gateway).text("lifetimes.token", "1s").start().await?;
    gateway.set_mode(SmsMode::Fail);
    answered_at_once(&server, &Number::nth(5)).await?;
    server.wait_for_log(&["expired before it could be delivered", &Number::nth(5).masked()]).await?;
    gateway.set_mode(SmsMode::Accept);
    nothing_else_is_owed(&server, &gateway, 0).await?;
    Ok(server.end().await?)
}

// Asking again, asking for what cannot be.

#[tokio::test]
async fn only_a_higher_attempt_sends_a_new_code_and_only_the_newest_is_good() -> Story {
    let gateway = SmsGateway::start().await?;
    let server = Server::builder().sms_to(&gateway).start().await?;
    let alice = server.account("@alice:example.org").await?;
    let number = Number::nth(6);
    let (sid, first) = asked(&server, &gateway, &number).await?;
    for attempt in [1, 0, 1] {
        assert_eq!(ask(&server, &number, SECRET, attempt).await?, sid);
    }
    for spelling in ["+44 7700 900006", "(0)7700-900-006", "00447700900006", "٠٧٧٠٠٩٠٠٠٠٦"] {
        assert_eq!(server.request_code("GB", spelling, SECRET, 1).await?.sid()?, sid, "{spelling}");
    }
    assert_eq!(ask(&server, &number, SECRET, 7).await?, sid);
    let is_newest = |text: &str| !text.contains(&first);
    let newest = gateway.wait_for_sms(|sms| sms.to == [number.digits.as_str()] && is_newest(&sms.text));
    let newest = newest.await?.code()?;
    server.keep_code(&newest);
    nothing_else_is_owed(&server, &gateway, 2).await?;
    assert_eq!(server.submit(&sid, SECRET, &first).await?.error(), incorrect(), "a newer one was sent");
    is_right(&server, &sid, &newest).await?;
    assert_eq!(ask(&server, &number, SECRET, 8).await?, sid, "proven: nothing more is sent");

    // Whoever else asks has a session and a code of their own.
    let other = ask(&server, &number, "secret-of-bob", 1).await?;
    assert_ne!(other, sid);
    gateway
        .wait_for_sms(|sms| {
            sms.to == [number.digits.as_str()] && !sms.text.contains(&newest) && is_newest(&sms.text)
        })
        .await?;
    assert_eq!(gateway.messages().len(), 4);
    assert_eq!(server.submit(&other, "secret-of-bob", &newest).await?.error(), incorrect());
    assert_eq!(server.add(&alice, &sid, SECRET).await?.status, 200);
    assert_eq!(server.list(&alice).await?.addresses(), [number.digits.as_str()]);
    Ok(server.end().await?)
}

#[tokio::test]
async fn numbers_that_cannot_be_or_get_no_sms_are_refused_by_the_parameter_that_is_wrong() -> Story {
    let gateway = SmsGateway::start().await?;
    let server = Server::builder().sms_to(&gateway).start().await?;
    let long = "1".repeat(50_000);
    for (what, country, phone_number, wrong) in [
        ("vanity", "US", "1-800-FLOWERS", "phone_number"),
        ("vanity, with a plus", "US", "+1 520 TRUE CAR", "phone_number"),
        ("with an extension", "GB", "07700 900813 ext. 12", "phone_number"),
        ("with an extension", "GB", "07700900813x12", "phone_number"),
        ("with an extension", "GB", "+447700900813;ext=12", "phone_number"),
        ("premium", "GB", "0909 8790000", "phone_number"),
        ("premium", "US", "900-555-0123", "phone_number"),
        ("premium", "DE", "0900 5123456", "phone_number"),
        ("toll free", "US", "+1 800 356 9377", "phone_number"),
        ("a satellite's", "GB", "+881612345678", "phone_number"),
        ("impossible: too short", "GB", "07700", "phone_number"),
        ("impossible: too long", "GB", "077009008130", "phone_number"),
        ("impossible: much too long", "GB", &long, "phone_number"),
        ("impossible: an emergency", "GB", "999", "phone_number"),
        ("nobody's country code", "GB", "+999123456789", "phone_number"),
        ("nothing", "GB", "", "phone_number"),
        ("a plus", "GB", "+", "phone_number"),
        ("words", "GB", "my phone", "phone_number"),
        ("a URL", "GB", "tel:+447700900813", "phone_number"),
        ("a line break", "GB", "07700900813\r\nTo: +15005550006", "phone_number"),
        ("another country's", "US", "07700 900813", "phone_number"),
        ("another country's", "FR", "(520) 878-2491", "phone_number"),
        ("a country that does not exist", "ZZ", "07700 900813", "country"),
        ("a country by another name", "UK", "07700 900813", "country"),
        ("a country in small letters", "gb", "07700 900813", "country"),
        ("a country in three letters", "GBR", "07700 900813", "country"),
        ("a country's code", "44", "07700 900813", "country"),
        ("a country without phones", "AQ", "07700 900813", "country"),
        ("no country", "", "07700 900813", "country"),
        ("a country that does not exist beside a plus", "ZZ", "+447700900813", "country"),
    ] {
        let refused = server.request_code(country, phone_number, SECRET, 1).await?;
        let shown: String = phone_number.chars().take(40).collect();
        assert_eq!(refused.error(), error(400, "M_INVALID_PARAM"), "{what}: {country} {shown}");
        let said = refused.json()["error"].as_str().unwrap_or_default().to_owned();
        assert!(said.contains(wrong), "{what}: {said}");
        assert!(phone_number.len() < 5 || !said.contains(&shown), "what was sent is not repeated: {said}");
    }
    nothing_else_is_owed(&server, &gateway, 0).await?;
    assert_eq!(gateway.requests(), 1);
    Ok(server.end().await?)
}

#[tokio::test]
async fn numbers_are_read_as_they_are_dialled_at_home_and_as_the_world_writes_them() -> Story {
    let gateway = SmsGateway::start().await?;
    let server = Server::builder().sms_to(&gateway).start().await?;
    for (country, phone_number, digits, shown) in [
        ("GB", "07700 900001", "447700900001", "+44 7700 900001"),
        ("GB", "+44 (0)7700 900002", "447700900002", "+44 7700 900002"),
        ("GB", "00 44 7700 900003", "447700900003", "+44 7700 900003"),
        ("US", "(520) 878-2491", "15208782491", "+1 520-878-2491"),
        ("DE", "0151 23456789", "4915123456789", "+49 1512 3456789"),
        // The zero of a fixed line belongs to the number in Italy.
        ("IT", "02 3661 8300", "390236618300", "+39 02 3661 8300"),
        // A plus wins over a country that does not match.
        ("US", "+44 7700 900004", "447700900004", "+44 7700 900004"),
        ("GB", "+1 613-782-7274", "16137827274", "+1 613-782-7274"),
    ] {
        let opened = server.request_code(country, phone_number, SECRET, 1).await?;
        let sid = opened.sid().map_err(|error| format!("{country} {phone_number}: {error}"))?;
        let told = opened.json();
        assert_eq!((&told["msisdn"], &told["intl_fmt"]), (&json!(digits), &json!(shown)));
        let code = server.code_at(&gateway, digits).await?;
        is_right(&server, &sid, &code).await?;
    }
    Ok(server.end().await?)
}

#[tokio::test]
async fn numbers_that_the_operator_does_not_want_get_no_sms() -> Story {
    let gateway = SmsGateway::start().await?;
    let server = Server::builder()
        .sms_to(&gateway)
        .set("addresses.allow", r#"[{ country = "GB" }, { country = "DE" }, { domain = "example.org" }]"#)
        .set("addresses.deny", r#"[{ country = "DE" }, { medium = "msisdn", pattern = "4477009008.*" }]"#)
        .start()
        .await?;
    for (country, phone_number) in [
        ("DE", "0151 23456789"),
        ("GB", "+49 151 23456789"),
        ("GB", "07700 900813"),
        ("FR", "06 31 96 65 43"),
        ("GB", "+1 520 878 2491"),
    ] {
        let denied = server.request_code(country, phone_number, SECRET, 1).await?;
        assert_eq!(denied.error(), error(403, "M_THREEPID_DENIED"), "{country} {phone_number}");
    }
    nothing_else_is_owed(&server, &gateway, 0).await?;
    assert_eq!(gateway.requests(), 1);
    Ok(server.end().await?)
}

#[tokio::test]
async fn without_a_gateway_or_without_changes_no_number_can_be_proven() -> Story {
    let gateway = SmsGateway::start().await?;
    let number = Number::nth(7);
    for (builder, refusal) in [
        (Server::builder(), error(400, "M_THREEPID_MEDIUM_NOT_SUPPORTED")),
        (Server::builder().sms_to(&gateway).set("changes", false), error(403, "M_FORBIDDEN")),
    ] {
        let server = builder.start().await?;
        let refused = server.request_code("GB", &number.dialled, SECRET, 1).await?;
        assert_eq!(refused.error(), refusal);
        server.end().await?;
    }
    assert_eq!(gateway.requests(), 0);
    Ok(())
}

#[tokio::test]
async fn sms_that_cost_money_are_bounded_whoever_asks_for_them() -> Story {
    let gateway = SmsGateway::start().await?;
    // A quarter of them at once.
    let server = Server::builder().sms_to(&gateway).set("limits.sms_per_hour", 8).start().await?;
    for nth in 0..2 {
        asked(&server, &gateway, &Number::nth(nth)).await?;
    }
    let over = server.request_code("GB", &Number::nth(2).dialled, SECRET, 1).await?;
    assert_eq!(over.error(), error(429, "M_LIMIT_EXCEEDED"));
    assert!(over.header("retry-after").parse::<u64>()? > 60, "{over:?}");
    assert_ne!(ask(&server, &Number::nth(0), SECRET, 1).await?, "", "a retry sends nothing");
    server.wait_for_log(&["sms_per_hour"]).await?;
    assert_eq!(gateway.requests(), 2);
    Ok(server.end().await?)
}

// Codes.

/// What it is, and what a code becomes by it.
type Typing = (&'static str, fn(&str) -> String);

fn halves(code: &str, between: &str) -> String {
    format!("{}{between}{}", &code[..3], &code[3..])
}

fn in_digits_from(zero: char, code: &str) -> String {
    let other = |digit: char| char::from_u32(u32::from(zero) + digit.to_digit(10)?);
    code.chars().filter_map(other).collect()
}

#[tokio::test]
async fn a_code_is_right_however_people_type_it() -> Story {
    let gateway = SmsGateway::start().await?;
    let server = Server::builder().sms_to(&gateway).start().await?;
    let typings: [Typing; 8] = [
        ("as it is", |code| code.to_owned()),
        ("between spaces", |code| format!("  {code} \n")),
        ("in halves", |code| halves(code, " ")),
        ("in halves by a space that does not break", |code| halves(code, "\u{a0}")),
        ("digit by digit", |code| code.chars().map(|digit| format!("{digit} ")).collect()),
        ("in Arabic-Indic digits", |code| in_digits_from('٠', code)),
        ("in Devanagari digits, in halves", |code| {
            let (first, last) = code.split_at(3);
            format!("{} {}", in_digits_from('०', first), in_digits_from('०', last))
        }),
        ("in wide digits", |code| in_digits_from('０', code)),
    ];
    for (nth, (how, typed)) in typings.into_iter().enumerate() {
        let number = Number::nth(20 + nth);
        // Once by each door.
        let (sid, code) = asked(&server, &gateway, &number).await?;
        let submitted = server.submit(&sid, SECRET, &typed(&code)).await?;
        assert_eq!(submitted.json(), json!({ "success": true }), "{how}");
        assert_eq!(server.enter_code(&sid, &typed(&code)).await?.status, 200, "{how}");
    }
    Ok(server.end().await?)
}

#[tokio::test]
async fn what_is_no_code_is_a_wrong_one_and_five_wrong_ones_burn_the_session() -> Story {
    let gateway = SmsGateway::start().await?;
    let server = Server::builder().sms_to(&gateway).start().await?;
    let no_codes: [Typing; 12] = [
        ("empty", |_| String::new()),
        ("a space", |_| " ".to_owned()),
        ("too short", |code| code[..5].to_owned()),
        ("too long", |code| format!("{code}0")),
        ("twice", |code| code.repeat(2)),
        ("much too long", |code| code.repeat(5_000)),
        ("with a dash", |code| halves(code, "-")),
        ("with a sign", |code| format!("+{code}")),
        ("in raised digits", |_| "²²²²²²".to_owned()),
        ("in letters", |_| "abcdef".to_owned()),
        ("with a zero byte", |code| format!("{code}\0")),
        ("another", |code| wrong_codes(code, 1).concat()),
    ];
    // Four wrong ones are forgiven.
    for (nth, four) in no_codes.chunks(4).enumerate() {
        let (sid, code) = asked(&server, &gateway, &Number::nth(40 + nth)).await?;
        for (what, no_code) in four {
            let refused = server.submit(&sid, SECRET, &no_code(&code)).await?;
            assert_eq!(refused.error(), incorrect(), "{what}");
        }
        is_right(&server, &sid, &code).await?;
    }
    // Whoever has not the client's secret neither gets in nor burns it.
    let number = Number::nth(50);
    let (sid, code) = asked(&server, &gateway, &number).await?;
    for _ in 0..6 {
        assert_eq!(server.submit(&sid, "secret-of-bob", &code).await?.error(), incorrect());
    }
    for wrong in wrong_codes(&code, 5) {
        assert_eq!(server.submit(&sid, SECRET, &wrong).await?.error(), incorrect());
    }
    assert_eq!(server.submit(&sid, SECRET, &code).await?.error(), incorrect(), "it is burnt");
    assert_eq!(server.enter_code(&sid, &code).await?.status, 400, "at the other door, too");
    let alice = server.account("@alice:example.org").await?;
    assert_eq!(server.add(&alice, &sid, SECRET).await?.error(), error(403, "M_THREEPID_AUTH_FAILED"));

    // Asking again opens another.
    let another = ask(&server, &number, SECRET, 2).await?;
    assert_ne!(another, sid);
    let newer = gateway.wait_for_sms(|sms| sms.to == [number.digits.as_str()] && !sms.text.contains(&code));
    let newer = newer.await?.code()?;
    server.keep_code(&newer);
    is_right(&server, &another, &newer).await?;
    assert_eq!(server.add(&alice, &another, SECRET).await?.status, 200);
    Ok(server.end().await?)
}

/// The bound as it is by default.
fn guessing_bounded(builder: ServerBuilder) -> ServerBuilder {
    builder.set("limits.codes_per_address.per_second", 0.000_116).set("limits.codes_per_address.burst", 10)
}

#[tokio::test]
async fn guesses_at_a_number_are_bounded_over_all_its_sessions_doors_and_restarts() -> Story {
    let gateway = SmsGateway::start().await?;
    let mut server = guessing_bounded(Server::builder().sms_to(&gateway)).start().await?;
    let number = Number::nth(60);
    let session = async |secret: &str| -> Outcome<(String, String)> {
        let before = gateway.messages().len();
        let sid = ask(&server, &number, secret, 1).await?;
        wait_until("an SMS", SOON, || async { Ok((gateway.messages().len() > before).then_some(())) })
            .await?;
        let code = gateway.messages().last().ok_or("an SMS")?.code()?;
        server.keep_code(&code);
        Ok((sid, code))
    };
    // Right ones do not count.
    for nth in 0..3 {
        let secret = format!("secret-of-alice-{nth}");
        let (sid, code) = session(&secret).await?;
        assert_eq!(server.submit(&sid, &secret, &code).await?.status, 200);
    }
    // Half of the guesses by each door, each in a session of its own.
    let (sid, code) = session("secret-of-eve-1").await?;
    for wrong in wrong_codes(&code, 5) {
        assert_eq!(server.submit(&sid, "secret-of-eve-1", &wrong).await?.error(), incorrect());
    }
    let (sid, code) = session("secret-of-eve-2").await?;
    for wrong in wrong_codes(&code, 5) {
        assert_eq!(server.enter_code(&sid, &wrong).await?.status, 400);
    }
    let (sid, code) = session("secret-of-eve-3").await?;
    for restarted in [false, true] {
        if restarted {
            assert_eq!(server.terminate().await?, 0);
            server.launch().await?;
        }
        let by_json = server.submit(&sid, "secret-of-eve-3", &code).await?;
        assert_eq!(by_json.error(), error(429, "M_LIMIT_EXCEEDED"), "even a right one is not judged");
        let by_page = server.enter_code(&sid, &code).await?;
        assert_eq!(by_page.status, 429);
        for answer in [by_json, by_page] {
            let wait: u64 = answer.header("retry-after").parse()?;
            assert!((7_000..=8_700).contains(&wait), "a tenth of a day: {wait}");
        }
    }
    // Nobody else pays for it.
    let (sid, code) = asked(&server, &gateway, &Number::nth(61)).await?;
    is_right(&server, &sid, &code).await?;
    Ok(server.end().await?)
}

#[tokio::test]
async fn neither_number_nor_code_is_in_the_log_even_if_the_gateway_is_asked_by_its_url() -> Story {
    let gateway = SmsGateway::start().await?;
    let query = "to={{ to }}&text={{ text | urlencode }}&id={{ id | urlencode }}";
    let mut server = Server::builder()
        .text("sms.transport", "http")
        .text("sms.http.url", &format!("{}?{query}", gateway.url()))
        .text("sms.http.method", "GET")
        .text("sms.http.timeout", "1s")
        .start()
        .await?;
    let alice = server.account("@alice:example.org").await?;
    let number = Number::nth(70);
    for mode in [SmsMode::Fail, SmsMode::Drop, SmsMode::Hang, SmsMode::KeepAndHang, SmsMode::Redirect] {
        let before = gateway.requests();
        gateway.set_mode(mode);
        if before == 0 {
            ask(&server, &number, SECRET, 1).await?;
        }
        gateway.wait_for_requests(before + 2).await?;
    }
    let port = gateway.stop().await;
    server.kill()?;
    server.launch().await?;
    server.wait_for_log(&["will be tried again", "Connection refused"]).await?;
    let gateway = SmsGateway::start_at(port).await?;
    let (sid, code) = asked(&server, &gateway, &number).await?;
    for wrong in [&code[..5], "no code of theirs"] {
        assert_eq!(server.submit(&sid, SECRET, wrong).await?.error(), incorrect());
        assert_eq!(server.enter_code(&sid, wrong).await?.status, 400);
    }
    let opened = server.get(&format!("{CONFIRM}?sid={sid}&code={code}"), None).await?;
    assert_eq!(opened.status, 200, "opening the page is no answer");
    assert_eq!(server.add(&alice, &sid, SECRET).await?.error(), error(403, "M_THREEPID_AUTH_FAILED"));
    is_right(&server, &sid, &code).await?;
    assert_eq!(server.add(&alice, &sid, SECRET).await?.status, 200);
    let gone = json!({ "medium": "msisdn", "address": number.digits });
    server.post(&format!("{THREEPIDS}/delete"), Some(&alice), &gone).await?;
    server.wait_for_log(&["delivered to the next hop", &number.masked()]).await?;
    // The numbers of answers are kept secret by the harness, the codes by hand.
    Ok(server.end().await?)
}

#[tokio::test]
async fn a_log_with_a_whole_number_or_a_code_in_it_would_fail_its_story() -> Story {
    // What the log says at its start stands for what it must not say.
    let number = Server::builder().start().await?;
    number.watch_for("public_base_url");
    let found = number.end().await.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(found.contains("\"public_base_url\" is in the log"), "{found}");
    let code = Server::builder().start().await?;
    code.keep_code("sqlite");
    let found = code.end().await.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(found.contains("the code sqlite is in the log"), "{found}");
    Ok(())
}

// The page.

#[tokio::test]
async fn the_page_speaks_of_a_number_where_a_number_was_proven() -> Story {
    let (smtp, gateway) = (SmtpServer::start().await?, SmsGateway::start().await?);
    let server = Server::builder().mail_to(&smtp).sms_to(&gateway).set("mail.code", true).start().await?;
    let (sid, code) = asked(&server, &gateway, &Number::nth(80)).await?;
    let page = server.enter_code(&sid, &code).await?;
    assert!(page.status == 200 && page.text.contains("Your phone number is confirmed"), "{}", page.text);
    let sid = server.request_token("alice@example.org", SECRET, 1).await?.sid()?;
    let code = smtp.wait_for_mail_to("alice@example.org").await?.text.as_deref().and_then(code_in);
    let code = code.ok_or("the mail has a code")?;
    let page = server.enter_code(&sid, &code).await?;
    assert!(page.status == 200 && page.text.contains("Your email address is confirmed"), "{}", page.text);
    Ok(server.end().await?)
}

/// The six digits that stand for themselves in a mail, links left out.
fn code_in(text: &str) -> Option<String> {
    let code = Regex::new(r"\b\d{6}\b").ok()?;
    let without_links = Regex::new(r"https?://\S+").ok()?.replace_all(text, "").into_owned();
    code.find(&without_links).map(|found| found.as_str().to_owned())
}

const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";
/// Control and A, and Control let go.
const SELECT_ALL: &str = "\u{e009}a\u{e000}";

/// With the keyboard alone: the field has the focus, a wrong code is said to be wrong, the right one is taken.
async fn the_code_is_typed(viewport: Viewport, appearance: Appearance, name: &str) -> Story {
    let smtp = SmtpServer::start().await?;
    let server = Server::builder()
        .mail_to(&smtp)
        .text("mail.app_name", "Example Chat")
        .set("mail.code", true)
        .start()
        .await?;
    let alice = server.account("@alice:example.org").await?;
    let dark = appearance == Appearance::Dark;
    let email = "alice@example.org";
    let opened = server.request_token(email, SECRET, 1).await?;
    let sid = opened.sid()?;
    assert_eq!(opened.json(), json!({ "sid": sid, "submit_url": server.url(SUBMIT_TOKEN) }));
    let mail = smtp.wait_for_mail_to(email).await?;
    let code = mail.text.as_deref().and_then(code_in).ok_or("the mail has a code")?;
    server.keep_code(&code);
    assert!(mail.html.as_deref().is_some_and(|html| html.contains(&code)), "so has the HTML");
    let link = mail.confirm_link()?;
    assert!(!link.contains(&code) && !mail.header("subject").unwrap_or_default().contains(&code));

    let browser =
        Chromium::start(ChromiumOptions { viewport, appearance, ..ChromiumOptions::default() }).await?;
    browser.goto(&format!("{}?sid={sid}", server.url(CONFIRM))).await?;
    assert_readable(&browser, viewport, "Enter your code", dark).await?;
    let field = browser.wait_for("input#code:focus").await?;
    let tree = browser.accessibility_tree().await?;
    assert!(tree.contains(&node("textbox", "Code")), "the field has a label: {tree:?}");
    assert!(tree.contains(&node("button", "Confirm my address")), "{tree:?}");
    let label = "document.querySelector('label').control.id + getComputedStyle(document.querySelector('label')).display";
    assert_eq!(browser.evaluate(label).await?, "codeblock", "a label that is seen");
    for control in ["#code", "main button"] {
        let place = browser.rectangle(&browser.find(control).await?).await?;
        assert!(place["height"].as_f64().is_some_and(|height| height >= 44.0), "{control}: {place}");
    }
    browser.screenshot(&format!("code-empty-{name}")).await?;

    let wrong = wrong_codes(&code, 1).concat();
    browser.type_into(&field, &format!("{wrong}{ENTER}")).await?;
    browser.wait_for("main [role=alert]").await?;
    assert_readable(&browser, viewport, "Enter your code", dark).await?;
    // The field has the focus again, so what is wrong has to be read out with it.
    let field = browser.wait_for("input#code[aria-invalid=true][aria-describedby=wrong]:focus").await?;
    let described = browser.text(&browser.find("main p#wrong[role=alert]").await?).await?;
    assert!(described.starts_with("That code cannot be used."), "{described}");
    assert_eq!(browser.evaluate("document.querySelector('#code').value").await?, wrong, "to be mended");
    browser.screenshot(&format!("code-wrong-{name}")).await?;
    assert_eq!(server.add(&alice, &sid, SECRET).await?.error(), error(403, "M_THREEPID_AUTH_FAILED"));

    let typed = halves(&code, " ");
    browser.type_into(&field, &format!("{SELECT_ALL}{typed}")).await?;
    browser.screenshot(&format!("code-typed-{name}")).await?;
    browser.type_into(&field, TAB).await?;
    let button = browser.wait_for("main button:focus").await?;
    browser.screenshot(&format!("code-button-{name}")).await?;
    browser.type_into(&button, ENTER).await?;
    browser.wait_for("main svg").await?;
    assert_readable(&browser, viewport, "Your email address is confirmed", dark).await?;
    browser.screenshot(&format!("code-right-{name}")).await?;
    assert_eq!(
        browser.current_url().await?,
        server.url(CONFIRM),
        "the address bar shows neither sid nor code"
    );
    assert_eq!(server.confirm(&link).await?.status, 200, "the link is good, too");
    assert_eq!(server.add(&alice, &sid, SECRET).await?.status, 200);
    assert_eq!(server.list(&alice).await?.addresses(), [email]);
    Ok(server.end().await?)
}

#[tokio::test]
async fn a_code_from_a_mail_is_typed_into_the_page_on_a_desktop_by_the_keyboard_alone() -> Story {
    the_code_is_typed(Viewport::Desktop, Appearance::Light, "desktop-light").await
}

#[tokio::test]
async fn a_code_from_a_mail_is_typed_into_the_page_on_a_phone_in_the_dark() -> Story {
    the_code_is_typed(Viewport::Phone, Appearance::Dark, "phone-dark").await
}

#[tokio::test]
async fn by_default_neither_mail_nor_answer_nor_page_knows_of_codes() -> Story {
    let smtp = SmtpServer::start().await?;
    let server = Server::builder().mail_to(&smtp).start().await?;
    let email = "alice@example.org";
    let opened = server.request_token(email, SECRET, 1).await?;
    let sid = opened.sid()?;
    assert_eq!(opened.json(), json!({ "sid": sid }));
    let mail = smtp.wait_for_mail_to(email).await?;
    let text = mail.text.clone().unwrap_or_default();
    assert_eq!(code_in(&text), None, "{text}");
    for text in [&text, &mail.html.clone().unwrap_or_default()] {
        assert!(!text.to_lowercase().contains("code"), "{text}");
    }
    let link = mail.confirm_link()?;
    let browser = Chromium::start(ChromiumOptions::default()).await?;
    browser.goto(&link).await?;
    assert_readable(&browser, Viewport::Desktop, "Confirm your email address", false).await?;
    assert_eq!(browser.count("input:not([type=hidden]), label").await?, 0);

    // Nor is there a page to enter one, or a door that takes one: whatever is guessed is a wrong token.
    let page = server.get(&format!("{CONFIRM}?sid={sid}"), None).await?;
    assert!(page.status == 400 && page.text.contains("This link cannot be used"), "{}", page.text);
    assert_eq!(server.enter_code(&sid, "000000").await?.status, 400);
    assert_eq!(server.submit(&sid, SECRET, "000000").await?.error(), incorrect());
    assert_eq!(server.confirm(&link).await?.status, 200);
    Ok(server.end().await?)
}
