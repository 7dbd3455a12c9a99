//! `threepid account`: accounts of our own, where there is no homeserver to ask, and what is kept about any account.

use std::io;
use std::path::{Path, PathBuf};

use threepid_domain::model::{DeviceId, UserId};

use super::{Failure, Output, SettingsSource, account_erased, account_record, complain};
use crate::config::Accounts;
use crate::wiring::Opened;

/// What to do with the accounts.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Add an account.
    Add {
        /// Who, as @localpart:server.
        #[arg(value_parser = user_id)]
        user: UserId,
        /// A guest; guests have no contacts.
        #[arg(long)]
        guest: bool,
        /// Give it the password that this file holds, or that comes in by standard input with "-". One line break at
        /// its end is dropped.
        #[arg(long, value_name = "FILE|-", conflicts_with = "guest")]
        password_file: Option<PathBuf>,
    },
    /// Give an account a password, in place of one that it has.
    Password {
        /// Whose, as @localpart:server.
        #[arg(value_parser = user_id)]
        user: UserId,
        /// The file that holds it; "-", as without this, is standard input. One line break at its end is dropped.
        #[arg(long, value_name = "FILE|-", default_value = "-")]
        password_file: PathBuf,
    },
    /// Give an account a new access token and print it. It is kept as a hash and cannot be printed again.
    Token {
        /// Whose, as @localpart:server.
        #[arg(value_parser = user_id)]
        user: UserId,
        /// The device that the token belongs to.
        #[arg(long, value_name = "ID")]
        device: Option<String>,
    },
    /// List the accounts, one a line.
    List,
    /// Show what is kept about an account, the homeserver's too: how much of each kind, or with --json all of it, with
    /// whole addresses.
    Show {
        /// About whom, as @localpart:server.
        #[arg(value_parser = user_id)]
        user: UserId,
        /// All of it, as one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Erase all that is kept about an account, the homeserver's too, at once and without asking. What identity servers
    /// publish of it is owed to be forgotten, and a server that runs goes on with that.
    Erase {
        /// Whose, as @localpart:server.
        #[arg(value_parser = user_id)]
        user: UserId,
        /// Tell what would be erased, and erase nothing.
        #[arg(long)]
        dry_run: bool,
        /// How much of each kind, as one JSON object.
        #[arg(long)]
        json: bool,
    },
}

fn user_id(text: &str) -> Result<UserId, String> {
    UserId::parse(text).map_err(|error| error.to_string())
}

/// What the file says, or standard input, without the line break at its end.
fn password(file: &Path) -> Result<String, Failure> {
    let read =
        if file == Path::new("-") { io::read_to_string(io::stdin()) } else { std::fs::read_to_string(file) };
    let unreadable =
        |error| Failure::running(format!("cannot read the password from {}", file.display()), error);
    let text = read.map_err(unreadable)?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        Err(Failure::Usage("the password is empty".to_owned()))
    } else {
        Ok(text.to_owned())
    }
}

impl Command {
    pub(super) async fn run(self, settings: &SettingsSource, output: Output) -> Result<(), Failure> {
        let config = settings.load()?;
        if !matches!(config.accounts, Accounts::Local)
            && !matches!(self, Self::Show { .. } | Self::Erase { .. })
        {
            complain(
                "threepid: warning: accounts: is not \"local\", so these accounts are not asked for tokens",
            );
        }
        let opened = match self {
            Self::Add { .. } | Self::Password { .. } | Self::Token { .. } => Opened::open(&config).await?,
            Self::List | Self::Show { .. } | Self::Erase { .. } => Opened::existing(&config).await?,
        };
        let done = self.run_on(&opened, output).await;
        opened.close().await;
        done
    }

    async fn run_on(self, opened: &Opened, output: Output) -> Result<(), Failure> {
        match self {
            Self::Add { user, guest, password_file } => {
                // Read first: a file that is not there shall not leave an account without its password.
                let password = password_file.as_deref().map(password).transpose()?;
                if opened.add_account(&user, guest).await? {
                    output.line(format_args!("added {user}"));
                } else {
                    output.line(format_args!("{user} was there already"));
                }
                if let Some(password) = password {
                    opened.set_password(&user, &password).await?;
                }
            }
            Self::Password { user, password_file } => {
                opened.set_password(&user, &password(&password_file)?).await?;
                output.line(format_args!("{user} has a new password"));
            }
            Self::Token { user, device } => {
                let token = opened.issue_token(&user, device.map(DeviceId)).await?;
                output.line(token.expose());
            }
            Self::List => {
                for user in opened.list_accounts().await? {
                    output.line(user);
                }
            }
            Self::Show { user, json } => {
                let record = opened.kept_about(&user).await?;
                if json {
                    output.line(account_record::whole(&user, &record));
                } else {
                    account_record::counted(&record).iter().for_each(|line| output.line(line));
                }
            }
            Self::Erase { user, dry_run, json } => {
                let eraser = opened.eraser();
                let erased = if dry_run { eraser.foresee(&user).await } else { eraser.erase(&user).await };
                let erased =
                    erased.map_err(|error| Failure::running(format!("cannot erase {user}"), error))?;
                if json {
                    output.line(account_erased::json(&user, &erased, dry_run));
                } else {
                    account_erased::lines(&erased, dry_run).iter().for_each(|line| output.line(line));
                }
            }
        }
        Ok(())
    }
}
