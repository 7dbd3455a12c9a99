//! How many instructions a request takes, which no load of the machine changes.
//!
//! The program runs under valgrind's callgrind, which counts only while the requests in question are made. The counts are
//! held to those in `instructions.json`, since what costs more is to be noticed when it comes in.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use threepid_tests::peers::{server_program, temp_folder};
use tokio::net::TcpListener;
use tokio::process::Command;

use crate::Outcome;
use crate::options::Options;
use crate::parts::figure;
use crate::parts::http::{Connection, get, post};
use crate::parts::letters::Letters;
use crate::parts::load::{REQUEST_TOKEN, THREEPIDS};
use crate::parts::sink;
use crate::site::{Settings, Site, fill, new_database};
use crate::table::say;

const REQUESTS: usize = 100;
/// Caches are filled by then.
const BEFORE: usize = 20;
/// Valgrind is slow, and an unoptimised program more so.
const MAIL_WITHIN: Duration = Duration::from_secs(60);

/// What was counted last, by the kind of build, by request.
const KNOWN: &str = include_str!("instructions.json");
/// Compilers and the order of chance differ by less.
const MARGIN: f64 = 0.15;
const BUILD: &str = if cfg!(debug_assertions) { "debug" } else { "release" };

/// Counts, and says what came out.
///
/// # Errors
///
/// A request takes more instructions than it did, or so few that what is known is out of date.
pub(crate) fn run(options: &Options) -> Outcome<()> {
    let program = match &options.program {
        Some(program) => program.clone(),
        None => server_program()?,
    };
    let counts =
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(count(&program))?;
    say(format_args!("instructions of the server for one request, in user space alone ({BUILD}):"));
    say(format_args!("{:<14} {:>12} {:>12} {:>8}", "request", "counted", "known", ""));
    let known: serde_json::Value = serde_json::from_str(KNOWN)?;
    let mut strayed = Vec::new();
    for (name, counted) in counts {
        let Some(before) = known[BUILD][name].as_f64() else {
            say(format_args!("{name:<14} {counted:>12.0} {:>12}", "not known"));
            continue;
        };
        let change = counted / before - 1.0;
        say(format_args!("{name:<14} {counted:>12.0} {before:>12.0} {:>+7.1} %", change * 100.0));
        if change.abs() > MARGIN {
            strayed.push(name);
        }
    }
    if strayed.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{} strayed by more than {:.0} %: if it is meant, write the count into tests/bench/instructions.json",
        strayed.join(", "),
        MARGIN * 100.0
    )
    .into())
}

async fn count(program: &Path) -> Outcome<[(&'static str, f64); 3]> {
    let ((_database_folder, url), folder) = (new_database()?, temp_folder("instructions")?);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (port, letters) = (listener.local_addr()?.port(), Arc::new(Letters::default()));
    let (arriving, is_stuck) = (Arc::clone(&letters), Arc::new(AtomicBool::new(false)));
    tokio::spawn(sink::take(listener, move |mail| arriving.take(mail)));
    let stuck = stuck_server(Arc::clone(&is_stuck), port).await?;
    // Valgrind is slow, and so may be the machine.
    let settings = Settings::new(program, &url).mail_to(stuck).set("DATABASE__ACQUIRE_TIMEOUT", "5m");
    // However long it takes, lists are remembered meanwhile.
    let settings = settings.set("HTTP__REQUEST_TIMEOUT", "5m").set("DATABASE__REMEMBER_CONTACTS", "1h");
    settings.migrate().await?;
    fill(&url, 2).await?;
    let tokens = settings.accounts(2).await?;
    let (Some(lists), Some(adds)) = (tokens.first(), tokens.get(1)) else { return Err("no tokens".into()) };
    let out = folder.path().join("callgrind");
    let valgrind = ["valgrind", "--tool=callgrind", "--instr-atstart=no"].map(str::to_owned);
    let mut valgrind = valgrind.to_vec();
    valgrind.push(format!("--callgrind-out-file={}", out.display()));
    // One thread of work, so that none looks for another's.
    let site = settings.under(valgrind).set_plain("TOKIO_WORKER_THREADS", "1").start().await?;
    let mut counter = Counter { site: &site, out: &out, dumps: 0 };
    let mut connection = Connection::open(&site.address).await?;

    let list = get(THREEPIDS, lists);
    ask_all(&mut connection, &vec![list.clone(); BEFORE]).await?;
    counter.begin().await?;
    ask_all(&mut connection, &vec![list; REQUESTS]).await?;
    let of_list = counter.end().await?;

    let mut proven = Vec::new();
    for number in 0..BEFORE + REQUESTS {
        let (secret, request) = request_token("add", number);
        let opened = connection.ask(&request).await?.json()?;
        let sid = opened["sid"].as_str().ok_or("no sid")?.to_owned();
        let token = tokio::time::timeout(MAIL_WITHIN, letters.token(&sid)).await??;
        let body = json!({ "sid": sid, "client_secret": secret, "token": token }).to_string();
        connection.ask(&post("/_threepid/submit_token", "", &body)).await?.json()?;
        let body = json!({ "three_pid_creds": { "sid": sid, "client_secret": secret } }).to_string();
        proven.push(post(THREEPIDS, adds, &body));
    }
    let (before, measured) = proven.split_at(BEFORE);
    ask_all(&mut connection, before).await?;
    counter.begin().await?;
    ask_all(&mut connection, measured).await?;
    let of_add = counter.end().await?;

    // From now on the relay waits for the mail server, so that its work is not counted.
    is_stuck.store(true, Ordering::SeqCst);
    let requests: Vec<_> = (0..BEFORE + REQUESTS).map(|number| request_token("count", number).1).collect();
    let (before, measured) = requests.split_at(BEFORE);
    ask_all(&mut connection, before).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    counter.begin().await?;
    ask_all(&mut connection, measured).await?;
    let of_request = counter.end().await?;
    Ok([("list", of_list), ("requestToken", of_request), ("add", of_add)])
}

fn request_token(mark: &str, number: usize) -> (String, Vec<u8>) {
    let secret = format!("secret.{mark}.{number:05}");
    let address = format!("{mark}-{number:05}@bench.example");
    let body = json!({ "client_secret": secret, "email": address, "send_attempt": 1 }).to_string();
    (secret, post(REQUEST_TOKEN, "", &body))
}

async fn ask_all(connection: &mut Connection, requests: &[Vec<u8>]) -> Outcome<()> {
    for request in requests {
        connection.ask(request).await?.json()?;
    }
    Ok(())
}

/// Stands before the mail server on `port`, and passes nothing on any more once it is stuck.
async fn stuck_server(is_stuck: Arc<AtomicBool>, port: u16) -> Outcome<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let own = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let is_stuck = Arc::clone(&is_stuck);
            tokio::spawn(async move {
                let server = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
                client.set_nodelay(true)?;
                server.set_nodelay(true)?;
                let ((from_client, to_client), (from_server, to_server)) =
                    (client.into_split(), server.into_split());
                tokio::try_join!(
                    pass_on(from_client, to_server, &is_stuck),
                    pass_on(from_server, to_client, &is_stuck)
                )
                .map(drop)
            });
        }
    });
    Ok(own)
}

async fn pass_on(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    is_stuck: &AtomicBool,
) -> std::io::Result<()> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        if is_stuck.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        match buffer.get(..length) {
            Some(read) if !read.is_empty() => to.write_all(read).await?,
            _ => return Ok(()),
        }
    }
}

/// Lets callgrind count, and reads what it has counted.
struct Counter<'a> {
    site: &'a Site,
    out: &'a Path,
    dumps: u32,
}

impl Counter<'_> {
    async fn control(&self, arguments: &[&str]) -> Outcome<()> {
        let pid = self.site.pid().to_string();
        let output = Command::new("callgrind_control").args(arguments).arg(&pid).output().await?;
        let said = String::from_utf8_lossy(&output.stdout);
        if output.status.success() && said.contains("OK") {
            Ok(())
        } else {
            Err(format!("callgrind: {said}").into())
        }
    }

    async fn begin(&self) -> Outcome<()> {
        self.control(&["--instr=on"]).await
    }

    /// Instructions for one request since it began.
    async fn end(&mut self) -> Outcome<f64> {
        self.control(&["--instr=off"]).await?;
        self.control(&["--dump"]).await?;
        self.dumps += 1;
        let dump = std::fs::read_to_string(self.out.with_extension(self.dumps.to_string()))?;
        let total = dump.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse::<u64>().ok());
        Ok(figure(total.ok_or("callgrind wrote no total")?) / figure(u64::try_from(REQUESTS)?))
    }
}
