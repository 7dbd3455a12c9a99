//! Moving in beside a server that has contacts already: its rows pass the same canonical form as everybody's, and are
//! imported in units of work.
//!
//! A row is imported, is there already, or is skipped for a [`SkipReason`]; none is changed that is here. So an import
//! that broke off is completed by running it again, and one that ran is repeated without harm. The source may spell one
//! address in two ways; then the contact that was added first is imported.
//!
//! What an account has removed here since is imported again while the source still has it: import before users arrive.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use futures_util::future::try_join_all;

use super::{DECISIONS, too_many_conflicts};
use crate::model::{
    Address, AuditAction, AuditDoor, AuditEntry, Binding, BindingState, IdentityServerName, Medium, Threepid,
    Timestamp, UnitOfWork, UserId,
};
use crate::ports::{
    Clock, CommitError, ContactSource, ForeignAccount, ForeignBinding, ForeignContact, Store, Unavailable,
};

/// So many rows are read at a time, and committed together.
const PAGE: usize = 500;

/// What Synapse calls an address that it had twice, in different case, before it compared without case.
const EMAIL_OLD: &str = "email_old";

/// Whether anything is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportMode {
    /// Everything is read and judged, and nothing is written.
    DryRun,
    /// What may be imported is.
    Apply,
}

/// Why a row is not imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SkipReason {
    /// An address that Synapse had twice and set aside (`email_old`).
    EmailOld,
    /// Neither an email address nor a phone number.
    OtherMedium,
    /// It cannot be an address of its medium.
    NotAnAddress,
    /// Another row of the source is the same address, and was added first.
    Duplicate,
    /// The source has no such account.
    UnknownAccount,
    /// The account is deactivated.
    DeactivatedAccount,
    /// The account is of another homeserver.
    OtherHomeserver,
    /// The user ID is none.
    NotAUserId,
    /// Another account has the address here.
    OwnedByAnother,
    /// A time lies before 1970.
    ImpossibleTime,
    /// The identity server's name is none.
    NotAServerName,
}

impl SkipReason {
    /// The reason's name, for machines.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EmailOld => "email_old",
            Self::OtherMedium => "other_medium",
            Self::NotAnAddress => "not_an_address",
            Self::Duplicate => "duplicate",
            Self::UnknownAccount => "unknown_account",
            Self::DeactivatedAccount => "deactivated_account",
            Self::OtherHomeserver => "other_homeserver",
            Self::NotAUserId => "not_a_user_id",
            Self::OwnedByAnother => "owned_by_another",
            Self::ImpossibleTime => "impossible_time",
            Self::NotAServerName => "not_a_server_name",
        }
    }

    /// The reason in words.
    pub const fn in_words(self) -> &'static str {
        match self {
            Self::EmailOld => "set aside by Synapse as a duplicate",
            Self::OtherMedium => "neither an email address nor a phone number",
            Self::NotAnAddress => "cannot be an address",
            Self::Duplicate => "the same address as a row that was added first",
            Self::UnknownAccount => "there is no such account",
            Self::DeactivatedAccount => "the account is deactivated",
            Self::OtherHomeserver => "the account is of another homeserver",
            Self::NotAUserId => "not a user ID",
            Self::OwnedByAnother => "another account has the address here",
            Self::ImpossibleTime => "its time lies before 1970",
            Self::NotAServerName => "not an identity server's name",
        }
    }
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.in_words())
    }
}

/// A row that is not imported. `address` is whole and stays off terminals and logs; [`SkippedRow::masked`] is not.
#[derive(Clone, PartialEq, Eq)]
pub struct SkippedRow {
    /// The account's user ID, as the source has it.
    pub user_id: String,
    /// The medium, as the source has it.
    pub medium: String,
    /// The address, as the source has it.
    pub address: String,
    /// The identity server's name, where the row is a binding.
    pub id_server: Option<String>,
    /// Why.
    pub reason: SkipReason,
}

impl SkippedRow {
    /// The address with most of it hidden.
    pub fn masked(&self) -> String {
        let parsed =
            Medium::parse(&self.medium).and_then(|medium| Address::parse(medium, &self.address).ok());
        parsed.map_or_else(
            || self.address.chars().find(|c| !c.is_control()).into_iter().chain(['…']).collect(),
            |address| address.masked(),
        )
    }
}

impl fmt::Debug for SkippedRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { user_id, medium, id_server, reason, .. } = self;
        write!(f, "{user_id} {medium} {} {id_server:?}: {reason}", self.masked())
    }
}

/// What became of the rows of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Imported, or to be imported where nothing was written.
    pub imported: u64,
    /// There already.
    pub already_there: u64,
    /// Not imported, by reason.
    pub skipped: BTreeMap<SkipReason, u64>,
}

/// What became of all rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportReport {
    /// The contacts.
    pub contacts: Tally,
    /// The bindings.
    pub bindings: Tally,
}

/// Looks on while an import runs.
pub trait ImportWatcher: Send {
    /// `done` of `total` steps are done.
    fn progress(&mut self, done: u64, total: u64);

    /// A row is not imported.
    fn skipped(&mut self, row: SkippedRow);
}

/// The ports that [`Importer`] stands on.
#[derive(Clone)]
pub struct ImporterPorts {
    /// Where the contacts come from.
    pub source: Arc<dyn ContactSource>,
    /// Where they go.
    pub store: Arc<dyn Store>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

/// Imports another server's contacts.
#[derive(Clone)]
pub struct Importer {
    ports: ImporterPorts,
    /// The homeserver whose accounts are imported; any, without it.
    homeserver: Option<String>,
}

/// A contact that may be imported, and the row that it came from.
struct Candidate {
    row: ForeignContact,
    threepid: Threepid,
}

/// What is here already says so.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Import,
    AlreadyThere,
    Skip(SkipReason),
}

/// One run: what was done so far, and who looks on.
struct Run<'a> {
    mode: ImportMode,
    watcher: &'a mut dyn ImportWatcher,
    report: ImportReport,
    done: u64,
    total: u64,
}

impl Importer {
    /// An importer on these ports. With `homeserver`, accounts of other servers are skipped.
    pub fn new(ports: ImporterPorts, homeserver: Option<String>) -> Self {
        Self { ports, homeserver }
    }

    /// Reads everything, imports what may be, and says what became of it. Nothing is imported in part: each page is one
    /// unit of work.
    ///
    /// # Errors
    /// [`Unavailable`] when the source or the store cannot answer; run it again, it goes on where it was.
    pub async fn run(
        &self,
        mode: ImportMode,
        watcher: &mut dyn ImportWatcher,
    ) -> Result<ImportReport, Unavailable> {
        let counts = self.ports.source.counts().await?;
        // Contacts are read twice.
        let total = counts.contacts.saturating_mul(2).saturating_add(counts.bindings);
        let mut run = Run { mode, watcher, report: ImportReport::default(), done: 0, total };
        run.watcher.progress(0, total);
        let respelt = self.respelt(&mut run).await?;
        self.import_contacts(respelt, &mut run).await?;
        self.import_bindings(&mut run).await?;
        Ok(run.report)
    }

    /// The addresses that the source spells in another way than we do. Its spellings are unique, so only these can
    /// be there twice.
    async fn respelt(&self, run: &mut Run<'_>) -> Result<HashMap<Address, Vec<Candidate>>, Unavailable> {
        let mut respelt = HashMap::new();
        let mut after = None;
        loop {
            let page = self.ports.source.contacts(after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(respelt) };
            after = Some(last.clone());
            run.advance(page.len());
            for row in page {
                if let Ok(threepid) = self.judge(&row)
                    && threepid.address.as_str() != row.address
                {
                    respelt.insert(threepid.address, Vec::new());
                }
            }
        }
    }

    async fn import_contacts(
        &self,
        mut respelt: HashMap<Address, Vec<Candidate>>,
        run: &mut Run<'_>,
    ) -> Result<(), Unavailable> {
        let mut after = None;
        loop {
            let page = self.ports.source.contacts(after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.clone());
            let read = page.len();
            let mut candidates = Vec::with_capacity(read);
            for row in page {
                match self.judge(&row) {
                    Ok(threepid) => match respelt.get_mut(&threepid.address) {
                        Some(rivals) => rivals.push(Candidate { row, threepid }),
                        None => candidates.push(Candidate { row, threepid }),
                    },
                    Err(reason) => run.skip_contact(row, reason),
                }
            }
            self.settle_contacts(candidates, run).await?;
            run.advance(read);
        }
        let mut first_added = Vec::with_capacity(respelt.len());
        for mut rivals in respelt.into_values() {
            let key =
                |one: &Candidate| (one.threepid.added_at, one.row.user_id.clone(), one.row.address.clone());
            rivals.sort_by_cached_key(key);
            let mut rivals = rivals.into_iter();
            first_added.extend(rivals.next());
            rivals.for_each(|later| run.skip_contact(later.row, SkipReason::Duplicate));
        }
        // The map has no order, and the report is to have one.
        first_added.sort_by(|a, b| a.threepid.address.cmp(&b.threepid.address));
        while !first_added.is_empty() {
            let rest = first_added.split_off(first_added.len().min(PAGE));
            self.settle_contacts(std::mem::replace(&mut first_added, rest), run).await?;
        }
        Ok(())
    }

    /// Imports those of the candidates whose address is free, in one unit.
    async fn settle_contacts(
        &self,
        candidates: Vec<Candidate>,
        run: &mut Run<'_>,
    ) -> Result<(), Unavailable> {
        for _ in 0..DECISIONS {
            let owners =
                try_join_all(candidates.iter().map(|one| self.ports.store.owner(&one.threepid.address)))
                    .await?;
            let fate = |(one, owner): (&Candidate, Option<UserId>)| match owner {
                None => Fate::Import,
                Some(owner) if owner == one.threepid.user_id => Fate::AlreadyThere,
                Some(_) => Fate::Skip(SkipReason::OwnedByAnother),
            };
            let fates: Vec<_> = candidates.iter().zip(owners).map(fate).collect();
            let chosen = candidates.iter().zip(&fates).filter(|(_, fate)| **fate == Fate::Import);
            let import = |unit: UnitOfWork, (one, _): (&Candidate, _)| {
                let Threepid { user_id, address, .. } = &one.threepid;
                unit.import_threepid(one.threepid.clone()).audit(self.audit_of(user_id, address, None))
            };
            let unit = chosen.fold(UnitOfWork::new(), import);
            if !self.commit(unit, run.mode).await? {
                continue;
            }
            for (candidate, fate) in candidates.into_iter().zip(fates) {
                match fate {
                    Fate::Skip(reason) => run.skip_contact(candidate.row, reason),
                    Fate::Import => run.report.contacts.imported += 1,
                    Fate::AlreadyThere => run.report.contacts.already_there += 1,
                }
            }
            return Ok(());
        }
        Err(too_many_conflicts())
    }

    async fn import_bindings(&self, run: &mut Run<'_>) -> Result<(), Unavailable> {
        let mut after = None;
        loop {
            let page = self.ports.source.bindings(after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            let read = page.len();
            let mut candidates = Vec::with_capacity(read);
            for row in page {
                match self.judge_binding(&row) {
                    Ok(binding) => candidates.push(binding),
                    Err(reason) => run.skip_binding(row, reason),
                }
            }
            self.settle_bindings(candidates, run).await?;
            run.advance(read);
        }
    }

    /// Records those of the bindings that are not recorded yet, in one unit.
    async fn settle_bindings(&self, candidates: Vec<Binding>, run: &mut Run<'_>) -> Result<(), Unavailable> {
        let recorded = candidates.iter().map(|one| self.ports.store.bindings(&one.user_id, &one.address));
        let recorded = try_join_all(recorded).await?;
        let mut chosen: BTreeMap<_, Binding> = BTreeMap::new();
        let count = candidates.len();
        for (binding, recorded) in candidates.into_iter().zip(recorded) {
            // Two spellings of one address are one binding.
            if !recorded.iter().any(|known| known.server == binding.server) {
                chosen.entry(binding.key()).or_insert(binding);
            }
        }
        let tally = &mut run.report.bindings;
        let imported = u64::try_from(chosen.len()).unwrap_or(u64::MAX);
        tally.imported += imported;
        tally.already_there += u64::try_from(count).unwrap_or(u64::MAX) - imported;
        let import = |unit: UnitOfWork, binding: Binding| {
            let Binding { user_id, address, server, .. } = &binding;
            let entry = self.audit_of(user_id, address, Some(server));
            unit.put_binding(binding).audit(entry)
        };
        let unit = chosen.into_values().fold(UnitOfWork::new(), import);
        if self.commit(unit, run.mode).await? { Ok(()) } else { Err(too_many_conflicts()) }
    }

    /// `false` when another unit came first.
    async fn commit(&self, unit: UnitOfWork, mode: ImportMode) -> Result<bool, Unavailable> {
        if mode == ImportMode::DryRun || unit.changes().is_empty() {
            return Ok(true);
        }
        match self.ports.store.commit(unit).await {
            Ok(()) => Ok(true),
            Err(CommitError::Conflict(_)) => Ok(false),
            Err(CommitError::Unavailable(error)) => Err(error),
        }
    }

    fn audit_of(
        &self,
        user_id: &UserId,
        address: &Address,
        server: Option<&IdentityServerName>,
    ) -> AuditEntry {
        AuditEntry {
            at: self.ports.clock.now(),
            user_id: user_id.clone(),
            address: address.clone(),
            action: AuditAction::Imported,
            door: AuditDoor::Import,
            server: server.cloned(),
            reference: None,
        }
    }

    fn judge(&self, row: &ForeignContact) -> Result<Threepid, SkipReason> {
        let address = address(&row.medium, &row.address)?;
        let user_id = self.account(&row.user_id, row.account)?;
        let time =
            |ms: i64| u64::try_from(ms).map(Timestamp::from_ms).map_err(|_| SkipReason::ImpossibleTime);
        Ok(Threepid {
            user_id,
            address,
            validated_at: time(row.validated_at)?,
            added_at: time(row.added_at)?,
        })
    }

    /// The source does not say since when it is bound, so it counts from now.
    fn judge_binding(&self, row: &ForeignBinding) -> Result<Binding, SkipReason> {
        let address = address(&row.medium, &row.address)?;
        let user_id = self.account(&row.user_id, row.account)?;
        let server = IdentityServerName::parse(&row.id_server).map_err(|_| SkipReason::NotAServerName)?;
        Ok(Binding { user_id, address, server, state: BindingState::Bound, since: self.ports.clock.now() })
    }

    fn account(&self, user_id: &str, account: ForeignAccount) -> Result<UserId, SkipReason> {
        let user_id = UserId::parse(user_id).map_err(|_| SkipReason::NotAUserId)?;
        if self.homeserver.as_deref().is_some_and(|name| name != user_id.server_name()) {
            return Err(SkipReason::OtherHomeserver);
        }
        match account {
            ForeignAccount::Active => Ok(user_id),
            ForeignAccount::Deactivated => Err(SkipReason::DeactivatedAccount),
            ForeignAccount::Unknown => Err(SkipReason::UnknownAccount),
        }
    }
}

fn address(medium: &str, address: &str) -> Result<Address, SkipReason> {
    let medium = match Medium::parse(medium) {
        Some(medium) => medium,
        None if medium == EMAIL_OLD => return Err(SkipReason::EmailOld),
        None => return Err(SkipReason::OtherMedium),
    };
    Address::parse(medium, address).map_err(|_| SkipReason::NotAnAddress)
}

impl Run<'_> {
    fn advance(&mut self, steps: usize) {
        self.done += u64::try_from(steps).unwrap_or_default();
        // The source may have grown since it was counted.
        self.total = self.total.max(self.done);
        self.watcher.progress(self.done, self.total);
    }

    fn skip_contact(&mut self, row: ForeignContact, reason: SkipReason) {
        *self.report.contacts.skipped.entry(reason).or_default() += 1;
        let ForeignContact { user_id, medium, address, .. } = row;
        self.watcher.skipped(SkippedRow { user_id, medium, address, id_server: None, reason });
    }

    fn skip_binding(&mut self, row: ForeignBinding, reason: SkipReason) {
        *self.report.bindings.skipped.entry(reason).or_default() += 1;
        let ForeignBinding { user_id, medium, address, id_server, .. } = row;
        self.watcher.skipped(SkippedRow { user_id, medium, address, id_server: Some(id_server), reason });
    }
}

#[cfg(test)]
mod tests;
