#![expect(clippy::unwrap_used, reason = "a test that meets an error has failed")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::PrivateKeyDer;
use threepid_domain::model::{MessageId, Msisdn};
use threepid_domain::ports::{DeliveryError, Sms, SmsSender as _};
use tokio_rustls::TlsAcceptor;
use url::form_urlencoded;

use super::*;
use site::{Does, Site};

mod site;

const NUMBER: &str = "447700900813";
const CODE: &str = "482913";

/// Whatever may not be told.
const SECRETS: [&str; 6] = [NUMBER, CODE, "hush-query", "hush-header", "hush-password", "hush-secret"];

fn sms() -> Sms {
    saying(&format!("{CODE} is your code"))
}

fn saying(text: &str) -> Sms {
    Sms { id: MessageId::new("message1"), to: Msisdn::parse(NUMBER).unwrap(), text: text.to_owned() }
}

fn header(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

const JSON: &str = r#"{"to": {{ to_plus | tojson }}, "text": {{ text | tojson }}, "ref": {{ id | tojson }}}"#;
const FORM: &str = "To={{ to_plus | urlencode }}&Text={{ text | urlencode }}&Ref={{ id | urlencode }}";
const FORM_TYPE: &str = "application/x-www-form-urlencoded";

/// A gateway that is asked in JSON.
fn asking(url: &str) -> HttpSmsSettings {
    HttpSmsSettings {
        headers: vec![header("Content-Type", "application/json")],
        body: Some(JSON.to_owned()),
        ..HttpSmsSettings::new(url)
    }
}

fn form(body: &str) -> HttpSmsSettings {
    HttpSmsSettings {
        headers: vec![header("Content-Type", FORM_TYPE)],
        body: Some(body.to_owned()),
        ..HttpSmsSettings::new("https://sms.example/")
    }
}

/// The same, with a secret in every place that may have one.
fn asking_with_secrets(url: &str) -> HttpSmsSettings {
    HttpSmsSettings {
        url: format!("{url}/send?key=hush-query"),
        headers: vec![
            header("Content-Type", "application/json"),
            header("X-Key", "hush-header"),
            header("X-Secret", "{{ secret }}"),
        ],
        credentials: Some(("robot".to_owned(), "hush-password".to_owned())),
        secret: Some("hush-secret".to_owned()),
        ..asking(url)
    }
}

fn sender(settings: &HttpSmsSettings) -> HttpSmsSender {
    HttpSmsSender::new(settings).unwrap()
}

fn refusal(settings: &HttpSmsSettings) -> (&'static str, String) {
    match HttpSmsSender::new(settings) {
        Ok(_) => ("", "(no complaint)".to_owned()),
        Err(error) => (error.setting, error.to_string()),
    }
}

/// An error and all its causes, as texts and as they are debugged.
fn everything_said(error: &DeliveryError) -> String {
    let mut said = format!("{error} {error:?}");
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        said = format!("{said} | {error} {error:?}");
        cause = error.source();
    }
    said
}

#[track_caller]
fn assert_tells_no_secret(said: &str) {
    for secret in SECRETS {
        assert!(!said.contains(secret), "{secret} in {said}");
    }
    assert!(!said.contains("cm9ib3Q6"), "neither in base64: {said}");
}

/// How one SMS ends: `ok`, `transient` or `permanent`; no error tells a secret.
async fn outcome(sender: &HttpSmsSender) -> &'static str {
    match sender.send(sms()).await {
        Ok(()) => "ok",
        Err(error) => {
            assert_tells_no_secret(&everything_said(&error));
            if matches!(error, DeliveryError::Permanent(_)) { "permanent" } else { "transient" }
        }
    }
}

#[tokio::test]
async fn a_request_is_what_the_templates_say() {
    let site = Site::start(Does::answer(200, "")).await;
    let settings = asking_with_secrets(&site.url);
    sender(&settings).send(sms()).await.unwrap();
    let [asked] = site.asked().try_into().unwrap();
    let (head, body) = asked.split_once("\r\n\r\n").unwrap();
    let lines: Vec<_> = head.lines().collect();
    assert_eq!(lines[0], "POST /send?key=hush-query HTTP/1.1");
    let host = format!("host: {}", site.url.trim_start_matches("http://"));
    for line in [
        host.as_str(),
        "content-type: application/json",
        "x-key: hush-header",
        "x-secret: hush-secret",
        "authorization: Basic cm9ib3Q6aHVzaC1wYXNzd29yZA==",
        "accept: */*",
        concat!("user-agent: threepid/", env!("CARGO_PKG_VERSION")),
    ] {
        assert!(lines.contains(&line), "{line} in {head}");
    }
    assert_eq!(body, r#"{"to": "+447700900813", "text": "482913 is your code", "ref": "message1"}"#);
}

#[tokio::test]
async fn put_and_get_are_asked_as_well() {
    let site = Site::start(Does::answer(200, "")).await;
    sender(&HttpSmsSettings { method: SmsMethod::Put, ..asking(&site.url) }).send(sms()).await.unwrap();
    let url = format!("{}/to/{{{{ to }}}}?text={{{{ text | urlencode }}}}", site.url);
    let get = HttpSmsSettings { method: SmsMethod::Get, ..HttpSmsSettings::new(url) };
    sender(&get).send(saying("a b&c")).await.unwrap();
    let [put, get] = site.asked().try_into().unwrap();
    assert!(put.starts_with("PUT / HTTP/1.1\r\n"), "{put}");
    assert!(get.starts_with("GET /to/447700900813?text=a%20b%26c HTTP/1.1\r\n"), "{get}");
}

#[tokio::test]
async fn each_status_means_what_the_settings_say() {
    let site = Site::start(Does::answer(200, "")).await;
    let usual = asking_with_secrets(&site.url);
    let own = HttpSmsSettings { sent: vec![202..=202], give_up: vec![404..=404, 500..=599], ..usual.clone() };
    let (usual, own) = (sender(&usual), sender(&own));
    for (status, by_default, by_own) in [
        (200, "ok", "transient"),
        (201, "ok", "transient"),
        (202, "ok", "ok"),
        (204, "ok", "transient"),
        (301, "transient", "transient"),
        (302, "transient", "transient"),
        (307, "transient", "transient"),
        (400, "permanent", "transient"),
        (401, "transient", "transient"),
        (402, "transient", "transient"),
        (403, "transient", "transient"),
        (404, "transient", "permanent"),
        (408, "transient", "transient"),
        (422, "permanent", "transient"),
        (429, "transient", "transient"),
        (500, "transient", "permanent"),
        (503, "transient", "permanent"),
        (599, "transient", "permanent"),
    ] {
        site.now(Does::answer(status, ""));
        assert_eq!((outcome(&usual).await, outcome(&own).await), (by_default, by_own), "{status}");
    }
}

#[tokio::test]
async fn each_body_means_what_the_settings_say() {
    let site = Site::start(Does::answer(200, "")).await;
    let by = |sent_if: Option<&str>, give_up_if: Option<&str>| {
        sender(&HttpSmsSettings {
            sent_if: sent_if.map(str::to_owned),
            give_up_if: give_up_if.map(str::to_owned),
            ..asking_with_secrets(&site.url)
        })
    };
    let (sent, never) = (r#""status": *"0""#, r#""status": *"(6|7)""#);
    let senders = [by(None, None), by(Some(sent), None), by(None, Some(never)), by(Some(sent), Some(never))];
    let html = "<html><body>Please sign in</body></html>";
    for (status, body, expected) in [
        (200, r#"{"status":"0"}"#, ["ok", "ok", "ok", "ok"]),
        (200, r#"{"status": "6"}"#, ["ok", "transient", "permanent", "permanent"]),
        (200, r#"{"status": "1"}"#, ["ok", "transient", "ok", "transient"]),
        (200, html, ["ok", "transient", "ok", "transient"]),
        (200, "", ["ok", "transient", "ok", "transient"]),
        (400, r#"{"status": "7"}"#, ["permanent", "permanent", "permanent", "permanent"]),
        (400, html, ["permanent", "permanent", "transient", "transient"]),
        // The words alone do not do it: the status has to be one of those.
        (500, r#"{"status":"0"}"#, ["transient"; 4]),
        (500, r#"{"status":"6"}"#, ["transient"; 4]),
        (302, r#"{"status":"0"}"#, ["transient"; 4]),
        (302, r#"{"status":"6"}"#, ["transient"; 4]),
    ] {
        site.now(Does::answer(status, body));
        let mut outcomes = Vec::new();
        for sender in &senders {
            outcomes.push(outcome(sender).await);
        }
        assert_eq!(outcomes, expected, "{status} {body}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Site::start(Does::answer(200, "")).await;
    let location = format!("HTTP/1.1 307 There\r\nLocation: {}/\r\nContent-Length: 0\r\n\r\n", elsewhere.url);
    let site = Site::start(Does::Says(location.into_bytes())).await;
    assert_eq!(outcome(&sender(&asking_with_secrets(&site.url))).await, "transient");
    assert!(elsewhere.asked().is_empty() && site.asked().len() == 1);
}

#[tokio::test]
async fn an_answer_that_ends_early_or_never_is_not_a_yes() {
    let partial = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n\"ok\"".to_vec();
    let endless = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n\"ok\"".to_vec();
    let endless_head = b"HTTP/1.1 200 OK\r\nX: ".to_vec();
    let site = Site::start(Does::Says(Vec::new())).await;
    let settings = HttpSmsSettings { timeout: Duration::from_millis(500), ..asking_with_secrets(&site.url) };
    let by_status = sender(&settings);
    let by_body = sender(&HttpSmsSettings { sent_if: Some("\"ok\"".to_owned()), ..settings });
    for (does, with_status, with_body) in [
        (Does::Says(Vec::new()), "transient", "transient"),
        (Does::Says(b"HTTP/1.1 20".to_vec()), "transient", "transient"),
        (Does::Says(b"SMS sent\r\n\r\n".to_vec()), "transient", "transient"),
        (Does::SaysAndHangs(Vec::new()), "transient", "transient"),
        (Does::SaysAndHangs(b"HTTP/1.1 200 OK\r\n".to_vec()), "transient", "transient"),
        (Does::NeverEnds(endless_head), "transient", "transient"),
        // The status decides where nothing else was asked for.
        (Does::Says(partial.clone()), "ok", "transient"),
        (Does::SaysAndHangs(partial), "ok", "transient"),
        (Does::NeverEnds(endless), "ok", "transient"),
    ] {
        site.now(does.clone());
        let began = Instant::now();
        assert_eq!(
            (outcome(&by_status).await, outcome(&by_body).await),
            (with_status, with_body),
            "{does:?}"
        );
        assert!(began.elapsed() < Duration::from_secs(10), "{does:?}");
    }
}

#[tokio::test]
async fn an_answer_of_64_kib_is_read_and_no_more() {
    let site = Site::start(Does::answer(200, "")).await;
    let sender =
        sender(&HttpSmsSettings { sent_if: Some("ok$".to_owned()), ..asking_with_secrets(&site.url) });
    for (length, expected) in [(64 * 1024, "ok"), (64 * 1024 + 1, "transient")] {
        site.now(Does::answer(200, &format!("{}ok", "x".repeat(length - 2))));
        assert_eq!(outcome(&sender).await, expected, "{length}");
    }
}

#[tokio::test]
async fn a_gateway_that_is_not_there_is_asked_later() {
    let site = Site::start(Does::answer(200, "")).await;
    let gone = asking_with_secrets(&site.url);
    drop(site);
    assert_eq!(outcome(&sender(&gone)).await, "transient");
    assert_eq!(outcome(&sender(&asking_with_secrets("http://gateway.invalid"))).await, "transient");
}

/// An authority in a file, and a server with a certificate of it for `localhost`.
fn certificates() -> (tempfile::TempDir, TlsAcceptor) {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), ca_certificate.pem()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    (folder, TlsAcceptor::from(Arc::new(config)))
}

#[tokio::test]
async fn a_gateway_is_asked_once_its_certificate_is_trusted() {
    let (folder, tls) = certificates();
    let (other, _) = certificates();
    let site = Site::start_with(Some(tls), Does::answer(200, "")).await;
    let trusting = |ca: Option<&tempfile::TempDir>| {
        let extra_ca = ca.map(|folder| folder.path().join("ca.pem"));
        sender(&HttpSmsSettings { extra_ca, ..asking_with_secrets(&site.url) })
    };
    assert_eq!(outcome(&trusting(None)).await, "transient");
    assert_eq!(outcome(&trusting(Some(&other))).await, "transient");
    assert!(site.asked().is_empty(), "neither the number nor a key went out");
    assert_eq!(outcome(&trusting(Some(&folder))).await, "ok");
    let of_another_name = asking_with_secrets(&site.url.replace("localhost", "127.0.0.1"));
    let extra_ca = Some(folder.path().join("ca.pem"));
    assert_eq!(outcome(&sender(&HttpSmsSettings { extra_ca, ..of_another_name })).await, "transient");
    assert_eq!(site.asked().len(), 1);
}

#[test]
fn certificates_that_cannot_be_read_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "nothing").unwrap();
    for url in ["https://sms.example", "http://localhost"] {
        for path in [&empty, &folder.path().join("none.pem")] {
            let settings = HttpSmsSettings { extra_ca: Some(path.clone()), ..asking(url) };
            let (setting, said) = refusal(&settings);
            assert_eq!(setting, "extra_ca");
            assert!(said.contains(".pem: "), "{said}");
        }
    }
}

#[test]
fn settings_that_cannot_work_are_refused_by_name() {
    let url = |url: &str| asking(url);
    let body = |body: &str| HttpSmsSettings { body: Some(body.to_owned()), ..asking("https://sms.example") };
    let headers = |more: &[(&str, &str)]| {
        let mut settings = asking("https://sms.example");
        settings.headers.extend(more.iter().map(|(name, value)| header(name, value)));
        settings
    };
    let usual = || asking("https://sms.example");
    let credentials = Some(("u".to_owned(), "p".to_owned()));
    let two_part_user = Some(("u:v".to_owned(), "p".to_owned()));
    let xml = |body: &str| HttpSmsSettings {
        headers: vec![header("Content-Type", "text/xml")],
        body: Some(body.to_owned()),
        ..HttpSmsSettings::new("https://sms.example")
    };
    for (settings, setting, wants) in [
        (url(""), "url", "http or https"),
        (url("sms.example"), "url", "http or https"),
        (url("ftp://sms.example"), "url", "http or https"),
        (url("https://u:p@sms.example"), "url", "without user"),
        (url("https://sms.example/#x"), "url", "fragment"),
        (url("https://{{ to }}.sms.example"), "url", "one server"),
        (url("https://sms.example/{{ number }}"), "url", "undefined value"),
        (url("https://sms.example/{{ to"), "url", "line 1"),
        (url("https://sms.example/?text={{ text }}"), "url", "urlencode"),
        (url("https://sms.example/{{ text }}/send"), "url", "urlencode"),
        (url("https://sms.example/?to={{ to_plus }}"), "url", "to_plus | urlencode"),
        (body("{\"to\": {{ to | tojson }},\n \"text\": {{ txt | tojson }}}"), "body", "line 2"),
        (body("{{ text | tojso }}"), "body", "unknown filter"),
        (body("{{ secret }} {{ to }} {{ text }}"), "body", "undefined value"),
        (body("{% if %}"), "body", "syntax error"),
        (body("{\"to\": {{ to }}, \"text\": \"{{ text }}\"}"), "body", "text | tojson"),
        (body("{\"to\": {{ to }}, \"text\": {{ text | urlencode | tojson }}}"), "body", "text | tojson"),
        (body("{\"to\": {{ to }}, \"text\": {{ text | tojson }}"), "body", "is not JSON"),
        (body("to={{ to }}&text={{ text | urlencode }}"), "body", "is not JSON"),
        (body("{\"to\": {{ to | tojson }}}"), "body", "{{ text }}"),
        (body("{\"text\": {{ text | tojson }}}"), "body", "{{ to }}"),
        (form("to={{ to }}&text={{ text }}"), "body", "text | urlencode"),
        (form("to={{ to_plus }}&text={{ text | urlencode }}"), "body", "to_plus | urlencode"),
        (form("to={{ to }}&text={{ text | tojson }}"), "body", "text | urlencode"),
        (xml("<to>{{ to }}</to><text>{{ text }}</text>"), "body", "text | escape"),
        (HttpSmsSettings { credentials: two_part_user, ..usual() }, "user", "colon"),
        (HttpSmsSettings { headers: Vec::new(), ..usual() }, "headers", "Content-Type"),
        (HttpSmsSettings { method: SmsMethod::Get, ..usual() }, "body", "GET"),
        (headers(&[("X Y", "1")]), "headers", "name of a header"),
        (headers(&[("X", "{{ nothing }}")]), "headers", "undefined value"),
        (headers(&[("X", "a\r\nY: b")]), "headers", "the value of x"),
        (headers(&[("X", "{{ text }}")]), "headers", "the value of x"),
        (headers(&[("X", "hush-é")]), "headers", "the value of x"),
        (headers(&[("Host", "a.example")]), "headers", "written by this server"),
        (headers(&[("transfer-encoding", "chunked")]), "headers", "written by this server"),
        (headers(&[("content-type", "text/plain")]), "headers", "twice"),
        (
            HttpSmsSettings { credentials, ..headers(&[("Authorization", "hush-header")]) },
            "headers",
            "keep one",
        ),
        (HttpSmsSettings { timeout: Duration::ZERO, ..usual() }, "timeout", "longer than zero"),
        (HttpSmsSettings { sent: Vec::new(), ..usual() }, "sent", "must name a status"),
        (HttpSmsSettings { sent: vec![200..=302], ..usual() }, "sent", "200 to 299"),
        (HttpSmsSettings { give_up: vec![200..=200], ..usual() }, "give_up", "400 to 599"),
        (HttpSmsSettings { give_up: vec![302..=302], ..usual() }, "give_up", "400 to 599"),
        (HttpSmsSettings { sent_if: Some("(".to_owned()), ..usual() }, "sent_if", "regular expression"),
        (HttpSmsSettings { give_up_if: Some("(".to_owned()), ..usual() }, "give_up_if", "regular expression"),
    ] {
        let (named, said) = refusal(&settings);
        assert!(named == setting && said.contains(wants), "wanted {setting}: {wants}; got {named}: {said}");
        assert_tells_no_secret(&said);
        assert!(!said.contains(char::is_control), "one line: {said}");
    }
}

#[test]
fn a_refusal_tells_nothing_that_stands_beside_the_mistake() {
    for broken in [
        "{{ hush-secret",
        "hush-secret {% hush-secret %}",
        "hush-secret{{ x | hush-secret }}",
        "{{ 'hush-secret",
    ] {
        for settings in [
            HttpSmsSettings::new(format!("https://sms.example/?key=hush-query&x={broken}")),
            HttpSmsSettings { body: Some(format!("hush-secret {broken}")), ..asking("https://sms.example/") },
            HttpSmsSettings {
                headers: vec![header("X", broken)],
                ..HttpSmsSettings::new("https://sms.example")
            },
        ] {
            let (setting, said) = refusal(&settings);
            assert!(!setting.is_empty());
            assert_tells_no_secret(&said);
        }
    }
}

#[test]
fn templates_may_decide_by_the_number_and_use_other_languages() {
    let settings = HttpSmsSettings {
        headers: vec![header("Content-Type", "application/xml")],
        body: Some(
            "<sms from=\"{% if to is startingwith('1') %}15005550000{% else %}Example{% endif %}\" to=\"00{{ to }}\">\
             {{ text | escape }}</sms>"
                .to_owned(),
        ),
        ..HttpSmsSettings::new("https://sms.example/")
    };
    let request = sender(&settings).request(&saying("a<b")).unwrap();
    assert_eq!(request.body, "<sms from=\"Example\" to=\"00447700900813\">a&lt;b</sms>");
}

#[test]
fn nothing_that_is_debugged_tells_a_secret() {
    let settings = HttpSmsSettings {
        body: Some(format!("{}{{# hush-secret #}}", JSON)),
        ..asking_with_secrets("https://sms.example")
    };
    let sender = sender(&settings);
    let request = sender.request(&sms()).unwrap();
    assert!(request.url.contains("hush-query") && request.headers.len() > 3);
    let said = format!("{settings:?} {sender:?} {request:?} {:?}", sms());
    assert_tells_no_secret(&said);
    assert!(!said.contains("sms.example"), "{said}");
}

mod generated {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_survives_json(text in any::<String>(), id in "[A-Za-z0-9_-]{1,40}") {
            let sms = Sms { id: MessageId::new(id.clone()), ..saying(&text) };
            let request = sender(&asking("http://localhost/")).request(&sms).unwrap();
            let read: serde_json::Value = serde_json::from_str(&request.body).unwrap();
            let said = serde_json::json!({ "to": format!("+{NUMBER}"), "text": text, "ref": id });
            prop_assert_eq!(read, said);
        }

        #[test]
        fn any_text_survives_a_form(text in any::<String>(), id in any::<String>()) {
            let sms = Sms { id: MessageId::new(id.clone()), ..saying(&text) };
            let request = sender(&HttpSmsSettings { url: "http://localhost".to_owned(), ..form(FORM) }).request(&sms).unwrap();
            let read: Vec<(String, String)> = form_urlencoded::parse(request.body.as_bytes()).into_owned().collect();
            let said = [("To", format!("+{NUMBER}")), ("Text", text), ("Ref", id)].map(|(k, v)| (k.to_owned(), v));
            prop_assert_eq!(read, said);
        }

        #[test]
        fn any_text_survives_a_url(text in any::<String>()) {
            let url = "http://localhost/{{ text | urlencode }}/send?to={{ to }}&text={{ text | urlencode }}";
            let request = sender(&HttpSmsSettings { method: SmsMethod::Get, ..HttpSmsSettings::new(url) });
            let url = url::Url::parse(&request.request(&saying(&text)).unwrap().url).unwrap();
            let read: Vec<(String, String)> = url.query_pairs().into_owned().collect();
            prop_assert_eq!(read, [("to", NUMBER), ("text", &text)].map(|(k, v)| (k.to_owned(), v.to_owned())));
            prop_assert_eq!(url.host_str(), Some("localhost"));
        }

        /// A header that is not escaped is refused at the start; one that a template lets through by a condition never
        /// becomes two.
        #[test]
        fn no_text_adds_a_header(text in any::<String>()) {
            let template = "{% if id == 'message1' %}{{ text }}{% endif %}";
            let settings = HttpSmsSettings {
                headers: vec![header("Content-Type", "application/json"), header("X", template)],
                ..asking("http://localhost")
            };
            match sender(&settings).request(&saying(&text)) {
                Ok(request) => {
                    let value = request.headers.iter().find(|(name, _)| name == "x").map(|(_, value)| value.as_str());
                    prop_assert_eq!(value, Some(text.as_str()));
                    prop_assert!(text.bytes().all(|byte| byte == b'\t' || (b' '..=b'~').contains(&byte)));
                }
                Err(error) => prop_assert!(matches!(error, DeliveryError::Transient(_))),
            }
        }
    }
}
