//! A real client: JavaScript on Node.js, with matrix-js-sdk at hand.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use super::ca::TestCa;
use super::process::{PeerError, repository, target_folder, temp_folder};

const SCRIPT_WITHIN: Duration = Duration::from_secs(60);

/// A script below `tests/peers/js`, ready to run.
#[derive(Debug)]
pub struct NodeScript {
    name: String,
    arguments: Vec<String>,
    environment: Vec<(String, std::ffi::OsString)>,
}

/// What a script left behind.
#[derive(Debug)]
pub struct ScriptOutput {
    /// Whether it ended with 0.
    pub success: bool,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl ScriptOutput {
    /// The last line of standard output as JSON: what a script says to a story.
    ///
    /// # Errors
    ///
    /// The script failed, or the line is not JSON; the error quotes both outputs.
    pub fn json(&self) -> Result<Value, PeerError> {
        let line = self.out.lines().next_back().unwrap_or_default();
        match serde_json::from_str(line) {
            Ok(value) if self.success => Ok(value),
            _ => Err(PeerError::new(format!("the script failed:\n{}\n{}", self.out, self.err))),
        }
    }
}

impl NodeScript {
    /// The script `tests/peers/js/{name}`. It imports `matrix-js-sdk` by name.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), arguments: Vec::new(), environment: Vec::new() }
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Trusts this authority beside the public ones.
    pub fn trust(mut self, ca: &TestCa) -> Self {
        self.environment.push(("NODE_EXTRA_CA_CERTS".to_owned(), ca.certificate().into_os_string()));
        self
    }

    /// Runs it to its end.
    ///
    /// # Errors
    ///
    /// Node.js or the client is not installed; it runs for more than a minute.
    pub async fn run(self) -> Result<ScriptOutput, PeerError> {
        let peers = target_folder().join("peers");
        let (node, js) = (peers.join("node/bin/node"), peers.join("js"));
        if !js.join("stamp").exists() || !node.exists() {
            return Err(PeerError::not_installed("matrix-js-sdk"));
        }
        // Node.js looks for packages upwards from the script, so the script runs beside them.
        let folder = temp_folder("node")?;
        let script = folder.path().join(&self.name);
        std::fs::copy(repository().join("tests/peers/js").join(&self.name), &script)?;
        std::os::unix::fs::symlink(js.join("node_modules"), folder.path().join("node_modules"))?;
        let child = tokio::process::Command::new(node)
            .arg(&script)
            .args(&self.arguments)
            .envs(self.environment)
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = tokio::time::timeout(SCRIPT_WITHIN, child.wait_with_output())
            .await
            .map_err(|_| PeerError::new(format!("{} ran for too long", self.name)))??;
        Ok(ScriptOutput {
            success: output.status.success(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}
