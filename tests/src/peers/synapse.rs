//! A real homeserver: Synapse on SQLite, its limits relaxed, its passwords hashed cheaply.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use reqwest::{Client, Method};
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::ca::TestCa;
use super::process::{PeerError, Process, Spec, free_port, temp_folder};
use crate::kept;

const REGISTRATION_SECRET: &str = "the stories register users with this";

/// A user of the homeserver and one of the user's access tokens.
#[derive(Debug, Clone)]
pub struct User {
    /// `@name:server`.
    pub user_id: String,
    /// The access token.
    pub access_token: String,
    /// The device of the token; guests have one, too.
    pub device_id: String,
    /// The password, empty for a guest.
    pub password: String,
}

/// Settings of a homeserver that is about to start.
#[derive(Debug)]
pub struct SynapseBuilder {
    server_name: String,
    trusted: Option<PathBuf>,
    settings: String,
}

impl SynapseBuilder {
    /// The server's name; `localhost` unless set. `127.0.0.1:{port}` is a name that federation finds without DNS.
    pub fn server_name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.server_name);
        self
    }

    /// Trusts this authority, and only it, in calls that the homeserver makes.
    pub fn trust(mut self, ca: &TestCa) -> Self {
        self.trusted = Some(ca.certificate());
        self
    }

    /// Adds settings as YAML; a top-level key replaces the one of the same name.
    pub fn settings(mut self, yaml: &str) -> Self {
        self.settings.push_str(yaml);
        self.settings.push('\n');
        self
    }

    /// Starts the homeserver.
    ///
    /// # Errors
    ///
    /// It is not installed, or does not start.
    pub async fn start(self) -> Result<Synapse, PeerError> {
        let folder = temp_folder("synapse")?;
        let port = free_port()?;
        let home = folder.path();
        let mut seed = [0; 32];
        SystemRandom::new().fill(&mut seed).map_err(|_| PeerError::new("no random bytes"))?;
        std::fs::write(
            home.join("signing.key"),
            format!("ed25519 a_story {}\n", STANDARD_NO_PAD.encode(seed)),
        )?;
        std::fs::write(home.join("homeserver.yaml"), settings(&self.server_name, port, home))?;
        std::fs::write(
            home.join("more.yaml"),
            if self.settings.is_empty() { "{}\n" } else { &self.settings },
        )?;
        let mut spec = Spec::python("synapse")?
            .arg("-m")
            .arg("synapse.app.homeserver")
            .arg("--config-path")
            .arg(home.join("homeserver.yaml"))
            .arg("--config-path")
            .arg(home.join("more.yaml"));
        if let Some(ca) = &self.trusted {
            spec = spec.env("SSL_CERT_FILE", ca);
        }
        let base_url = format!("http://127.0.0.1:{port}");
        // Stories share a homeserver, and each has a runtime of its own: a connection must not outlive its request.
        let client = Client::builder().pool_max_idle_per_host(0).build()?;
        let process = run(spec.clone(), home, &client, &base_url).await?;
        Ok(Synapse {
            process: Some(process),
            spec,
            base_url,
            server_name: self.server_name,
            client,
            names: AtomicU32::new(0),
            folder,
        })
    }
}

/// A running homeserver.
#[derive(Debug)]
pub struct Synapse {
    process: Option<Process>,
    spec: Spec,
    base_url: String,
    server_name: String,
    client: Client,
    names: AtomicU32,
    folder: TempDir,
}

impl Synapse {
    /// A homeserver named `localhost`.
    ///
    /// # Errors
    ///
    /// It is not installed, or does not start.
    pub async fn start() -> Result<Self, PeerError> {
        Self::builder().start().await
    }

    /// A homeserver with settings.
    pub fn builder() -> SynapseBuilder {
        SynapseBuilder { server_name: "localhost".to_owned(), trusted: None, settings: String::new() }
    }

    /// `http://127.0.0.1:{port}`, without a slash at the end.
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// The name behind the colon of user ids.
    pub fn server_name(&self) -> &str {
        &self.server_name
    }

    /// The file with the signing key, as Synapse writes it.
    pub fn signing_key(&self) -> PathBuf {
        self.folder.path().join("signing.key")
    }

    /// The SQLite database.
    pub fn database(&self) -> PathBuf {
        self.folder.path().join("homeserver.db")
    }

    /// The homeserver's log.
    pub fn log(&self) -> PathBuf {
        self.folder.path().join("synapse.log")
    }

    /// Ends the process: from now on connections are refused.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Starts the process again after [`Synapse::stop`]: same port, same database.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub async fn start_again(&mut self) -> Result<(), PeerError> {
        self.process = None;
        let spec = self.spec.clone();
        self.process = Some(run(spec, self.folder.path(), &self.client, &self.base_url).await?);
        Ok(())
    }

    /// Registers a user of that name.
    ///
    /// # Errors
    ///
    /// The name is taken, or the homeserver is down.
    pub async fn register(&self, name: &str) -> Result<User, PeerError> {
        self.register_as(name, false).await
    }

    /// Registers a user of a name that nobody has yet.
    ///
    /// # Errors
    ///
    /// The homeserver is down.
    pub async fn new_user(&self) -> Result<User, PeerError> {
        let number = self.names.fetch_add(1, Ordering::Relaxed);
        self.register(&format!("user{number}")).await
    }

    /// Registers an administrator.
    ///
    /// # Errors
    ///
    /// The name is taken, or the homeserver is down.
    pub async fn register_admin(&self, name: &str) -> Result<User, PeerError> {
        self.register_as(name, true).await
    }

    /// Registers a guest.
    ///
    /// # Errors
    ///
    /// The homeserver is down.
    pub async fn guest(&self) -> Result<User, PeerError> {
        let answer = self.post("/_matrix/client/v3/register?kind=guest", None, &json!({})).await?;
        Ok(user(&answer, ""))
    }

    /// Logs in with a password and gives the user with a new token and device.
    ///
    /// # Errors
    ///
    /// The homeserver refuses or is down.
    pub async fn login(&self, user_id: &str, password: &str) -> Result<User, PeerError> {
        let body = json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": user_id },
            "password": password,
        });
        let answer = self.post("/_matrix/client/v3/login", None, &body).await?;
        Ok(user(&answer, password))
    }

    /// Ends a token.
    ///
    /// # Errors
    ///
    /// The token is unknown, or the homeserver is down.
    pub async fn logout(&self, access_token: &str) -> Result<(), PeerError> {
        self.post("/_matrix/client/v3/logout", Some(access_token), &json!({})).await.map(drop)
    }

    /// Who the homeserver says a token belongs to: the status and the body of its answer.
    ///
    /// # Errors
    ///
    /// The homeserver is down.
    pub async fn whoami(&self, access_token: &str) -> Result<(u16, Value), PeerError> {
        let url = format!("{}/_matrix/client/v3/account/whoami", self.base_url);
        let answer = self.client.get(url).bearer_auth(access_token).send().await?;
        Ok((answer.status().as_u16(), answer.json().await?))
    }

    /// An OpenID token, as an identity server wants it for an account: the whole answer.
    ///
    /// # Errors
    ///
    /// The homeserver refuses or is down.
    pub async fn openid_token(&self, user: &User) -> Result<Value, PeerError> {
        let user_id: String = url::form_urlencoded::byte_serialize(user.user_id.as_bytes()).collect();
        let path = format!("/_matrix/client/v3/user/{user_id}/openid/request_token");
        self.post(&path, Some(&user.access_token), &json!({})).await
    }

    /// Sends JSON to any path of the homeserver and gives the JSON of a 200.
    ///
    /// # Errors
    ///
    /// Any other status, quoted with its body; or the homeserver is down.
    pub async fn post(
        &self,
        path: &str,
        access_token: Option<&str>,
        body: &Value,
    ) -> Result<Value, PeerError> {
        self.ask(Method::POST, path, access_token, Some(body)).await
    }

    /// Sends JSON to any path of the homeserver by PUT and gives the JSON of a 200.
    ///
    /// # Errors
    ///
    /// Any other status, quoted with its body; or the homeserver is down.
    pub async fn put(
        &self,
        path: &str,
        access_token: Option<&str>,
        body: &Value,
    ) -> Result<Value, PeerError> {
        self.ask(Method::PUT, path, access_token, Some(body)).await
    }

    /// Reads any path of the homeserver and gives the JSON of a 200.
    ///
    /// # Errors
    ///
    /// Any other status, quoted with its body; or the homeserver is down.
    pub async fn get(&self, path: &str, access_token: Option<&str>) -> Result<Value, PeerError> {
        self.ask(Method::GET, path, access_token, None).await
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        access_token: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Value, PeerError> {
        let mut request = self.client.request(method, format!("{}{path}", self.base_url));
        if let Some(body) = body {
            request = request.json(body);
        }
        if let Some(token) = access_token {
            request = request.bearer_auth(token);
        }
        let answer = request.send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        if status != 200 {
            return Err(PeerError::new(format!("Synapse answered {status} to {path}: {text}")));
        }
        Ok(serde_json::from_str(&text)?)
    }

    async fn register_as(&self, name: &str, admin: bool) -> Result<User, PeerError> {
        let url = format!("{}/_synapse/admin/v1/register", self.base_url);
        let answer: Value = self.client.get(url).send().await?.json().await?;
        let nonce = answer["nonce"].as_str().ok_or_else(|| PeerError::new("Synapse gave no nonce"))?;
        let password = format!("password of {name}");
        let role = if admin { "admin" } else { "notadmin" };
        // The admin API wants exactly this: HMAC-SHA1 over the four, with a null byte between.
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, REGISTRATION_SECRET.as_bytes());
        let signed = [nonce, name, &password, role].join("\0");
        let mac: String =
            hmac::sign(&key, signed.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let body = json!({
            "nonce": nonce, "username": name, "password": password, "admin": admin, "mac": mac,
        });
        let answer = self.post("/_synapse/admin/v1/register", None, &body).await?;
        Ok(user(&answer, &password))
    }
}

fn user(answer: &Value, password: &str) -> User {
    let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
    kept::fields(answer);
    kept::secret("password", password);
    User {
        user_id: text("user_id"),
        access_token: text("access_token"),
        device_id: text("device_id"),
        password: password.to_owned(),
    }
}

async fn run(spec: Spec, home: &Path, client: &Client, base_url: &str) -> Result<Process, PeerError> {
    let mut process = Process::start(spec, home)?;
    let versions = format!("{base_url}/_matrix/client/versions");
    process
        .ready(|| async {
            match client.get(&versions).send().await {
                Ok(answer) if answer.status() == 200 => Ok(Some(())),
                _ => Ok(None),
            }
        })
        .await?;
    Ok(process)
}

fn settings(server_name: &str, port: u16, home: &Path) -> String {
    let never = "{ per_second: 100000, burst_count: 100000 }";
    let home = home.display();
    format!(
        r#"server_name: "{server_name}"
report_stats: false
listeners:
  - port: {port}
    type: http
    tls: false
    bind_addresses: ["127.0.0.1"]
    resources: [{{ names: [client, federation, keys] }}]
database: {{ name: sqlite3, args: {{ database: "{home}/homeserver.db" }} }}
media_store_path: "{home}/media"
signing_key_path: "{home}/signing.key"
trusted_key_servers: []
suppress_key_server_warning: true
registration_shared_secret: "{REGISTRATION_SECRET}"
macaroon_secret_key: "the stories sign with this"
form_secret: "the stories sign forms with this"
allow_guest_access: true
bcrypt_rounds: 4
ip_range_blacklist: []
ip_range_whitelist: ["127.0.0.0/8"]
rc_message: {never}
rc_registration: {never}
rc_admin_redaction: {never}
rc_3pid_validation: {never}
rc_login: {{ address: {never}, account: {never}, failed_attempts: {never} }}
"#
    )
}
