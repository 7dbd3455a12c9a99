//! What `docs/operating/sms.md` shows is what is sent, and what `config check` says of a gateway that cannot be asked.

use std::ffi::OsString;

use serde_json::{Value, json};
use threepid_adapters::sms::SmsRequest;
use threepid_domain::model::{MessageId, Msisdn};
use threepid_domain::ports::Sms;
use url::form_urlencoded;

use super::*;
use crate::config::load;

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

const PAGE: &str = include_str!("../../../../../docs/operating/sms.md");

/// The least that a server can be started with, in variables.
const LEAST: [(&str, &str); 3] = [
    ("THREEPID_PUBLIC_BASE_URL", "https://matrix.example.org"),
    ("THREEPID_ACCOUNTS", "local"),
    ("THREEPID_MAIL__TRANSPORT", "none"),
];

/// A code with everything that an operator's template may put around it.
const TEXT: &str = "482913 is your code for \u{201c}Müller & Söhne\u{201d} (100 % free+safe)";

fn configured(toml: &str) -> Outcome<Config> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("threepid.toml");
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "hush\n")?;
    let secret = secret.to_str().ok_or("a path")?;
    let toml = toml.replace("/run/secrets/sms-password", secret).replace("/run/secrets/sms-key", secret);
    std::fs::write(&path, toml)?;
    let least = LEAST.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Ok(load(Some(&path), least)?)
}

/// The settings that the page shows under this heading.
fn shown(heading: &str) -> Outcome<&'static str> {
    let (_, section) = PAGE.split_once(&format!("\n### {heading}\n")).ok_or("no such heading")?;
    let section = section.split("\n### ").next().unwrap_or_default();
    let (_, block) = section.split_once("```toml\n").ok_or("no settings")?;
    Ok(block.split("```").next().unwrap_or_default())
}

fn gateway(heading: &str) -> Outcome<SmsGateway> {
    match configured(shown(heading)?)?.sms {
        SmsTransport::Http(gateway) => Ok(*gateway),
        SmsTransport::None => Err("no gateway".into()),
    }
}

fn written(heading: &str) -> Outcome<SmsRequest> {
    let sender = http_sender(&gateway(heading)?).map_err(|error| error.to_string())?;
    let sms = Sms {
        id: MessageId::new("0Fz-message_1"),
        to: Msisdn::parse("447700900813")?,
        text: TEXT.to_owned(),
    };
    Ok(sender.request(&sms)?)
}

fn header<'a>(request: &'a SmsRequest, name: &str) -> Option<&'a str> {
    request.headers.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
}

fn form(request: &SmsRequest) -> Vec<(String, String)> {
    form_urlencoded::parse(request.body.as_bytes()).into_owned().collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

const FORM: Option<&str> = Some("application/x-www-form-urlencoded");

#[test]
fn twilio_is_asked_as_the_page_says() -> Outcome {
    let request = written("Twilio")?;
    assert_eq!(request.method, Method::Post);
    assert_eq!(
        request.url,
        "https://api.twilio.com/2010-04-01/Accounts/AC00000000000000000000000000000000/Messages.json"
    );
    assert_eq!(header(&request, "content-type"), FORM);
    // `AC00000000000000000000000000000000:hush`
    let basic = "Basic QUMwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDpodXNo";
    assert_eq!(header(&request, "authorization"), Some(basic));
    let fields = [("From", "+15005550006"), ("To", "+447700900813"), ("Body", TEXT)];
    assert_eq!(form(&request), pairs(&fields));
    Ok(())
}

#[test]
fn vonage_is_asked_as_the_page_says() -> Outcome {
    let request = written("Vonage")?;
    assert_eq!((request.method, request.url.as_str()), (Method::Post, "https://rest.nexmo.com/sms/json"));
    assert_eq!(header(&request, "content-type"), FORM);
    // `abcd1234:hush`
    assert_eq!(header(&request, "authorization"), Some("Basic YWJjZDEyMzQ6aHVzaA=="));
    let fields = [
        ("from", "Example"),
        ("to", "447700900813"),
        ("type", "unicode"),
        ("client-ref", "0Fz-message_1"),
        ("text", TEXT),
    ];
    assert_eq!(form(&request), pairs(&fields));
    Ok(())
}

#[test]
fn sinch_is_asked_as_the_page_says() -> Outcome {
    let request = written("Sinch")?;
    assert_eq!(request.method, Method::Post);
    assert_eq!(request.url, "https://eu.sms.api.sinch.com/xms/v1/00000000000000000000000000000000/batches");
    assert_eq!(header(&request, "content-type"), Some("application/json"));
    assert_eq!(header(&request, "authorization"), Some("Bearer hush"));
    let said: Value = serde_json::from_str(&request.body)?;
    let wanted = json!({
        "from": "447418631073",
        "to": ["447700900813"],
        "body": TEXT,
        "client_reference": "0Fz-message_1",
    });
    assert_eq!(said, wanted);
    Ok(())
}

#[test]
fn elks_are_asked_as_the_page_says() -> Outcome {
    let request = written("46elks")?;
    assert_eq!((request.method, request.url.as_str()), (Method::Post, "https://api.46elks.com/a1/sms"));
    assert_eq!(header(&request, "content-type"), FORM);
    // `u0000:hush`
    assert_eq!(header(&request, "authorization"), Some("Basic dTAwMDA6aHVzaA=="));
    assert_eq!(form(&request), pairs(&[("from", "Example"), ("to", "+447700900813"), ("message", TEXT)]));
    Ok(())
}

#[test]
fn a_gateway_without_an_api_is_asked_as_the_page_says() -> Outcome {
    let request = written("Anything else")?;
    let (path, query) = request.url.split_once('?').ok_or("a query")?;
    assert_eq!((request.method, path), (Method::Get, "http://localhost:13013/cgi-bin/sendsms"));
    let query: Vec<_> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let fields = [
        ("username", "threepid"),
        ("password", "hush"),
        ("to", "+447700900813"),
        ("coding", "2"),
        ("charset", "UTF-8"),
        ("text", TEXT),
    ];
    assert_eq!(query, pairs(&fields));
    Ok(())
}

/// What each gateway's own documentation shows as an answer means what the page says that it means.
#[tokio::test]
async fn answers_mean_what_the_page_says() -> Outcome {
    let number = "+447700900813";
    for (heading, status, body, expected) in [
        (
            "Twilio",
            201,
            r#"{"sid": "SM00000000000000000000000000000000", "status": "queued"}"#.to_owned(),
            "sent",
        ),
        ("Twilio", 200, "<html>Please sign in</html>".to_owned(), "later"),
        (
            "Twilio",
            400,
            format!(
                r#"{{"code": 21211, "message": "The 'To' number {number} is not a valid phone number.", "status": 400}}"#
            ),
            "never",
        ),
        (
            "Twilio",
            400,
            r#"{"code": 21606, "message": "The From phone number", "status": 400}"#.to_owned(),
            "later",
        ),
        ("Twilio", 401, r#"{"code": 20003, "message": "Authenticate", "status": 401}"#.to_owned(), "later"),
        (
            "Twilio",
            429,
            r#"{"code": 20429, "message": "Too Many Requests", "status": 429}"#.to_owned(),
            "later",
        ),
        (
            "Vonage",
            200,
            r#"{"message-count": "1", "messages": [{"to": "447700900000", "status": "0"}]}"#.to_owned(),
            "sent",
        ),
        (
            "Vonage",
            200,
            r#"{"message-count":"1","messages":[{"status":"1","error-text":"Throttled"}]}"#.to_owned(),
            "later",
        ),
        (
            "Vonage",
            200,
            r#"{"message-count":"1","messages":[{"status":"4","error-text":"Bad"}]}"#.to_owned(),
            "later",
        ),
        (
            "Vonage",
            200,
            r#"{"message-count":"1","messages":[{"status":"7","error-text":"Barred"}]}"#.to_owned(),
            "never",
        ),
        (
            "Sinch",
            201,
            r#"{"id": "01FC66621ABCDE119Z8PMV1QPQ", "to": ["447700900813"], "canceled": false}"#.to_owned(),
            "sent",
        ),
        ("Sinch", 400, r#"{"code": "syntax_invalid_parameter_format"}"#.to_owned(), "never"),
        ("Sinch", 401, String::new(), "later"),
        (
            "46elks",
            200,
            r#"{"direction": "outgoing", "id": "s00000000000000000000000000000000", "cost": 3500}"#
                .to_owned(),
            "sent",
        ),
        ("46elks", 200, "<html>Please sign in</html>".to_owned(), "later"),
        ("46elks", 400, r#"{"error": "Invalid parameters"}"#.to_owned(), "never"),
        ("46elks", 401, String::new(), "later"),
        ("46elks", 403, r#"{"error": "Not enough credits"}"#.to_owned(), "later"),
        ("Anything else", 202, "0: Accepted for delivery".to_owned(), "sent"),
        ("Anything else", 202, "3: Queued for later delivery".to_owned(), "sent"),
        ("Anything else", 403, "Authorization failed for sendsms".to_owned(), "later"),
    ] {
        let mut gateway = gateway(heading)?;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        gateway.url = crate::config::Secret::new(format!("http://{}/{{{{ to }}}}", listener.local_addr()?));
        gateway.method = SmsMethod::Post;
        gateway.headers.push(("X-Text".to_owned(), crate::config::Secret::new("{{ text | urlencode }}")));
        let sender = http_sender(&gateway).map_err(|error| error.to_string())?;
        let sms = Sms { id: MessageId::new("m"), to: Msisdn::parse(number)?, text: TEXT.to_owned() };
        let answers = answer(listener, status, body.clone());
        let (sent, answered) = tokio::join!(sender.send(sms), answers);
        answered?;
        let outcome = match sent {
            Ok(()) => "sent",
            Err(threepid_domain::ports::DeliveryError::Transient(_)) => "later",
            Err(threepid_domain::ports::DeliveryError::Permanent(_)) => "never",
        };
        assert_eq!(outcome, expected, "{heading}: {status} {body}");
    }
    Ok(())
}

/// Answers one request.
async fn answer(listener: tokio::net::TcpListener, status: u16, body: String) -> Outcome {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let (mut stream, _) = listener.accept().await?;
    let mut asked = Vec::new();
    let is_whole = |asked: &[u8]| {
        let asked = String::from_utf8_lossy(asked);
        let (head, body) = asked.split_once("\r\n\r\n")?;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        (body.len() >= length.unwrap_or(0)).then_some(())
    };
    while is_whole(&asked).is_none() {
        let read = stream.read_buf(&mut asked).await?;
        assert!(read > 0, "the request is whole");
    }
    let length = body.len();
    stream
        .write_all(format!("HTTP/1.1 {status} Words\r\nContent-Length: {length}\r\n\r\n{body}").as_bytes())
        .await?;
    Ok(())
}

#[test]
fn no_transport_is_no_sender() -> Outcome {
    let config = configured("sms.http.url = \"nonsense\"")?;
    assert!(sms_sender(&config).map_err(|error| error.to_string())?.is_none());
    assert_eq!(config.sms.to_string(), "none");
    Ok(())
}

#[test]
fn a_gateway_that_cannot_be_asked_is_refused_by_the_settings_name() -> Outcome {
    let least = "[sms]\ntransport = \"http\"\n[sms.http]\n";
    let url = "url = \"https://sms.example/hush?to={{ to }}&text={{ text | urlencode }}\"\n";
    for (toml, setting, wants) in [
        (String::new(), "sms.http.url", "is required"),
        ("url = \"sms.example\"".to_owned(), "sms.http.url", "http or https"),
        ("url = \"https://sms.example/{{ hush }}\"".to_owned(), "sms.http.url", "undefined value"),
        (format!("{url}body = \"hush\""), "sms.http.headers", "Content-Type"),
        (
            format!("{url}body = \"hush {{{{ txt }}}}\"\nheaders = {{ Content-Type = \"text/plain\" }}"),
            "sms.http.body",
            "undefined value",
        ),
        (format!("{url}method = \"GET\"\nbody = \"hush\""), "sms.http.body", "GET"),
        (format!("{url}method = \"get\""), "sms.http.method", "`POST`"),
        (format!("{url}headers = {{ X = \"hush\\nY\" }}"), "sms.http.headers", "the value of x"),
        (format!("{url}headers = {{ X = 5 }}"), "sms.http.headers", "text in quotes"),
        (format!("{url}headers = \"hush\""), "sms.http.headers", "is wanted"),
        (format!("{url}user = \"u\""), "sms.http.password", "is required with sms.http.user"),
        (format!("{url}password = \"hush\""), "sms.http.user", "is required with sms.http.password"),
        (format!("{url}password = \"hush\"\npassword_file = \"f\""), "sms.http.password_file", "keep one"),
        (format!("{url}secret = \"hush\"\nsecret_file = \"f\""), "sms.http.secret_file", "keep one"),
        (format!("{url}secret_file = \"/none\""), "sms.http.secret_file", "cannot be read"),
        (format!("{url}ca_file = \"/none\""), "sms.http.ca_file", "/none"),
        (format!("{url}timeout = \"0s\""), "sms.http.timeout", "longer than zero"),
        (format!("{url}timeout = \"2m\""), "relay.lease", "longer than sms.http.timeout"),
        (format!("{url}sent = []"), "sms.http.sent", "must name a status"),
        (format!("{url}sent = [\"200-399\"]"), "sms.http.sent", "200 to 299"),
        (format!("{url}sent = [\"2xx\"]"), "sms.http.sent", "list of statuses"),
        (format!("{url}give_up = [200]"), "sms.http.give_up", "400 to 599"),
        (format!("{url}give_up = [true]"), "sms.http.give_up", "list of statuses"),
        (format!("{url}sent_if = \"(\""), "sms.http.sent_if", "regular expression"),
        (format!("{url}give_up_if = \"(\""), "sms.http.give_up_if", "regular expression"),
        (format!("{url}redirects = true"), "sms.http.redirects", "unknown field"),
    ] {
        let said = match configured(&format!("{least}{toml}")) {
            Err(error) => error.to_string(),
            Ok(config) => match super::super::rehearse(&config) {
                Err(error) => error.to_string(),
                Ok(()) => "(no complaint)".to_owned(),
            },
        };
        let line = said.lines().find(|line| line.starts_with(setting));
        assert!(
            line.is_some_and(|line| line.contains(wants)),
            "{toml}: wanted {setting} … {wants}, got: {said}"
        );
        assert!(!said.contains("hush"), "{said}");
    }
    Ok(())
}

#[test]
fn the_gateways_secrets_are_in_no_debug_and_a_clear_way_is_warned_about() -> Outcome {
    let toml = r#"
[sms]
transport = "http"

[sms.http]
url = "http://sms.example/?key=hush&to={{ to }}"
headers = { Content-Type = "text/plain", X-Key = "hush" }
body = "hush {{ text }}"
user = "robot"
password = "hush"
secret = "hush"
"#;
    let config = configured(toml)?;
    assert!(!format!("{config:?}").contains("hush"), "{config:?}");
    let warned: Vec<_> = config.warnings.iter().map(|warning| warning.setting.as_str()).collect();
    assert!(warned.contains(&"sms.http.url"), "{warned:?}");
    let near = configured(&toml.replace("sms.example", "localhost"))?;
    assert!(near.warnings.iter().all(|warning| warning.setting != "sms.http.url"));
    assert!(sms_sender(&near).map_err(|error| error.to_string())?.is_some());
    Ok(())
}
