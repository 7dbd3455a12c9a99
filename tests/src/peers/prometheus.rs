//! A real Prometheus that scrapes and evaluates every second, and its checker of rules.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::process::{PeerError, Process, Spec, free_port, temp_folder};

/// A running Prometheus.
#[derive(Debug)]
pub struct Prometheus {
    base_url: String,
    client: reqwest::Client,
    _process: Process,
    _folder: TempDir,
}

impl Prometheus {
    /// Starts it on a free port, with these rules, to scrape `GET /metrics` of these jobs' targets (`host:port`), one
    /// each.
    ///
    /// # Errors
    ///
    /// It is not installed, or refuses the rules.
    pub async fn start(jobs: &[(&str, String)], rules: &str) -> Result<Self, PeerError> {
        let folder = temp_folder("prometheus")?;
        std::fs::write(folder.path().join("rules.yml"), rules)?;
        let mut config = String::from(
            "global: { scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }\n\
             rule_files: [rules.yml]\n\
             scrape_configs:\n",
        );
        for (job, target) in jobs {
            let _ =
                writeln!(config, "- {{ job_name: {job:?}, static_configs: [{{ targets: [{target:?}] }}] }}");
        }
        let file = folder.path().join("prometheus.yml");
        std::fs::write(&file, config)?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let spec = Spec::system("prometheus")?
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"));
        let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).build()?;
        let base_url = format!("http://{address}");
        let mut process = Process::start(spec, folder.path())?;
        let ready = format!("{base_url}/-/ready");
        process
            .ready(|| async {
                Ok(client.get(&ready).send().await.ok().filter(|answer| answer.status().is_success()))
            })
            .await?;
        Ok(Self { base_url, client, _process: process, _folder: folder })
    }

    async fn get(&self, path: &str) -> Result<Value, PeerError> {
        let answer = self.client.get(format!("{}{path}", self.base_url)).send().await?;
        let text = answer.text().await?;
        serde_json::from_str(&text).map_err(|error| PeerError::new(format!("{path}: {error}: {text}")))
    }

    /// What an expression comes to now: its series.
    ///
    /// # Errors
    ///
    /// It does not answer, or the expression is none.
    pub async fn query(&self, expression: &str) -> Result<Vec<Value>, PeerError> {
        let query = [("query", expression)];
        let answer = self.client.get(format!("{}/api/v1/query", self.base_url)).query(&query).send().await?;
        let answer: Value = answer.json().await?;
        match answer["data"]["result"].as_array() {
            Some(series) if answer["status"] == "success" => Ok(series.clone()),
            _ => Err(PeerError::new(format!("{expression}: {answer}"))),
        }
    }

    /// The labels of each alert that fires now.
    ///
    /// # Errors
    ///
    /// It does not answer.
    pub async fn firing(&self) -> Result<Vec<Value>, PeerError> {
        let answer = self.get("/api/v1/alerts").await?;
        let alerts = answer["data"]["alerts"].as_array().cloned().unwrap_or_default().into_iter();
        Ok(alerts.filter(|alert| alert["state"] == "firing").map(|alert| alert["labels"].clone()).collect())
    }

    /// What each target's last scrape came to: its address, `up`, `down` or `unknown`, and the error.
    ///
    /// # Errors
    ///
    /// It does not answer.
    pub async fn targets(&self) -> Result<Vec<(String, String, String)>, PeerError> {
        let answer = self.get("/api/v1/targets?state=active").await?;
        let targets = answer["data"]["activeTargets"].as_array().cloned().unwrap_or_default().into_iter();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let told = |target: Value| {
            (text(&target["labels"]["instance"]), text(&target["health"]), text(&target["lastError"]))
        };
        Ok(targets.map(told).collect())
    }
}

/// What `promtool check rules` says to a file.
///
/// # Errors
///
/// It is not installed, or the rules are not sound.
pub fn check_rules(file: &Path) -> Result<String, PeerError> {
    Spec::system("promtool")?.args(["check", "rules"]).arg(file).output()
}

/// What `promtool test rules` says to a file of tests.
///
/// # Errors
///
/// It is not installed, or a test fails.
pub fn test_rules(file: &Path) -> Result<String, PeerError> {
    Spec::system("promtool")?.args(["test", "rules"]).arg(file).output()
}
