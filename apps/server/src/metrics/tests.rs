#![expect(clippy::panic, reason = "what a test stands on fails it")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::Method;
use serde_json::json;
use threepid_domain::model::Sid;
use threepid_domain::ports::{MockRateLimiter, OverLimit, Perishable, Verdict};
use threepid_domain::testing::{Fixture, Reply, ServerReply};
use threepid_domain::use_cases::Policy;
use tokio_util::sync::CancellationToken;

use super::{Metrics, PoolState};
use crate::http::testing::{ACCOUNT_3PID, DELETE, REQUEST_TOKEN, Server, request};

/// A server that counts, trusting the identity servers of [`Fixture::trusting`].
fn counting() -> (Server, Metrics) {
    let metrics = Metrics::new("1.2.3");
    let policy = Policy { trusted: Fixture::trusted(), ..Policy::default() };
    let counted = metrics.clone();
    (Server::built(|builder| builder.policy(policy).metrics(counted)), metrics)
}

/// The value of a series, as it is written.
fn value(text: &str, series: &str) -> Option<String> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ').map(str::to_owned))
}

async fn assert_counts(metrics: &Metrics, expected: &[(&str, &str)]) {
    let text = metrics.render().await;
    for (series, count) in expected {
        assert_eq!(value(&text, series).as_deref(), Some(*count), "{series}\n{text}");
    }
}

fn token_request(email: &str) -> String {
    json!({ "client_secret": "secret", "email": email, "send_attempt": 1 }).to_string()
}

/// Scrapes until it is so.
async fn eventually(metrics: &Metrics, is_so: impl Fn(&str) -> bool) {
    let scraped = async {
        while !is_so(&metrics.render().await) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(10), scraped).await;
    assert!(in_time.is_ok(), "{}", metrics.render().await);
}

async fn deliver(server: &Server, until: impl Fn(&str) -> bool, metrics: &Metrics) {
    let Some(worker) = server.app.worker() else { panic!("there is an outbox") };
    let stop = CancellationToken::new();
    let relay = tokio::spawn(worker.run(stop.clone()));
    eventually(metrics, until).await;
    stop.cancel();
    assert!(relay.await.is_ok());
}

#[tokio::test]
async fn requests_are_counted_by_template_and_status_and_never_by_what_a_client_makes_up() {
    let (server, metrics) = counting();
    for uri in [ACCOUNT_3PID, "/_matrix/client/v3/account/3pid?access_token=hush", "/hush", "/hush/2"] {
        server.get(uri, "alice").await;
    }
    server.get(ACCOUNT_3PID, "nobody").await;
    for method in ["HUSH", "BREW"] {
        let Ok(method) = Method::from_bytes(method.as_bytes()) else { panic!("{method}") };
        server.send(request(method, "/hush", "", Body::empty())).await;
    }
    server.store.set_available(false);
    server.get(ACCOUNT_3PID, "alice").await;
    let requests = |labels: &str| format!("threepid_http_requests_total{{{labels}}}");
    let list = r#"method="GET",route="/_matrix/client/v3/account/3pid""#;
    assert_counts(
        &metrics,
        &[
            (&requests(&format!(r#"{list},status="200""#)), "2"),
            (&requests(&format!(r#"{list},status="401""#)), "1"),
            (&requests(&format!(r#"{list},status="503""#)), "1"),
            (&requests(&format!(r#"{list},status="500""#)), "0"),
            (&requests(r#"method="GET",route="unmatched",status="404""#), "2"),
            (&requests(r#"method="other",route="unmatched",status="404""#), "2"),
            (&format!("threepid_http_request_duration_seconds_count{{{list}}}"), "4"),
            ("threepid_http_requests_in_flight", "0"),
        ],
    )
    .await;
    assert!(!metrics.render().await.contains("ush"), "no path and no method of a client's");
}

#[tokio::test]
async fn sessions_messages_and_changes_are_counted_once_they_are_committed() {
    let (server, metrics) = counting();
    let session = |event: &str| format!("threepid_sessions_total{{event=\"{event}\"}}");
    let queued = r#"threepid_messages_queued_total{kind="validation_mail"}"#;
    assert_counts(&metrics, &[(&session("opened"), "0"), (&session("burnt"), "0"), (queued, "0")]).await;

    server.post(REQUEST_TOKEN, "", token_request("a@example.org")).await;
    server.post(REQUEST_TOKEN, "", token_request("a@example.org")).await;
    assert_counts(&metrics, &[(&session("opened"), "1"), (queued, "1")]).await;
    server.store.set_available(false);
    server.post(REQUEST_TOKEN, "", token_request("b@example.org")).await;
    server.store.set_available(true);
    assert_counts(&metrics, &[(&session("opened"), "1"), (queued, "1")]).await;

    let sid = server.proven("c@example.org", "secret").await;
    let body = json!({ "three_pid_creds": { "sid": sid, "client_secret": "secret" } }).to_string();
    for _ in 0..2 {
        assert_eq!(server.post(ACCOUNT_3PID, "alice", body.clone()).await.status.as_u16(), 200);
    }
    server.post(DELETE, "alice", json!({ "medium": "email", "address": "c@example.org" }).to_string()).await;
    assert_counts(
        &metrics,
        &[
            (&session("consumed"), "1"),
            (r#"threepid_contact_changes_total{action="added",door="account/3pid"}"#, "1"),
            (r#"threepid_contact_changes_total{action="removed",door="account/3pid/delete"}"#, "1"),
            (r#"threepid_port_calls_total{port="store",call="commit",outcome="unavailable"}"#, "0"),
            (r#"threepid_port_calls_total{port="access_tokens",call="for_change",outcome="ok"}"#, "3"),
        ],
    )
    .await;
}

#[tokio::test]
async fn what_the_relay_delivers_and_what_waits_is_counted() {
    let (server, metrics) = counting();
    server.mailer.next_is(Reply::Permanent);
    server.post(REQUEST_TOKEN, "", token_request("dead@example.org")).await;
    server.clock.advance(Duration::from_secs(7));
    assert_counts(
        &metrics,
        &[
            (r#"threepid_messages{kind="validation_mail",state="owed"}"#, "1"),
            (r#"threepid_oldest_message_age_seconds{kind="validation_mail",state="owed"}"#, "7.0"),
        ],
    )
    .await;
    let dead = r#"threepid_message_tries_total{kind="validation_mail",outcome="dead"}"#;
    deliver(&server, |text| value(text, dead).as_deref() == Some("1"), &metrics).await;
    server.post(REQUEST_TOKEN, "", token_request("sent@example.org")).await;
    let sent = r#"threepid_message_tries_total{kind="validation_mail",outcome="sent"}"#;
    deliver(&server, |text| value(text, sent).as_deref() == Some("1"), &metrics).await;
    let dead_now = r#"threepid_messages{kind="validation_mail",state="dead"}"#;
    // What is owed is counted anew only after a while.
    eventually(&metrics, |text| value(text, dead_now).as_deref() == Some("1")).await;
    assert_counts(
        &metrics,
        &[
            (r#"threepid_messages{kind="validation_mail",state="owed"}"#, "0"),
            (r#"threepid_messages{kind="validation_mail",state="dead"}"#, "1"),
            (r#"threepid_oldest_message_age_seconds{kind="validation_mail",state="owed"}"#, "0.0"),
            (r#"threepid_message_try_duration_seconds_count{kind="validation_mail"}"#, "2"),
            (r#"threepid_port_calls_total{port="mailer",call="send",outcome="refused"}"#, "1"),
        ],
    )
    .await;
}

#[tokio::test]
async fn panics_refusals_and_identity_servers_that_are_down_are_counted() {
    let metrics = Metrics::new("1.2.3");
    let mut limiter = MockRateLimiter::new();
    let mut count = 0;
    limiter.expect_known().returning(|_, _| Verdict::Allowed);
    limiter.expect_take_each().returning(move |acts| {
        count += 1;
        match (count, acts.first()) {
            (1, Some((limit, _))) => {
                Ok(Err(OverLimit { limit: *limit, retry_after: Duration::from_secs(1) }))
            }
            _ => panic!("the limiter broke"),
        }
    });
    let server = Server::built(|builder| builder.rate_limiter(Arc::new(limiter)).metrics(metrics.clone()));
    assert_eq!(server.post(REQUEST_TOKEN, "", token_request("a@example.org")).await.status.as_u16(), 429);
    assert_eq!(server.post(REQUEST_TOKEN, "", token_request("a@example.org")).await.status.as_u16(), 500);
    assert_counts(
        &metrics,
        &[
            (r#"threepid_limit_verdicts_total{limit="request_token_per_address",verdict="refused"}"#, "1"),
            (r#"threepid_limit_verdicts_total{limit="request_token_per_address",verdict="allowed"}"#, "0"),
            ("threepid_http_panics_total", "1"),
            ("threepid_http_requests_in_flight", "0"),
        ],
    )
    .await;

    let (server, metrics) = counting();
    server.identity_servers.next_is(ServerReply::Down);
    let creds = json!({ "sid": Sid::new("sid"), "client_secret": "secret", "id_server": "id.example" });
    server.post(ACCOUNT_3PID, "alice", json!({ "three_pid_creds": creds }).to_string()).await;
    let calls = |server: &str, outcome: &str| {
        format!("threepid_identity_server_calls_total{{server=\"{server}\",outcome=\"{outcome}\"}}")
    };
    let down = (calls("id.example", "unavailable"), calls("binds.example", "unavailable"));
    assert_counts(&metrics, &[(&down.0, "1"), (&down.1, "0")]).await;
}

#[tokio::test]
async fn what_housekeeping_removes_is_counted_by_what_it_was() {
    let (server, metrics) = counting();
    server.pending("a@example.org", "secret").await;
    server.clock.advance(Duration::from_secs(60 * 60 * 60));
    let Some(caretaker) = server.app.caretaker() else { panic!("there is housekeeping") };
    let stop = CancellationToken::new();
    let caretaker = tokio::spawn(caretaker.run(stop.clone()));
    let removed = r#"threepid_purged_total{what="sessions"}"#;
    eventually(&metrics, |text| value(text, removed).as_deref() == Some("1")).await;
    stop.cancel();
    assert!(caretaker.await.is_ok());
    assert_counts(&metrics, &[(r#"threepid_purged_total{what="challenges"}"#, "0")]).await;
}

/// Everything that a server can tell.
async fn all_families() -> BTreeSet<String> {
    let (server, metrics) = counting();
    metrics.requests().connections_at_most(7);
    metrics.watch_pools(|| vec![PoolState { name: "writer", open: 1, idle: 1, most: 1 }]);
    server.post(REQUEST_TOKEN, "", token_request("a@example.org")).await;
    let sent = r#"threepid_message_tries_total{kind="validation_mail",outcome="sent"}"#;
    deliver(&server, |text| value(text, sent).as_deref() == Some("1"), &metrics).await;
    let text = metrics.render().await;
    assert_eq!(value(&text, r#"threepid_build_info{version="1.2.3"}"#).as_deref(), Some("1"));
    assert_eq!(
        value(&text, r#"threepid_database_connections{pool="writer",state="most"}"#).as_deref(),
        Some("1")
    );
    let names = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    names.map(str::to_owned).collect()
}

#[tokio::test]
async fn the_page_tells_of_every_metric_and_of_no_other() {
    let families = all_families().await;
    let registered = include_str!("families.rs").matches("registered(").count();
    assert_eq!(families.len(), registered, "every family has a value by now: {families:?}");
    let page = include_str!("../../../../docs/operating/monitoring.md");
    let told = page.lines().filter_map(|line| line.strip_prefix("| `threepid_")?.split('`').next());
    let told: BTreeSet<_> = told.map(|name| format!("threepid_{name}")).collect();
    assert_eq!(told, families);
}

#[test]
fn the_page_tells_of_everything_that_housekeeping_removes() {
    let page = include_str!("../../../../docs/operating/monitoring.md");
    let Some(row) = page.lines().find_map(|line| line.strip_prefix("| `threepid_purged_total` | `what` |"))
    else {
        panic!("it has a row")
    };
    let told: Vec<_> = row.split('`').skip(1).step_by(2).collect();
    assert_eq!(told, Perishable::ALL.map(Perishable::as_str));
}

#[tokio::test]
async fn the_listener_answers_metrics_and_nothing_else() -> Result<(), Box<dyn std::error::Error>> {
    let (server, metrics) = counting();
    let server = Server { router: metrics.router(), ..server };
    let answer = server.get("/metrics", "").await;
    assert_eq!(answer.status.as_u16(), 200);
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    assert_eq!(server.get("/", "").await.status.as_u16(), 404);
    assert_eq!(server.get(ACCOUNT_3PID, "alice").await.status.as_u16(), 404);
    Ok(())
}

#[tokio::test]
async fn a_scrape_is_answered_while_storage_is_down() {
    let (server, metrics) = counting();
    server.post(REQUEST_TOKEN, "", token_request("a@example.org")).await;
    server.store.set_available(false);
    assert_counts(
        &metrics,
        &[
            (r#"threepid_messages_queued_total{kind="validation_mail"}"#, "1"),
            (r#"threepid_port_calls_total{port="outbox",call="backlog",outcome="unavailable"}"#, "1"),
        ],
    )
    .await;
}

#[tokio::test]
async fn connections_of_clients_are_counted_while_they_are_open() -> Result<(), Box<dyn std::error::Error>> {
    let (server, metrics) = counting();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let serving = tokio::spawn(server.app.clone().serve(listener, None, std::future::pending()));
    for open in [2, 0] {
        let connections: Vec<_> = (0..open).map(|_| tokio::net::TcpStream::connect(address)).collect();
        let _connections = futures_util::future::join_all(connections).await;
        let series = r#"threepid_http_connections{state="open"}"#;
        eventually(&metrics, |text| value(text, series) == Some(open.to_string())).await;
    }
    assert_counts(&metrics, &[(r#"threepid_http_connections{state="most"}"#, "4096")]).await;
    serving.abort();
    Ok(())
}
