//! The demo: a server on loopback with two accounts and a mailbox, and the main story told on it.
//!
//! Everything it serves but the mailbox is what `threepid serve` serves.

mod folder;
mod mailbox;
mod story;
mod walkthrough;

use threepid_domain::model::{AccessToken, UserId};
use url::Url;

pub(crate) use folder::DemoFolder;
pub(crate) use mailbox::{Caught, Letter, routes as mailbox};
pub(crate) use story::Story;
pub(crate) use walkthrough::Walkthrough;

/// The address that the story adds. Mail to it goes nowhere but to the mailbox.
const ADDRESS: &str = "alice@example.org";

/// The list of an account's contacts, and where one is added.
const THREEPIDS: &str = "/_matrix/client/v3/account/3pid";

/// Where a mail is asked for.
const REQUEST_TOKEN: &str = "/_matrix/client/v3/account/3pid/email/requestToken";

/// Where the caught mail is shown.
const MAILBOX: &str = "/_demo/mailbox";

/// An account of the demo, with a token that is good at once.
#[derive(Debug)]
pub(crate) struct DemoAccount {
    pub(crate) user: UserId,
    pub(crate) token: AccessToken,
}

/// Where the demo is, and who is in it.
#[derive(Debug)]
pub(crate) struct Scene {
    /// The server's own address.
    pub(crate) base: Url,
    /// Who adds an address.
    pub(crate) alice: DemoAccount,
    /// Who would like to have it, too.
    pub(crate) bob: DemoAccount,
    /// A client secret that nobody else uses.
    pub(crate) client_secret: String,
}

impl Scene {
    /// The whole address of a path.
    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base.as_str().trim_end_matches('/'))
    }
}
