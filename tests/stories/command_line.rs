//! The program as an operator meets it: settings, accounts, the database, the demo.

use reqwest::Method;
use serde_json::json;
use threepid_tests::peers::{Chromium, ChromiumOptions, Program, SmtpServer, free_port, wait_until};
use threepid_tests::server::{REQUEST_TOKEN, Server, THREEPIDS};

use crate::Story;

const WITHIN: std::time::Duration = std::time::Duration::from_secs(30);

#[tokio::test]
async fn the_template_is_a_settings_file_once_the_required_settings_are_given() -> Story {
    let server = Server::builder().prepare()?;
    let (status, template) = server.run(&["config", "template"]).await?;
    assert_eq!(status, 0);
    std::fs::write(server.config(), &template)?;
    let (status, said) = server.run(&["config", "check"]).await?;
    assert_eq!(status, 2, "{said}");
    for required in ["mail.from", "homeserver.base_url"] {
        let named = said.lines().any(|line| line.starts_with(&format!("threepid: {required}: is required")));
        assert!(named, "{required}: {said}");
    }

    let given = [
        ("THREEPID_MAIL__FROM", "Example <noreply@example.org>"),
        ("THREEPID_HOMESERVER__BASE_URL", "http://localhost:8008"),
    ];
    let (status, said) = server.run_with(&["config", "check"], &given).await?;
    assert_eq!((status, said.lines().last()), (0, Some("ok")), "{said}");
    let warnings: Vec<&str> = said.lines().filter(|line| line.starts_with("threepid: warning: ")).collect();
    assert!(matches!(*warnings, [line] if line.contains("deprecated_add")), "{said}");
    assert!(!server.folder().join("threepid.db").exists(), "a check makes nothing");
    Ok(())
}

#[tokio::test]
async fn settings_that_make_no_sense_are_all_named_and_nothing_is_started() -> Story {
    for (settings, named) in [
        (&[("listen", "\"somewhere\"")][..], &["listen"][..]),
        (&[("lifetimes.token", "\"0s\""), ("relay.lease", "\"1s\"")], &["lifetimes.token", "relay.lease"]),
        (
            &[("log.level", "\"a=b=c\""), ("http.max_connections", "0")],
            &["log.level", "http.max_connections"],
        ),
        (&[("mail.transport", "\"pigeon\"")], &["mail.transport"]),
        (&[("mail.transport", "\"smtp\""), ("mail.from", "\"nobody\"")], &["mail.from"]),
        (&[("public_base_url", "\"ftp://example.org\"")], &["public_base_url"]),
        (&[("accounts", "\"homeserver\"")], &["homeserver.base_url"]),
        (&[("database.url", "\"mysql://example.org\"")], &["database.url"]),
        (&[("database.url", "\"postgres://example.org\"")], &["server_key.value"]),
        (&[("signing_key.file", "\"/proc/nowhere\"")], &["signing_key.homeserver"]),
        (&[("identity_servers", r#"[{ name = "https://a.example" }]"#)], &["identity_servers"]),
        (&[("validation", "\"identity_server\"")], &["validation"]),
        (
            &[("limits.request_token_per_client.per_second", "-1.0")],
            &["limits.request_token_per_client.per_second"],
        ),
        (&[("addresses.deny", r#"[{ medium = "email", pattern = "(" }]"#)], &["addresses.deny[0]"]),
        (&[("mail.smtp.user", "\"me\""), ("mail.transport", "\"smtp\"")], &["mail.smtp.password"]),
        (&[("http.trusted_proxies", r#"["everybody"]"#)], &["http.trusted_proxies"]),
        (&[("no_such_setting", "1")], &["no_such_setting"]),
        (&[("templates.folder", "\"/proc/nowhere\"")], &["templates.folder"]),
    ] {
        let builder =
            settings.iter().fold(Server::builder(), |builder, (name, value)| builder.set(name, value));
        let server = builder.prepare()?;
        for command in [&["config", "check"][..], &["serve"]] {
            let (status, said) = server.run(command).await?;
            assert_eq!(status, 2, "{settings:?}: {said}");
            for name in named {
                assert!(
                    said.lines().any(|line| line.starts_with(&format!("threepid: {name}"))),
                    "{name}: {said}"
                );
            }
            assert!(said.lines().all(|line| line.starts_with("threepid: ")), "{said}");
        }
        assert!(!server.folder().join("threepid.db").exists(), "{settings:?}");
    }
    let server = Server::builder().prepare()?;
    let (status, said) = server.run_with(&["config", "check"], &[("THREEPID_NO_SUCH", "1")]).await?;
    assert!(status == 2 && said.contains("THREEPID_NO_SUCH"), "{said}");
    std::fs::remove_file(server.config())?;
    let (status, said) = server.run(&["config", "check"]).await?;
    assert!(status == 2 && said.contains("threepid.toml"), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_secret_setting_is_never_shown() -> Story {
    let server = Server::builder()
        .text("mail.transport", "smtp")
        .text("mail.smtp.user", "mailer")
        .text("mail.smtp.password", "password-of-mailer")
        // It cannot be a key, and would be quoted if values were.
        .text("server_key.value", "not-a-key-and-secret")
        .prepare()?;
    for command in [&["config", "check"][..], &["serve"]] {
        let (status, said) = server.run(command).await?;
        assert!(status == 2 && said.contains("server_key.value"), "{said}");
        assert!(!said.contains("password-of-mailer") && !said.contains("not-a-key-and-secret"), "{said}");
    }
    Ok(())
}

#[tokio::test]
async fn accounts_are_added_listed_and_given_tokens_which_work_while_the_server_runs() -> Story {
    let server = Server::builder().start().await?;
    let run = async |arguments: &'static [&'static str]| server.run(arguments).await;
    assert_eq!(run(&["account", "list"]).await?, (0, String::new()));
    let added = (0, "added @alice:example.org\n".to_owned());
    assert_eq!(run(&["account", "add", "@alice:example.org"]).await?, added);
    let there = (0, "@alice:example.org was there already\n".to_owned());
    assert_eq!(run(&["account", "add", "@alice:example.org"]).await?, there);
    run(&["account", "add", "--guest", "@guest:example.org"]).await?;
    let listed = (0, "@alice:example.org\n@guest:example.org\n".to_owned());
    assert_eq!(run(&["account", "list"]).await?, listed);

    let (first, second) =
        (server.account("@alice:example.org").await?, server.account("@alice:example.org").await?);
    assert_ne!(first, second);
    for token in [&first, &second] {
        assert_eq!(server.list(token).await?.json(), json!({ "threepids": [] }));
    }
    let guest = server.account("@guest:example.org").await?;
    assert_eq!(server.list(&guest).await?.error(), (403, "M_GUEST_ACCESS_FORBIDDEN".to_owned()));

    let (status, said) = run(&["account", "token", "@nobody:example.org"]).await?;
    assert!(
        status == 1 && said.starts_with("threepid: cannot make a token for @nobody:example.org"),
        "{said}"
    );
    let (status, said) = run(&["account", "add", "alice"]).await?;
    assert!(status == 2 && said.contains("alice"), "{said}");

    // Neither the database nor what is beside it holds a token.
    for entry in std::fs::read_dir(server.folder())? {
        let path = entry?.path();
        let bytes = std::fs::read(&path)?;
        let holds = |token: &str| bytes.windows(token.len()).any(|window| window == token.as_bytes());
        assert!(!holds(&first) && !holds(&second), "{} holds a token", path.display());
    }
    Ok(server.end().await?)
}

#[tokio::test]
async fn what_is_stored_holds_no_secret_of_a_session() -> Story {
    let smtp = SmtpServer::start().await?;
    let server = Server::builder().mail_to(&smtp).start().await?;
    let secret = "a-client-secret-that-is-stored-nowhere";
    server.request_token("alice@example.org", secret, 1).await?.sid()?;
    let link = smtp.wait_for_mail_to("alice@example.org").await?.confirm_link()?;
    let token = threepid_tests::server::link_part(&link, "token")?;
    for entry in std::fs::read_dir(server.folder())? {
        let path = entry?.path();
        let bytes = std::fs::read(&path)?;
        let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        assert!(!holds(secret) && !holds(&token), "{} holds a secret", path.display());
    }
    Ok(server.end().await?)
}

#[tokio::test]
async fn the_database_is_brought_up_to_date_on_command_and_its_files_are_private() -> Story {
    use std::os::unix::fs::PermissionsExt as _;
    let mut server = Server::builder().prepare()?;
    let (status, said) = server.run(&["migrate"]).await?;
    assert!(status == 0 && said.lines().all(|line| line.starts_with("applied m")), "{said}");
    assert_eq!(server.run(&["migrate"]).await?, (0, "nothing to do\n".to_owned()));
    server.launch().await?;
    for name in ["threepid.db", "threepid.key"] {
        let mode = std::fs::metadata(server.folder().join(name))?.permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name} has mode {mode:o}");
    }
    Ok(server.end().await?)
}

#[tokio::test]
async fn help_and_nonsense_are_told_apart_by_the_exit_status() -> Story {
    let server = Server::builder().prepare()?;
    let (status, help) = server.run(&["--help"]).await?;
    assert_eq!(status, 0);
    for command in ["serve", "demo", "migrate", "account", "config"] {
        assert!(help.contains(&format!("  {command}")), "{help}");
    }
    assert_eq!(server.run(&["--version"]).await?.0, 0);
    assert_eq!(server.run(&["dance"]).await?.0, 2);
    assert_eq!(server.run(&["demo", "--listen", "0.0.0.0:0"]).await?.0, 2, "the demo stays on this machine");
    Ok(())
}

#[tokio::test]
async fn the_demo_is_played_in_a_browser_as_its_first_screen_says() -> Story {
    let address = format!("127.0.0.1:{}", free_port()?);
    let base = format!("http://{address}");
    let mut demo = Program::start(&["demo", "--listen", &address], &[])?;
    demo.ready_at(&format!("{base}/health/ready")).await?;
    let screen = || async { Ok(Some(demo.said()?).filter(|said| said.contains("Ctrl-C stops the demo"))) };
    let screen = wait_until("the first screen", WITHIN, screen).await?;
    let after = |label: &str| {
        screen.lines().find_map(|line| line.trim().strip_prefix(label)).map(|rest| rest.trim().to_owned())
    };
    assert_eq!(after("server").as_deref(), Some(base.as_str()), "{screen}");
    let mailbox = after("mailbox").ok_or("the mailbox is named")?;
    let accounts = after("accounts").ok_or("the accounts are named")?;
    let token = accounts.rsplit(' ').next().unwrap_or_default().to_owned();

    let browser = Chromium::start(ChromiumOptions::default()).await?;
    browser.goto(&mailbox).await?;
    assert_eq!(browser.count("article").await?, 0);
    browser.screenshot("demo-mailbox-empty").await?;

    let client = reqwest::Client::new();
    let secret = "a-secret-for-the-demo";
    let body = json!({ "client_secret": secret, "email": "alice@example.org", "send_attempt": 1 });
    let asked = client.post(format!("{base}{REQUEST_TOKEN}")).json(&body).send().await?;
    let sid: serde_json::Value = asked.json().await?;

    // The empty mailbox looks again by itself.
    browser.wait_for("article a").await?;
    browser.screenshot("demo-mailbox").await?;
    browser.click(&browser.find("article a").await?).await?;
    browser.wait_for("main form button").await?;
    browser.click(&browser.find("main form button").await?).await?;
    browser.wait_for(".good").await?;

    let creds = json!({ "three_pid_creds": { "client_secret": secret, "sid": sid["sid"] } });
    let threepids = format!("{base}{THREEPIDS}");
    let added = client.request(Method::POST, &threepids).bearer_auth(&token).json(&creds).send().await?;
    assert_eq!(added.status(), 200);
    let listed: serde_json::Value = client.get(&threepids).bearer_auth(&token).send().await?.json().await?;
    assert_eq!(listed["threepids"][0]["address"], "alice@example.org");

    let folder = after("folder").and_then(|line| line.split(' ').next().map(str::to_owned));
    let folder = folder.ok_or("the folder is named")?;
    assert!(std::path::Path::new(&folder).is_dir());
    assert_eq!(demo.terminate().await?, 0);
    assert!(!std::path::Path::new(&folder).exists(), "its folder goes with it");
    Ok(())
}
