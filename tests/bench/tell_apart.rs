//! Whether whoever asks can tell an address that belongs to an account from one that is free: by the bytes of the answers,
//! or by their times, with Welch's t-test as in `crates/domain/examples/constant_time.rs`.
//!
//! The real program is asked about addresses of both classes, drawn at random, first with `hide_in_use` and then without,
//! which shows that the check can tell. Mails are written into a folder, so the relay works meanwhile as it does in service.
//! An answer that comes after a request of either class is looked at, too: it meets what the relay still does for that one.

use std::collections::BTreeSet;
use std::time::Instant;

use threepid_tests::peers::{server_program, temp_folder};

use crate::options::Options;
use crate::parts::http::{Connection, post};
use crate::parts::load::REQUEST_TOKEN;
use crate::site::{Settings, fill, new_database};
use crate::table::{complain, say};
use crate::{Outcome, machine};

/// Above this, the classes differ; dudect's bound.
const BOUND: f64 = 4.5;
/// A request that took longer than so many in a hundred was interrupted, and says nothing.
const KEPT: usize = 95;
/// So many addresses belong to accounts, and as many others are asked about.
const ADDRESSES: u64 = 200;
/// What is done with each address that is drawn, in this order.
const STEPS: [&str; 4] = ["a request", "the same again", "a higher attempt", "a wrong token"];
/// So many draws warm up.
const WARM: usize = 50;

/// Free and taken, in this order.
type Both<T> = [T; 2];

/// What was seen of one step.
#[derive(Default)]
struct Seen {
    /// In µs.
    times: Both<Vec<f64>>,
    answers: Both<BTreeSet<String>>,
}

/// What came of one mode.
struct Verdict {
    told_by_bytes: bool,
    told_by_time: bool,
}

pub(crate) fn run(options: &Options, draws: usize) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    say(format_args!("{}", machine::describe()));
    say(format_args!(
        "{draws} draws; |t| above {BOUND} tells the classes apart; times in µs, the longest 5 % left out"
    ));
    let hidden = runtime.block_on(measure(options, draws, true))?;
    let told = runtime.block_on(measure(options, draws, false))?;
    let mut wrong = Vec::new();
    if hidden.told_by_bytes {
        wrong.push("with hide_in_use the answers differ");
    }
    if hidden.told_by_time {
        wrong.push("with hide_in_use the times differ");
    }
    if !told.told_by_bytes || !told.told_by_time {
        wrong.push("without hide_in_use nothing was told apart, so this check sees nothing");
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ").into()) }
}

async fn measure(options: &Options, draws: usize, hidden: bool) -> Outcome<Verdict> {
    let program = options.program.clone().map_or_else(server_program, Ok)?;
    let ((_database, url), mails) = (new_database()?, temp_folder("tell-apart")?);
    let settings = Settings::new(&program, &url)
        .set("MAIL__TRANSPORT", "file")
        .set("MAIL__FOLDER", &mails.path().display().to_string())
        .set("HIDE_IN_USE", if hidden { "true" } else { "false" });
    settings.migrate().await?;
    fill(&url, ADDRESSES).await?;
    let site = settings.start().await?;
    let mut connection = Connection::open(&site.address).await?;
    let (mut seen, mut after) = (STEPS.map(|_| Seen::default()), Both::<Vec<f64>>::default());
    let (mut state, mut before) = (0x9e37_79b9_7f4a_7c15_u64, 0);
    for draw in 0..WARM + draws {
        // xorshift: which comes next must not follow a pattern.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let class = usize::from(state >> 32 & 1 == 1);
        // `fill` gives the first addresses away; the others look the same.
        let number = state % ADDRESSES + if class == 1 { 0 } else { ADDRESSES };
        let mut sid = "none".to_owned();
        for (step, seen) in seen.iter_mut().enumerate() {
            let request = request(step, draw, number, &sid);
            let began = Instant::now();
            let answer = connection.ask(&request).await?;
            let took = began.elapsed().as_secs_f64() * 1e6;
            if let Some(opened) = answer.json().ok().as_ref().and_then(|json| json["sid"].as_str()) {
                opened.clone_into(&mut sid);
            }
            if draw < WARM {
                continue;
            }
            let (answers, times) = (&mut seen.answers[class], &mut seen.times[class]);
            answers.insert(comparable(answer.head, answer.body, &sid));
            times.push(took);
            if step == 0 {
                after[before].push(took);
            }
        }
        before = class;
    }
    Ok(report(hidden, &seen, &after))
}

fn request(step: usize, draw: usize, number: u64, sid: &str) -> Vec<u8> {
    let secret = format!("secret.{draw:08}");
    if step == 3 {
        let body = format!(r#"{{"sid":"{sid}","client_secret":"{secret}","token":"wrong"}}"#);
        return post("/_threepid/submit_token", "", &body);
    }
    let attempt = if step == 2 { 2 } else { 1 };
    let body = format!(
        r#"{{"client_secret":"{secret}","email":"a{number:08}@bench.example","send_attempt":{attempt}}}"#
    );
    post(REQUEST_TOKEN, "", &body)
}

/// An answer without what is new in each: the sid, the request's id and the time.
fn comparable(head: &[u8], body: &[u8], sid: &str) -> String {
    let head = String::from_utf8_lossy(head);
    let is_new = |line: &&str| line.starts_with("date: ") || line.starts_with("x-request-id: ");
    let head: Vec<_> = head.split("\r\n").filter(|line| !is_new(line)).collect();
    format!("{}\r\n{}", head.join("\r\n"), String::from_utf8_lossy(body).replace(sid, "<sid>"))
}

fn report(hidden: bool, seen: &[Seen], after: &Both<Vec<f64>>) -> Verdict {
    say(format_args!("\nhide_in_use = {hidden}"));
    say(format_args!(
        "{:<28}{:>7}{:>7}{:>10}{:>10}{:>9}  verdict",
        "", "n free", "taken", "free", "taken", "t"
    ));
    let mut verdict = Verdict { told_by_bytes: false, told_by_time: false };
    for (name, seen) in STEPS.iter().zip(seen) {
        let [free, taken] = &seen.answers;
        let same = free == taken && free.len() == 1;
        let differs = line(name, &seen.times, if same { "same bytes" } else { "other bytes" });
        if !same && hidden {
            complain(format_args!("free: {free:?}\ntaken: {taken:?}"));
        }
        verdict.told_by_bytes |= !same;
        verdict.told_by_time |= differs;
    }
    verdict.told_by_time |= line("the next draw's request", after, "by what came before it");
    verdict
}

/// Prints a line; whether the times of the classes differ.
fn line(name: &str, times: &Both<Vec<f64>>, note: &str) -> bool {
    let mut all = times.concat();
    all.sort_by(f64::total_cmp);
    let longest = all.get(all.len().saturating_sub(1) * KEPT / 100).copied().unwrap_or(f64::MAX);
    let [free, taken] = times.each_ref().map(|times| Moments::of(times, longest));
    let t = (free.mean - taken.mean) / (free.variance / free.count + taken.variance / taken.count).sqrt();
    let differs = t.abs() > BOUND;
    let told = if differs { "told apart" } else { "not told apart" };
    say(format_args!(
        "{name:<28}{:>7}{:>7}{:>10.1}{:>10.1}{t:>9.2}  {told}, {note}",
        free.count, taken.count, free.mean, taken.mean
    ));
    differs
}

struct Moments {
    count: f64,
    mean: f64,
    variance: f64,
}

impl Moments {
    fn of(times: &[f64], longest: f64) -> Self {
        let kept: Vec<f64> = times.iter().copied().filter(|time| *time <= longest).collect();
        let count = kept.len() as f64;
        let mean = kept.iter().sum::<f64>() / count;
        let variance = kept.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (count - 1.0);
        Self { count, mean, variance }
    }
}
