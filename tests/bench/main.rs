//! How fast it is: the real program against references that are measured in the same run, in turns.
//!
//! Each part has a process of its own: the program, whoever loads it, each reference, the mail server, the homeserver.
//! What a row measures, how to read the table and how to replay a row with other tools stands in `docs/benchmark.md`.
//!
//! Exit codes: 0 every row was measured, whatever came of it; 1 one could not be; 2 the arguments make no sense.

mod child;
mod instructions;
mod machine;
mod options;
mod parts;
mod rows;
mod site;
mod table;
mod tell_apart;

use std::process::ExitCode;

use clap::Parser as _;

use options::{Command, Options};

/// What goes wrong here is told to whoever reads the table; nothing is told apart.
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> ExitCode {
    let options = Options::parse();
    let ended = match &options.command {
        Some(Command::Instructions) => instructions::run(&options),
        Some(Command::TellApart { draws }) => tell_apart::run(&options, *draws),
        Some(Command::Part { name, settings }) => parts::run(name, settings),
        None => rows::run(&options),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            table::complain(format_args!("bench: {error}"));
            ExitCode::FAILURE
        }
    }
}
