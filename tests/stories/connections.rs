//! Many connections: ten thousand that idle, and more than there may be.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use threepid_tests::peers::{free_port, wait_until};
use threepid_tests::server::Server;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::Story;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// So many connections idle at a time.
const IDLE: usize = 10_000;
/// What the server may hold in memory meanwhile, in MiB.
const MEMORY: u64 = 150;
/// From each address of loopback, so that ports do not run short.
const FROM_EACH: usize = 1_000;
/// New requests that are timed beside them.
const TIMED: usize = 200;
const WITHIN: Duration = Duration::from_secs(60);
const LIVE: &str = "GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n";

async fn connect(to: SocketAddr, from: Ipv4Addr) -> Outcome<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from.into(), 0))?;
    Ok(socket.connect(to).await?)
}

/// Makes a request and reads its answer; the connection stays open.
async fn ask(stream: &mut TcpStream) -> Outcome<()> {
    stream.write_all(LIVE.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.windows(4).any(|window| window == b"\r\n\r\n") {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err("closed without an answer".into());
        }
    }
    match answer.starts_with(b"HTTP/1.1 200 ") {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&answer).into_owned().into()),
    }
}

fn address(server: &Server) -> Outcome<SocketAddr> {
    Ok(server.base_url().trim_start_matches("http://").parse()?)
}

/// This process holds the other ends.
fn raise_own_limit() -> Story {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    let enough = u64::try_from(IDLE + 2_000)?;
    match limit.maximum {
        Some(most) if most < enough => {
            Err(format!("a process may open {most} files here and needs {enough}: raise the hard limit")
                .into())
        }
        _ => Ok(()),
    }
}

#[expect(clippy::print_stderr, reason = "the figures are what the reader of the run wants")]
fn note(line: &str) -> Story {
    eprintln!("{line}");
    std::fs::write(threepid_tests::peers::artifacts()?.join("idle-connections.txt"), format!("{line}\n"))?;
    Ok(())
}

#[tokio::test]
async fn ten_thousand_idle_connections_leave_memory_and_time_for_others() -> Story {
    raise_own_limit()?;
    let server = Server::builder()
        .set("http.max_connections", IDLE + 100)
        .text("http.header_timeout", "10m")
        .text("log.level", "info")
        .start()
        .await?;
    let to = address(&server)?;
    let before = server.memory().ok_or("it runs")?;
    let mut idle = Vec::with_capacity(IDLE);
    let began = Instant::now();
    for number in 0..IDLE {
        let host = u8::try_from(2 + number / FROM_EACH)?;
        let mut stream = tokio::time::timeout(WITHIN, connect(to, Ipv4Addr::new(127, 0, 0, host))).await??;
        tokio::time::timeout(WITHIN, ask(&mut stream))
            .await?
            .map_err(|error| format!("{number}: {error}"))?;
        idle.push(stream);
    }
    let opened = began.elapsed();
    let (held, mapped) = (server.memory().ok_or("it runs")?, server.mapped_memory().ok_or("it runs")?);
    let mut times = Vec::with_capacity(TIMED);
    for _ in 0..TIMED {
        let began = Instant::now();
        let mut stream = connect(to, Ipv4Addr::LOCALHOST).await?;
        tokio::time::timeout(WITHIN, ask(&mut stream)).await??;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    let (median, p99) = (times[TIMED / 2], times[TIMED * 99 / 100]);
    note(&format!(
        "{IDLE} idle connections, opened in {:.1} s: {} MiB before, {} MiB with them, {} of these the program's file; {TIMED} new requests meanwhile: \
         p50 {:.2} ms, p99 {:.2} ms",
        opened.as_secs_f64(),
        before / 1024,
        held / 1024,
        mapped / 1024,
        median.as_secs_f64() * 1e3,
        p99.as_secs_f64() * 1e3,
    ))?;
    // The code of an unoptimised build is several times as large as that of the one that is measured against this.
    let counted = if cfg!(debug_assertions) { held - mapped } else { held } / 1024;
    assert!(counted <= MEMORY, "{counted} MiB");
    assert!(p99 < Duration::from_secs(1), "{p99:?}");
    // All of them are still good.
    for stream in idle.iter_mut().step_by(100) {
        tokio::time::timeout(WITHIN, ask(stream)).await??;
    }
    drop(idle);
    Ok(server.end().await?)
}

/// Fills `most` connections, and finds that one more waits until one of them ends.
async fn one_more_waits(server: &Server, metrics: &str, most: usize) -> Story {
    let to = address(server)?;
    let full = [("open", most), ("most", most)]
        .map(|(state, count)| format!("threepid_http_connections{{state=\"{state}\"}} {count}"));
    let mut held = Vec::new();
    for _ in 0..most {
        let mut stream = TcpStream::connect(to).await?;
        tokio::time::timeout(WITHIN, ask(&mut stream)).await??;
        held.push(stream);
    }
    wait_until("as many connections as there may be", WITHIN, || async {
        let told = reqwest::get(metrics).await?.text().await?;
        Ok(full.iter().all(|line| told.lines().any(|told| told == line)).then_some(()))
    })
    .await?;
    // The system has connected it; the server has not accepted it, and reads nothing of it.
    let mut waiting = TcpStream::connect(to).await?;
    waiting.write_all(LIVE.as_bytes()).await?;
    let early = tokio::time::timeout(Duration::from_millis(300), waiting.readable()).await;
    assert!(early.is_err(), "it is not to be answered yet");
    // Those that are open are answered meanwhile.
    for stream in &mut held {
        tokio::time::timeout(WITHIN, ask(stream)).await??;
    }
    drop(held.pop());
    let mut answer = [0; 12];
    tokio::time::timeout(WITHIN, waiting.read_exact(&mut answer)).await??;
    assert_eq!(&answer, b"HTTP/1.1 200");
    Ok(())
}

#[tokio::test]
async fn a_connection_beyond_the_bound_waits_until_another_ends() -> Story {
    let metrics = format!("127.0.0.1:{}", free_port()?);
    let server = Server::builder()
        .set("http.max_connections", 20)
        .text("http.header_timeout", "10m")
        .text("metrics.listen", &metrics)
        .start()
        .await?;
    one_more_waits(&server, &format!("http://{metrics}/metrics"), 20).await?;
    Ok(server.end().await?)
}

#[tokio::test]
async fn few_open_files_bound_the_connections_and_the_log_says_so() -> Story {
    let metrics = format!("127.0.0.1:{}", free_port()?);
    let mut server =
        Server::builder().text("http.header_timeout", "10m").text("metrics.listen", &metrics).prepare()?;
    // 256 of them are for everything else. The soft limit is raised to the hard one.
    server.launch_with_open_files(100, 276).await?;
    let said = server.wait_for_log(&["WARN", "fewer connections are held"]).await?;
    assert!(said.contains("276") && said.contains("4096") && said.contains("20"), "{said}");
    one_more_waits(&server, &format!("http://{metrics}/metrics"), 20).await?;
    let ready = server.get("/health/ready", None);
    let answered = tokio::time::timeout(WITHIN, ready).await??;
    assert_eq!(answered.status, 200, "the database has files left");
    Ok(server.end().await?)
}
