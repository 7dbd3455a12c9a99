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
    let elements = values.iter().flat_map(|value| value.to_str().unwrap_or("?").split(','));
    elements
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
}
