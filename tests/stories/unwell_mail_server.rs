//! Mail servers that refuse, defer, hang and drop: requests are answered at once, and no mail is lost.

use std::time::{Duration, Instant};

use threepid_tests::peers::{SmtpMode, SmtpServer};
use threepid_tests::server::{Server, ServerBuilder};

use crate::Story;

/// How long one mail may take; whoever waited for the mail server would wait this long.
const SEND_TIMEOUT: Duration = Duration::from_secs(4);
/// What an answer may take at most, on a machine that does other things, too.
const AT_ONCE: Duration = Duration::from_secs(3);

fn impatient(smtp: &SmtpServer) -> ServerBuilder {
    let timeout = format!("{}s", SEND_TIMEOUT.as_secs());
    Server::builder()
        .mail_to(smtp)
        .text("mail.smtp.timeout", &timeout)
        .text("mail.smtp.send_timeout", &timeout)
        .text("relay.lease", "5s")
}

async fn answered_at_once(
    server: &Server,
    email: &str,
) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let started = Instant::now();
    let sid = server.request_token(email, "secret-of-alice", 1).await?.sid()?;
    let took = started.elapsed();
    assert!(took < AT_ONCE, "an answer waits for no mail server: {took:?}");
    Ok(sid)
}

/// The story of a fault that passes.
async fn the_mail_comes_once_after(mode: SmtpMode) -> Story {
    let smtp = SmtpServer::start().await?;
    let server = impatient(&smtp).start().await?;
    smtp.set_mode(mode).await?;
    let sid = answered_at_once(&server, "alice@example.org").await?;
    if mode != SmtpMode::Hang {
        let line = server.wait_for_log(&["will be tried again"]).await?;
        assert!(line.contains("a…@example.org"), "{line}");
    } else {
        smtp.wait_for_faults(1).await?;
    }
    assert!(smtp.mails()?.is_empty());
    smtp.set_mode(SmtpMode::Accept).await?;
    let mail = smtp.wait_for_mail_to("alice@example.org").await?;
    assert_eq!(server.confirm(&mail.confirm_link()?).await?.status, 200);
    server.wait_for_log(&["delivered to the next hop", "a…@example.org"]).await?;
    let alice = server.account("@alice:example.org").await?;
    assert_eq!(server.add(&alice, &sid, "secret-of-alice").await?.status, 200);
    // Whatever was owed would have come before this.
    server.prove(&smtp, "bob@example.org", "secret-of-bob").await?;
    assert_eq!(smtp.mails()?.len(), 2, "one each");
    Ok(server.end().await?)
}

#[tokio::test]
async fn the_mail_comes_once_after_a_mail_server_refused_connections() -> Story {
    the_mail_comes_once_after(SmtpMode::Refuse).await
}

#[tokio::test]
async fn the_mail_comes_once_after_a_mail_server_deferred_the_recipient() -> Story {
    the_mail_comes_once_after(SmtpMode::DeferRecipient).await
}

#[tokio::test]
async fn the_mail_comes_once_after_a_mail_server_deferred_the_message() -> Story {
    the_mail_comes_once_after(SmtpMode::DeferMessage).await
}

#[tokio::test]
async fn the_mail_comes_once_after_a_mail_server_hung() -> Story {
    the_mail_comes_once_after(SmtpMode::Hang).await
}

#[tokio::test]
async fn the_mail_comes_once_after_a_mail_server_dropped_the_connection() -> Story {
    the_mail_comes_once_after(SmtpMode::Drop).await
}

#[tokio::test]
async fn a_mail_server_that_takes_a_mail_without_saying_so_gets_it_again_under_the_same_id() -> Story {
    let smtp = SmtpServer::start().await?;
    let server = impatient(&smtp).start().await?;
    smtp.set_mode(SmtpMode::KeepAndDrop).await?;
    answered_at_once(&server, "alice@example.org").await?;
    server.wait_for_log(&["will be tried again"]).await?;
    smtp.set_mode(SmtpMode::Accept).await?;
    server.wait_for_log(&["delivered to the next hop"]).await?;
    let mails = smtp.mails()?;
    assert!(mails.len() >= 2, "the unanswered one and its repetition");
    let ids: std::collections::BTreeSet<_> = mails.iter().map(|mail| mail.header("message-id")).collect();
    assert_eq!(ids.len(), 1, "readers drop the second of two with one id: {ids:?}");
    Ok(server.end().await?)
}

#[tokio::test]
async fn a_recipient_that_a_mail_server_rejects_is_given_up_and_told_in_the_log_without_the_address() -> Story
{
    let smtp = SmtpServer::start().await?;
    let server = impatient(&smtp).start().await?;
    smtp.set_mode(SmtpMode::RejectRecipient).await?;
    answered_at_once(&server, "alice@example.org").await?;
    let line = server.wait_for_log(&["kept as dead"]).await?;
    assert!(line.contains("a…@example.org") && line.contains("550"), "{line}");
    smtp.set_mode(SmtpMode::Accept).await?;
    // A retry would have been due before this one.
    server.prove(&smtp, "bob@example.org", "secret-of-bob").await?;
    server.prove(&smtp, "carol@example.org", "secret-of-carol").await?;
    assert!(smtp.mails()?.iter().all(|mail| mail.to != ["alice@example.org"]));
    assert_eq!(smtp.faults().await?, 1, "it was tried once");
    // A new wish is a new mail.
    server.request_token("alice@example.org", "secret-of-alice", 2).await?.sid()?;
    smtp.wait_for_mail_to("alice@example.org").await?;
    Ok(server.end().await?)
}

#[tokio::test]
async fn an_owed_mail_survives_a_power_cut_before_and_during_its_delivery() -> Story {
    let smtp = SmtpServer::start().await?;
    let mut server = impatient(&smtp).start().await?;
    let alice = server.account("@alice:example.org").await?;
    smtp.set_mode(SmtpMode::Refuse).await?;
    let sid = answered_at_once(&server, "alice@example.org").await?;
    server.kill()?;
    smtp.set_mode(SmtpMode::Hang).await?;
    server.launch().await?;
    // Now it is being delivered, to a server that says nothing.
    smtp.wait_for_faults(1).await?;
    server.kill()?;
    assert!(smtp.mails()?.is_empty());
    smtp.set_mode(SmtpMode::Accept).await?;
    server.launch().await?;
    let mail = smtp.wait_for_mail_to("alice@example.org").await?;
    assert_eq!(server.confirm(&mail.confirm_link()?).await?.status, 200);
    server.kill()?;
    server.launch().await?;
    assert_eq!(server.add(&alice, &sid, "secret-of-alice").await?.status, 200, "so does a proof");
    server.kill()?;
    server.launch().await?;
    assert_eq!(server.list(&alice).await?.addresses(), ["alice@example.org"], "and so does an address");
    assert_eq!(smtp.mails()?.len(), 1);
    Ok(server.end().await?)
}

#[tokio::test]
async fn a_mail_that_comes_too_late_is_not_sent() -> Story {
    let smtp = SmtpServer::start().await?;
    let server = impatient(&smtp).text("lifetimes.token", "1s").start().await?;
    smtp.set_mode(SmtpMode::Refuse).await?;
    answered_at_once(&server, "alice@example.org").await?;
    server.wait_for_log(&["expired before it could be delivered"]).await?;
    smtp.set_mode(SmtpMode::Accept).await?;
    server.request_token("bob@example.org", "secret-of-bob", 1).await?.sid()?;
    smtp.wait_for_mail_to("bob@example.org").await?;
    assert_eq!(smtp.mails()?.len(), 1);
    Ok(server.end().await?)
}
