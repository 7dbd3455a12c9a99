//! `threepid import`: moves in beside a server that has contacts already.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use serde_json::json;
use threepid_domain::use_cases::{ImportMode, ImportReport, ImportWatcher, SkipReason, SkippedRow, Tally};

use super::{Failure, Output, SettingsSource};
use crate::wiring::{self, Opened};

/// So many rows that are skipped are named on the terminal; a report file names all.
const NAMED: usize = 20;

/// Where the contacts come from.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Import the contacts and bindings of Synapse, from its database. Without --apply nothing is imported, and what
    /// would be is said.
    Synapse(Synapse),
}

/// How Synapse's contacts are imported.
#[derive(Debug, clap::Args)]
pub(super) struct Synapse {
    /// Synapse's database, which is only read: the path of its SQLite file, or postgres://user@host/database. The
    /// password of the latter may come from PGPASSWORD or ~/.pgpass.
    #[arg(long, value_name = "PATH|URL")]
    database: String,
    /// Import. It may be run again: what is there already stays as it is.
    #[arg(long)]
    apply: bool,
    /// Skip accounts that are not of this homeserver, the part behind the colon of user IDs.
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// A new file for the rows that are skipped, one JSON object a line, with whole addresses; only this user may read
    /// it. The terminal shows masked ones.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

impl Command {
    pub(super) async fn run(self, settings: &SettingsSource, output: Output) -> Result<(), Failure> {
        let Self::Synapse(synapse) = self;
        let config = settings.load()?;
        let source = wiring::synapse_contacts(&synapse.database).await?;
        let opened = Opened::open(&config).await?;
        let done = synapse.run_on(&opened, &source, output).await;
        opened.close().await;
        source.close().await;
        done
    }
}

impl Synapse {
    async fn run_on(self, opened: &Opened, source: &wiring::Source, output: Output) -> Result<(), Failure> {
        let mut watcher = Watcher::new(self.report.as_deref())?;
        let mode = if self.apply { ImportMode::Apply } else { ImportMode::DryRun };
        let imported = opened.importer(source, self.server_name).run(mode, &mut watcher).await;
        watcher.clear_progress();
        let report = imported.map_err(|error| {
            Failure::running("the import broke off; run it again, it goes on where it was", error)
        })?;
        watcher.finish(&report, mode, output)
    }
}

/// Shows how far it is, and keeps what is to be said at the end.
struct Watcher {
    shows_progress: bool,
    percent: Option<u64>,
    named: Vec<String>,
    skipped: usize,
    file: Option<ReportFile>,
}

struct ReportFile {
    path: PathBuf,
    writer: BufWriter<File>,
    /// The first failure; it is told at the end.
    failed: Option<io::Error>,
}

impl Watcher {
    fn new(report: Option<&Path>) -> Result<Self, Failure> {
        let file = report.map(ReportFile::create).transpose()?;
        let shows_progress = io::stderr().is_terminal();
        Ok(Self { shows_progress, percent: None, named: Vec::new(), skipped: 0, file })
    }

    fn clear_progress(&self) {
        if self.percent.is_some() {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }

    fn finish(self, report: &ImportReport, mode: ImportMode, output: Output) -> Result<(), Failure> {
        let dry = mode == ImportMode::DryRun;
        for (kind, tally) in [("contacts", &report.contacts), ("bindings", &report.bindings)] {
            for line in summary(kind, tally, dry) {
                output.line(line);
            }
        }
        for row in &self.named {
            output.line(format_args!("skipped {row}"));
        }
        let more = self.skipped - self.named.len();
        if more > 0 {
            output.line(format_args!("and {more} more; --report FILE lists them all"));
        }
        if let Some(file) = self.file {
            let path = file.finish()?;
            output.line(format_args!("the skipped rows are in {}", path.display()));
        }
        if dry {
            output.line("this was a dry run: nothing was imported; --apply imports");
        }
        Ok(())
    }
}

fn summary(kind: &str, tally: &Tally, dry: bool) -> Vec<String> {
    let Tally { imported, already_there, skipped } = tally;
    let verb = if dry { "to import" } else { "imported" };
    let total: u64 = skipped.values().sum();
    let mut lines =
        vec![format!("{kind}: {imported} {verb}, {already_there} already there, {total} skipped")];
    lines.extend(reasons(skipped));
    lines
}

fn reasons(skipped: &BTreeMap<SkipReason, u64>) -> impl Iterator<Item = String> {
    skipped.iter().map(|(reason, count)| format!("  {count} {}: {reason}", reason.as_str()))
}

impl ImportWatcher for Watcher {
    fn progress(&mut self, done: u64, total: u64) {
        let percent = done.saturating_mul(100) / total.max(1);
        if self.shows_progress && self.percent != Some(percent) {
            self.percent = Some(percent);
            let bar = "#".repeat(usize::try_from(percent / 5).unwrap_or_default());
            let mut stderr = io::stderr().lock();
            let _ = write!(stderr, "\r[{bar:<20}] {percent:>3} %").and_then(|()| stderr.flush());
        }
    }

    fn skipped(&mut self, row: SkippedRow) {
        self.skipped += 1;
        if self.named.len() < NAMED {
            let at = row.id_server.as_deref().map(|server| format!(" at {server}")).unwrap_or_default();
            let text = format!("{} {} {}{at}: {}", row.user_id, row.medium, row.masked(), row.reason);
            // A foreign database may hold anything, and a terminal obeys control characters.
            self.named.push(text.replace(char::is_control, "\u{fffd}"));
        }
        if let Some(file) = &mut self.file {
            file.write(&row);
        }
    }
}

impl ReportFile {
    fn create(path: &Path) -> Result<Self, Failure> {
        let mut options = OpenOptions::new();
        // An old file would keep its old permissions.
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options
            .open(path)
            .map_err(|error| Failure::running(format!("cannot make the report {}", path.display()), error))?;
        Ok(Self { path: path.to_owned(), writer: BufWriter::new(file), failed: None })
    }

    fn write(&mut self, row: &SkippedRow) {
        let SkippedRow { user_id, medium, address, id_server, reason } = row;
        let line = json!({
            "user_id": user_id,
            "medium": medium,
            "address": address,
            "id_server": id_server,
            "reason": reason.as_str(),
        });
        if self.failed.is_none() {
            self.failed = writeln!(self.writer, "{line}").err();
        }
    }

    fn finish(mut self) -> Result<PathBuf, Failure> {
        let written = self.failed.take().map_or_else(|| self.writer.flush(), Err);
        written.map_err(|error| {
            Failure::running(format!("cannot write the report {}", self.path.display()), error)
        })?;
        Ok(self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(number: usize) -> SkippedRow {
        SkippedRow {
            user_id: format!("@u{number}:example.org"),
            medium: "email".to_owned(),
            address: format!("user{number}@example.org\u{1b}[2J"),
            id_server: None,
            reason: SkipReason::NotAnAddress,
        }
    }

    #[test]
    fn the_terminal_names_some_rows_masked_and_the_report_all_of_them_whole()
    -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("skipped.jsonl");
        let mut watcher = Watcher::new(Some(&path))?;
        (0..NAMED + 5).for_each(|number| watcher.skipped(row(number)));
        assert_eq!(watcher.named.len(), NAMED);
        assert_eq!(
            watcher.named.first().map(String::as_str),
            Some("@u0:example.org email u…: cannot be an address")
        );
        assert!(Watcher::new(Some(&path)).is_err(), "an old report is not written over");
        watcher.finish(&ImportReport::default(), ImportMode::DryRun, Output)?;
        let report = std::fs::read_to_string(&path)?;
        assert_eq!(report.lines().count(), NAMED + 5);
        let first: serde_json::Value = serde_json::from_str(report.lines().next().unwrap_or_default())?;
        assert_eq!(first["address"], "user0@example.org\u{1b}[2J");
        assert_eq!(first["reason"], "not_an_address");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(std::fs::metadata(&path)?.permissions().mode() & 0o777, 0o600);
        }
        Ok(())
    }

    #[test]
    fn the_summary_counts_every_reason() {
        let skipped = BTreeMap::from([(SkipReason::EmailOld, 2), (SkipReason::Duplicate, 1)]);
        let tally = Tally { imported: 7, already_there: 4, skipped };
        assert_eq!(
            summary("contacts", &tally, true),
            [
                "contacts: 7 to import, 4 already there, 3 skipped",
                "  2 email_old: set aside by Synapse as a duplicate",
                "  1 duplicate: the same address as a row that was added first",
            ]
        );
        assert_eq!(
            summary("bindings", &Tally::default(), false),
            ["bindings: 0 imported, 0 already there, 0 skipped"]
        );
    }
}
