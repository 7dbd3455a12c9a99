//! What a command says: to standard output, and nothing else goes there. Logs and errors go to standard error.

use std::fmt::Display;
use std::io::{self, Write as _};

/// Standard output, line by line, each written at once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Output;

impl Output {
    /// Writes a line.
    pub(crate) fn line(self, text: impl Display) {
        self.text(format!("{text}\n"));
    }

    /// Writes text as it is.
    pub(crate) fn text(self, text: impl Display) {
        let mut stdout = io::stdout().lock();
        // Whoever closed the pipe, such as `head`, has read enough.
        let _ = write!(stdout, "{text}").and_then(|()| stdout.flush());
    }
}

/// Writes a line to standard error.
pub(crate) fn complain(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
