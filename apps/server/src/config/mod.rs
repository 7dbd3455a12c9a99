//! Settings: from a TOML file and the environment to a [`Config`] that makes sense, or to words that say which setting
//! does not and what it wants.
//!
//! [`settings`] declares them, [`values`] reads each, [`Config`] judges them together, [`document`] writes them down.

mod checked;
mod database;
mod declare;
pub(crate) mod document;
mod env;
mod limits;
mod settings;
mod sms;
mod values;

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::error::Kind;
use figment::providers::{Format as _, Toml};

pub(crate) use checked::{
    Accounts, Config, HomeserverAccounts, IdentityConfig, KeySource, LogConfig, MailTransport, Sender,
    SmtpServer, SynapseAdmin,
};
pub(crate) use env::CONFIG;
pub(crate) use limits::{Allowance, Limits};
pub(crate) use sms::{SmsGateway, SmsTransport};
pub(crate) use values::{DatabaseTls, LogFormat, Secret, Security, SmsMethod};

use env::Environment;
use settings::Settings;

/// One thing that is wrong with the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The setting or the variable.
    pub(crate) setting: String,
    /// What is wrong and what is wanted; it holds no secret.
    pub(crate) text: String,
}

impl Problem {
    pub(crate) fn new(setting: impl Into<String>, text: impl Into<String>) -> Self {
        Self { setting: setting.into(), text: text.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.setting, self.text)
    }
}

/// Settings that no server can be started with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file is not there or cannot be read.
    #[error("the settings file {} cannot be read: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not TOML. The line itself is not shown: it may hold a secret.
    #[error("the settings file {} is not TOML: {reason}", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// Settings that are wrong, each with what it wants.
    #[error("{}", problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n"))]
    Wrong {
        /// At least one.
        problems: Vec<Problem>,
    },
}

/// Reads the settings: the defaults, then the file, then `variables`.
///
/// # Errors
/// [`ConfigError`], which names every setting that is wrong.
pub(crate) fn load(
    file: Option<&Path>,
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Config, ConfigError> {
    let mut figment = Figment::new();
    if let Some(path) = file {
        // figment takes a file that is not there for an empty one.
        let unreadable = |source| ConfigError::File { path: path.to_owned(), source };
        std::fs::read_to_string(path).map_err(unreadable)?;
        figment = figment.merge(Toml::file_exact(path));
    }
    let environment = Environment::new(&document::sections(), variables)
        .map_err(|(name, text)| ConfigError::Wrong { problems: vec![Problem::new(name, text)] })?;
    let figment = figment.merge(environment);
    let settings: Settings = figment.extract().map_err(|error| unreadable(file, error))?;
    Config::new(settings).map_err(|problems| ConfigError::Wrong { problems })
}

/// What figment could not read, in our words.
fn unreadable(file: Option<&Path>, error: figment::Error) -> ConfigError {
    if let (Some(path), true) = (file, error.path.is_empty() && matches!(error.kind, Kind::Message(_))) {
        // The parser quotes the line, behind a bar; what is left says where it is and what is wrong with it.
        let text = error.kind.to_string();
        let reason: Vec<_> = text.lines().filter(|line| !line.contains('|')).map(str::trim).collect();
        return ConfigError::Toml { path: path.to_owned(), reason: reason.join(": ") };
    }
    let problems = error.into_iter().map(|error| {
        let mut key = error.path.join(".");
        if let Kind::UnknownField(name, _) = &error.kind {
            // figment's path stops above a field that it does not know.
            if error.path.last() != Some(name) {
                key = [key.as_str(), name]
                    .iter()
                    .filter(|part| !part.is_empty())
                    .copied()
                    .collect::<Vec<_>>()
                    .join(".");
            }
        }
        let from = error.metadata.as_ref().map_or(String::new(), |metadata| match &metadata.source {
            Some(source) => format!(" (in {source})"),
            None => format!(" (in {})", metadata.name),
        });
        Problem::new(key, format!("{}{from}", error.kind))
    });
    ConfigError::Wrong { problems: problems.collect() }
}

#[cfg(test)]
mod tests;
