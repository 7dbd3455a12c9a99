//! Every alert fires: the real program is brought into the state that each alert is about, and a real Prometheus with
//! the shipped rules has to say so.
//!
//! The rules are the file that operators load; only the times are shortened, see [`shortened`], so that a state of
//! minutes is one of seconds. What fired when is left in `target/test-artifacts/alerts.txt`; `just alerts` shows it.

mod states;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use regex::Regex;
use threepid_tests::peers::{Prometheus, artifacts, repository};

use crate::Story;

/// What goes wrong here is told, and nothing is told apart.
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Everything fires within this, or does not.
const WITHIN: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_alert_fires_once_the_program_is_in_the_state_that_it_is_about() -> Story {
    let shipped = std::fs::read_to_string(repository().join("docs/operating/prometheus/threepid.rules.yml"))?;
    let names = Regex::new(r"alert: (\w+)")?;
    let mut waited_for: Vec<&str> =
        names.captures_iter(&shipped).filter_map(|found| Some(found.get(1)?.as_str())).collect();
    let states = states::bring_about().await?;
    let targets: Vec<String> = states.iter().map(|state| state.target.clone()).collect();
    let by_target: BTreeMap<&str, &str> =
        states.iter().map(|state| (state.target.as_str(), state.name)).collect();
    let prometheus = Prometheus::start(&targets, &shortened(&shipped)?).await?;
    let (begun, total) = (Instant::now(), waited_for.len());
    let mut table = format!("{total} alerts, {} targets of a real Prometheus\n", targets.len());
    while !waited_for.is_empty() && begun.elapsed() < WITHIN {
        tokio::time::sleep(Duration::from_millis(200)).await;
        for labels in prometheus.firing().await? {
            let name = labels["alertname"].as_str().unwrap_or_default();
            let Some(at) = waited_for.iter().position(|waited_for| *waited_for == name) else { continue };
            waited_for.swap_remove(at);
            let instance = labels["instance"].as_str().unwrap_or_default();
            let state = by_target.get(instance).copied().unwrap_or("over all instances");
            let seconds = begun.elapsed().as_secs_f64();
            writeln!(table, "fired after {seconds:>5.1} s  {name:<28} {state}")?;
        }
    }
    for name in &waited_for {
        writeln!(table, "did not fire         {name}")?;
    }
    writeln!(table, "{} of {total} alerts fired", total - waited_for.len())?;
    std::fs::write(artifacts()?.join("alerts.txt"), &table)?;
    assert!(waited_for.is_empty(), "{table}");
    Ok(())
}

/// The rules with every window of 20 s, every wait of 1 s, and what is minutes or tens in thresholds at seconds or one.
fn shortened(rules: &str) -> Outcome<String> {
    let mut rules = rules.to_owned();
    for (pattern, instead) in [
        (r"\[\d+[mh]\]", "[20s]"),
        (r"for: \d+m", "for: 1s"),
        (r"(?m)> (300|900|3600)$", "> 2"),
        (r"(?m)> 20$", "> 0"),
        (r"(?m)> 5$", "> 1"),
    ] {
        let pattern = Regex::new(pattern)?;
        if !pattern.is_match(&rules) {
            return Err(format!("nothing in the rules looks like {pattern}").into());
        }
        rules = pattern.replace_all(&rules, instead).into_owned();
    }
    Ok(rules)
}
