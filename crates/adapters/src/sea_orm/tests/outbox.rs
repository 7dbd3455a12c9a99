use std::time::Duration;

use sea_orm::{ConnectionTrait, EntityTrait};
use threepid_domain::model::{
    BindingKey, IdentityServerName, LeaseId, MessageId, OutboxMessage, Payload, Settlement, UnitOfWork,
};
use threepid_domain::ports::{Outbox, Store};
use tokio::time::timeout;

use super::{NOW, SOON, TestResult, email, message, open, user};
use crate::sea_orm::SeaOrmStore;
use crate::sea_orm::entities::outbox;
use crate::sea_orm::outbox::DUE_ON_SQLITE;

const LEASE: Duration = Duration::from_secs(60);

async fn row(
    store: &SeaOrmStore,
    id: &str,
) -> Result<outbox::Model, Box<dyn std::error::Error + Send + Sync>> {
    Ok(outbox::Entity::find_by_id(id).one(store.database().reader()).await?.ok_or("the message is kept")?)
}

#[tokio::test]
async fn settled_messages_are_kept_with_what_became_of_them() -> TestResult {
    let folder = tempfile::tempdir()?;
    let store = SeaOrmStore::new(open(&folder).await?);
    let reason = || "550 no such user".to_owned();
    for (id, settlement, state, error) in [
        ("sent", Settlement::Sent, "sent", None),
        ("expired", Settlement::Expired, "expired", None),
        ("dead", Settlement::Dead { reason: reason() }, "dead", Some(reason())),
    ] {
        store.commit(UnitOfWork::new().enqueue(message(id)?)).await?;
        store.claim(NOW, LEASE, LeaseId::new(id), 1).await?;
        assert!(store.settle(&MessageId::new(id), &LeaseId::new(id), NOW.plus(LEASE), settlement).await?);
        let row = row(&store, id).await?;
        assert_eq!((row.state.as_str(), row.last_error, row.lease_id), (state, error, None));
        assert_eq!(row.settled_at, i64::try_from(NOW.plus(LEASE).as_ms()).ok());
    }
    Ok(())
}

#[tokio::test]
async fn a_settled_unbind_is_kept_when_what_is_owed_about_its_binding_is_cancelled() -> TestResult {
    let folder = tempfile::tempdir()?;
    let store = SeaOrmStore::new(open(&folder).await?);
    let (user_id, address) = (user("alice")?, email("a@example.org")?);
    let key = BindingKey { user_id, address, server: IdentityServerName::parse("id.example")? };
    for id in ["dead", "owed"] {
        let BindingKey { user_id, address, server } = key.clone();
        let payload = Payload::Unbind { user_id, address, server, forget: false };
        store.commit(UnitOfWork::new().enqueue(OutboxMessage { payload, ..message(id)? })).await?;
        store.claim(NOW, LEASE, LeaseId::new(id), 1).await?;
    }
    let dead = Settlement::Dead { reason: "refused".to_owned() };
    assert!(store.settle(&MessageId::new("dead"), &LeaseId::new("dead"), NOW, dead).await?);
    store.commit(UnitOfWork::new().cancel_unbind(key)).await?;
    assert_eq!(row(&store, "dead").await?.state, "dead");
    assert!(row(&store, "owed").await.is_err());
    Ok(())
}

#[tokio::test]
async fn a_retry_says_why_and_is_not_settled() -> TestResult {
    let folder = tempfile::tempdir()?;
    let store = SeaOrmStore::new(open(&folder).await?);
    store.commit(UnitOfWork::new().enqueue(message("message")?)).await?;
    store.claim(NOW, LEASE, LeaseId::new("lease"), 1).await?;
    let retry = Settlement::Retry { at: NOW.plus(LEASE), reason: "451 later".to_owned() };
    assert!(store.settle(&MessageId::new("message"), &LeaseId::new("lease"), NOW, retry).await?);
    let row = row(&store, "message").await?;
    assert_eq!((row.state.as_str(), row.last_error.as_deref()), ("queued", Some("451 later")));
    assert_eq!((row.settled_at, row.leased_until, row.attempts), (None, None, 1));
    Ok(())
}

#[tokio::test]
async fn an_unreadable_message_is_kept_as_dead_and_holds_up_no_other() -> TestResult {
    let folder = tempfile::tempdir()?;
    let store = SeaOrmStore::new(open(&folder).await?);
    store.commit(UnitOfWork::new().enqueue(message("a")?).enqueue(message("b")?)).await?;
    let corrupt = "UPDATE outbox SET payload = '{\"kind\":\"hush\"}' WHERE id = 'a'";
    store.database().writer().execute_unprepared(corrupt).await?;
    let claimed = store.claim(NOW, LEASE, LeaseId::new("lease"), 10).await?;
    assert_eq!(claimed.iter().map(|c| c.message.id.as_str()).collect::<Vec<_>>(), ["b"]);
    let row = row(&store, "a").await?;
    assert_eq!(row.state, "dead");
    assert!(row.last_error.is_some_and(|e| e.contains("payload is none") && !e.contains("hush")));
    Ok(())
}

#[tokio::test]
async fn a_row_that_holds_anything_at_all_holds_up_no_other() -> TestResult {
    let folder = tempfile::tempdir()?;
    let store = SeaOrmStore::new(open(&folder).await?);
    for (turn, (change, is_buried)) in [
        ("payload = x'fffe'", true),
        ("payload = CAST(x'7b22ff227d' AS TEXT)", true),
        ("payload = 1.5", true),
        ("created_at = 'soon'", true),
        ("not_after = x'00'", true),
        ("not_after = 1e300", true),
        ("attempts = 9223372036854775807", true),
        ("attempts = -7", true),
        // What has no name cannot be settled; it comes back when its lease ends.
        ("id = x'ff'", false),
    ]
    .into_iter()
    .enumerate()
    {
        let (bad, good) = (format!("bad{turn}"), format!("good{turn}"));
        store.commit(UnitOfWork::new().enqueue(message(&bad)?).enqueue(message(&good)?)).await?;
        let corrupt = format!("UPDATE outbox SET {change} WHERE id = '{bad}'");
        store.database().writer().execute_unprepared(&corrupt).await?;
        let claimed = store.claim(NOW, LEASE, LeaseId::new("lease"), 10).await?;
        assert_eq!(claimed.iter().map(|c| c.message.id.as_str()).collect::<Vec<_>>(), [good], "{change}");
        if is_buried {
            let state = "SELECT state FROM outbox WHERE id = $1";
            let reader = store.database().reader();
            let state =
                sea_orm::Statement::from_sql_and_values(reader.get_database_backend(), state, [bad.into()]);
            let row = reader.query_one_raw(state).await?.ok_or("it is kept")?;
            assert_eq!(row.try_get_by_index::<String>(0)?, "dead", "{change}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_second_handle_on_the_database_wakes_the_first() -> TestResult {
    let folder = tempfile::tempdir()?;
    let database = open(&folder).await?;
    let (relay, other) = (SeaOrmStore::new(database.clone()), SeaOrmStore::new(database));
    other.commit(UnitOfWork::new().enqueue(message("message")?)).await?;
    timeout(SOON, relay.woken()).await?;
    assert!(timeout(Duration::ZERO, relay.woken()).await.is_err(), "one commit wakes once");
    Ok(())
}

#[tokio::test]
async fn a_unit_that_conflicts_wakes_nobody() -> TestResult {
    let folder = tempfile::tempdir()?;
    let store = SeaOrmStore::new(open(&folder).await?);
    store.commit(UnitOfWork::new().put_threepid(super::threepid("alice", "a@example.org")?)).await?;
    let unit =
        UnitOfWork::new().enqueue(message("message")?).put_threepid(super::threepid("bob", "a@example.org")?);
    assert!(store.commit(unit).await.is_err());
    assert!(timeout(Duration::ZERO, store.woken()).await.is_err());
    assert_eq!(store.claim(NOW, LEASE, LeaseId::new("lease"), 10).await?, []);
    Ok(())
}

#[tokio::test]
async fn a_claim_finds_its_messages_by_an_index() -> TestResult {
    let folder = tempfile::tempdir()?;
    let store = SeaOrmStore::new(open(&folder).await?);
    let plan = format!("EXPLAIN QUERY PLAN {DUE_ON_SQLITE}");
    let reader = store.database().reader();
    let values = ["queued".into(), 1_i64.into(), 1_i64.into()];
    let statement = sea_orm::Statement::from_sql_and_values(reader.get_database_backend(), plan, values);
    let steps = reader.query_all_raw(statement).await?;
    let steps: Vec<String> = steps.iter().map(|row| row.try_get("", "detail")).collect::<Result<_, _>>()?;
    assert!(
        steps.iter().any(|step| step.contains("outbox_state_due_at (state=? AND due_at<?)")),
        "{steps:?}"
    );
    Ok(())
}
