//! The arguments.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

/// Measures threepid against references in the same run, prints a table and writes it as JSON.
#[derive(Clone, Debug, Parser)]
#[command(name = "bench")]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// Only rows whose name contains this; may be given several times.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// The form that is part of tests/run: it shows that every row can be measured, and measures nothing worth telling.
    #[arg(long)]
    pub(crate) small: bool,
    /// How often the program and its reference take turns.
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// How long a turn takes.
    #[arg(long, value_name = "N")]
    seconds: Option<f64>,
    /// Where the table goes as JSON, if not into the target folder.
    #[arg(long, value_name = "PATH")]
    pub(crate) json: Option<PathBuf>,
    /// The program, if not the one of the same build.
    #[arg(long, value_name = "PATH")]
    pub(crate) program: Option<PathBuf>,
    /// How many threepids the large table has.
    #[arg(long, value_name = "N")]
    large: Option<u64>,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Counts the instructions of the three hottest requests with valgrind, whatever else the machine does.
    Instructions,
    /// Asks about addresses that belong to accounts and about free ones, with `hide_in_use` and without, and says whether
    /// answers or times tell them apart.
    TellApart {
        /// How many addresses are drawn; each is asked about four times.
        #[arg(long, value_name = "N", default_value_t = 4000)]
        draws: usize,
    },
    /// One of the processes that a measurement consists of.
    #[command(hide = true)]
    Part {
        /// Which.
        name: String,
        /// What it is to do, as JSON.
        settings: String,
    },
}

impl Options {
    /// Whether the row of this name is wanted.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|wanted| name.contains(wanted.as_str()))
    }

    pub(crate) fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.small { 1 } else { 5 }).max(1)
    }

    /// How long a turn takes.
    pub(crate) fn turn(&self) -> Duration {
        Duration::from_secs_f64(self.seconds.unwrap_or(if self.small { 0.2 } else { 2.0 }).max(0.05))
    }

    /// How much of something: in the small form, or else.
    pub(crate) fn amount(&self, small: u64, full: u64) -> u64 {
        if self.small { small } else { full }
    }

    pub(crate) fn large(&self) -> u64 {
        self.large.unwrap_or(self.amount(20_000, 10_000_000)).max(2)
    }
}
