//! Phone numbers as people write them, by the numbering plans of Google's [libphonenumber].
//!
//! What is accepted is a *possible* number: one of a length that numbers there have which can get messages. Whether it
//! has been given to somebody is not asked, since plans grow faster than tables of them. Numbers that cost whoever sends
//! to them, or that reach no person (premium rate, shared cost, toll free, pagers, …), are refused, as are those of no
//! country, such as satellite networks'.
//!
//! [libphonenumber]: https://github.com/google/libphonenumber

use std::borrow::Cow;
use std::fmt;
use std::sync::PoisonError;

use phonenumber::Mode;
use phonenumber::country::Id;
use phonenumber::metadata::{DATABASE, Descriptor, Metadata};

use super::Msisdn;
use super::digits::to_ascii;

/// Longer texts are no number, whatever stands between its digits.
const LONGEST_TEXT: usize = 64;

/// A country, by its two upper-case letters of ISO 3166-1, as far as numbers are given there.
#[derive(Clone, Copy)]
pub struct Country(&'static Metadata);

/// What was given is no country's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be two upper-case letters of ISO 3166-1 for a country with phone numbers, such as GB")]
pub struct InvalidCountry;

impl Country {
    /// Parses a country's code.
    ///
    /// # Errors
    /// [`InvalidCountry`] when no country with numbers has it.
    pub fn parse(text: &str) -> Result<Self, InvalidCountry> {
        let is_code = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_uppercase());
        if is_code { DATABASE.by_id(text).map(Self).ok_or(InvalidCountry) } else { Err(InvalidCountry) }
    }

    /// The two letters.
    pub fn as_str(&self) -> &'static str {
        self.0.id()
    }
}

impl PartialEq for Country {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Country {}

impl fmt::Debug for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What was given is no number that a message can be sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNumber {
    /// There are letters in it, an extension, or something else that is no digit.
    #[error(
        "must be digits, either as dialled in the country or with + in front, without letters or an extension"
    )]
    NotDigits,
    /// No number there has this form.
    #[error("is not a possible phone number")]
    Impossible,
    /// A number that costs its sender, or that nobody has in a pocket.
    #[error("is a number of a kind that gets no messages from here; use a mobile or fixed-line number")]
    Unreachable,
    /// Two ways to read it lead to two numbers.
    #[error("cannot be read without doubt; use another number")]
    Doubtful,
}

impl Msisdn {
    /// Reads a number as it is dialled in `country`, or as it is written for the whole world: with a `+` or with the
    /// prefix by which one dials out of that country. Then its own country code counts, whatever `country` is, as in
    /// libphonenumber. Spaces and the usual punctuation are dropped; digits may be of any script.
    ///
    /// # Errors
    /// [`InvalidNumber`].
    pub fn dialled(text: &str, country: Country) -> Result<Self, InvalidNumber> {
        let (has_plus, digits) = digits_of(text)?;
        let home = country.0;
        let (plan, national) = match international(has_plus, &digits, home) {
            Some(digits) => {
                let (main, national) = split(digits).ok_or(InvalidNumber::Impossible)?;
                (if main.country_code() == home.country_code() { home } else { main }, national)
            }
            None => (home, without_own_code(&digits, home)),
        };
        let number = Self::parse(&format!("{}{}", plan.country_code(), without_trunk_prefix(national, plan)))
            .map_err(|_| InvalidNumber::Impossible)?;
        number.must_get_messages()?;
        // phonenumber reads the digits of some ranges as a national prefix. No matter who is right, a code must not go to
        // a number that another reader of the same digits would not call.
        let read_back = parsed(&number, plan).ok_or(InvalidNumber::Doubtful)?;
        if format!("{}{}", read_back.code().value(), read_back.national()) == number.as_str() {
            Ok(number)
        } else {
            Err(InvalidNumber::Doubtful)
        }
    }

    /// The country that the number belongs to; where several share a country code and none of them claims it, the
    /// largest. `None` for one of no country.
    pub fn country(&self) -> Option<Country> {
        let (main, national) = split(self.as_str())?;
        Country::parse(plan_of(main, national).id()).ok()
    }

    /// The number as people read it: `+44 7700 900813`.
    pub fn international(&self) -> String {
        let plain = format!("+{}", self.as_str());
        let plan = split(self.as_str()).map(|(main, national)| plan_of(main, national));
        let formatted = plan.and_then(|plan| parsed(self, plan)).map(|number| {
            // Through a write, since the format's own Display can fail.
            let mut text = String::new();
            let written =
                fmt::write(&mut text, format_args!("{}", number.format().mode(Mode::International)));
            if written.is_ok() { text } else { String::new() }
        });
        // Nothing but the same digits, and what every phone can show.
        let is_the_same = |text: &String| {
            let digits = text.chars().filter(char::is_ascii_digit).collect::<String>();
            digits == self.as_str() && text.chars().all(|c| c.is_ascii_digit() || " +-()".contains(c))
        };
        formatted.filter(is_the_same).unwrap_or(plain)
    }

    /// Whether the length is possible, and the kind is one that gets messages.
    fn must_get_messages(&self) -> Result<(), InvalidNumber> {
        let (main, national) = split(self.as_str()).ok_or(InvalidNumber::Impossible)?;
        let plan = plan_of(main, national);
        if Country::parse(plan.id()).is_err() {
            return Err(InvalidNumber::Unreachable);
        }
        let kinds = plan.descriptors();
        if refused_kinds(plan).any(|kind| is_number_of(kind, national)) {
            return Err(InvalidNumber::Unreachable);
        }
        let reachable = [kinds.fixed_line(), kinds.mobile(), kinds.voip()];
        if is_length_of(reachable, national.len()) { Ok(()) } else { Err(InvalidNumber::Impossible) }
    }
}

/// Kinds of numbers that no code is sent to.
fn refused_kinds(plan: &Metadata) -> impl Iterator<Item = &Descriptor> {
    let kinds = plan.descriptors();
    let refused = [
        kinds.premium_rate(),
        kinds.shared_cost(),
        kinds.toll_free(),
        kinds.personal_number(),
        kinds.pager(),
        kinds.uan(),
        kinds.voicemail(),
    ];
    refused.into_iter().flatten()
}

/// Whether a `+` stands in front, and the digits in ASCII.
fn digits_of(text: &str) -> Result<(bool, String), InvalidNumber> {
    if text.chars().count() > LONGEST_TEXT {
        return Err(InvalidNumber::NotDigits);
    }
    let mut written = text.chars().filter(|c| !is_between_digits(*c)).peekable();
    let has_plus = written.next_if(|c| matches!(c, '+' | '\u{ff0b}')).is_some();
    let digits: Option<String> = written.map(to_ascii).collect();
    let digits = digits.filter(|digits| !digits.is_empty()).ok_or(InvalidNumber::NotDigits)?;
    Ok((has_plus, digits))
}

/// What people and address books write between digits: white space, dashes, dots, slashes, parentheses, and invisible
/// marks of direction.
fn is_between_digits(c: char) -> bool {
    (c.is_whitespace() && !c.is_control())
        || matches!(c,
            '-' | '.' | '/' | '(' | ')' | '\u{ad}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2010}'..='\u{2015}'
            | '\u{202a}'..='\u{202e}' | '\u{2060}' | '\u{2066}'..='\u{2069}' | '\u{2212}' | '\u{ff08}' | '\u{ff09}'
            | '\u{ff0d}'..='\u{ff0f}')
}

/// The number from its country code on, where it is written for the whole world.
fn international<'d>(has_plus: bool, digits: &'d str, home: &Metadata) -> Option<&'d str> {
    if has_plus {
        return Some(digits);
    }
    let out = home.international_prefix()?.find(digits).filter(|out| out.start() == 0)?;
    // No country code begins with 0, so this was no way out.
    digits.get(out.end()..).filter(|rest| !rest.starts_with('0'))
}

/// The plan of a number's country code, of the largest country where several share it, and the rest of the digits. No
/// country code begins another one.
fn split(digits: &str) -> Option<(&'static Metadata, &str)> {
    (1..=3).find_map(|length| {
        let (code, national) = digits.split_at_checked(length)?;
        let code = code.parse::<u16>().ok().filter(|_| !code.starts_with('0'))?;
        Some((*DATABASE.by_code(&code)?.first()?, national))
    })
}

/// The plan that a national number belongs to, among those that share the country code of `main`.
fn plan_of(main: &'static Metadata, national: &str) -> &'static Metadata {
    let plans = DATABASE.by_code(&main.country_code()).unwrap_or_default();
    if plans.len() < 2 {
        return main;
    }
    let is_its = |plan: &&Metadata| match plan.leading_digits() {
        Some(leading) => leading.find(national).is_some_and(|found| found.start() == 0),
        None => {
            is_whole(plan.descriptors().general(), national)
                && kinds_of(plan).any(|kind| is_number_of(kind, national))
        }
    };
    plans.into_iter().find(is_its).unwrap_or(main)
}

/// Every kind of numbers there is in a plan.
fn kinds_of(plan: &Metadata) -> impl Iterator<Item = &Descriptor> {
    let kinds = plan.descriptors();
    let others = [kinds.fixed_line(), kinds.mobile(), kinds.voip()];
    others.into_iter().flatten().chain(refused_kinds(plan))
}

/// Whether the national number is one of this kind.
fn is_number_of(kind: &Descriptor, national: &str) -> bool {
    is_length_of([Some(kind)], national.len()) && is_whole(kind, national)
}

/// Whether numbers of these kinds can be so long.
fn is_length_of<const N: usize>(kinds: [Option<&Descriptor>; N], length: usize) -> bool {
    let mut lengths = kinds.into_iter().flatten().flat_map(Descriptor::possible_length);
    lengths.any(|possible| usize::from(*possible) == length)
}

/// Whether the kind's pattern matches all of the digits.
fn is_whole(kind: &Descriptor, digits: &str) -> bool {
    let cache = DATABASE.cache();
    let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
    let whole = cache.compile(&format!("(?x)^(?:{})$", kind.national_number().as_str()));
    whole.is_ok_and(|regex| regex.is_match(digits))
}

/// A national number whose country code was written, too, though without a `+`. As in libphonenumber: it is dropped
/// where only the rest is a number, or the whole is too long for one.
fn without_own_code<'d>(digits: &'d str, home: &Metadata) -> &'d str {
    let Some(rest) = digits.strip_prefix(&home.country_code().to_string()) else { return digits };
    let is_number = |digits: &str| is_whole(home.descriptors().general(), digits);
    let longest = kinds_of(home).flat_map(Descriptor::possible_length).max();
    let is_too_long = longest.is_some_and(|longest| digits.len() > usize::from(*longest));
    let only_the_rest = !is_number(digits) && is_number(&without_trunk_prefix(rest, home));
    if only_the_rest || is_too_long { rest } else { digits }
}

/// A national number without what is dialled in front of it within the country, as in libphonenumber.
fn without_trunk_prefix<'d>(digits: &'d str, plan: &Metadata) -> Cow<'d, str> {
    let stripped = match plan.national_prefix_for_parsing() {
        Some(prefix) => {
            let Some(found) = prefix.captures(digits) else { return digits.into() };
            let Some(matched) = found.get(0).filter(|matched| matched.start() == 0) else {
                return digits.into();
            };
            let rest = digits.get(matched.end()..).unwrap_or_default();
            let last = found.len().checked_sub(1).filter(|last| *last > 0).and_then(|last| found.get(last));
            match plan.national_prefix_transform_rule().filter(|_| last.is_some()) {
                Some(rule) => {
                    let group = |at: usize| found.get(at).map_or("", |group| group.as_str());
                    Cow::Owned(filled(rule, group) + rest)
                }
                None => Cow::Borrowed(rest),
            }
        }
        None => match plan.national_prefix().and_then(|prefix| digits.strip_prefix(prefix)) {
            Some(rest) => Cow::Borrowed(rest),
            None => return digits.into(),
        },
    };
    let is_number = |digits: &str| is_whole(plan.descriptors().general(), digits);
    if is_number(digits) && !is_number(&stripped) {
        return digits.into();
    }
    // What is left has to be long enough for a number.
    let lengths = || kinds_of(plan).flat_map(Descriptor::possible_length).map(|length| usize::from(*length));
    let is_enough =
        lengths().any(|length| length == stripped.len()) || lengths().all(|length| length < stripped.len());
    if is_enough { stripped } else { digits.into() }
}

/// A rule such as `9$1` with its groups filled in.
fn filled<'g>(rule: &str, group: impl Fn(usize) -> &'g str) -> String {
    let mut parts = rule.split('$');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let mut rest = part.chars();
        let at = rest.next().and_then(|digit| digit.to_digit(10)).and_then(|at| usize::try_from(at).ok());
        text.push_str(at.map(&group).unwrap_or_default());
        text.push_str(rest.as_str());
    }
    text
}

/// The number as the library reads it.
fn parsed(number: &Msisdn, plan: &Metadata) -> Option<phonenumber::PhoneNumber> {
    let id = plan.id().parse::<Id>().ok();
    phonenumber::parse(id, format!("+{}", number.as_str())).ok()
}

#[cfg(test)]
mod tests;
