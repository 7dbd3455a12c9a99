//! Each real peer does what the stories rely on, proven without the server.

use std::error::Error;
use std::time::Duration;

use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};
use threepid_tests::peers::{
    Appearance, Chromium, ChromiumOptions, Nginx, NodeScript, SmsGateway, SmsMode, SmtpMode, SmtpSecurity,
    SmtpServer, Sydent, Synapse, TestCa, Viewport, free_port, front,
};

use crate::{Story, serve};

type Transport = AsyncSmtpTransport<Tokio1Executor>;

fn message(to: &str) -> Result<Message, Box<dyn Error + Send + Sync>> {
    let text = "Grüße! Open this page to confirm:\r\n\
                http://localhost:8090/_threepid/confirm?sid=abcdefghijklmnopqrstuvwxyz0123456789&token=0123456789";
    Ok(Message::builder()
        .from("Accounts <accounts@example.org>".parse()?)
        .to(to.parse()?)
        .subject("Bestätigen Sie Ihre Adresse")
        .multipart(lettre::message::MultiPart::alternative_plain_html(
            text.to_owned(),
            "<p>Grüße</p>".to_owned(),
        ))?)
}

fn transport(server: &SmtpServer) -> Transport {
    Transport::builder_dangerous("127.0.0.1").port(server.port()).build()
}

fn trusting(server: &SmtpServer) -> Result<TlsParameters, Box<dyn Error + Send + Sync>> {
    let ca = Certificate::from_pem(&std::fs::read(server.ca().certificate())?)?;
    Ok(TlsParameters::builder("localhost".to_owned()).add_root_certificate(ca).build()?)
}

#[tokio::test]
async fn a_mail_sent_over_starttls_with_a_login_is_read_back_with_its_link() -> Story {
    let server =
        SmtpServer::builder().security(SmtpSecurity::StartTls).login("mailer", "secret").start().await?;
    let sender = Transport::builder_dangerous("127.0.0.1")
        .port(server.port())
        .tls(Tls::Required(trusting(&server)?))
        .credentials(Credentials::new("mailer".to_owned(), "secret".to_owned()))
        .build();
    sender.send(message("alice@example.org")?).await?;

    let mail = server.wait_for_mail_to("alice@example.org").await?;
    assert!(mail.tls, "the mail came over TLS");
    assert!(mail.authenticated, "the sender had logged in");
    assert_eq!(mail.from, "accounts@example.org");
    assert_eq!(mail.header("subject"), Some("Bestätigen Sie Ihre Adresse"));
    assert!(mail.text.as_deref().is_some_and(|text| text.starts_with("Grüße!")));
    assert_eq!(mail.html.as_deref().map(str::trim), Some("<p>Grüße</p>"));
    assert_eq!(
        mail.confirm_link()?,
        "http://localhost:8090/_threepid/confirm?sid=abcdefghijklmnopqrstuvwxyz0123456789&token=0123456789",
    );
    Ok(())
}

#[tokio::test]
async fn a_mail_sent_over_implicit_tls_with_a_login_is_read_back() -> Story {
    let server = SmtpServer::builder().security(SmtpSecurity::Tls).login("mailer", "secret").start().await?;
    let sender = Transport::builder_dangerous("127.0.0.1")
        .port(server.port())
        .tls(Tls::Wrapper(trusting(&server)?))
        .credentials(Credentials::new("mailer".to_owned(), "secret".to_owned()))
        .build();
    sender.send(message("bob@example.org")?).await?;

    let mail = server.wait_for_mail_to("bob@example.org").await?;
    assert!(mail.tls && mail.authenticated, "TLS and login are seen");
    Ok(())
}

#[tokio::test]
async fn the_mail_server_takes_nothing_without_starttls_or_with_a_wrong_password() -> Story {
    let server =
        SmtpServer::builder().security(SmtpSecurity::StartTls).login("mailer", "secret").start().await?;
    let plain = transport(&server).send(message("carol@example.org")?).await;
    assert!(plain.is_err_and(|error| error.is_permanent()), "plain text is refused for good");
    let wrong = Transport::builder_dangerous("127.0.0.1")
        .port(server.port())
        .tls(Tls::Required(trusting(&server)?))
        .credentials(Credentials::new("mailer".to_owned(), "guess".to_owned()))
        .build();
    let wrong = wrong.send(message("carol@example.org")?).await;
    assert!(wrong.is_err_and(|error| error.is_permanent()), "a wrong password is refused for good");
    assert!(server.mails()?.is_empty(), "nothing was kept");
    Ok(())
}

#[tokio::test]
async fn the_mail_server_misbehaves_as_told_and_recovers() -> Story {
    let server = SmtpServer::start().await?;
    // One pooled connection for all: a mode holds on open connections, too.
    let sender = transport(&server);
    sender.send(message("first@example.org")?).await?;

    for mode in [SmtpMode::DeferRecipient, SmtpMode::DeferMessage] {
        server.set_mode(mode).await?;
        let outcome = sender.send(message("x@example.org")?).await;
        assert!(outcome.is_err_and(|error| error.is_transient()), "{mode:?} is a 4xx");
    }
    server.set_mode(SmtpMode::RejectRecipient).await?;
    let outcome = sender.send(message("x@example.org")?).await;
    assert!(outcome.is_err_and(|error| error.is_permanent()), "a rejection is a 5xx");
    server.set_mode(SmtpMode::Hang).await?;
    // lettre's own timeout covers connecting only.
    let outcome =
        tokio::time::timeout(Duration::from_millis(500), sender.send(message("x@example.org")?)).await;
    assert!(outcome.is_err(), "a hanging server never answers");
    for mode in [SmtpMode::Drop, SmtpMode::Refuse] {
        server.set_mode(mode).await?;
        let outcome = sender.send(message("x@example.org")?).await;
        let neither = outcome.is_err_and(|error| !error.is_transient() && !error.is_permanent());
        assert!(neither, "{mode:?} gives no answer");
    }
    assert_eq!(server.mails()?.len(), 1, "no fault kept a mail");
    server.wait_for_faults(5).await?;

    server.set_mode(SmtpMode::KeepAndDrop).await?;
    assert!(sender.send(message("twice@example.org")?).await.is_err());
    server.set_mode(SmtpMode::Accept).await?;
    sender.send(message("twice@example.org")?).await?;
    assert_eq!(server.mails()?.len(), 3, "the unanswered mail was kept, and so was its repetition");
    Ok(())
}

#[tokio::test]
async fn the_homeserver_knows_its_users_guests_and_ended_tokens() -> Story {
    let homeserver = Synapse::start().await?;
    let alice = homeserver.register("alice").await?;
    let (status, body) = homeserver.whoami(&alice.access_token).await?;
    assert_eq!((status, body["user_id"].as_str()), (200, Some("@alice:localhost")));

    let guest = homeserver.guest().await?;
    let (status, body) = homeserver.whoami(&guest.access_token).await?;
    assert_eq!((status, body["is_guest"].as_bool()), (200, Some(true)));

    let admin = homeserver.register_admin("root").await?;
    assert_eq!(homeserver.whoami(&admin.access_token).await?.0, 200);

    homeserver.logout(&alice.access_token).await?;
    let (status, body) = homeserver.whoami(&alice.access_token).await?;
    assert_eq!((status, body["errcode"].as_str()), (401, Some("M_UNKNOWN_TOKEN")));

    let again = homeserver.login(&alice.user_id, &alice.password).await?;
    assert!(homeserver.openid_token(&again).await?["access_token"].is_string());
    assert!(homeserver.signing_key().is_file() && homeserver.database().is_file());
    Ok(())
}

#[tokio::test]
async fn the_homeserver_goes_down_and_comes_back_with_its_tokens() -> Story {
    let mut homeserver = Synapse::start().await?;
    let user = homeserver.new_user().await?;
    homeserver.stop();
    assert!(homeserver.whoami(&user.access_token).await.is_err(), "nobody listens");
    homeserver.start_again().await?;
    assert_eq!(homeserver.whoami(&user.access_token).await?.0, 200);
    Ok(())
}

const PAGE: &str = r#"<!doctype html><html lang="en"><title>A page</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body { background: rgb(255, 255, 255) }
@media (prefers-color-scheme: dark) { body { background: rgb(0, 0, 0) } }</style>
<h1>Confirm</h1><form action="/done"><input name="note" aria-label="Note"><button>Confirm address</button></form>
<p id="script">without script</p><script>document.getElementById("script").textContent = "with script"</script>
"#;

#[tokio::test]
async fn the_browser_opens_a_page_clicks_its_button_and_takes_a_screenshot() -> Story {
    let url = serve(PAGE).await?;
    let browser = Chromium::start(ChromiumOptions::default()).await?;
    browser.goto(&url).await?;
    assert_eq!(browser.title().await?, "A page");
    assert_eq!(browser.text(&browser.find("#script").await?).await?, "with script");
    assert!(browser.find("#nowhere").await.is_err());
    assert_eq!(browser.count("button").await?, 1);
    assert!(browser.source().await?.contains("<h1>Confirm</h1>"));

    let tree = browser.accessibility_tree().await?;
    assert!(tree.contains(&("heading".to_owned(), "Confirm".to_owned())), "{tree:?}");
    assert!(tree.contains(&("button".to_owned(), "Confirm address".to_owned())), "{tree:?}");

    let body = browser.find("body").await?;
    assert_eq!(browser.css(&body, "background-color").await?, "rgba(255, 255, 255, 1)");
    browser.set_appearance(Appearance::Dark).await?;
    assert_eq!(browser.css(&body, "background-color").await?, "rgba(0, 0, 0, 1)");

    let picture = std::fs::read(browser.screenshot("peers-desktop-dark").await?)?;
    assert!(picture.starts_with(b"\x89PNG"), "a picture was taken");

    browser.type_into(&browser.find("input").await?, "hello").await?;
    browser.click(&browser.find("button").await?).await?;
    browser.wait_for("h1").await?;
    assert_eq!(browser.current_url().await?, format!("{url}done?note=hello"));
    Ok(())
}

#[tokio::test]
async fn the_browser_plays_a_phone_in_dark_mode_without_javascript() -> Story {
    let url = serve(PAGE).await?;
    let options = ChromiumOptions {
        viewport: Viewport::Phone,
        appearance: Appearance::Dark,
        javascript: false,
        flags: Vec::new(),
    };
    let browser = Chromium::start(options).await?;
    browser.goto(&url).await?;
    assert_eq!(browser.text(&browser.find("#script").await?).await?, "without script");
    let body = browser.find("body").await?;
    assert_eq!(browser.css(&body, "background-color").await?, "rgba(0, 0, 0, 1)");
    assert!(browser.rectangle(&body).await?["width"].as_f64().is_some_and(|width| width <= 390.0));
    let picture = std::fs::read(browser.screenshot("peers-phone-dark").await?)?;
    // The width in a PNG's header, in pixels: 390 × 3.
    assert_eq!(picture.get(16..20), Some(&1170_u32.to_be_bytes()[..]));
    browser.click(&browser.find("button").await?).await?;
    browser.wait_for("h1").await?;
    assert!(browser.current_url().await?.starts_with(&format!("{url}done")));
    Ok(())
}

#[tokio::test]
async fn a_real_client_reaches_the_homeserver_through_the_front_over_tls() -> Story {
    let homeserver = Synapse::start().await?;
    let user = homeserver.register("alice").await?;
    let ca = TestCa::new()?;
    // Nothing serves the contact API here: its routes must not end at the homeserver.
    let nowhere = format!("http://127.0.0.1:{}", free_port()?);
    let locations = front(&nowhere, homeserver.base_url());
    let nginx = Nginx::start(&ca, None, &["localhost", "127.0.0.1"], &locations).await?;

    let script = NodeScript::new("whoami.mjs").arg(&nginx.base_url()).arg(&user.access_token);
    let answer = script.trust(&ca).run().await?.json()?;
    assert_eq!(answer["user_id"], "@alice:localhost");

    let untrusted = NodeScript::new("whoami.mjs").arg(&nginx.base_url()).arg(&user.access_token);
    assert!(!untrusted.run().await?.success, "a client that does not know the authority refuses");

    let script = NodeScript::new("threepids.mjs").arg(&nginx.base_url()).arg(&user.access_token);
    let answer = script.trust(&ca).run().await?.json()?;
    assert_eq!(answer["status"], 502, "{answer}");
    Ok(())
}

#[tokio::test]
async fn the_identity_server_gives_an_account_and_validates_an_address_by_mail() -> Story {
    let ca = TestCa::new()?;
    let port = free_port()?;
    // A name with an address and a port: federation goes there without DNS.
    let homeserver = Synapse::builder().server_name(&format!("127.0.0.1:{port}")).start().await?;
    let locations = front(homeserver.base_url(), homeserver.base_url());
    let _front = Nginx::start(&ca, Some(port), &["127.0.0.1"], &locations).await?;
    let smtp = SmtpServer::start().await?;
    let identity_server = Sydent::start("identity.example.org", &smtp, &ca).await?;

    let user = homeserver.register("alice").await?;
    let account = identity_server.register(&homeserver, &user).await?;
    let sid = identity_server.request_token(&account, "alice@example.org", "secret").await?;
    let mail = smtp.wait_for_mail_to("alice@example.org").await?;
    let text = mail.text.unwrap_or_default();
    let link = text.lines().find_map(|line| line.strip_prefix(identity_server.base_url()));
    let path = link.ok_or("the mail has a link")?;
    let (status, _) = identity_server.call(reqwest::Method::GET, path, None, None).await?;
    assert_eq!(status, 200);

    let path = format!("/_matrix/identity/v2/3pid/getValidated3pid?sid={sid}&client_secret=secret");
    let (status, answer) = identity_server.call(reqwest::Method::GET, &path, Some(&account), None).await?;
    assert_eq!((status, answer["address"].as_str()), (200, Some("alice@example.org")), "{answer}");
    let path = format!("/_matrix/identity/api/v1/3pid/getValidated3pid?sid={sid}&client_secret=secret");
    let (status, answer) = identity_server.call(reqwest::Method::GET, &path, None, None).await?;
    assert_eq!((status, answer["medium"].as_str()), (200, Some("email")), "{answer}");
    Ok(())
}

#[tokio::test]
async fn the_sms_gateway_keeps_what_it_takes_in_each_language() -> Story {
    let gateway = SmsGateway::start().await?;
    let client = reqwest::Client::new();
    let text = "482913 is your code: Grüße & 100 %";
    let sms = serde_json::json!({ "to": ["+447700900813", "15005550006"], "text": text, "id": "1" });
    let answer = client.post(gateway.url()).json(&sms).send().await?;
    assert_eq!((answer.status().as_u16(), answer.text().await?.contains("accepted")), (202, true));
    let fields = [("to", "+447700900813"), ("text", text), ("to", "15005550006")];
    assert_eq!(client.put(gateway.url()).form(&fields).send().await?.status(), 202);
    assert_eq!(client.get(gateway.url()).query(&fields).send().await?.status(), 202);
    assert_eq!(client.get(gateway.url()).send().await?.status(), 422, "there is no SMS in it");

    let messages = gateway.messages();
    let methods: Vec<_> = messages.iter().map(|sms| (sms.method.as_str(), sms.id.as_deref())).collect();
    assert_eq!(methods, [("POST", Some("1")), ("PUT", None), ("GET", None)]);
    for sms in &messages {
        assert_eq!(
            (sms.to.as_slice(), sms.text.as_str()),
            (["447700900813", "15005550006"].map(str::to_owned).as_slice(), text)
        );
        assert_eq!(sms.code()?, "482913");
    }
    assert_eq!(messages.first().and_then(|sms| sms.header("content-type")), Some("application/json"));
    assert_eq!((gateway.requests(), messages.len()), (4, 3));
    Ok(())
}

#[tokio::test]
async fn the_sms_gateway_misbehaves_on_demand() -> Story {
    let gateway = SmsGateway::start().await?;
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_millis(500))
        .build()?;
    for (mode, status, takes) in [
        (SmsMode::Fail, Some(500), false),
        (SmsMode::Reject, Some(400), false),
        (SmsMode::Unauthorized, Some(401), false),
        (SmsMode::Page, Some(200), false),
        (SmsMode::Redirect, Some(302), false),
        (SmsMode::Hang, None, false),
        (SmsMode::Drop, None, false),
        (SmsMode::KeepAndHang, None, true),
        (SmsMode::KeepAndDrop, None, true),
        (SmsMode::AcceptAfter(Duration::from_secs(60)), None, true),
        (SmsMode::AcceptAfter(Duration::ZERO), Some(202), true),
        (SmsMode::Accept, Some(202), true),
    ] {
        let before = gateway.messages().len();
        gateway.set_mode(mode);
        let sms = serde_json::json!({ "to": "+447700900813", "text": "482913" });
        let answer = client.post(gateway.url()).json(&sms).send().await;
        assert_eq!(answer.ok().map(|answer| answer.status().as_u16()), status, "{mode:?}");
        assert_eq!(gateway.messages().len() - before, usize::from(takes), "{mode:?}");
    }
    gateway.wait_for_requests(12).await?;
    assert_eq!(gateway.wait_for_sms_to("447700900813").await?.text, "482913");
    Ok(())
}
