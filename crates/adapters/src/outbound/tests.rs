#![expect(clippy::expect_used, reason = "a test fails where what it prepares fails")]

mod attacks;

use std::net::{IpAddr, SocketAddr};

use hyper_util::client::legacy::connect::dns::Name;
use tower::{Service, ServiceExt, service_fn};

use super::*;

type Lookup = Result<std::vec::IntoIter<SocketAddr>, std::io::Error>;

/// A resolver to which every name stands for `addresses`.
async fn resolved(addresses: &[&str], allow: &[&str]) -> Result<Vec<String>, String> {
    let found: Vec<SocketAddr> =
        addresses.iter().map(|text| SocketAddr::new(text.parse().expect("an address"), 0)).collect();
    let inner = service_fn(move |_: Name| {
        let found = found.clone();
        async move { Lookup::Ok(found.into_iter()) }
    });
    let allow = allow.iter().map(|text| text.parse().expect("a network")).collect();
    let mut resolver = JudgedResolver::new(inner, Judgement::new(Vec::new(), allow));
    let name = "id.example".parse().expect("a name");
    let answer = resolver.ready().await.expect("ready").call(name).await;
    answer.map(|good| good.map(|a| a.ip().to_string()).collect()).map_err(|error| error.to_string())
}

#[tokio::test]
async fn of_a_names_addresses_only_the_public_ones_are_used() {
    let good = resolved(&["10.0.0.1", "1.1.1.1", "::1", "2606:4700::1", "169.254.169.254"], &[]).await;
    assert_eq!(good, Ok(vec!["1.1.1.1".to_owned(), "2606:4700::1".to_owned()]));
}

#[tokio::test]
async fn a_name_without_a_public_address_is_refused() {
    let refusal = "id.example is not a host on the public internet; outbound exceptions can permit it";
    for addresses in [&["127.0.0.1"][..], &["::ffff:127.0.0.1", "fd00::1"], &["169.254.169.254"], &[]] {
        assert_eq!(resolved(addresses, &[]).await, Err(refusal.to_owned()), "{addresses:?}");
    }
    assert_eq!(resolved(&["127.0.0.1", "10.0.0.1"], &["10.0.0.0/8"]).await, Ok(vec!["10.0.0.1".to_owned()]));
}

#[tokio::test]
async fn odd_spellings_of_an_address_are_judged_as_what_they_stand_for() {
    let mut resolver = JudgedResolver::new(GaiResolver::new(), Judgement::new(Vec::new(), Vec::new()));
    for odd in ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0", "10.1", "localhost"] {
        let answer = resolver.ready().await.expect("ready").call(odd.parse().expect("a name")).await;
        assert!(answer.is_err(), "{odd}");
    }
}

#[tokio::test]
async fn a_name_that_a_client_chose_is_never_spoken_to_in_the_clear() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    let allow = vec!["127.0.0.0/8".parse().expect("a network")];
    let outbound = Outbound::new(&OutboundSettings { allow, ..OutboundSettings::default() }).expect("made");
    let request = || Request::get(&url).body(Bytes::new()).expect("a request");
    let bounds = Bounds { time: Duration::from_millis(500), body_bytes: 10 };
    let answer = outbound.exchange(NamedBy::Client, request(), bounds).await;
    assert!(matches!(answer, Err(ExchangeError::Broken(_))), "{answer:?}");
    let answer = outbound.exchange(NamedBy::Settings, request(), bounds).await;
    assert!(matches!(answer, Err(ExchangeError::TimedOut(_))), "{answer:?}");
}

#[test]
fn a_file_without_certificates_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ca.pem");
    let error = || {
        let settings = OutboundSettings { extra_ca_file: Some(path.clone()), ..OutboundSettings::default() };
        Outbound::new(&settings).expect_err("no certificate").to_string()
    };
    assert!(error().starts_with(&format!("cannot use the certificate authorities in {}", path.display())));
    std::fs::write(&path, "no PEM").expect("written");
    assert!(error().ends_with("no PEM certificate in it"), "{}", error());
    std::fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").expect("written");
    assert!(!error().is_empty());
}
