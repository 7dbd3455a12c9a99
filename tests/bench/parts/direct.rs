//! The reference of the relay: lettre alone, feeding the same mail server over as many connections.

use lettre::Message;
use lettre::message::{MultiPart, SinglePart};
use lettre::transport::smtp::client::AsyncSmtpConnection;
use lettre::transport::smtp::extension::ClientId;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{number, tell};
use crate::Outcome;

/// As long as what the program sends.
const TEXT: &str = "Somebody wants to add this address to an account. If that is you, open this link:\r\n\r\n\
    http://127.0.0.1:12345/_threepid/confirm?sid=0123456789012345678901234567890123456789012&token=01234567890123456789012345678901\r\n\r\n\
    It is good for one hour. If it is not you, there is nothing to do: without the link nothing happens.\r\n";

pub(super) async fn run(settings: &Value) -> Outcome<()> {
    let (port, mails) = (u16::try_from(number(settings, "port")?)?, number(settings, "mails")?);
    let connections = number(settings, "connections")?;
    let mut tasks = JoinSet::new();
    for task in 0..connections {
        tasks.spawn(async move {
            let mut connection = AsyncSmtpConnection::connect_tokio1(
                ("127.0.0.1", port),
                None,
                &ClientId::default(),
                None,
                None,
            )
            .await?;
            for mail in (task..mails).step_by(usize::try_from(connections).unwrap_or(1)) {
                let letter = letter(mail)?;
                connection.send(letter.envelope(), &letter.formatted()).await?;
            }
            connection.quit().await?;
            Outcome::Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    tell(&json!({ "mails": mails }));
    Ok(())
}

fn letter(number: u64) -> Outcome<Message> {
    let html = format!("<!doctype html><html><body><p>{}</p></body></html>", TEXT.repeat(3));
    let parts = MultiPart::alternative()
        .singlepart(SinglePart::plain(TEXT.to_owned()))
        .singlepart(SinglePart::html(html));
    let message = Message::builder()
        .from("Example <noreply@bench.example>".parse()?)
        .to(format!("relay-{number}@bench.example").parse()?)
        .subject("Confirm your address");
    Ok(message.multipart(parts)?)
}
