//! What is kept of a whole run: the log of every server that it started, and every secret and whole address that went
//! through its requests and mails. The program `log-search` searches the ones for the others.
//!
//! `tests/run` names the folder in `KEPT_LOGS`; without it nothing is kept, and each story looks through its own
//! server's log alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};
use threepid_domain::model::{EmailAddress, Msisdn};
use url::form_urlencoded;

use crate::peers::PeerError;

/// The parameters and fields whose values must stand in no log.
const NAMES: [&str; 12] = [
    "access_token",
    "address",
    "client_secret",
    "code",
    "email",
    "id_access_token",
    "new_password",
    "password",
    "phone_number",
    "refresh_token",
    "secret",
    "token",
];

/// What is shorter stands in a log by chance. Six-digit codes are among it: each story looks for those that it used in its
/// own servers' logs, as words of their own.
const SHORTEST: usize = 8;

/// What has fewer different characters is filling, such as a token of 4000 times `x`.
const FEWEST_DIFFERENT: usize = 4;

/// Values that are searched for in no log, and why.
const EXEMPT: [(&str, &str); 1] =
    [("noreply@example.org", "the sender of the mails, which is a setting and no client's address")];

/// Where this run keeps what it keeps.
fn folder() -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("KEPT_LOGS")?);
    std::fs::create_dir_all(&folder).ok().map(|()| folder)
}

/// Notes that a server was started, whose log is to be kept once it has ended.
pub(crate) fn started() {
    if let Some(folder) = folder() {
        let path = folder.join(format!("{}.started", std::process::id()));
        let file = File::options().create(true).append(true).open(path);
        // Every log is one too many then, and the verdict says so.
        let _ = file.and_then(|mut file| file.write_all(b"serve\n"));
    }
}

/// Keeps the log of a server that has ended.
pub(crate) fn log(log: &Path) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    if let Some(folder) = folder() {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // A log that is not kept is missed: the verdict compares them with the servers that were started.
        let _ = std::fs::copy(log, folder.join(format!("{}-{number}.log", std::process::id())));
    }
}

/// Keeps a value that must stand in no log, and what it is.
pub fn secret(name: &str, value: &str) {
    static KEPT: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let Some(folder) = folder() else { return };
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if !kept.insert(value.to_owned()) {
        return;
    }
    let line = format!("{}\n", json!({ "name": name, "value": value }));
    let path = folder.join(format!("{}.secrets", std::process::id()));
    let file = File::options().create(true).append(true).open(path);
    let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
}

/// Keeps what a request says of secrets: in its query, its headers, its form or its JSON.
pub fn request(request: &reqwest::Request) {
    pairs(request.url().query_pairs());
    let bearer = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    if let Some(token) = bearer.and_then(|value| value.strip_prefix("Bearer ")) {
        secret("access_token", token);
    }
    let Some(body) = request.body().and_then(reqwest::Body::as_bytes) else { return };
    match serde_json::from_slice(body) {
        Ok(body) => fields(&body),
        Err(_) => pairs(form_urlencoded::parse(body)),
    }
}

fn pairs<'a>(pairs: impl Iterator<Item = (std::borrow::Cow<'a, str>, std::borrow::Cow<'a, str>)>) {
    for (name, value) in pairs.filter(|(name, _)| NAMES.contains(&name.as_ref())) {
        secret(&name, &value);
    }
}

/// Keeps what JSON says of secrets, however deep in it.
pub fn fields(json: &Value) {
    for (name, value) in named(json) {
        secret(name, value);
    }
}

/// The texts in JSON that have one of [`NAMES`].
fn named(json: &Value) -> Vec<(&str, &str)> {
    match json {
        Value::Object(object) => object
            .iter()
            .flat_map(|(name, value)| match value.as_str() {
                Some(text) if NAMES.contains(&name.as_str()) => vec![(name.as_str(), text)],
                _ => named(value),
            })
            .collect(),
        Value::Array(values) => values.iter().flat_map(named).collect(),
        _ => Vec::new(),
    }
}

/// A secret in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Find {
    /// What the secret is: a parameter's name.
    pub name: String,
    /// The secret.
    pub value: String,
    /// As what it stands there.
    pub written: String,
    /// The file.
    pub log: PathBuf,
    /// The line.
    pub line: String,
}

/// What a search looked through, and what it found.
#[derive(Debug, Default)]
pub struct Search {
    /// The servers that were started.
    pub started: usize,
    /// The logs of servers.
    pub logs: usize,
    /// Their lines.
    pub lines: usize,
    /// The secrets that were searched for.
    pub secrets: usize,
    /// The spellings of them.
    pub spellings: usize,
    /// The values that were not searched for, by the reason.
    pub exempt: BTreeMap<&'static str, BTreeSet<String>>,
    /// The first find of each secret.
    pub finds: Vec<Find>,
}

impl Search {
    /// Whether there was something to search, of every server, something to search for, and nothing found.
    ///
    /// # Errors
    ///
    /// What is wrong.
    pub fn verdict(&self) -> Result<(), String> {
        match self {
            Self { logs: 0, .. } | Self { lines: 0, .. } => {
                Err("there are no lines of log to search".to_owned())
            }
            Self { started, logs, .. } if started != logs => {
                Err(format!("{started} servers were started, and {logs} logs were kept"))
            }
            Self { secrets: 0, .. } => Err("there are no secrets to search for".to_owned()),
            Self { finds, .. } if !finds.is_empty() => {
                Err(format!("{} secrets stand in logs: {finds:#?}", finds.len()))
            }
            _ => Ok(()),
        }
    }
}

/// Searches all logs that were kept in a folder for all secrets that were.
///
/// # Errors
///
/// The folder cannot be read.
pub fn search(folder: &Path) -> Result<Search, PeerError> {
    let mut found = Search::default();
    let (mut logs, mut secrets) = (Vec::new(), BTreeMap::new());
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("log") => logs.push(path),
            Some("started") => found.started += BufReader::new(File::open(path)?).lines().count(),
            Some("secrets") => {
                for line in BufReader::new(File::open(path)?).lines() {
                    let kept: Value = serde_json::from_str(&line?)?;
                    let text = |name: &str| kept[name].as_str().unwrap_or_default().to_owned();
                    secrets.insert(text("value"), text("name"));
                }
            }
            _ => {}
        }
    }
    secrets.retain(|value, _| match why_exempt(value) {
        Some(reason) => {
            found.exempt.entry(reason).or_default().insert(value.chars().take(60).collect());
            false
        }
        None => true,
    });
    let needles = Needles::new(secrets.keys().map(String::as_str));
    (found.logs, found.secrets, found.spellings) = (logs.len(), secrets.len(), needles.spellings.len());
    logs.sort();
    let mut told = BTreeSet::new();
    for log in logs {
        let mut reader = BufReader::new(File::open(&log)?);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes)? > 0 {
            found.lines += 1;
            let line = String::from_utf8_lossy(&bytes).into_owned();
            bytes.clear();
            for (value, written) in needles.found_in(&line.to_lowercase()) {
                if told.insert(value) {
                    found.finds.push(Find {
                        name: secrets.get(value).cloned().unwrap_or_default(),
                        value: value.to_owned(),
                        written: written.to_owned(),
                        log: log.clone(),
                        line: line.trim_end().to_owned(),
                    });
                }
            }
        }
    }
    Ok(found)
}

fn why_exempt(value: &str) -> Option<&'static str> {
    if value.trim().chars().count() < SHORTEST {
        return Some("it is too short to be told from other words");
    }
    if value.chars().collect::<BTreeSet<_>>().len() < FEWEST_DIFFERENT {
        return Some("it is filling, of hardly any different characters");
    }
    if value.starts_with(['@', ' ']) && value.trim_start().starts_with('@') {
        return Some("it is what a masked address ends with, and no whole address");
    }
    EXEMPT.iter().find(|(exempt, _)| value.eq_ignore_ascii_case(exempt)).map(|(_, reason)| *reason)
}

/// As what a value could stand in a log: as it is, in canonical form, in a URL, in JSON, or as `Debug` shows it. All in
/// small letters.
fn spellings(value: &str) -> BTreeSet<String> {
    let mut plain = BTreeSet::from([value.trim().to_owned()]);
    if let Ok(email) = EmailAddress::parse(value) {
        plain.extend([email.as_str().to_owned(), format!("{}@{}", email.local(), email.ascii_domain())]);
    }
    if let Ok(number) = Msisdn::parse(value) {
        plain.insert(number.as_str().to_owned());
    }
    let mut all = BTreeSet::new();
    for text in plain {
        let in_form: String = form_urlencoded::byte_serialize(text.as_bytes()).collect();
        let in_json = Value::from(text.as_str()).to_string();
        let ascii_json: String = in_json
            .encode_utf16()
            .map(|unit| match u8::try_from(unit) {
                Ok(byte) if byte.is_ascii() => char::from(byte).to_string(),
                _ => format!("\\u{unit:04x}"),
            })
            .collect();
        let in_debug = format!("{text:?}");
        let inner =
            |quoted: &str| quoted.trim_start_matches('"').strip_suffix('"').unwrap_or(quoted).to_owned();
        all.extend([
            in_form.replace('+', "%20"),
            // In a path or a query, where `@` may stand.
            in_form.replace('+', "%20").replace("%40", "@"),
            in_form,
            inner(&in_json),
            inner(&ascii_json),
            inner(&in_debug),
            text,
        ]);
    }
    all.into_iter().map(|spelling| spelling.to_lowercase()).filter(|text| text.len() >= SHORTEST).collect()
}

/// Spellings by their first bytes.
struct Needles<'a> {
    spellings: Vec<(String, &'a str)>,
    by_start: HashMap<[u8; SHORTEST], Vec<usize>>,
    /// Whether a spelling begins with these two bytes: most places in a log are done with after this.
    begins: Vec<bool>,
}

impl<'a> Needles<'a> {
    fn new(values: impl Iterator<Item = &'a str>) -> Self {
        let spellings: Vec<(String, &str)> = values
            .flat_map(|value| spellings(value).into_iter().map(move |spelling| (spelling, value)))
            .collect();
        let mut by_start: HashMap<_, Vec<usize>> = HashMap::new();
        let mut begins = vec![false; 1 << 16];
        for (index, (spelling, _)) in spellings.iter().enumerate() {
            if let Some(start) = spelling.as_bytes().first_chunk() {
                by_start.entry(*start).or_default().push(index);
                begins[two(start)] = true;
            }
        }
        Self { spellings, by_start, begins }
    }

    fn found_in(&self, line: &str) -> Vec<(&'a str, &str)> {
        let bytes = line.as_bytes();
        let mut found = Vec::new();
        for (at, window) in bytes.windows(SHORTEST).enumerate() {
            let Some(start) = window.first_chunk::<SHORTEST>().filter(|start| self.begins[two(start)]) else {
                continue;
            };
            for index in self.by_start.get(start).into_iter().flatten() {
                let (spelling, value) = &self.spellings[*index];
                if bytes[at..].starts_with(spelling.as_bytes())
                    && stands_alone(bytes, at, spelling.as_bytes())
                {
                    found.push((*value, spelling.as_str()));
                }
            }
        }
        found
    }
}

fn two(start: &[u8; SHORTEST]) -> usize {
    usize::from(start[0]) << 8 | usize::from(start[1])
}

/// Digits in the midst of other digits are another number.
fn stands_alone(line: &[u8], at: usize, spelling: &[u8]) -> bool {
    let is_digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_digit);
    let is_number = spelling.iter().all(u8::is_ascii_digit);
    !is_number
        || !(is_digit(at.checked_sub(1).and_then(|at| line.get(at)))
            || is_digit(line.get(at + spelling.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with these logs and secrets, of as many servers as there are logs.
    fn searched(logs: &[&str], secrets: &[(&str, &str)]) -> Result<Search, PeerError> {
        searched_of(logs.len(), logs, secrets)
    }

    fn searched_of(servers: usize, logs: &[&str], secrets: &[(&str, &str)]) -> Result<Search, PeerError> {
        let folder = tempfile::tempdir()?;
        for (number, log) in logs.iter().enumerate() {
            std::fs::write(folder.path().join(format!("1-{number}.log")), log)?;
        }
        let lines: String = secrets
            .iter()
            .map(|(name, value)| format!("{}\n", json!({ "name": name, "value": value })))
            .collect();
        std::fs::write(folder.path().join("1.secrets"), lines)?;
        std::fs::write(folder.path().join("1.started"), "serve\n".repeat(servers))?;
        search(folder.path())
    }

    #[test]
    fn a_planted_secret_is_found_however_it_is_written() -> Result<(), PeerError> {
        for (name, value, line) in [
            ("token", "planted-token-1", "INFO done token=planted-token-1 sid=x"),
            ("token", "planted/token+1=", "GET /?token=planted%2Ftoken%2B1%3d"),
            ("password", "pass word-of \"alice\"", r#"{"password":"pass word-of \"alice\""}"#),
            ("password", "password of alice", "POST password=password+of+alice"),
            ("password", "password of alice", "GET /password%20of%20alice"),
            ("email", "Alice@EXAMPLE.org", "sent to alice@example.org"),
            ("email", "alice@example.org", "GET /?email=alice%40example.org"),
            ("address", "dora@bücher.example", "to dora@xn--bcher-kva.example"),
            ("address", "dora@bücher.example", r"to dora@b\u00fccher.example"),
            ("address", "dora@bücher.example", "to dora%40b%C3%BCcher.example"),
            ("phone_number", "+447700900813", "an SMS to 447700900813"),
            ("client_secret", "a\nsecret of lines", r"a\nsecret of lines"),
        ] {
            let logs = ["INFO serving\n", &format!("INFO serving\n{line}\nINFO stopped\n")];
            let search = searched(&logs, &[(name, value), ("token", "another-token")])?;
            assert_eq!((search.logs, search.lines, search.secrets), (2, 4, 2), "{line}");
            let finds: Vec<_> =
                search.finds.iter().map(|find| (find.value.as_str(), find.line.as_str())).collect();
            assert_eq!(finds, [(value, line)]);
            assert!(search.verdict().is_err_and(|error| error.contains("stand in logs")), "{line}");
        }
        Ok(())
    }

    #[test]
    fn a_log_without_secrets_is_well_and_one_that_was_not_searched_is_not() -> Result<(), PeerError> {
        let log = "2026-01-01T00:00:00 INFO sent to a…@example.org\n";
        let secrets = [("email", "alice@example.org"), ("phone_number", "44770090")];
        assert_eq!(searched(&[log, "request 1447700901\n"], &secrets)?.verdict(), Ok(()));
        assert!(searched(&[], &secrets)?.verdict().is_err(), "no log");
        assert!(searched(&[""], &secrets)?.verdict().is_err(), "an empty log");
        assert!(searched(&[log], &[])?.verdict().is_err(), "no secret");
        let missed = searched_of(2, &[log], &secrets)?.verdict();
        assert!(missed.is_err_and(|error| error.contains("2 servers")), "a log that was not kept");
        let trivial = searched(&[log, "the secret x"], &[("token", "secret"), ("token", &"x".repeat(4000))])?;
        assert!(trivial.verdict().is_err(), "no secret that can be told from other words");
        assert_eq!(trivial.exempt.values().map(BTreeSet::len).collect::<Vec<_>>(), [1, 1]);
        let masked = searched(&[log], &[("email", "@example.org"), ("token", "another-token")])?;
        assert_eq!((masked.verdict(), masked.secrets), (Ok(()), 1));
        Ok(())
    }

    #[test]
    fn secrets_are_taken_from_every_part_of_a_body() {
        let text =
            r#"{"auth":{"identifier":{"address":"a"},"password":"b"},"list":[{"token":"c"}],"sid":"d"}"#;
        let body: Value = serde_json::from_str(text).unwrap_or_default();
        let mut named = named(&body);
        named.sort_unstable();
        assert_eq!(named, [("address", "a"), ("password", "b"), ("token", "c")]);
    }
}
