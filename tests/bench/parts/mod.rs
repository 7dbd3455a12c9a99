//! The processes beside the program: each is this binary, started as `bench part NAME SETTINGS`.

mod bare;
mod commits;
mod direct;
mod hold;
mod homeserver;
pub(crate) mod http;
pub(crate) mod letters;
pub(crate) mod load;
pub(crate) mod sink;
mod story;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines, Stdin};

use crate::{Outcome, table};

/// Runs the part of this name.
pub(crate) fn run(name: &str, settings: &str) -> Outcome<()> {
    let settings: Value = serde_json::from_str(settings)?;
    // Servers have what the program has; who loads needs one thread, as wrk does.
    let is_server = matches!(name, "bare" | "homeserver" | "commits" | "direct");
    let mut runtime = if is_server {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    runtime.enable_all().build()?.block_on(async {
        match name {
            "bare" => bare::run(&settings).await,
            "commits" => commits::run(&settings).await,
            "direct" => direct::run(&settings).await,
            "hold" => hold::run(&settings).await,
            "homeserver" => homeserver::run().await,
            "load" => load::run(&settings).await,
            "sink" => sink::run().await,
            "story" => story::run(&settings).await,
            _ => Err(format!("there is no part {name}").into()),
        }
    })
}

/// Says something to whoever started this part.
fn tell(what: &Value) {
    table::say(what);
}

/// What whoever started this part says. Its end is theirs.
fn orders() -> Lines<BufReader<Stdin>> {
    BufReader::new(tokio::io::stdin()).lines()
}

/// Returns when whoever started this part has ended.
async fn end_of_orders() {
    let mut orders = orders();
    while let Ok(Some(_)) = orders.next_line().await {}
}

fn number(settings: &Value, name: &str) -> Outcome<u64> {
    settings[name].as_u64().ok_or_else(|| format!("{name} is missing").into())
}

fn text<'a>(settings: &'a Value, name: &str) -> Outcome<&'a str> {
    settings[name].as_str().ok_or_else(|| format!("{name} is missing").into())
}

fn texts(settings: &Value, name: &str) -> Vec<String> {
    let texts = settings[name].as_array().into_iter().flatten();
    texts.filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

/// A counted amount as a figure.
#[expect(clippy::cast_precision_loss, reason = "no count here is near 2^52")]
pub(crate) fn figure(count: u64) -> f64 {
    count as f64
}
