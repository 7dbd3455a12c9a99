//! What is remembered of each change of a contact: who, what, through which door, when.
//!
//! An entry is committed in the unit of the change that it tells of, so that there is none without the other. It names
//! the address whole; logs show it masked.

use serde::{Deserialize, Serialize};

use super::{Address, BindingKey, IdentityServerName, Timestamp, UserId};

/// One change of one contact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// When it was decided.
    pub at: Timestamp,
    /// Whose contact it is.
    pub user_id: UserId,
    /// The contact's address.
    pub address: Address,
    /// What happened to it.
    pub action: AuditAction,
    /// What had it happen.
    pub door: AuditDoor,
    /// The identity server that proved the address, published it, or forgot it.
    pub server: Option<IdentityServerName>,
    /// What to look for in the log: the id of the request, or of the message that the relay delivered.
    pub reference: Option<String>,
}

impl AuditEntry {
    /// The binding that it tells of, if it names an identity server.
    pub fn binding(&self) -> Option<BindingKey> {
        let (user_id, address) = (self.user_id.clone(), self.address.clone());
        self.server.clone().map(|server| BindingKey { user_id, address, server })
    }
}

macro_rules! named {
    (
        $(#[$doc:meta])* $name:ident {
            $( $(#[$variant_doc:meta])* $variant:ident = $text:literal, )*
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name {
            $( $(#[$variant_doc])* #[serde(rename = $text)] $variant, )*
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name, for storage and for machines.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }

            /// What [`Self::as_str`] wrote.
            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|known| known.as_str() == text)
            }
        }
    };
}

named! {
    /// What happened to a contact.
    AuditAction {
        /// The address was proven and is on the account. Where it was there already, its proof is a newer one.
        Added = "added",
        /// The address left the account.
        Removed = "removed",
        /// An identity server published it.
        Bound = "bound",
        /// An identity server said that it has forgotten it.
        Unbound = "unbound",
        /// It came over from another server's database, with its proof or its binding.
        Imported = "imported",
    }
}

named! {
    /// What had a contact change.
    AuditDoor {
        /// `POST /account/3pid`.
        Add = "account/3pid",
        /// `POST /account/3pid/add`.
        AddReauthenticated = "account/3pid/add",
        /// `POST /account/3pid/bind`.
        Bind = "account/3pid/bind",
        /// `POST /account/3pid/unbind`.
        Unbind = "account/3pid/unbind",
        /// `POST /account/3pid/delete`.
        Delete = "account/3pid/delete",
        /// The relay, which goes on with what a deletion left owing.
        Relay = "relay",
        /// The import.
        Import = "import",
    }
}

/// Which entries are asked for: those that meet all that is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditQuery {
    /// Of this account.
    pub user_id: Option<UserId>,
    /// Of this address.
    pub address: Option<Address>,
    /// At most so many, the newest.
    pub limit: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_as_what_it_was_written_for_and_serde_uses_it()
    -> Result<(), Box<dyn std::error::Error>> {
        for action in AuditAction::ALL {
            assert_eq!(AuditAction::parse(action.as_str()), Some(*action));
            assert_eq!(serde_json::to_value(action)?, action.as_str());
        }
        for door in AuditDoor::ALL {
            assert_eq!(AuditDoor::parse(door.as_str()), Some(*door));
            assert_eq!(serde_json::to_value(door)?, door.as_str());
        }
        assert_eq!((AuditAction::parse("Added"), AuditDoor::parse("")), (None, None));
        Ok(())
    }
}
