//! The seed's story: a real identity server validates, verifies and binds, for a real client behind a real front.

use std::os::unix::fs::PermissionsExt as _;

use reqwest::Method;
use serde_json::{Value, json};
use threepid_tests::peers::{
    IdentityAccount, Nginx, NodeScript, SmsGateway, SmsMode, SmtpServer, Sydent, Synapse, TestCa, User,
    free_port, front,
};
use threepid_tests::server::{REQUEST_CODE, REQUEST_TOKEN, Server, ServerBuilder, THREEPIDS};

use crate::Story;

const IDENTITY_SERVER: &str = "identity.example.org";

/// A homeserver, an identity server that reaches it over federation, this server, and the front that routes to both.
struct World {
    ca: TestCa,
    homeserver: Synapse,
    smtp: SmtpServer,
    /// The identity server's.
    gateway: SmsGateway,
    identity_server: Sydent,
    server: Server,
    front: Nginx,
}

impl World {
    /// `settings` are this server's, beside its homeserver and its identity server.
    async fn start(
        settings: impl FnOnce(ServerBuilder) -> ServerBuilder,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let ca = TestCa::new()?;
        let port = free_port()?;
        // A name with an address and a port: federation goes there without DNS.
        let name = format!("127.0.0.1:{port}");
        let homeserver = Synapse::builder().server_name(&name).start().await?;
        let smtp = SmtpServer::start().await?;
        let gateway = SmsGateway::start().await?;
        let identity_server = Sydent::start_with_sms(IDENTITY_SERVER, &smtp, &ca, Some(&gateway)).await?;
        let trusted = format!(
            "[{{ name = \"{IDENTITY_SERVER}\", base_url = \"{}\", validates = true, binds = true }}]",
            identity_server.base_url()
        );
        let builder = Server::builder()
            .mail_to(&smtp)
            .homeserver(homeserver.base_url())
            .set("identity_servers", trusted)
            .text("signing_key.file", &homeserver.signing_key().to_string_lossy())
            .text("signing_key.homeserver", &name);
        // As an operator would: the key speaks for the homeserver, so nobody else may read it.
        std::fs::set_permissions(homeserver.signing_key(), std::fs::Permissions::from_mode(0o600))?;
        let mut server = settings(builder).prepare()?;
        let locations = front(server.base_url(), homeserver.base_url());
        let front = Nginx::start(&ca, Some(port), &["127.0.0.1"], &locations).await?;
        server.launch().await?;
        Ok(Self { ca, homeserver, smtp, gateway, identity_server, server, front })
    }

    async fn user(
        &self,
        name: &str,
    ) -> Result<(User, IdentityAccount), Box<dyn std::error::Error + Send + Sync>> {
        let user = self.homeserver.register(name).await?;
        let account = self.identity_server.register(&self.homeserver, &user).await?;
        self.server.keep_secret(&account.access_token);
        Ok((user, account))
    }

    /// Opens the link that the identity server has mailed.
    async fn follow_the_link(&self, email: &str) -> Story {
        let mail = self.smtp.wait_for_mail_to(email).await?;
        let text = mail.text.unwrap_or_default();
        let link = text.lines().find_map(|line| line.strip_prefix(self.identity_server.base_url()));
        let (status, _) =
            self.identity_server.call(Method::GET, link.ok_or("the mail has a link")?, None, None).await?;
        assert_eq!(status, 200);
        Ok(())
    }

    /// Whom the identity server publishes for an email address.
    async fn published(
        &self,
        email: &str,
        asker: &IdentityAccount,
    ) -> Result<Option<String>, Box<dyn std::error::Error + Send + Sync>> {
        self.published_as("email", email, asker).await
    }

    async fn published_as(
        &self,
        medium: &str,
        address: &str,
        asker: &IdentityAccount,
    ) -> Result<Option<String>, Box<dyn std::error::Error + Send + Sync>> {
        let details = "/_matrix/identity/v2/hash_details";
        let (_, details) = self.identity_server.call(Method::GET, details, Some(asker), None).await?;
        let address = format!("{address} {medium}");
        let asked =
            json!({ "algorithm": "none", "pepper": details["lookup_pepper"], "addresses": [address] });
        let path = "/_matrix/identity/v2/lookup";
        let (status, answer) =
            self.identity_server.call(Method::POST, path, Some(asker), Some(&asked)).await?;
        assert_eq!(status, 200, "{answer}");
        Ok(answer["mappings"][&address].as_str().map(str::to_owned))
    }

    /// One call of matrix-js-sdk, through the front.
    async fn client(
        &self,
        user: &User,
        method: &str,
        arguments: &Value,
    ) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        let script = NodeScript::new("client.mjs")
            .arg(&self.front.base_url())
            .arg(&user.access_token)
            .arg(&format!("https://{IDENTITY_SERVER}"))
            .arg(method)
            .arg(&arguments.to_string());
        Ok(script.trust(&self.ca).run().await?.json()?)
    }
}

/// The whole story of the seed, with the identity server's own token (v2) or without one (v1).
async fn the_seeds_story(is_v2: bool) -> Story {
    let world = World::start(|builder| builder.text("validation", "identity_server")).await?;
    let (alice, account) = world.user("alice").await?;
    let (bob, _) = world.user("bob").await?;
    let (email, secret) = ("Alice@Example.org", "secret-of-alice");
    let with_token = |mut body: Value| {
        body["id_server"] = IDENTITY_SERVER.into();
        if is_v2 {
            body["id_access_token"] = account.access_token.clone().into();
        }
        body
    };

    let body = with_token(json!({ "client_secret": secret, "email": email, "send_attempt": 1 }));
    let sid = world.server.post(REQUEST_TOKEN, None, &body).await?.sid()?;
    let creds = with_token(json!({ "client_secret": secret, "sid": sid }));
    let add = json!({ "three_pid_creds": creds, "bind": true });
    let failed = (403, "M_THREEPID_AUTH_FAILED".to_owned());
    let early = world.server.post(THREEPIDS, Some(&alice.access_token), &add).await?;
    assert_eq!(early.error(), failed, "nobody has opened the link");

    world.follow_the_link("alice@example.org").await?;
    let added = world.server.post(THREEPIDS, Some(&alice.access_token), &add).await?;
    assert_eq!((added.status, added.text.as_str()), (200, "{}"));
    assert_eq!(world.server.list(&alice.access_token).await?.addresses(), ["alice@example.org"]);
    assert_eq!(world.published("alice@example.org", &account).await?, Some(alice.user_id.clone()));

    let again = world.server.post(THREEPIDS, Some(&alice.access_token), &add).await?;
    assert_eq!(again.status, 200, "the same request again is harmless");
    let stolen = world.server.post(THREEPIDS, Some(&bob.access_token), &add).await?;
    assert_eq!(stolen.error(), failed, "the proof is spent");
    let body = with_token(json!({ "client_secret": "another", "email": email, "send_attempt": 1 }));
    let taken = world.server.post(REQUEST_TOKEN, None, &body).await?;
    assert_eq!(taken.error(), (400, "M_THREEPID_IN_USE".to_owned()), "our own rules come first");

    let delete = json!({ "medium": "email", "address": "ALICE@example.org" });
    let path = format!("{THREEPIDS}/delete");
    let deleted = world.server.post(&path, Some(&alice.access_token), &delete).await?;
    assert_eq!(deleted.json(), json!({ "id_server_unbind_result": "success" }), "{deleted:?}");
    assert_eq!(world.published("alice@example.org", &account).await?, None, "the signed unbind was believed");
    assert!(world.server.list(&alice.access_token).await?.addresses().is_empty());
    Ok(world.server.end().await?)
}

#[tokio::test]
async fn the_seeds_story_holds_at_a_real_identity_server_in_v2() -> Story {
    the_seeds_story(true).await
}

#[tokio::test]
async fn the_seeds_story_holds_at_a_real_identity_server_in_v1() -> Story {
    the_seeds_story(false).await
}

/// The same with a number: the identity server texts, and hears the code.
async fn the_seeds_story_with_a_number(is_v2: bool) -> Story {
    let world = World::start(|builder| builder.text("validation", "identity_server")).await?;
    let (alice, account) = world.user("alice").await?;
    let (bob, _) = world.user("bob").await?;
    let (number, secret) = ("447700900813", "secret-of-alice");
    let with_token = |mut body: Value| {
        body["id_server"] = IDENTITY_SERVER.into();
        if is_v2 {
            body["id_access_token"] = account.access_token.clone().into();
        }
        body
    };
    let asked = |client_secret: &str, country: &str, phone_number: &str| {
        world.server.keep_secret(phone_number);
        with_token(json!({
            "client_secret": client_secret, "country": country, "phone_number": phone_number, "send_attempt": 1,
        }))
    };

    // Our own rules come first.
    let invalid = world.server.post(REQUEST_CODE, None, &asked(secret, "GB", "07700 FLOWERS")).await?;
    assert_eq!(invalid.error(), (400, "M_INVALID_PARAM".to_owned()));
    assert_eq!(world.gateway.requests(), 0);
    let opened = world.server.post(REQUEST_CODE, None, &asked(secret, "GB", "07700 900813")).await?;
    let sid = opened.sid()?;
    let told = json!({ "sid": sid, "msisdn": number, "intl_fmt": "+44 7700 900813" });
    assert_eq!(opened.json(), told, "this identity server names no submit_url");
    let sms = world.gateway.wait_for_sms_to(number).await?;
    let code = sms.code()?;
    world.server.keep_code(&code);

    let creds = with_token(json!({ "client_secret": secret, "sid": sid }));
    let add = json!({ "three_pid_creds": creds, "bind": true });
    let failed = (403, "M_THREEPID_AUTH_FAILED".to_owned());
    let early = world.server.post(THREEPIDS, Some(&alice.access_token), &add).await?;
    assert_eq!(early.error(), failed, "nobody has given the code back");
    let here = world.server.submit(&sid, secret, &code).await?;
    assert_eq!(here.error(), (400, "M_TOKEN_INCORRECT".to_owned()), "it is not ours to judge");
    let submit = json!({ "client_secret": secret, "sid": sid, "token": code });
    let version = if is_v2 { "v2" } else { "api/v1" };
    let path = format!("/_matrix/identity/{version}/validate/msisdn/submitToken");
    let (status, answer) =
        world.identity_server.call(Method::POST, &path, Some(&account), Some(&submit)).await?;
    assert_eq!((status, &answer["success"]), (200, &json!(true)), "{answer}");

    let added = world.server.post(THREEPIDS, Some(&alice.access_token), &add).await?;
    assert_eq!((added.status, added.text.as_str()), (200, "{}"));
    let listed = world.server.list(&alice.access_token).await?;
    assert_eq!(listed.json()["threepids"][0]["medium"], "msisdn");
    assert_eq!(listed.addresses(), [number]);
    assert_eq!(world.published_as("msisdn", number, &account).await?, Some(alice.user_id.clone()));
    let stolen = world.server.post(THREEPIDS, Some(&bob.access_token), &add).await?;
    assert_eq!(stolen.error(), failed, "the proof is spent");
    let taken = world.server.post(REQUEST_CODE, None, &asked("another", "US", "+447700900813")).await?;
    assert_eq!(taken.error(), (400, "M_THREEPID_IN_USE".to_owned()));

    // What it says is said; what it cannot do now may be tried again.
    let denied = world.server.post(REQUEST_CODE, None, &asked("another", "DE", "0151 23456789")).await?;
    assert_eq!(denied.error(), (400, "M_DESTINATION_REJECTED".to_owned()));
    world.gateway.set_mode(SmsMode::Fail);
    let other = asked("another", "GB", "07700 900814");
    let down = world.server.post(REQUEST_CODE, None, &other).await?;
    assert_eq!(down.error(), (503, "M_UNKNOWN".to_owned()));
    world.gateway.set_mode(SmsMode::Accept);
    world.server.post(REQUEST_CODE, None, &other).await?.sid()?;
    world.server.keep_code(&world.gateway.wait_for_sms_to("447700900814").await?.code()?);

    let delete = json!({ "medium": "msisdn", "address": number });
    let path = format!("{THREEPIDS}/delete");
    let deleted = world.server.post(&path, Some(&alice.access_token), &delete).await?;
    assert_eq!(deleted.json(), json!({ "id_server_unbind_result": "success" }), "{deleted:?}");
    assert_eq!(world.published_as("msisdn", number, &account).await?, None);
    assert!(world.server.list(&alice.access_token).await?.addresses().is_empty());
    Ok(world.server.end().await?)
}

#[tokio::test]
async fn a_number_is_texted_and_proven_by_a_real_identity_server_in_v2() -> Story {
    the_seeds_story_with_a_number(true).await
}

#[tokio::test]
async fn a_number_is_texted_and_proven_by_a_real_identity_server_in_v1() -> Story {
    the_seeds_story_with_a_number(false).await
}

#[tokio::test]
async fn a_real_client_adds_binds_and_removes_an_address_through_the_front() -> Story {
    let world = World::start(|builder| builder.text("deprecated_add", "off")).await?;
    let (alice, account) = world.user("alice").await?;
    let (email, secret) = ("alice@example.org", "secret-of-alice");

    // Add: this server's own mail, and the homeserver's password.
    let asked = world.client(&alice, "requestAdd3pidEmailToken", &json!([email, secret, 1])).await?;
    let sid = asked["body"]["sid"].as_str().ok_or_else(|| format!("no sid: {asked}"))?.to_owned();
    let mail = world.smtp.wait_for_mail_to(email).await?;
    assert_eq!(world.server.confirm(&mail.confirm_link()?).await?.status, 200);
    let data = json!({ "client_secret": secret, "sid": sid });
    let challenged = world.client(&alice, "addThreePidOnly", &json!([data])).await?;
    assert_eq!(challenged["status"], 401, "{challenged}");
    let session = &challenged["body"]["session"];
    let answer = |password: &str| {
        let identifier = json!({ "type": "m.id.user", "user": alice.user_id });
        let auth = json!({ "type": "m.login.password", "identifier": identifier, "password": password, "session": session });
        json!([{ "client_secret": secret, "sid": sid, "auth": auth }])
    };
    let wrong = world.client(&alice, "addThreePidOnly", &answer("not the password")).await?;
    assert_eq!((&wrong["status"], &wrong["errcode"]), (&json!(401), &json!("M_FORBIDDEN")), "{wrong}");
    let added = world.client(&alice, "addThreePidOnly", &answer(&alice.password)).await?;
    assert_eq!(added, json!({ "status": 200, "body": {} }));
    let listed = world.client(&alice, "getThreePids", &json!([])).await?;
    assert_eq!(listed["body"]["threepids"][0]["address"], email, "{listed}");

    // Bind: the identity server's own mail.
    let sid = world.identity_server.request_token(&account, email, "secret-for-binding").await?;
    let is_theirs = |text: &str| !text.contains("/_threepid/");
    let mail = world.smtp.wait_for_mail(|mail| mail.text.as_deref().is_some_and(is_theirs)).await?;
    let text = mail.text.unwrap_or_default();
    let link = text.lines().find_map(|line| line.strip_prefix(world.identity_server.base_url()));
    world.identity_server.call(Method::GET, link.ok_or("the mail has a link")?, None, None).await?;
    let data = json!({
        "client_secret": "secret-for-binding", "sid": sid,
        "id_server": IDENTITY_SERVER, "id_access_token": account.access_token,
    });
    let bound = world.client(&alice, "bindThreePid", &json!([data])).await?;
    assert_eq!(bound, json!({ "status": 200, "body": {} }));
    assert_eq!(world.published(email, &account).await?, Some(alice.user_id.clone()));

    // Unbind, bind no more, delete.
    let unbound = world.client(&alice, "unbindThreePid", &json!(["email", email])).await?;
    assert_eq!(unbound["body"], json!({ "id_server_unbind_result": "success" }), "{unbound}");
    assert_eq!(world.published(email, &account).await?, None);
    let deleted = world.client(&alice, "deleteThreePid", &json!(["email", email])).await?;
    assert_eq!(
        deleted["body"],
        json!({ "id_server_unbind_result": "no-support" }),
        "nothing was bound any more"
    );
    let listed = world.client(&alice, "getThreePids", &json!([])).await?;
    assert_eq!(listed["body"]["threepids"], json!([]));
    Ok(world.server.end().await?)
}

#[tokio::test]
async fn a_real_client_adds_an_address_that_its_identity_server_has_validated() -> Story {
    let world = World::start(|builder| builder.text("validation", "identity_server")).await?;
    let (alice, _) = world.user("alice").await?;
    let (email, secret) = ("alice@example.org", "secret-of-alice");
    let asked = world.client(&alice, "requestAdd3pidEmailToken", &json!([email, secret, 1])).await?;
    let sid = asked["body"]["sid"].as_str().ok_or_else(|| format!("no sid: {asked}"))?.to_owned();
    world.follow_the_link(email).await?;
    let data = json!({ "client_secret": secret, "sid": sid });
    let challenged = world.client(&alice, "addThreePidOnly", &json!([data])).await?;
    assert_eq!(challenged["status"], 401, "{challenged}");
    let auth = json!({
        "type": "m.login.password", "identifier": { "type": "m.id.user", "user": alice.user_id },
        "password": alice.password, "session": challenged["body"]["session"],
    });
    let data = json!({ "client_secret": secret, "sid": sid, "auth": auth });
    let added = world.client(&alice, "addThreePidOnly", &json!([data])).await?;
    assert_eq!(added, json!({ "status": 200, "body": {} }));
    let listed = world.client(&alice, "getThreePids", &json!([])).await?;
    assert_eq!(listed["body"]["threepids"][0]["address"], email, "{listed}");
    Ok(world.server.end().await?)
}
