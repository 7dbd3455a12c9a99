//! Lines of log on their way out. A write for each costs a request as much as the rest of its log, so lines that nobody has
//! to hear of at once wait for each other, for a moment.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// So long a line waits at most.
const MOMENT: Duration = Duration::from_millis(10);

/// More bytes do not wait.
const MOST: usize = 32 * 1024;

/// So many bytes a system writes to a pipe at once, without those of another process among them.
const WHOLE: usize = 4096;

/// Where lines go. A warning, an error, and all that came before it are written at once.
#[derive(Clone)]
pub(super) struct Lines(Arc<Shared>);

struct Shared {
    waiting: Mutex<Waiting>,
    begun: Condvar,
}

struct Waiting {
    lines: Vec<u8>,
    out: Box<dyn Write + Send>,
    /// Whether somebody is there to write what waits.
    is_attended: bool,
    /// Whether what was written last may be half a line.
    is_torn: bool,
}

impl Waiting {
    fn write_out(&mut self) -> io::Result<()> {
        let mut rest = self.lines.as_slice();
        let mut written = Ok(());
        if std::mem::take(&mut self.is_torn) && !rest.is_empty() {
            written = self.out.write_all(b"\n");
        }
        while !rest.is_empty() && written.is_ok() {
            let (lines, others) = rest.split_at(whole_lines(rest));
            written = self.out.write_all(lines);
            rest = others;
        }
        self.is_torn = written.is_err();
        // What cannot be written is lost: kept, it would grow.
        self.lines.clear();
        written
    }
}

impl Lines {
    /// To `out`, each write of which leaves at once.
    pub(super) fn to(out: impl Write + Send + 'static) -> Self {
        let waiting = Waiting { lines: Vec::new(), out: Box::new(out), is_attended: false, is_torn: false };
        let lines = Self(Arc::new(Shared { waiting: Mutex::new(waiting), begun: Condvar::new() }));
        let own = lines.clone();
        // Without it, each line is written at once.
        let attended = thread::Builder::new().name("log".to_owned()).spawn(move || own.attend());
        lines.lock().is_attended = attended.is_ok();
        lines
    }

    /// Writes what waits; from now on nothing does.
    pub(super) fn end(&self) {
        self.lock().is_attended = false;
        self.flush();
    }

    fn flush(&self) {
        // Nobody is left to hear that it failed.
        let _ = self.lock().write_out();
    }

    fn add(&self, line: &[u8], is_urgent: bool) -> io::Result<()> {
        let mut waiting = self.lock();
        let is_first = waiting.lines.is_empty();
        waiting.lines.extend_from_slice(line);
        if is_urgent || !waiting.is_attended || waiting.lines.len() >= MOST {
            return waiting.write_out();
        }
        if is_first {
            self.0.begun.notify_one();
        }
        Ok(())
    }

    fn attend(&self) {
        loop {
            let waiting = self.0.begun.wait_while(self.lock(), |waiting| waiting.lines.is_empty());
            drop(waiting);
            thread::sleep(MOMENT);
            self.flush();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many bytes at the beginning are whole lines that are written at once; the first line, where it is longer.
fn whole_lines(bytes: &[u8]) -> usize {
    let ends = |line: &u8| *line == b'\n';
    let last = bytes.iter().take(WHOLE).rposition(ends).or_else(|| bytes.iter().position(ends));
    last.map_or(bytes.len(), |at| at + 1)
}

/// One line.
pub(super) struct Line<'a> {
    lines: &'a Lines,
    is_urgent: bool,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Line { lines: self, is_urgent: true }
    }

    fn make_writer_for(&'a self, of: &Metadata<'_>) -> Self::Writer {
        Line { lines: self, is_urgent: *of.level() <= Level::WARN }
    }
}

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.lines.add(line, self.is_urgent)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::panic, reason = "what a test stands on fails it")]

    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Hands over what each write brings.
    struct Writes(Sender<String>);

    impl Write for Writes {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let text = String::from_utf8_lossy(bytes).into_owned();
            self.0.send(text).map(|()| bytes.len()).map_err(io::Error::other)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines() -> (Lines, Receiver<String>) {
        let (sender, writes) = channel();
        (Lines::to(Writes(sender)), writes)
    }

    fn add(lines: &Lines, line: &str, is_urgent: bool) {
        lines.add(line.as_bytes(), is_urgent).unwrap_or_else(|error| panic!("{error}"));
    }

    #[test]
    fn what_is_urgent_takes_what_waits_along() {
        let (lines, writes) = lines();
        // So that nobody else writes what waits.
        lines.lock().lines.extend_from_slice(b"first\n");
        add(&lines, "second\n", false);
        add(&lines, "third\n", true);
        assert_eq!(writes.try_recv().as_deref(), Ok("first\nsecond\nthird\n"));
    }

    #[test]
    fn what_waits_is_written_after_a_moment() {
        let (lines, writes) = lines();
        for line in ["a\n", "b\n"] {
            add(&lines, line, false);
            let written = writes.recv_timeout(Duration::from_secs(10));
            assert_eq!(written.as_deref(), Ok(line));
        }
    }

    #[test]
    fn much_does_not_wait_and_the_end_takes_all() {
        let (lines, writes) = lines();
        lines.lock().lines.extend_from_slice(b"-");
        add(&lines, &"x".repeat(MOST), false);
        assert_eq!(writes.try_recv().map(|text| text.len()), Ok(MOST + 1));
        lines.lock().lines.extend_from_slice(b"last\n");
        lines.end();
        assert_eq!(writes.try_recv().as_deref(), Ok("last\n"));
        add(&lines, "later\n", false);
        assert_eq!(writes.try_recv().as_deref(), Ok("later\n"), "nobody would write it");
    }

    #[test]
    fn lines_are_written_whole() {
        let (lines, writes) = lines();
        let long = format!("{}\n", "x".repeat(5000));
        let said = ["a\n".repeat(1500), long.clone(), "b\n".repeat(2500)].concat();
        lines.lock().lines.extend_from_slice(said.as_bytes());
        lines.flush();
        let written: Vec<String> = writes.try_iter().collect();
        assert_eq!(written.concat(), said);
        assert!(written.iter().all(|part| part.ends_with('\n') && (part.len() <= WHOLE || *part == long)));
        lines.lock().is_torn = true;
        add(&lines, "whole again\n", true);
        assert_eq!(writes.try_iter().collect::<String>(), "\nwhole again\n");
    }

    #[test]
    fn what_cannot_be_written_is_told_and_does_not_grow() {
        let (lines, writes) = lines();
        drop(writes);
        assert!(lines.add(b"lost\n", true).is_err());
        assert!(lines.lock().lines.is_empty());
    }
}
