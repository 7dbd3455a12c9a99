//! The arguments.

use clap::{Parser, ValueEnum};

use crate::cluster::Cluster;

/// Starts threepid under load, breaks something, and counts what was lost.
#[derive(Clone, Debug, Parser)]
#[command(name = "faults")]
pub(crate) struct Options {
    /// Only scenarios whose name contains this; may be given several times.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// How often the program is killed, stopped or its database cut, in each scenario that does so.
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// On which database.
    #[arg(long, value_enum, default_value = "sqlite")]
    pub(crate) database: Database,
    /// The form that is part of tests/run: few rounds and short outages.
    #[arg(long)]
    pub(crate) short: bool,
    /// What chance starts from; another one breaks things at other moments.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub(crate) seed: u64,
    /// How many clients there are.
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(crate) clients: usize,
    /// How many instances share a PostgreSQL where several do.
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) instances: usize,
    /// How many scenarios run at a time.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) jobs: usize,
    /// The PostgreSQL that scenarios share which do not break it; there once they run.
    #[arg(skip)]
    pub(crate) cluster: Option<Cluster>,
}

/// Which engine keeps the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Database {
    /// A file.
    Sqlite,
    /// A PostgreSQL of the harness's own.
    Postgres,
}

impl Options {
    /// Whether the scenario of this name is wanted.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|wanted| name.contains(wanted.as_str()))
    }

    /// How many rounds: as given, or what the form of the run stands for.
    pub(crate) fn rounds(&self, short: usize, long: usize) -> usize {
        self.rounds.unwrap_or(if self.short { short } else { long })
    }

    /// How much of something: what the form of the run stands for.
    pub(crate) fn amount(&self, short: u64, long: u64) -> u64 {
        if self.short { short } else { long }
    }
}
