//! Bad input and bad luck: nothing is lost, nothing is answered 500, and the server goes on.
//!
//! That no answer is a 500 is watched by the harness, for every request of every story.

use std::error::Error;

use reqwest::Method;
use serde_json::{Value, json};
use threepid_tests::peers::{SmtpMode, SmtpServer, wait_until};
use threepid_tests::server::{CONFIRM, REQUEST_TOKEN, SUBMIT_TOKEN, Server, THREEPIDS, link_part};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::Story;

const SECRET: &str = "secret-of-alice";

/// One row of a table: what it is, the body, and the status and error code that must come.
struct Row(String, Vec<u8>, u16, &'static str);

fn row(what: &str, body: impl Into<Vec<u8>>, status: u16, errcode: &'static str) -> Row {
    Row(what.to_owned(), body.into(), status, errcode)
}

/// A body with one parameter changed.
fn with(body: &Value, name: &str, value: &Value, status: u16, errcode: &'static str) -> Row {
    let mut body = body.clone();
    body[name] = value.clone();
    Row(format!("{name}: {value}"), body.to_string().into_bytes(), status, errcode)
}

/// A body with one parameter written by hand, for what no JSON value can be.
fn written(body: &Value, name: &str, text: &str, status: u16, errcode: &'static str) -> Row {
    let placeholder = json!("written by hand");
    let Row(_, bytes, ..) = with(body, name, &placeholder, status, errcode);
    let body = String::from_utf8_lossy(&bytes).replace(&placeholder.to_string(), text);
    let shown: String = text.chars().take(40).collect();
    Row(format!("{name}: {shown}"), body.into_bytes(), status, errcode)
}

/// What is no body of any endpoint.
fn broken_bodies() -> Vec<Row> {
    let deep = |open: &str, close: &str, depth: usize| {
        format!("{{\"sid\":{}1{}}}", open.repeat(depth), close.repeat(depth))
    };
    let not_json = "M_NOT_JSON";
    vec![
        row("nothing", "", 400, not_json),
        row("a brace", "{", 400, not_json),
        row("words", "email=alice@example.org", 400, not_json),
        row("a tail", "{} {}", 400, not_json),
        row("a trailing comma", "{\"sid\":\"a\",}", 400, not_json),
        row("no UTF-8", &b"{\"email\":\"\xff\xfe\"}"[..], 400, not_json),
        row("NaN", "{\"send_attempt\":NaN}", 400, not_json),
        row("128 deep arrays", deep("[", "]", 128), 400, not_json),
        row("20 000 deep arrays", deep("[", "]", 20_000), 400, not_json),
        row("10 000 deep objects", deep("{\"a\":", "}", 10_000), 400, not_json),
        row("a list", "[]", 400, "M_BAD_JSON"),
        row("null", "null", 400, "M_BAD_JSON"),
        row("a text", "\"email\"", 400, "M_BAD_JSON"),
        row("an empty object", "{}", 400, "M_MISSING_PARAM"),
        row("64 KiB and a byte", " ".repeat(64 * 1024 + 1), 413, "M_TOO_LARGE"),
    ]
}

fn opaque(body: &Value, name: &str) -> Vec<Row> {
    let invalid = ["", "a b", "ä", "a/b", "a\n", "\u{0}", &"x".repeat(256), &"x".repeat(60_000)]
        .map(|text| with(body, name, &json!(text), 400, "M_INVALID_PARAM"));
    invalid.into_iter().chain(mistyped(body, name)).collect()
}

/// A text that is missing, or no text.
fn mistyped(body: &Value, name: &str) -> Vec<Row> {
    let wrong = [json!(1), json!(true), json!([]), json!({})];
    let mut rows = vec![
        with(body, name, &Value::Null, 400, "M_MISSING_PARAM"),
        // Half of a surrogate pair.
        written(body, name, r#""\ud800""#, 400, "M_NOT_JSON"),
    ];
    rows.extend(wrong.iter().map(|value| with(body, name, value, 400, "M_BAD_JSON")));
    rows
}

async fn every_row_is_refused(server: &Server, path: &str, token: Option<&str>, rows: Vec<Row>) -> Story {
    for Row(what, body, status, errcode) in rows {
        let sent = server.send(server.request(Method::POST, path, token).body(body)).await;
        let answer = sent.map_err(|error| format!("{path}, {what}: {error}"))?;
        assert_eq!(answer.error(), (status, errcode.to_owned()), "{path}, {what}: {}", answer.text);
        assert!(answer.json()["error"].as_str().is_some_and(|error| !error.is_empty()), "{what}");
        let next = server.get("/health/ready", None).await?;
        assert_eq!(next.status, 200, "after {what}");
    }
    Ok(())
}

/// A server with its mail server and two accounts.
async fn scene() -> Result<(SmtpServer, Server, String, String), Box<dyn Error + Send + Sync>> {
    let smtp = SmtpServer::start().await?;
    let server = Server::builder().mail_to(&smtp).start().await?;
    let (alice, bob) =
        (server.account("@alice:example.org").await?, server.account("@bob:example.org").await?);
    Ok((smtp, server, alice, bob))
}

/// The whole way still works, and no mail but its own was ever sent.
async fn it_still_works(smtp: &SmtpServer, server: &Server, token: &str) -> Story {
    let mails = smtp.mails()?.len();
    let sid = server.prove(smtp, "still@example.org", SECRET).await?;
    assert_eq!(server.add(token, &sid, SECRET).await?.status, 200);
    assert!(server.list(token).await?.addresses().contains(&"still@example.org".to_owned()));
    assert_eq!(smtp.mails()?.len(), mails + 1);
    Ok(())
}

#[tokio::test]
async fn what_is_no_request_for_a_token_is_refused_and_sends_no_mail() -> Story {
    let (smtp, server, alice, _) = scene().await?;
    let body = json!({ "client_secret": SECRET, "email": "alice@example.org", "send_attempt": 1 });
    let mut rows = broken_bodies();
    rows.extend(opaque(&body, "client_secret"));
    rows.extend(mistyped(&body, "email"));
    for address in [
        "",
        "@",
        "alice",
        "alice@",
        "@example.org",
        "alice@b@example.org",
        "alice@example.org\r\nBcc: bob@example.org",
        "alice\n@example.org",
        "alice@example.org\n",
        "alice\u{0}@example.org",
        "alice@exam\u{0}ple.org",
        "alice@example.org, bob@example.org",
        "alice@example.org,bob@example.org",
        "Alice <alice@example.org>",
        "<alice@example.org>",
        "\"Alice\" alice@example.org",
        "al ice@example.org",
        "alice@exam ple.org",
        "alice @example.org",
        "alice\u{200b}@example.org",
        "alice@example..org",
        "alice@[127.0.0.1]",
        "alice@-example.org",
        &format!("{}@example.org", "a".repeat(65)),
        &format!("alice@{}.org", "a".repeat(64)),
        &format!("alice@{}org", "a.".repeat(150)),
        &"a".repeat(60_000),
    ] {
        rows.push(with(&body, "email", &json!(address), 400, "M_INVALID_PARAM"));
    }
    for count in ["-1", "-9007199254740993", "9007199254740992", "18446744073709551616", &"9".repeat(4000)] {
        rows.push(written(&body, "send_attempt", count, 400, "M_INVALID_PARAM"));
    }
    for count in ["1.0", "1e3", "\"1\"", "true", "[]", "{}"] {
        rows.push(written(&body, "send_attempt", count, 400, "M_BAD_JSON"));
    }
    rows.push(with(&body, "send_attempt", &Value::Null, 400, "M_MISSING_PARAM"));
    for link in ["javascript:alert(1)", "data:text/html,x", "ftp://example.org/", "/relative", "", "http://"]
    {
        rows.push(with(&body, "next_link", &json!(link), 400, "M_INVALID_PARAM"));
    }
    rows.push(with(&body, "next_link", &json!(1), 400, "M_BAD_JSON"));
    for name in ["https://example.org", "example.org/path", "me@example.org", "example .org", ""] {
        rows.push(with(&body, "id_server", &json!(name), 400, "M_INVALID_PARAM"));
    }
    every_row_is_refused(&server, REQUEST_TOKEN, None, rows).await?;
    assert!(smtp.mails()?.is_empty());
    it_still_works(&smtp, &server, &alice).await?;
    Ok(server.end().await?)
}

#[tokio::test]
async fn what_is_no_proof_is_refused_and_adds_nothing() -> Story {
    let (smtp, server, alice, bob) = scene().await?;
    let proof = json!({ "sid": "a-sid", "client_secret": SECRET, "token": "a-wrong-token" });
    let mut rows = broken_bodies();
    rows.extend(opaque(&proof, "sid"));
    rows.extend(opaque(&proof, "client_secret"));
    rows.extend(mistyped(&proof, "token"));
    for token in ["", "a-wrong-token", "ß", &"x".repeat(60_000)] {
        rows.push(with(&proof, "token", &json!(token), 400, "M_TOKEN_INCORRECT"));
    }
    every_row_is_refused(&server, SUBMIT_TOKEN, None, rows).await?;

    let creds = json!({ "sid": "a-sid", "client_secret": SECRET });
    let mut rows = broken_bodies();
    for name in ["sid", "client_secret"] {
        for Row(what, creds, status, errcode) in opaque(&creds, name) {
            let body = [b"{\"three_pid_creds\":", creds.as_slice(), b"}"].concat();
            rows.push(Row(what, body, status, errcode));
        }
    }
    for creds in ["1", "[]", "\"sid\"", "true"] {
        rows.push(row(creds, format!("{{\"three_pid_creds\":{creds}}}"), 400, "M_BAD_JSON"));
    }
    rows.push(row("null", "{\"three_pid_creds\":null}", 400, "M_MISSING_PARAM"));
    rows.push(row(
        "an unknown session",
        json!({ "three_pid_creds": creds }).to_string(),
        403,
        "M_THREEPID_AUTH_FAILED",
    ));
    every_row_is_refused(&server, THREEPIDS, Some(&alice), rows).await?;
    for token in ["", "wrong", "threepid_guess", &"x".repeat(4000)] {
        let status = server.list(token).await?.status;
        assert_eq!(status, 401, "{token}");
    }
    for token in [&alice, &bob] {
        assert_eq!(server.list(token).await?.addresses(), Vec::<String>::new());
    }
    it_still_works(&smtp, &server, &alice).await?;
    Ok(server.end().await?)
}

#[tokio::test]
async fn a_body_that_never_ends_is_not_read_to_its_end() -> Story {
    let (smtp, server, alice, _) = scene().await?;
    for path in [REQUEST_TOKEN, SUBMIT_TOKEN, THREEPIDS, CONFIRM] {
        let huge = server.request(Method::POST, path, Some(&alice)).body("[".repeat(16 * 1024 * 1024));
        // The connection is closed while the client still sends; it may not get to read the answer.
        if let Ok(answer) = server.send(huge).await {
            assert_eq!((answer.status, answer.header("connection")), (413, "close"), "{path}");
        }
    }
    it_still_works(&smtp, &server, &alice).await?;
    Ok(server.end().await?)
}

#[tokio::test]
async fn the_largest_request_that_is_allowed_is_answered() -> Story {
    let (smtp, server, alice, _) = scene().await?;
    let secret = "x".repeat(255);
    let mut body = json!({ "client_secret": secret, "email": "a@example.org",
        "send_attempt": 9_007_199_254_740_991_u64, "more": "" });
    let missing = 64 * 1024 - body.to_string().len();
    body["more"] = json!("x".repeat(missing));
    assert_eq!(body.to_string().len(), 64 * 1024);
    let sid = server.post(REQUEST_TOKEN, None, &body).await?.sid()?;
    let link = smtp.wait_for_mail_to("a@example.org").await?.confirm_link()?;
    assert_eq!(server.confirm(&link).await?.status, 200);
    assert_eq!(server.add(&alice, &sid, &secret).await?.status, 200);
    Ok(server.end().await?)
}

#[tokio::test]
async fn every_spelling_of_a_mailbox_is_one_address() -> Story {
    let (smtp, server, alice, bob) = scene().await?;
    let in_use = (400, "M_THREEPID_IN_USE".to_owned());
    for (spelling, others, listed, sent_to) in [
        (
            " Carol@EXAMPLE.org ",
            &["carol@example.org", "CAROL@Example.Org"][..],
            "carol@example.org",
            "carol@example.org",
        ),
        (
            "dora@Bücher.example",
            &["dora@xn--bcher-kva.example", "Dora@BÜCHER.example"],
            "dora@bücher.example",
            "dora@xn--bcher-kva.example",
        ),
        ("eva@xn--fa-hia.example", &["EVA@faß.example"], "eva@faß.example", "eva@xn--fa-hia.example"),
        (
            "strauß@example.org",
            &["STRAUSS@example.org", "strauss@example.org"],
            "strauss@example.org",
            "strauss@example.org",
        ),
    ] {
        let sid = server.prove(&smtp, spelling, SECRET).await?;
        let mail =
            smtp.wait_for_mail(|mail| mail.confirm_link().is_ok_and(|link| link.contains(&sid))).await?;
        assert_eq!(mail.to, [sent_to], "{spelling}");
        for other in others {
            assert_eq!(server.request_token(other, SECRET, 1).await?.sid()?, sid, "{spelling} is {other}");
        }
        assert_eq!(server.add(&alice, &sid, SECRET).await?.status, 200, "{spelling}");
        assert!(server.list(&alice).await?.addresses().contains(&listed.to_owned()), "{spelling}");
        for other in others {
            assert_eq!(server.request_token(other, "secret-of-bob", 1).await?.error(), in_use, "{other}");
        }
    }
    assert_eq!(server.list(&alice).await?.addresses().len(), 4);
    assert_eq!(server.list(&bob).await?.addresses(), Vec::<String>::new());
    assert_eq!(smtp.mails()?.len(), 4);
    Ok(server.end().await?)
}

#[tokio::test]
async fn a_proof_is_spent_once_by_one_account() -> Story {
    let (smtp, server, alice, bob) = scene().await?;
    let failed = (403, "M_THREEPID_AUTH_FAILED".to_owned());
    let sid = server.prove(&smtp, "alice@example.org", SECRET).await?;
    assert_eq!(server.add(&bob, &sid, "secret-of-bob").await?.error(), failed, "he knows no secret of it");
    assert_eq!(server.add(&alice, &sid, SECRET).await?.status, 200);
    let listed = server.list(&alice).await?.json();
    assert_eq!(server.add(&alice, &sid, SECRET).await?.status, 200, "the same add again is harmless");
    assert_eq!(server.list(&alice).await?.json(), listed, "and changes nothing");
    assert_eq!(server.add(&bob, &sid, SECRET).await?.error(), failed, "it is spent for everybody else");
    assert_eq!(server.list(&bob).await?.addresses(), Vec::<String>::new());
    Ok(server.end().await?)
}

#[tokio::test]
async fn a_foreign_old_or_guessed_token_proves_nothing() -> Story {
    let (smtp, server, alice, _) = scene().await?;
    let incorrect = (400, "M_TOKEN_INCORRECT".to_owned());
    let sid = server.request_token("alice@example.org", SECRET, 1).await?.sid()?;
    let token = link_part(&smtp.wait_for_mail_to("alice@example.org").await?.confirm_link()?, "token")?;
    let other_sid = server.request_token("other@example.org", SECRET, 1).await?.sid()?;
    let other = link_part(&smtp.wait_for_mail_to("other@example.org").await?.confirm_link()?, "token")?;

    assert_eq!(server.submit(&sid, SECRET, &other).await?.error(), incorrect, "that of another session");
    assert_eq!(server.submit(&sid, "not-the-secret", &token).await?.error(), incorrect);
    assert_eq!(server.submit(&other_sid, SECRET, &other).await?.status, 200, "a mistake burns nothing");

    for guess in ["guess-one", "guess-two", "guess-three", "guess-four", "guess-five"] {
        assert_eq!(server.submit(&sid, SECRET, guess).await?.error(), incorrect);
    }
    assert_eq!(server.submit(&sid, SECRET, &token).await?.error(), incorrect, "five guesses burnt it");
    assert_eq!(server.add(&alice, &sid, SECRET).await?.status, 403);
    // The next wish is a new session, whose count begins anew.
    let fresh = server.request_token("alice@example.org", SECRET, 1).await?.sid()?;
    assert_ne!(fresh, sid);
    let of_fresh = |link: String| link.contains(&format!("sid={fresh}&"));
    let mail = smtp.wait_for_mail(|mail| mail.confirm_link().is_ok_and(of_fresh)).await?;
    assert_eq!(server.confirm(&mail.confirm_link()?).await?.status, 200);
    assert_eq!(server.add(&alice, &fresh, SECRET).await?.status, 200);
    Ok(server.end().await?)
}

#[tokio::test]
async fn a_token_past_its_time_proves_nothing_and_a_new_one_does() -> Story {
    let smtp = SmtpServer::start().await?;
    let server = Server::builder().mail_to(&smtp).text("lifetimes.token", "1s").start().await?;
    let sid = server.request_token("alice@example.org", SECRET, 1).await?.sid()?;
    let link = smtp.wait_for_mail_to("alice@example.org").await?.confirm_link()?;
    let token = link_part(&link, "token")?;
    // Only a session that has ended gives way to another one.
    let fresh = wait_until("the session's end", std::time::Duration::from_secs(30), || async {
        let next = server.request_token("alice@example.org", SECRET, 1).await?.sid()?;
        Ok((next != sid).then_some(next))
    });
    let fresh = fresh.await?;
    assert_eq!(server.confirm(&link).await?.status, 400);
    assert_eq!(server.submit(&sid, SECRET, &token).await?.error(), (400, "M_SESSION_EXPIRED".to_owned()));
    let strangers = server.submit(&sid, "not-the-secret", &token).await?;
    assert_eq!(strangers.error(), (400, "M_TOKEN_INCORRECT".to_owned()));
    assert_ne!(fresh, sid);
    Ok(server.end().await?)
}

#[tokio::test]
async fn the_same_request_many_times_at_once_sends_one_mail() -> Story {
    let (smtp, server, alice, _) = scene().await?;
    // No mail leaves before all have been answered, so that none is answered by a mail that was there.
    smtp.set_mode(SmtpMode::Refuse).await?;
    let ask = || server.request_token("alice@example.org", SECRET, 1);
    let answers = tokio::join!(ask(), ask(), ask(), ask(), ask(), ask(), ask(), ask());
    let (a, b, c, d, e, f, g, h) = answers;
    let mut sids = Vec::new();
    for answer in [a, b, c, d, e, f, g, h] {
        sids.push(answer?.sid()?);
    }
    sids.dedup();
    let [sid] = sids.as_slice() else { return Err(format!("one session: {sids:?}").into()) };
    smtp.set_mode(SmtpMode::Accept).await?;
    let mail = smtp.wait_for_mail_to("alice@example.org").await?;
    assert_eq!(server.confirm(&mail.confirm_link()?).await?.status, 200);
    assert_eq!(server.add(&alice, sid, SECRET).await?.status, 200);
    it_still_works(&smtp, &server, &alice).await?;
    assert_eq!(smtp.mails()?.len(), 2, "one, and one of the last check");
    Ok(server.end().await?)
}

#[tokio::test]
async fn of_two_who_add_one_address_at_once_exactly_one_has_it() -> Story {
    let (smtp, server, alice, bob) = scene().await?;
    for round in 0..5 {
        let address = format!("shared{round}@example.org");
        let hers = server.prove(&smtp, &address, "secret-of-alice").await?;
        let his = server.prove(&smtp, &address, "secret-of-bob").await?;
        let (first, second) = tokio::join!(
            server.add(&alice, &hers, "secret-of-alice"),
            server.add(&bob, &his, "secret-of-bob")
        );
        let mut outcomes = [first?.error(), second?.error()];
        outcomes.sort();
        let wanted = [(200, String::new()), (400, "M_THREEPID_IN_USE".to_owned())];
        assert_eq!(outcomes, wanted);
        let owners = [server.list(&alice).await?, server.list(&bob).await?];
        let count = owners.iter().filter(|list| list.addresses().contains(&address)).count();
        assert_eq!(count, 1);
    }
    Ok(server.end().await?)
}

#[tokio::test]
async fn of_two_who_spend_one_proof_at_once_exactly_one_does() -> Story {
    let (smtp, server, alice, bob) = scene().await?;
    for round in 0..5 {
        let address = format!("proof{round}@example.org");
        let sid = server.prove(&smtp, &address, SECRET).await?;
        let (first, second) = tokio::join!(server.add(&alice, &sid, SECRET), server.add(&bob, &sid, SECRET));
        let mut outcomes = [first?.status, second?.status];
        outcomes.sort_unstable();
        assert_eq!(outcomes[0], 200, "{outcomes:?}");
        assert!(matches!(outcomes[1], 400 | 403), "{outcomes:?}");
        let owners = [server.list(&alice).await?, server.list(&bob).await?];
        assert_eq!(owners.iter().filter(|list| list.addresses().contains(&address)).count(), 1);
    }
    Ok(server.end().await?)
}

#[tokio::test]
async fn the_same_add_many_times_at_once_is_one_address() -> Story {
    let (smtp, server, alice, _) = scene().await?;
    let sid = server.prove(&smtp, "alice@example.org", SECRET).await?;
    let add = || server.add(&alice, &sid, SECRET);
    let (a, b, c, d) = tokio::join!(add(), add(), add(), add());
    for answer in [a?, b?, c?, d?] {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(server.list(&alice).await?.addresses(), ["alice@example.org"]);
    Ok(server.end().await?)
}

/// A homeserver that knows one user and answers when it is let to.
async fn slow_homeserver()
-> Result<(String, &'static Semaphore, &'static Semaphore), Box<dyn Error + Send + Sync>> {
    let (asked, may_answer): (&Semaphore, &Semaphore) =
        (Box::leak(Box::new(Semaphore::new(0))), Box::leak(Box::new(Semaphore::new(0))));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer_slowly(stream, asked, may_answer));
        }
    });
    Ok((url, asked, may_answer))
}

async fn answer_slowly(mut stream: TcpStream, asked: &Semaphore, may_answer: &Semaphore) {
    let mut request = [0; 4096];
    let _ = stream.read(&mut request).await;
    asked.add_permits(1);
    let _ = may_answer.acquire().await;
    may_answer.add_permits(1);
    let body = r#"{"user_id":"@alice:example.org"}"#;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
}

#[tokio::test]
async fn a_server_told_to_stop_answers_every_request_that_it_has_begun() -> Story {
    const IN_FLIGHT: u32 = 24;
    let (homeserver, asked, may_answer) = slow_homeserver().await?;
    let smtp = SmtpServer::start().await?;
    let server = Server::builder()
        .mail_to(&smtp)
        .homeserver(&homeserver)
        .text("homeserver.remember", "0s")
        .start()
        .await?;
    let sid = server.prove(&smtp, "alice@example.org", SECRET).await?;
    // Waiting for the homeserver, each of them: reads, and one change.
    let server = std::sync::Arc::new(server);
    let mut requests = tokio::task::JoinSet::new();
    for number in 1..IN_FLIGHT {
        let server = std::sync::Arc::clone(&server);
        requests.spawn(async move { server.list(&format!("token-number-{number}")).await });
    }
    let adding = std::sync::Arc::clone(&server);
    requests.spawn(async move { adding.add("token-of-alice", &sid, SECRET).await });
    asked.acquire_many(IN_FLIGHT).await?.forget();

    server.ask_to_end();
    server.wait_for_log(&["stopping"]).await?;
    let refused = wait_until("closed doors", std::time::Duration::from_secs(10), || async {
        Ok(TcpStream::connect(server.base_url().trim_start_matches("http://")).await.err())
    });
    assert_eq!(refused.await?.kind(), std::io::ErrorKind::ConnectionRefused);
    may_answer.add_permits(1);
    while let Some(answer) = requests.join_next().await {
        let answer = answer??;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let mut server = std::sync::Arc::into_inner(server).ok_or("nobody else holds the server")?;
    assert_eq!(server.terminate().await?, 0);

    // What was answered has been done.
    server.launch().await?;
    assert_eq!(server.list("token-of-alice").await?.addresses(), ["alice@example.org"]);
    Ok(server.end().await?)
}

/// The start fails with one clear line that holds `parts`, and with that exit status.
async fn assert_refuses_to_start(server: &Server, status: i32, parts: &[&str]) -> Story {
    let (ended, said) = server.run(&["serve"]).await?;
    assert_refused(ended, &said, status, parts);
    Ok(())
}

fn assert_refused(ended: i32, said: &str, status: i32, parts: &[&str]) {
    // Before it, there may be warnings about settings, and lines of log, which are JSON.
    let is_about_the_end = |line: &&str| !line.starts_with('{') && !line.starts_with("threepid: warning: ");
    let lines: Vec<&str> = said.lines().filter(is_about_the_end).collect();
    assert_eq!(ended, status, "{said}");
    assert_eq!(lines.len(), 1, "one line: {said}");
    let line = lines.concat();
    assert!(line.starts_with("threepid: ") && parts.iter().all(|part| line.contains(part)), "{line}");
}

#[tokio::test]
async fn a_full_disk_at_start_is_one_clear_line() -> Story {
    for kibibytes in [4, 32] {
        let server = Server::builder().prepare()?;
        let (status, said) = server.run_on_a_full_disk(kibibytes, &["serve"]).await?;
        assert_refused(status, &said, 1, &["threepid.db cannot be written: make room on its disk"]);
        // With room again, it starts on what is there.
        let mut server = server;
        server.launch().await?;
        server.end().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_database_that_cannot_be_used_is_one_clear_line_and_stays_as_it_is() -> Story {
    let server = Server::builder().text("database.url", "sqlite:///proc/threepid.db").prepare()?;
    assert_refuses_to_start(&server, 1, &["/proc/threepid.db cannot be opened"]).await?;

    let server = Server::builder().prepare()?;
    let database = server.folder().join("threepid.db");
    std::fs::write(&database, "a diary, and no database")?;
    assert_refuses_to_start(&server, 1, &["threepid.db is no SQLite database"]).await?;
    assert_eq!(std::fs::read_to_string(&database)?, "a diary, and no database");

    std::fs::remove_file(&database)?;
    assert_eq!(server.run(&["migrate"]).await?.0, 0);
    let read_only = format!("sqlite://{}?mode=ro", database.display());
    let (status, said) = server.run_with(&["serve"], &[("THREEPID_DATABASE__URL", &read_only)]).await?;
    assert_refused(status, &said, 1, &["threepid.db"]);
    Ok(())
}

#[tokio::test]
async fn a_key_that_is_not_the_databases_is_one_clear_line() -> Story {
    let mut server = Server::builder().prepare()?;
    server.launch().await?;
    assert_eq!(server.terminate().await?, 0);
    let (status, said) =
        server.run_with(&["serve"], &[("THREEPID_SERVER_KEY__VALUE", &"ab".repeat(32))]).await?;
    assert_refused(status, &said, 1, &["key"]);
    assert!(!said.contains("abababab"), "{said}");
    server.launch().await?;
    Ok(server.end().await?)
}

#[tokio::test]
async fn a_port_that_is_taken_is_one_clear_line() -> Story {
    let mut server = Server::builder().prepare()?;
    server.launch().await?;
    assert_refuses_to_start(&server, 1, &["cannot listen on 127.0.0.1"]).await?;
    Ok(server.end().await?)
}
