//! The page that the link in the mail leads to, in a real browser. The pictures stay among the artifacts.

use serde_json::json;
use threepid_tests::peers::{Appearance, Chromium, ChromiumOptions, SmtpServer, Viewport};
use threepid_tests::server::{Answer, CONFIRM, REQUEST_TOKEN, Server};

use crate::{Story, serve};

const SECRET: &str = "secret-of-alice";

fn node(role: &str, name: &str) -> (String, String) {
    (role.to_owned(), name.to_owned())
}

/// What a page owes its reader: its heading is the only one, it fits the screen, and its colours are ours.
async fn assert_readable(browser: &Chromium, viewport: Viewport, heading: &str, dark: bool) -> Story {
    let tree = browser.accessibility_tree().await?;
    let headings: Vec<_> = tree.iter().filter(|(role, _)| role == "heading").collect();
    assert_eq!(headings, [&node("heading", heading)], "{tree:?}");
    assert!(tree.iter().any(|(role, _)| role == "main"), "{tree:?}");
    assert!(browser.title().await?.starts_with(heading), "{}", browser.title().await?);
    let body = browser.find("body").await?;
    let widest = if viewport == Viewport::Phone { 390.0 } else { 1280.0 };
    for part in ["body", "main", "h1"] {
        let place = browser.rectangle(&browser.find(part).await?).await?;
        let (x, width) = (place["x"].as_f64().unwrap_or(-1.0), place["width"].as_f64().unwrap_or(f64::MAX));
        assert!(x >= 0.0 && x + width <= widest, "{part} fits: {place}");
    }
    let ground = if dark { "rgba(15, 20, 25, 1)" } else { "rgba(244, 245, 247, 1)" };
    assert_eq!(browser.css(&body, "background-color").await?, ground, "the policy lets the style in");
    Ok(())
}

async fn press_the_button(browser: &Chromium) -> Story {
    let button = browser.find("main button").await?;
    let place = browser.rectangle(&button).await?;
    assert!(place["height"].as_f64().is_some_and(|height| height >= 44.0), "a thumb finds it: {place}");
    browser.click(&button).await?;
    browser.wait_for("main svg").await?;
    Ok(())
}

/// Opens, confirms and fails, in light and in dark, and takes a picture of each page.
async fn the_page_is_walked_through(viewport: Viewport, javascript: bool, name: &str) -> Story {
    let smtp = SmtpServer::start().await?;
    let server = Server::builder().mail_to(&smtp).text("mail.app_name", "Example Chat").start().await?;
    let alice = server.account("@alice:example.org").await?;
    let options = ChromiumOptions { viewport, javascript, ..ChromiumOptions::default() };
    let browser = Chromium::start(options).await?;
    for (appearance, shade) in [(Appearance::Light, "light"), (Appearance::Dark, "dark")] {
        let dark = appearance == Appearance::Dark;
        browser.set_appearance(appearance).await?;
        let email = format!("{shade}@example.org");
        let sid = server.request_token(&email, SECRET, 1).await?.sid()?;
        let link = smtp.wait_for_mail_to(&email).await?.confirm_link()?;

        browser.goto(&link).await?;
        assert_readable(&browser, viewport, "Confirm your email address", dark).await?;
        let tree = browser.accessibility_tree().await?;
        assert!(tree.contains(&node("button", "Confirm my address")), "{tree:?}");
        browser.screenshot(&format!("confirm-{name}-{shade}")).await?;
        assert_eq!(server.add(&alice, &sid, SECRET).await?.status, 403, "opening it has proven nothing");

        press_the_button(&browser).await?;
        assert_readable(&browser, viewport, "Your email address is confirmed", dark).await?;
        browser.screenshot(&format!("confirmed-{name}-{shade}")).await?;
        assert_eq!(browser.current_url().await?, server.url(CONFIRM), "the address bar shows no token");
        assert_eq!(server.add(&alice, &sid, SECRET).await?.status, 200);

        browser.goto(&format!("{}?sid={sid}&token=wrong", server.url(CONFIRM))).await?;
        press_the_button(&browser).await?;
        assert_readable(&browser, viewport, "This link cannot be used", dark).await?;
        browser.screenshot(&format!("failed-{name}-{shade}")).await?;
    }
    Ok(server.end().await?)
}

#[tokio::test]
async fn on_a_desktop_the_page_is_read_confirmed_and_seen_to_fail_in_light_and_dark() -> Story {
    the_page_is_walked_through(Viewport::Desktop, true, "desktop").await
}

#[tokio::test]
async fn on_a_phone_the_page_is_read_confirmed_and_seen_to_fail_in_light_and_dark() -> Story {
    the_page_is_walked_through(Viewport::Phone, true, "phone").await
}

#[tokio::test]
async fn without_javascript_the_page_works_as_well() -> Story {
    the_page_is_walked_through(Viewport::Phone, false, "phone-without-javascript").await
}

#[tokio::test]
async fn after_the_confirmation_the_browser_goes_where_the_client_wanted_with_the_session() -> Story {
    let target = serve("<!doctype html><title>The app</title><h1>Welcome back</h1>").await?;
    let smtp = SmtpServer::start().await?;
    let server = Server::builder().mail_to(&smtp).start().await?;
    let body = json!({ "client_secret": SECRET, "email": "alice@example.org", "send_attempt": 1,
        "next_link": format!("{target}done?from=mail#end") });
    let sid = server.post(REQUEST_TOKEN, None, &body).await?.sid()?;
    let link = smtp.wait_for_mail_to("alice@example.org").await?.confirm_link()?;
    let browser = Chromium::start(ChromiumOptions::default()).await?;
    browser.goto(&link).await?;
    browser.click(&browser.find("main button").await?).await?;
    browser.wait_for("body:not(:has(main)) h1").await?;
    assert_eq!(browser.title().await?, "The app");
    assert_eq!(browser.current_url().await?, format!("{target}done?from=mail&sid={sid}#end"));
    assert_eq!(browser.evaluate("document.referrer").await?, "", "nobody is told of the token");
    Ok(server.end().await?)
}

#[tokio::test]
async fn a_code_from_the_mail_is_entered_and_a_wrong_one_is_said_to_be() -> Story {
    let smtp = SmtpServer::start().await?;
    let server = Server::builder().mail_to(&smtp).set("mail.code", true).start().await?;
    let alice = server.account("@alice:example.org").await?;
    for (viewport, shade) in [(Viewport::Desktop, Appearance::Light), (Viewport::Phone, Appearance::Dark)] {
        let (name, dark) = (format!("{viewport:?}").to_lowercase(), shade == Appearance::Dark);
        let browser = Chromium::start(ChromiumOptions { viewport, ..ChromiumOptions::default() }).await?;
        browser.set_appearance(shade).await?;
        let email = format!("{name}@example.org");
        let opened = server.request_token(&email, SECRET, 1).await?;
        let sid = opened.sid()?;
        assert_eq!(opened.json()["submit_url"], json!(server.url("/_threepid/submit_token")));
        let mail = smtp.wait_for_mail_to(&email).await?;
        let text = mail.text.clone().unwrap_or_default();
        let code = text.lines().find_map(|line| line.strip_prefix("Or enter this code where you began: "));
        let code = code.ok_or("the mail says a code")?.to_owned();
        server.keep_secret(&code);

        browser.goto(&format!("{}?sid={sid}", server.url(CONFIRM))).await?;
        assert_readable(&browser, viewport, "Enter your code", dark).await?;
        let tree = browser.accessibility_tree().await?;
        assert!(tree.contains(&node("textbox", "Code")), "{tree:?}");
        browser.screenshot(&format!("code-{name}")).await?;
        let wrong = if code == "000000" { "000001" } else { "000000" };
        browser.type_into(&browser.find("#code").await?, wrong).await?;
        browser.click(&browser.find("main button").await?).await?;
        browser.wait_for("main [role=alert]").await?;
        assert_readable(&browser, viewport, "Enter your code", dark).await?;
        browser.screenshot(&format!("code-again-{name}")).await?;
        assert_eq!(server.add(&alice, &sid, SECRET).await?.status, 403);

        browser.evaluate("document.querySelector('#code').value = ''").await?;
        browser.type_into(&browser.find("#code").await?, &format!(" {} {}", &code[..3], &code[3..])).await?;
        press_the_button(&browser).await?;
        assert_readable(&browser, viewport, "Your email address is confirmed", dark).await?;
        assert_eq!(browser.current_url().await?, server.url(CONFIRM), "the address bar shows no code");
        assert_eq!(server.add(&alice, &sid, SECRET).await?.status, 200);
    }
    Ok(server.end().await?)
}

#[tokio::test]
async fn no_page_is_kept_framed_or_told_to_others() -> Story {
    let smtp = SmtpServer::start().await?;
    let server = Server::builder().mail_to(&smtp).start().await?;
    let sid = server.request_token("alice@example.org", SECRET, 1).await?.sid()?;
    let link = smtp.wait_for_mail_to("alice@example.org").await?.confirm_link()?;
    let wrong = format!("{}?sid={sid}&token=wrong", server.url(CONFIRM));
    let pages: [(&str, Answer, u16); 5] = [
        ("the form", server.get(&link, None).await?, 200),
        ("a link that is cut short", server.get(CONFIRM, None).await?, 400),
        ("a wrong proof", server.confirm(&wrong).await?, 400),
        ("a proof", server.confirm(&link).await?, 200),
        ("the same proof again", server.confirm(&link).await?, 200),
    ];
    for (what, page, status) in pages {
        assert_eq!(page.status, status, "{what}");
        for (name, value) in [
            ("content-type", "text/html; charset=utf-8"),
            ("cache-control", "no-store"),
            ("referrer-policy", "no-referrer"),
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
        ] {
            assert_eq!(page.header(name), value, "{what}: {name}");
        }
        let policy = page.header("content-security-policy");
        for directive in ["default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'"] {
            assert!(policy.contains(directive), "{what}: {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains("script-src"), "{what}: {policy}");
        assert!(!page.text.contains("<script") && !page.text.contains("src="), "{what}: {}", page.text);
    }
    Ok(server.end().await?)
}

#[tokio::test]
async fn what_a_link_carries_is_shown_as_text_only() -> Story {
    let server = Server::builder().start().await?;
    let sent = r#"%22%3E%3Cscript%3Ealert(1)%3C/script%3E"#;
    let page = server.get(&format!("{CONFIRM}?sid=abc&token={sent}"), None).await?;
    assert!(!page.text.contains("<script"), "{}", page.text);
    let page = server.get(&format!("{CONFIRM}?sid={sent}&token=abc"), None).await?;
    assert_eq!(page.status, 400);
    assert!(!page.text.contains("<script"), "{}", page.text);
    Ok(server.end().await?)
}
