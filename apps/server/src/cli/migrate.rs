//! `threepid migrate`: the database's schema.

use super::{Failure, Output, SettingsSource};
use crate::wiring;

pub(super) async fn run(settings: &SettingsSource, output: Output) -> Result<(), Failure> {
    let config = settings.load()?;
    let applied = wiring::migrate(&config).await?;
    for step in &applied {
        output.line(format_args!("applied {step}"));
    }
    if applied.is_empty() {
        output.line("nothing to do");
    }
    Ok(())
}
