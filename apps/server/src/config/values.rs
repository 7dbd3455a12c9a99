//! The values that settings have. Each parses as it is read: one that exists is well-formed.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;
use serde::de::{Deserialize, Deserializer, Error as _};
use threepid_domain::model::{EmailAddress, IdentityServerName, Medium};
use url::Url;

use super::declare::{Value, quoted};

macro_rules! read_from_text {
    ($($type:ident: $wants:literal, $shown:expr;)*) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::parse(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is not {}", $wants)))
            }
        }

        impl Value for $type {
            const WANTS: &'static str = $wants;
            const QUOTED: bool = true;

            fn toml(&self) -> Option<String> {
                let show: fn(&Self) -> String = $shown;
                quoted(&show(self))
            }
        }
    )*};
}

read_from_text! {
    BaseUrl: "an http or https address without user, query or fragment", |url| url.0.to_string();
    Span: "a time such as \"30s\", \"10m\" or \"1h 30m\"",
        |span| humantime_serde::re::humantime::format_duration(span.0).to_string();
    Mailbox: "a mailbox such as \"noreply@example.org\" or \"Example <noreply@example.org>\"",
        |mailbox| mailbox.0.clone();
    Network: "an IP address or a network such as \"10.0.0.0/8\"", |network| network.0.to_string();
}

/// Where a server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BaseUrl(pub(crate) Url);

impl BaseUrl {
    fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        let plain = url.query().is_none() && url.fragment().is_none();
        let anonymous = url.username().is_empty() && url.password().is_none();
        (matches!(url.scheme(), "http" | "https") && plain && anonymous).then_some(Self(url))
    }
}

/// A length of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

impl Span {
    pub(crate) const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    fn parse(text: &str) -> Option<Self> {
        humantime_serde::re::humantime::parse_duration(text).ok().map(Self)
    }
}

/// A mailbox, with or without a name. The text is kept as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mailbox(pub(crate) String);

impl Mailbox {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let address = match text.split_once('<') {
            Some((_name, rest)) => rest.strip_suffix('>')?,
            None => text,
        };
        let sound = !text.contains(char::is_control) && EmailAddress::parse(address).is_ok();
        sound.then(|| Self(text.to_owned()))
    }
}

/// A network; an address alone is a network of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network(pub(crate) IpNet);

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
        text.parse().ok().or_else(address).map(Self)
    }
}

/// A password or a key. It is never shown, not even where it cannot be read.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself. Whoever calls this keeps it out of logs and errors.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // serde's own message would quote what it found.
        String::deserialize(deserializer).map(Self).map_err(|_| D::Error::custom("text in quotes is wanted"))
    }
}

impl Value for Secret {
    const WANTS: &'static str = "text, secret";
    const QUOTED: bool = true;

    fn toml(&self) -> Option<String> {
        None
    }
}

/// Headers by name. Their values are never shown: one may be a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SecretHeaders(pub(crate) BTreeMap<String, Secret>);

impl<'de> Deserialize<'de> for SecretHeaders {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // serde's own message would quote what it found.
        BTreeMap::deserialize(deserializer)
            .map(Self)
            .map_err(|_| D::Error::custom("{ Name = \"value\" } is wanted, each value text in quotes"))
    }
}

impl Value for SecretHeaders {
    const WANTS: &'static str = "{ Name = \"value\" }, the values secret";
    const QUOTED: bool = false;

    fn toml(&self) -> Option<String> {
        None
    }
}

/// Statuses of HTTP, from the first to the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Statuses(pub(crate) RangeInclusive<u16>);

impl Statuses {
    fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let status = |text: &str| {
            let is_one = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|status| is_one && (100..600).contains(status))
        };
        let (first, last): (u16, u16) = (status(first.trim())?, status(last.trim())?);
        (first <= last).then_some(Self(first..=last))
    }
}

impl<'de> Deserialize<'de> for Statuses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(i64),
            Text(String),
        }
        let wanted = || D::Error::custom(format!("{} is wanted", <Self as Value>::WANTS));
        let text = match Written::deserialize(deserializer).map_err(|_| wanted())? {
            Written::Number(number) => number.to_string(),
            Written::Text(text) => text,
        };
        Self::parse(&text).ok_or_else(wanted)
    }
}

impl Value for Statuses {
    const WANTS: &'static str = "list of statuses such as 400 or \"400-499\"";
    const QUOTED: bool = false;

    fn toml(&self) -> Option<String> {
        let (first, last) = (self.0.start(), self.0.end());
        if first == last { Some(first.to_string()) } else { quoted(&format!("{first}-{last}")) }
    }
}

/// Where the database is. It may hold a password, so it is shown without.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct DatabaseUrl(String);

impl DatabaseUrl {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The URL itself. Whoever calls this keeps it out of logs and errors.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// Whether it is a server's, which several instances may share.
    pub(crate) fn is_shared(&self) -> bool {
        self.0.starts_with("postgres://") || self.0.starts_with("postgresql://")
    }

    /// The file of an embedded database; `None` where the URL names none, or one in memory, which would forget
    /// everything.
    pub(crate) fn file(&self) -> Option<&str> {
        let url = self.0.as_str();
        let path = match url.strip_prefix("sqlite:") {
            Some(rest) => rest.strip_prefix("//").unwrap_or(rest).split('?').next()?,
            None if url.contains("://") => return None,
            None => url,
        };
        (!path.is_empty() && !url.contains(":memory:") && !url.contains("mode=memory")).then_some(path)
    }

    /// The server's name; `None` for a Unix socket.
    pub(crate) fn host(&self) -> Option<String> {
        let url = Url::parse(&self.0).ok()?;
        let host = self.parameter("host").or_else(|| url.host_str().map(str::to_owned))?;
        (!host.starts_with('/') && !host.starts_with("%2F")).then_some(host)
    }

    /// How its `sslmode` secures the connection.
    pub(crate) fn tls(&self) -> Option<DatabaseTls> {
        match self.parameter("sslmode")?.as_str() {
            "disable" => Some(DatabaseTls::Disable),
            "prefer" => Some(DatabaseTls::Prefer),
            "require" => Some(DatabaseTls::Require),
            "verify-ca" => Some(DatabaseTls::VerifyCa),
            "verify-full" => Some(DatabaseTls::VerifyFull),
            _ => None,
        }
    }

    fn parameter(&self, name: &str) -> Option<String> {
        let url = Url::parse(&self.0).ok()?;
        url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.file().is_some() {
            return f.write_str(&self.0);
        }
        let Ok(mut url) = Url::parse(&self.0) else { return f.write_str("(a database)") };
        url.set_query(None);
        if url.password().is_some() && url.set_password(None).is_err() {
            return f.write_str("(a database)");
        }
        write!(f, "{url}")
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl<'de> Deserialize<'de> for DatabaseUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // serde's own message would quote what it found.
        String::deserialize(deserializer).map(Self).map_err(|_| D::Error::custom("text in quotes is wanted"))
    }
}

impl Value for DatabaseUrl {
    const WANTS: &'static str = "a path, a sqlite:// URL or a postgres:// URL";
    const QUOTED: bool = true;

    fn toml(&self) -> Option<String> {
        quoted(&self.to_string())
    }
}

/// One rule on addresses.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AddressRule {
    pub(crate) domain: Option<String>,
    pub(crate) country: Option<String>,
    pub(crate) medium: Option<Medium>,
    pub(crate) pattern: Option<String>,
}

impl Value for AddressRule {
    const WANTS: &'static str = "list of { domain = \"…\" }, { country = \"…\" } or { medium = \"email\" or \"msisdn\", pattern = \"…\" }";
    const QUOTED: bool = false;

    fn toml(&self) -> Option<String> {
        None
    }
}

/// An identity server that is trusted, and what for.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TrustedIdentityServer {
    pub(crate) name: IdentityServerName,
    pub(crate) base_url: Option<BaseUrl>,
    #[serde(default)]
    pub(crate) validates: bool,
    #[serde(default = "yes")]
    pub(crate) binds: bool,
    #[serde(default)]
    pub(crate) v1_form: bool,
}

fn yes() -> bool {
    true
}

impl Value for TrustedIdentityServer {
    const WANTS: &'static str = "list of { name = \"…\", base_url = \"…\", validates = false, binds = true, v1_form = false }, all but the name optional";
    const QUOTED: bool = false;

    fn toml(&self) -> Option<String> {
        None
    }
}

/// Declares a setting that is one of a few words.
macro_rules! choice {
    ($( $(#[doc = $doc:literal])+ $name:ident { $( $(#[doc = $variant_doc:literal])+ $variant:ident = $word:literal, )+ } )*) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
        pub(crate) enum $name {
            $( $(#[doc = $variant_doc])+ #[serde(rename = $word)] $variant, )+
        }

        impl Value for $name {
            const WANTS: &'static str = choice!(@words $($word),+);
            const QUOTED: bool = true;

            fn toml(&self) -> Option<String> {
                quoted(match self { $( Self::$variant => $word, )+ })
            }
        }
    )*};
    (@words $first:literal $(, $word:literal)*) => {
        concat!("\"", $first, "\"" $(, " or \"", $word, "\"")*)
    };
}

choice! {
    /// Who knows access tokens.
    AccountsChoice {
        /// The homeserver is asked.
        Homeserver = "homeserver",
        /// A table of our own.
        Local = "local",
    }
    /// Who asks users again who they are, before an address is added.
    ReauthenticationChoice {
        /// The homeserver.
        Homeserver = "homeserver",
        /// This server, for passwords of our own.
        Local = "local",
        /// Nobody.
        None = "none",
    }
    /// What `POST /account/3pid` may do.
    DeprecatedAddChoice {
        /// Whatever it could.
        On = "on",
        /// Only sessions of identity servers.
        IdentityServerOnly = "identity_server_only",
        /// Nothing.
        Off = "off",
    }
    /// Who validates addresses.
    ValidationChoice {
        /// This server.
        Direct = "direct",
        /// An identity server.
        IdentityServer = "identity_server",
    }
    /// How mail leaves.
    Transport {
        /// To a mail server.
        Smtp = "smtp",
        /// Into a folder.
        File = "file",
        /// Not at all.
        None = "none",
    }
    /// How SMS leave.
    SmsTransportChoice {
        /// To a gateway over HTTP.
        Http = "http",
        /// Not at all.
        None = "none",
    }
    /// How a gateway is asked.
    SmsMethod {
        /// With a body.
        Post = "POST",
        /// With a body, too.
        Put = "PUT",
        /// Without.
        Get = "GET",
    }
    /// How the connection to the mail server is secured.
    Security {
        /// In clear text.
        None = "none",
        /// Plain at first, then TLS or nothing.
        Starttls = "starttls",
        /// TLS from the first byte.
        Tls = "tls",
    }
    /// How the connection to the database is secured.
    DatabaseTls {
        /// In clear text.
        Disable = "disable",
        /// With TLS where the server has it.
        Prefer = "prefer",
        /// With TLS.
        Require = "require",
        /// With TLS and a certificate that can be trusted.
        VerifyCa = "verify-ca",
        /// With TLS and a trusted certificate for this host.
        VerifyFull = "verify-full",
    }
    /// The header in which a proxy says who its client was.
    ForwardingHeader {
        /// The usual one.
        XForwardedFor = "x-forwarded-for",
        /// RFC 7239's.
        Forwarded = "forwarded",
    }
    /// How log lines look.
    LogFormat {
        /// One JSON object a line.
        Json = "json",
        /// For people.
        Text = "text",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_is_http_or_https_and_nothing_besides() {
        for good in ["http://localhost:8090", "https://matrix.example.org/prefix/"] {
            assert!(BaseUrl::parse(good).is_some(), "{good}");
        }
        for bad in
            ["", "matrix.example.org", "ftp://a.b", "https://a.b/?x", "https://a.b/#x", "https://u:p@a.b"]
        {
            assert!(BaseUrl::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_mailbox_has_one_sound_address_and_perhaps_a_name() {
        for good in ["a@b.example", "Example <a@b.example>", "\"Dr. Who\" <a@b.example>"] {
            assert!(Mailbox::parse(good).is_some(), "{good}");
        }
        for bad in
            ["", "Example", "a@", "Example <a@b.example", "a@b.example, c@d.example", "A\nB <a@b.example>"]
        {
            assert!(Mailbox::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_database_url_is_shown_without_its_password() {
        for (url, shown) in [
            ("sqlite://threepid.db?mode=rw", "sqlite://threepid.db?mode=rw"),
            ("/var/lib/threepid.db", "/var/lib/threepid.db"),
            ("postgres://a:hush@db.example:5433/c?password=hush", "postgres://a@db.example:5433/c"),
            ("postgres://a:hush@@/c", "postgres://a@/c"),
            ("postgres://a:hu#sh@b/c", "(a database)"),
            ("mysql://a:hush@b/c", "mysql://a@b/c"),
        ] {
            let url = DatabaseUrl::new(url);
            assert!(!format!("{url} {url:?}").contains("hu"), "{url}");
            assert!(url.to_string() == shown || url.to_string() == "(a database)", "{url}");
        }
    }

    #[test]
    fn a_database_url_tells_its_host_and_its_tls() {
        for (url, host, tls) in [
            (
                "postgres://a@db.example/c?sslmode=verify-full",
                Some("db.example"),
                Some(DatabaseTls::VerifyFull),
            ),
            ("postgres:///c?host=/run/postgresql", None, None),
            ("postgres://%2Frun%2Fpostgresql/c", None, None),
        ] {
            let url = DatabaseUrl::new(url);
            assert_eq!((url.host().as_deref(), url.tls()), (host, tls));
        }
    }

    #[test]
    fn statuses_are_one_or_from_one_to_another() {
        for (text, read) in [
            ("400", Some(400..=400)),
            ("200-299", Some(200..=299)),
            ("500 - 599", Some(500..=599)),
            ("299-200", None),
            ("40", None),
            ("600", None),
            ("+40", None),
            ("4xx", None),
            ("400-", None),
            ("", None),
        ] {
            assert_eq!(Statuses::parse(text).map(|statuses| statuses.0), read, "{text}");
        }
    }

    #[test]
    fn a_secret_is_not_in_its_debug() {
        assert_eq!(format!("{:?}", Secret::new("hush")), "Secret(…)");
    }
}
