//! A database that cannot be used is refused at start, on both engines: one line that says what to mend, the exit code
//! that `docs/operating/database.md` names, and nothing changed.

use sea_orm::{ConnectionTrait as _, Database, DatabaseConnection, DbBackend, Statement};
use threepid_tests::peers::{Postgres, free_port};
use threepid_tests::server::Server;

use crate::Story;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const ANOTHER_KEY: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";

/// What brings a database up.
const MIGRATING: [&[&str]; 2] = [&["serve"], &["migrate"]];
/// What looks at one that is there, and makes and migrates none.
const LOOKING: [&[&str]; 9] = [
    &["outbox", "list"],
    &["outbox", "show", "one"],
    &["outbox", "retry", "one"],
    &["outbox", "drop", "one"],
    &["audit"],
    &["account", "list"],
    &["account", "show", "@alice:example.org"],
    &["account", "erase", "@alice:example.org", "--dry-run"],
    &["account", "erase", "@alice:example.org"],
];

/// A database that a server has used, and a way to look into it.
struct Used {
    server: Server,
    url: String,
    connection: DatabaseConnection,
}

impl Used {
    async fn at(url: String) -> Outcome<Self> {
        let server = Server::builder().text("database.url", &url).text("server_key.value", KEY).prepare()?;
        server.account("@alice:example.org").await?;
        let connection = Database::connect(&url).await?;
        Ok(Self { server, url, connection })
    }

    async fn sql(&self, sql: &str) -> Outcome<()> {
        self.connection.execute_unprepared(sql).await?;
        Ok(())
    }

    /// Every table, every column, every row, as text.
    async fn everything(&self) -> Outcome<String> {
        let backend = self.connection.get_database_backend();
        let tables = match backend {
            DbBackend::Sqlite => "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name",
            _ => {
                "SELECT CAST(table_name AS text) AS name FROM information_schema.tables \
                 WHERE table_schema = 'public' ORDER BY 1"
            }
        };
        let mut all = String::new();
        for row in self.connection.query_all_raw(Statement::from_string(backend, tables)).await? {
            let table: String = row.try_get("", "name")?;
            let rows = match backend {
                DbBackend::Sqlite => {
                    let columns = format!(
                        "SELECT group_concat('quote(\"' || name || '\")', '||') AS text FROM pragma_table_info('{table}')"
                    );
                    let columns: String = self.one(&columns).await?;
                    format!("SELECT coalesce(group_concat({columns}, char(10)), '') AS text FROM \"{table}\"")
                }
                _ => format!(
                    "SELECT coalesce(string_agg(t::text, E'\\n' ORDER BY t::text), '') AS text FROM \"{table}\" AS t"
                ),
            };
            let rows = self.one(&rows).await?;
            all.push_str(&format!("{table}\n{rows}\n"));
        }
        Ok(all)
    }

    async fn one(&self, sql: &str) -> Outcome<String> {
        let statement = Statement::from_string(self.connection.get_database_backend(), sql);
        let row = self.connection.query_one_raw(statement).await?.ok_or("there is a row")?;
        Ok(row.try_get("", "text")?)
    }

    /// Starts with other settings, and wants one line with `part` and this exit code, and the database as it was.
    async fn is_refused(&self, variables: &[(&str, &str)], code: i32, part: &str) -> Story {
        self.refuses(&[&MIGRATING[..], &LOOKING].concat(), variables, code, part).await
    }

    async fn refuses(
        &self,
        commands: &[&[&str]],
        variables: &[(&str, &str)],
        code: i32,
        part: &str,
    ) -> Story {
        let before = self.everything().await?;
        for command in commands {
            let (status, said) = self.server.run_with(command, variables).await?;
            assert_eq!(status, code, "{command:?}: {said}");
            let [line] = complaints(&said)[..] else { return Err(format!("{command:?}: {said}").into()) };
            assert!(line.starts_with("threepid: ") && line.contains(part), "{command:?}: {line}");
            assert!(!line.contains("correct-horse") && !line.contains(&KEY[..8]), "{line}");
        }
        assert_eq!(self.everything().await?, before, "{part}");
        Ok(())
    }
}

/// What was complained about; neither a warning nor a line of the log is.
fn complaints(said: &str) -> Vec<&str> {
    said.lines().filter(|line| !line.contains(" warning: ") && !line.starts_with('{')).collect()
}

/// What is refused alike on both engines.
async fn alike(used: &Used) -> Story {
    used.is_refused(&[("THREEPID_DATABASE__URL", "mysql://example.org/threepid")], 2, "database.url").await?;
    let another_key = [("THREEPID_SERVER_KEY__VALUE", ANOTHER_KEY)];
    used.is_refused(&another_key, 1, "belongs to another server key").await?;

    // The schema of an older version: the key is refused before it is changed.
    let newest = used.one("SELECT max(version) AS text FROM schema_migration").await?;
    let older = format!("DELETE FROM schema_migration WHERE version = '{newest}'");
    used.sql(&older).await?;
    used.is_refused(&another_key, 1, "belongs to another server key").await?;
    // With the right key it is half migrated, since what the step makes is there; whoever only looks does not try.
    used.refuses(&MIGRATING, &[], 1, "is half migrated").await?;
    used.refuses(&LOOKING, &[], 1, "has the schema of an older version, m").await?;
    used.sql(&format!("INSERT INTO schema_migration (version, applied_at) VALUES ('{newest}', 0)")).await?;

    used.sql("INSERT INTO schema_migration (version, applied_at) VALUES ('m9999_future', 0)").await?;
    used.is_refused(&[], 1, "has schema m9999_future, which this version of threepid does not know").await?;
    used.sql("DELETE FROM schema_migration WHERE version = 'm9999_future'").await?;

    used.sql("ALTER TABLE binding RENAME TO binding_gone").await?;
    used.is_refused(&[], 1, "is half migrated").await?;
    used.sql("ALTER TABLE binding_gone RENAME TO binding").await?;
    assert_eq!(
        used.server.run(&["account", "list"]).await?,
        (0, "@alice:example.org\n".to_owned()),
        "it is well"
    );
    Ok(())
}

#[tokio::test]
async fn a_sqlite_file_that_cannot_be_used_is_refused_in_one_line_and_left_as_it_was() -> Story {
    let folder = threepid_tests::peers::temp_folder("refused")?;
    let used = Used::at(format!("sqlite://{}", folder.path().join("threepid.db").display())).await?;
    alike(&used).await?;
    let read_only = format!("{}?mode=ro", used.url);
    used.is_refused(&[("THREEPID_DATABASE__URL", &read_only)], 1, "is read-only").await?;

    let theirs = folder.path().join("theirs.db");
    let made = Database::connect(format!("sqlite://{}?mode=rwc", theirs.display())).await?;
    made.execute_unprepared("CREATE TABLE theirs (x)").await?;
    made.close().await?;
    let before = std::fs::read(&theirs)?;
    let url = format!("sqlite://{}", theirs.display());
    used.is_refused(&[("THREEPID_DATABASE__URL", &url)], 1, "belongs to another program").await?;
    assert_eq!(std::fs::read(&theirs)?, before);
    Ok(())
}

#[tokio::test]
async fn a_key_file_that_is_gone_is_missed_and_not_made_anew() -> Story {
    let server = Server::builder().prepare()?;
    server.account("@alice:example.org").await?;
    let key = server.folder().join("threepid.key");
    std::fs::rename(&key, server.folder().join("elsewhere"))?;
    for command in [&MIGRATING[..], &LOOKING].concat() {
        let (status, said) = server.run(command).await?;
        let [line] = complaints(&said)[..] else { return Err(format!("{command:?}: {said}").into()) };
        assert!(status == 1 && line.contains("threepid.key"), "{command:?}: {said}");
        assert!(!key.exists(), "a new key would open nothing");
    }
    std::fs::rename(server.folder().join("elsewhere"), &key)?;
    assert_eq!(server.run(&["migrate"]).await?.0, 0);
    Ok(())
}

/// Where nothing is yet, whoever only looks says so in one line, and nothing is there afterwards.
async fn nothing_is_found(server: &Server, part: &str) -> Story {
    let there = || -> Outcome<Vec<_>> {
        let names: Result<Vec<_>, _> =
            std::fs::read_dir(server.folder())?.map(|entry| entry.map(|entry| entry.file_name())).collect();
        Ok(names?)
    };
    let before = there()?;
    for command in LOOKING {
        let (status, said) = server.run(command).await?;
        let [line] = complaints(&said)[..] else { return Err(format!("{command:?}: {said}").into()) };
        assert!(status == 1 && line.contains(part), "{command:?}: {said}");
        assert_eq!(there()?, before, "{command:?}");
    }
    Ok(())
}

#[tokio::test]
async fn whoever_only_looks_makes_no_file_no_schema_and_no_key() -> Story {
    let server = Server::builder().prepare()?;
    nothing_is_found(&server, "there is no database at ").await?;
    let file = server.folder().join("threepid.db");
    assert!(!file.exists() && !server.folder().join("threepid.key").exists());

    std::fs::write(&file, "")?;
    nothing_is_found(&server, "is empty, so no threepid database").await?;
    assert_eq!(std::fs::read(&file)?, b"", "it stays empty");

    // Migrated and never served: there is something to look at, and still no key.
    assert_eq!(server.run(&["migrate"]).await?.0, 0);
    assert_eq!(server.run(&["outbox", "list"]).await?, (0, String::new()));
    assert!(!server.folder().join("threepid.key").exists());
    Ok(())
}

#[tokio::test]
async fn whoever_only_looks_leaves_an_empty_postgresql_database_empty() -> Story {
    let postgres = Postgres::start().await?;
    let name = postgres.create_database().await?;
    let server = Server::builder()
        .text("database.url", &postgres.url(&name))
        .text("server_key.value", KEY)
        .prepare()?;
    nothing_is_found(&server, "is empty, so no threepid database").await?;
    let tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'";
    assert_eq!(postgres.sql(&name, tables).await?, "0");
    Ok(())
}

#[tokio::test]
async fn a_postgresql_database_that_cannot_be_used_is_refused_in_one_line_and_left_as_it_was() -> Story {
    let postgres = Postgres::start().await?;
    let name = postgres.create_database().await?;
    let used = Used::at(postgres.url(&name)).await?;
    alike(&used).await?;
    let wrong_password = used.url.replace("correct-horse", "battery-staple");
    used.is_refused(&[("THREEPID_DATABASE__URL", &wrong_password)], 1, "refuses the login").await?;
    let nowhere = used.url.replace(&postgres.port().to_string(), &free_port()?.to_string());
    used.is_refused(&[("THREEPID_DATABASE__URL", &nowhere)], 1, "cannot be reached").await?;
    let theirs = postgres.create_database().await?;
    postgres.sql(&theirs, "CREATE TABLE theirs (x int)").await?;
    let url = postgres.url(&theirs);
    used.is_refused(&[("THREEPID_DATABASE__URL", &url)], 1, "belongs to another program").await?;
    let tables =
        "SELECT string_agg(table_name, ',') FROM information_schema.tables WHERE table_schema = 'public'";
    assert_eq!(postgres.sql(&theirs, tables).await?, "theirs");
    let read_only = format!("ALTER DATABASE {name} SET default_transaction_read_only = on");
    postgres.sql("postgres", &read_only).await?;
    used.is_refused(&[], 1, "is read-only").await?;
    Ok(())
}
