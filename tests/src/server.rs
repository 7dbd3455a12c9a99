//! The server under test: the built program with a settings file, a database of its own and a free port, and the
//! requests that its clients make.
//!
//! Four things hold in every story, so they are watched here and nowhere else: no answer is a 500, every answer of
//! the API is JSON with CORS headers, it has the shape that the specification gives it, and nothing secret that went
//! through these requests stands in the log.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{Client, Method, RequestBuilder, redirect};
use serde_json::{Value, json};
use tempfile::TempDir;
use url::{Url, form_urlencoded};

use crate::peers::{
    PeerError, Program, SmsGateway, SmtpServer, free_port, server_program, temp_folder, wait_until,
};
use crate::{kept, schemas};

/// The list of an account's contacts, and where they are added.
pub const THREEPIDS: &str = "/_matrix/client/v3/account/3pid";
/// Where a mail is asked for.
pub const REQUEST_TOKEN: &str = "/_matrix/client/v3/account/3pid/email/requestToken";
/// Where an SMS is asked for.
pub const REQUEST_CODE: &str = "/_matrix/client/v3/account/3pid/msisdn/requestToken";
/// Where a client gives a token or a code back.
pub const SUBMIT_TOKEN: &str = "/_threepid/submit_token";
/// Where the link in a mail leads.
pub const CONFIRM: &str = "/_threepid/confirm";

/// How long the log may take to say something.
const SAID_WITHIN: Duration = Duration::from_secs(30);
/// What is shorter stands in a log by chance.
const SHORTEST_SECRET: usize = 8;

/// Settings of a server, by their full names. Unless set otherwise: accounts of its own, no mail, limits that
/// nobody meets, quick retries, and a log at level `debug`.
#[derive(Debug)]
pub struct ServerBuilder {
    settings: BTreeMap<String, String>,
}

impl ServerBuilder {
    /// Gives a setting a value, written as in TOML: `set("mail.smtp.port", 25)`.
    pub fn set(mut self, name: &str, toml: impl std::fmt::Display) -> Self {
        self.settings.insert(name.to_owned(), toml.to_string());
        self
    }

    /// Gives a setting a text: `text("relay.first_retry", "1s")`.
    pub fn text(self, name: &str, text: &str) -> Self {
        // JSON's strings are strings of TOML.
        self.set(name, Value::from(text))
    }

    /// Sends mail to this server: plain text, no login, unless more is set.
    pub fn mail_to(self, smtp: &SmtpServer) -> Self {
        self.text("mail.transport", "smtp")
            .text("mail.smtp.security", "none")
            .text("mail.smtp.host", "127.0.0.1")
            .set("mail.smtp.port", smtp.port())
    }

    /// Sends SMS to this gateway, in JSON; a try lasts 2 s at most, unless more is set.
    pub fn sms_to(self, gateway: &SmsGateway) -> Self {
        self.text("sms.transport", "http")
            .text("sms.http.url", gateway.url())
            .set("sms.http.headers", "{ Content-Type = \"application/json\" }")
            .text(
                "sms.http.body",
                r#"{"to": {{ to_plus | tojson }}, "text": {{ text | tojson }}, "id": {{ id | tojson }}}"#,
            )
            .text("sms.http.sent_if", r#""status": *"accepted""#)
            .text("sms.http.timeout", "2s")
    }

    /// Asks this homeserver whose tokens are.
    pub fn homeserver(self, base_url: &str) -> Self {
        self.text("accounts", "homeserver").text("homeserver.base_url", base_url)
    }

    /// Writes the settings and starts nothing yet.
    ///
    /// # Errors
    ///
    /// The files cannot be written.
    pub fn prepare(self) -> Result<Server, PeerError> {
        let folder = temp_folder("server")?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let base_url = format!("http://{address}");
        let database = folder.path().join("threepid.db");
        let mut settings: BTreeMap<String, String> = [
            ("public_base_url", base_url.as_str()),
            ("listen", &address),
            ("accounts", "local"),
            ("database.url", &format!("sqlite://{}", database.display())),
            ("mail.transport", "none"),
            ("mail.from", "Example <noreply@example.org>"),
            ("relay.first_retry", "50ms"),
            ("relay.longest_retry", "200ms"),
            ("log.level", "debug"),
        ]
        .map(|(name, text)| (name.to_owned(), Value::from(text).to_string()))
        .into();
        for limit in ["mails_per_hour", "sms_per_hour"] {
            settings.insert(format!("limits.{limit}"), "0".to_owned());
        }
        for limit in [
            "request_token_per_client",
            "request_token_per_address",
            "submit_per_client",
            "codes_per_address",
            "failed_tokens_per_client",
        ] {
            settings.insert(format!("limits.{limit}.per_second"), "1000.0".to_owned());
            settings.insert(format!("limits.{limit}.burst"), "100000".to_owned());
        }
        settings.extend(self.settings);
        // Passwords, tokens and keys that the settings give; a `*_file` is only where one is.
        for (name, value) in &settings {
            if let (Some("password" | "token" | "value"), Ok(Value::String(secret))) =
                (name.rsplit('.').next(), serde_json::from_str(value))
            {
                kept::secret(name, &secret);
            }
        }
        let lines: String = settings.iter().map(|(name, value)| format!("{name} = {value}\n")).collect();
        let config = folder.path().join("threepid.toml");
        std::fs::write(&config, lines)?;
        let client = Client::builder().redirect(redirect::Policy::none()).build()?;
        Ok(Server {
            program: None,
            earlier_log: String::new(),
            base_url,
            config,
            client,
            secrets: Mutex::default(),
            codes: Mutex::default(),
            folder,
        })
    }

    /// Starts the server and waits until it is ready.
    ///
    /// # Errors
    ///
    /// It is not built, or does not start.
    pub async fn start(self) -> Result<Server, PeerError> {
        let mut server = self.prepare()?;
        server.launch().await?;
        Ok(server)
    }
}

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub text: String,
}

impl Answer {
    /// The body as JSON; `null` where it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }

    /// The status and the Matrix error code, empty where there is none.
    pub fn error(&self) -> (u16, String) {
        (self.status, self.json()["errcode"].as_str().unwrap_or_default().to_owned())
    }

    /// A header, empty where it is missing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The session that requestToken opened.
    ///
    /// # Errors
    ///
    /// It opened none; the error quotes the answer.
    pub fn sid(&self) -> Result<String, PeerError> {
        let body = self.json();
        let sid = body["sid"].as_str().filter(|_| self.status == 200);
        sid.map(str::to_owned).ok_or_else(|| PeerError::new(format!("no sid in {self:?}")))
    }

    /// The contacts of a list, without their times.
    pub fn addresses(&self) -> Vec<String> {
        let body = self.json();
        let threepids = body["threepids"].as_array().into_iter().flatten();
        threepids.filter_map(|threepid| threepid["address"].as_str()).map(str::to_owned).collect()
    }
}

/// The server. Dropping it kills it; [`Server::end`] stops it as an operator would and looks through its log.
#[derive(Debug)]
pub struct Server {
    program: Option<Program>,
    /// What earlier runs said.
    earlier_log: String,
    base_url: String,
    config: PathBuf,
    client: Client,
    secrets: Mutex<BTreeSet<String>>,
    codes: Mutex<BTreeSet<String>>,
    folder: TempDir,
}

impl Server {
    /// A server that is about to start.
    pub fn builder() -> ServerBuilder {
        ServerBuilder { settings: BTreeMap::new() }
    }

    /// `http://127.0.0.1:{port}`, without a slash at the end.
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// The settings file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Where the settings, the database (`threepid.db`) and the key (`threepid.key`) are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts the program (again), on the same port and database, and waits until it is ready.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub async fn launch(&mut self) -> Result<(), PeerError> {
        let program = Program::start(&["--config", &self.config.to_string_lossy(), "serve"], &[])?;
        let ready = self.url("/health/ready");
        self.program.insert(program).ready_at(&ready).await
    }

    /// [`Server::launch`] where the program may open `soft` files, and may raise that to `hard`.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub async fn launch_with_open_files(&mut self, soft: u32, hard: u32) -> Result<(), PeerError> {
        let arguments = ["--config", &self.config.to_string_lossy(), "serve"];
        let program = Program::start_with_open_files(soft, hard, &arguments)?;
        let ready = self.url("/health/ready");
        self.program.insert(program).ready_at(&ready).await
    }

    /// The memory that the program holds now, in KiB; `None` if it does not run.
    pub fn memory(&self) -> Option<u64> {
        self.program.as_ref()?.memory()
    }

    /// The part of [`Server::memory`] that is mapped from files, such as the program's code, in KiB.
    pub fn mapped_memory(&self) -> Option<u64> {
        self.program.as_ref()?.mapped_memory()
    }

    /// The most memory that the program has held, in KiB; `None` if it does not run.
    pub fn peak_memory(&self) -> Option<u64> {
        self.program.as_ref()?.peak_memory()
    }

    /// Runs a command of the program on the same settings, and gives its exit status and all that it said.
    ///
    /// # Errors
    ///
    /// It does not start, or does not end.
    pub async fn run(&self, arguments: &[&str]) -> Result<(i32, String), PeerError> {
        self.run_with(arguments, &[]).await
    }

    /// [`Server::run`] with environment variables, which are stronger than the settings file.
    ///
    /// # Errors
    ///
    /// It does not start, or does not end.
    pub async fn run_with(
        &self,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<(i32, String), PeerError> {
        let config = self.config.to_string_lossy();
        let mut program = Program::start(&[&["--config", &config], arguments].concat(), variables)?;
        let status = program.ended().await?;
        Ok((status, program.said()?))
    }

    /// [`Server::run`] on a disk that is full once a file reaches so many KiB.
    ///
    /// # Errors
    ///
    /// It does not start, or does not end.
    pub async fn run_on_a_full_disk(
        &self,
        kibibytes: u32,
        arguments: &[&str],
    ) -> Result<(i32, String), PeerError> {
        // The limit is counted in blocks of 512 bytes; a write beyond it fails instead of ending the process.
        let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$@\"", kibibytes * 2);
        let (program, config) = (server_program()?, self.config.to_string_lossy());
        let limited = ["-c", &script, "sh", &program.to_string_lossy(), "--config", &config];
        let mut program = Program::start_with("/bin/sh".into(), &[&limited, arguments].concat(), &[])?;
        let status = program.ended().await?;
        Ok((status, program.said()?))
    }

    /// A new access token of an account of the server's own, which is added where it is missing.
    ///
    /// # Errors
    ///
    /// The program refuses.
    pub async fn account(&self, user_id: &str) -> Result<String, PeerError> {
        self.run(&["account", "add", user_id]).await?;
        let (status, said) = self.run(&["account", "token", user_id]).await?;
        let token = said.lines().last().filter(|_| status == 0);
        let token =
            token.ok_or_else(|| PeerError::new(format!("account token ended with {status}: {said}")))?;
        self.keep_secret(token);
        Ok(token.to_owned())
    }

    /// Everything that the program has said so far, in all its runs.
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub fn log(&self) -> Result<String, PeerError> {
        let now = self.program.as_ref().map(Program::said).transpose()?;
        Ok(format!("{}{}", self.earlier_log, now.unwrap_or_default()))
    }

    /// Waits until a line of the log holds all of `parts`, and gives that line.
    ///
    /// # Errors
    ///
    /// There was none for 30 s.
    pub async fn wait_for_log(&self, parts: &[&str]) -> Result<String, PeerError> {
        wait_until(&format!("a line of log with {parts:?}"), SAID_WITHIN, || async {
            let log = self.log()?;
            let found = log.lines().find(|line| parts.iter().all(|part| line.contains(part)));
            Ok(found.map(str::to_owned))
        })
        .await
    }

    /// Ends the program at once, as a power cut would (SIGKILL). Its log stays.
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub fn kill(&mut self) -> Result<(), PeerError> {
        self.earlier_log = self.log()?;
        self.program = None;
        Ok(())
    }

    /// Asks the program to end (SIGTERM) and does not wait for it.
    pub fn ask_to_end(&self) {
        if let Some(program) = &self.program {
            program.ask_to_end();
        }
    }

    /// Asks the program to end and gives its exit status.
    ///
    /// # Errors
    ///
    /// It is not running, or does not end.
    pub async fn terminate(&mut self) -> Result<i32, PeerError> {
        match &mut self.program {
            Some(program) => program.terminate().await,
            None => Err(PeerError::new("threepid is not running")),
        }
    }

    /// Stops the server and looks through its log.
    ///
    /// # Errors
    ///
    /// It did not stop cleanly, something panicked, or a secret stands in the log.
    pub async fn end(mut self) -> Result<(), PeerError> {
        let status = self.terminate().await?;
        let log = self.log()?;
        let folded = log.to_lowercase();
        let secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        let leaked = secrets.iter().find(|secret| folded.contains(&secret.to_lowercase()));
        if let Some(secret) = leaked {
            let lines = log.lines().filter(|line| line.to_lowercase().contains(&secret.to_lowercase()));
            let lines: Vec<&str> = lines.collect();
            return Err(PeerError::new(format!("{secret:?} is in the log: {lines:#?}")));
        }
        let codes = self.codes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut words = log.lines().flat_map(|line| words(line).map(move |word| (word, line)));
        if let Some((code, line)) = words.find(|(word, _)| codes.contains(*word)) {
            return Err(PeerError::new(format!("the code {code} is in the log: {line}")));
        }
        match (status, log.contains("panicked")) {
            (0, false) => Ok(()),
            _ => Err(PeerError::new(format!("threepid ended with {status}; its log:\n{log}"))),
        }
    }

    /// From now on this must not stand in the log. The requests below say so themselves of what they send.
    pub fn keep_secret(&self, secret: &str) {
        kept::secret("secret", secret);
        self.watch_for(secret);
    }

    /// From now on this must not stand in this server's log, whatever stands in those of others.
    pub fn watch_for(&self, secret: &str) {
        if secret.len() >= SHORTEST_SECRET {
            self.secrets.lock().unwrap_or_else(PoisonError::into_inner).insert(secret.to_owned());
        }
    }

    /// From now on this code must not stand in the log as a word of its own. Other digits may hold it by chance.
    pub fn keep_code(&self, code: &str) {
        self.codes.lock().unwrap_or_else(PoisonError::into_inner).insert(code.to_owned());
    }

    /// Waits for an SMS to that number, digits without a plus, and gives the code in it.
    ///
    /// # Errors
    ///
    /// None came within 30 s, or there is no code in it.
    pub async fn code_at(&self, gateway: &SmsGateway, number: &str) -> Result<String, PeerError> {
        let code = gateway.wait_for_sms_to(number).await?.code()?;
        self.keep_code(&code);
        Ok(code)
    }

    /// Asks for a mail.
    ///
    /// # Errors
    ///
    /// [`Server::send`] tells them.
    pub async fn request_token(
        &self,
        email: &str,
        client_secret: &str,
        send_attempt: u64,
    ) -> Result<Answer, PeerError> {
        self.keep_secret(email);
        self.keep_secret(client_secret);
        let body = json!({ "client_secret": client_secret, "email": email, "send_attempt": send_attempt });
        self.post(REQUEST_TOKEN, None, &body).await
    }

    /// Asks for an SMS to a number as it is dialled in `country`.
    ///
    /// # Errors
    ///
    /// [`Server::send`] tells them.
    pub async fn request_code(
        &self,
        country: &str,
        phone_number: &str,
        client_secret: &str,
        send_attempt: u64,
    ) -> Result<Answer, PeerError> {
        self.keep_secret(phone_number);
        self.keep_secret(client_secret);
        let body = json!({
            "client_secret": client_secret, "country": country, "phone_number": phone_number,
            "send_attempt": send_attempt,
        });
        self.post(REQUEST_CODE, None, &body).await
    }

    /// Gives a token or a code back, as a client does.
    ///
    /// # Errors
    ///
    /// [`Server::send`] tells them.
    pub async fn submit(&self, sid: &str, client_secret: &str, token: &str) -> Result<Answer, PeerError> {
        self.keep_secret(client_secret);
        self.keep_secret(token);
        let body = json!({ "sid": sid, "client_secret": client_secret, "token": token });
        self.post(SUBMIT_TOKEN, None, &body).await
    }

    /// Presses the button of the page that a link leads to.
    ///
    /// # Errors
    ///
    /// [`Server::send`] tells them.
    pub async fn confirm(&self, link: &str) -> Result<Answer, PeerError> {
        let (page, form) = link.split_once('?').unwrap_or((link, ""));
        self.keep_secret(&link_part(link, "token")?);
        let request = self.client.post(page).header("content-type", "application/x-www-form-urlencoded");
        self.send(request.body(form.to_owned())).await
    }

    /// Enters a code on the page, and presses its button.
    ///
    /// # Errors
    ///
    /// [`Server::send`] tells them.
    pub async fn enter_code(&self, sid: &str, code: &str) -> Result<Answer, PeerError> {
        let form = form_urlencoded::Serializer::new(String::new())
            .extend_pairs([("sid", sid), ("code", code)])
            .finish();
        let request = self.request(Method::POST, CONFIRM, None);
        self.send(request.header("content-type", "application/x-www-form-urlencoded").body(form)).await
    }

    /// Adds a proven address to an account.
    ///
    /// # Errors
    ///
    /// [`Server::send`] tells them.
    pub async fn add(&self, access_token: &str, sid: &str, client_secret: &str) -> Result<Answer, PeerError> {
        self.keep_secret(client_secret);
        let body = json!({ "three_pid_creds": { "client_secret": client_secret, "sid": sid } });
        self.post(THREEPIDS, Some(access_token), &body).await
    }

    /// Lists an account's contacts.
    ///
    /// # Errors
    ///
    /// [`Server::send`] tells them.
    pub async fn list(&self, access_token: &str) -> Result<Answer, PeerError> {
        self.get(THREEPIDS, Some(access_token)).await
    }

    /// Asks for a mail, takes the link out of it and confirms; gives the session.
    ///
    /// # Errors
    ///
    /// A step is refused, or the mail does not come.
    pub async fn prove(
        &self,
        smtp: &SmtpServer,
        email: &str,
        client_secret: &str,
    ) -> Result<String, PeerError> {
        let sid = self.request_token(email, client_secret, 1).await?.sid()?;
        let marker = format!("sid={sid}&");
        let belongs = |text: &str| text.contains(&marker);
        let mail = smtp.wait_for_mail(|mail| mail.text.as_deref().is_some_and(belongs)).await?;
        let confirmed = self.confirm(&mail.confirm_link()?).await?;
        match confirmed.status {
            200 => Ok(sid),
            _ => Err(PeerError::new(format!("not confirmed: {confirmed:?}"))),
        }
    }

    /// A GET of a path, or of a whole link.
    ///
    /// # Errors
    ///
    /// [`Server::send`] tells them.
    pub async fn get(&self, to: &str, access_token: Option<&str>) -> Result<Answer, PeerError> {
        self.send(self.request(Method::GET, to, access_token)).await
    }

    /// A POST of JSON to a path.
    ///
    /// # Errors
    ///
    /// [`Server::send`] tells them.
    pub async fn post(
        &self,
        to: &str,
        access_token: Option<&str>,
        body: &Value,
    ) -> Result<Answer, PeerError> {
        self.send(self.request(Method::POST, to, access_token).json(body)).await
    }

    /// A request that is not sent yet, to a path or a whole link.
    pub fn request(&self, method: Method, to: &str, access_token: Option<&str>) -> RequestBuilder {
        let request = self.client.request(method, self.url(to));
        match access_token {
            Some(token) => {
                self.keep_secret(token);
                request.bearer_auth(token)
            }
            None => request,
        }
    }

    /// Sends a request and reads its answer. Redirects are not followed.
    ///
    /// # Errors
    ///
    /// There is no answer, it is a 500, or one of the API that is no JSON, has no CORS headers, or has another shape
    /// than the specification gives it.
    pub async fn send(&self, request: RequestBuilder) -> Result<Answer, PeerError> {
        let request = request.build()?;
        kept::request(&request);
        let (method, path) = (request.method().clone(), request.url().path().to_owned());
        let has_no_body = matches!(method, Method::HEAD | Method::OPTIONS);
        let is_api = path.starts_with("/_matrix/") || path == SUBMIT_TOKEN;
        let response = self.client.execute(request).await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let answer = Answer { status, headers, text: response.text().await? };
        let has_cors = answer.header("access-control-allow-origin") == "*";
        let is_json = answer.header("content-type") == "application/json" && answer.json().is_object();
        if answer.status == 500 || (is_api && !(has_cors && (is_json || has_no_body))) {
            return Err(PeerError::new(format!("{path} must not be answered like this: {answer:?}")));
        }
        for number in ["msisdn", "intl_fmt"] {
            self.keep_secret(answer.json()[number].as_str().unwrap_or_default());
        }
        if is_api && !has_no_body {
            kept::fields(&answer.json());
            schemas::check(&method, &path, status, &answer.json())?;
        }
        Ok(answer)
    }

    /// A path of this server as an address; a whole link stays as it is.
    pub fn url(&self, to: &str) -> String {
        if to.starts_with('/') { format!("{}{to}", self.base_url) } else { to.to_owned() }
    }
}

/// The runs of letters and digits in a line. A fraction of a second belongs to its number.
fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '.').map(|word| word.trim_matches('.'))
}

/// A parameter of a link's query, such as `sid` or `token`.
///
/// # Errors
///
/// The link has none of that name.
pub fn link_part(link: &str, name: &str) -> Result<String, PeerError> {
    let url = Url::parse(link).map_err(|error| PeerError::new(format!("{link}: {error}")))?;
    let value = url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
    value.ok_or_else(|| PeerError::new(format!("no {name} in {link}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_found_as_a_word_and_not_within_a_number_a_time_or_a_name() {
        let has = |line: &str| words(line).any(|word| word == "482913");
        for line in
            ["482913", "code=482913", r#"{"token":"482913"}"#, "sid=a&code=482913 HTTP", "it is 482913."]
        {
            assert!(has(line), "{line}");
        }
        for line in ["0.482913", "12:00:00.482913Z", "sid=a482913", "1482913", "48291", ""] {
            assert!(!has(line), "{line}");
        }
    }
}
