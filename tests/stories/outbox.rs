//! Messages that died wait for an operator, who looks, tries again, and drops.

use std::time::Duration;

use sea_orm::ConnectionTrait as _;
use serde_json::Value;
use threepid_tests::peers::{PeerError, SmtpMode, SmtpServer, wait_until};
use threepid_tests::server::Server;

use crate::Story;

const SOON: Duration = Duration::from_secs(30);

/// The ids of the dead messages, once there are so many.
async fn dead(server: &Server, count: usize) -> Result<Vec<String>, PeerError> {
    wait_until("the dead messages", SOON, || async {
        let (status, said) = server.run(&["outbox", "list", "--json"]).await?;
        assert_eq!(status, 0, "{said}");
        let ids: Vec<String> = said
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok()?["id"].as_str().map(str::to_owned))
            .collect();
        Ok((ids.len() == count).then_some(ids))
    })
    .await
}

#[tokio::test]
async fn an_operator_looks_at_dead_mails_tries_one_again_and_drops_another() -> Story {
    let smtp = SmtpServer::start().await?;
    let server = Server::builder().mail_to(&smtp).start().await?;
    assert_eq!(server.run(&["outbox", "list"]).await?, (0, String::new()), "nothing is dead");
    smtp.set_mode(SmtpMode::RejectRecipient).await?;
    for address in ["alice.liddell@example.org", "the.hatter@example.org"] {
        server.request_token(address, "a-secret-of-theirs", 1).await?.sid()?;
        // One after the other, so that their order is known.
        server.wait_for_log(&["kept as dead", &address[..1]]).await?;
    }
    let ids = dead(&server, 2).await?;
    let [alices, hatters] = &ids[..] else { return Err(format!("{ids:?}").into()) };

    // Masked, unless asked for whole.
    let (_, list) = server.run(&["outbox", "list"]).await?;
    assert!(list.lines().count() == 2 && list.contains("550"), "{list}");
    assert!(!list.contains("alice.liddell") && list.contains("a…@example.org"), "{list}");
    let (_, whole) = server.run(&["outbox", "list", "--whole", "--state", "all", "--limit", "1"]).await?;
    assert!(whole.lines().count() == 1 && whole.contains("alice.liddell@example.org"), "{whole}");
    let (status, shown) = server.run(&["outbox", "show", alices]).await?;
    assert!(
        status == 0 && shown.contains("state: dead\n") && shown.contains("kind: validation_mail\n"),
        "{shown}"
    );
    let (status, said) = server.run(&["outbox", "show", "nobody"]).await?;
    assert_eq!((status, said.as_str()), (1, "threepid: nobody: there is no such message\n"));

    // Once the mail server takes it, the server that runs sends it.
    smtp.set_mode(SmtpMode::Accept).await?;
    let (status, said) = server.run(&["outbox", "retry", alices]).await?;
    assert!(status == 0 && said.contains("is tried again now"), "{said}");
    let mail = smtp.wait_for_mail_to("alice.liddell@example.org").await?;
    assert_eq!(server.confirm(&mail.confirm_link()?).await?.status, 200);
    let (status, said) = server.run(&["outbox", "drop", hatters]).await?;
    assert!(status == 0 && said.contains("its user can ask for another"), "{said}");
    dead(&server, 0).await?;

    // What is settled or gone is left alone, and said; what can be done is done.
    let (status, said) = server.run(&["outbox", "retry", alices, hatters]).await?;
    assert_eq!(status, 1, "{said}");
    assert!(said.contains("it is settled: sent") && said.contains("there is no such message"), "{said}");
    assert!(said.contains("2 of 2 were left as they are"), "{said}");
    assert_eq!(smtp.mails()?.len(), 1, "nothing else was sent");
    Ok(server.end().await?)
}

#[tokio::test]
async fn a_mail_whose_link_has_ended_is_not_tried_again() -> Story {
    let smtp = SmtpServer::start().await?;
    let server = Server::builder().mail_to(&smtp).start().await?;
    smtp.set_mode(SmtpMode::RejectRecipient).await?;
    server.request_token("alice@example.org", "a-secret-of-theirs", 1).await?.sid()?;
    let id = dead(&server, 1).await?.remove(0);
    // An hour later.
    let database = format!("sqlite://{}", server.folder().join("threepid.db").display());
    let database = sea_orm::Database::connect(database).await?;
    database.execute_unprepared("UPDATE outbox SET not_after = 1").await?;
    database.close().await?;
    let (status, said) = server.run(&["outbox", "retry", &id]).await?;
    assert_eq!(status, 1, "{said}");
    assert!(said.contains("its link has ended"), "{said}");
    Ok(server.end().await?)
}

#[tokio::test]
async fn what_has_ended_leaves_the_database_while_the_server_runs() -> Story {
    let smtp = SmtpServer::start().await?;
    let server = Server::builder()
        .mail_to(&smtp)
        .text("housekeeping.every", "200ms")
        .text("housekeeping.settled_messages", "0s")
        .text("housekeeping.audit_entries", "0s")
        .start()
        .await?;
    let alice = server.account("@alice:example.org").await?;
    let sid = server.prove(&smtp, "alice@example.org", "secret-of-alice").await?;
    assert_eq!(server.add(&alice, &sid, "secret-of-alice").await?.status, 200);
    for (what, list) in
        [("settled_messages", &["outbox", "list", "--state", "all"][..]), ("audit_entries", &["audit"])]
    {
        server.wait_for_log(&["what had ended was removed", what]).await?;
        assert_eq!(server.run(list).await?, (0, String::new()), "{what}");
    }
    // The session has not ended: the same request again is the same answer.
    assert_eq!(server.add(&alice, &sid, "secret-of-alice").await?.status, 200);
    assert_eq!(server.list(&alice).await?.addresses(), ["alice@example.org"]);
    Ok(server.end().await?)
}
