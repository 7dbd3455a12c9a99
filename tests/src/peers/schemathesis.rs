//! schemathesis: requests made up from an OpenAPI document, and answers held against it.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use super::process::{PeerError, repository, target_folder, temp_folder};

/// How long a run may take at most. It is bounded by its count of requests; this is for one that hangs.
const ENDS_WITHIN: Duration = Duration::from_secs(480);

/// A run that is about to start.
#[derive(Debug)]
pub struct Schemathesis {
    base_url: String,
    document: Value,
    arguments: Vec<String>,
}

/// What a run has found.
#[derive(Debug)]
pub struct Findings {
    /// How many operations were asked.
    pub operations: u64,
    /// How many requests were made up and sent.
    pub cases: u64,
    /// Whether every answer was as the document says.
    pub success: bool,
    /// What it printed.
    pub said: String,
}

impl Schemathesis {
    /// Asks the server at `base_url` what `document` describes, under `tests/peers/schemathesis.toml`.
    pub fn new(base_url: &str, document: Value) -> Self {
        Self { base_url: base_url.to_owned(), document, arguments: Vec::new() }
    }

    /// Shows this access token wherever the document asks for one.
    pub fn token(self, token: &str) -> Self {
        self.arg("--header").arg(&format!("Authorization: Bearer {token}"))
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Runs it to its end.
    ///
    /// # Errors
    ///
    /// It is not installed, runs for too long, or leaves no report.
    pub async fn run(self) -> Result<Findings, PeerError> {
        let home = target_folder().join("peers/schemathesis");
        if !home.join("stamp").exists() {
            return Err(PeerError::not_installed("schemathesis"));
        }
        let folder = temp_folder("schemathesis")?;
        std::fs::write(folder.path().join("openapi.json"), self.document.to_string())?;
        std::fs::copy(
            repository().join("tests/peers/schemathesis.toml"),
            folder.path().join("schemathesis.toml"),
        )?;
        // By its interpreter, since the script names the folder that it was installed in.
        let child = tokio::process::Command::new(home.join("bin/python"))
            .arg(home.join("bin/st"))
            .args(["--no-color", "run", "openapi.json", "--url", &self.base_url])
            .args(["--report", "json", "--report-json-path", "report.json"])
            .args(&self.arguments)
            .current_dir(folder.path())
            .env("TMPDIR", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = tokio::time::timeout(ENDS_WITHIN, child.wait_with_output())
            .await
            .map_err(|_| PeerError::new("schemathesis ran for too long"))??;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
        let report = std::fs::read(folder.path().join("report.json"));
        let report = report.map_err(|error| PeerError::new(format!("no report ({error}): {said}")))?;
        let report: Value = serde_json::from_slice(&report)?;
        let count = |pointer| report.pointer(pointer).and_then(Value::as_u64).unwrap_or_default();
        Ok(Findings {
            operations: count("/operations/tested"),
            cases: count("/test_cases/generated"),
            success: output.status.success(),
            said,
        })
    }
}
