//! Logs, to standard error: JSON for machines, text for people.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

use crate::config::{LogConfig, LogFormat};

/// Starts logging. It happens once a process; a second start changes nothing.
pub(super) fn start(config: &LogConfig) {
    // The settings were judged, so the filter is one.
    let filter = EnvFilter::try_new(&config.level).unwrap_or_default();
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        // A line that cannot be written is lost; the attempt to say so, on the same standard error, would panic in the
        // midst of a request.
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal());
    let _ = match config.format {
        LogFormat::Json => {
            logs.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init()
        }
        LogFormat::Text => logs.try_init(),
    };
}
