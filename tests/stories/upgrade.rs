//! An upgrade from every earlier version of the schema, empty or filled, on both engines: everything that was there is
//! there afterwards, and is read by the program's own storage.

use std::sync::Arc;
use std::time::Duration;

use sea_orm::{ConnectionTrait as _, Database as Raw, DatabaseConnection, DbBackend, Statement};
use serde_json::json;
use threepid_adapters::limits::SharedCounts as _;
use threepid_adapters::sea_orm::{
    ConnectSettings, Database, LocalAccounts, LocalReauthentication, SeaOrmStore,
};
use threepid_domain::model::{
    AccessToken, Address, AuditQuery, BindingState, Generation, IdentityServerName, KeyedHash, LeaseId,
    Medium, Payload, SessionState, Sid, Timestamp, UserId,
};
use threepid_domain::ports::{
    Answered, AskedAgain, Credentials, Housekeeping as _, Outbox as _, Perishable, Reauthentication as _,
    Store as _,
};
use threepid_domain::testing::FixedClock;
use threepid_tests::peers::Postgres;

use crate::Story;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const NOW: Timestamp = Timestamp::from_ms(1_700_000_000_000);
const KEY: &str = "0101010101010101010101010101010101010101010101010101010101010101";
const OTHER_KEY: &str = "0202020202020202020202020202020202020202020202020202020202020202";

/// What "wonderland" was kept as.
const PASSWORD_HASH: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$XLXMkTIymDDUTJ5dD6iaeA$CNNShDgPClg1oYBOfi6esu6EjDuz9bBJ7b0gsCYi8Ds";
const FULL_AT_US: i64 = 1_700_000_000_000_001;

/// What an operator had before an upgrade, as each version wrote it: from which step on there is such a row, and the
/// row. Only columns of that step are named.
fn rows() -> Vec<(&'static str, String)> {
    let token = r#"[{"generation":1,"expires_at":1700003600000,"next_link":null}]"#;
    let two = r#"[{"generation":1,"expires_at":1700003600000,"next_link":null},{"generation":2,"expires_at":1700007200000,"next_link":"https://app.example/done"}]"#;
    let session = |sid: &str,
                   key: &str,
                   current: &str,
                   state: &str,
                   validated: &str,
                   by: &str,
                   tokens: &str| {
        format!(
            "INSERT INTO validation_session (sid, \"key\", current_key, medium, address, state, wrong_tokens, \
             validated_at, consumed_by, send_attempt, tokens, created_at, revision) VALUES ('{sid}', '{key}', \
             {current}, 'email', 'alice@example.org', '{state}', 0, {validated}, {by}, 1, '{tokens}', \
             1700000000000, 1)"
        )
    };
    let mail = r#"{"kind":"validation_mail","to":"alice@example.org","sid":"pending","generation":1}"#;
    let first = "m0001_first_thread";
    let second = "m0002_identity_servers";
    vec![
        (first, session("pending", KEY, &format!("'{KEY}'"), "pending", "NULL", "NULL", two)),
        (first, session("consumed", OTHER_KEY, "NULL", "consumed", "1700000001000", "'@alice:example.org'", token)),
        (first, session("validated", OTHER_KEY, "NULL", "validated", "1700009000000", "NULL", token)),
        (first, "INSERT INTO threepid (medium, address, user_id, validated_at, added_at) VALUES ('email', \
            'é@bücher.example', '@alice:example.org', 1700000001000, 1700000002000)".to_owned()),
        (first, format!("INSERT INTO outbox (id, kind, payload, created_at, due_at, not_after, attempts, state) VALUES \
            ('owed', 'validation_mail', '{mail}', 1700000000000, 1700000000000, 1700003600000, 2, 'queued')")),
        (first, format!("INSERT INTO outbox (id, kind, payload, created_at, due_at, not_after, attempts, state, \
            settled_at, last_error) VALUES ('dead', 'validation_mail', '{mail}', 1700000000000, 1700000000000, \
            1700003600000, 3, 'dead', 1700000009000, '550 no')")),
        (first, "INSERT INTO server_key (id, fingerprint) VALUES (1, 'the fingerprint')".to_owned()),
        (first, "INSERT INTO account (user_id, is_guest, created_at) VALUES ('@alice:example.org', FALSE, 1)".to_owned()),
        (first, "INSERT INTO account_token (token_hash, user_id, created_at) VALUES ('hash', '@alice:example.org', 1)".to_owned()),
        (second, "INSERT INTO remote_session (server, sid, medium, address, opened_at) VALUES ('id.example', 'theirs', \
            'email', 'alice@example.org', 1700000000000)".to_owned()),
        (second, format!("INSERT INTO spent_proof (server, sid, user_id, \"key\", medium, address, spent_at) VALUES \
            ('id.example', 'theirs', '@alice:example.org', '{KEY}', 'msisdn', '447700900813', 1700000000000)")),
        (second, "INSERT INTO binding (user_id, medium, address, server, state, since) VALUES ('@alice:example.org', \
            'email', 'alice@example.org', 'id.example', 'bound', 1700000000000)".to_owned()),
        (second, "INSERT INTO challenge (session, user_id, sid, issued_at, is_spent) VALUES ('asked', \
            '@alice:example.org', 'pending', 1700000000000, FALSE)".to_owned()),
        (
            "m0003_passwords",
            format!("UPDATE account SET password_hash = '{PASSWORD_HASH}' WHERE user_id = '@alice:example.org'"),
        ),
        (
            "m0005_rate_limits",
            format!(
                "INSERT INTO rate_limit (name, subject, full_at_us) VALUES ('codes_per_address', 'subject', {FULL_AT_US})"
            ),
        ),
        (
            "m0006_housekeeping",
            "UPDATE validation_session SET last_time = CASE sid WHEN 'pending' THEN 1700007200000 \
            WHEN 'consumed' THEN 1700003600000 ELSE 1700009000000 END"
                .to_owned(),
        ),
        ("m0004_audit", "INSERT INTO audit (\"at\", user_id, medium, address, action, door, server, reference) VALUES \
            (1700000000000, '@alice:example.org', 'email', 'alice@example.org', 'added', 'account/3pid', NULL, 'r1')".to_owned()),
    ]
}

/// Every step there is, on whatever engine.
async fn steps(url: &str) -> Outcome<Vec<String>> {
    let database = Database::connect(&ConnectSettings::new(url)).await?;
    let steps = database.pending_migrations().await?;
    database.close().await;
    Ok(steps)
}

/// The tables of the schema that have no row.
async fn empty_tables(raw: &DatabaseConnection) -> Outcome<Vec<String>> {
    let backend = raw.get_database_backend();
    let tables = match backend {
        DbBackend::Sqlite => {
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name"
        }
        _ => {
            "SELECT CAST(table_name AS text) AS name FROM information_schema.tables \
             WHERE table_schema = 'public' ORDER BY 1"
        }
    };
    let mut empty = Vec::new();
    for row in raw.query_all_raw(Statement::from_string(backend, tables)).await? {
        let table: String = row.try_get("", "name")?;
        let any = Statement::from_string(backend, format!("SELECT 1 AS one FROM \"{table}\" LIMIT 1"));
        if raw.query_one_raw(any).await?.is_none() {
            empty.push(table);
        }
    }
    Ok(empty)
}

async fn upgraded(url: &str, version: usize, filled: bool) -> Story {
    let database = Database::connect(&ConnectSettings::new(url)).await?;
    let applied = database.migrate_by(Some(u32::try_from(version)?)).await?;
    assert_eq!(applied.len(), version);
    if filled {
        let raw = Raw::connect(url).await?;
        for (since, row) in rows() {
            if applied.iter().any(|step| step == since) {
                raw.execute_unprepared(&row).await.map_err(|error| format!("{row}: {error}"))?;
            }
        }
        assert_eq!(empty_tables(&raw).await?, Vec::<String>::new(), "after {applied:?}");
        raw.close().await?;
    }
    database.close().await;

    // Two instances of the new version, at once.
    let start = || async {
        let database = Database::connect(&ConnectSettings::new(url)).await?;
        let applied = database.migrate().await?;
        Outcome::Ok((database, applied.len()))
    };
    let (one, other) = tokio::join!(start(), start());
    let ((database, ones), (other, others)) = (one?, other?);
    other.close().await;
    assert!(ones == 0 || others == 0, "one of them took every step");
    assert_eq!(database.pending_migrations().await?, Vec::<String>::new());
    if filled {
        everything_is_there(&database, &applied)
            .await
            .map_err(|error| format!("from {applied:?}: {error}"))?;
    }
    database.close().await;
    Ok(())
}

async fn everything_is_there(database: &Database, had: &[String]) -> Story {
    let store = SeaOrmStore::new(database.clone());
    let alice = UserId::parse("@alice:example.org")?;
    let address = Address::parse(Medium::Email, "alice@example.org")?;
    database.recognise_key("the fingerprint").await?;
    assert!(database.recognise_key("another").await.is_err());

    let key = KeyedHash::from_hex(KEY).ok_or("a keyed hash")?;
    let pending = store.current_session(key).await?.ok_or("the pending session is current")?;
    assert_eq!(pending.record().tokens.len(), 2);
    let next = pending.token(Generation(2)).and_then(|token| token.next_link.clone());
    assert_eq!(next.as_ref().map(|link| link.as_str()), Some("https://app.example/done"));
    let consumed = store.session(&Sid::new("consumed")).await?.ok_or("the consumed session is there")?;
    assert!(matches!(&consumed.record().state, SessionState::Consumed { by, .. } if *by == alice));
    let threepids = store.threepids(&alice).await?;
    assert_eq!(threepids.iter().map(|one| one.address.as_str()).collect::<Vec<_>>(), ["é@bücher.example"]);
    let claimed = store.claim(NOW, Duration::ZERO, LeaseId::new("lease"), 10).await?;
    let [owed] = &claimed[..] else { return Err(format!("{claimed:?}").into()) };
    assert_eq!((owed.message.id.as_str(), owed.attempt), ("owed", 3));
    assert!(
        matches!(&owed.message.payload, Payload::ValidationMail { to, .. } if to.as_str() == "alice@example.org")
    );

    if had.iter().any(|step| step == "m0002_identity_servers") {
        let (server, sid) = (IdentityServerName::parse("id.example")?, Sid::new("theirs"));
        assert_eq!(store.remote_sessions(&sid).await?.len(), 1);
        assert_eq!(store.spent_proof(&server, &sid).await?.map(|proof| proof.user_id), Some(alice.clone()));
        let bindings = store.bindings(&alice, &address).await?;
        assert_eq!(bindings.iter().map(|binding| binding.state).collect::<Vec<_>>(), [BindingState::Bound]);
        assert!(store.challenge("asked").await?.is_some());
    }
    if had.iter().any(|step| step == "m0003_passwords") {
        let hash = |_: &AccessToken| KeyedHash::new([0; 32]);
        let accounts = LocalAccounts::new(database.clone(), Arc::new(FixedClock::default()), hash);
        let port = LocalReauthentication::new(accounts, || "session".to_owned());
        let credentials = Credentials { access_token: AccessToken::new("t"), user_id: None, client_ip: None };
        let asked = AskedAgain { credentials, user_id: alice.clone(), sid: Sid::new("pending") };
        let auth = json!({"type": "m.login.password", "user": "alice", "password": "wonderland"});
        let answered = port.answer(asked, auth.as_object().cloned().unwrap_or_default()).await?;
        assert!(matches!(answered, Answered::Proven), "the password is the same");
    }
    if had.iter().any(|step| step == "m0005_rate_limits") {
        assert_eq!(database.full_at("codes_per_address", "subject".to_owned()).await?, Some(FULL_AT_US));
    }
    let query = AuditQuery { user_id: Some(alice), address: None, limit: 10 };
    let audited = usize::from(had.iter().any(|step| step == "m0004_audit"));
    assert_eq!(store.audit_trail(query).await?.len(), audited);

    // Sessions of older versions leave when they have ended, and not before: by a token's end, or by a proof.
    for (before, leave) in
        [(1_700_003_600_001, 1), (1_700_007_200_000, 0), (1_700_007_200_001, 1), (1_700_009_000_001, 1)]
    {
        let left = store.purge(Perishable::Sessions, Timestamp::from_ms(before), 10).await?;
        assert_eq!(left, leave, "before {before}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sqlite_file_of_every_earlier_version_is_brought_up_with_everything_in_it() -> Story {
    let folder = threepid_tests::peers::temp_folder("upgrade")?;
    let url = |name: &str| format!("sqlite://{}?mode=rwc", folder.path().join(name).display());
    let steps = steps(&url("steps.db")).await?;
    for version in 1..=steps.len() {
        for filled in [false, true] {
            upgraded(&url(&format!("{version}{filled}.db")), version, filled).await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgresql_database_of_every_earlier_version_is_brought_up_with_everything_in_it() -> Story {
    let postgres = Postgres::start().await?;
    let steps = steps(&postgres.url(&postgres.create_database().await?)).await?;
    for version in 1..=steps.len() {
        for filled in [false, true] {
            upgraded(&postgres.url(&postgres.create_database().await?), version, filled).await?;
        }
    }
    Ok(())
}
