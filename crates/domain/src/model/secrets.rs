//! Things that must not be told: client secrets, tokens, access tokens and keyed hashes.
//!
//! None of them has a `Display`, their `Debug` prints a placeholder, and equality takes the same time whatever
//! the difference is.

use std::fmt;

use serde::{Deserialize, Serialize};
use subtle::{Choice, ConstantTimeEq};

/// Whether `text` is 1 to 255 characters of `[0-9a-zA-Z.=_-]`, the grammar that the identity service gives to
/// `client_secret` and `sid`.
pub(super) fn is_opaque_identifier(text: &str) -> bool {
    (1..=255).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'=' | b'_' | b'-'))
}

/// `==` of a secret, which is [`ConstantTimeEq`] and nothing else.
macro_rules! equal_in_constant_time {
    ($name:ident) => {
        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.ct_eq(other).into()
            }
        }

        impl Eq for $name {}
    };
}

pub(super) use equal_in_constant_time;

macro_rules! secret_text {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name(String);

        impl $name {
            /// The secret itself. Whoever calls this keeps it out of logs and errors.
            pub fn expose(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(…)"))
            }
        }

        impl ConstantTimeEq for $name {
            fn ct_eq(&self, other: &Self) -> Choice {
                self.0.as_bytes().ct_eq(other.0.as_bytes())
            }
        }

        equal_in_constant_time!($name);
    };
}

secret_text! {
    /// The secret with which a client opened a validation session: 1 to 255 of `[0-9a-zA-Z.=_-]`.
    ClientSecret
}

secret_text! {
    /// The proof that is sent to an address.
    Token
}

secret_text! {
    /// A client's access token at its homeserver.
    AccessToken
}

secret_text! {
    /// A client's access token at an identity server. It is never stored.
    IdAccessToken
}

/// What was given is not a client secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("client_secret must be 1 to 255 characters of 0-9, a-z, A-Z and .=_-")]
pub struct InvalidClientSecret;

impl ClientSecret {
    /// Parses a client secret.
    ///
    /// # Errors
    /// [`InvalidClientSecret`] when the grammar is not met.
    pub fn parse(text: &str) -> Result<Self, InvalidClientSecret> {
        if is_opaque_identifier(text) { Ok(Self(text.to_owned())) } else { Err(InvalidClientSecret) }
    }
}

impl Token {
    /// Takes a token as it was derived or as it was submitted.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl AccessToken {
    /// Takes an access token as the client sent it.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl IdAccessToken {
    /// Takes an identity server's access token as the client sent it.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// A hash under the server's key: it finds a thing again without telling what the thing is. It is stored as
/// hexadecimal digits.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyedHash([u8; 32]);

impl KeyedHash {
    /// Takes the 32 bytes of an HMAC-SHA-256.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The hash's bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The hash as 64 lower-case hexadecimal digits.
    pub fn to_hex(&self) -> String {
        let digits = self.0.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        digits.filter_map(|digit| char::from_digit(u32::from(digit), 16)).collect()
    }

    /// Reads what [`KeyedHash::to_hex`] wrote; `None` for anything else.
    pub fn from_hex(text: &str) -> Option<Self> {
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        let mut bytes = [0_u8; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl TryFrom<String> for KeyedHash {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        Self::from_hex(&text).ok_or("not 64 hexadecimal digits")
    }
}

impl From<KeyedHash> for String {
    fn from(hash: KeyedHash) -> Self {
        hash.to_hex()
    }
}

impl fmt::Debug for KeyedHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyedHash(…)")
    }
}

impl ConstantTimeEq for KeyedHash {
    fn ct_eq(&self, other: &Self) -> Choice {
        self.0.ct_eq(&other.0)
    }
}

equal_in_constant_time!(KeyedHash);

#[cfg(test)]
mod tests {
    #![expect(clippy::panic, reason = "a test that meets nonsense of its own fails")]

    use super::*;
    use crate::model::Code;

    #[test]
    fn a_client_secret_is_one_to_255_opaque_characters() {
        let longest = "a".repeat(255);
        for good in ["a", "A.b=c_d-0", longest.as_str()] {
            assert!(ClientSecret::parse(good).is_ok(), "{good}");
        }
        let too_long = "a".repeat(256);
        for bad in ["", "ß", "a b", "a/b", "a\0", too_long.as_str()] {
            assert_eq!(ClientSecret::parse(bad), Err(InvalidClientSecret), "{bad}");
        }
    }

    #[test]
    fn secrets_are_compared_in_constant_time() {
        /// Only what has a comparison in constant time is taken, and `==` must agree with it.
        fn assert_compared<T: ConstantTimeEq + Eq + std::fmt::Debug>(one: &T, same: &T, others: &[T]) {
            assert!(one == same && bool::from(one.ct_eq(same)), "{one:?}");
            for other in others {
                assert!(one != other && !bool::from(one.ct_eq(other)), "{one:?}");
            }
        }
        let token = |text: &str| Token::new(text);
        assert_compared(&token("abc"), &token("abc"), &["bbc", "abd", "ab", "abcd", ""].map(token));
        let hash = |first, last| {
            let mut bytes = [7; 32];
            (bytes[0], bytes[31]) = (first, last);
            KeyedHash::new(bytes)
        };
        assert_compared(&hash(7, 7), &hash(7, 7), &[hash(8, 7), hash(7, 8)]);
        let code = |text| Code::given(text).unwrap_or_else(|| panic!("{text}"));
        assert_compared(&code("012345"), &code("012345"), &["112345", "012346"].map(code));
    }

    #[test]
    fn debug_tells_no_secret() {
        let shown =
            format!("{:?} {:?} {:?}", Token::new("hush"), AccessToken::new("hush"), KeyedHash::new([7; 32]));
        assert_eq!(shown, "Token(…) AccessToken(…) KeyedHash(…)");
    }

    #[test]
    fn a_keyed_hash_survives_being_written() {
        let hash = KeyedHash::new(std::array::from_fn(|i| u8::try_from(i * 7 % 256).unwrap_or(0)));
        assert_eq!(KeyedHash::from_hex(&hash.to_hex()), Some(hash));
        assert_eq!(KeyedHash::from_hex("zz"), None);
        assert_eq!(KeyedHash::from_hex(&"zz".repeat(32)), None);
    }
}
