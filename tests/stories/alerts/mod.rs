//! Every alert fires: the real program is brought into the state that each alert is about, and a real Prometheus with
//! the shipped rules has to say so.
//!
//! The rules are the file that operators load; only the times are shortened, see [`shortened`], so that a state of
//! minutes is one of seconds; and each has to fire in its state, see [`FIRES_IN`]. What fired when is left in `target/test-artifacts/alerts.txt`; `just alerts` shows it.

mod states;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use regex::Regex;
use threepid_tests::peers::{Prometheus, artifacts, repository};

use crate::Story;

/// What goes wrong here is told, and nothing is told apart.
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The state that each alert is about: it has to fire there, whatever it says of the others. States are Prometheus' jobs.
const FIRES_IN: [(&str, &str); 17] = [
    ("ThreepidDown", "nobody listens"),
    ("ThreepidErrors", "the homeserver is down"),
    ("ThreepidSlow", "the homeserver takes 2 s"),
    ("ThreepidConnectionsExhausted", "silent connections"),
    ("ThreepidPanic", "a part of an embedder's breaks"),
    ("ThreepidMailDead", "the mail server says 550"),
    ("ThreepidMailExpired", "the mail server says 451, and links last 1 s"),
    ("ThreepidMailStuck", "the mail server says 451"),
    ("ThreepidMessageDead", "the identity server refuses"),
    ("ThreepidUnbindStuck", "the identity server is down"),
    ("ThreepidMirrorStuck", "the mirror is down"),
    ("ThreepidHomeserverDown", "the homeserver is down"),
    ("ThreepidIdentityServerDown", "the identity server is down"),
    ("ThreepidDatabaseDown", "the database is locked"),
    ("ThreepidDatabaseBusy", "the database is locked"),
    ("ThreepidLimitRefusals", "one client asks too often"),
    ("ThreepidSessionsBurnt", "tokens are guessed"),
];

/// Everything fires within this, or does not.
const WITHIN: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_alert_fires_once_the_program_is_in_the_state_that_it_is_about() -> Story {
    let shipped = std::fs::read_to_string(repository().join("docs/operating/prometheus/threepid.rules.yml"))?;
    let names = Regex::new(r"alert: (\w+)")?;
    let shipped_names: BTreeSet<&str> =
        names.captures_iter(&shipped).filter_map(|found| Some(found.get(1)?.as_str())).collect();
    let mut waited_for = BTreeMap::from(FIRES_IN);
    assert_eq!(waited_for.keys().copied().collect::<BTreeSet<_>>(), shipped_names, "no state, or no alert");
    let states = states::bring_about().await?;
    let jobs: Vec<_> = states.iter().map(|state| (state.name, state.target.clone())).collect();
    let prometheus = Prometheus::start(&jobs, &shortened(&shipped)?).await?;
    let (begun, total) = (Instant::now(), waited_for.len());
    let mut table = format!("{total} alerts, {} targets of a real Prometheus\n", jobs.len());
    let mut elsewhere: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    while !waited_for.is_empty() && begun.elapsed() < WITHIN {
        tokio::time::sleep(Duration::from_millis(200)).await;
        for labels in prometheus.firing().await? {
            let label = |name: &str| labels[name].as_str().unwrap_or_default();
            let (name, state) = (label("alertname"), label("job"));
            if waited_for.get(name) == Some(&state) {
                waited_for.remove(name);
                let seconds = begun.elapsed().as_secs_f64();
                writeln!(table, "fired after {seconds:>5.1} s  {name:<28} {state}")?;
            } else if !FIRES_IN.contains(&(name, state)) {
                elsewhere.entry(name.to_owned()).or_default().insert(state.to_owned());
            }
        }
    }
    for (name, states) in &elsewhere {
        writeln!(table, "fired elsewhere, too {name:<28} {states:?}")?;
    }
    for (name, state) in &waited_for {
        writeln!(table, "did not fire         {name:<28} {state}")?;
    }
    writeln!(table, "{} of {total} alerts fired in their states", total - waited_for.len())?;
    std::fs::write(artifacts()?.join("alerts.txt"), &table)?;
    assert!(waited_for.is_empty(), "{table}");
    Ok(())
}

/// The rules with every window of 20 s, every wait of 1 s, and what is minutes or tens in thresholds at seconds or one.
fn shortened(rules: &str) -> Outcome<String> {
    let mut rules = rules.to_owned();
    for (pattern, instead) in [
        // A state is a job here.
        (r#"job="threepid""#, r#"job=~".+""#),
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
