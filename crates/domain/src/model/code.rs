//! Codes: six digits that a person carries from a message to where they began.
//!
//! A million codes are few, so what makes one safe is how seldom one may guess: see `docs/adr/0012-codes.md`.

use std::fmt;

use subtle::{Choice, ConstantTimeEq};

use super::digits::to_ascii;
use super::secrets::equal_in_constant_time;

/// How many digits a code has.
const DIGITS: usize = 6;

/// How many codes there are.
const CODES: u64 = 1_000_000;

/// The code that goes with a session's newest token. It has no `Display`, its `Debug` prints a placeholder, and equality
/// takes the same time whatever the difference is.
#[derive(Clone, Copy)]
pub struct Code([u8; DIGITS]);

impl Code {
    /// The code that a derivation's bits give; `None` for the few values that would make some codes likelier than
    /// others, upon which the next derivation is to be tried.
    pub fn from_bits(bits: u64) -> Option<Self> {
        // The largest multiple of a million that 64 bits hold.
        const END: u64 = u64::MAX - u64::MAX % CODES;
        if bits >= END {
            return None;
        }
        let mut rest = bits % CODES;
        let mut digits = [b'0'; DIGITS];
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or_default();
            rest /= 10;
        }
        Some(Self(digits))
    }

    /// Reads what a person gave back: six digits of any script, white space around and between them dropped. `None` for
    /// what can be no code.
    pub fn given(text: &str) -> Option<Self> {
        let mut digits = [b'0'; DIGITS];
        let mut given = text.chars().filter(|c| !c.is_whitespace());
        for digit in &mut digits {
            *digit = u8::try_from(to_ascii(given.next()?)?).ok()?;
        }
        given.next().is_none().then_some(Self(digits))
    }

    /// The six digits. Whoever calls this keeps them out of logs and errors.
    pub fn expose(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Code(…)")
    }
}

impl ConstantTimeEq for Code {
    fn ct_eq(&self, other: &Self) -> Choice {
        self.0.ct_eq(&other.0)
    }
}

equal_in_constant_time!(Code);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_six_digits_however_they_are_written() {
        for given in [
            "012345",
            " 012345 ",
            "012 345",
            "0 1 2 3 4 5",
            "\t012345\r\n",
            "012\u{a0}345",
            "٠١٢٣٤٥",
            "۰۱۲۳۴۵",
            "०१२ ३४५",
            "０１２３４５",
        ] {
            assert_eq!(Code::given(given).as_ref().map(Code::expose), Some("012345"), "{given:?}");
        }
    }

    #[test]
    fn what_is_not_six_digits_is_no_code() {
        for given in [
            "",
            " ",
            "12345",
            "1234567",
            "12345a",
            "+12345",
            "-123456",
            "123.456",
            "1e5000",
            "abcdef",
            "²²²²²²",
        ] {
            assert_eq!(Code::given(given), None, "{given:?}");
        }
    }

    #[test]
    fn every_code_is_equally_likely_and_keeps_its_zeros() {
        for (bits, code) in [
            (0, Some("000000")),
            (7, Some("000007")),
            (1_000_000, Some("000000")),
            (9_999_999, Some("999999")),
        ] {
            assert_eq!(Code::from_bits(bits).as_ref().map(Code::expose), code);
        }
        let end = u64::MAX - u64::MAX % 1_000_000;
        assert_eq!(Code::from_bits(end - 1).as_ref().map(Code::expose), Some("999999"));
        assert_eq!(Code::from_bits(end), None);
        assert_eq!(Code::from_bits(u64::MAX), None);
    }

    #[test]
    fn debug_tells_no_code() {
        assert_eq!(format!("{:?}", Code::given("123456")), "Some(Code(…))");
    }

    mod generated {
        use proptest::prelude::*;

        use super::*;

        proptest! {
            #[test]
            fn what_was_derived_is_recognised_when_it_is_given_back(bits in 0..u64::MAX / 2) {
                let code = Code::from_bits(bits);
                prop_assert!(code.is_some());
                prop_assert_eq!(code.as_ref().and_then(|code| Code::given(code.expose())), code);
            }

            #[test]
            fn any_text_is_a_code_or_none_without_panic(text in any::<String>()) {
                if let Some(code) = Code::given(&text) {
                    prop_assert!(code.expose().len() == 6 && code.expose().bytes().all(|byte| byte.is_ascii_digit()));
                }
            }
        }
    }
}
