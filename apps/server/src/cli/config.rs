//! `threepid config`: the settings, checked or in writing.

use super::output::{Output, complain};
use super::{Failure, SettingsSource};
use crate::config::document;
use crate::wiring;

/// What to do with the settings.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Read the settings as `serve` would, and say what is wrong or unwise. Starts nothing.
    Check,
    /// Print a settings file with every setting, its meaning and its default.
    Template {
        /// Print the page docs/settings.md instead.
        #[arg(long)]
        markdown: bool,
    },
}

impl Command {
    pub(super) fn run(self, settings: &SettingsSource, output: Output) -> Result<(), Failure> {
        match self {
            Self::Check => {
                let config = settings.load()?;
                wiring::rehearse(&config)?;
                for warning in &config.warnings {
                    complain(format_args!("threepid: warning: {warning}"));
                }
                output.line("ok");
            }
            Self::Template { markdown: false } => output.text(document::template()),
            Self::Template { markdown: true } => output.text(document::markdown()),
        }
        Ok(())
    }
}
