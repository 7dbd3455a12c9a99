//! The client's address: the peer's, unless the peer is a proxy that the operator trusts.
//!
//! What a proxy says is read from the right, since each proxy appends and only what trusted ones appended is true.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, FromRequestParts};
use http::header::FORWARDED;
use http::request::Parts;
use http::{HeaderMap, HeaderName};

use super::{Api, ForwardingHeader, HttpSettings};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

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
    for hop in hops(headers, settings.forwarding_header) {
        // Left of what cannot be read nothing is known to be true.
        let (true, Some(ip)) = (is_trusted(client), hop) else { break };
        client = ip.to_canonical();
    }
    client
}

/// The addresses that proxies wrote, the last one first; `None` for one that cannot be read.
///
/// Each line is read by itself: nothing that is open at the end of one, such as a quoted string, reaches into the next.
fn hops(headers: &HeaderMap, header: ForwardingHeader) -> impl Iterator<Item = Option<IpAddr>> {
    let name = match header {
        ForwardingHeader::XForwardedFor => X_FORWARDED_FOR,
        ForwardingHeader::Forwarded => FORWARDED,
    };
    let lines = headers.get_all(name).into_iter().rev();
    lines.flat_map(move |line| elements_from_the_right(line.as_bytes(), header)).map(move |element| {
        match header {
            ForwardingHeader::XForwardedFor => parse_node(element),
            ForwardingHeader::Forwarded => parse_forwarded(element),
        }
    })
}

/// What stands between the commas of a line, the last one first.
fn elements_from_the_right(line: &[u8], header: ForwardingHeader) -> impl Iterator<Item = &[u8]> {
    let mut left = Some(line);
    std::iter::from_fn(move || {
        let line = left?;
        let comma = match header {
            ForwardingHeader::XForwardedFor => line.iter().rposition(|byte| *byte == b','),
            ForwardingHeader::Forwarded => last_comma_outside_quotes(line),
        };
        let Some((before, element)) = comma.and_then(|at| line.split_at_checked(at)) else {
            return left.take();
        };
        left = Some(before);
        element.strip_prefix(b",")
    })
}

/// The last comma that stands in no quoted string.
///
/// Read from the right, what a proxy appended is understood whatever a client left open before it. In a string a quote with
/// an odd number of backslashes before it is a character; the one that opens a string has none, since `=` is before it.
fn last_comma_outside_quotes(line: &[u8]) -> Option<usize> {
    let mut is_quoted = false;
    for (at, byte) in line.iter().enumerate().rev() {
        match byte {
            b',' if !is_quoted => return Some(at),
            b'"' if is_quoted => {
                let before = line.iter().take(at).rev();
                is_quoted = before.take_while(|byte| **byte == b'\\').count() % 2 == 1;
            }
            b'"' => is_quoted = true,
            _ => {}
        }
    }
    None
}

/// What an element of [RFC 7239] gives as `for`; `None` if it gives none or two, or breaks the grammar anywhere.
///
/// An address with colons or brackets is taken without quotes, too, since there are proxies that write it so.
///
/// [RFC 7239]: https://www.rfc-editor.org/rfc/rfc7239#section-4
fn parse_forwarded(element: &[u8]) -> Option<IpAddr> {
    let mut node = None;
    let mut rest = element.trim_ascii();
    while !rest.is_empty() {
        if let Some(next) = rest.strip_prefix(b";") {
            rest = next.trim_ascii_start();
            continue;
        }
        let is_of_a_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        let (name, after) =
            rest.split_at_checked(rest.iter().take_while(|byte| is_of_a_name(byte)).count())?;
        let (value, after) = parse_value(after.strip_prefix(b"=")?)?;
        rest = after.trim_ascii_start();
        let is_whole = !name.is_empty() && (rest.is_empty() || rest.starts_with(b";"));
        let is_repeated = name.eq_ignore_ascii_case(b"for") && node.replace(value).is_some();
        if !is_whole || is_repeated {
            return None;
        }
    }
    parse_node(&node?)
}

/// The value with which `text` begins, without quotes and escapes, and what comes after it.
fn parse_value(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let Some(quoted) = text.strip_prefix(b"\"") else {
        let is_bare = |byte: &u8| byte.is_ascii_graphic() && !b"\"\\,;=".contains(byte);
        let (value, after) = text.split_at_checked(text.iter().take_while(|byte| is_bare(byte)).count())?;
        return (!value.is_empty()).then(|| (value.to_vec(), after));
    };
    let mut value = Vec::new();
    let mut bytes = quoted.iter();
    loop {
        match bytes.next()? {
            b'"' => return Some((value, bytes.as_slice())),
            b'\\' => value.push(*bytes.next()?),
            byte => value.push(*byte),
        }
    }
}

/// An address, with or without brackets and port.
fn parse_node(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?.trim();
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
            // Commas, semicolons and pairs in quoted strings are none.
            (r#"for=198.51.100.7;host="a,for=203.0.113.9""#, "198.51.100.7"),
            (r#"host="a;for=203.0.114.9";for=198.51.100.8"#, "198.51.100.8"),
            (r#"by="a\",for=203.0.113.9;host=\"b\\";for=198.51.100.7"#, "198.51.100.7"),
            (r#"host="a,for=203.0.113.9", for=198.51.100.7"#, "198.51.100.7"),
            (r#"for="198.51.\100.7";host="""#, "198.51.100.7"),
            // What a client left open ends before what a proxy appended, in the same line or in one of its own.
            (r#"for=203.0.113.9;host="a, for=198.51.100.7"#, "198.51.100.7"),
            (r#"host="a|for=198.51.100.7;host="b,for=203.0.113.9""#, "198.51.100.7"),
            (r#"for=203.0.113.9;host="a|for=198.51.100.7;by="b", for=10.9.9.9"#, "198.51.100.7"),
            (r#"host="a\|for=198.51.100.7|for=10.9.9.9;host="b\"""#, "198.51.100.7"),
            // An element that breaks the grammar says nothing.
            (r#"for=198.51.100.7;host="a"#, "10.0.0.1"),
            (r#"for=198.51.100.7;host=a""#, "10.0.0.1"),
            (r#"for=198.51.100.7;host="a\""#, "10.0.0.1"),
            (r#"for="198.51.100.7"#, "10.0.0.1"),
            (r#"for=198.51.100.7""#, "10.0.0.1"),
            (r#"for=198.51.100.7;host="a"b"#, "10.0.0.1"),
            ("for=198.51.100.7;for=203.0.113.9", "10.0.0.1"),
            ("for=198.51.100.7;FOR=\"203.0.113.9\"", "10.0.0.1"),
            ("for=198.51.100.7;host=a=b", "10.0.0.1"),
            ("for=198.51.100.7;host", "10.0.0.1"),
            ("for=198.51.100.7;=a", "10.0.0.1"),
            ("for=198.51.100.7 host=a", "10.0.0.1"),
            ("for=;host=a", "10.0.0.1"),
            ("for=198.51.100.7 ; host=a;", "198.51.100.7"),
            ("for=198.51.100.7:4711", "198.51.100.7"),
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
                "(for=1[.]1[.]1[.]1;?|host=\"a,?|by=\"[,;=a-f]{0,4}\"|[\"\\\\,; ]){0,8}"
                    .prop_map(String::into_bytes),
            ]
        }

        /// What a client may have a proxy quote, such as the name of the host that it asks for.
        fn quoted() -> impl Strategy<Value = String> {
            "([,;= a-z]|\\\\[\"\\\\,a]|[,;]for=203[.]0[.]113[.]9){0,8}"
                .prop_map(|inner| format!("\"{inner}\""))
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
                (host, by) in (quoted(), quoted()),
            ) {
                let client = IpAddr::from(client);
                let (kind, name, said) = if is_standard {
                    (ForwardingHeader::Forwarded, "forwarded", format!("host={host};for={client};by={by};proto=https"))
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
