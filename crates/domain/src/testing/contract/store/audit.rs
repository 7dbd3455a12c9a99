//! What a store owes about the audit trail: each change is remembered in its unit, whole, once, and only if it was one.

use super::*;
use crate::model::{AuditAction, AuditDoor, AuditEntry, AuditQuery, IdentityServerName};

/// So many entries are more than any case commits.
const ALL: usize = 1000;

fn entry(owner: &str, address: &str, at: Timestamp) -> AuditEntry {
    AuditEntry {
        at,
        user_id: user(owner),
        address: email(address),
        action: AuditAction::Added,
        door: AuditDoor::Add,
        server: None,
        reference: None,
    }
}

fn removal(owner: &str, address: &str) -> AuditEntry {
    AuditEntry {
        action: AuditAction::Removed,
        door: AuditDoor::Delete,
        ..entry(owner, address, END_OF_YEAR_9999)
    }
}

async fn told(store: &dyn Store, user_id: Option<&str>, address: Option<&str>) -> Vec<AuditEntry> {
    let query = AuditQuery { user_id: user_id.map(user), address: address.map(email), limit: ALL };
    store.audit_trail(query).await.expect("the store answers")
}

async fn remember(store: &dyn Store, entries: impl IntoIterator<Item = AuditEntry>) {
    commit(store, entries.into_iter().fold(UnitOfWork::new(), UnitOfWork::audit)).await;
}

/// Whatever happened, through whatever door, of whatever medium.
pub async fn every_field_of_an_audit_entry_survives(backend: &Backend) {
    let store = &*backend.store;
    assert_eq!(told(store, None, None).await, []);
    let phone = Address::parse(Medium::Msisdn, "447700900813").expect("a phone number");
    let server = IdentityServerName::parse("[2001:db8::1]:8090").expect("a server name");
    let mut expected = Vec::new();
    for (count, (action, door)) in AuditAction::ALL
        .iter()
        .flat_map(|action| AuditDoor::ALL.iter().map(move |door| (action, door)))
        .enumerate()
    {
        let even = count.is_multiple_of(2);
        expected.push(AuditEntry {
            at: if count == 0 { END_OF_YEAR_9999 } else { NOW },
            user_id: user("@alice/ü:example.org:8448"),
            address: if even { email("é+tag@bücher.example") } else { phone.clone() },
            action: *action,
            door: *door,
            server: even.then(|| server.clone()),
            reference: (!even).then(|| format!("request-{count}")),
        });
    }
    // Committed last, told first.
    remember(store, expected.iter().rev().cloned()).await;
    assert_eq!(told(store, None, None).await, expected);
}

/// By when each was decided, whatever the order of the commits; then by these. The limit keeps the newest.
pub async fn the_audit_trail_is_told_newest_first(backend: &Backend) {
    let store = &*backend.store;
    let at = |ms| Timestamp::from_ms(NOW.as_ms() + ms);
    let alice = |address, ms| entry("@alice:example.org", address, at(ms));
    remember(store, [alice("second@example.org", 2)]).await;
    remember(store, [alice("third@example.org", 1), alice("first@example.org", 3)]).await;
    remember(store, [alice("fifth@example.org", 0), alice("fourth@example.org", 0)]).await;
    let addresses = |entries: Vec<AuditEntry>| -> Vec<String> {
        entries.into_iter().map(|entry| entry.address.as_str().replace("@example.org", "")).collect()
    };
    assert_eq!(addresses(told(store, None, None).await), ["first", "second", "third", "fourth", "fifth"]);
    for (limit, expected) in [(0, &[][..]), (1, &["first"]), (3, &["first", "second", "third"])] {
        let query = AuditQuery { user_id: None, address: None, limit };
        assert_eq!(
            addresses(store.audit_trail(query).await.expect("the store answers")),
            expected,
            "{limit}"
        );
    }
}

/// What is not asked for is not told; both together ask for both.
pub async fn the_audit_trail_is_told_by_account_and_by_address(backend: &Backend) {
    let store = &*backend.store;
    let (alice, bob) = ("@alice:example.org", "@bob:example.org");
    let entries = [
        entry(bob, "b@example.org", NOW),
        entry(bob, "a@example.org", NOW),
        entry(alice, "a@example.org", NOW),
        entry(alice, "c@example.org", NOW),
    ];
    remember(store, entries.iter().rev().cloned()).await;
    let [b, bobs, hers, c] = entries;
    assert_eq!(told(store, Some(bob), None).await, [b, bobs.clone()]);
    assert_eq!(told(store, Some(alice), None).await, [hers.clone(), c]);
    assert_eq!(told(store, None, Some("a@example.org")).await, [bobs, hers.clone()]);
    assert_eq!(told(store, Some(alice), Some("a@example.org")).await, [hers]);
    assert_eq!(told(store, Some(alice), Some("b@example.org")).await, []);
    assert_eq!(told(store, Some("@Alice:example.org"), None).await, []);
}

/// A unit that meets a conflict leaves no entry, wherever in the unit it stood.
pub async fn an_entry_stands_or_falls_with_the_change_that_it_tells_of(backend: &Backend) {
    let store = &*backend.store;
    let (alice, bob) = ("@alice:example.org", "@bob:example.org");
    let added = UnitOfWork::new().put_threepid(threepid(alice, "a@example.org")).audit(entry(
        alice,
        "a@example.org",
        NOW,
    ));
    commit(store, added).await;
    let known = [entry(alice, "a@example.org", NOW)];
    assert_eq!(told(store, None, None).await, known);
    let taken = || threepid(bob, "a@example.org");
    for unit in [
        UnitOfWork::new().audit(entry(bob, "a@example.org", NOW)).put_threepid(taken()),
        UnitOfWork::new()
            .remove_threepid_audited(removal(alice, "a@example.org"))
            .put_threepid(threepid(alice, "b@example.org"))
            .put_threepid(threepid(bob, "b@example.org")),
    ] {
        assert_eq!(conflict(store.commit(unit).await), Some(Conflict::AddressOwned));
        assert_eq!(told(store, None, None).await, known);
    }
}

/// Neither another account's address, nor one that nobody has, nor one that was taken before.
pub async fn a_removal_that_took_nothing_is_not_remembered(backend: &Backend) {
    let store = &*backend.store;
    let (alice, bob) = ("@alice:example.org", "@bob:example.org");
    commit(store, UnitOfWork::new().put_threepid(threepid(alice, "a@example.org"))).await;
    let removed = removal(alice, "a@example.org");
    for (unheard, expected) in [
        (removal(bob, "a@example.org"), vec![]),
        (removal(alice, "b@example.org"), vec![]),
        (removed.clone(), vec![removed.clone()]),
        (removed.clone(), vec![removed]),
    ] {
        commit(store, UnitOfWork::new().remove_threepid_audited(unheard)).await;
        assert_eq!(told(store, None, None).await, expected);
    }
    assert_eq!(owner(store, &email("a@example.org")).await, None);
}

/// Whoever opens the storage once more is told all of it, in the same order.
pub async fn the_audit_trail_is_there_after_a_restart(backend: &Backend) {
    let alice = "@alice:example.org";
    remember(&*backend.store, [entry(alice, "a@example.org", NOW), removal(alice, "a@example.org")]).await;
    let again = backend.reopened().await;
    remember(&*again.store, [entry(alice, "b@example.org", NOW)]).await;
    let expected = [
        removal(alice, "a@example.org"),
        entry(alice, "b@example.org", NOW),
        entry(alice, "a@example.org", NOW),
    ];
    assert_eq!(told(&*again.store, None, None).await, expected);
    assert_eq!(told(&*backend.store, None, None).await, expected);
}

/// One of them took it.
pub async fn an_address_removed_many_times_at_once_is_remembered_as_removed_once(
    backend: &Backend,
    spawn: Spawner,
) {
    let handles = [backend.store.clone(), backend.reopened().await.store];
    for round in 0..4_u8 {
        let address = format!("a{round}@example.org");
        let owned = threepid("@alice:example.org", &address);
        commit(&*backend.store, UnitOfWork::new().put_threepid(owned)).await;
        let task = |contender: u8| {
            let store = handles[usize::from(contender) % handles.len()].clone();
            let unit = UnitOfWork::new().remove_threepid_audited(removal("@alice:example.org", &address));
            async move { conflict(store.commit(unit).await) }
        };
        let answers = race(spawn, (0..CONTENDERS).map(task).collect()).await;
        assert!(answers.iter().all(Option::is_none), "{answers:?}");
        assert_eq!(told(&*backend.store, None, Some(&address)).await.len(), 1, "round {round}");
    }
}
