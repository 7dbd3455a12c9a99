//! Moving in beside Synapse: its contacts are read from a database that Synapse itself made and filled.

use std::path::Path;
use std::time::{Duration, Instant};

use sea_orm::sqlx::sqlite::SqliteConnectOptions;
use sea_orm::sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, raw_sql};
use serde_json::{Value, json};
use threepid_tests::peers::{
    Postgres, Program, Synapse, artifacts, python_packages, temp_folder, wait_until,
};
use threepid_tests::server::{Server, THREEPIDS};

use crate::Story;

/// So many generated contacts are imported.
const MANY: usize = 100_000;

/// How long that may take, in a program without optimisation, on a machine that does other things too.
const IMPORTED_WITHIN: Duration = Duration::from_secs(300);

/// Runs SQL on a SQLite file that nobody else has open.
async fn sqlite(path: &Path, sql: &str) -> Story {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    let mut connection = options.connect().await?;
    raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await?;
    Ok(connection.close().await?)
}

async fn set_contacts(homeserver: &Synapse, admin: &str, user_id: &str, threepids: Value) -> Story {
    let path = format!("/_synapse/admin/v2/users/{user_id}");
    homeserver.put(&path, Some(admin), &json!({ "threepids": threepids })).await?;
    Ok(())
}

fn sorted(mut list: Value) -> Value {
    if let Some(threepids) = list["threepids"].as_array_mut() {
        threepids.sort_by_key(|threepid| threepid["address"].to_string());
    }
    list
}

#[tokio::test]
async fn what_synapse_kept_is_listed_here_with_its_times_and_what_was_skipped_is_told() -> Story {
    let mut homeserver = Synapse::start().await?;
    let admin = homeserver.register_admin("admin").await?.access_token;
    let alice = homeserver.register("alice").await?;
    let bob = homeserver.register("bob").await?;
    let gone = homeserver.register("gone").await?;
    let email = |address: &str| json!({ "medium": "email", "address": address });
    let phone = json!({ "medium": "msisdn", "address": "447700900813" });
    set_contacts(&homeserver, &admin, &alice.user_id, json!([email("alice@example.org"), phone])).await?;
    set_contacts(&homeserver, &admin, &bob.user_id, json!([email("bob@bücher.example")])).await?;
    let deactivate = format!("/_synapse/admin/v1/deactivate/{}", gone.user_id);
    homeserver.post(&deactivate, Some(&admin), &json!({})).await?;

    // What old versions and other programs leave behind.
    homeserver.stop();
    let old_rows = "
        INSERT INTO user_threepids (user_id, medium, address, validated_at, added_at) VALUES
            ('@bob:localhost', 'email', 'Shared@Example.org', 1500000000001, 1500000000002),
            ('@alice:localhost', 'email', 'shared@example.org', 1600000000001, 1600000000002),
            ('@bob:localhost', 'email_old', 'ALICE@example.org', 1400000000001, 1400000000002),
            ('@gone:localhost', 'email', 'gone@example.org', 1500000000001, 1500000000002),
            ('@nobody:localhost', 'email', 'nobody@example.org', 1500000000001, 1500000000002),
            ('@bob:localhost', 'xmpp', 'bob@jabber.example', 1500000000001, 1500000000002),
            ('@bob:localhost', 'email', 'Bob <bob@example.org>', 1500000000001, 1500000000002);
        INSERT INTO user_threepid_id_server (user_id, medium, address, id_server) VALUES
            ('@alice:localhost', 'email', 'Alice@example.org', 'Vector.IM'),
            ('@alice:localhost', 'email', 'elsewhere@example.org', 'matrix.org'),
            ('@nobody:localhost', 'email', 'nobody@example.org', 'matrix.org');";
    sqlite(&homeserver.database(), old_rows).await?;
    homeserver.start_again().await?;

    let mut server = Server::builder().homeserver(homeserver.base_url()).prepare()?;
    let database = homeserver.database();
    let database = database.to_string_lossy();
    let report = server.folder().join("skipped.jsonl");
    let import = ["import", "synapse", "--database", &database, "--server-name", "localhost"];

    let (status, dry) = server.run(&import).await?;
    assert_eq!(status, 0, "{dry}");
    assert!(dry.contains("contacts: 4 to import, 0 already there, 6 skipped"), "{dry}");
    assert!(dry.contains("bindings: 2 to import, 0 already there, 1 skipped"), "{dry}");
    assert!(dry.contains("nothing was imported"), "{dry}");
    let (_, again) = server.run(&import).await?;
    assert_eq!(again, dry, "a dry run changes nothing");

    let report_path = report.to_string_lossy();
    let (status, done) = server.run(&[&import[..], &["--apply", "--report", &report_path]].concat()).await?;
    assert_eq!(status, 0, "{done}");
    assert!(done.contains("contacts: 4 imported, 0 already there, 6 skipped"), "{done}");
    assert!(done.contains("bindings: 2 imported, 0 already there, 1 skipped"), "{done}");
    for reason in
        ["email_old", "other_medium", "not_an_address", "duplicate", "unknown_account", "deactivated_account"]
    {
        assert!(done.contains(&format!(" {reason}: ")), "{reason} in {done}");
    }
    for address in ["gone@example.org", "nobody@example.org", "bob@jabber.example", "ALICE@example.org"] {
        assert!(!done.contains(address), "addresses are masked: {done}");
        assert!(std::fs::read_to_string(&report)?.contains(address), "the report is whole");
    }

    server.launch().await?;
    let theirs = homeserver.get(THREEPIDS, Some(&alice.access_token)).await?;
    let mut expected = theirs.clone();
    if let Some(threepids) = expected["threepids"].as_array_mut() {
        // Bob had added it before she did.
        threepids.retain(|threepid| threepid["address"] != "shared@example.org");
        assert_eq!(threepids.len(), 2, "{theirs}");
    }
    assert_eq!(sorted(server.list(&alice.access_token).await?.json()), sorted(expected));
    let bobs = server.list(&bob.access_token).await?;
    assert_eq!(
        bobs.json()["threepids"][0],
        json!({
            "medium": "email",
            "address": "shared@example.org",
            "validated_at": 1_500_000_000_001_u64,
            "added_at": 1_500_000_000_002_u64,
        })
    );
    assert_eq!(bobs.addresses(), ["shared@example.org", "bob@bücher.example"]);

    // While it serves, and a second time.
    let (status, repeated) = server.run(&[&import[..], &["--apply"]].concat()).await?;
    assert_eq!(status, 0, "{repeated}");
    assert!(repeated.contains("contacts: 0 imported, 4 already there, 6 skipped"), "{repeated}");
    assert!(repeated.contains("bindings: 0 imported, 2 already there, 1 skipped"), "{repeated}");
    Ok(server.end().await?)
}

/// Synapse's own tables as its own schema makes them, and rows as many as a big server has. Every thousandth account
/// is unknown, every hundredth address is spelt in capitals.
fn many_rows(numbers: &str) -> String {
    format!(
        "INSERT INTO users (name, creation_ts) SELECT '@user' || n || ':localhost', 1 FROM {numbers} WHERE n % 1000 <> 0;
         INSERT INTO user_threepids (user_id, medium, address, validated_at, added_at)
             SELECT '@user' || n || ':localhost', 'email',
                 CASE WHEN n % 100 = 1 THEN 'User' ELSE 'user' END || n || '@example.org',
                 1500000000000 + n, 1600000000000 + n FROM {numbers};
         INSERT INTO user_threepid_id_server (user_id, medium, address, id_server)
             SELECT '@user' || n || ':localhost', 'email', 'user' || n || '@example.org', 'matrix.org'
             FROM {numbers} WHERE n % 10 = 3;"
    )
}

/// What the import of [`many_rows`] says in the end.
const MANY_IMPORTED: [&str; 3] = [
    "contacts: 99900 imported, 0 already there, 100 skipped",
    "  100 unknown_account:",
    "bindings: 10000 imported, 0 already there, 0 skipped",
];

/// Imports from `database` and gives what was said, and how long and how much memory (MiB) it took.
async fn import_many(
    server: &Server,
    database: &str,
) -> Result<(String, Duration, u64), Box<dyn std::error::Error + Send + Sync>> {
    let config = server.config().to_string_lossy();
    let arguments = ["--config", &config, "import", "synapse", "--database", database, "--apply"];
    let started = Instant::now();
    let program = tokio::sync::Mutex::new(Program::start(&arguments, &[])?);
    let peak = std::sync::atomic::AtomicU64::new(0);
    let status = wait_until("the import's end", IMPORTED_WITHIN, || async {
        let mut program = program.lock().await;
        peak.fetch_max(program.peak_memory().unwrap_or_default(), std::sync::atomic::Ordering::Relaxed);
        program.status()
    })
    .await?;
    let took = started.elapsed();
    let said = program.into_inner().said()?;
    assert_eq!(status, 0, "{said}");
    Ok((said, took, peak.into_inner() / 1024))
}

#[expect(clippy::print_stderr, reason = "the figures are what the reader of the run wants")]
fn note(name: &str, took: Duration, memory: u64) -> Story {
    let line =
        format!("{MANY} contacts from Synapse on {name}: {:.1} s, at most {memory} MiB", took.as_secs_f64());
    eprintln!("{line}");
    Ok(std::fs::write(artifacts()?.join(format!("import-{name}.txt")), line + "\n")?)
}

#[tokio::test]
async fn a_hundred_thousand_contacts_are_imported_from_sqlite_and_again_without_harm() -> Story {
    let folder = temp_folder("import")?;
    let path = folder.path().join("homeserver.db");
    let schema = std::fs::read_to_string(python_packages("synapse")?.join(SCHEMAS).join("full.sql.sqlite"))?;
    let numbers = format!(
        "(WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {MANY}) SELECT n FROM c)"
    );
    sqlite(&path, &format!("{schema};\nBEGIN; {} COMMIT;", many_rows(&numbers))).await?;

    let server = Server::builder().prepare()?;
    let database = path.to_string_lossy();
    let (said, took, memory) = import_many(&server, &database).await?;
    assert!(MANY_IMPORTED.iter().all(|line| said.contains(line)), "{said}");
    note("SQLite", took, memory)?;
    assert!(memory < 200, "pages, and not the whole table, are held: {memory} MiB");
    let (again, _, _) = import_many(&server, &database).await?;
    assert!(again.contains("contacts: 0 imported, 99900 already there, 100 skipped"), "{again}");
    assert!(again.contains("bindings: 0 imported, 10000 already there, 0 skipped"), "{again}");
    Ok(())
}

#[tokio::test]
async fn a_hundred_thousand_contacts_are_imported_from_postgresql() -> Story {
    let cluster = Postgres::start().await?;
    let database = cluster.create_database().await?;
    let schema = python_packages("synapse")?.join(SCHEMAS).join("full.sql.postgres");
    cluster.sql(&database, &format!("\\i '{}'", schema.display())).await?;
    let numbers = format!("generate_series(1, {MANY}) AS n");
    cluster.sql(&database, &many_rows(&numbers)).await?;

    let server = Server::builder().prepare()?;
    let (said, took, memory) = import_many(&server, &cluster.url(&database)).await?;
    assert!(MANY_IMPORTED.iter().all(|line| said.contains(line)), "{said}");
    note("PostgreSQL", took, memory)
}

/// Where Synapse keeps the schema that it makes new databases with.
const SCHEMAS: &str = "synapse/storage/schema/main/full_schemas/72";
