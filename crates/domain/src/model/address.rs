//! Addresses in canonical form: two spellings of one mailbox are one address, from the door on.

use std::fmt;

use icu_casemap::CaseMapper;
use icu_normalizer::ComposingNormalizer;
use idna::AsciiDenyList;
use idna::uts46::{DnsLength, Hyphens, Uts46};
use serde::{Deserialize, Serialize};

/// The kind of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Medium {
    /// An email address.
    Email,
    /// A phone number.
    Msisdn,
}

impl Medium {
    /// The medium's name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::Msisdn => "msisdn",
        }
    }

    /// Reads a medium's name; `None` for one that this server does not know.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "email" => Some(Self::Email),
            "msisdn" => Some(Self::Msisdn),
            _ => None,
        }
    }
}

impl fmt::Display for Medium {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What was given is not an address of its medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an address of this medium")]
pub struct InvalidAddress;

/// A third-party identifier's address, in canonical form.
///
/// `Debug` shows it masked; [`Address::as_str`] is the whole of it and stays out of logs.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "medium", content = "address", rename_all = "lowercase")]
pub enum Address {
    /// An email address.
    Email(EmailAddress),
    /// A phone number.
    Msisdn(Msisdn),
}

impl Address {
    /// What stands in place of an erased account's addresses, of whatever medium they were.
    pub fn erased() -> Self {
        Self::Email(EmailAddress::erased())
    }

    /// Parses an address of `medium` into its canonical form.
    ///
    /// # Errors
    /// [`InvalidAddress`] when it cannot be one.
    pub fn parse(medium: Medium, text: &str) -> Result<Self, InvalidAddress> {
        match medium {
            Medium::Email => EmailAddress::parse(text).map(Self::Email),
            Medium::Msisdn => Msisdn::parse(text).map(Self::Msisdn),
        }
    }

    /// The medium.
    pub const fn medium(&self) -> Medium {
        match self {
            Self::Email(_) => Medium::Email,
            Self::Msisdn(_) => Medium::Msisdn,
        }
    }

    /// The canonical form, as it is stored and listed.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Email(email) => email.as_str(),
            Self::Msisdn(number) => number.as_str(),
        }
    }

    /// The address with most of it hidden, for logs.
    pub fn masked(&self) -> String {
        match self {
            Self::Email(email) => email.masked(),
            Self::Msisdn(number) => number.masked(),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked())
    }
}

/// An email address: local part case-folded and composed (NFC), domain in UTS-46 form as readable Unicode.
///
/// The local part is a dot-atom ([RFC 6531] letters and digits beyond ASCII included); quoted local parts, comments,
/// display names and address literals are no part of an account's contacts. Neither are marks that Unicode counts as
/// no letters, such as a nukta or a virama: what writes mails refuses them, so no proof could ever be sent there.
///
/// [RFC 6531]: https://www.rfc-editor.org/rfc/rfc6531
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EmailAddress {
    canonical: String,
    at: usize,
}

impl EmailAddress {
    /// Parses an email address; spaces and tabs around it are dropped.
    ///
    /// # Errors
    /// [`InvalidAddress`] unless there is exactly one `@` between a dot-atom of at most 64 bytes and a domain
    /// name, 254 bytes in all.
    pub fn parse(text: &str) -> Result<Self, InvalidAddress> {
        // Longer input is not worth folding; canonical forms grow at most threefold.
        if text.len() > 1024 {
            return Err(InvalidAddress);
        }
        let email = Self::canonicalise(text.trim_matches([' ', '\t']))?;
        // A form that folding would change again would be a second spelling of the same mailbox.
        if Self::canonicalise(&email.canonical)? == email { Ok(email) } else { Err(InvalidAddress) }
    }

    fn canonicalise(text: &str) -> Result<Self, InvalidAddress> {
        let (local, domain) = text.split_once('@').ok_or(InvalidAddress)?;
        let local = fold(local);
        let is_dot_atom = local.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atom_char));
        if local.len() > 64 || !is_dot_atom {
            return Err(InvalidAddress);
        }
        let uts46 = Uts46::new();
        uts46
            .to_ascii(domain.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast, DnsLength::Verify)
            .map_err(|_| InvalidAddress)?;
        let (domain, valid) =
            uts46.to_unicode(domain.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast);
        valid.map_err(|_| InvalidAddress)?;
        let canonical = format!("{local}@{domain}");
        if canonical.len() > 254 {
            return Err(InvalidAddress);
        }
        Ok(Self { at: local.len(), canonical })
    }

    /// What stands in place of an erased account's addresses. No mail arrives there.
    fn erased() -> Self {
        Self { canonical: "erased@erased.invalid".to_owned(), at: "erased".len() }
    }

    /// The canonical form.
    pub fn as_str(&self) -> &str {
        &self.canonical
    }

    /// What stands before the `@`.
    pub fn local(&self) -> &str {
        self.canonical.get(..self.at).unwrap_or_default()
    }

    /// What stands after the `@`, as readable Unicode.
    pub fn domain(&self) -> &str {
        self.canonical.get(self.at + 1..).unwrap_or_default()
    }

    /// The domain as mail servers want it: `xn--` labels.
    pub fn ascii_domain(&self) -> String {
        idna::domain_to_ascii(self.domain()).unwrap_or_else(|_| self.domain().to_owned())
    }

    /// The first character of the local part and the domain, for logs: `a…@example.org`.
    pub fn masked(&self) -> String {
        format!("{}…@{}", self.local().chars().next().unwrap_or_default(), self.domain())
    }
}

/// Case-folds and composes.
fn fold(text: &str) -> String {
    let nfc = ComposingNormalizer::new_nfc();
    nfc.normalize(&CaseMapper::new().fold_string(&nfc.normalize(text))).into_owned()
}

/// The characters of an atom: RFC 5322 `atext`, and letters and digits beyond ASCII (Unicode's Alphabetic and Number,
/// which vowel signs belong to and other marks do not). Nothing invisible, even where Unicode calls it a letter.
fn is_atom_char(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c);
    }
    let invisible = matches!(c, '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{3164}' | '\u{ffa0}');
    c.is_alphanumeric() && !invisible
}

impl fmt::Debug for EmailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked())
    }
}

impl TryFrom<String> for EmailAddress {
    type Error = InvalidAddress;

    fn try_from(text: String) -> Result<Self, InvalidAddress> {
        Self::parse(&text)
    }
}

impl From<EmailAddress> for String {
    fn from(email: EmailAddress) -> Self {
        email.canonical
    }
}

/// A phone number as E.164 digits, without the plus: 1 to 15 digits that do not begin with 0.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Msisdn(String);

impl Msisdn {
    /// Parses the digits of an international number; a leading `+` is dropped.
    ///
    /// # Errors
    /// [`InvalidAddress`] when anything else is in it.
    pub fn parse(text: &str) -> Result<Self, InvalidAddress> {
        let digits = text.strip_prefix('+').unwrap_or(text);
        let plausible = (1..=15).contains(&digits.len())
            && digits.bytes().all(|b| b.is_ascii_digit())
            && !digits.starts_with('0');
        if plausible { Ok(Self(digits.to_owned())) } else { Err(InvalidAddress) }
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first two and the last two digits, for logs: `44…13`.
    pub fn masked(&self) -> String {
        let (head, tail) = (self.0.get(..2), self.0.len().checked_sub(2).and_then(|at| self.0.get(at..)));
        if self.0.len() < 6 {
            "…".to_owned()
        } else {
            format!("{}…{}", head.unwrap_or(""), tail.unwrap_or(""))
        }
    }
}

impl fmt::Debug for Msisdn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked())
    }
}

impl TryFrom<String> for Msisdn {
    type Error = InvalidAddress;

    fn try_from(text: String) -> Result<Self, InvalidAddress> {
        Self::parse(&text)
    }
}

impl From<Msisdn> for String {
    fn from(number: Msisdn) -> Self {
        number.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_mailbox_are_one_address() {
        for (given, canonical) in [
            ("alice@example.org", "alice@example.org"),
            (" Alice@EXAMPLE.org\t", "alice@example.org"),
            ("ALICE+Tag@example.org", "alice+tag@example.org"),
            ("straße@example.org", "strasse@example.org"),
            ("STRASSE@example.org", "strasse@example.org"),
            ("e\u{301}ric@example.org", "éric@example.org"),
            ("a@bücher.example", "a@bücher.example"),
            ("a@xn--bcher-kva.example", "a@bücher.example"),
            ("a@BÜCHER.example", "a@bücher.example"),
            ("a@straße.example", "a@straße.example"),
            ("a@localhost", "a@localhost"),
            ("डाटा@example.org", "डाटा@example.org"),
            ("用户@example.org", "用户@example.org"),
        ] {
            assert_eq!(
                EmailAddress::parse(given).as_ref().map(EmailAddress::as_str),
                Ok(canonical),
                "{given}"
            );
        }
    }

    #[test]
    fn what_is_no_mailbox_is_refused() {
        let long_local = format!("{}@example.org", "a".repeat(65));
        let long = format!("a@{}.example", "a.".repeat(130));
        for bad in [
            "",
            "@",
            "alice",
            "alice@",
            "@example.org",
            "a@b@example.org",
            "a b@example.org",
            "a@exa mple.org",
            "alice@example.org\r\nBcc: x@example.org",
            "al\nice@example.org",
            "a\0@example.org",
            "a@example.org\0",
            "a,b@example.org",
            "a@example.org,b@example.org",
            "Alice <a@example.org>",
            "\"a b\"@example.org",
            "a@[127.0.0.1]",
            ".a@example.org",
            "a.@example.org",
            "a..b@example.org",
            "a@example..org",
            "a@-example.org",
            "a@exa_mple.org",
            "a@example.org.",
            "a@.",
            "a(c)@example.org",
            "a;b@example.org",
            "a\u{202e}b@example.org",
            "a\u{200b}b@example.org",
            "a\u{feff}@example.org",
            "a＠b",
            "a@b\u{2028}.org",
            "a\u{115f}@example.org",
            "a\u{fe0f}@example.org",
            // A letter with a nukta, which composition takes apart.
            "\u{a36}@example.org",
            "\u{a38}\u{a3c}@example.org",
            "\u{930}\u{94d}@example.org",
            "a\u{20ac}@example.org",
            &long_local,
            &long,
        ] {
            assert_eq!(EmailAddress::parse(bad), Err(InvalidAddress), "{bad:?}");
        }
    }

    #[test]
    fn a_mail_server_gets_the_domain_in_ascii() {
        let email = EmailAddress::parse("a@Bücher.example");
        assert_eq!(email.map(|e| e.ascii_domain()), Ok("xn--bcher-kva.example".to_owned()));
    }

    #[test]
    fn a_log_sees_no_whole_address() {
        assert_eq!(format!("{:?}", Address::parse(Medium::Email, "alice@example.org")), "Ok(a…@example.org)");
        assert_eq!(format!("{:?}", Address::parse(Medium::Msisdn, "447700900813")), "Ok(44…13)");
    }

    #[test]
    fn a_phone_number_is_e164_digits() {
        assert_eq!(Msisdn::parse("+447700900813").as_ref().map(Msisdn::as_str), Ok("447700900813"));
        for bad in ["", "+", "0123", "44 77", "1234567890123456", "٤٤٧٧٠٠٩٠٠٨١٣", "++1"] {
            assert_eq!(Msisdn::parse(bad), Err(InvalidAddress), "{bad}");
        }
    }

    mod generated {
        use proptest::prelude::*;

        use super::*;

        proptest! {
            #[test]
            fn canonical_form_is_stable(text in "\\PC{0,20}@[a-zA-Z0-9ßÜé.-]{1,20}") {
                if let Ok(email) = EmailAddress::parse(&text) {
                    prop_assert_eq!(EmailAddress::parse(email.as_str()), Ok(email.clone()));
                    let on_the_wire = format!("{}@{}", email.local(), email.ascii_domain());
                    prop_assert_eq!(EmailAddress::parse(&on_the_wire), Ok(email));
                }
            }

            #[test]
            fn any_text_parses_or_is_refused_without_panic(text in any::<String>()) {
                if let Ok(email) = EmailAddress::parse(&text) {
                    prop_assert!(email.as_str().len() <= 254);
                    prop_assert!(!email.as_str().contains(|c: char| c.is_control() || c.is_whitespace() || c == ','));
                    prop_assert_eq!(email.as_str().matches('@').count(), 1);
                }
            }

            #[test]
            fn case_does_not_matter(local in "[a-z0-9]{1,12}", domain in "[a-z]{1,12}\\.[a-z]{2,4}") {
                let lower = format!("{local}@{domain}");
                prop_assert_eq!(EmailAddress::parse(&lower.to_uppercase()), EmailAddress::parse(&lower));
            }
        }
    }
}
