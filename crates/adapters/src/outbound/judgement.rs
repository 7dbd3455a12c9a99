//! Which addresses may be connected to when a client chose the host.
//!
//! Denied is whatever is not a host on the public internet: [IPv4] and [IPv6] special-purpose addresses. An IPv6
//! address that stands for an IPv4 address is judged as that address.
//!
//! [IPv4]: https://www.iana.org/assignments/iana-ipv4-special-registry/iana-ipv4-special-registry.xhtml
//! [IPv6]: https://www.iana.org/assignments/iana-ipv6-special-registry/iana-ipv6-special-registry.xhtml

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Address and prefix length.
type V4 = ([u8; 4], u8);

/// Address and prefix length.
type V6 = ([u16; 8], u8);

const DENIED_V4: [V4; 17] = [
    ([0, 0, 0, 0], 8),       // this network
    ([10, 0, 0, 0], 8),      // private
    ([100, 64, 0, 0], 10),   // carrier-grade NAT
    ([127, 0, 0, 0], 8),     // loopback
    ([169, 254, 0, 0], 16),  // link-local, cloud metadata
    ([172, 16, 0, 0], 12),   // private
    ([192, 0, 0, 0], 24),    // protocol assignments
    ([192, 0, 2, 0], 24),    // documentation
    ([192, 31, 196, 0], 24), // AS112
    ([192, 52, 193, 0], 24), // automatic multicast tunnelling
    ([192, 88, 99, 0], 24),  // 6to4 relays
    ([192, 168, 0, 0], 16),  // private
    ([198, 18, 0, 0], 15),   // benchmarks
    ([198, 51, 100, 0], 24), // documentation
    ([203, 0, 113, 0], 24),  // documentation
    ([224, 0, 0, 0], 4),     // multicast
    ([240, 0, 0, 0], 4),     // reserved, broadcast
];

const DENIED_V6: [V6; 6] = [
    // All that is not 2000::/3: unspecified, loopback, v4-compatible, discard, unique local, link-local, site-local,
    // multicast, local NAT64, segment routing.
    ([0, 0, 0, 0, 0, 0, 0, 0], 3),
    ([0x4000, 0, 0, 0, 0, 0, 0, 0], 2),
    ([0x8000, 0, 0, 0, 0, 0, 0, 0], 1),
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), // protocol assignments: Teredo, benchmarks, ORCHID
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), // documentation
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), // documentation
];

/// Says which addresses may be connected to.
#[derive(Clone, Debug)]
pub struct Judgement(Arc<Lists>);

#[derive(Debug)]
struct Lists {
    denied: Vec<IpNet>,
    allowed: Vec<IpNet>,
}

/// An address, or every address of a name, is one that is not connected to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{host} is not a host on the public internet; outbound exceptions can permit it")]
pub struct NotPermitted {
    /// The host as it was named.
    pub host: String,
}

impl Judgement {
    /// Denies special-purpose networks and `deny`, except for `allow`.
    pub fn new(deny: Vec<IpNet>, allow: Vec<IpNet>) -> Self {
        let v4 = |(address, length): V4| Some(IpNet::V4(Ipv4Net::new(address.into(), length).ok()?));
        let v6 = |(address, length): V6| Some(IpNet::V6(Ipv6Net::new(address.into(), length).ok()?));
        let special = DENIED_V4.into_iter().filter_map(v4).chain(DENIED_V6.into_iter().filter_map(v6));
        Self(Arc::new(Lists { denied: special.chain(deny).collect(), allowed: allow }))
    }

    /// Whether an address may be connected to.
    pub fn permits(&self, address: IpAddr) -> bool {
        let judged = stands_for(address);
        let listed = |list: &[IpNet], address: IpAddr| list.iter().any(|network| network.contains(&address));
        let allowed = listed(&self.0.allowed, address) || listed(&self.0.allowed, judged);
        // An operator may deny an IPv6 network that stands for IPv4 addresses: then both are judged.
        let denied = match judged == address {
            true => listed(&self.0.denied, address),
            false => listed(&self.0.denied, judged) || listed(self.added(), address),
        };
        allowed || !denied
    }

    /// The networks that the operator denies.
    fn added(&self) -> &[IpNet] {
        self.0.denied.get(DENIED_V4.len() + DENIED_V6.len()..).unwrap_or_default()
    }
}

/// The IPv4 address that an IPv6 address stands for, if it does: IPv4-mapped (`::ffff:0:0/96`), NAT64
/// (`64:ff9b::/96`) and 6to4 (`2002::/16`).
fn stands_for(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match Ipv6Addr::segments(&v6) {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permits(judgement: &Judgement, text: &str) -> bool {
        text.parse().is_ok_and(|address| judgement.permits(address))
    }

    fn nets(texts: &[&str]) -> Result<Vec<IpNet>, ipnet::AddrParseError> {
        texts.iter().map(|text| text.parse()).collect()
    }

    #[test]
    fn hosts_on_the_public_internet_are_permitted() {
        let judgement = Judgement::new(Vec::new(), Vec::new());
        for good in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.1",
            "192.167.255.255",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700:4700::1111",
            "2a00:1450::1",
            "2001:4860:4860::8888",
            "::ffff:1.1.1.1",
            "64:ff9b::101:101",
            "2002:101:101::1",
        ] {
            assert!(permits(&judgement, good), "{good}");
        }
    }

    #[test]
    fn special_purpose_addresses_are_denied_in_every_spelling() {
        let judgement = Judgement::new(Vec::new(), Vec::new());
        for bad in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.0.170",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "192.168.255.255",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::2",
            "::127.0.0.1",
            "::8.8.8.8",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0:127.0.0.1",
            "64:ff9b::127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "2001:2::1",
            "2001:10::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "2002:a00:1::1",
            "2002:a9fe:a9fe::",
            "3fff::1",
            "4000::1",
            "5f00::1",
            "8000::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "feff::1",
            "ff02::1",
            "ff0e::1",
        ] {
            assert!(bad.parse::<IpAddr>().is_ok(), "{bad} is an address");
            assert!(!permits(&judgement, bad), "{bad}");
        }
    }

    #[test]
    fn the_operator_can_permit_and_deny_more() -> Result<(), ipnet::AddrParseError> {
        let allow = nets(&["10.1.0.0/16", "fd00::/8", "::1/128"])?;
        let judgement = Judgement::new(nets(&["1.0.0.0/8", "2a00::/16", "2002::/16"])?, allow);
        for good in ["10.1.2.3", "::ffff:10.1.2.3", "fd00::1", "::1", "2.0.0.1"] {
            assert!(permits(&judgement, good), "{good}");
        }
        for bad in
            ["10.2.0.1", "127.0.0.1", "fc00::1", "1.1.1.1", "::ffff:1.1.1.1", "2a00::1", "2002:808:808::"]
        {
            assert!(!permits(&judgement, bad), "{bad}");
        }
        Ok(())
    }
}
