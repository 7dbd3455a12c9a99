//! A change of the world as a value: all of it happens, or none.

use super::{
    Address, AuditEntry, Binding, Challenge, IdentityServerName, MessageId, OutboxMessage, RemoteSession,
    SpentProof, Threepid, Timestamp, UserId, ValidationSession,
};

/// One change. The list is exhaustive on purpose: an adapter that compiles applies every kind of change.
#[derive(Clone, Debug)]
pub enum Change {
    /// Insert the session where its revision is 0, otherwise replace the revision that it was read at.
    PutSession(ValidationSession),
    /// Give the address to the account, or move `validated_at` where the account has it already.
    PutThreepid(Threepid),
    /// Give the address to the account; where the account has it already, nothing changes.
    ImportThreepid(Threepid),
    /// Owe a message.
    Enqueue(OutboxMessage),
    /// Owe a message that mirrors an account, in place of those for the same account that wait under no lease. One that
    /// is being tried stays: nobody knows how far it is.
    EnqueueMirror(OutboxMessage),
    /// Remember a session that an identity server opened; the one remembered last under server and sid counts.
    PutRemoteSession(RemoteSession),
    /// Spend an identity server's proof.
    SpendProof(SpentProof),
    /// Record a binding, or how far it is by now.
    PutBinding(Binding),
    /// Forget a binding, unless it was recorded anew since; harmless where there is none.
    RemoveBinding {
        /// Which.
        key: BindingKey,
        /// A binding that stands since later than this stays.
        until: Timestamp,
    },
    /// Take an address from its account; harmless where the account does not own it.
    RemoveThreepid {
        /// The account.
        user_id: UserId,
        /// The address.
        address: Address,
        /// What is remembered of it, where the account did own it.
        audit: Option<AuditEntry>,
    },
    /// Remember a change of a contact.
    Audit(AuditEntry),
    /// Remember that an identity server has forgotten a binding, as a message had it do; unless by now an unbind of the same
    /// binding is owed that is to leave nothing: then the account was erased meanwhile.
    AuditUnbind {
        /// What is remembered; it names the server.
        entry: AuditEntry,
        /// The message, which may be gone by now.
        message: MessageId,
    },
    /// Owe no more what is owed about a binding: unsettled messages of its subject go.
    CancelUnbind(BindingKey),
    /// Remember a challenge that was passed on; one that is remembered already stays as it is, spent or not.
    PutChallenge(Challenge),
    /// Spend a challenge that is remembered and unspent.
    SpendChallenge(Challenge),
}

/// What a binding is found by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BindingKey {
    /// The account.
    pub user_id: UserId,
    /// The address.
    pub address: Address,
    /// The identity server.
    pub server: IdentityServerName,
}

/// Changes that are committed together, applied in the order in which they were added.
#[derive(Clone, Debug, Default)]
pub struct UnitOfWork {
    changes: Vec<Change>,
}

impl UnitOfWork {
    /// A unit that changes nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a new or changed session.
    #[must_use]
    pub fn put_session(self, session: ValidationSession) -> Self {
        self.with(Change::PutSession(session))
    }

    /// Adds a threepid to its account.
    #[must_use]
    pub fn put_threepid(self, threepid: Threepid) -> Self {
        self.with(Change::PutThreepid(threepid))
    }

    /// Adds a threepid that another server had, unless its account has it already.
    #[must_use]
    pub fn import_threepid(self, threepid: Threepid) -> Self {
        self.with(Change::ImportThreepid(threepid))
    }

    /// Owes a message.
    #[must_use]
    pub fn enqueue(self, message: OutboxMessage) -> Self {
        self.with(Change::Enqueue(message))
    }

    /// Owes a message that mirrors an account, in place of those that wait.
    #[must_use]
    pub fn enqueue_mirror(self, message: OutboxMessage) -> Self {
        self.with(Change::EnqueueMirror(message))
    }

    /// Remembers a session at an identity server.
    #[must_use]
    pub fn put_remote_session(self, session: RemoteSession) -> Self {
        self.with(Change::PutRemoteSession(session))
    }

    /// Spends an identity server's proof.
    #[must_use]
    pub fn spend_proof(self, proof: SpentProof) -> Self {
        self.with(Change::SpendProof(proof))
    }

    /// Records a binding.
    #[must_use]
    pub fn put_binding(self, binding: Binding) -> Self {
        self.with(Change::PutBinding(binding))
    }

    /// Forgets a binding that stands since `until` or before.
    #[must_use]
    pub fn remove_binding(self, key: BindingKey, until: Timestamp) -> Self {
        self.with(Change::RemoveBinding { key, until })
    }

    /// Takes an address from its account.
    #[must_use]
    pub fn remove_threepid(self, user_id: UserId, address: Address) -> Self {
        self.with(Change::RemoveThreepid { user_id, address, audit: None })
    }

    /// Takes an address from its account, and remembers that where the account owned it.
    #[must_use]
    pub fn remove_threepid_audited(self, entry: AuditEntry) -> Self {
        let (user_id, address) = (entry.user_id.clone(), entry.address.clone());
        self.with(Change::RemoveThreepid { user_id, address, audit: Some(entry) })
    }

    /// Remembers a change of a contact.
    #[must_use]
    pub fn audit(self, entry: AuditEntry) -> Self {
        self.with(Change::Audit(entry))
    }

    /// Remembers an unbind that this message had an identity server do, unless the account was erased meanwhile.
    #[must_use]
    pub fn audit_unbind(self, entry: AuditEntry, message: MessageId) -> Self {
        self.with(Change::AuditUnbind { entry, message })
    }

    /// Owes no unbind of this binding any more.
    #[must_use]
    pub fn cancel_unbind(self, key: BindingKey) -> Self {
        self.with(Change::CancelUnbind(key))
    }

    /// Remembers a challenge.
    #[must_use]
    pub fn put_challenge(self, challenge: Challenge) -> Self {
        self.with(Change::PutChallenge(challenge))
    }

    /// Spends a challenge.
    #[must_use]
    pub fn spend_challenge(self, challenge: Challenge) -> Self {
        self.with(Change::SpendChallenge(challenge))
    }

    fn with(mut self, change: Change) -> Self {
        self.changes.push(change);
        self
    }

    /// Whether a message is owed once this is committed.
    pub fn enqueues(&self) -> bool {
        self.changes.iter().any(|change| matches!(change, Change::Enqueue(_) | Change::EnqueueMirror(_)))
    }

    /// What is remembered of contacts once this is committed.
    pub fn audited(&self) -> impl Iterator<Item = &AuditEntry> {
        self.changes.iter().filter_map(|change| match change {
            Change::Audit(entry)
            | Change::AuditUnbind { entry, .. }
            | Change::RemoveThreepid { audit: Some(entry), .. } => Some(entry),
            _ => None,
        })
    }

    /// The accounts whose list of contacts may be another one once this is committed; one may come more than once.
    pub fn changed_lists(&self) -> impl Iterator<Item = &UserId> {
        // Exhaustive: whoever adds a change decides whether it changes a list.
        self.changes.iter().filter_map(|change| match change {
            Change::PutThreepid(threepid) | Change::ImportThreepid(threepid) => Some(&threepid.user_id),
            Change::RemoveThreepid { user_id, .. } => Some(user_id),
            Change::PutSession(_)
            | Change::Enqueue(_)
            | Change::EnqueueMirror(_)
            | Change::PutRemoteSession(_)
            | Change::SpendProof(_)
            | Change::PutBinding(_)
            | Change::RemoveBinding { .. }
            | Change::Audit(_)
            | Change::AuditUnbind { .. }
            | Change::CancelUnbind(_)
            | Change::PutChallenge(_)
            | Change::SpendChallenge(_) => None,
        })
    }

    /// The changes, in order.
    pub fn into_changes(self) -> Vec<Change> {
        self.changes
    }

    /// The changes, in order.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }
}

impl FromIterator<Change> for UnitOfWork {
    fn from_iter<I: IntoIterator<Item = Change>>(changes: I) -> Self {
        Self { changes: changes.into_iter().collect() }
    }
}
