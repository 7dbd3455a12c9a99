//! The main job: an address is asked for, proven, added and listed.

use std::time::{SystemTime, UNIX_EPOCH};

use reqwest::Method;
use serde_json::{Value, json};
use threepid_tests::peers::{CapturedMail, SmtpSecurity, SmtpServer};
use threepid_tests::server::{CONFIRM, REQUEST_TOKEN, Server, THREEPIDS, link_part};

use crate::{Story, shared_homeserver};

const LIST_R0: &str = "/_matrix/client/r0/account/3pid";
const REQUEST_TOKEN_R0: &str = "/_matrix/client/r0/account/3pid/email/requestToken";

/// A mail server with TLS and a login, and a server that is about to use it.
async fn secured(
    security: SmtpSecurity,
) -> Result<(SmtpServer, threepid_tests::server::ServerBuilder), Box<dyn std::error::Error + Send + Sync>> {
    let smtp = SmtpServer::builder().security(security).login("mailer", "password-of-mailer").start().await?;
    let server = Server::builder()
        .mail_to(&smtp)
        .text("mail.smtp.host", "localhost")
        .text("mail.smtp.security", if security == SmtpSecurity::Tls { "tls" } else { "starttls" })
        .text("mail.smtp.user", "mailer")
        .text("mail.smtp.password", "password-of-mailer")
        .text("mail.smtp.ca_file", &smtp.ca().certificate().to_string_lossy());
    Ok((smtp, server))
}

fn now_ms() -> Result<u64, Box<dyn std::error::Error + Send + Sync>> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?)
}

/// What a mail owes its reader and everybody on its way.
fn assert_is_a_good_mail(mail: &CapturedMail, to: &str, secrets: &[&str]) -> Story {
    assert_eq!((mail.from.as_str(), mail.to.as_slice()), ("noreply@example.org", &[to.to_owned()][..]));
    for name in ["to", "from", "subject", "date", "message-id"] {
        let count = mail.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name)).count();
        assert_eq!(count, 1, "{name}: {:?}", mail.headers);
    }
    assert_eq!(mail.header("to"), Some(to));
    assert!(mail.header("cc").is_none() && mail.header("bcc").is_none());
    assert_eq!(mail.header("auto-submitted"), Some("auto-generated"));
    assert!(mail.header("message-id").is_some_and(|id| id.starts_with('<') && id.ends_with("@example.org>")));
    assert!(mail.header("content-type").is_some_and(|kind| kind.starts_with("multipart/alternative")));

    let link = mail.confirm_link()?;
    let token = link_part(&link, "token")?;
    let (text, html) = (mail.text.clone().unwrap_or_default(), mail.html.clone().unwrap_or_default());
    let html = html.replace("&amp;", "&").replace("&#x2f;", "/");
    assert!(html.contains(&link), "the HTML has the same link: {html}");
    let rest = format!("{:?}{text}{html}", mail.headers).replace(&link, "");
    for secret in secrets.iter().chain([&token.as_str()]) {
        assert!(!rest.contains(secret), "{secret} is in the mail besides the link: {rest}");
    }
    Ok(())
}

#[tokio::test]
async fn an_address_is_asked_for_proven_added_and_listed_with_a_real_homeserver_and_mail_server() -> Story {
    let homeserver = shared_homeserver().await?;
    let (alice, bob) = (homeserver.new_user().await?.access_token, homeserver.new_user().await?.access_token);
    let (smtp, server) = secured(SmtpSecurity::StartTls).await?;
    let server = server.homeserver(homeserver.base_url()).start().await?;
    for list in [THREEPIDS, LIST_R0] {
        assert_eq!(server.get(list, Some(&alice)).await?.json(), json!({ "threepids": [] }));
    }

    // Both ask for the same address while nobody has it.
    let (address, secret) = ("Alice.Liddell@Example.ORG", "the-secret-of-alice");
    let canonical = "alice.liddell@example.org";
    let before = now_ms()?;
    let sid = server.request_token(address, secret, 1).await?.sid()?;
    let mail = smtp.wait_for_mail_to(canonical).await?;
    assert!(mail.tls && mail.authenticated, "the mail came over TLS after a login");
    assert_is_a_good_mail(&mail, canonical, &[secret, &alice])?;
    let link = mail.confirm_link()?;
    assert!(link.starts_with(&server.url(CONFIRM)), "{link}");
    assert_eq!(link_part(&link, "sid")?, sid);
    let bobs_sid = server.prove(&smtp, canonical, "the-secret-of-bob").await?;

    // Mail scanners open links.
    for method in [Method::GET, Method::HEAD] {
        let opened = server.send(server.request(method, &link, None)).await?;
        assert_eq!(opened.status, 200);
    }
    let unproven = server.add(&alice, &sid, secret).await?;
    assert_eq!(unproven.error(), (403, "M_THREEPID_AUTH_FAILED".to_owned()));

    assert_eq!(server.confirm(&link).await?.status, 200);
    let proven = now_ms()?;
    assert_eq!(server.list(&alice).await?.addresses(), Vec::<String>::new(), "proven is not added");
    let added = server.add(&alice, &sid, secret).await?;
    assert_eq!((added.status, added.json()), (200, json!({})));

    for list in [THREEPIDS, LIST_R0] {
        let listing = server.get(list, Some(&alice)).await?.json();
        let threepid = &listing["threepids"][0];
        assert_eq!((&threepid["medium"], &threepid["address"]), (&json!("email"), &json!(canonical)));
        let time = |name: &str| threepid[name].as_u64().unwrap_or_default();
        assert!((before..=proven).contains(&time("validated_at")), "in milliseconds: {listing}");
        assert!((proven..=now_ms()?).contains(&time("added_at")), "in milliseconds: {listing}");
        assert_eq!(threepid.as_object().map(serde_json::Map::len), Some(4), "{listing}");
    }

    // An address has one owner.
    let in_use = (400, "M_THREEPID_IN_USE".to_owned());
    assert_eq!(server.add(&bob, &bobs_sid, "the-secret-of-bob").await?.error(), in_use);
    assert_eq!(server.request_token(canonical, "another-secret", 1).await?.error(), in_use);
    assert_eq!(server.list(&bob).await?.addresses(), Vec::<String>::new());
    Ok(server.end().await?)
}

#[tokio::test]
async fn the_older_version_and_its_spelling_lead_to_the_same_list() -> Story {
    let homeserver = shared_homeserver().await?;
    let alice = homeserver.new_user().await?.access_token;
    let smtp = SmtpServer::start().await?;
    let server = Server::builder().mail_to(&smtp).homeserver(homeserver.base_url()).start().await?;
    let secret = "secret-of-an-old-client";
    let body = json!({ "client_secret": secret, "email": "old@example.org", "send_attempt": 1,
        "id_server": "vector.im", "id_access_token": "ignored-here" });
    let sid = server.post(REQUEST_TOKEN_R0, None, &body).await?.sid()?;
    server.keep_secret("ignored-here");
    let link = smtp.wait_for_mail_to("old@example.org").await?.confirm_link()?;

    // The token may come back through the client, too.
    let submitted = server.submit(&sid, secret, &link_part(&link, "token")?).await?;
    assert_eq!((submitted.status, submitted.json()), (200, json!({ "success": true })));

    let body = json!({ "threePidCreds": { "client_secret": secret, "sid": sid }, "bind": false });
    let added = server.post(LIST_R0, Some(&alice), &body).await?;
    assert_eq!((added.status, added.json()), (200, json!({})));
    for list in [THREEPIDS, LIST_R0] {
        assert_eq!(server.get(list, Some(&alice)).await?.addresses(), ["old@example.org"]);
    }
    Ok(server.end().await?)
}

#[tokio::test]
async fn several_addresses_are_listed_oldest_first() -> Story {
    let smtp = SmtpServer::start().await?;
    let server = Server::builder().mail_to(&smtp).start().await?;
    let alice = server.account("@alice:example.org").await?;
    // Not the order of the alphabet.
    let addresses = ["m@example.org", "z@example.org", "a@example.org"];
    for address in addresses {
        let sid = server.prove(&smtp, address, "secret-of-alice").await?;
        assert_eq!(server.add(&alice, &sid, "secret-of-alice").await?.status, 200);
    }
    assert_eq!(server.list(&alice).await?.addresses(), addresses);
    Ok(server.end().await?)
}

#[tokio::test]
async fn mail_goes_over_implicit_tls_with_a_login_or_in_plain_text_on_the_same_machine() -> Story {
    let (secure, builder) = secured(SmtpSecurity::Tls).await?;
    let plain = SmtpServer::start().await?;
    for (smtp, builder) in [(&secure, builder), (&plain, Server::builder().mail_to(&plain))] {
        let server = builder.start().await?;
        let alice = server.account("@alice:example.org").await?;
        let sid = server.prove(smtp, "alice@example.org", "secret-of-alice").await?;
        assert_eq!(server.add(&alice, &sid, "secret-of-alice").await?.status, 200);
        assert_eq!(server.list(&alice).await?.addresses(), ["alice@example.org"]);
        server.keep_secret("password-of-mailer");
        server.end().await?;
    }
    let seen = |smtp: &SmtpServer| smtp.mails().map(|mails| mails.iter().all(|mail| mail.tls));
    assert!(seen(&secure)? && !seen(&plain)?);
    Ok(())
}

#[tokio::test]
async fn a_mail_server_that_nobody_vouches_for_gets_neither_password_nor_mail() -> Story {
    let (smtp, builder) = secured(SmtpSecurity::StartTls).await?;
    let another = threepid_tests::peers::TestCa::new()?;
    let server = builder.text("mail.smtp.ca_file", &another.certificate().to_string_lossy()).start().await?;
    server.request_token("alice@example.org", "secret-of-alice", 1).await?.sid()?;
    server.wait_for_log(&["will be tried again"]).await?;
    assert!(smtp.mails()?.is_empty());
    server.keep_secret("password-of-mailer");
    Ok(server.end().await?)
}

#[tokio::test]
async fn a_mail_is_sent_again_only_for_a_higher_attempt_and_older_links_stay_good() -> Story {
    let smtp = SmtpServer::start().await?;
    let server = Server::builder().mail_to(&smtp).start().await?;
    let alice = server.account("@alice:example.org").await?;
    let (address, secret) = ("alice@example.org", "secret-of-alice");
    let sid = server.request_token(address, secret, 1).await?.sid()?;
    let first = smtp.wait_for_mail_to(address).await?.confirm_link()?;
    for attempt in [1, 0, 1] {
        assert_eq!(server.request_token(address, secret, attempt).await?.sid()?, sid);
    }
    assert_eq!(server.request_token(address, secret, 7).await?.sid()?, sid);
    let of_seventh = |mail: &CapturedMail| mail.confirm_link().is_ok_and(|link| link != first);
    smtp.wait_for_mail(of_seventh).await?;
    assert_eq!(smtp.mails()?.len(), 2, "one for each higher attempt");
    assert_eq!(server.confirm(&first).await?.status, 200);
    assert_eq!(server.request_token(address, secret, 8).await?.sid()?, sid, "proven: no more mail");
    assert_eq!(server.add(&alice, &sid, secret).await?.status, 200);

    // Whatever is sent after this comes after whatever was sent before.
    server.prove(&smtp, "last@example.org", secret).await?;
    assert_eq!(smtp.mails()?.len(), 3);
    Ok(server.end().await?)
}

#[tokio::test]
async fn addresses_that_the_operator_does_not_want_get_no_mail() -> Story {
    let smtp = SmtpServer::start().await?;
    let server = Server::builder()
        .mail_to(&smtp)
        .set("addresses.allow", r#"[{ domain = "example.org" }]"#)
        .set("addresses.deny", r#"[{ medium = "email", pattern = "(root|postmaster)@.*" }]"#)
        .start()
        .await?;
    for denied in ["root@example.org", "POSTMASTER@example.org", "alice@example.com", "alice@notexample.org"]
    {
        let answer = server.request_token(denied, "secret-of-alice", 1).await?;
        assert_eq!(answer.error(), (403, "M_THREEPID_DENIED".to_owned()), "{denied}");
    }
    server.prove(&smtp, "alice@sub.example.org", "secret-of-alice").await?;
    assert_eq!(smtp.mails()?.len(), 1);
    Ok(server.end().await?)
}

#[tokio::test]
async fn a_server_without_mail_says_so() -> Story {
    let server = Server::builder().start().await?;
    let answer = server.request_token("alice@example.org", "secret-of-alice", 1).await?;
    assert_eq!(answer.error(), (400, "M_THREEPID_MEDIUM_NOT_SUPPORTED".to_owned()));
    Ok(server.end().await?)
}

#[tokio::test]
async fn nobody_can_make_it_an_open_mailer() -> Story {
    let smtp = SmtpServer::start().await?;
    let defaults = |builder: threepid_tests::server::ServerBuilder, limit: &str| {
        let section = format!("limits.request_token_per_{limit}");
        builder.set(&format!("{section}.per_second"), 0.003).set(&format!("{section}.burst"), 5)
    };
    // One address from anywhere, then one client to any address.
    for (limit, addresses) in [("address", ["flood@example.org"; 6]), ("client", numbered())] {
        let server = defaults(Server::builder().mail_to(&smtp), limit).start().await?;
        let mut answers = Vec::new();
        for (attempt, address) in (1..).zip(addresses) {
            answers.push(server.request_token(address, "secret-of-a-flooder", attempt).await?);
        }
        let Some((last, first)) = answers.split_last() else { return Err("six answers".into()) };
        assert!(first.iter().all(|answer| answer.status == 200), "{limit}: {first:?}");
        assert_eq!(last.error(), (429, "M_LIMIT_EXCEEDED".to_owned()), "{limit}");
        let wait: u64 = last.header("retry-after").parse()?;
        let ms = last.json()["retry_after_ms"].as_u64().unwrap_or_default();
        assert!((1..=334).contains(&wait) && ms > 0 && ms <= wait * 1000, "{limit}: {wait} s, {ms} ms");
        server.end().await?;
    }
    Ok(())
}

fn numbered() -> [&'static str; 6] {
    ["1@example.org", "2@example.org", "3@example.org", "4@example.org", "5@example.org", "6@example.org"]
}

#[tokio::test]
async fn browsers_may_ask_from_anywhere_and_what_does_not_exist_is_unrecognized() -> Story {
    let server = Server::builder().start().await?;
    for path in [THREEPIDS, LIST_R0, REQUEST_TOKEN, REQUEST_TOKEN_R0] {
        let preflight = server.request(Method::OPTIONS, path, None).header("origin", "https://app.example");
        let preflight = server.send(preflight).await?;
        assert!(preflight.status < 300, "{path}: {preflight:?}");
        let allowed = preflight.header("access-control-allow-headers").to_ascii_lowercase();
        assert!(allowed.contains("authorization") && allowed.contains("content-type"), "{allowed}");
    }
    let missing = server.get("/_matrix/client/v3/account/4pid", None).await?;
    assert_eq!(missing.error(), (404, "M_UNRECOGNIZED".to_owned()));
    let method = server.send(server.request(Method::PUT, THREEPIDS, None)).await?;
    assert_eq!(method.error(), (405, "M_UNRECOGNIZED".to_owned()));
    for health in ["/health/live", "/health/ready"] {
        assert_eq!(server.get(health, None).await?.status, 200);
    }
    let nothing: Value = server.get(THREEPIDS, None).await?.json();
    assert_eq!(nothing["errcode"], "M_MISSING_TOKEN");
    Ok(server.end().await?)
}
