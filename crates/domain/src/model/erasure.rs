//! The end of an account: what goes, what is owed in its place, and what stays under no name.
//!
//! What stays is there for others: an identity server's proof may not be spent again, and the audit trail goes on
//! counting. Both stand under one name for all who were erased ([`UserId::erased`], [`Address::erased`]), so that nothing
//! tells whose an entry was, or which entries were one account's.

use super::{
    Address, AuditEntry, BindingKey, KeyedHash, MessageId, MessageRecord, MessageState, OutboxMessage,
    Payload, RemoteSession, SessionRecord, SessionState, Sid, SpentProof, UserId,
};

/// The end of one account as a value: what was seen of it when that was decided, and what is owed from then on.
#[derive(Clone, Debug)]
pub struct Erasure {
    /// Whose.
    pub user_id: UserId,
    /// Every address that it owned, in any order.
    pub addresses: Vec<Address>,
    /// Every binding that was recorded of it, in any order.
    pub bindings: Vec<BindingKey>,
    /// Every message of it that [is replaced](UponErasure::IsReplaced), in any order.
    pub replaced: Vec<MessageId>,
    /// What is owed in place of these bindings and messages.
    pub unbinds: Vec<OutboxMessage>,
    /// Under what it alone may have been counted by a [`RateLimiter`](crate::ports::RateLimiter).
    pub subjects: Vec<String>,
}

/// How much an erasure has removed, or made nameless.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Erased {
    /// Contacts that are gone.
    pub threepids: usize,
    /// Validation sessions that are gone.
    pub sessions: usize,
    /// Sessions of identity servers that are gone.
    pub remote_sessions: usize,
    /// Identity servers' proofs that stay spent, by nobody.
    pub spent_proofs: usize,
    /// Bindings whose record is gone.
    pub bindings: usize,
    /// Challenges that are gone.
    pub challenges: usize,
    /// Messages that are gone, and owed no more.
    pub messages: usize,
    /// Unbinds that are owed, and will leave nothing.
    pub owed_unbinds: usize,
    /// Unbinds that had died; they stay until an operator drops them.
    pub dead_unbinds: usize,
    /// Entries of the audit trail that stay, about nobody.
    pub audit_entries: usize,
    /// Whether an account of the storage's own is gone, with its access tokens and its password.
    pub is_local: bool,
}

/// What becomes of a message about an account that is erased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UponErasure {
    /// It goes, and is owed no more.
    Goes,
    /// It is an owed unbind: one that will leave nothing is owed in its place. It is not the same one, since somebody may
    /// be trying it, who does not know yet that it is to leave nothing.
    IsReplaced,
    /// It is an unbind that has died: it stays for the operator, and should it be owed again, it will leave nothing.
    IsMarked,
    /// It is an unbind that will leave nothing already.
    Stays,
}

impl MessageRecord {
    /// What becomes of it when the account that it is about is erased; `None` where this program cannot read it.
    pub fn upon_erasure(&self) -> Option<UponErasure> {
        Some(match (self.payload.as_ref()?, self.state) {
            (
                Payload::ValidationMail { .. }
                | Payload::ValidationSms { .. }
                | Payload::Mirror { .. }
                | Payload::InUseMail { .. }
                | Payload::InUseSms { .. },
                _,
            )
            | (Payload::Unbind { .. }, MessageState::Sent | MessageState::Expired) => UponErasure::Goes,
            (Payload::Unbind { forget: true, .. }, MessageState::Queued | MessageState::Dead) => {
                UponErasure::Stays
            }
            (Payload::Unbind { forget: false, .. }, MessageState::Queued) => UponErasure::IsReplaced,
            (Payload::Unbind { forget: false, .. }, MessageState::Dead) => UponErasure::IsMarked,
        })
    }
}

impl Payload {
    /// Whether it is about an account which owns the addresses that `owns` says and has spent the sessions that
    /// `has_spent` says.
    pub fn is_about(
        &self,
        user: &UserId,
        owns: impl Fn(&Address) -> bool,
        has_spent: impl Fn(&Sid) -> bool,
    ) -> bool {
        match self {
            Self::ValidationMail { to, sid, .. } => has_spent(sid) || owns(&Address::Email(to.clone())),
            Self::ValidationSms { to, sid, .. } => has_spent(sid) || owns(&Address::Msisdn(to.clone())),
            Self::InUseMail { to } => owns(&Address::Email(to.clone())),
            Self::InUseSms { to } => owns(&Address::Msisdn(to.clone())),
            Self::Unbind { .. } | Self::Mirror { .. } => self.account() == Some(user),
        }
    }

    /// The same, but once it is settled it leaves nothing, where there is a way to say so.
    #[must_use]
    pub fn to_leave_nothing(mut self) -> Self {
        match &mut self {
            Self::Unbind { forget, .. } => *forget = true,
            Self::ValidationMail { .. }
            | Self::ValidationSms { .. }
            | Self::Mirror { .. }
            | Self::InUseMail { .. }
            | Self::InUseSms { .. } => {}
        }
        self
    }
}

impl SessionRecord {
    /// Whether it goes with an account which owns the addresses that `owns` says. One that another account has spent is
    /// that one's, whoever owns the address now.
    pub fn goes_with(&self, user: &UserId, owns: impl Fn(&Address) -> bool) -> bool {
        match &self.state {
            SessionState::Consumed { by, .. } => by == user,
            SessionState::Pending { .. } | SessionState::Validated { .. } | SessionState::Burnt => {
                owns(&self.address)
            }
        }
    }
}

impl RemoteSession {
    /// Whether it is of an account that has spent these proofs.
    pub fn is_proof_of(&self, spent: &[SpentProof]) -> bool {
        spent.iter().any(|proof| proof.server == self.server && proof.sid == self.sid)
    }
}

impl SpentProof {
    /// The same proof, spent by nobody.
    #[must_use]
    pub fn nameless(self) -> Self {
        Self { user_id: UserId::erased(), key: KeyedHash::new([0; 32]), address: Address::erased(), ..self }
    }
}

impl AuditEntry {
    /// The same change, of nobody's contact.
    #[must_use]
    pub fn nameless(self) -> Self {
        Self { user_id: UserId::erased(), address: Address::erased(), reference: None, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{EmailAddress, Generation, IdentityServerName, Medium, Timestamp};

    #[test]
    fn the_names_of_who_was_erased_are_names_like_any_other() {
        assert_eq!(UserId::parse(UserId::erased().as_str()), Ok(UserId::erased()));
        let address = Address::erased();
        assert_eq!(Address::parse(address.medium(), address.as_str()), Ok(address));
    }

    #[test]
    fn an_unbind_is_never_lost_and_everything_else_goes() -> Result<(), Box<dyn std::error::Error>> {
        let user_id = UserId::parse("@alice:example.org")?;
        let unbind = Payload::Unbind {
            user_id: user_id.clone(),
            address: Address::parse(Medium::Email, "alice@example.org")?,
            server: IdentityServerName::parse("id.example")?,
            forget: false,
        };
        let forgotten = unbind.clone().to_leave_nothing();
        let to = EmailAddress::parse("alice@example.org")?;
        let mail =
            Payload::ValidationMail { to, sid: Sid::new("sid"), generation: Generation(1), with_code: false };
        let notice = Payload::InUseMail { to: EmailAddress::parse("alice@example.org")? };
        let mirror = Payload::Mirror { user_id };
        let at = Timestamp::from_ms(1);
        for (payload, fates) in [
            (&mail, [UponErasure::Goes; 4]),
            (&mirror, [UponErasure::Goes; 4]),
            (&notice, [UponErasure::Goes; 4]),
            (&unbind, [UponErasure::IsReplaced, UponErasure::Goes, UponErasure::IsMarked, UponErasure::Goes]),
            (&forgotten, [UponErasure::Stays, UponErasure::Goes, UponErasure::Stays, UponErasure::Goes]),
        ] {
            for (state, fate) in MessageState::ALL.into_iter().zip(fates) {
                let mut record = MessageRecord {
                    id: MessageId::new("id"),
                    kind: payload.kind().to_owned(),
                    payload: Some(payload.clone()),
                    state,
                    attempts: 0,
                    created_at: at,
                    due_at: at,
                    not_after: at,
                    leased_until: None,
                    settled_at: None,
                    last_error: None,
                };
                assert_eq!(record.upon_erasure(), Some(fate), "{payload:?} {state:?}");
                record.payload = None;
                assert_eq!(record.upon_erasure(), None);
            }
        }
        assert_eq!(mail.clone().to_leave_nothing(), mail);
        Ok(())
    }

    #[test]
    fn an_unbind_of_an_earlier_version_leaves_what_it_always_left() -> Result<(), Box<dyn std::error::Error>>
    {
        let written = r#"{"kind":"unbind","user_id":"@alice:example.org","address":{"medium":"email","address":"alice@example.org"},"server":"id.example"}"#;
        let payload: Payload = serde_json::from_str(written)?;
        assert!(matches!(payload, Payload::Unbind { forget: false, .. }), "{payload:?}");
        assert_eq!(serde_json::to_string(&payload)?, written);
        let forgotten = payload.to_leave_nothing();
        let text = serde_json::to_string(&forgotten)?;
        assert!(text.ends_with(r#","forget":true}"#), "{text}");
        assert_eq!(serde_json::from_str::<Payload>(&text)?, forgotten);
        Ok(())
    }
}
