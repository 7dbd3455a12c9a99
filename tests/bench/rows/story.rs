//! The whole story, 32 users at once, against the sum of what its steps' references take.

use serde_json::json;

use super::relay::direct;
use super::{Bench, milliseconds, new_mark};
use crate::Outcome;
use crate::child::{self, Part};
use crate::site::{Settings, new_database};
use crate::table::{Compared, Goal, Row, median};

const USERS: u64 = 32;
/// Request, submit and add each change something.
const COMMITS: f64 = 3.0;
/// Request, submit, add, list.
const REQUESTS: f64 = 4.0;

pub(super) async fn measure(bench: &Bench) -> Outcome<Vec<Row>> {
    let ((_folder, url), (_other_folder, other_url)) = (new_database()?, new_database()?);
    Settings::new(&bench.program, &other_url).migrate().await?;
    let mut story = Part::start("story", &json!({ "mark": new_mark("s") }))?;
    let settings = Settings::new(&bench.program, &url).mail_to(story.port().await?);
    settings.migrate().await?;
    let tokens = settings.accounts(USERS).await?;
    let site = settings.start().await?;
    let mut bare = Part::start("bare", &json!({ "headers": {}, "body": r#"{"threepids":[]}"# }))?;
    let bare_address = format!("127.0.0.1:{}", bare.port().await?);
    let (turn, mails) = (milliseconds(bench.options.turn()), bench.options.amount(100, 2_000));
    let (mut turns, mut times) = (Vec::new(), Vec::new());
    for _ in 0..bench.options.rounds() {
        let plan = json!({ "address": site.address, "tokens": tokens, "milliseconds": turn });
        let told = story.tell(&plan.to_string()).await?;
        let commits =
            json!({ "url": other_url, "tasks": USERS, "milliseconds": turn, "mark": new_mark("c") });
        let commits = child::run("commits", &commits).await?;
        let ask =
            json!({ "ask": "lists", "addresses": [bare_address], "connections": USERS, "tokens": tokens });
        let answers = bench.load(&[bare.pid()], ask).await?.per_second;
        let (commits, sent) = (commits["per_second"].as_f64().unwrap_or(f64::NAN), direct(mails).await?);
        let steps = COMMITS / commits + REQUESTS / answers + 1.0 / sent;
        turns.push((told["per_second"].as_f64().unwrap_or(f64::NAN), Some(1.0 / steps)));
        times.push(told["p50_us"].as_f64().unwrap_or(f64::NAN));
    }
    let work = "whole story, 32 users, mail over SMTP: SQLite".to_owned();
    let notes = vec![
        "the reference is what 3 commits, 4 bare answers and 1 mail sent by lettre take, one after the other"
            .to_owned(),
        format!("a story took {:.1} ms", median(times) / 1000.0),
    ];
    Ok(vec![Row { work, unit: "/s", turns, compared: Compared::Ratio, goal: Goal::Reported, notes }])
}
