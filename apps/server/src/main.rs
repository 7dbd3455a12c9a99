//! The program `threepid`: the library on the adapters that its settings name.

mod cli;
mod config;
mod demo;
mod wiring;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
