//! An account is erased: what is left of it is what identity servers are owed to forget, and then nothing.

use std::collections::BTreeSet;
use std::error::Error;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine as _;
use sea_orm::{ConnectionTrait as _, DatabaseConnection, Statement};
use serde_json::{Value, json};
use tempfile::TempDir;
use threepid_tests::peers::{Postgres, SmtpServer, wait_until};
use threepid_tests::server::{Server, ServerBuilder, THREEPIDS};

use crate::Story;
use crate::fake::{self, Reply, fake};

const SOON: Duration = Duration::from_secs(30);
const IDENTITY_SERVER: &str = "identity.example.org";
const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const ALICE: &str = "@alice:example.org";
const BOB: &str = "@bob:example.org";

/// Whose address each of the identity server's sessions proves.
const SESSIONS: [(&str, &str); 4] = [
    ("remote-1", "foreign.alice@example.org"),
    ("remote-2", "other.alice@example.org"),
    ("remote-3", "foreign.bob@example.org"),
    ("remote-4", "other.bob@example.org"),
];

/// What the identity server says, whose sessions are all proven, and which publishes and forgets whatever it is asked to.
fn identity_server(to: &str, body: &Value) -> Reply {
    let sid =
        body["sid"].as_str().or_else(|| to.split(['?', '&']).find_map(|part| part.strip_prefix("sid=")));
    let address = SESSIONS.iter().find(|(known, _)| Some(*known) == sid).map(|(_, address)| *address);
    let path = to.split('?').next().unwrap_or_default();
    match path.rsplit('/').next() {
        Some("getValidated3pid") => {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            let proven =
                json!({ "medium": "email", "address": address, "validated_at": now.as_secs() * 1000 });
            fake::json(200, &proven)
        }
        Some("bind") => {
            let (mxid, address) = (&body["mxid"], address.unwrap_or_default());
            let bound = json!({ "medium": "email", "address": address, "mxid": mxid, "not_before": 0, "not_after": 1 });
            fake::json(200, &bound)
        }
        _ => fake::json(200, &json!({})),
    }
}

struct World {
    smtp: SmtpServer,
    server: Server,
    database: DatabaseConnection,
    is_well: Arc<AtomicBool>,
    _signing_key: TempDir,
}

impl World {
    async fn start(postgres: Option<&Postgres>) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let smtp = SmtpServer::start().await?;
        let is_well = Arc::new(AtomicBool::new(true));
        let behind = Arc::clone(&is_well);
        let identity_server = fake(move |to, body| {
            if behind.load(Ordering::SeqCst) {
                identity_server(to, body)
            } else {
                fake::json(503, &json!({}))
            }
        })
        .await?;
        let folder = threepid_tests::peers::temp_folder("signing-key")?;
        let signing_key = folder.path().join("signing.key");
        let seed = base64::engine::general_purpose::STANDARD_NO_PAD.encode([7; 32]);
        std::fs::write(&signing_key, format!("ed25519 a_key {seed}\n"))?;
        std::fs::set_permissions(&signing_key, std::fs::Permissions::from_mode(0o600))?;
        let trusted = format!(
            "[{{ name = \"{IDENTITY_SERVER}\", base_url = \"{identity_server}\", validates = true, binds = true }}]"
        );
        let mut builder: ServerBuilder = Server::builder()
            .mail_to(&smtp)
            .set("identity_servers", trusted)
            .text("signing_key.file", &signing_key.to_string_lossy())
            .text("signing_key.homeserver", "example.org")
            // What is being tried when the account is erased is tried again when its lease ends.
            .text("mail.smtp.send_timeout", "2s")
            .text("relay.lease", "3s");
        let mut url = None;
        if let Some(postgres) = postgres {
            let theirs = postgres.url(&postgres.create_database().await?);
            builder = builder.text("database.url", &theirs).text("server_key.value", KEY);
            url = Some(theirs);
        }
        let server = builder.start().await?;
        let file = || format!("sqlite://{}", server.folder().join("threepid.db").display());
        let database = sea_orm::Database::connect(url.unwrap_or_else(file)).await?;
        Ok(Self { smtp, server, database, is_well, _signing_key: folder })
    }

    /// Something of everything; the account's access token.
    async fn fill(
        &self,
        user: &str,
        name: &str,
        sessions: [&str; 2],
    ) -> Result<String, Box<dyn Error + Send + Sync>> {
        let (server, password) = (&self.server, format!("the-password-of-{name}"));
        let file = server.folder().join(format!("password-of-{name}"));
        std::fs::write(&file, &password)?;
        let add = ["account", "add", user, "--password-file", &file.to_string_lossy()];
        assert_eq!(server.run(&add).await?.0, 0);
        server.keep_secret(&password);
        let token = server.account(user).await?;

        let (own, old) = (format!("{name}@example.org"), format!("old.{name}@example.org"));
        server.request_token(&own, "secret-of-somebody", 1).await?.sid()?;
        let sid = server.prove(&self.smtp, &own, "secret-of-home").await?;
        assert_eq!(server.add(&token, &sid, "secret-of-home").await?.status, 200);

        let sid = server.prove(&self.smtp, &old, "secret-of-old").await?;
        let path = format!("{THREEPIDS}/add");
        let mut body = json!({ "sid": sid, "client_secret": "secret-of-old" });
        let challenge = server.post(&path, Some(&token), &body).await?;
        assert_eq!(challenge.status, 401, "{challenge:?}");
        for (password, status) in [("not-the-password", 401), (password.as_str(), 200)] {
            body["auth"] = json!({
                "type": "m.login.password", "identifier": { "type": "m.id.user", "user": user },
                "password": password, "session": challenge.json()["session"],
            });
            let answered = server.post(&path, Some(&token), &body).await?;
            assert_eq!(answered.status, status, "{answered:?}");
        }
        self.delete(&token, &old).await?;

        for sid in sessions {
            let creds = json!({
                "sid": sid, "client_secret": "secret-of-theirs",
                "id_server": IDENTITY_SERVER, "id_access_token": "token-of-the-identity-server",
            });
            let add = json!({ "three_pid_creds": creds, "bind": true });
            let bound = server.post(THREEPIDS, Some(&token), &add).await?;
            assert_eq!(bound.status, 200, "{bound:?}");
        }
        // What this server keeps in other modes.
        let own = format!(
            "INSERT INTO remote_session (server, sid, medium, address, opened_at) \
             VALUES ('{IDENTITY_SERVER}', 'opened-by-{user}', 'email', '{own}', 1)"
        );
        self.database.execute_unprepared(&own).await?;
        let payload = json!({ "kind": "mirror", "user_id": user });
        let mirror = format!(
            "INSERT INTO outbox (id, kind, payload, created_at, due_at, not_after, attempts, state, subject) VALUES \
             ('mirror-of-{name}', 'mirror', '{payload}', 1, 9000000000000, 9000000000001, 0, 'queued', '{user}')"
        );
        self.database.execute_unprepared(&mirror).await?;
        Ok(token)
    }

    async fn delete(&self, token: &str, address: &str) -> Story {
        let body = json!({ "medium": "email", "address": address });
        assert_eq!(self.server.post(&format!("{THREEPIDS}/delete"), Some(token), &body).await?.status, 200);
        Ok(())
    }

    async fn texts(&self, sql: &str) -> Result<Vec<String>, Box<dyn Error + Send + Sync>> {
        let statement = Statement::from_string(self.database.get_database_backend(), sql);
        let rows = self.database.query_all_raw(statement).await?;
        Ok(rows.iter().map(|row| row.try_get_by_index::<String>(0)).collect::<Result<_, _>>()?)
    }

    /// Every row of every table with every column, a row a line.
    async fn everything(&self) -> Result<Vec<String>, Box<dyn Error + Send + Sync>> {
        let is_sqlite = self.database.get_database_backend() == sea_orm::DbBackend::Sqlite;
        let tables = if is_sqlite {
            "SELECT name FROM sqlite_master WHERE type = 'table'"
        } else {
            "SELECT CAST(table_name AS text) FROM information_schema.tables WHERE table_schema = 'public'"
        };
        let mut lines = Vec::new();
        for table in self.texts(tables).await? {
            let columns = if is_sqlite {
                format!("SELECT name FROM pragma_table_info('{table}')")
            } else {
                format!(
                    "SELECT CAST(column_name AS text) FROM information_schema.columns WHERE table_name = '{table}'"
                )
            };
            let columns = self.texts(&columns).await?;
            let as_text = |column: &String| format!("coalesce(CAST(\"{column}\" AS text), '')");
            let all = columns.iter().map(as_text).collect::<Vec<_>>().join(" || '|' || ");
            lines.extend(self.texts(&format!("SELECT '{table}|' || {all} FROM \"{table}\"")).await?);
        }
        lines.sort();
        Ok(lines)
    }

    /// Those lines that name somebody.
    async fn naming(&self, name: &str) -> Result<Vec<String>, Box<dyn Error + Send + Sync>> {
        let mut lines = self.everything().await?;
        lines.retain(|line| line.to_lowercase().contains(name));
        Ok(lines)
    }

    async fn erase(&self, more: &[&str]) -> Result<Value, Box<dyn Error + Send + Sync>> {
        let (status, said) =
            self.server.run(&[&["account", "erase", ALICE, "--json"], more].concat()).await?;
        assert_eq!(status, 0, "{said}");
        let line = said.lines().find(|line| line.starts_with('{')).ok_or("an object")?;
        Ok(serde_json::from_str(line)?)
    }
}

async fn an_account_is_erased(postgres: Option<&Postgres>) -> Story {
    let world = World::start(postgres).await?;
    let alice = world.fill(ALICE, "alice", ["remote-1", "remote-2"]).await?;
    let bob = world.fill(BOB, "bob", ["remote-3", "remote-4"]).await?;
    world.delete(&bob, "other.bob@example.org").await?;
    // Hers is owed, since the identity server is down.
    world.is_well.store(false, Ordering::SeqCst);
    world.delete(&alice, "other.alice@example.org").await?;
    let tables = |lines: &[String]| {
        let tables: BTreeSet<_> = lines.iter().filter_map(|line| line.split('|').next()).collect();
        tables.into_iter().collect::<Vec<_>>().join(" ")
    };
    let of_bob = world.naming("bob").await?;
    let every_table = "account account_token audit binding challenge outbox rate_limit remote_session spent_proof threepid validation_session";
    assert_eq!(tables(&of_bob), every_table);
    assert_eq!(tables(&world.naming("alice").await?), every_table);
    let counts = world.texts("SELECT CAST(count(*) AS text) FROM rate_limit").await?;
    let (status, said) = world.server.run(&["account", "show", ALICE, "--json"]).await?;
    let limit = "\"limit\":\"failed_reauthentication_per_account\"";
    assert!(status == 0 && said.contains(limit), "what is counted under the name is shown: {said}");

    let foreseen = world.erase(&["--dry-run"]).await?;
    assert_eq!(tables(&world.naming("alice").await?), every_table, "nothing is erased by looking");
    let mut erased = world.erase(&[]).await?;
    assert_eq!((&foreseen["is_dry_run"], &erased["is_dry_run"]), (&json!(true), &json!(false)));
    erased["is_dry_run"] = json!(true);
    assert_eq!(erased, foreseen);
    for (kind, count) in [
        ("threepids", 2),
        ("sessions", 3),
        ("remote_sessions", 1),
        ("spent_proofs", 2),
        ("bindings", 2),
        ("challenges", 1),
        ("messages", 4),
        ("owed_unbinds", 2),
        ("dead_unbinds", 0),
        ("audit", 8),
    ] {
        assert_eq!(erased[kind], count, "{kind}: {erased}");
    }
    assert_eq!(erased["is_local_account"], true);

    let left = world.naming("alice").await?;
    assert_eq!(left.len(), 2, "{left:#?}");
    assert!(left.iter().all(|line| line.starts_with("outbox|") && line.contains("|unbind|")), "{left:#?}");
    assert_eq!(world.naming("bob").await?, of_bob);
    let fewer = world.texts("SELECT CAST(count(*) AS text) FROM rate_limit").await?;
    assert!(fewer < counts, "{fewer:?} of {counts:?}");
    let again = world.erase(&[]).await?;
    let zeros = again.as_object().into_iter().flatten().filter(|(_, value)| value.is_number());
    assert!(zeros.into_iter().all(|(_, count)| count == 0), "{again}");
    assert_eq!(world.server.list(&alice).await?.status, 401, "the account itself is gone");

    world.is_well.store(true, Ordering::SeqCst);
    wait_until("the identity server's last word", SOON, || async {
        let left = world.naming("alice").await;
        Ok(left.is_ok_and(|left| left.is_empty()).then_some(()))
    })
    .await?;
    assert_eq!(world.naming("bob").await?, of_bob);
    let again = world.erase(&["--dry-run"]).await?;
    assert_eq!((&again["messages"], &again["audit"]), (&json!(0), &json!(0)), "{again}");
    let listed = world.server.list(&bob).await?.addresses();
    assert_eq!(listed, ["bob@example.org", "foreign.bob@example.org"]);
    // Her address is anybody's now.
    let sid = world.server.prove(&world.smtp, "alice@example.org", "secret-of-bob").await?;
    assert_eq!(world.server.add(&bob, &sid, "secret-of-bob").await?.status, 200);
    // And her proofs at the identity server stay spent.
    let creds = json!({
        "sid": "remote-1", "client_secret": "secret-of-theirs",
        "id_server": IDENTITY_SERVER, "id_access_token": "token-of-the-identity-server",
    });
    let stolen = world.server.post(THREEPIDS, Some(&bob), &json!({ "three_pid_creds": creds })).await?;
    assert_eq!(stolen.error(), (403, "M_THREEPID_AUTH_FAILED".to_owned()));
    world.database.close().await?;
    Ok(world.server.end().await?)
}

#[tokio::test]
async fn nothing_that_names_an_erased_account_is_left_on_sqlite() -> Story {
    an_account_is_erased(None).await
}

#[tokio::test]
async fn nothing_that_names_an_erased_account_is_left_on_postgresql() -> Story {
    an_account_is_erased(Some(&Postgres::start().await?)).await
}

#[tokio::test]
async fn whoever_was_never_here_is_erased_without_a_word_and_nobody_is_not() -> Story {
    let server = Server::builder().start().await?;
    let (status, said) = server.run(&["account", "erase", "@nobody:example.org"]).await?;
    assert_eq!(status, 0, "{said}");
    assert!(said.lines().all(|line| line.starts_with("0 ")), "{said}");
    let (status, said) = server.run(&["account", "erase", "@erased:erased.invalid"]).await?;
    assert!(status == 1 && said.contains("and no account"), "{said}");
    assert_eq!(server.run(&["account", "erase", "nobody"]).await?.0, 2);
    Ok(server.end().await?)
}
