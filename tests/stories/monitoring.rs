//! What an operator watches: metrics of the running program, alerts on them, and the dashboard.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use regex::Regex;
use serde_json::{Value, json};
use threepid_tests::peers::{
    Prometheus, SmtpServer, check_rules, free_port, repository, test_rules, wait_until,
};
use threepid_tests::server::{Server, THREEPIDS};

use crate::Story;

fn operating(file: &str) -> PathBuf {
    repository().join("docs/operating").join(file)
}

fn read(file: &str) -> Result<String, std::io::Error> {
    std::fs::read_to_string(operating(file))
}

#[tokio::test]
async fn the_alert_rules_are_sound_and_say_what_they_should() -> Story {
    let said = check_rules(&operating("prometheus/threepid.rules.yml"))?;
    assert!(said.contains("SUCCESS"), "{said}");
    let said = test_rules(&operating("prometheus/threepid.rules.test.yml"))?;
    assert!(said.contains("SUCCESS"), "{said}");
    Ok(())
}

#[tokio::test]
async fn each_alert_is_tested_and_has_a_section_on_what_to_do() -> Story {
    let name = Regex::new(r"alert: (\w+)")?;
    let rules = read("prometheus/threepid.rules.yml")?;
    let alerts: BTreeSet<&str> =
        name.captures_iter(&rules).filter_map(|found| Some(found.get(1)?.as_str())).collect();
    assert!(alerts.len() > 10, "{alerts:?}");
    let page = read("monitoring.md")?;
    let told: BTreeSet<&str> = page.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    assert_eq!(told, alerts);
    let tests = read("prometheus/threepid.rules.test.yml")?;
    for alert in alerts {
        assert!(tests.contains(&format!("alertname: {alert}\n")), "no test lets {alert} fire");
        let section = page.split_once(&format!("### {alert}\n")).map(|(_, rest)| rest.trim_start());
        assert!(section.is_some_and(|text| !text.starts_with('#')), "{alert}: what is to be done?");
    }
    Ok(())
}

/// The metrics that a text names, without what Prometheus appends to a histogram's.
fn named(text: &str) -> Result<BTreeSet<String>, regex::Error> {
    let name = Regex::new(r"threepid_[a-z_]+")?;
    let of_histogram = Regex::new("_(bucket|sum|count)$")?;
    Ok(name.find_iter(text).map(|found| of_histogram.replace(found.as_str(), "").into_owned()).collect())
}

#[tokio::test]
async fn each_metric_that_alerts_and_the_dashboard_name_is_told_by_the_running_program() -> Story {
    let smtp = SmtpServer::start().await?;
    let metrics = format!("127.0.0.1:{}", free_port()?);
    let server = Server::builder()
        .mail_to(&smtp)
        .text("metrics.listen", &metrics)
        .set("identity_servers", r#"[{ name = "id.example", binds = true }]"#)
        .start()
        .await?;
    let alice = server.account("@alice:example.org").await?;
    let sid = server.prove(&smtp, "alice@example.org", "the-secret-of-alice").await?;
    assert_eq!(server.add(&alice, &sid, "the-secret-of-alice").await?.status, 200);
    server.post("/_matrix/client/v3/account/3pid/nowhere", None, &json!({})).await?;

    let scrape = format!("http://{metrics}/metrics");
    let told = wait_until("a mail that was counted as sent", Duration::from_secs(30), || async {
        let told = reqwest::get(&scrape).await?.text().await?;
        let sent = r#"threepid_message_tries_total{kind="validation_mail",outcome="sent"} 1"#;
        Ok(told.contains(sent).then_some(told))
    })
    .await?;
    let version = format!("threepid_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
    for series in [
        version.as_str(),
        &format!(r#"threepid_http_requests_total{{method="POST",route="{THREEPIDS}",status="200"}} 1"#),
        r#"threepid_sessions_total{event="validated"} 1"#,
        r#"threepid_sessions_total{event="consumed"} 1"#,
        r#"threepid_contact_changes_total{action="added",door="account/3pid"} 1"#,
        r#"threepid_database_connections{pool="writer",state="most"} 1"#,
        r#"threepid_identity_server_calls_total{server="id.example",outcome="ok"} 0"#,
    ] {
        assert!(told.lines().any(|line| line == series), "{series}\n{told}");
    }
    assert!(
        !told.contains("alice") && !told.contains("nowhere"),
        "a client's word is in the metrics:\n{told}"
    );

    let families: BTreeSet<String> = told
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .map(str::to_owned)
        .collect();
    for file in
        ["prometheus/threepid.rules.yml", "prometheus/threepid.rules.test.yml", "grafana/threepid.json"]
    {
        let named = named(&read(file)?)?;
        assert!(named.len() > 5, "{file}: {named:?}");
        let unknown: Vec<_> = named.difference(&families).collect();
        assert!(unknown.is_empty(), "{file} names what is not told: {unknown:?}");
    }
    // A real Prometheus understands it all, and has nothing to say against a server that is well.
    let prometheus =
        Prometheus::start(&[("threepid", metrics)], &read("prometheus/threepid.rules.yml")?).await?;
    wait_until("a scrape", Duration::from_secs(30), || async {
        let targets = prometheus.targets().await?;
        assert!(targets.iter().all(|(_, _, error)| error.is_empty()), "{targets:?}");
        Ok(targets.iter().any(|(_, health, _)| health == "up").then_some(()))
    })
    .await?;
    assert_eq!(prometheus.firing().await?, Vec::<Value>::new());

    // It understands the dashboard, too, and has something to show in every panel but one on failures, of which there
    // were none. Rates need two scrapes.
    const MAY_BE_EMPTY: [&str; 1] = ["Failing answers"];
    let dashboard: Value = serde_json::from_str(&read("grafana/threepid.json")?)?;
    let panels = dashboard["panels"].as_array().cloned().unwrap_or_default();
    assert!(panels.len() > 15, "{} panels", panels.len());
    for panel in panels {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().unwrap_or_default();
            let expression = expression.replace("$job", ".*").replace("$instance", ".*");
            let expression = expression.replace("$__rate_interval", "1m").replace("$__range", "1m");
            if panel["title"].as_str().is_some_and(|title| MAY_BE_EMPTY.contains(&title)) {
                prometheus.query(&expression).await?;
                continue;
            }
            wait_until(&format!("an answer to {expression}"), Duration::from_secs(30), || async {
                Ok((!prometheus.query(&expression).await?.is_empty()).then_some(()))
            })
            .await?;
        }
    }
    server.end().await?;
    Ok(())
}

#[tokio::test]
async fn nothing_is_counted_unless_it_is_asked_for_and_metrics_are_not_told_to_clients() -> Story {
    let server = Server::builder().start().await?;
    assert_eq!(server.get("/metrics", None).await?.status, 404);
    assert!(!server.log()?.contains("telling metrics"));
    let taken = server.url("/").replace("http://", "").replace('/', "");
    let other = Server::builder().text("metrics.listen", &taken).prepare()?;
    let (status, said) = other.run(&["serve"]).await?;
    assert!(status == 1 && said.contains("metrics.listen"), "{said}");
    Ok(())
}
