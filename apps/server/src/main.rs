//! The program `threepid`: the library on the adapters that its settings name.

#![cfg_attr(not(test), warn(clippy::string_slice, clippy::unreachable))]

mod cli;
mod config;
mod demo;
mod wiring;

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// The C library's own lets the threads wait for each other: a request allocates here what another thread frees.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    cli::run()
}
