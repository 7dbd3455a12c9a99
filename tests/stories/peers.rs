//! Each real peer does what the stories rely on, proven without the server.

use std::error::Error;
use std::time::Duration;

use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};
use threepid_tests::peers::{SmtpMode, SmtpSecurity, SmtpServer, Synapse};

type Story = Result<(), Box<dyn Error + Send + Sync>>;
type Transport = AsyncSmtpTransport<Tokio1Executor>;

fn message(to: &str) -> Result<Message, Box<dyn Error + Send + Sync>> {
    let text = "Grüße! Open this page to confirm:\r\n\
                http://localhost:8090/_threepid/confirm?sid=abcdefghijklmnopqrstuvwxyz0123456789&token=0123456789";
    Ok(Message::builder()
        .from("Accounts <accounts@example.org>".parse()?)
        .to(to.parse()?)
        .subject("Bestätigen Sie Ihre Adresse")
        .multipart(lettre::message::MultiPart::alternative_plain_html(
            text.to_owned(),
            "<p>Grüße</p>".to_owned(),
        ))?)
}

fn transport(server: &SmtpServer) -> Transport {
    Transport::builder_dangerous("127.0.0.1").port(server.port()).build()
}

fn trusting(server: &SmtpServer) -> Result<TlsParameters, Box<dyn Error + Send + Sync>> {
    let ca = Certificate::from_pem(&std::fs::read(server.ca().certificate())?)?;
    Ok(TlsParameters::builder("localhost".to_owned()).add_root_certificate(ca).build()?)
}

#[tokio::test]
async fn a_mail_sent_over_starttls_with_a_login_is_read_back_with_its_link() -> Story {
    let server =
        SmtpServer::builder().security(SmtpSecurity::StartTls).login("mailer", "secret").start().await?;
    let sender = Transport::builder_dangerous("127.0.0.1")
        .port(server.port())
        .tls(Tls::Required(trusting(&server)?))
        .credentials(Credentials::new("mailer".to_owned(), "secret".to_owned()))
        .build();
    sender.send(message("alice@example.org")?).await?;

    let mail = server.wait_for_mail_to("alice@example.org").await?;
    assert!(mail.tls, "the mail came over TLS");
    assert!(mail.authenticated, "the sender had logged in");
    assert_eq!(mail.from, "accounts@example.org");
    assert_eq!(mail.header("subject"), Some("Bestätigen Sie Ihre Adresse"));
    assert!(mail.text.as_deref().is_some_and(|text| text.starts_with("Grüße!")));
    assert_eq!(mail.html.as_deref().map(str::trim), Some("<p>Grüße</p>"));
    assert_eq!(
        mail.confirm_link()?,
        "http://localhost:8090/_threepid/confirm?sid=abcdefghijklmnopqrstuvwxyz0123456789&token=0123456789",
    );
    Ok(())
}

#[tokio::test]
async fn a_mail_sent_over_implicit_tls_with_a_login_is_read_back() -> Story {
    let server = SmtpServer::builder().security(SmtpSecurity::Tls).login("mailer", "secret").start().await?;
    let sender = Transport::builder_dangerous("127.0.0.1")
        .port(server.port())
        .tls(Tls::Wrapper(trusting(&server)?))
        .credentials(Credentials::new("mailer".to_owned(), "secret".to_owned()))
        .build();
    sender.send(message("bob@example.org")?).await?;

    let mail = server.wait_for_mail_to("bob@example.org").await?;
    assert!(mail.tls && mail.authenticated, "TLS and login are seen");
    Ok(())
}

#[tokio::test]
async fn the_mail_server_takes_nothing_without_starttls_or_with_a_wrong_password() -> Story {
    let server =
        SmtpServer::builder().security(SmtpSecurity::StartTls).login("mailer", "secret").start().await?;
    let plain = transport(&server).send(message("carol@example.org")?).await;
    assert!(plain.is_err_and(|error| error.is_permanent()), "plain text is refused for good");
    let wrong = Transport::builder_dangerous("127.0.0.1")
        .port(server.port())
        .tls(Tls::Required(trusting(&server)?))
        .credentials(Credentials::new("mailer".to_owned(), "guess".to_owned()))
        .build();
    let wrong = wrong.send(message("carol@example.org")?).await;
    assert!(wrong.is_err_and(|error| error.is_permanent()), "a wrong password is refused for good");
    assert!(server.mails()?.is_empty(), "nothing was kept");
    Ok(())
}

#[tokio::test]
async fn the_mail_server_misbehaves_as_told_and_recovers() -> Story {
    let server = SmtpServer::start().await?;
    // One pooled connection for all: a mode holds on open connections, too.
    let sender = transport(&server);
    sender.send(message("first@example.org")?).await?;

    for mode in [SmtpMode::DeferRecipient, SmtpMode::DeferMessage] {
        server.set_mode(mode).await?;
        let outcome = sender.send(message("x@example.org")?).await;
        assert!(outcome.is_err_and(|error| error.is_transient()), "{mode:?} is a 4xx");
    }
    server.set_mode(SmtpMode::RejectRecipient).await?;
    let outcome = sender.send(message("x@example.org")?).await;
    assert!(outcome.is_err_and(|error| error.is_permanent()), "a rejection is a 5xx");
    server.set_mode(SmtpMode::Hang).await?;
    // lettre's own timeout covers connecting only.
    let outcome =
        tokio::time::timeout(Duration::from_millis(500), sender.send(message("x@example.org")?)).await;
    assert!(outcome.is_err(), "a hanging server never answers");
    for mode in [SmtpMode::Drop, SmtpMode::Refuse] {
        server.set_mode(mode).await?;
        let outcome = sender.send(message("x@example.org")?).await;
        let neither = outcome.is_err_and(|error| !error.is_transient() && !error.is_permanent());
        assert!(neither, "{mode:?} gives no answer");
    }
    assert_eq!(server.mails()?.len(), 1, "no fault kept a mail");
    server.wait_for_faults(5).await?;

    server.set_mode(SmtpMode::KeepAndDrop).await?;
    assert!(sender.send(message("twice@example.org")?).await.is_err());
    server.set_mode(SmtpMode::Accept).await?;
    sender.send(message("twice@example.org")?).await?;
    assert_eq!(server.mails()?.len(), 3, "the unanswered mail was kept, and so was its repetition");
    Ok(())
}

#[tokio::test]
async fn the_homeserver_knows_its_users_guests_and_ended_tokens() -> Story {
    let homeserver = Synapse::start().await?;
    let alice = homeserver.register("alice").await?;
    let (status, body) = homeserver.whoami(&alice.access_token).await?;
    assert_eq!((status, body["user_id"].as_str()), (200, Some("@alice:localhost")));

    let guest = homeserver.guest().await?;
    let (status, body) = homeserver.whoami(&guest.access_token).await?;
    assert_eq!((status, body["is_guest"].as_bool()), (200, Some(true)));

    let admin = homeserver.register_admin("root").await?;
    assert_eq!(homeserver.whoami(&admin.access_token).await?.0, 200);

    homeserver.logout(&alice.access_token).await?;
    let (status, body) = homeserver.whoami(&alice.access_token).await?;
    assert_eq!((status, body["errcode"].as_str()), (401, Some("M_UNKNOWN_TOKEN")));

    let again = homeserver.login(&alice.user_id, &alice.password).await?;
    assert!(homeserver.openid_token(&again).await?["access_token"].is_string());
    assert!(homeserver.signing_key().is_file() && homeserver.database().is_file());
    Ok(())
}

#[tokio::test]
async fn the_homeserver_goes_down_and_comes_back_with_its_tokens() -> Story {
    let mut homeserver = Synapse::start().await?;
    let user = homeserver.new_user().await?;
    homeserver.stop();
    assert!(homeserver.whoami(&user.access_token).await.is_err(), "nobody listens");
    homeserver.start_again().await?;
    assert_eq!(homeserver.whoami(&user.access_token).await?.0, 200);
    Ok(())
}
