//! What is owed to somebody: a row of the outbox, written together with the state that owes it.

use serde::{Deserialize, Serialize};

use super::{
    Address, BindingKey, EmailAddress, Generation, IdentityServerName, LeaseId, MessageId, Msisdn, Sid,
    Timestamp, UserId,
};

/// A message that is owed. It holds no secret: tokens are derived when it is rendered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxMessage {
    /// Stable over every try.
    pub id: MessageId,
    /// What to send, and to whom.
    pub payload: Payload,
    /// When it was owed; messages are tried oldest first.
    pub created_at: Timestamp,
    /// From when on it may be tried.
    pub due_at: Timestamp,
    /// From when on it is not worth sending any more.
    pub not_after: Timestamp,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Payload {
    /// The mail that proves an address.
    ValidationMail {
        /// To whom it goes: the canonical address alone.
        to: EmailAddress,
        /// The session it proves.
        sid: Sid,
        /// Which of the session's tokens it carries.
        generation: Generation,
        /// Whether it carries that generation's code, too.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        with_code: bool,
    },
    /// That an identity server forgets a binding.
    Unbind {
        /// The account.
        user_id: UserId,
        /// The address.
        address: Address,
        /// Where.
        server: IdentityServerName,
        /// Whether nothing is to be left of it once it is settled, since its account was erased: no entry of the audit
        /// trail, and no settled message.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        forget: bool,
    },
    /// That the homeserver's copy of an account's contacts becomes equal to ours, as ours are when it is delivered.
    Mirror {
        /// The account.
        user_id: UserId,
    },
    /// The SMS that proves a number. It carries a code.
    ValidationSms {
        /// To whom it goes.
        to: Msisdn,
        /// The session it proves.
        sid: Sid,
        /// Which of the session's codes it carries.
        generation: Generation,
    },
    /// The mail that tells whoever has an address that somebody asked to add it. It carries no token.
    InUseMail {
        /// To whom it goes.
        to: EmailAddress,
    },
    /// The SMS that tells whoever has a number that somebody asked to add it. It carries no code.
    InUseSms {
        /// To whom it goes.
        to: Msisdn,
    },
}

impl Payload {
    /// Every kind of payload.
    pub const KINDS: [&'static str; 6] =
        ["validation_mail", "unbind", "mirror", "validation_sms", "in_use_mail", "in_use_sms"];

    /// The payload's kind, for storage and metrics.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::ValidationMail { .. } => "validation_mail",
            Self::Unbind { .. } => "unbind",
            Self::Mirror { .. } => "mirror",
            Self::ValidationSms { .. } => "validation_sms",
            Self::InUseMail { .. } => "in_use_mail",
            Self::InUseSms { .. } => "in_use_sms",
        }
    }

    /// The recipient with most of it hidden, for logs.
    pub fn masked_recipient(&self) -> String {
        match self {
            Self::ValidationMail { to, .. } | Self::InUseMail { to } => to.masked(),
            Self::Unbind { server, .. } => server.to_string(),
            Self::Mirror { user_id } => user_id.to_string(),
            Self::ValidationSms { to, .. } | Self::InUseSms { to } => to.masked(),
        }
    }

    /// The binding that the message is about, if it is about one.
    pub fn binding(&self) -> Option<BindingKey> {
        match self {
            Self::ValidationMail { .. }
            | Self::Mirror { .. }
            | Self::ValidationSms { .. }
            | Self::InUseMail { .. }
            | Self::InUseSms { .. } => None,
            Self::Unbind { user_id, address, server, forget: _ } => Some(BindingKey {
                user_id: user_id.clone(),
                address: address.clone(),
                server: server.clone(),
            }),
        }
    }

    /// The account that the message names, if it names one.
    pub const fn account(&self) -> Option<&UserId> {
        match self {
            Self::Unbind { user_id, .. } | Self::Mirror { user_id } => Some(user_id),
            Self::ValidationMail { .. }
            | Self::ValidationSms { .. }
            | Self::InUseMail { .. }
            | Self::InUseSms { .. } => None,
        }
    }

    /// Whether nothing is to be left of it once it is settled.
    pub const fn leaves_nothing(&self) -> bool {
        match self {
            Self::Unbind { forget, .. } => *forget,
            Self::ValidationMail { .. }
            | Self::ValidationSms { .. }
            | Self::Mirror { .. }
            | Self::InUseMail { .. }
            | Self::InUseSms { .. } => false,
        }
    }

    /// The account whose contacts the message is to mirror, if it is to mirror any.
    pub const fn mirrored(&self) -> Option<&UserId> {
        match self {
            Self::Mirror { user_id } => Some(user_id),
            Self::ValidationMail { .. }
            | Self::Unbind { .. }
            | Self::ValidationSms { .. }
            | Self::InUseMail { .. }
            | Self::InUseSms { .. } => None,
        }
    }

    /// Whom the message informs that somebody asked to add an address of theirs, if that is what it does.
    pub fn informed(&self) -> Option<Address> {
        match self {
            Self::InUseMail { to } => Some(Address::Email(to.clone())),
            Self::InUseSms { to } => Some(Address::Msisdn(to.clone())),
            Self::ValidationMail { .. }
            | Self::Unbind { .. }
            | Self::Mirror { .. }
            | Self::ValidationSms { .. } => None,
        }
    }
}

/// A message that this process may try now, until the lease ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// What to send.
    pub message: OutboxMessage,
    /// How often it has been claimed, this time included.
    pub attempt: u32,
    /// Proves the claim when the message is settled.
    pub lease: LeaseId,
}

/// How much of one kind of message there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// The payload's kind.
    pub kind: String,
    /// How many are owed, those that are being tried included.
    pub owed: u64,
    /// Since when the oldest of these is owed.
    pub oldest: Option<Timestamp>,
    /// How many are kept as dead.
    pub dead: u64,
}

/// Where a message stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MessageState {
    /// It is owed.
    Queued,
    /// The next hop took it.
    Sent,
    /// It cannot be delivered; an operator decides what becomes of it.
    Dead,
    /// It was not worth sending any more.
    Expired,
}

impl MessageState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Queued, Self::Sent, Self::Dead, Self::Expired];

    /// The state's name, for storage and for machines.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sent => "sent",
            Self::Dead => "dead",
            Self::Expired => "expired",
        }
    }

    /// What [`Self::as_str`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// A message with all that is kept about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageRecord {
    /// Stable over every try.
    pub id: MessageId,
    /// [`Payload::kind`], as it was written.
    pub kind: String,
    /// What it says; `None` where this program cannot read it.
    pub payload: Option<Payload>,
    /// Where it stands.
    pub state: MessageState,
    /// How often it was claimed.
    pub attempts: u32,
    /// When it was owed.
    pub created_at: Timestamp,
    /// From when on it may be tried.
    pub due_at: Timestamp,
    /// From when on it is not worth sending any more.
    pub not_after: Timestamp,
    /// Until when somebody may be trying it.
    pub leased_until: Option<Timestamp>,
    /// When it was settled.
    pub settled_at: Option<Timestamp>,
    /// Why the last try failed.
    pub last_error: Option<String>,
}

impl MessageRecord {
    /// Whether somebody may be trying it now.
    pub fn is_being_tried(&self, now: Timestamp) -> bool {
        self.state == MessageState::Queued && self.leased_until.is_some_and(|until| now < until)
    }
}

/// How a try ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// The next hop took it.
    Sent,
    /// It failed in a way that may pass; try again at `at`.
    Retry {
        /// When to try again.
        at: Timestamp,
        /// Why it failed, without secrets or whole addresses.
        reason: String,
    },
    /// It cannot be delivered. It stays for the operator to see.
    Dead {
        /// Why, without secrets or whole addresses.
        reason: String,
    },
    /// It was not worth sending any more.
    Expired,
    /// Nothing is to be done any more, and nothing of it is to be kept.
    Forget,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Medium;

    #[test]
    fn every_kind_of_payload_is_in_the_list() -> Result<(), Box<dyn std::error::Error>> {
        let user_id = UserId::parse("@alice:example.org")?;
        let address = Address::parse(Medium::Email, "a@example.org")?;
        let (sid, generation) = (Sid::new("sid"), Generation(1));
        let payloads = [
            Payload::ValidationMail {
                to: EmailAddress::parse("a@example.org")?,
                sid: sid.clone(),
                generation,
                with_code: true,
            },
            Payload::Unbind {
                user_id: user_id.clone(),
                address,
                server: IdentityServerName::parse("id.example")?,
                forget: false,
            },
            Payload::Mirror { user_id },
            Payload::ValidationSms { to: Msisdn::parse("447700900813")?, sid, generation },
            Payload::InUseMail { to: EmailAddress::parse("a@example.org")? },
            Payload::InUseSms { to: Msisdn::parse("447700900813")? },
        ];
        // Exhaustive: a new kind has to be added here, and then to the list.
        let kinds = payloads.map(|payload| match payload {
            Payload::ValidationMail { .. }
            | Payload::Unbind { .. }
            | Payload::Mirror { .. }
            | Payload::ValidationSms { .. }
            | Payload::InUseMail { .. }
            | Payload::InUseSms { .. } => payload.kind(),
        });
        assert_eq!(kinds, Payload::KINDS);
        Ok(())
    }

    #[test]
    fn a_mail_with_a_link_alone_is_written_as_it_always_was() -> Result<(), Box<dyn std::error::Error>> {
        let written = r#"{"kind":"validation_mail","to":"a@example.org","sid":"sid","generation":1}"#;
        let payload: Payload = serde_json::from_str(written)?;
        assert!(matches!(payload, Payload::ValidationMail { with_code: false, .. }));
        assert_eq!(serde_json::to_string(&payload)?, written);
        Ok(())
    }
}
