//! Mails that are owed already, against lettre that sends as many by itself.

use std::time::{Duration, Instant};

use sea_orm::{ConnectionTrait as _, Database};
use serde_json::{Value, json};

use super::Bench;
use crate::Outcome;
use crate::child::{self, Part};
use crate::parts::figure;
use crate::site::{Settings, new_database};
use crate::table::{Compared, Goal, Row};

/// As many as the program has, unless it is told otherwise.
const CONNECTIONS: u64 = 4;
const SENT_WITHIN: Duration = Duration::from_secs(120);

pub(super) async fn measure(bench: &Bench) -> Outcome<Vec<Row>> {
    let mails = bench.options.amount(200, 10_000);
    let mut turns = Vec::new();
    for _ in 0..bench.options.rounds() {
        turns.push((relayed(bench, mails).await?, Some(direct(mails).await?)));
    }
    let notes = vec![format!("{mails} mails over {CONNECTIONS} connections each")];
    let work = "relay to a local mail server".to_owned();
    let goal = Goal::AtLeast(0.8);
    Ok(vec![Row { work, unit: "/s", turns, compared: Compared::Ratio, goal, notes }])
}

/// How many mails a second the program relays.
async fn relayed(bench: &Bench, mails: u64) -> Outcome<f64> {
    let (_folder, url) = new_database()?;
    let mut sink = Part::start("sink", &json!({}))?;
    let settings = Settings::new(&bench.program, &url).mail_to(sink.port().await?);
    settings.migrate().await?;
    owe(&url, mails).await?;
    let site = settings.start().await?;
    let rate = arrived(&mut sink, mails).await?;
    drop(site);
    Ok(rate)
}

/// Owes mails, as a unit of work does.
async fn owe(url: &str, mails: u64) -> Outcome<()> {
    let database = Database::connect(url).await?;
    let now = u64::try_from(std::time::SystemTime::UNIX_EPOCH.elapsed()?.as_millis())?;
    let (due, end) = (now - 60_000, now + 3_600_000);
    let payload =
        r#"{"kind":"validation_mail","to":"relay-%d@bench.example","sid":"sid.%032d","generation":1}"#;
    let owe = format!(
        "INSERT INTO outbox (id, kind, payload, created_at, due_at, not_after, attempts, state) \
         WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {mails}) \
         SELECT printf('%026d', i), 'validation_mail', printf('{payload}', i, i), {due} + i, {due} + i, {end}, 0, 'queued' \
         FROM n"
    );
    database.execute_unprepared(&owe).await?;
    database.close().await?;
    Ok(())
}

/// How many mails a second lettre sends by itself.
pub(super) async fn direct(mails: u64) -> Outcome<f64> {
    let mut sink = Part::start("sink", &json!({}))?;
    let settings = json!({ "port": sink.port().await?, "mails": mails, "connections": CONNECTIONS });
    child::run("direct", &settings).await?;
    arrived(&mut sink, mails).await
}

/// Waits until all have arrived; how many a second that was from the first to the last.
async fn arrived(sink: &mut Part, mails: u64) -> Outcome<f64> {
    let began = Instant::now();
    loop {
        let said: Value = sink.tell("report").await?;
        let count = said["mails"].as_u64().unwrap_or(0);
        if count >= mails {
            let span = said["last_us"].as_f64().unwrap_or(0.0) - said["first_us"].as_f64().unwrap_or(0.0);
            return Ok(figure(count - 1) * 1e6 / span);
        }
        if began.elapsed() > SENT_WITHIN {
            return Err(format!("{count} mails of {mails} arrived").into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
