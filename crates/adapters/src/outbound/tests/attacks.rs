//! The connector as attackers meet it: every spelling of an address, names with several addresses, and names that
//! change their mind.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::Uri;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::*;

/// Literals that lead to this machine, to its network or to nobody, in every spelling that some parser takes.
const SPELLINGS: [&str; 32] = [
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0x7f.0.0.1",
    "0177.0.0.1",
    "017700000001",
    "0",
    "0.0.0.0",
    "0x0",
    "10.1",
    "167772161",
    "0xa9fea9fe",
    "2852039166",
    "169.254.43518",
    "255.255.255.255",
    "4294967295",
    "[::1]",
    "[::]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:a9fe:a9fe]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b::169.254.169.254]",
    "[2002:7f00:1::]",
    "[2001:0:7f00:1::]",
    "[fe80::1]",
    "[fd00:ec2::254]",
    "localhost",
];

/// Looks names up in a script: one list of addresses a time, the last one for ever.
#[derive(Clone)]
struct Scripted(Arc<Mutex<(VecDeque<Vec<Ipv4Addr>>, usize)>>);

impl Scripted {
    fn new(answers: &[&[[u8; 4]]]) -> Self {
        let answers = answers.iter().map(|list| list.iter().copied().map(Ipv4Addr::from).collect());
        Self(Arc::new(Mutex::new((answers.collect(), 0))))
    }

    fn asked(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    fn next(&self) -> std::vec::IntoIter<SocketAddr> {
        let mut script = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        script.1 += 1;
        let answer = if script.0.len() > 1 { script.0.pop_front() } else { script.0.front().cloned() };
        let answer = answer.unwrap_or_default().into_iter().map(|ip| SocketAddr::from((ip, 0)));
        answer.collect::<Vec<_>>().into_iter()
    }
}

impl Service<Name> for Scripted {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = std::io::Error;
    type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _name: Name) -> Self::Future {
        std::future::ready(Ok(self.next()))
    }
}

/// Listeners at one port of 127.0.0.1 (inside, denied) and 127.0.0.2 (outside, permitted).
async fn inside_and_outside() -> (TcpListener, TcpListener, u16) {
    for _ in 0..50 {
        let outside = TcpListener::bind("127.0.0.2:0").await.expect("a port");
        let port = outside.local_addr().expect("an address").port();
        if let Ok(inside) = TcpListener::bind(("127.0.0.1", port)).await {
            return (inside, outside, port);
        }
    }
    unreachable!("no port is free at both addresses")
}

fn connector(resolver: Scripted) -> JudgedConnector<Scripted> {
    let allow = vec!["127.0.0.2/32".parse().expect("a network")];
    let judgement = Judgement::new(Vec::new(), allow);
    let resolver = JudgedResolver::new(resolver, judgement.clone());
    JudgedConnector::new(tcp(resolver, Duration::from_secs(5)), judgement)
}

/// Connects once; where to, or why not.
async fn connect(connector: &mut JudgedConnector<Scripted>, port: u16) -> Result<IpAddr, String> {
    let uri: Uri = format!("https://id.example:{port}/").parse().expect("a URI");
    let connected = connector.ready().await.expect("ready").call(uri).await;
    let stream = connected.map_err(|error| format!("{error:?}"))?.into_inner();
    Ok(stream.peer_addr().expect("a peer").ip())
}

/// Whether nobody has connected to a listener.
async fn is_untouched(listener: &TcpListener) -> bool {
    // What was connected before this own connection would come before it.
    let address = listener.local_addr().expect("an address");
    let mut own = tokio::net::TcpStream::connect(address).await.expect("connected");
    own.write_all(b"own").await.expect("written");
    let (_, first) = listener.accept().await.expect("accepted");
    first == own.local_addr().expect("an address")
}

#[tokio::test]
async fn the_judged_address_is_the_one_that_is_connected_to() {
    let (inside, outside, port) = inside_and_outside().await;
    // A name that is outside when it is judged, and inside whenever it is asked again.
    let resolver = Scripted::new(&[&[[127, 0, 0, 2]], &[[127, 0, 0, 1]]]);
    let mut connector = connector(resolver.clone());
    assert_eq!(connect(&mut connector, port).await, Ok(IpAddr::from([127, 0, 0, 2])));
    assert_eq!(resolver.asked(), 1, "it is looked up once for a connection");
    outside.accept().await.expect("accepted");
    let rebound = connect(&mut connector, port).await;
    assert!(rebound.as_ref().is_err_and(|error| error.contains("NotPermitted")), "{rebound:?}");
    assert_eq!(resolver.asked(), 2, "and anew for the next");
    assert!(is_untouched(&inside).await);
}

#[tokio::test]
async fn of_several_addresses_only_permitted_ones_are_tried() {
    let (inside, outside, port) = inside_and_outside().await;
    for answer in [&[[127, 0, 0, 1], [127, 0, 0, 2]][..], &[[127, 0, 0, 2], [127, 0, 0, 1], [10, 0, 0, 1]]] {
        let mut connector = connector(Scripted::new(&[answer]));
        assert_eq!(connect(&mut connector, port).await, Ok(IpAddr::from([127, 0, 0, 2])), "{answer:?}");
    }
    // Where the permitted one does not answer, the others are still not tried.
    drop(outside);
    let mut connector = connector(Scripted::new(&[&[[127, 0, 0, 2], [127, 0, 0, 1]]]));
    assert!(connect(&mut connector, port).await.is_err());
    assert!(is_untouched(&inside).await);
}

#[tokio::test]
async fn no_spelling_of_an_address_inside_is_connected_to() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let outbound = Outbound::new(&OutboundSettings::default()).expect("made");
    let bounds = Bounds { time: Duration::from_secs(10), body_bytes: 10 };
    for host in SPELLINGS {
        let request = Request::get(format!("https://{host}:{port}/")).body(Bytes::new()).expect("a request");
        let answer = outbound.exchange(NamedBy::Client, request, bounds).await;
        // A name that nobody resolves is as good as one that is refused.
        assert!(
            matches!(answer, Err(ExchangeError::NotPermitted(_) | ExchangeError::Broken(_))),
            "{host}: {answer:?}"
        );
    }
    assert!(is_untouched(&listener).await);
}

#[test]
fn a_zone_makes_no_host() {
    for host in ["[fe80::1%25eth0]", "[fe80::1%eth0]", "[::1%25lo]"] {
        let host_of = |uri: Uri| uri.host().map(str::to_owned);
        let parsed = format!("https://{host}/").parse::<Uri>().ok().and_then(host_of);
        let literal = parsed.as_deref().and_then(|host| host.trim_matches(['[', ']']).parse::<IpAddr>().ok());
        assert_eq!(literal, None, "{host}: {parsed:?}");
    }
}
