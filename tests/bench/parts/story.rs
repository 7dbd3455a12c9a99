//! Users at once, each of whom proves an address and adds it, over and over. The mail server is here, too.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::http::{Connection, get, post};
use super::letters::Letters;
use super::load::{REQUEST_TOKEN, THREEPIDS};
use super::{figure, number, orders, sink, tell, text, texts};
use crate::Outcome;

const MAIL_WITHIN: Duration = Duration::from_secs(60);

pub(super) async fn run(settings: &Value) -> Outcome<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    tell(&json!({ "port": listener.local_addr()?.port() }));
    let letters = Arc::new(Letters::default());
    let arriving = Arc::clone(&letters);
    tokio::spawn(sink::take(listener, move |mail| arriving.take(mail)));
    let (mark, mut orders) = (text(settings, "mark")?.to_owned(), orders());
    let mut run = 0_u64;
    while let Some(order) = orders.next_line().await? {
        run += 1;
        let plan: Value = serde_json::from_str(&order)?;
        let until = Instant::now() + Duration::from_millis(number(&plan, "milliseconds")?);
        let began = Instant::now();
        let mut users = JoinSet::new();
        for (at, token) in texts(&plan, "tokens").into_iter().enumerate() {
            let connection = Connection::open(text(&plan, "address")?).await?;
            let (letters, mark) = (Arc::clone(&letters), format!("{mark}-{run}-{at}"));
            users.spawn(user(connection, token, mark, letters, until));
        }
        let mut times = Vec::new();
        while let Some(ended) = users.join_next().await {
            times.extend(ended??);
        }
        let seconds = began.elapsed().as_secs_f64();
        times.sort_unstable();
        let stories = u64::try_from(times.len())?;
        let p50 = times.get(times.len() / 2);
        tell(&json!({ "stories": stories, "per_second": figure(stories) / seconds, "p50_us": p50 }));
    }
    Ok(())
}

/// Tells its story until it is time to end; how long each took, in µs.
async fn user(
    mut connection: Connection,
    token: String,
    mark: String,
    letters: Arc<Letters>,
    until: Instant,
) -> Outcome<Vec<u64>> {
    let mut times = Vec::new();
    while Instant::now() < until {
        let (began, number) = (Instant::now(), times.len());
        let (secret, address) = (format!("secret.{mark}.{number}"), format!("{mark}-{number}@bench.example"));
        let body = json!({ "client_secret": secret, "email": address, "send_attempt": 1 }).to_string();
        let opened = connection.ask(&post(REQUEST_TOKEN, "", &body)).await?.json()?;
        let sid = text(&opened, "sid")?;
        let proof = tokio::time::timeout(MAIL_WITHIN, letters.token(sid)).await??;
        let body = json!({ "sid": sid, "client_secret": secret, "token": proof }).to_string();
        connection.ask(&post("/_threepid/submit_token", "", &body)).await?.json()?;
        let body = json!({ "three_pid_creds": { "sid": sid, "client_secret": secret } }).to_string();
        connection.ask(&post(THREEPIDS, &token, &body)).await?.json()?;
        let listed = connection.ask(&get(THREEPIDS, &token)).await?.json()?;
        let mut listed = listed["threepids"].as_array().into_iter().flatten();
        if !listed.any(|one| one["address"] == address.as_str()) {
            return Err(format!("{address} was added and is not listed").into());
        }
        times.push(u64::try_from(began.elapsed().as_micros())?);
    }
    Ok(times)
}
