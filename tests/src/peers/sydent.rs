//! A real identity server: Sydent on SQLite, v1 and v2, mailing through a captured SMTP server.

use std::path::PathBuf;

use reqwest::{Client, Method};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::ca::TestCa;
use super::process::{PeerError, Process, Spec, free_port, temp_folder};
use super::smtp::SmtpServer;
use super::synapse::{Synapse, User};
use crate::kept;

/// A user's account at the identity server.
#[derive(Debug, Clone)]
pub struct IdentityAccount {
    /// The user at the homeserver.
    pub user_id: String,
    /// The identity server's own access token: what clients send as `id_access_token`.
    pub access_token: String,
}

/// A running identity server.
#[derive(Debug)]
pub struct Sydent {
    process: Process,
    base_url: String,
    client: Client,
    _folder: TempDir,
}

impl Sydent {
    /// Starts an identity server that mails through `smtp` (plain text, no login) and trusts only `ca` when it
    /// calls homeservers. `name` is its server name, the one that signs.
    ///
    /// # Errors
    ///
    /// It is not installed, or does not start.
    pub async fn start(name: &str, smtp: &SmtpServer, ca: &TestCa) -> Result<Self, PeerError> {
        let folder = temp_folder("sydent")?;
        let home = folder.path();
        let port = free_port()?;
        let base_url = format!("http://127.0.0.1:{port}");
        // The package comes without its templates.
        std::fs::create_dir_all(home.join("res/matrix-org"))?;
        std::fs::write(home.join("res/matrix-org/verify_response_template.html"), "<p>%(message)s</p>\n")?;
        std::fs::write(
            home.join("verification.eml"),
            "Date: %(date)s\nFrom: %(from)s\nTo: %(to)s\nMessage-ID: %(messageid)s\n\
             Subject: Confirm your address\nMIME-Version: 1.0\nContent-Type: text/plain; charset=UTF-8\n\n\
             Your code is %(token)s\n%(link)s\n",
        )?;
        std::fs::write(
            home.join("sydent.conf"),
            format!(
                "[general]\nserver.name = {name}\nlog.level = INFO\npidfile.path = {home}/sydent.pid\n\
                 templates.path = {home}/res\nenable_v1_associations = true\nenable_v1_access = true\n\
                 ip.whitelist = 127.0.0.0/8\n\
                 [db]\ndb.file = {home}/sydent.db\n\
                 [http]\nclientapi.http.bind_address = 127.0.0.1\nclientapi.http.port = {port}\n\
                 client_http_base = {base_url}\n\
                 [email]\nemail.template = {home}/verification.eml\nemail.from = identity@example.org\n\
                 email.smtphost = 127.0.0.1\nemail.smtpport = {smtp}\nemail.hostname = localhost\n\
                 email.ratelimit_sender.burst = 1000\nemail.ratelimit_sender.rate_hz = 100\n\
                 [sms]\n[crypto]\n",
                home = home.display(),
                smtp = smtp.port(),
            ),
        )?;
        let spec = Spec::python("sydent")?
            .arg("-m")
            .arg("sydent.sydent")
            .env("SYDENT_CONF", home.join("sydent.conf"))
            .env("SSL_CERT_FILE", ca.certificate());
        let mut process = Process::start(spec, home)?;
        let client = Client::new();
        let versions = format!("{base_url}/_matrix/identity/versions");
        process
            .ready(|| async {
                match client.get(&versions).send().await {
                    Ok(answer) if answer.status() == 200 => Ok(Some(())),
                    _ => Ok(None),
                }
            })
            .await?;
        Ok(Self { process, base_url, client, _folder: folder })
    }

    /// `http://127.0.0.1:{port}`, without a slash at the end.
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// The identity server's log.
    pub fn log(&self) -> PathBuf {
        self.process.log().to_owned()
    }

    /// Makes an account for a user of the homeserver, as a client would: with an OpenID token.
    ///
    /// The identity server asks the homeserver over federation whose token that is, so the homeserver's name
    /// must lead to it over TLS that the identity server trusts.
    ///
    /// # Errors
    ///
    /// Either server refuses, or they do not reach each other.
    pub async fn register(&self, homeserver: &Synapse, user: &User) -> Result<IdentityAccount, PeerError> {
        let token = homeserver.openid_token(user).await?;
        let (status, answer) =
            self.call(Method::POST, "/_matrix/identity/v2/account/register", None, Some(&token)).await?;
        match answer["token"].as_str() {
            Some(access_token) if status == 200 => {
                kept::secret("id_access_token", access_token);
                Ok(IdentityAccount { user_id: user.user_id.clone(), access_token: access_token.to_owned() })
            }
            _ => Err(self.process.failure(&format!("refused an account: {status} {answer}"))),
        }
    }

    /// Asks for a validation mail over v2 and gives the `sid`.
    ///
    /// # Errors
    ///
    /// It refuses.
    pub async fn request_token(
        &self,
        account: &IdentityAccount,
        email: &str,
        client_secret: &str,
    ) -> Result<String, PeerError> {
        let body = json!({ "email": email, "client_secret": client_secret, "send_attempt": 1 });
        let path = "/_matrix/identity/v2/validate/email/requestToken";
        let (status, answer) = self.call(Method::POST, path, Some(account), Some(&body)).await?;
        match &answer["sid"] {
            Value::String(sid) if status == 200 => Ok(sid.clone()),
            // v1 and v2 of this server give a number where the specification has a string.
            Value::Number(sid) if status == 200 => Ok(sid.to_string()),
            _ => Err(self.process.failure(&format!("refused a mail: {status} {answer}"))),
        }
    }

    /// Any call: the status and the JSON of the answer (null where there is none).
    ///
    /// # Errors
    ///
    /// The server is down.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        account: Option<&IdentityAccount>,
        body: Option<&Value>,
    ) -> Result<(u16, Value), PeerError> {
        let mut request = self.client.request(method, format!("{}{path}", self.base_url));
        if let Some(account) = account {
            request = request.bearer_auth(&account.access_token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        Ok((status, serde_json::from_str(&answer.text().await?).unwrap_or_default()))
    }
}
