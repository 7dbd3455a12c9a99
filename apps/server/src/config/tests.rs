//! Settings that make no sense are refused by name.

use std::fs;

use threepid_domain::model::{Address, IdentityServerName, Medium, Validation};
use threepid_domain::use_cases::{Changes, DeprecatedAdd};

use super::*;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// The least that a server can be started with.
const LEAST: &str = r#"
public_base_url = "https://matrix.example.org"
homeserver.base_url = "http://localhost:8008"
mail.from = "Example <noreply@example.org>"
"#;

fn read(toml: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let folder = tempfile::tempdir().map_err(|source| ConfigError::File { path: "".into(), source })?;
    let path = folder.path().join("threepid.toml");
    fs::write(&path, toml).map_err(|source| ConfigError::File { path: path.clone(), source })?;
    let variables = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    load(Some(&path), variables)
}

fn complaint(toml: &str, variables: &[(&str, &str)]) -> String {
    match read(toml, variables) {
        Ok(_) => String::from("(no complaint)"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_least_settings_are_enough() -> Outcome {
    let config = read(LEAST, &[])?;
    assert_eq!(config.public_base_url.as_str(), "https://matrix.example.org/");
    assert_eq!(config.server_key, KeySource::File("threepid.key".into()));
    assert!(config.policy.sends_mail);
    assert!(config.asks_again && config.policy.changes == Changes::Permitted);
    assert_eq!(config.policy.deprecated_add, DeprecatedAdd::On);
    let warned: Vec<_> = config.warnings.into_iter().map(|warning| warning.setting).collect();
    assert_eq!(warned, ["deprecated_add"]);
    Ok(())
}

#[test]
fn mails_carry_codes_and_numbers_are_ruled_only_where_the_settings_say_so() -> Outcome {
    let number = |text| Address::parse(Medium::Msisdn, text);
    let config = read(LEAST, &[])?;
    assert!(!config.policy.mails_code && config.policy.rules.permit(&number("447400123456")?));
    let rules =
        "[addresses]\nallow = [{ country = \"GB\" }]\ndeny = [{ medium = \"msisdn\", pattern = \"4474.*\" }]";
    let config = read(&format!("{LEAST}\nmail.code = true\n{rules}"), &[])?;
    assert!(config.policy.mails_code);
    let permitted = ["447400123456", "447700900813", "15208782491"]
        .map(|text| number(text).map(|number| config.policy.rules.permit(&number)));
    assert_eq!(permitted, [Ok(false), Ok(true), Ok(false)]);
    Ok(())
}

#[test]
fn whatever_undercuts_reauthentication_is_warned_about() -> Outcome {
    let local = "public_base_url = \"https://a.example\"\naccounts = \"local\"\nmail.transport = \"none\"";
    for (toml, asks_again, warned) in [
        (format!("deprecated_add = \"off\"{LEAST}"), true, None),
        (format!("deprecated_add = \"identity_server_only\"{LEAST}"), true, None),
        (format!("reauthentication = \"homeserver\"{LEAST}"), true, Some("deprecated_add")),
        (format!("reauthentication = \"none\"{LEAST}"), false, Some("reauthentication")),
        (
            format!("reauthentication = \"none\"\ndeprecated_add = \"off\"{LEAST}"),
            false,
            Some("reauthentication"),
        ),
        (format!("reauthentication = \"none\"\nchanges = false{LEAST}"), false, None),
        (format!("reauthentication = \"local\"\n{local}"), true, Some("deprecated_add")),
        (format!("deprecated_add = \"off\"\n{local}"), true, None),
    ] {
        let config = read(&toml, &[])?;
        let told: Vec<_> = config.warnings.iter().map(|warning| warning.setting.as_str()).collect();
        assert_eq!((config.asks_again, told), (asks_again, Vec::from_iter(warned)), "{toml}");
    }
    let said = complaint(&format!("reauthentication = \"homeserver\"\n{local}"), &[]);
    assert_eq!(said, "reauthentication: can be \"homeserver\" only where accounts is");
    Ok(())
}

#[test]
fn identity_servers_are_trusted_for_what_the_settings_say() -> Outcome {
    let toml = format!(
        r#"{LEAST}
validation = "identity_server"
deprecated_add = "identity_server_only"

[identity]
allow_networks = ["10.0.0.0/8"]

[signing_key]
file = "the.key"
homeserver = "example.org"

[[identity_servers]]
name = "Binds.example"

[[identity_servers]]
name = "both.example:8090"
base_url = "http://127.0.0.1:8090"
validates = true
v1_form = true

[[identity_servers]]
name = "neither.example"
binds = false
"#
    );
    let config = read(&toml, &[])?;
    let name = IdentityServerName::parse;
    let trusted = &config.policy.trusted;
    for (server, validates, binds) in [
        ("binds.example", false, true),
        ("both.example:8090", true, true),
        ("neither.example", false, false),
        ("other.example", false, false),
    ] {
        assert_eq!((trusted.validates(&name(server)?), trusted.binds(&name(server)?)), (validates, binds));
    }
    assert_eq!(config.policy.validation, Validation::IdentityServer);
    let identity = config.identity;
    let [binds, both, _] = identity.servers.as_slice() else { return Err("three servers".into()) };
    assert!(binds.base_url.is_none() && !binds.v1_form && both.base_url.is_some() && both.v1_form);
    assert_eq!(identity.allow_networks, ["10.0.0.0/8".parse()?]);
    assert_eq!(identity.signing_key, Some(("the.key".into(), "example.org".to_owned())));
    let warned: Vec<_> = config.warnings.iter().map(|warning| warning.setting.as_str()).collect();
    assert_eq!(warned, ["deprecated_add"], "an identity server can prove an address without a password");
    Ok(())
}

#[test]
fn changes_can_be_switched_off() -> Outcome {
    let config = read(&format!("changes = false\ndeprecated_add = \"off\"{LEAST}"), &[])?;
    assert_eq!(config.policy.changes, Changes::Forbidden);
    assert_eq!(config.policy.deprecated_add, DeprecatedAdd::Off);
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    let config = read(LEAST, &[("THREEPID_CHANGES", "false")])?;
    assert_eq!(config.policy.changes, Changes::Forbidden);
    Ok(())
}

#[test]
fn nonsense_is_refused_and_the_setting_is_named() {
    for (toml, setting, wants) in [
        ("public_base_url = \"matrix.example.org\"", "public_base_url", "an http or https address"),
        ("public_base_url = \"https://a.b/?x=1\"", "public_base_url", "without user, query or fragment"),
        ("listen = \"8090\"", "listen", "socket address"),
        ("accounts = \"remote\"", "accounts", "`homeserver` or `local`"),
        ("reauthentication = \"maybe\"", "reauthentication", "`homeserver`, `local`, `none`"),
        ("reauthentication = \"local\"", "reauthentication", "only where accounts is"),
        ("validation = \"identity_server\"", "validation", "only where one of identity_servers"),
        (
            "validation = \"identity_server\"\nhide_in_use = true\nidentity_servers = [{ name = \"id.example\", validates = true }]",
            "hide_in_use",
            "only where validation is",
        ),
        ("identity_servers = [{ name = \"https://a.example\" }]", "identity_servers", "without scheme"),
        ("identity_servers = [{ name = \"a.example\", bind = true }]", "identity_servers", "bind"),
        ("identity_servers = [{ base_url = \"https://a.example\" }]", "identity_servers", "name"),
        (
            "identity_servers = [{ name = \"a.example\" }, { name = \"A.example\" }]",
            "identity_servers[1].name",
            "twice",
        ),
        ("identity.timeout = \"0s\"", "identity.timeout", "longer than zero"),
        ("identity.unbind_timeout = \"11s\"", "identity.unbind_timeout", "at most"),
        ("identity.max_answer_bytes = 0", "identity.max_answer_bytes", "more than 0 bytes"),
        ("identity.allow_networks = [\"home\"]", "identity.allow_networks", "IP address"),
        ("signing_key.file = \"key\"", "signing_key.homeserver", "is required with"),
        ("signing_key.homeserver = \"a.example\"", "signing_key.file", "is required with"),
        ("deprecated_add = true", "deprecated_add", "expected"),
        ("changes = \"no\"", "changes", "boolean"),
        (
            "limits.failed_reauthentication_per_account.burst = 0",
            "limits.failed_reauthentication_per_account.burst",
            "at least 1",
        ),
        ("limits.mails_per_hour = 1", "limits.mails_per_hour", "at least 2"),
        ("database.url = \"mysql://localhost/db\"", "database.url", "sqlite://"),
        ("database.url = \"sqlite::memory:\"", "database.url", "a path"),
        ("database.url = \"postgres://a@b/c\"", "server_key.value", "is required with PostgreSQL"),
        ("database.connections = 0", "database.connections", "at least 1"),
        ("database.tls = \"verify-full\"", "database.tls", "for PostgreSQL alone"),
        ("database.password = \"hush\"", "database.password", "for PostgreSQL alone"),
        ("database.statement_timeout = \"0s\"", "database.statement_timeout", "longer than zero"),
        (
            "database = { url = \"postgres://a@b/c\", password = \"p\", password_file = \"f\" }",
            "database.password_file",
            "keep one of them",
        ),
        ("server_key = { value = \"a\", file = \"b\" }", "server_key.file", "keep one of them"),
        ("mail.app_name = \"\"", "mail.app_name", "one line of text"),
        ("mail.reply_to = \"nobody\"", "mail.reply_to", "a mailbox such as"),
        ("mail.transport = \"pigeon\"", "mail.transport", "`smtp`, `file`, `none`"),
        ("mail.smtp.port = 0", "mail.smtp.port", "from 1 to 65535"),
        ("mail.smtp.port = 70000", "mail.smtp.port", "u16"),
        ("mail.smtp.host = \"smtp://x\"", "mail.smtp.host", "without scheme"),
        ("mail.smtp.connections = 0", "mail.smtp.connections", "at least 1"),
        ("mail.smtp.user = \"u\"", "mail.smtp.password", "is required with mail.smtp.user"),
        ("mail.smtp.password = \"p\"", "mail.smtp.user", "is required with mail.smtp.password"),
        (
            "mail.smtp = { user = \"u\", password = \"p\", password_file = \"f\" }",
            "mail.smtp.password_file",
            "keep one",
        ),
        (
            "mail.smtp = { user = \"u\", password_file = \"/none\" }",
            "mail.smtp.password_file",
            "cannot be read",
        ),
        ("mirror.token = \"t\"", "mirror.synapse_admin_url", "is required with mirror.token"),
        ("mirror.synapse_admin_url = \"http://localhost:8008\"", "mirror.token", "or mirror.token_file is"),
        (
            "mirror = { synapse_admin_url = \"http://localhost:8008\", token = \"t\", token_file = \"f\" }",
            "mirror.token_file",
            "keep one",
        ),
        (
            "mirror = { synapse_admin_url = \"http://localhost:8008\", token = \"a b\" }",
            "mirror.token",
            "without spaces",
        ),
        ("sweep.token = \"t\"", "sweep.synapse_admin_url", "is required with sweep.token"),
        ("sweep.synapse_admin_url = \"http://localhost:8008\"", "sweep.token", "or sweep.token_file is"),
        ("sweep.every = \"0s\"", "sweep.every", "longer than zero"),
        (
            "accounts = \"local\"\nsweep = { synapse_admin_url = \"http://localhost:8008\", token = \"t\" }",
            "sweep.synapse_admin_url",
            "only where accounts is",
        ),
        ("mail.smtp.timeout = \"0s\"", "mail.smtp.timeout", "longer than zero"),
        ("mail.smtp.send_timeout = \"5m\"", "relay.lease", "longer than mail.smtp.send_timeout"),
        ("limits.max_subjects = 1", "limits.max_subjects", "at least 2"),
        ("database.readers = 0", "database.readers", "at least 1"),
        ("relay.concurrency = 0", "relay.concurrency", "at least 1"),
        ("http.max_header_bytes = 100", "http.max_header_bytes", "8192"),
        ("http.forwarding_header = \"x-real-ip\"", "http.forwarding_header", "`forwarded`"),
        ("mail.smtp.timeout = 30", "mail.smtp.timeout", "expected a string"),
        ("lifetimes.token = \"0s\"", "lifetimes.token", "longer than zero"),
        ("lifetimes.validated = \"soon\"", "lifetimes.validated", "a time such as"),
        ("limits.request_token_per_client.burst = 0", "limits.request_token_per_client.burst", "at least 1"),
        (
            "limits.request_token_per_address.per_second = nan",
            "limits.request_token_per_address.per_second",
            "more than 0",
        ),
        ("http.max_body_bytes = 0", "http.max_body_bytes", "more than 0 bytes"),
        ("http.trusted_proxies = [\"proxy\"]", "http.trusted_proxies", "IP address"),
        (
            "addresses.deny = [{ medium = \"email\", pattern = \"(\" }]",
            "addresses.deny[0]",
            "not a regular expression",
        ),
        ("addresses.allow = [{ domain = \"a b\" }]", "addresses.allow[0]", "not a domain name"),
        ("addresses.allow = [{ country = \"gb\" }]", "addresses.allow[0]", "ISO 3166-1"),
        (
            "addresses.allow = [{ country = \"GB\", medium = \"email\" }]",
            "addresses.allow[0]",
            "must be { domain",
        ),
        ("limits.sms_per_hour = 1", "limits.sms_per_hour", "at least 2"),
        ("limits.codes_per_address.burst = 0", "limits.codes_per_address.burst", "at least 1"),
        ("addresses.allow = [{ pattern = \".*\" }]", "addresses.allow[0]", "must be { domain"),
        ("addresses.allow = [{ domian = \"a.b\" }]", "addresses.allow", "domian"),
        ("log.level = \"a=b=c\"", "log.level", "no level"),
        ("maill.from = \"a@b.example\"", "maill", "unknown field"),
        ("mail.form = \"a@b.example\"", "mail.form", "unknown field"),
    ] {
        // A later line in TOML may not repeat a key, so the least settings give way to what is tried.
        let key = toml.split([' ', '=']).next().unwrap_or_default();
        let least: Vec<_> = LEAST.lines().filter(|line| !line.starts_with(key)).collect();
        let said = complaint(&format!("{}\n{toml}\n", least.join("\n")), &[]);
        let line = said.lines().find(|line| line.starts_with(setting));
        assert!(
            line.is_some_and(|line| line.contains(wants)),
            "{toml}: wanted {setting} … {wants}, got: {said}"
        );
    }
}

#[test]
fn everything_that_is_missing_is_told_at_once() {
    let said = complaint("", &[]);
    let named: Vec<_> = said.lines().filter_map(|line| line.split(':').next()).collect();
    assert_eq!(named, ["public_base_url", "mail.from", "homeserver.base_url"]);
}

#[test]
fn the_environment_is_stronger_than_the_file() -> Outcome {
    let config = read(
        LEAST,
        &[
            ("THREEPID_LISTEN", "127.0.0.1:1"),
            ("THREEPID_MAIL__SMTP__USER", "robot"),
            ("THREEPID_MAIL__SMTP__PASSWORD", "0012"),
            ("THREEPID_MAIL__SMTP__PORT", "2525"),
            ("THREEPID_HTTP__TRUSTED_PROXIES", "[\"::1\"]"),
            ("THREEPID_CONFIG", "is no setting"),
            ("OTHER", "is none of ours"),
        ],
    )?;
    assert_eq!(config.listen.port(), 1);
    assert_eq!(config.http.trusted_proxies, ["::1/128".parse()?]);
    let MailTransport::Smtp { server, .. } = config.mail.transport else { return Err("no smtp".into()) };
    assert_eq!(server.port, 2525);
    let password = server.credentials.map(|(_, password)| password.expose().to_owned());
    assert_eq!(password.as_deref(), Some("0012"), "digits stay text");
    Ok(())
}

#[test]
fn a_variable_that_is_no_setting_is_refused() {
    assert_eq!(
        complaint(LEAST, &[("THREEPID_MIAL__FROM", "a@b.example")]),
        "THREEPID_MIAL__FROM: is no setting"
    );
    let said = complaint(LEAST, &[("THREEPID_LISTEN", "here")]);
    assert!(said.starts_with("listen: ") && said.contains("the environment"), "{said}");
}

#[test]
fn a_secret_is_never_said() -> Outcome {
    let config = read(
        LEAST,
        &[
            ("THREEPID_MAIL__SMTP__USER", "robot"),
            ("THREEPID_MAIL__SMTP__PASSWORD", "hush-1"),
            ("THREEPID_SERVER_KEY__VALUE", "hush-2"),
            ("THREEPID_DATABASE__URL", "postgres://threepid:hush-3@localhost/threepid"),
        ],
    )?;
    assert!(!format!("{config:?}").contains("hush"));
    for broken in
        ["mail.smtp.password = \"hush", "mail.smtp.password = [\"hush\"]", "server_key.value = { hush = 1 }"]
    {
        let said = complaint(&format!("{LEAST}{broken}"), &[]);
        assert!(!said.contains("hush") && said != "(no complaint)", "{said}");
    }
    let said = complaint(&format!("{LEAST}mail.smtp.password = 4711"), &[]);
    assert!(said.starts_with("mail.smtp.password: ") && !said.contains("4711"), "{said}");
    Ok(())
}

#[test]
fn a_password_file_loses_only_the_line_break_at_its_end() -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("password");
    fs::write(&path, " spaced \n")?;
    let settings = format!("{LEAST}mail.smtp.user = \"u\"\nmail.smtp.password_file = {path:?}\n");
    let MailTransport::Smtp { server, .. } = read(&settings, &[])?.mail.transport else {
        return Err("no smtp".into());
    };
    assert_eq!(
        server.credentials.map(|(_, password)| password.expose().to_owned()).as_deref(),
        Some(" spaced ")
    );
    Ok(())
}

#[test]
fn a_file_that_is_not_there_is_an_error() {
    let error = load(Some(Path::new("/nonexistent/threepid.toml")), std::iter::empty());
    assert!(matches!(error, Err(ConfigError::File { .. })), "{error:?}");
}

#[test]
fn a_database_over_the_network_is_warned_about_unless_it_is_verified() -> Outcome {
    for (url, tls, warned) in [
        ("postgres://a@db.example/c", None, true),
        ("postgres://a@db.example/c", Some("require"), true),
        ("postgres://a@db.example/c", Some("verify-full"), false),
        ("postgres://a@db.example/c?sslmode=verify-ca", None, false),
        ("postgres://a@localhost/c", None, false),
        ("postgres:///c?host=/run/postgresql", None, false),
    ] {
        let tls = tls.map(|tls| format!("database.tls = {tls:?}\n")).unwrap_or_default();
        let settings = format!("{LEAST}database.url = {url:?}\nserver_key.value = \"k\"\n{tls}");
        let warnings = read(&settings, &[])?.warnings;
        assert_eq!(warnings.iter().any(|warning| warning.setting == "database.tls"), warned, "{url} {tls}");
    }
    Ok(())
}

#[test]
fn what_is_unwise_is_warned_about() -> Outcome {
    let toml = r#"
public_base_url = "http://matrix.example.org"
listen = "0.0.0.0:8090"
accounts = "local"
mail.from = "a@b.example"
mail.smtp.security = "none"
mail.smtp.host = "mail.example.org"
"#;
    let warned: Vec<_> = read(toml, &[])?.warnings.into_iter().map(|warning| warning.setting).collect();
    assert_eq!(warned, ["deprecated_add", "public_base_url", "listen", "mail.smtp.security"]);
    Ok(())
}
