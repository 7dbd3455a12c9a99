//! Which addresses may be added, as the operator says.

use regex::{Regex, RegexBuilder};

use super::{Address, Country, InvalidCountry, Medium};

/// One rule, for addresses of one medium.
#[derive(Clone, Debug)]
pub struct Rule {
    medium: Medium,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    /// The domain itself or any domain below it.
    Domain(String),
    /// Phone numbers of the country.
    Country(Country),
    /// The whole canonical address.
    Pattern(Regex),
}

/// A rule that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRule {
    /// The domain is none.
    #[error("{0:?} is not a domain name")]
    Domain(String),
    /// The country is none, or has no phone numbers.
    #[error("country {0:?} {1}")]
    Country(String, InvalidCountry),
    /// The pattern is no regular expression, or too large a one.
    #[error("{0:?} is not a regular expression: {1}")]
    Pattern(String, String),
}

impl Rule {
    /// Email addresses at `domain` or any domain below it.
    ///
    /// # Errors
    /// [`InvalidRule::Domain`] when `domain` is no domain name.
    pub fn domain(domain: &str) -> Result<Self, InvalidRule> {
        let probe = super::EmailAddress::parse(&format!("a@{domain}"));
        let email = probe.map_err(|_| InvalidRule::Domain(domain.to_owned()))?;
        Ok(Self { medium: Medium::Email, test: Test::Domain(email.domain().to_owned()) })
    }

    /// Phone numbers of a country, named by its two letters; those of a country code that several countries share are
    /// told apart.
    ///
    /// # Errors
    /// [`InvalidRule::Country`] when no country with phone numbers has that name.
    pub fn country(country: &str) -> Result<Self, InvalidRule> {
        let parsed = Country::parse(country);
        let country = parsed.map_err(|error| InvalidRule::Country(country.to_owned(), error))?;
        Ok(Self { medium: Medium::Msisdn, test: Test::Country(country) })
    }

    /// Addresses of `medium` that match a regular expression as a whole, in canonical form.
    ///
    /// # Errors
    /// [`InvalidRule::Pattern`] when it is no regular expression, or compiles to more than 1 MiB.
    pub fn pattern(medium: Medium, pattern: &str) -> Result<Self, InvalidRule> {
        let regex = RegexBuilder::new(&format!("^(?:{pattern})$"))
            .size_limit(1 << 20)
            .build()
            .map_err(|error| InvalidRule::Pattern(pattern.to_owned(), error.to_string()))?;
        Ok(Self { medium, test: Test::Pattern(regex) })
    }

    fn matches(&self, address: &Address) -> bool {
        self.medium == address.medium()
            && match (&self.test, address) {
                (Test::Pattern(regex), address) => regex.is_match(address.as_str()),
                (Test::Domain(domain), Address::Email(email)) => email
                    .domain()
                    .strip_suffix(domain.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with('.')),
                (Test::Country(country), Address::Msisdn(number)) => number.country() == Some(*country),
                (Test::Domain(_), Address::Msisdn(_)) | (Test::Country(_), Address::Email(_)) => false,
            }
    }
}

/// The operator's allow and deny rules. A denied address is denied even if it is allowed; where a medium has allow
/// rules, an address of that medium must meet one.
#[derive(Clone, Debug, Default)]
pub struct AddressRules {
    allow: Vec<Rule>,
    deny: Vec<Rule>,
}

impl AddressRules {
    /// Rules from their two lists.
    pub fn new(allow: Vec<Rule>, deny: Vec<Rule>) -> Self {
        Self { allow, deny }
    }

    /// Whether the address may be added.
    pub fn permit(&self, address: &Address) -> bool {
        let mut allow = self.allow.iter().filter(|rule| rule.medium == address.medium()).peekable();
        let allowed = allow.peek().is_none() || allow.any(|rule| rule.matches(address));
        allowed && !self.deny.iter().any(|rule| rule.matches(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deny_beats_allow_and_allow_lists_are_exhaustive() -> Result<(), Box<dyn std::error::Error>> {
        let email = |text: &str| Address::parse(Medium::Email, text);
        let rules = AddressRules::new(
            vec![Rule::domain("Example.org")?, Rule::pattern(Medium::Email, r"[a-z]+@partner\.example")?],
            vec![Rule::pattern(Medium::Email, r"root@.*")?, Rule::domain("evil.example.org")?],
        );
        for (address, permitted) in [
            ("a@example.org", true),
            ("a@sub.example.org", true),
            ("a@notexample.org", false),
            ("a@example.org.evil", false),
            ("bob@partner.example", true),
            ("bob2@partner.example", false),
            ("bob@partner.example.net", false),
            ("root@example.org", false),
            ("a@evil.example.org", false),
            ("a@other.example", false),
        ] {
            assert_eq!(rules.permit(&email(address)?), permitted, "{address}");
        }
        assert!(
            rules.permit(&Address::parse(Medium::Msisdn, "447700900813")?),
            "rules for email bind email alone"
        );
        assert!(AddressRules::default().permit(&email("any@where.example")?));
        Ok(())
    }

    #[test]
    fn a_domain_rule_covers_both_spellings() -> Result<(), Box<dyn std::error::Error>> {
        let rules = AddressRules::new(vec![], vec![Rule::domain("xn--bcher-kva.example")?]);
        assert!(!rules.permit(&Address::parse(Medium::Email, "a@bücher.example")?));
        Ok(())
    }

    #[test]
    fn numbers_are_ruled_by_country_and_by_their_digits() -> Result<(), Box<dyn std::error::Error>> {
        let rules = AddressRules::new(
            vec![Rule::country("GB")?, Rule::country("US")?, Rule::pattern(Medium::Msisdn, "49151.*")?],
            vec![Rule::pattern(Medium::Msisdn, "447700.*")?, Rule::country("JE")?],
        );
        for (number, permitted) in [
            ("447400123456", true),
            ("447700900813", false),
            ("15208782491", true),
            // Canada and Jersey share a country code with others.
            ("16137827274", false),
            ("447797712345", false),
            ("4915123456789", true),
            ("4930123456", false),
            ("33631966543", false),
        ] {
            assert_eq!(rules.permit(&Address::parse(Medium::Msisdn, number)?), permitted, "{number}");
        }
        assert!(rules.permit(&Address::parse(Medium::Email, "a@example.org")?));
        Ok(())
    }

    #[test]
    fn nonsense_is_named() {
        assert!(matches!(Rule::country("gb"), Err(InvalidRule::Country(country, _)) if country == "gb"));
        assert!(matches!(Rule::domain("not a domain"), Err(InvalidRule::Domain(d)) if d == "not a domain"));
        assert!(matches!(Rule::pattern(Medium::Email, "("), Err(InvalidRule::Pattern(p, _)) if p == "("));
    }
}
