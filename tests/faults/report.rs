//! The table.

use std::fmt::{self, Write as _};
use std::time::Duration;

use crate::Outcome;
use crate::load::Tally;
use crate::reconcile::Mails;

/// Writes a line to standard output.
#[expect(clippy::print_stdout, reason = "the table is what this program is for")]
pub(crate) fn say(line: impl fmt::Display) {
    println!("{line}");
}

/// What one fault did.
#[derive(Debug, Default)]
pub(crate) struct Row {
    /// How many requests were made.
    pub(crate) requests: u64,
    /// How many of them were answered with success.
    pub(crate) acknowledged: u64,
    /// How often something was broken.
    pub(crate) faults: u64,
    /// The mails.
    pub(crate) mails: Mails,
    /// What was lost, half done or doubled against the rules; empty when everything held.
    pub(crate) problems: Vec<String>,
    /// What else is worth knowing.
    pub(crate) notes: Vec<String>,
}

impl Row {
    /// Takes over what the clients saw.
    pub(crate) fn add(&mut self, tally: &Tally) {
        self.requests += tally.requests;
        self.acknowledged += tally.acknowledged;
    }

    /// Notes a problem unless `holds`.
    pub(crate) fn check(&mut self, holds: bool, problem: impl FnOnce() -> String) {
        if !holds {
            self.problems.push(problem());
        }
    }

    /// Adds something that is worth knowing.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }
}

/// The rows so far.
#[derive(Debug, Default)]
pub(crate) struct Table {
    passed: usize,
    failed: usize,
    lines: Vec<String>,
}

/// So many problems of one row are told; their number always is.
const PROBLEMS_TOLD: usize = 12;

impl Table {
    /// Adds what became of a scenario, and says it.
    pub(crate) fn add(&mut self, fault: &str, took: Duration, outcome: Outcome<Row>) {
        let row = outcome.unwrap_or_else(|error| Row {
            problems: vec![format!("the scenario could not be run: {error}")],
            ..Row::default()
        });
        let holds = row.problems.is_empty();
        if holds {
            self.passed += 1
        } else {
            self.failed += 1
        }
        let line = line(fault, &row, took);
        say(format_args!("{line}{}", if row.notes.is_empty() { String::new() } else { details(&row.notes) }));
        for problem in row.problems.iter().take(PROBLEMS_TOLD) {
            say(format_args!("    PROBLEM: {problem}"));
        }
        if row.problems.len() > PROBLEMS_TOLD {
            say(format_args!("    … and {} more", row.problems.len() - PROBLEMS_TOLD));
        }
        self.lines.push(line);
    }

    /// The head of the table.
    pub(crate) fn head() -> String {
        format!(
            "{:<44} {:>8} {:>8} {:>6} {:>7} {:>7} {:>7} {:>5} {:>5} {:>5} {:>6}  verdict",
            "fault",
            "requests",
            "acked",
            "faults",
            "owed",
            "arrived",
            "expired",
            "dead",
            "twice",
            "lost",
            "s"
        )
    }

    /// Says the whole table again, and the count that `tests/run` reads. Whether everything held.
    pub(crate) fn conclude(&self, name: &str) -> bool {
        let mut text = format!("\n{}\n", Self::head());
        for line in &self.lines {
            let _ = writeln!(text, "{line}");
        }
        let ok = if self.failed == 0 { "ok" } else { "FAILED" };
        let _ = write!(text, "\n     Running {name}\n");
        let _ = write!(text, "test result: {ok}. {} passed; {} failed; 0 ignored", self.passed, self.failed);
        say(text);
        self.failed == 0 && self.passed > 0
    }
}

fn line(fault: &str, row: &Row, took: Duration) -> String {
    let Mails { owed, arrived, expired, dead, twice, lost } = row.mails;
    let verdict = if row.problems.is_empty() { "holds" } else { "BROKEN" };
    format!(
        "{fault:<44} {:>8} {:>8} {:>6} {owed:>7} {arrived:>7} {expired:>7} {dead:>5} {twice:>5} {lost:>5} {:>6.1}  {verdict}",
        row.requests,
        row.acknowledged,
        row.faults,
        took.as_secs_f32()
    )
}

fn details(notes: &[String]) -> String {
    notes.iter().fold(String::new(), |mut text, note| {
        let _ = write!(text, "\n    {note}");
        text
    })
}
