//! Identifiers: of users, devices, sessions, messages and leases.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A Matrix user ID: `@localpart:server_name`, at most 255 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserId(String);

/// What was given is not a Matrix user ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a Matrix user ID (@localpart:server, at most 255 bytes)")]
pub struct InvalidUserId;

impl UserId {
    /// Parses a user ID. Historical localparts are accepted, since old accounts still have them.
    ///
    /// # Errors
    /// [`InvalidUserId`] when the sigil, the colon or the server name is missing, when it is longer than
    /// 255 bytes, or when it holds a control character or white space.
    pub fn parse(text: &str) -> Result<Self, InvalidUserId> {
        let rest = text.strip_prefix('@').ok_or(InvalidUserId)?;
        let (_localpart, server) = rest.split_once(':').ok_or(InvalidUserId)?;
        let strange = |c: char| c.is_control() || c.is_whitespace();
        if server.is_empty() || text.len() > 255 || text.contains(strange) {
            return Err(InvalidUserId);
        }
        Ok(Self(text.to_owned()))
    }

    /// Whom what is left of erased accounts stands under. Nobody has it: `.invalid` is no server's name.
    pub fn erased() -> Self {
        Self("@erased:erased.invalid".to_owned())
    }

    /// The user ID as it is written on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the user's homeserver: what follows the first colon.
    pub fn server_name(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, server)| server)
    }
}

impl TryFrom<String> for UserId {
    type Error = InvalidUserId;

    fn try_from(text: String) -> Result<Self, InvalidUserId> {
        Self::parse(&text)
    }
}

impl From<UserId> for String {
    fn from(user: UserId) -> Self {
        user.0
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A device of a user, as its homeserver names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DeviceId(pub String);

macro_rules! opaque_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Takes an identifier as it is written.
            pub fn new(text: impl Into<String>) -> Self {
                Self(text.into())
            }

            /// The identifier as it is written.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

opaque_id! {
    /// A validation session's identifier (`sid`). Ours have 128 random bits behind a time; one that came from a client may be
    /// any text, and then simply names no session.
    Sid
}

opaque_id! {
    /// A message's identifier, stable over every try, so that receivers can tell a repeated mail.
    MessageId
}

opaque_id! {
    /// Whoever claims a message gets one; only its holder may settle the message.
    LeaseId
}

impl Sid {
    /// Whether the text follows the grammar of the identity service: 1 to 255 of `[0-9a-zA-Z.=_-]`.
    pub fn is_well_formed(&self) -> bool {
        super::secrets::is_opaque_identifier(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_id_needs_sigil_colon_and_server() {
        for good in ["@a:b", "@alice:example.org:8448", "@:b", "@Old Style".replace(' ', ":").as_str()] {
            assert!(UserId::parse(good).is_ok(), "{good}");
        }
        let long = format!("@{}:b", "a".repeat(255));
        for bad in ["", "alice:b", "@alice", "@alice:", "@al ice:b", "@al\nice:b", long.as_str()] {
            assert_eq!(UserId::parse(bad), Err(InvalidUserId), "{bad}");
        }
        assert_eq!(UserId::parse("@a:b:8448").map(|u| u.server_name().to_owned()), Ok("b:8448".to_owned()));
    }
}
