//! The rows of the table, one file for each kind of work.

mod instances;
mod list;
mod memory;
mod relay;
mod request_token;
mod size;
mod start;
mod story;

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use threepid_tests::peers::{server_program, target_folder};

use crate::child::{self, processor_time};
use crate::options::Options;
use crate::parts::figure;
use crate::table::{Row, Table, say};
use crate::{Outcome, machine};

/// What every row is measured with.
pub(crate) struct Bench {
    pub(crate) options: Options,
    pub(crate) program: PathBuf,
}

/// Measures every row that is wanted.
pub(crate) fn run(options: &Options) -> Outcome<()> {
    let program = match &options.program {
        Some(program) => program.clone(),
        None => server_program()?,
    };
    let bench = Bench { options: options.clone(), program };
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(bench.measure())
}

impl Bench {
    async fn measure(&self) -> Outcome<()> {
        machine::open_many_files();
        let described = machine::describe();
        say(format_args!("{described}\n{}", Table::head()));
        let mut table = Table::default();
        let mut failed = Vec::new();
        for name in NAMES {
            if self.options.wants(name) {
                match self.row(name).await {
                    Ok(rows) => table.add(rows),
                    Err(error) => failed.push(format!("{name}: {error}")),
                }
            }
        }
        let path = self.options.json.clone().unwrap_or_else(|| target_folder().join("bench.json"));
        std::fs::write(&path, serde_json::to_string_pretty(&table.to_json(&described))?)?;
        say(format_args!("\n{}\n\nAs JSON: {}", table.text(), path.display()));
        if failed.is_empty() { Ok(()) } else { Err(failed.join("; ").into()) }
    }

    async fn row(&self, name: &str) -> Outcome<Vec<Row>> {
        match name {
            "list" => list::remembered(self).await,
            "local-list" => list::local(self).await,
            "request-token" => request_token::sqlite(self).await,
            "postgres" => request_token::postgres(self).await,
            "story" => story::measure(self).await,
            "relay" => relay::measure(self).await,
            "size" => size::measure(self).await,
            "start" => start::measure(self).await,
            "memory" => memory::measure(self).await,
            _ => instances::measure(self).await,
        }
    }

    /// One turn of a load: what it came to, and how much processor time the process with this number took for each
    /// good answer, in µs.
    pub(crate) async fn load(&self, pids: &[u32], mut settings: Value) -> Outcome<Loaded> {
        if settings["requests"].is_null() {
            settings["milliseconds"] = milliseconds(self.options.turn());
        }
        let processor = || pids.iter().map(|pid| processor_time(*pid)).sum::<Outcome<Duration>>();
        let before = processor()?;
        let said = child::run("load", &settings).await?;
        let took = processor()? - before;
        let good = said["good"].as_u64().unwrap_or(0);
        if said["errors"] != json!(0) || good == 0 {
            return Err(format!("{} answers were not good, first {}", said["errors"], said["wrong"]).into());
        }
        let us = |name: &str| said[name].as_f64().unwrap_or(f64::NAN);
        Ok(Loaded {
            per_second: us("per_second"),
            p50_us: us("p50_us"),
            p99_us: us("p99_us"),
            processor_us: took.as_secs_f64() * 1e6 / figure(good),
        })
    }
}

const NAMES: [&str; 10] = [
    "list",
    "local-list",
    "request-token",
    "postgres",
    "story",
    "relay",
    "size",
    "start",
    "memory",
    "instances",
];

/// What a turn came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Loaded {
    pub(crate) per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) processor_us: f64,
}

pub(crate) fn milliseconds(duration: Duration) -> Value {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).into()
}

/// Something that no other run has used.
pub(crate) fn new_mark(what: &str) -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{what}{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// The tokens of the first `count` accounts at the benchmark's homeserver.
pub(crate) fn tokens(count: u64, step: u64) -> Vec<String> {
    (0..count).map(|number| format!("tok-{:07}", number * step)).collect()
}
