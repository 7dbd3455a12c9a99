//! What is kept about an account is told to whoever operates the server, and no more and no less.

use serde_json::{Value, json};
use threepid_tests::peers::SmtpServer;
use threepid_tests::server::{Server, THREEPIDS};

use crate::Story;

#[tokio::test]
async fn everything_that_is_kept_about_an_account_is_shown_and_nothing_of_anothers() -> Story {
    let smtp = SmtpServer::start().await?;
    let server = Server::builder().mail_to(&smtp).start().await?;
    for (user, address) in
        [("@alice:example.org", "alice@example.org"), ("@bob:example.org", "bob@example.org")]
    {
        let token = server.account(user).await?;
        for (address, secret) in
            [(address.to_owned(), "secret-of-home"), (format!("old.{address}"), "secret-of-old")]
        {
            let sid = server.prove(&smtp, &address, secret).await?;
            assert_eq!(server.add(&token, &sid, secret).await?.status, 200);
        }
        let body = json!({ "medium": "email", "address": format!("old.{address}") });
        assert_eq!(server.post(&format!("{THREEPIDS}/delete"), Some(&token), &body).await?.status, 200);
    }

    let (status, said) = server.run(&["account", "show", "@alice:example.org", "--json"]).await?;
    assert_eq!(status, 0, "{said}");
    let line = said.lines().find(|line| line.starts_with('{')).ok_or("an object")?;
    let kept: Value = serde_json::from_str(line)?;
    assert_eq!(kept["user_id"], "@alice:example.org");
    assert_eq!(kept["is_local_account"], true);
    let texts = |list: &str, field: &str| -> Vec<String> {
        let items = kept[list].as_array().into_iter().flatten();
        items.map(|item| item[field].as_str().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(kept["access_tokens"].as_array().map(Vec::len), Some(1), "{line}");
    assert_eq!(texts("threepids", "address"), ["alice@example.org"]);
    assert_eq!(texts("sessions", "address"), ["alice@example.org", "old.alice@example.org"]);
    assert_eq!(texts("sessions", "consumed_by"), ["@alice:example.org"; 2]);
    assert_eq!(texts("messages", "address"), ["alice@example.org", "old.alice@example.org"]);
    assert_eq!(texts("messages", "state"), ["sent"; 2]);
    assert_eq!(texts("audit", "action"), ["added", "added", "removed"]);
    assert!(!line.contains("bob") && !line.contains("secret-of"), "{line}");

    let (status, said) = server.run(&["account", "show", "@alice:example.org"]).await?;
    assert!(status == 0 && said.contains("1 contacts\n2 validation sessions\n"), "{said}");
    assert!(!said.contains("alice@example.org"), "{said}");
    let (_, nobody) = server.run(&["account", "show", "@nobody:example.org"]).await?;
    assert!(nobody.lines().all(|line| line.starts_with("0 ")), "{nobody}");
    Ok(server.end().await?)
}
