use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use sea_orm::ConnectionTrait;
use serde_json::{Map, Value, json};
use threepid_domain::model::{AccessToken, KeyedHash, Sid};
use threepid_domain::ports::{Answered, AskedAgain, Credentials, Reauthentication, ReauthenticationError};
use threepid_domain::testing::FixedClock;

use super::{TestResult, open, user};
use crate::sea_orm::{Database, LocalAccounts, LocalReauthentication, SetPasswordError};

const SALT: [u8; 16] = *b"salt of 16 bytes";

struct Stage {
    accounts: LocalAccounts,
    port: LocalReauthentication,
}

/// Alice, whose password is "right", and Bob, who has none.
async fn stage(database: &Database) -> Result<Stage, Box<dyn std::error::Error + Send + Sync>> {
    let hash = |_: &AccessToken| KeyedHash::new([0; 32]);
    let accounts = LocalAccounts::new(database.clone(), Arc::new(FixedClock::default()), hash);
    accounts.add(&user("alice")?).await?;
    accounts.add(&user("bob")?).await?;
    accounts.set_password(&user("alice")?, "right", SALT).await?;
    let count = AtomicU32::new(0);
    let new_session = move || format!("session{}", count.fetch_add(1, Ordering::Relaxed));
    let port = LocalReauthentication::new(accounts.clone(), new_session);
    Ok(Stage { accounts, port })
}

fn asked(name: &str) -> Result<AskedAgain, Box<dyn std::error::Error + Send + Sync>> {
    let credentials = Credentials { access_token: AccessToken::new("t"), user_id: None, client_ip: None };
    Ok(AskedAgain { credentials, user_id: user(name)?, sid: Sid::new("s1") })
}

fn auth(value: Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

fn by(identifier: Value, password: &str) -> Map<String, Value> {
    let auth_type = "m.login.password";
    auth(json!({"type": auth_type, "identifier": identifier, "password": password, "session": "given"}))
}

#[tokio::test]
async fn the_password_is_asked_for_and_each_challenge_has_a_session_of_its_own() -> TestResult {
    let folder = tempfile::tempdir()?;
    let stage = stage(&open(&folder).await?).await?;
    for session in ["session0", "session1"] {
        let challenge = stage.port.challenge(asked("alice")?).await?;
        let body = json!({"flows": [{"stages": ["m.login.password"]}], "params": {}, "session": session});
        assert_eq!((challenge.session.as_str(), Value::Object(challenge.body)), (session, body));
    }
    let nobody = stage.port.challenge(asked("bob")?).await;
    assert!(matches!(nobody, Err(ReauthenticationError::NotAsked)), "{nobody:?}");
    let nobody = stage.port.answer(asked("bob")?, by(json!({"type": "m.id.user", "user": "bob"}), "")).await;
    assert!(matches!(nobody, Err(ReauthenticationError::NotAsked)), "{nobody:?}");
    Ok(())
}

#[tokio::test]
async fn the_right_password_proves_under_every_name_that_is_the_users() -> TestResult {
    let folder = tempfile::tempdir()?;
    let stage = stage(&open(&folder).await?).await?;
    for right in [
        by(json!({"type": "m.id.user", "user": "alice"}), "right"),
        by(json!({"type": "m.id.user", "user": "@alice:example.org"}), "right"),
        auth(json!({"type": "m.login.password", "user": "alice", "password": "right", "session": "given"})),
        auth(json!({"type": "m.login.password", "user": "@alice:example.org", "password": "right"})),
    ] {
        assert_eq!(stage.port.answer(asked("alice")?, right.clone()).await?, Answered::Proven, "{right:?}");
    }
    Ok(())
}

#[tokio::test]
async fn every_other_answer_is_asked_again_under_the_same_session() -> TestResult {
    let folder = tempfile::tempdir()?;
    let stage = stage(&open(&folder).await?).await?;
    stage.accounts.set_password(&user("bob")?, "bobs", SALT).await?;
    for wrong in [
        by(json!({"type": "m.id.user", "user": "alice"}), "wrong"),
        by(json!({"type": "m.id.user", "user": "alice"}), ""),
        by(json!({"type": "m.id.user", "user": "bob"}), "bobs"),
        by(json!({"type": "m.id.user", "user": "alice:example.org"}), "right"),
        by(json!({"type": "m.id.user", "user": "@alice"}), "right"),
        by(json!({"type": "m.id.user", "user": ["alice"]}), "right"),
        by(json!({"type": "m.id.thirdparty", "user": "alice"}), "right"),
        by(json!("alice"), "right"),
        auth(json!({"type": "m.login.password", "password": "right", "session": "given"})),
        auth(json!({"type": "m.login.password", "user": "alice", "password": 7, "session": "given"})),
        auth(json!({"type": "m.login.dummy", "user": "alice", "password": "right", "session": "given"})),
    ] {
        let answered = stage.port.answer(asked("alice")?, wrong.clone()).await?;
        let Answered::Again(again) = answered else { return Err(format!("{wrong:?} is no proof").into()) };
        assert_eq!(again.session, "given");
        let told: Vec<_> = again.body.keys().map(String::as_str).collect();
        assert_eq!(told, ["completed", "errcode", "error", "flows", "params", "session"]);
        assert_eq!((&again.body["errcode"], &again.body["completed"]), (&json!("M_FORBIDDEN"), &json!([])));
    }
    Ok(())
}

#[tokio::test]
async fn who_only_asks_how_far_it_is_gets_the_challenge_again() -> TestResult {
    let folder = tempfile::tempdir()?;
    let stage = stage(&open(&folder).await?).await?;
    let answered = stage.port.answer(asked("alice")?, auth(json!({"session": "given"}))).await?;
    let Answered::Again(again) = answered else { return Err("no answer is no proof".into()) };
    assert!(again.session == "given" && !again.body.contains_key("errcode"));
    Ok(())
}

#[tokio::test]
async fn a_new_password_takes_the_place_of_the_old() -> TestResult {
    let folder = tempfile::tempdir()?;
    let stage = stage(&open(&folder).await?).await?;
    stage.accounts.set_password(&user("alice")?, "newer", SALT).await?;
    let alice = || json!({"type": "m.id.user", "user": "alice"});
    assert_eq!(stage.port.answer(asked("alice")?, by(alice(), "newer")).await?, Answered::Proven);
    assert_ne!(stage.port.answer(asked("alice")?, by(alice(), "right")).await?, Answered::Proven);
    let nobody = stage.accounts.set_password(&user("carol")?, "password", SALT).await;
    assert!(matches!(nobody, Err(SetPasswordError::NoSuchAccount(_))), "{nobody:?}");
    let empty = stage.accounts.set_password(&user("alice")?, "", SALT).await;
    assert!(matches!(empty, Err(SetPasswordError::Empty)), "{empty:?}");
    Ok(())
}

#[tokio::test]
async fn no_file_of_the_database_holds_a_password() -> TestResult {
    let folder = tempfile::tempdir()?;
    let database = open(&folder).await?;
    stage(&database).await?.accounts.set_password(&user("alice")?, "hush-hush-hush", SALT).await?;
    database.writer().execute_unprepared("PRAGMA wal_checkpoint(PASSIVE)").await?;
    let mut seen = 0;
    for file in std::fs::read_dir(folder.path())? {
        let bytes = std::fs::read(file?.path())?;
        seen += bytes.windows(9).filter(|window| window == b"$argon2id").count();
        assert!(!bytes.windows(14).any(|window| window == b"hush-hush-hush"));
    }
    assert!(seen > 0);
    Ok(())
}
