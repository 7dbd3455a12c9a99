//! The command line: one file a command. Each reads its arguments, does one thing, and says how it went.
//!
//! Exit codes: 0 it went well; 1 it failed while running; 2 the arguments or the settings make no sense.

mod account;
mod account_erased;
mod account_record;
mod audit;
mod config;
mod demo;
mod import;
mod logs;
mod migrate;
mod open_files;
mod outbox;
mod output;
mod serve;
mod signals;
mod times;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{CONFIG, Config, ConfigError, Problem};

pub(crate) use output::{Output, complain};

/// Lets the users of a Matrix homeserver prove, add and list the email addresses of their accounts.
///
/// It serves /_matrix/client/{r0,v3}/account/3pid beside any homeserver.
#[derive(Debug, Parser)]
#[command(
    name = "threepid",
    version,
    after_help = "Exit codes: 0 it went well, 1 it failed while running, 2 the arguments or the settings make no sense.",
    arg_required_else_help = true
)]
struct Arguments {
    /// The settings file (TOML); the environment variable THREEPID_CONFIG names it, too.
    #[arg(long, global = true, value_name = "PATH")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve, until SIGTERM or SIGINT.
    Serve,
    /// Try it here and now: one process, no set-up, and a mailbox that catches the mail.
    Demo(demo::Arguments),
    /// Bring the database to the schema of this version; `serve` does so by itself.
    Migrate,
    /// Accounts of our own, for `accounts = "local"`, and what is kept about any account.
    #[command(subcommand)]
    Account(account::Command),
    /// Move in beside a server that has contacts already.
    #[command(subcommand)]
    Import(import::Command),
    /// Look at owed and dead messages, and decide about them.
    #[command(subcommand)]
    Outbox(outbox::Command),
    /// Tell how contacts changed: who, what, through which door, when. Addresses are whole.
    Audit(audit::Arguments),
    /// Print the OpenAPI 3.1 document of the API, which is served at /_threepid/openapi.json, too.
    Openapi,
    /// Look at the settings.
    #[command(subcommand)]
    Config(config::Command),
}

/// Why a command ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The settings make no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The arguments make no sense together.
    #[error("{0}")]
    Usage(String),
    /// It failed while running.
    #[error("{doing}")]
    Running {
        /// What could not be done.
        doing: String,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

impl Failure {
    /// `doing` failed because of `source`.
    pub(crate) fn running(doing: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Running { doing: doing.into(), source: source.into() }
    }

    /// An error that says what could not be done by itself.
    pub(crate) fn plain(error: &(dyn Error + 'static)) -> Self {
        let text = with_causes(error);
        Self::Running { doing: text.clone(), source: text.into() }
    }

    /// A setting that an adapter does not take.
    pub(crate) fn setting(name: &str, error: &(dyn Error + 'static)) -> Self {
        Self::Config(ConfigError::Wrong { problems: vec![Problem::new(name, with_causes(error))] })
    }

    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) | Self::Usage(_) => ExitCode::from(2),
            Self::Running { .. } => ExitCode::from(1),
        }
    }
}

/// Where the settings are.
#[derive(Clone, Debug)]
struct SettingsSource {
    file: Option<PathBuf>,
}

impl SettingsSource {
    /// Reads and judges them.
    fn load(&self) -> Result<Config, ConfigError> {
        crate::config::load(self.file.as_deref(), std::env::vars_os())
    }
}

/// Runs the command that the arguments name.
pub(crate) fn run() -> ExitCode {
    // clap answers --help and --version with 0 and nonsense with 2.
    let Arguments { config, command } = Arguments::parse();
    let file = config.or_else(|| std::env::var_os(CONFIG).filter(|path| !path.is_empty()).map(PathBuf::from));
    let settings = SettingsSource { file };
    let outcome = match command {
        Command::Serve => block_on(serve::run(&settings)),
        Command::Demo(arguments) => block_on(demo::run(arguments, Output)),
        Command::Migrate => block_on(migrate::run(&settings, Output)),
        Command::Account(command) => block_on(command.run(&settings, Output)),
        Command::Import(command) => block_on(command.run(&settings, Output)),
        Command::Outbox(command) => block_on(command.run(&settings, Output)),
        Command::Audit(arguments) => block_on(audit::run(arguments, &settings, Output)),
        Command::Openapi => {
            Output.text(threepid_server::openapi());
            Ok(())
        }
        Command::Config(command) => command.run(&settings, Output),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            for line in with_causes(&failure).lines() {
                complain(format_args!("threepid: {line}"));
            }
            failure.exit_code()
        }
    }
}

/// Runs a command that waits for things.
fn block_on(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|error| Failure::running("cannot start the runtime", error))?.block_on(command)
}

/// An error and its causes. A cause that its error has quoted already is not said twice.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn an_error_is_told_with_its_causes_and_nothing_twice() {
        let inner = std::io::Error::other("disk is full");
        let outer = Failure::running("cannot write", Box::new(inner) as Box<dyn Error + Send + Sync>);
        assert_eq!(with_causes(&outer), "cannot write: disk is full");
        let quoting = Failure::running("cannot write: disk is full", "disk is full");
        assert_eq!(with_causes(&quoting), "cannot write: disk is full");
    }
}
