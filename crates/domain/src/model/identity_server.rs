//! Identity servers: their names, and what each is trusted for.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Address, BindingKey, KeyedHash, Sid, Timestamp, UserId};

/// An identity server's name: host and optional port in ASCII, lower case. No scheme, no path, no user info.
///
/// It follows the grammar of [server names], at most 255 bytes.
///
/// [server names]: https://spec.matrix.org/v1.18/appendices/#server-name
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IdentityServerName(String);

/// What was given is not a server name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("id_server must be a host name with an optional port, without scheme, path or user info")]
pub struct InvalidServerName;

impl IdentityServerName {
    /// Parses a name; capitals become small letters.
    ///
    /// # Errors
    /// [`InvalidServerName`] when it is not host and optional port.
    pub fn parse(text: &str) -> Result<Self, InvalidServerName> {
        if text.is_empty() || text.len() > 255 || !text.is_ascii() {
            return Err(InvalidServerName);
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (literal, rest) = rest.split_once(']').ok_or(InvalidServerName)?;
                literal.parse::<std::net::Ipv6Addr>().map_err(|_| InvalidServerName)?;
                (
                    None,
                    if rest.is_empty() {
                        None
                    } else {
                        Some(rest.strip_prefix(':').ok_or(InvalidServerName)?)
                    },
                )
            }
            None => match text.split_once(':') {
                Some((host, port)) => (Some(host), Some(port)),
                None => (Some(text), None),
            },
        };
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let host_is_good = host.is_none_or(|host| host.split('.').all(is_label));
        let port_is_good = port.is_none_or(|port| {
            port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
        if host_is_good && port_is_good {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(InvalidServerName)
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IdentityServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for IdentityServerName {
    type Error = InvalidServerName;

    fn try_from(text: String) -> Result<Self, InvalidServerName> {
        Self::parse(&text)
    }
}

impl From<IdentityServerName> for String {
    fn from(name: IdentityServerName) -> Self {
        name.0
    }
}

/// What one identity server is trusted for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedServer {
    /// Its name.
    pub name: IdentityServerName,
    /// Whether its word proves an address. Whoever it is could claim any address that nobody owns.
    pub validates: bool,
    /// Whether clients may name it to bind and unbind.
    pub binds: bool,
}

/// The identity servers that the operator trusts.
#[derive(Clone, Debug, Default)]
pub struct TrustedServers(Vec<TrustedServer>);

impl TrustedServers {
    /// The operator's list, in the operator's order.
    pub fn new(servers: Vec<TrustedServer>) -> Self {
        Self(servers)
    }

    /// Whether the server's word proves an address.
    pub fn validates(&self, name: &IdentityServerName) -> bool {
        self.0.iter().any(|server| server.name == *name && server.validates)
    }

    /// Whether clients may bind and unbind at the server.
    pub fn binds(&self, name: &IdentityServerName) -> bool {
        self.0.iter().any(|server| server.name == *name && server.binds)
    }

    /// All of them, in the operator's order.
    pub fn names(&self) -> impl Iterator<Item = &IdentityServerName> {
        self.0.iter().map(|server| &server.name)
    }

    /// The first server that validates, for requests that name none.
    pub fn first_that_validates(&self) -> Option<&IdentityServerName> {
        self.0.iter().find(|server| server.validates).map(|server| &server.name)
    }
}

/// Who validates an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Validation {
    /// This server sends the message and owns the session.
    #[default]
    Direct,
    /// Requests are proxied to an identity server.
    IdentityServer,
}

/// A session that an identity server opened at our request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteSession {
    /// Where.
    pub server: IdentityServerName,
    /// Its identifier there.
    pub sid: Sid,
    /// The address that it was opened for.
    pub address: Address,
    /// When.
    pub opened_at: Timestamp,
}

/// An identity server's proof that was spent here. Server and sid are unique together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpentProof {
    /// Whose word it was.
    pub server: IdentityServerName,
    /// The session there.
    pub sid: Sid,
    /// Who spent it.
    pub user_id: UserId,
    /// The keyed hash of address and client secret: the same request again is known by it.
    pub key: KeyedHash,
    /// What it proved.
    pub address: Address,
    /// When it was spent.
    pub spent_at: Timestamp,
}

/// That an account's address is published at an identity server, or may be. Account, address and server are unique
/// together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The account it is published for.
    pub user_id: UserId,
    /// The address.
    pub address: Address,
    /// Where.
    pub server: IdentityServerName,
    /// Whether the server has said so.
    pub state: BindingState,
    /// When the server was last about to be asked, to bind or to unbind. That it has answered does not move it.
    pub since: Timestamp,
}

impl Binding {
    /// What the binding is found by.
    pub fn key(&self) -> BindingKey {
        BindingKey {
            user_id: self.user_id.clone(),
            address: self.address.clone(),
            server: self.server.clone(),
        }
    }
}

/// How far a binding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BindingState {
    /// It was about to be asked for: the server may know it or not.
    Pending,
    /// The server has confirmed it.
    Bound,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_name_is_host_and_port() {
        for (given, name) in [
            ("matrix.org", "matrix.org"),
            ("Vector.IM", "vector.im"),
            ("localhost:8090", "localhost:8090"),
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("[::1]:443", "[::1]:443"),
            ("[::ffff:127.0.0.1]", "[::ffff:127.0.0.1]"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ] {
            assert_eq!(IdentityServerName::parse(given).as_ref().map(IdentityServerName::as_str), Ok(name));
        }
        let long = "a.".repeat(150);
        for bad in [
            "",
            "https://a.example",
            "a.example/",
            "a.example/path",
            "u@a.example",
            "u:p@a.example",
            "a.example?x",
            "a.example#x",
            "a b",
            " a.example",
            "a.example:",
            "a.example:0",
            "a.example:65536",
            "a.example:+1",
            "a.example:80:80",
            "[::1",
            "[::1]x",
            "[zz]",
            "bücher.example",
            "a..b",
            ".a",
            "a.",
            "-a.b",
            "a_b.c",
            "a.example\r\nHost: x",
            "a.example\0",
            &long,
        ] {
            assert_eq!(IdentityServerName::parse(bad), Err(InvalidServerName), "{bad:?}");
        }
    }

    #[test]
    fn trust_is_exact_and_by_purpose() -> Result<(), InvalidServerName> {
        let name = IdentityServerName::parse;
        let trusted = TrustedServers::new(vec![
            TrustedServer { name: name("binds.example")?, validates: false, binds: true },
            TrustedServer { name: name("both.example:8090")?, validates: true, binds: true },
        ]);
        assert!(!trusted.validates(&name("binds.example")?) && trusted.binds(&name("BINDS.example")?));
        assert!(trusted.validates(&name("both.example:8090")?) && !trusted.validates(&name("both.example")?));
        assert!(!trusted.binds(&name("other.example")?));
        assert_eq!(trusted.first_that_validates(), Some(&name("both.example:8090")?));
        Ok(())
    }

    mod generated {
        use proptest::prelude::*;

        use super::*;

        proptest! {
            /// A name goes into a URL and into a header behind quotes: nothing in it ends either.
            #[test]
            fn a_name_is_host_and_port_and_nothing_besides(
                text in prop_oneof![
                    "\\PC{0,30}",
                    "[a-zA-Z0-9.:\\[\\]@/?#%\"\\\\ -]{0,30}",
                    "[a-z0-9.-]{1,20}(:[0-9]{1,6})?",
                    "\\[[0-9a-f:.%]{0,40}\\](:[0-9]{1,6})?",
                ],
            ) {
                if let Ok(name) = IdentityServerName::parse(&text) {
                    let name = name.as_str();
                    prop_assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b)), "{name}");
                    prop_assert_eq!(IdentityServerName::parse(name).map(String::from), Ok(name.to_owned()));
                    let url = url::Url::parse(&format!("https://{name}/_matrix/identity/v2"));
                    if let Ok(url) = url {
                        prop_assert!(url.username().is_empty() && url.password().is_none(), "{url}");
                        prop_assert_eq!(url.path(), "/_matrix/identity/v2");
                        prop_assert!(url.query().is_none() && url.fragment().is_none(), "{url}");
                    }
                }
            }
        }
    }
}
