//! Every reason to skip a row, on rows as Synapse may have them; and what a second run, a dry one and a broken one do.

#![expect(clippy::expect_used, reason = "a test that is given nonsense fails")]

use std::sync::Arc;

use async_trait::async_trait;

use super::*;
use crate::ports::SourceCounts;
use crate::testing::{CommitFailure, FixedClock, Fixture, MemoryStore};

/// Rows in memory, in the order of their spelling, as Synapse's unique key has them.
#[derive(Default)]
struct Rows {
    contacts: Vec<ForeignContact>,
    bindings: Vec<ForeignBinding>,
}

fn contact_key(row: &ForeignContact) -> (String, String) {
    (row.medium.clone(), row.address.clone())
}

fn binding_key(row: &ForeignBinding) -> (String, String, String, String) {
    (row.user_id.clone(), row.medium.clone(), row.address.clone(), row.id_server.clone())
}

#[async_trait]
impl ContactSource for Rows {
    async fn counts(&self) -> Result<SourceCounts, Unavailable> {
        let count = |rows: usize| u64::try_from(rows).unwrap_or(u64::MAX);
        Ok(SourceCounts { contacts: count(self.contacts.len()), bindings: count(self.bindings.len()) })
    }

    async fn contacts(
        &self,
        after: Option<ForeignContact>,
        limit: usize,
    ) -> Result<Vec<ForeignContact>, Unavailable> {
        let mut rows = self.contacts.clone();
        rows.sort_by_key(contact_key);
        let behind =
            |row: &ForeignContact| after.as_ref().is_none_or(|last| contact_key(row) > contact_key(last));
        Ok(rows.into_iter().filter(behind).take(limit).collect())
    }

    async fn bindings(
        &self,
        after: Option<ForeignBinding>,
        limit: usize,
    ) -> Result<Vec<ForeignBinding>, Unavailable> {
        let mut rows = self.bindings.clone();
        rows.sort_by_key(binding_key);
        let behind =
            |row: &ForeignBinding| after.as_ref().is_none_or(|last| binding_key(row) > binding_key(last));
        Ok(rows.into_iter().filter(behind).take(limit).collect())
    }
}

#[derive(Default)]
struct Notes {
    skipped: Vec<SkippedRow>,
    progress: Vec<(u64, u64)>,
}

impl ImportWatcher for Notes {
    fn progress(&mut self, done: u64, total: u64) {
        self.progress.push((done, total));
    }

    fn skipped(&mut self, row: SkippedRow) {
        self.skipped.push(row);
    }
}

impl Notes {
    /// Which rows were skipped, and why, in the order of their addresses.
    fn reasons(&self) -> Vec<(&str, SkipReason)> {
        let mut reasons: Vec<_> = self.skipped.iter().map(|row| (row.address.as_str(), row.reason)).collect();
        reasons.sort_unstable();
        reasons
    }
}

struct World {
    store: Arc<MemoryStore>,
    clock: Arc<FixedClock>,
}

impl World {
    fn new() -> Self {
        Self { store: Arc::default(), clock: Arc::default() }
    }

    async fn import(&self, rows: Rows, mode: ImportMode) -> (Result<ImportReport, Unavailable>, Notes) {
        let ports =
            ImporterPorts { source: Arc::new(rows), store: self.store.clone(), clock: self.clock.clone() };
        let mut notes = Notes::default();
        let report = Importer::new(ports, Some("example.org".to_owned())).run(mode, &mut notes).await;
        (report, notes)
    }

    async fn apply(&self, rows: Rows) -> (ImportReport, Notes) {
        let (report, notes) = self.import(rows, ImportMode::Apply).await;
        (report.expect("source and store answer"), notes)
    }

    fn owners(&self) -> Vec<(String, String)> {
        let threepids = self.store.all_threepids().into_iter();
        threepids.map(|one| (one.address.as_str().to_owned(), one.user_id.as_str().to_owned())).collect()
    }
}

fn contact(user: &str, medium: &str, address: &str) -> ForeignContact {
    ForeignContact {
        user_id: format!("@{user}:example.org"),
        medium: medium.to_owned(),
        address: address.to_owned(),
        validated_at: 1_500_000_000_123,
        added_at: 1_600_000_000_456,
        account: ForeignAccount::Active,
    }
}

fn email(user: &str, address: &str) -> ForeignContact {
    contact(user, "email", address)
}

fn binding(user: &str, address: &str, id_server: &str) -> ForeignBinding {
    ForeignBinding {
        user_id: format!("@{user}:example.org"),
        medium: "email".to_owned(),
        address: address.to_owned(),
        id_server: id_server.to_owned(),
        account: ForeignAccount::Active,
    }
}

fn contacts(contacts: Vec<ForeignContact>) -> Rows {
    Rows { contacts, bindings: Vec::new() }
}

fn bindings(bindings: Vec<ForeignBinding>) -> Rows {
    Rows { contacts: Vec::new(), bindings }
}

fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter().map(|(address, user)| ((*address).to_owned(), format!("@{user}:example.org"))).collect()
}

#[tokio::test]
async fn addresses_and_both_times_are_kept() {
    let world = World::new();
    let rows = vec![email("alice", "alice@example.org"), contact("alice", "msisdn", "447700900813")];
    let (report, notes) = world.apply(contacts(rows)).await;
    assert_eq!(report.contacts, Tally { imported: 2, ..Tally::default() });
    assert!(notes.skipped.is_empty());
    assert_eq!(world.owners(), pairs(&[("alice@example.org", "alice"), ("447700900813", "alice")]));
    for threepid in world.store.all_threepids() {
        assert_eq!(threepid.validated_at, Timestamp::from_ms(1_500_000_000_123));
        assert_eq!(threepid.added_at, Timestamp::from_ms(1_600_000_000_456));
    }
}

#[tokio::test]
async fn a_row_that_cannot_be_a_contact_is_skipped_with_its_reason() {
    let world = World::new();
    let of = |account, address| ForeignContact { account, ..email("carol", address) };
    let rows = vec![
        contact("bob", "email_old", "old@example.org"),
        contact("bob", "xmpp", "xmpp@example.org"),
        email("bob", "bob at example.org"),
        contact("bob", "msisdn", "+44 7700"),
        of(ForeignAccount::Unknown, "unknown@example.org"),
        of(ForeignAccount::Deactivated, "deactivated@example.org"),
        ForeignContact {
            user_id: "@dave:elsewhere.example".to_owned(),
            ..email("dave", "remote@example.org")
        },
        ForeignContact { user_id: "dave".to_owned(), ..email("dave", "nobody@example.org") },
        ForeignContact { added_at: -1, ..email("bob", "early@example.org") },
        ForeignContact { validated_at: i64::MIN, ..email("bob", "earlier@example.org") },
    ];
    let (report, notes) = world.apply(contacts(rows)).await;
    let mut expected = [
        ("old@example.org", SkipReason::EmailOld),
        ("xmpp@example.org", SkipReason::OtherMedium),
        ("bob at example.org", SkipReason::NotAnAddress),
        ("+44 7700", SkipReason::NotAnAddress),
        ("unknown@example.org", SkipReason::UnknownAccount),
        ("deactivated@example.org", SkipReason::DeactivatedAccount),
        ("remote@example.org", SkipReason::OtherHomeserver),
        ("nobody@example.org", SkipReason::NotAUserId),
        ("early@example.org", SkipReason::ImpossibleTime),
        ("earlier@example.org", SkipReason::ImpossibleTime),
    ];
    expected.sort_unstable();
    assert_eq!(notes.reasons(), expected);
    assert_eq!(report.contacts.imported, 0);
    assert_eq!(report.contacts.skipped[&SkipReason::NotAnAddress], 2);
    assert_eq!(report.contacts.skipped.values().sum::<u64>(), 10);
    assert!(world.owners().is_empty());
}

#[tokio::test]
async fn of_two_spellings_of_an_address_the_one_that_was_added_first_is_imported() {
    for (capital, small, owner) in [(10, 20, "alice"), (20, 10, "bob"), (10, 10, "alice")] {
        let world = World::new();
        let rows = vec![
            ForeignContact { added_at: small, ..email("bob", "shared@example.org") },
            ForeignContact { added_at: capital, ..email("alice", "Shared@Example.org") },
            ForeignContact { added_at: 30, ..email("carol", "SHARED@example.org") },
            // Older than all of them, and of no account that could own it.
            ForeignContact {
                added_at: 1,
                account: ForeignAccount::Deactivated,
                ..email("dave", "sharED@example.org")
            },
            email("bob", "b@bücher.example"),
            email("bob", "b@xn--bcher-kva.example"),
        ];
        let (report, notes) = world.apply(contacts(rows)).await;
        assert_eq!(world.owners(), pairs(&[("b@bücher.example", "bob"), ("shared@example.org", owner)]));
        assert_eq!(report.contacts.imported, 2);
        assert_eq!(report.contacts.skipped[&SkipReason::Duplicate], 3);
        assert_eq!(report.contacts.skipped[&SkipReason::DeactivatedAccount], 1);
        assert_eq!(notes.skipped.len(), 4);
    }
}

#[tokio::test]
async fn another_accounts_address_stays_where_it_is() {
    let world = World::new();
    world.apply(contacts(vec![email("alice", "a@example.org")])).await;
    let (report, notes) = world.apply(contacts(vec![email("bob", "A@example.org")])).await;
    assert_eq!(notes.reasons(), [("A@example.org", SkipReason::OwnedByAnother)]);
    assert_eq!(report.contacts.imported, 0);
    assert_eq!(world.owners(), pairs(&[("a@example.org", "alice")]));
}

#[tokio::test]
async fn a_second_run_changes_nothing_not_even_a_newer_time() {
    let world = World::new();
    let rows = || Rows {
        contacts: vec![email("alice", "Alice@example.org"), email("bob", "bob@example.org")],
        bindings: vec![binding("alice", "alice@example.org", "is.example")],
    };
    world.apply(rows()).await;
    let address = Fixture::address("alice@example.org");
    let newer = Threepid {
        user_id: Fixture::user("@alice:example.org"),
        address,
        validated_at: FixedClock::START,
        added_at: FixedClock::START,
    };
    world.store.commit(UnitOfWork::new().put_threepid(newer)).await.expect("her own address");
    let (threepids, bindings) = (world.store.all_threepids(), world.store.all_bindings());
    world.clock.advance(std::time::Duration::from_secs(60));
    let (report, notes) = world.apply(rows()).await;
    assert_eq!(report.contacts, Tally { already_there: 2, ..Tally::default() });
    assert_eq!(report.bindings, Tally { already_there: 1, ..Tally::default() });
    assert!(notes.skipped.is_empty());
    assert_eq!(world.store.all_threepids(), threepids);
    assert_eq!(world.store.all_bindings(), bindings);
}

#[tokio::test]
async fn a_dry_run_says_what_would_happen_and_writes_nothing() {
    let world = World::new();
    let rows = || Rows {
        contacts: vec![
            email("alice", "Alice@example.org"),
            email("bob", "alice@example.org"),
            email("bob", "bob@example.org"),
            email("bob", "nonsense"),
        ],
        bindings: vec![binding("alice", "alice@example.org", "is.example")],
    };
    let (dry, foreseen) = world.import(rows(), ImportMode::DryRun).await;
    assert!(world.owners().is_empty() && world.store.all_bindings().is_empty());
    let (done, met) = world.apply(rows()).await;
    assert_eq!(dry.expect("source and store answer"), done);
    assert_eq!(foreseen.skipped, met.skipped);
    assert_eq!(done.contacts.imported, 2);
}

#[tokio::test]
async fn bindings_are_kept_also_where_the_account_does_not_have_the_address() {
    let world = World::new();
    let rows = vec![
        binding("alice", "Alice@Example.org", "Vector.IM"),
        binding("alice", "alice@example.org", "vector.im"),
        binding("alice", "alice@example.org", "matrix.org"),
        binding("bob", "bob@example.org", "is.example:8090"),
        binding("bob", "bob@example.org", "is.example/path"),
        binding("bob", "bob", "is.example"),
        ForeignBinding {
            account: ForeignAccount::Unknown,
            ..binding("eve", "eve@example.org", "is.example")
        },
    ];
    let (report, notes) = world.apply(bindings(rows)).await;
    let recorded: Vec<_> = world.store.all_bindings();
    let shown: Vec<_> = recorded
        .iter()
        .map(|one| (one.user_id.as_str(), one.address.as_str(), one.server.as_str(), one.state, one.since))
        .collect();
    let bound = |user, address, server| (user, address, server, BindingState::Bound, FixedClock::START);
    assert_eq!(
        shown,
        [
            bound("@alice:example.org", "alice@example.org", "matrix.org"),
            bound("@alice:example.org", "alice@example.org", "vector.im"),
            bound("@bob:example.org", "bob@example.org", "is.example:8090"),
        ]
    );
    assert_eq!(report.bindings.imported, 3);
    assert_eq!(report.bindings.already_there, 1, "two spellings of one binding");
    assert_eq!(
        notes.reasons(),
        [
            ("bob", SkipReason::NotAnAddress),
            ("bob@example.org", SkipReason::NotAServerName),
            ("eve@example.org", SkipReason::UnknownAccount),
        ]
    );
    assert!(notes.skipped.iter().all(|row| row.id_server.is_some()));
}

#[tokio::test]
async fn an_import_that_broke_off_is_completed_by_the_next() {
    let rows = || {
        contacts((0..PAGE * 2 + 7).map(|n| email(&format!("u{n}"), &format!("u{n}@example.org"))).collect())
    };
    for failure in [CommitFailure::BeforeApply, CommitFailure::AfterApply] {
        let world = World::new();
        world.store.fail_commits(1, failure);
        let (broken, _) = world.import(rows(), ImportMode::Apply).await;
        assert!(broken.is_err());
        let there = world.owners().len();
        assert!(there == 0 || there == PAGE, "a page is whole or nothing: {there}");
        let (report, notes) = world.apply(rows()).await;
        let all = u64::try_from(PAGE * 2 + 7).expect("a small number");
        assert_eq!(report.contacts.imported + report.contacts.already_there, all);
        assert_eq!(world.owners().len(), PAGE * 2 + 7);
        assert!(notes.progress.is_sorted());
        assert_eq!(notes.progress.last(), Some(&(all * 2, all * 2)));
    }
}

#[test]
fn a_skipped_row_does_not_show_its_address() {
    let row = |medium: &str, address: &str| SkippedRow {
        user_id: "@alice:example.org".to_owned(),
        medium: medium.to_owned(),
        address: address.to_owned(),
        id_server: None,
        reason: SkipReason::NotAnAddress,
    };
    assert_eq!(row("email", "Alice@example.org").masked(), "a…@example.org");
    for hidden in
        [row("email", "alice at home"), row("email_old", "alice@example.org"), row("xmpp", "\u{1b}alice")]
    {
        assert_eq!(hidden.masked(), "a…");
        assert!(!format!("{hidden:?}").contains("lice "), "{hidden:?}");
    }
    assert_eq!(row("email", "").masked(), "…");
}

#[tokio::test]
async fn what_is_imported_is_remembered_and_what_was_there_or_is_skipped_is_not() {
    let world = World::new();
    let rows = || Rows {
        contacts: vec![email("alice", "alice@example.org"), email("bob", "bob at example.org")],
        bindings: vec![binding("alice", "alice@example.org", "id.example")],
    };
    let (dry, _) = world.import(rows(), ImportMode::DryRun).await;
    assert!(dry.is_ok() && world.store.audit_entries().is_empty());
    world.apply(rows()).await;
    world.apply(rows()).await;
    let remembered: Vec<_> = world.store.audit_entries();
    let lines = remembered.iter().map(|entry| {
        let AuditEntry { user_id, address, action, door, server, .. } = entry;
        let server = server.as_ref().map_or("-", |server| server.as_str());
        format!("{user_id} {} {} {} {server}", action.as_str(), address.as_str(), door.as_str())
    });
    let expected = [
        "@alice:example.org imported alice@example.org import -",
        "@alice:example.org imported alice@example.org import id.example",
    ];
    assert_eq!(lines.collect::<Vec<_>>(), expected);
}
