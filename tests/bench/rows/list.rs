//! `GET /account/3pid` against bare hyper.

use serde_json::{Map, Value, json};

use super::{Bench, Loaded, tokens};
use crate::Outcome;
use crate::child::Part;
use crate::parts::http::{Connection, get};
use crate::site::{Settings, Site, fill, new_database};
use crate::table::{Compared, Goal, Row, median};

const THREEPIDS: &str = "/_matrix/client/v3/account/3pid";
const CLIENTS: u64 = 32;

/// The token is remembered, which the homeserver knows; and then the list, too.
pub(super) async fn remembered(bench: &Bench) -> Outcome<Vec<Row>> {
    let kinds = [
        ("1s", "list, 32 clients: token and list remembered", 0.70),
        ("0s", "list, 32 clients: token remembered, list read", 0.25),
    ];
    let mut rows = Vec::new();
    for (span, work, goal) in kinds {
        rows.push(with_token_remembered(bench, span, work, Goal::AtLeast(goal)).await?);
    }
    Ok(rows)
}

async fn with_token_remembered(bench: &Bench, lists_for: &str, work: &str, goal: Goal) -> Outcome<Row> {
    let mut homeserver = Part::start("homeserver", &json!({}))?;
    let port = homeserver.port().await?;
    let (_folder, url) = new_database()?;
    let settings = Settings::new(&bench.program, &url).homeserver(port).mail_waits()?;
    let settings = settings.set("DATABASE__REMEMBER_CONTACTS", lists_for);
    settings.migrate().await?;
    fill(&url, 1000).await?;
    let site = settings.start().await?;
    against_bare(bench, &site, tokens(CLIENTS, 1), work, goal).await
}

/// Nothing is remembered: the token is in the local table, the list is read.
pub(super) async fn local(bench: &Bench) -> Outcome<Vec<Row>> {
    let (_folder, url) = new_database()?;
    let settings = Settings::new(&bench.program, &url).mail_waits()?;
    let settings = settings.set("DATABASE__REMEMBER_CONTACTS", "0s");
    settings.migrate().await?;
    fill(&url, 1000).await?;
    let tokens = settings.accounts(CLIENTS).await?;
    let site = settings.start().await?;
    let work = "list, 32 clients: token and list read";
    Ok(vec![against_bare(bench, &site, tokens, work, Goal::AtLeast(0.20)).await?])
}

/// Takes turns with a server that answers the same bytes.
async fn against_bare(
    bench: &Bench,
    site: &Site,
    tokens: Vec<String>,
    work: &str,
    goal: Goal,
) -> Outcome<Row> {
    let first = tokens.first().cloned().unwrap_or_default();
    let (headers, body) = answer(&site.address, &first).await?;
    let mut bare = Part::start("bare", &json!({ "headers": headers, "body": body }))?;
    let bare_address = format!("127.0.0.1:{}", bare.port().await?);
    let ask = |address: &str| json!({ "ask": "lists", "addresses": [address], "connections": CLIENTS, "tokens": tokens });
    let (ours, theirs) = (ask(&site.address), ask(&bare_address));
    // So that what may be remembered is.
    bench.load(&[site.pid()], ours.clone()).await?;
    let (mut turns, mut costs, mut last) = (Vec::new(), Vec::new(), None);
    for _ in 0..bench.options.rounds() {
        let of_ours = bench.load(&[site.pid()], ours.clone()).await?;
        let of_theirs = bench.load(&[bare.pid()], theirs.clone()).await?;
        turns.push((of_ours.per_second, Some(of_theirs.per_second)));
        costs.push((of_ours.processor_us, of_theirs.processor_us));
        last = Some(of_ours);
    }
    let cost = |of: fn(&(f64, f64)) -> f64| median(costs.iter().map(of));
    let mut notes = vec![format!(
        "processor time of the server for one answer: {:.1} µs, bare {:.1} µs",
        cost(|pair| pair.0),
        cost(|pair| pair.1)
    )];
    if let Some(Loaded { p50_us, p99_us, .. }) = last {
        notes.push(format!("an answer took {p50_us} µs, one in a hundred {p99_us} µs or more"));
    }
    Ok(Row { work: work.to_owned(), unit: "/s", turns, compared: Compared::Ratio, goal, notes })
}

/// What the program answers: headers but for those that hyper writes by itself, and the body.
async fn answer(address: &str, token: &str) -> Outcome<(Map<String, Value>, String)> {
    let mut connection = Connection::open(address).await?;
    let answer = connection.ask(&get(THREEPIDS, token)).await?;
    let listed = answer.json()?;
    if listed["threepids"].as_array().map(Vec::len) != Some(2) {
        return Err(format!("two were to be listed: {listed}").into());
    }
    let head = String::from_utf8_lossy(answer.head).into_owned();
    let lines = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    let own = lines.filter(|(name, _)| !["content-length", "date"].contains(name));
    let headers = own.map(|(name, value)| (name.to_owned(), value.into())).collect();
    Ok((headers, String::from_utf8_lossy(answer.body).into_owned()))
}
