//! A story that takes minutes to build and is therefore a recipe (`just matrix-rust-sdk`): matrix-rust-sdk lists,
//! requests, adds and deletes an address through nginx, beside Synapse, with password re-authentication.
//!
//! `sdk CLIENT`: the client is the program of `tests/matrix-rust-sdk`, a workspace of its own.
//!
//! Exit codes: 0 every step was as it has to be, 1 one was not.

use std::error::Error;
use std::io::Write as _;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use threepid_tests::peers::{Nginx, SmtpServer, Synapse, TestCa, front};
use threepid_tests::server::Server;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const EMAIL: &str = "alice@example.org";
/// How long a step of the client may take.
const STEP_WITHIN: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> ExitCode {
    match story().await {
        Ok(steps) => {
            say(format_args!("matrix-rust-sdk: {steps} steps were as they have to be"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(format_args!("matrix-rust-sdk: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// What every step has to say.
fn expected() -> [(&'static str, Value); 8] {
    let asked = |errcode: Option<&str>| json!({ "flows": [["m.login.password"]], "errcode": errcode });
    [
        ("list", json!([])),
        ("challenge", asked(None)),
        ("wrong password", asked(Some("M_FORBIDDEN"))),
        ("add", json!("added")),
        ("list", json!([["email", EMAIL]])),
        ("request again", json!("M_THREEPID_IN_USE")),
        ("delete", json!("no-support")),
        ("list", json!([])),
    ]
}

async fn story() -> Outcome<usize> {
    let client = std::env::args_os().nth(1).ok_or("usage: sdk CLIENT")?;
    let ca = TestCa::new()?;
    let homeserver = Synapse::start().await?;
    let smtp = SmtpServer::start().await?;
    let server = Server::builder().mail_to(&smtp).homeserver(homeserver.base_url());
    let server = server.text("deprecated_add", "off").start().await?;
    let locations = front(server.base_url(), homeserver.base_url());
    let front = Nginx::start(&ca, None, &["127.0.0.1"], &locations).await?;
    let alice = homeserver.register("alice").await?;

    let mut program = Command::new(client)
        .args([front.base_url(), ca.certificate().display().to_string(), alice.user_id.clone()])
        .arg(EMAIL)
        .env("THREEPID_PASSWORD", &alice.password)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut stdin = program.stdin.take().ok_or("no way to talk to the client")?;
    let mut lines = BufReader::new(program.stdout.take().ok_or("the client says nothing")?).lines();
    let mut expected = expected().into_iter();
    let mut steps = 0;
    while let Some(line) = tokio::time::timeout(STEP_WITHIN, lines.next_line()).await?? {
        say(format_args!("{line}"));
        steps += 1;
        let said: Value = serde_json::from_str(&line)?;
        if said["step"] == "request" {
            let mail = smtp.wait_for_mail_to(EMAIL).await?;
            let pressed = server.confirm(&mail.confirm_link()?).await?;
            if pressed.status != 200 || !said["what"]["submit_url"].is_null() {
                return Err(format!("{said}, and the button was answered {pressed:?}").into());
            }
            stdin.write_all(b"pressed\n").await?;
            continue;
        }
        let (step, what) = expected.next().ok_or("the client goes on after its last step")?;
        if (said["step"].as_str(), &said["what"]) != (Some(step), &what) {
            return Err(format!("expected {step}: {what}").into());
        }
    }
    if let Some((step, _)) = expected.next() {
        return Err(format!("the client ended before the step {step}").into());
    }
    let status = program.wait().await?;
    if !status.success() {
        return Err(format!("the client ended with {status}").into());
    }
    server.end().await?;
    Ok(steps)
}

fn say(line: std::fmt::Arguments<'_>) {
    // Nobody is left to tell if standard output is gone.
    let _ = writeln!(std::io::stdout(), "{line}");
}
