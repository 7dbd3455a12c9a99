//! Logs, to standard error: JSON for machines, text for people.

use std::io::{self, IsTerminal as _};
use std::panic::{self, Location, PanicHookInfo};

use tracing_subscriber::EnvFilter;

use self::json::{Json, JsonFields};
use self::lines::Lines;
use crate::config::{LogConfig, LogFormat};

mod json;
mod lines;

/// While it lives, lines may wait for a moment before they are written; when it is dropped, they are written.
#[must_use]
pub(super) struct Logs(Lines);

impl Drop for Logs {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Starts logging, of panics too. It happens once a process; a second start changes nothing.
pub(super) fn start(config: &LogConfig) -> Logs {
    // The settings were judged, so the filter is one.
    let filter = EnvFilter::try_new(&config.level).unwrap_or_default();
    let lines = to_standard_error();
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(lines.clone())
        // A line that cannot be written is lost; the attempt to say so, on the same standard error, would panic in the
        // midst of a request.
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal());
    let _ = match config.format {
        LogFormat::Json => logs.fmt_fields(JsonFields).event_format(Json).try_init(),
        LogFormat::Text => logs.try_init(),
    };
    panic::set_hook(Box::new(log_panic));
    Logs(lines)
}

/// Without the lock of [`io::Stderr`], at which a thread that prints would be waited for.
#[cfg(unix)]
fn to_standard_error() -> Lines {
    use std::os::fd::AsFd as _;

    match io::stderr().as_fd().try_clone_to_owned() {
        Ok(stderr) => Lines::to(std::fs::File::from(stderr)),
        Err(_) => Lines::to(io::stderr()),
    }
}

#[cfg(not(unix))]
fn to_standard_error() -> Lines {
    Lines::to(io::stderr())
}

/// Logs where a panic began, under the request that it met. What it says of itself may hold a secret, and is told nobody.
fn log_panic(panic: &PanicHookInfo<'_>) {
    tracing::error!(at = panic.location().map(Location::to_string), "the program panicked");
}

#[cfg(test)]
mod tests {
    #![expect(clippy::panic, reason = "what a test stands on fails it")]

    use std::env;
    use std::process::{Command, Output};

    use super::*;

    const FORMAT: &str = "FORMAT_OF_THE_PROCESS_THAT_PANICS";

    /// The hook is the whole process's, so a process of its own, which is this test again, panics.
    #[test]
    fn a_panic_is_a_line_of_log_that_tells_where_and_not_what() {
        let secret = ["hush", "secret"].join("-");
        let format = match env::var(FORMAT).as_deref() {
            Err(_) => return ["json", "text"].into_iter().for_each(|format| assert_is_told(format, &secret)),
            Ok("json") => LogFormat::Json,
            Ok(_) => LogFormat::Text,
        };
        let _logs = start(&LogConfig { level: "info".to_owned(), format });
        let span = tracing::info_span!("request", request_id = "given-1");
        let panicked = span.in_scope(|| panic::catch_unwind(|| panic!("{secret}")));
        assert!(panicked.is_err());
    }

    fn assert_is_told(format: &str, secret: &str) {
        let name = "cli::logs::tests::a_panic_is_a_line_of_log_that_tells_where_and_not_what";
        let program = env::current_exe().unwrap_or_else(|error| panic!("{error}"));
        let ran = Command::new(program).args(["--exact", name, "--nocapture"]).env(FORMAT, format).output();
        let Output { status, stdout, stderr } = ran.unwrap_or_else(|error| panic!("{error}"));
        let (stdout, said) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(status.success() && stdout.contains("1 passed"), "{stdout}{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert_eq!(said.starts_with('{'), format == "json", "{said}");
        for part in ["ERROR", "panicked", "cli/logs/mod.rs:", "request_id", "given-1"] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(!said.contains(secret) && !stdout.contains(secret), "{stdout}{said}");
    }
}
