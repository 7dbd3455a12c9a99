//! Nothing lost: load, a fault, and a reconciliation of every answer that a client saw.
//!
//! Each scenario starts the real program `threepid` with real peers, drives it over HTTP from many clients, breaks
//! something, mends it, and compares: the answers that the clients saw, the database, and the mails that arrived. What
//! is injected and what has to hold stands in `docs/faults.md`.
//!
//! Exit codes: 0 everything held; 1 something was lost, or a scenario could not be run; 2 the arguments make no sense.

mod books;
mod chance;
mod cluster;
mod fake;
mod identity_server;
mod load;
mod mailbox;
mod options;
mod reconcile;
mod report;
mod scenarios;
mod site;

use std::process::ExitCode;

use clap::Parser as _;

use options::Options;

/// What goes wrong here is told to whoever reads the table; nothing is told apart.
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> ExitCode {
    let mut options = Options::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            report::say(format_args!("cannot start the runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    if runtime.block_on(scenarios::run(&mut options)) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
