//! Where a browser goes once an address is confirmed.

use std::fmt;

use serde::{Deserialize, Serialize};
use url::Url;

use super::Sid;

/// An `http` or `https` address with a host. Any other scheme is refused: `javascript:` would run on our page.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NextLink(Url);

/// What was given is not a link that a browser may be sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("next_link must be an http or https URL of at most 2048 bytes")]
pub struct InvalidNextLink;

impl NextLink {
    /// Parses a link.
    ///
    /// # Errors
    /// [`InvalidNextLink`] when it is no absolute `http` or `https` URL, its host could not be one, or it is longer than 2048
    /// bytes.
    pub fn parse(text: &str) -> Result<Self, InvalidNextLink> {
        let url = Url::parse(text).map_err(|_| InvalidNextLink)?;
        // URLs let quotes and braces be in a host's name; no name in the world has them.
        let is_name = |host: &str| host.chars().all(|c| c.is_ascii_alphanumeric() || ".-_[]:".contains(c));
        if text.len() > 2048
            || !matches!(url.scheme(), "http" | "https")
            || !url.host_str().is_some_and(is_name)
        {
            return Err(InvalidNextLink);
        }
        Ok(Self(url))
    }

    /// The link as it was given, in normal form.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The link with `sid` appended to its query, before the fragment: clients look for it there.
    pub fn with_sid(&self, sid: &Sid) -> String {
        let mut url = self.0.clone();
        url.query_pairs_mut().append_pair("sid", sid.as_str());
        url.into()
    }
}

impl TryFrom<String> for NextLink {
    type Error = InvalidNextLink;

    fn try_from(text: String) -> Result<Self, InvalidNextLink> {
        Self::parse(&text)
    }
}

impl From<NextLink> for String {
    fn from(link: NextLink) -> Self {
        link.0.into()
    }
}

// A link may carry what its client keeps to itself; only the host is shown.
impl fmt::Debug for NextLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NextLink({}…)", self.0.host_str().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_and_https_are_links() {
        for good in ["https://app.example/#/done", "http://localhost:8080/", "HTTPS://A.example"] {
            assert!(NextLink::parse(good).is_ok(), "{good}");
        }
        let long = format!("https://a.example/{}", "a".repeat(2048));
        for bad in [
            "",
            "javascript:alert(1)",
            "data:text/html,x",
            "file:///etc/passwd",
            "/relative",
            "https://",
            &long,
        ] {
            assert_eq!(NextLink::parse(bad), Err(InvalidNextLink), "{bad}");
        }
    }

    #[test]
    fn the_sid_goes_into_the_query_before_the_fragment() {
        let link = |text: &str| NextLink::parse(text).map(|l| l.with_sid(&Sid::new("s1")));
        assert_eq!(link("https://a.example/x#/room"), Ok("https://a.example/x?sid=s1#/room".to_owned()));
        assert_eq!(link("https://a.example/x?a=b"), Ok("https://a.example/x?a=b&sid=s1".to_owned()));
    }

    mod generated {
        use proptest::prelude::*;

        use super::*;

        proptest! {
            /// Whatever a client gives, a browser is sent to http or https alone, and stays within one header.
            #[test]
            fn no_link_runs_a_script_or_ends_a_header(
                text in prop_oneof![
                    "\\PC{0,40}",
                    "[ \t\r\n\x00-\x1f]{0,3}(j|J)(a|\t)vascript:[ -~]{0,30}",
                    "(data|vbscript|file|blob|http|https|HTTPS|view-source|javascript):(//)?[ -~]{0,40}",
                    "https?://[a-z.]{1,10}/[\\PC\r\n\t\"'<>]{0,40}",
                ],
                sid in "[0-9a-zA-Z.=_-]{1,30}",
            ) {
                if let Ok(link) = NextLink::parse(&text) {
                    let target = link.with_sid(&Sid::new(&*sid));
                    prop_assert!(target.starts_with("http://") || target.starts_with("https://"), "{target}");
                    prop_assert!(target.bytes().all(|byte| byte.is_ascii_graphic()), "{target}");
                    prop_assert!(!target.contains(['"', '<', '>']), "{target}");
                    let url = Url::parse(&target).map_err(|error| TestCaseError::fail(error.to_string()))?;
                    let sids: Vec<_> = url.query_pairs().filter(|(name, _)| name == "sid").collect();
                    prop_assert_eq!(sids.last().map(|(_, value)| value.as_ref()), Some(&*sid));
                }
            }
        }
    }
}
