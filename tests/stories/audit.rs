//! What the operator is told of contacts' changes, and what the log says of them.

use reqwest::Method;
use serde_json::{Value, json};
use threepid_tests::peers::SmtpServer;
use threepid_tests::server::{Server, THREEPIDS};

use crate::Story;

#[tokio::test]
async fn each_change_is_told_to_the_operator_whole_and_logged_masked() -> Story {
    let smtp = SmtpServer::builder().start().await?;
    let server = Server::builder().mail_to(&smtp).start().await?;
    let alice = server.account("@alice:example.org").await?;
    let bob = server.account("@bob:example.org").await?;
    let (address, secret) = ("alice.liddell@example.org", "the-secret-of-alice");
    let sid = server.prove(&smtp, address, secret).await?;
    let creds = json!({ "three_pid_creds": { "sid": sid, "client_secret": secret } });
    for _ in 0..2 {
        let add = server.request(Method::POST, THREEPIDS, Some(&alice)).header("x-request-id", "audited-1");
        assert_eq!(server.send(add.json(&creds)).await?.status, 200);
    }
    let delete = json!({ "medium": "email", "address": address });
    for (token, id) in [(&bob, "audited-2"), (&alice, "audited-3"), (&alice, "audited-4")] {
        let to = format!("{THREEPIDS}/delete");
        let delete = server.request(Method::POST, &to, Some(token)).header("x-request-id", id).json(&delete);
        assert_eq!(server.send(delete).await?.status, 200);
    }

    let (status, said) = server.run(&["audit", "--json", "--user", "@alice:example.org"]).await?;
    assert_eq!(status, 0, "{said}");
    let told: Vec<Value> = said.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let told: Vec<_> = told
        .iter()
        .map(|entry| {
            let text = |name: &str| entry[name].as_str().unwrap_or_default();
            assert_eq!((text("medium"), text("address"), &entry["server"]), ("email", address, &Value::Null));
            assert!(text("at").starts_with("20") && text("at").ends_with('Z'), "{entry}");
            (text("action"), text("door"), text("reference"))
        })
        .collect();
    let expected = [("added", "account/3pid", "audited-1"), ("removed", "account/3pid/delete", "audited-3")];
    assert_eq!(told, expected);

    for (arguments, lines) in [
        (&["--address", "Alice.Liddell@example.ORG"][..], 2),
        (&["--limit", "1"], 1),
        (&["--user", "@bob:example.org"], 0),
        (&["--address", "nobody@example.org"], 0),
    ] {
        let (status, said) = server.run(&[&["audit"], arguments].concat()).await?;
        assert_eq!((status, said.lines().count()), (0, lines), "{arguments:?}: {said}");
        assert!(said.lines().all(|line| line.contains(address)), "{said}");
    }

    for (said, action) in [("a contact was changed", "added"), ("a contact is not there any more", "removed")]
    {
        server.wait_for_log(&[said, action, "@alice:example.org", "audited-"]).await?;
    }
    assert!(!server.log()?.contains("alice.liddell"), "the log names nobody's address");
    Ok(())
}
