//! `threepid account`: accounts of our own, where there is no homeserver to ask.

use threepid_domain::model::{DeviceId, UserId};

use super::{Failure, Output, SettingsSource, complain};
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
}

fn user_id(text: &str) -> Result<UserId, String> {
    UserId::parse(text).map_err(|error| error.to_string())
}

impl Command {
    pub(super) async fn run(self, settings: &SettingsSource, output: Output) -> Result<(), Failure> {
        let config = settings.load()?;
        if !matches!(config.accounts, Accounts::Local) {
            complain(
                "threepid: warning: accounts: is not \"local\", so these accounts are not asked for tokens",
            );
        }
        let opened = Opened::open(&config).await?;
        let done = self.run_on(&opened, output).await;
        opened.close().await;
        done
    }

    async fn run_on(self, opened: &Opened, output: Output) -> Result<(), Failure> {
        match self {
            Self::Add { user, guest } => {
                if opened.add_account(&user, guest).await? {
                    output.line(format_args!("added {user}"));
                } else {
                    output.line(format_args!("{user} was there already"));
                }
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
        }
        Ok(())
    }
}
