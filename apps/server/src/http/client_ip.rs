//! The client's address: the peer's, unless the peer is a proxy that the operator trusts.
//!
//! What a proxy says is read from the right, since each proxy appends and only what trusted ones appended is true.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, FromRequestParts};
use http::HeaderMap;
use http::header::FORWARDED;
use http::request::Parts;

use super::{Api, ForwardingHeader, HttpSettings};

/// The client's address, IPv4 as such even where it came mapped into IPv6; `None` where the host did not tell the peer.
pub(crate) struct ClientIp(pub(crate) Option<IpAddr>);

impl FromRequestParts<Api> for ClientIp {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Infallible> {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
        Ok(Self(peer.map(|peer| client_ip(peer, &parts.headers, &api.settings))))
    }
}

fn client_ip(peer: IpAddr, headers: &HeaderMap, settings: &HttpSettings) -> IpAddr {
    let is_trusted = |ip: IpAddr| settings.trusted_proxies.iter().any(|net| net.contains(&ip));
    let mut client = peer.to_canonical();
    for hop in hops(headers, settings.forwarding_header).into_iter().rev() {
        // Left of what cannot be read nothing is known to be true.
        let (true, Some(ip)) = (is_trusted(client), hop) else { break };
        client = ip.to_canonical();
    }
    client
}

/// The addresses that proxies wrote, in their order; `None` for one that cannot be read.
fn hops(headers: &HeaderMap, header: ForwardingHeader) -> Vec<Option<IpAddr>> {
    let values = match header {
        ForwardingHeader::XForwardedFor => headers.get_all("x-forwarded-for"),
        ForwardingHeader::Forwarded => headers.get_all(FORWARDED),
    };
    // Bytes beyond ASCII, which a client may write, spoil their own element and not the one that a proxy appended.
    let elements = values.iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    elements
        .map(|element| std::str::from_utf8(element).unwrap_or("?"))
        .map(|element| match header {
            ForwardingHeader::XForwardedFor => parse_node(element),
            ForwardingHeader::Forwarded => element.split(';').find_map(|pair| {
                let (name, node) = pair.split_once('=')?;
                name.trim().eq_ignore_ascii_case("for").then(|| parse_node(node))?
            }),
        })
        .collect()
}

/// An address, with or without quotes, brackets and port.
fn parse_node(text: &str) -> Option<IpAddr> {
    let text = text.trim().trim_matches('"');
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|node| node.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(peer: &str, header: (&'static str, &str), trusted: &[&str], kind: ForwardingHeader) -> String {
        let settings = HttpSettings {
            trusted_proxies: trusted.iter().filter_map(|net| net.parse().ok()).collect(),
            forwarding_header: kind,
            ..HttpSettings::default()
        };
        assert_eq!(settings.trusted_proxies.len(), trusted.len());
        let mut headers = HeaderMap::new();
        for value in header.1.split('|').filter_map(|value| value.parse().ok()) {
            headers.append(header.0, value);
        }
        peer.parse().map(|peer| client_ip(peer, &headers, &settings).to_string()).unwrap_or_default()
    }

    #[test]
    fn only_trusted_proxies_are_believed_and_read_from_the_right() {
        let proxies = ["10.0.0.0/8", "fd00::/8"];
        for (peer, forwarded, client) in [
            ("192.0.2.1", "198.51.100.7", "192.0.2.1"),
            ("10.0.0.1", "198.51.100.7", "198.51.100.7"),
            ("10.0.0.1", "1.1.1.1, 198.51.100.7", "198.51.100.7"),
            ("10.0.0.1", "1.1.1.1|198.51.100.7", "198.51.100.7"),
            ("10.0.0.1", "198.51.100.7, 10.2.0.1", "198.51.100.7"),
            ("10.0.0.1", "10.3.0.1, 10.2.0.1", "10.3.0.1"),
            ("10.0.0.1", "198.51.100.7, nonsense", "10.0.0.1"),
            ("10.0.0.1", "198.51.100.7, nonsense, 10.2.0.1", "10.2.0.1"),
            ("10.0.0.1", "", "10.0.0.1"),
            ("10.0.0.1", "198.51.100.7:4711", "198.51.100.7"),
            ("fd00::1", "2001:db8::1", "2001:db8::1"),
            ("fd00::1", "[2001:db8::1]:4711", "2001:db8::1"),
            ("::ffff:10.0.0.1", "::ffff:198.51.100.7", "198.51.100.7"),
            ("::ffff:192.0.2.1", "198.51.100.7", "192.0.2.1"),
        ] {
            let header = ("x-forwarded-for", forwarded);
            assert_eq!(
                seen(peer, header, &proxies, ForwardingHeader::XForwardedFor),
                client,
                "{peer} {forwarded}"
            );
        }
    }

    #[test]
    fn the_standard_header_is_read_where_it_is_the_one_that_counts() {
        let proxies = ["10.0.0.0/8"];
        for (forwarded, client) in [
            ("for=198.51.100.7", "198.51.100.7"),
            ("For=\"[2001:db8::1]:4711\";proto=https", "2001:db8::1"),
            ("for=1.1.1.1, proto=http;for=198.51.100.7;by=10.0.0.2", "198.51.100.7"),
            ("for=198.51.100.7, for=unknown", "10.0.0.1"),
            ("for=198.51.100.7, for=_hidden, for=10.9.9.9", "10.9.9.9"),
        ] {
            let header = ("forwarded", forwarded);
            assert_eq!(
                seen("10.0.0.1", header, &proxies, ForwardingHeader::Forwarded),
                client,
                "{forwarded}"
            );
        }
        let header = ("forwarded", "for=198.51.100.7");
        assert_eq!(seen("10.0.0.1", header, &proxies, ForwardingHeader::XForwardedFor), "10.0.0.1");
    }

    mod generated {
        use proptest::collection::vec;
        use proptest::prelude::*;

        use super::*;

        fn forged() -> impl Strategy<Value = Vec<u8>> {
            prop_oneof![
                "((for|by|proto)=|[\"\\[\\]:;,. 0-9a-f]){0,40}".prop_map(String::into_bytes),
                vec(any::<u8>(), 0..60),
                any::<[u8; 4]>().prop_map(|ip| std::net::Ipv4Addr::from(ip).to_string().into_bytes()),
            ]
        }

        fn settings(kind: ForwardingHeader) -> HttpSettings {
            let trusted_proxies = ["10.0.0.0/8"].iter().filter_map(|net| net.parse().ok()).collect();
            HttpSettings { trusted_proxies, forwarding_header: kind, ..HttpSettings::default() }
        }

        proptest! {
            /// A client writes what it likes; the proxy in front appends the truth, in a value or in a header of its own.
            #[test]
            fn whatever_a_client_forges_what_the_proxy_says_counts(
                forged in vec(forged(), 0..4),
                client in any::<[u8; 4]>(),
                is_own_header in any::<bool>(),
                is_standard in any::<bool>(),
            ) {
                let client = IpAddr::from(client);
                let (kind, name, said) = if is_standard {
                    (ForwardingHeader::Forwarded, "forwarded", format!("for={client};proto=https"))
                } else {
                    (ForwardingHeader::XForwardedFor, "x-forwarded-for", client.to_string())
                };
                let settings = settings(kind);
                let mut values: Vec<Vec<u8>> = forged;
                match values.last_mut() {
                    Some(last) if !is_own_header => last.extend_from_slice(format!(", {said}").as_bytes()),
                    _ => values.push(said.into_bytes()),
                }
                let mut headers = HeaderMap::new();
                let mut last_was_written = false;
                for value in values {
                    last_was_written = http::HeaderValue::from_bytes(&value)
                        .map(|value| headers.append(name, value))
                        .is_ok();
                }
                let seen = client_ip(IpAddr::from([10, 0, 0, 1]), &headers, &settings);
                let is_proxy = settings.trusted_proxies.iter().any(|net| net.contains(&client));
                if last_was_written && !is_proxy {
                    prop_assert_eq!(seen, client);
                }
                // Whoever is no proxy of ours is the client, whatever is written.
                let stranger = IpAddr::from([192, 0, 2, 1]);
                prop_assert_eq!(client_ip(stranger, &headers, &settings), stranger);
            }
        }
    }
}
