//! How many files the process may open, which bounds the connections that it can hold.

/// What is left for the database, mail, the homeserver, identity servers, metrics and the log.
const BESIDE_CONNECTIONS: usize = 256;

/// Raises the limit of open files as far as the system lets this process, and gives how many connections it can hold of
/// those that are wished for. Without it accepting would fail in their midst, and so would calls of the database.
pub(super) fn connections(wished: usize) -> usize {
    let limit = raise();
    let held = fitting(wished, limit);
    match limit {
        Some(limit) if held < wished => tracing::warn!(
            open_files = limit,
            wished,
            held,
            "fewer connections are held than http.max_connections says, since the process may open so few files; \
             raise its limit (systemd: LimitNOFILE)"
        ),
        Some(limit) => {
            tracing::debug!(open_files = limit, connections = held, "the limit of open files suffices")
        }
        None => {}
    }
    held
}

/// How many of `wished` connections a limit of open files permits; at least one.
fn fitting(wished: usize, limit: Option<usize>) -> usize {
    limit.map_or(wished, |limit| wished.min(limit.saturating_sub(BESIDE_CONNECTIONS)).max(1))
}

/// Raises the soft limit to the hard one, and gives what holds now; `None` if nothing is limited.
#[cfg(unix)]
fn raise() -> Option<usize> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::debug!(%error, "the limit of open files cannot be raised");
        }
    }
    getrlimit(Resource::Nofile).current.map(|files| usize::try_from(files).unwrap_or(usize::MAX))
}

#[cfg(not(unix))]
fn raise() -> Option<usize> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_everything_else() {
        for (wished, limit, held) in [
            (4096, None, 4096),
            (4096, Some(1_048_576), 4096),
            (4096, Some(4352), 4096),
            (4096, Some(1024), 768),
            (100, Some(1024), 100),
            (100, Some(64), 1),
        ] {
            assert_eq!(fitting(wished, limit), held, "{wished} of {limit:?}");
        }
    }
}
