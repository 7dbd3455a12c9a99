//! With `hide_in_use`, whoever asks is told nothing, and whoever has the address is.

use serde_json::json;
use threepid_tests::peers::{CapturedMail, SmsGateway, SmtpServer};
use threepid_tests::server::{Answer, CONFIRM, Server};

use crate::Story;

const REQUEST_SMS: &str = "/_matrix/client/v3/account/3pid/msisdn/requestToken";
const ADD: &str = "/_matrix/client/v3/account/3pid/add";
const NUMBER: &str = "447700900813";
const TAKEN: &str = "taken@example.org";
const FREE: &str = "still-free@example.org";
const NOTICE: &str = "Your email address at Example Chat is in use already";

/// What a client can compare: the status and the body, without the sid.
fn seen(answer: &Answer, sid: &str) -> (u16, String) {
    (answer.status, answer.json().to_string().replace(sid, "<sid>"))
}

/// Everything that somebody does who cannot read what is sent to the address.
async fn tries(
    server: &Server,
    token: &str,
    address: &str,
) -> Result<Vec<(u16, String)>, Box<dyn std::error::Error + Send + Sync>> {
    let secret = "secret-of-a-stranger";
    let opened = server.request_token(address, secret, 1).await?;
    let sid = opened.sid()?;
    let mut all = vec![seen(&opened, &sid)];
    for attempt in [1, 2, 2] {
        all.push(seen(&server.request_token(address, secret, attempt).await?, &sid));
    }
    all.push(seen(&server.add(token, &sid, secret).await?, &sid));
    let body = json!({ "sid": sid, "client_secret": secret });
    all.push(seen(&server.post(ADD, Some(token), &body).await?, &sid));
    for _ in 0..6 {
        all.push(seen(&server.submit(&sid, secret, "wrong").await?, &sid));
    }
    all.push(seen(&server.add(token, &sid, secret).await?, &sid));
    Ok(all)
}

#[tokio::test]
async fn whoever_asks_is_told_nothing_and_whoever_has_the_address_is_told_once() -> Story {
    let smtp = SmtpServer::start().await?;
    let mut server = Server::builder()
        .mail_to(&smtp)
        .set("hide_in_use", true)
        .text("reauthentication", "none")
        .text("mail.app_name", "Example Chat")
        .start()
        .await?;
    let holder = server.account("@holder:example.org").await?;
    let stranger = server.account("@stranger:example.org").await?;
    let sid = server.prove(&smtp, TAKEN, "secret-of-the-holder").await?;
    assert_eq!(server.add(&holder, &sid, "secret-of-the-holder").await?.status, 200);

    let (taken, free) = (tries(&server, &stranger, TAKEN).await?, tries(&server, &stranger, FREE).await?);
    assert_eq!(taken, free);
    assert!(taken.iter().all(|(_, body)| !body.contains("IN_USE")), "{taken:?}");
    let statuses: Vec<_> = taken.iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 403, 400, 400, 400, 400, 400, 400, 400, 403]);

    let is_notice = |mail: &CapturedMail| mail.to == [TAKEN] && mail.header("subject") == Some(NOTICE);
    let notice = smtp.wait_for_mail(is_notice).await?;
    server.wait_for_log(&["not sent: its recipient was told the same lately", "in_use_mail"]).await?;
    let (text, html) = (notice.text.clone().unwrap_or_default(), notice.html.clone().unwrap_or_default());
    for body in [text.replace('\n', " "), html] {
        assert!(
            body.contains("nothing was changed") && !body.contains("://") && !body.contains("token"),
            "{body}"
        );
    }

    // A restart forgets neither that the session proves nothing nor that the holder was told.
    let sid = server.request_token(TAKEN, "another-secret", 1).await?.sid()?;
    server.kill()?;
    server.launch().await?;
    assert_eq!(server.request_token(TAKEN, "another-secret", 1).await?.sid()?, sid);
    let page = server.confirm(&format!("{}?sid={sid}&token=wrong", server.url(CONFIRM))).await?;
    assert!(page.text.contains("cannot be used"), "{}", page.text);
    let to_holder = smtp.mails()?.into_iter().filter(|mail| mail.to == [TAKEN]).count();
    assert_eq!(to_holder, 2, "the holder's own proof, and one notice");
    Ok(server.end().await?)
}

#[tokio::test]
async fn whoever_has_a_number_is_told_by_sms_without_a_code() -> Story {
    let gateway = SmsGateway::start().await?;
    let server = Server::builder().sms_to(&gateway).set("hide_in_use", true).start().await?;
    let holder = server.account("@holder:example.org").await?;
    let ask = |secret: &str| json!({ "client_secret": secret, "country": "GB", "phone_number": "07700900813", "send_attempt": 1 });
    let first = server.post(REQUEST_SMS, None, &ask("secret-of-the-holder")).await?;
    let sid = first.sid()?;
    let code = gateway.wait_for_sms_to(NUMBER).await?.code()?;
    assert_eq!(server.submit(&sid, "secret-of-the-holder", &code).await?.status, 200);
    assert_eq!(server.add(&holder, &sid, "secret-of-the-holder").await?.status, 200);

    let second = server.post(REQUEST_SMS, None, &ask("secret-of-a-stranger")).await?;
    assert_eq!(seen(&second, &second.sid()?), seen(&first, &sid), "as when the number was free");
    let notice = gateway.wait_for_sms(|sms| sms.text.contains("nothing was changed")).await?;
    assert_eq!(notice.to, [NUMBER]);
    assert!(notice.code().is_err() && !notice.text.contains("://"), "{}", notice.text);
    Ok(server.end().await?)
}
