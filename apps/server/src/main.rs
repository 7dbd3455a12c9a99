//! The program `threepid`: the library on the adapters that its settings name.

#![cfg_attr(not(test), warn(clippy::string_slice, clippy::unreachable))]

mod cli;
mod config;
mod demo;
mod wiring;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
