//! Searches every line of log that the servers of a run wrote for every secret and whole address that the run used:
//! `log-search FOLDER`, with what `KEPT_LOGS` named while the tests ran. `tests/run` does it after the tests.

#![expect(clippy::print_stdout, reason = "what was searched is what the reader of the run wants")]

use std::path::PathBuf;
use std::process::ExitCode;

use threepid_tests::kept;

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else {
        println!("usage: log-search FOLDER");
        return ExitCode::from(2);
    };
    let search = match kept::search(&folder) {
        Ok(search) => search,
        Err(error) => {
            println!("{}: {error}", folder.display());
            return ExitCode::FAILURE;
        }
    };
    for (reason, values) in &search.exempt {
        println!("not searched for, since {reason}: {} values: {values:?}", values.len());
    }
    println!(
        "{} lines of {} logs of {} servers were searched for {} secrets and addresses in {} spellings",
        search.lines, search.logs, search.started, search.secrets, search.spellings
    );
    match search.verdict() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}
