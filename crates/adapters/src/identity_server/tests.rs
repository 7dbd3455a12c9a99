#![expect(clippy::expect_used, reason = "a test fails where what it prepares fails")]

mod site;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rustls::pki_types::PrivateKeyDer;
use serde_json::json;
use tempfile::TempDir;
use threepid_domain::model::{
    ClientSecret, Country, EmailAddress, Medium, Msisdn, NextLink, SendAttempt, Sid,
};
use threepid_domain::ports::RemoteRecipient;
use threepid_domain::testing::contract::identity_server::{IdentityBackend, SiteMood};
use threepid_domain::{
    identity_server_contract, identity_server_mood_contract, identity_server_number_contract,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use site::{HOMESERVER, Plan, Site as TestSite, TOKEN};

const SEED: &str = "YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1";

fn key() -> SigningKey {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("signing.key");
    std::fs::write(&path, format!("ed25519 a_uTBo {SEED}\n")).expect("written");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("permitted");
    }
    SigningKey::read(&path, HOMESERVER).expect("a key")
}

/// The public half, as another library derives it.
fn public_key() -> Vec<u8> {
    use base64::Engine;
    use ring::signature::KeyPair;
    let config = base64::engine::GeneralPurposeConfig::new()
        .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    let engine = base64::engine::GeneralPurpose::new(&base64::alphabet::STANDARD, config);
    let seed = engine.decode(SEED).expect("base64");
    let pair = ring::signature::Ed25519KeyPair::from_seed_unchecked(&seed).expect("a seed");
    pair.public_key().as_ref().to_vec()
}

fn short() -> IdentityServerSettings {
    IdentityServerSettings {
        timeout: Duration::from_millis(600),
        unbind_timeout: Duration::from_millis(600),
        ..IdentityServerSettings::default()
    }
}

fn at(site: &TestSite, v1_form: bool, settings: IdentityServerSettings) -> HyperIdentityServer {
    let named = ServerSettings { base_url: Some(site.base_url()), v1_form };
    let servers = HashMap::from([(site.name(), named)]);
    HyperIdentityServer::new(IdentityServerSettings { servers, ..settings }).expect("good settings")
}

fn backend(port: HyperIdentityServer, site: TestSite, keep: Option<TempDir>) -> IdentityBackend {
    let site = Arc::new(site);
    let signs = port.signing_key.is_some();
    IdentityBackend {
        port: Arc::new(port),
        server: site.name(),
        site: site.clone(),
        user_id: UserId::parse("@alice:hs.example").expect("a user ID"),
        signs,
        moods: Some(site),
        keep: Box::new(keep),
    }
}

/// A server that a base URL with a path leads to, and a key.
async fn by_base_url() -> IdentityBackend {
    let plan = Plan {
        name: Some("id.example"),
        prefix: "/behind/a/proxy",
        public_key: public_key(),
        ..Plan::default()
    };
    let site = TestSite::start(plan).await;
    let settings = IdentityServerSettings { signing_key: Some(key()), ..IdentityServerSettings::default() };
    backend(at(&site, false, settings), site, None)
}

/// An old server, that reads forms on v1 and answers a bind with `{}`, and no key.
async fn with_forms() -> IdentityBackend {
    let site = TestSite::start(Plan {
        name: Some("id.example:8090"),
        v1_form: true,
        bind_says_nothing: true,
        ..Plan::default()
    })
    .await;
    backend(at(&site, true, IdentityServerSettings::default()), site, None)
}

/// A server that is found by its name alone, through a certificate authority of the operator's.
async fn by_name() -> IdentityBackend {
    let (folder, tls) = certificates();
    let site = TestSite::start(Plan { public_key: public_key(), tls: Some(tls), ..Plan::default() }).await;
    let settings = IdentityServerSettings {
        outbound: loopback_permitted(Some(folder.path())),
        signing_key: Some(key()),
        ..IdentityServerSettings::default()
    };
    let port = HyperIdentityServer::new(settings).expect("good settings");
    backend(port, site, Some(folder))
}

/// A server that is told to fail, and little patience.
async fn moody() -> IdentityBackend {
    let site =
        TestSite::start(Plan { name: Some("id.example"), public_key: public_key(), ..Plan::default() }).await;
    let settings = IdentityServerSettings { signing_key: Some(key()), ..short() };
    backend(at(&site, false, settings), site, None)
}

fn loopback_permitted(ca_folder: Option<&Path>) -> OutboundSettings {
    OutboundSettings {
        allow: ["127.0.0.0/8", "::1/128"].iter().filter_map(|net| net.parse().ok()).collect(),
        extra_ca_file: ca_folder.map(|folder| folder.join("ca.pem")),
        ..OutboundSettings::default()
    }
}

/// An authority in a file, and a server with a certificate of it for `localhost`.
fn certificates() -> (TempDir, TlsAcceptor) {
    let ca_key = rcgen::KeyPair::generate().expect("a key");
    let mut ca = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).expect("a certificate");
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().expect("a key");
    let leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
    let leaf = leaf.signed_by(&key, &issuer).expect("a certificate");
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("ca.pem"), ca_certificate.pem()).expect("written");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .expect("a certificate");
    (folder, TlsAcceptor::from(Arc::new(config)))
}

mod contract_by_base_url {
    super::identity_server_contract!(super::by_base_url());
    super::identity_server_number_contract!(super::by_base_url());
}

mod contract_with_forms {
    super::identity_server_contract!(super::with_forms());
    super::identity_server_number_contract!(super::with_forms());
}

mod contract_by_name {
    super::identity_server_contract!(super::by_name());
}

mod contract_moods {
    super::identity_server_mood_contract!(super::moody());
}

fn secret() -> ClientSecret {
    ClientSecret::parse("s3cret").expect("a secret")
}

fn session(sid: &str) -> RemoteCredentials {
    RemoteCredentials { sid: Sid::new(sid), client_secret: secret() }
}

fn alice() -> UserId {
    UserId::parse("@alice:hs.example").expect("a user ID")
}

fn address(medium: Medium, text: &str) -> Address {
    Address::parse(medium, text).expect("an address")
}

fn name(text: &str) -> IdentityServerName {
    IdentityServerName::parse(text).expect("a name")
}

fn token() -> Option<IdAccessToken> {
    Some(IdAccessToken::new(TOKEN))
}

/// What the operator is told of a failure.
fn told<T: fmt::Debug>(answer: Result<T, IdentityServerError>) -> String {
    match answer.expect_err("a failure") {
        IdentityServerError::Unavailable(error) => error.source.to_string(),
        IdentityServerError::Refused(refusal) => format!("refused: {refusal:?}"),
    }
}

#[tokio::test]
async fn each_request_is_written_as_its_version_has_it() {
    let plan = Plan { name: Some("id.example"), prefix: "/p", public_key: public_key(), ..Plan::default() };
    let site = TestSite::start(plan).await;
    let port = at(&site, false, IdentityServerSettings { signing_key: Some(key()), ..short() });
    let request = RemoteTokenRequest {
        client_secret: secret(),
        to: RemoteRecipient::Email(EmailAddress::parse("a+b@bücher.example").expect("an address")),
        send_attempt: SendAttempt::new((1 << 53) - 1).expect("a count"),
        next_link: NextLink::parse("https://app.example/?a=b&c#d").ok(),
    };
    let body = json!({
        "client_secret": "s3cret", "email": "a+b@bücher.example", "send_attempt": 9_007_199_254_740_991_u64,
        "next_link": "https://app.example/?a=b&c#d",
    });
    // The number as it was read here; a server that reads `+` needs no country, and one that insists gets the client's.
    let number_body = json!({
        "client_secret": "s3cret", "country": "US", "phone_number": "+447700900813",
        "send_attempt": 9_007_199_254_740_991_u64, "next_link": "https://app.example/?a=b&c#d",
    });
    let bind = json!({"client_secret": "s3cret", "mxid": "@alice:hs.example", "sid": "a.b=c_d-1"});
    site.says(200, &json!({"sid": "1"}));
    for (given, prefix, authorization) in [
        (token(), "/p/_matrix/identity/v2", Some("Bearer good.token")),
        (None, "/p/_matrix/identity/api/v1", None),
    ] {
        let at = |path: &str| format!("{prefix}{path}");
        let json_body = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
        let header = |name: &str| site.last().headers.get(name).cloned();

        let opened = port.request_token(site.name(), request.clone(), given.clone()).await;
        assert_eq!(opened.expect("opened").sid, Sid::new("1"));
        let last = site.last();
        assert_eq!((last.method.as_str(), last.target), ("POST", at("/validate/email/requestToken")));
        assert_eq!(json_body(&last.body), body);
        assert_eq!(header("content-type").as_deref(), Some("application/json"));
        assert_eq!(header("authorization").as_deref(), authorization);
        assert_eq!(header("host"), Some(site.address.to_string()));
        assert_eq!(header("accept").as_deref(), Some("application/json"));

        let to = RemoteRecipient::Msisdn {
            number: Msisdn::parse("447700900813").expect("a number"),
            country: Country::parse("US").expect("a country"),
        };
        let by_sms = RemoteTokenRequest { to, ..request.clone() };
        let opened = port.request_token(site.name(), by_sms, given.clone()).await;
        assert_eq!(opened.expect("opened").sid, Sid::new("1"));
        let last = site.last();
        assert_eq!((last.method.as_str(), last.target), ("POST", at("/validate/msisdn/requestToken")));
        assert_eq!(json_body(&last.body), number_body);
        assert_eq!(header("authorization").as_deref(), authorization);

        let said = port.validated(site.name(), session("a.b=c_d-1"), given.clone()).await;
        assert_eq!(said.ok(), Some(None));
        let last = site.last();
        let (path, query) = last.target.split_once('?').expect("a query");
        assert_eq!((last.method.as_str(), path), ("GET", at("/3pid/getValidated3pid").as_str()));
        let pairs: Vec<_> = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(pairs, [pair("sid", "a.b=c_d-1"), pair("client_secret", "s3cret")]);
        assert_eq!((header("authorization").as_deref(), last.body.as_str()), (authorization, ""));

        let bound = told(port.bind(site.name(), session("a.b=c_d-1"), alice(), given.clone()).await);
        assert_eq!(bound, "id.example: does not say what it published");
        let received = site.received();
        let last = received.iter().rev().find(|request| request.method == "POST").expect("a bind");
        assert_eq!(last.target, at("/3pid/bind"));
        assert_eq!(json_body(&last.body), bind);
        assert_eq!(last.headers.get("authorization").map(String::as_str), authorization);
    }
}

#[tokio::test]
async fn an_unbind_is_signed_for_the_servers_name_without_the_prefix_and_without_a_bearer() {
    let plan =
        Plan { name: Some("id.example:8090"), prefix: "/p", public_key: public_key(), ..Plan::default() };
    let site = TestSite::start(plan).await;
    let port = at(&site, false, IdentityServerSettings { signing_key: Some(key()), ..short() });
    let number = address(Medium::Msisdn, "447700900813");
    let answer = port.unbind(site.name(), alice(), number).await;
    assert_eq!(answer.ok(), Some(Unbound::Done));
    let last = site.last();
    assert_eq!((last.method.as_str(), last.target.as_str()), ("POST", "/p/_matrix/identity/v2/3pid/unbind"));
    assert_eq!(
        last.body,
        r#"{"mxid":"@alice:hs.example","threepid":{"address":"447700900813","medium":"msisdn"}}"#
    );
    let header = last.headers.get("authorization").expect("a signature");
    let (begin, rest) = header.split_once(r#"sig=""#).expect("a signature");
    let (signature, end) = rest.split_once('"').expect("its end");
    assert_eq!(begin, r#"X-Matrix origin="hs.example",key="ed25519:a_uTBo","#);
    assert_eq!((signature.len(), end), (86, r#",destination="id.example:8090""#));
}

#[tokio::test]
async fn nothing_is_sent_where_nothing_can_be_signed() {
    let site = TestSite::start(Plan { name: Some("id.example"), ..Plan::default() }).await;
    let email = || address(Medium::Email, "alice@example.org");
    let without_key = at(&site, false, short());
    assert_eq!(without_key.unbind(site.name(), alice(), email()).await.ok(), Some(Unbound::NoSupport));
    let with_key = at(&site, false, IdentityServerSettings { signing_key: Some(key()), ..short() });
    for user in ["@alice:other.example", "@alice:hs.example:8448", "@alice:HS.example"] {
        let user = UserId::parse(user).expect("a user ID");
        assert_eq!(with_key.unbind(site.name(), user, email()).await.ok(), Some(Unbound::NoSupport));
    }
    assert_eq!(site.connections(), 0);
}

#[tokio::test]
async fn what_was_published_is_read_from_the_answer_or_asked_for() {
    let site = TestSite::start(Plan { name: Some("id.example"), ..Plan::default() }).await;
    let port = at(&site, false, short());
    for (body, expected) in [
        (json!({"medium": "email", "address": " Alice@EXAMPLE.org"}), Ok("alice@example.org")),
        (
            json!({"medium": "msisdn", "address": "447700900813", "mxid": "@alice:hs.example"}),
            Ok("447700900813"),
        ),
        (
            json!({"medium": "email", "address": "alice@example.org", "validated_at": "x"}),
            Ok("alice@example.org"),
        ),
        (json!({"medium": "carrier-pigeon", "address": "x"}), Err("published what is no address")),
        (json!({"medium": "email", "address": "a,b@example.org"}), Err("published what is no address")),
        (
            json!({"medium": "email", "address": "a@example.org", "mxid": "@eve:hs.example"}),
            Err("published another account"),
        ),
        (json!({"medium": "email"}), Err("does not say what it published")),
        (json!({"errcode": "M_UNKNOWN"}), Err("answered 2xx without having done what was asked")),
    ] {
        site.says(200, &body);
        let bound = port.bind(site.name(), session("1"), alice(), token()).await;
        match expected {
            Ok(text) => assert_eq!(bound.expect("bound").as_str(), text, "{body}"),
            Err(text) => assert_eq!(told(bound), format!("id.example: {text}"), "{body}"),
        }
    }
    assert_eq!(site.received().iter().filter(|request| request.method == "GET").count(), 1);
}

#[tokio::test]
async fn a_sid_against_the_grammar_names_no_session_and_is_not_sent() {
    let site = TestSite::start(Plan { name: Some("id.example"), ..Plan::default() }).await;
    let port = at(&site, false, short());
    for given in [token(), None] {
        for sid in ["", "a b", "a/../b", "ü", "1&client_secret=2"] {
            assert_eq!(port.validated(site.name(), session(sid), given.clone()).await.ok(), Some(None));
            let bound = told(port.bind(site.name(), session(sid), alice(), given.clone()).await);
            assert!(bound.contains("M_NO_VALID_SESSION"), "{bound}");
        }
    }
    assert_eq!(site.connections(), 0);
    for sid in [json!(""), json!("a b"), json!(7), json!(null), json!("x".repeat(256))] {
        site.says(200, &json!({"sid": sid}));
        let request = RemoteTokenRequest {
            client_secret: secret(),
            to: RemoteRecipient::Email(EmailAddress::parse("a@example.org").expect("an address")),
            send_attempt: SendAttempt::new(0).expect("a count"),
            next_link: None,
        };
        let opened = told(port.request_token(site.name(), request, token()).await);
        assert_eq!(opened, "id.example: answered 2xx without the identifier of a session");
    }
}

#[tokio::test]
async fn a_token_that_no_header_carries_is_refused_like_an_unknown_one() {
    let site = TestSite::start(Plan { name: Some("id.example"), ..Plan::default() }).await;
    let port = at(&site, false, short());
    for text in ["a\r\nX-Evil: 1", "a\0b", "\n"] {
        let answer = port.validated(site.name(), session("1"), Some(IdAccessToken::new(text))).await;
        let told = told(answer);
        assert!(told.contains("status: 401") && told.contains("M_UNAUTHORIZED"), "{text:?}: {told}");
    }
    assert_eq!(site.connections(), 0);
    // The server itself knows best about the others.
    for text in ["", "unknown", "ü"] {
        let answer = port.validated(site.name(), session("1"), Some(IdAccessToken::new(text))).await;
        assert!(told(answer).contains("M_UNAUTHORIZED"), "{text:?}");
    }
}

#[tokio::test]
async fn the_operator_is_told_which_server_did_what() {
    let site = TestSite::start(Plan { name: Some("id.example"), ..Plan::default() }).await;
    let port = at(&site, false, short());
    let says = |status, body: Vec<u8>| SiteMood::Says { status, headers: Vec::new(), body };
    for (mood, line) in [
        (SiteMood::Silent, "id.example: no whole answer within 0.6 s"),
        (SiteMood::Endless, "id.example: no whole answer within 0.6 s"),
        (says(200, b"<html>".to_vec()), "id.example: answered 200 with what is no JSON object"),
        (says(200, vec![b' '; 10_000_000]), "id.example: the answer is longer than 65536 bytes"),
        (says(302, Vec::new()), "id.example: answered with a redirect (302), which is not followed"),
        (says(401, b"<html>".to_vec()), "id.example: answered 401 without a Matrix error"),
        (says(502, b"<html>".to_vec()), "id.example: answered 502 without a Matrix error"),
        (says(500, br#"{"errcode": "M_UNKNOWN"}"#.to_vec()), "id.example: answered 500"),
    ] {
        site.mood(mood);
        let begun = Instant::now();
        assert_eq!(told(port.validated(site.name(), session("1"), token()).await), line);
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
    site.mood(SiteMood::Gone);
    let gone = told(port.validated(site.name(), session("1"), token()).await);
    assert!(gone.starts_with("id.example: client error"), "{gone}");
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let base_url = format!("http://{}", free.expect("a port")).parse().ok();
    let servers = HashMap::from([(name("id.example"), ServerSettings { base_url, v1_form: false })]);
    let port =
        HyperIdentityServer::new(IdentityServerSettings { servers, ..short() }).expect("good settings");
    let refused = told(port.validated(name("id.example"), session("1"), token()).await);
    assert!(refused.contains("onnection refused"), "{refused}");
}

#[tokio::test]
async fn a_name_that_leads_to_no_public_host_is_not_connected_to() {
    let site = TestSite::start(Plan::default()).await;
    let port = HyperIdentityServer::new(short()).expect("good settings");
    let here = site.address.port();
    for host in [
        "localhost",
        "LOCALHOST",
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::127.0.0.1]",
        "[::]",
        "0.0.0.0",
        "169.254.169.254",
        "[fe80::1]",
        "10.0.0.1",
        "[fd00:ec2::254]",
    ] {
        let server = name(&format!("{host}:{here}"));
        let answer = told(port.validated(server.clone(), session("1"), token()).await);
        let judged = answer.contains("is not a host on the public internet");
        // Neither TLS nor every resolver knows the odd spellings of an address.
        assert!(judged || answer.ends_with("invalid dns name") || answer.contains("dns error"), "{answer}");
        assert!(answer.starts_with(&format!("{server}: ")), "{answer}");
    }
    assert_eq!(site.connections(), 0);
    // Without a port, too.
    let answer = told(port.validated(name("127.0.0.1"), session("1"), token()).await);
    assert!(answer.contains("public internet"), "{answer}");
    // The operator's word for the same host is taken.
    let port = at(&site, false, short());
    assert!(told(port.validated(site.name(), session("1"), token()).await).contains("M_NO_VALID_SESSION"));
    assert_eq!(site.connections(), 1);
}

#[tokio::test]
async fn a_name_is_asked_over_tls_that_a_known_authority_vouches_for() {
    let (folder, tls) = certificates();
    let site = TestSite::start(Plan { tls: Some(tls), ..Plan::default() }).await;
    let plain = TestSite::start(Plan::default()).await;
    let ask = |outbound: OutboundSettings, server: IdentityServerName| async move {
        let settings = IdentityServerSettings {
            outbound,
            timeout: Duration::from_secs(5),
            ..IdentityServerSettings::default()
        };
        let port = HyperIdentityServer::new(settings).expect("good settings");
        told(port.validated(server, session("1"), token()).await)
    };
    let known = ask(loopback_permitted(Some(folder.path())), site.name()).await;
    assert!(known.contains("M_NO_VALID_SESSION"), "{known}");
    let unknown = ask(loopback_permitted(None), site.name()).await;
    assert!(unknown.contains("certificate"), "{unknown}");
    let other_name = name(&format!("127.0.0.1:{}", site.address.port()));
    let other_name = ask(loopback_permitted(Some(folder.path())), other_name).await;
    assert!(other_name.contains("certificate"), "{other_name}");
    let before = site.received().len();
    let without_tls = ask(loopback_permitted(None), plain.name()).await;
    assert!(!without_tls.contains("M_"), "{without_tls}");
    assert_eq!((plain.received().len(), site.received().len()), (0, before));
}

#[test]
fn settings_that_make_no_sense_are_named() {
    let with = |text: &str| {
        let named = ServerSettings { base_url: text.parse().ok(), v1_form: false };
        let servers = HashMap::from([(name("id.example"), named)]);
        HyperIdentityServer::new(IdentityServerSettings { servers, ..IdentityServerSettings::default() })
    };
    for bad in [
        "ftp://id.example",
        "file:///etc",
        "https://u:p@id.example",
        "https://id.example/?a",
        "https://id.example/#a",
    ] {
        let line = with(bad).expect_err(bad).to_string();
        assert!(line.starts_with("the base_url of id.example "), "{line}");
    }
    for good in ["http://127.0.0.1:8090", "https://id.example/", "https://id.example/prefix/"] {
        assert!(with(good).is_ok(), "{good}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let outbound = loopback_permitted(Some(folder.path()));
    let settings = IdentityServerSettings { outbound, ..IdentityServerSettings::default() };
    let line = HyperIdentityServer::new(settings).expect_err("no such file").to_string();
    assert!(line.contains("ca.pem"), "{line}");
}

#[test]
fn debug_shows_neither_key_nor_base_url() {
    let base_url = "https://internal.example/hidden".parse().ok();
    let servers = HashMap::from([(name("id.example"), ServerSettings { base_url, v1_form: false })]);
    let settings =
        IdentityServerSettings { servers, signing_key: Some(key()), ..IdentityServerSettings::default() };
    let shown = format!("{:?}", HyperIdentityServer::new(settings));
    assert!(shown.contains("a_uTBo") && !shown.contains(SEED) && !shown.contains("hidden"), "{shown}");
}
