//! A mail server that takes everything, as fast as it comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{orders, tell};
use crate::Outcome;

/// When mails came, since the last `reset`.
struct Count {
    began: Instant,
    mails: AtomicU64,
    first_us: AtomicU64,
    last_us: AtomicU64,
}

impl Count {
    fn new() -> Arc<Self> {
        let zero = || AtomicU64::new(0);
        Arc::new(Self { began: Instant::now(), mails: zero(), first_us: zero(), last_us: zero() })
    }

    fn note(&self) {
        let now = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        if self.mails.fetch_add(1, Ordering::Relaxed) == 0 {
            self.first_us.store(now, Ordering::Relaxed);
        }
        self.last_us.store(now, Ordering::Relaxed);
    }
}

pub(super) async fn run() -> Outcome<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    tell(&json!({ "port": listener.local_addr()?.port() }));
    let count = Count::new();
    let counted = Arc::clone(&count);
    tokio::spawn(take(listener, move |_mail| counted.note()));
    let mut orders = orders();
    while let Some(order) = orders.next_line().await? {
        if order == "reset" {
            count.mails.store(0, Ordering::Relaxed);
        }
        tell(&json!({
            "mails": count.mails.load(Ordering::Relaxed),
            "first_us": count.first_us.load(Ordering::Relaxed),
            "last_us": count.last_us.load(Ordering::Relaxed),
        }));
    }
    Ok(())
}

/// Takes mails for ever, and shows each to `taken`.
pub(crate) async fn take(
    listener: TcpListener,
    taken: impl Fn(&[u8]) + Clone + Send + Sync + 'static,
) -> Outcome<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let taken = taken.clone();
        // A client that goes away in the midst of a mail has sent none.
        tokio::spawn(async move { converse(stream, taken).await.ok() });
    }
}

/// Speaks with one client until it goes.
async fn converse(mut stream: TcpStream, taken: impl Fn(&[u8])) -> Outcome<()> {
    stream.set_nodelay(true)?;
    stream.write_all(b"220 bench ESMTP\r\n").await?;
    let (mut buffer, mut replies, mut in_mail) = (Vec::with_capacity(16 * 1024), Vec::new(), false);
    loop {
        let end: &[u8] = if in_mail { b"\r\n.\r\n" } else { b"\r\n" };
        let Some(at) = buffer.windows(end.len()).position(|window| window == end) else {
            // As RFC 2920 recommends, once nothing is left to answer.
            stream.write_all(&replies).await?;
            replies.clear();
            // Or a client that waits for its last packet to be acknowledged waits for 40 ms.
            rustix::net::sockopt::set_tcp_quickack(&stream, true)?;
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
            continue;
        };
        let said: Vec<u8> = buffer.drain(..at + end.len()).collect();
        let reply: &[u8] = if in_mail {
            taken(&said);
            in_mail = false;
            b"250 taken\r\n"
        } else {
            match said.get(..4).unwrap_or_default().to_ascii_uppercase().as_slice() {
                b"EHLO" => b"250-bench\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n",
                b"DATA" => {
                    in_mail = true;
                    b"354 go on\r\n"
                }
                b"QUIT" => {
                    stream.write_all(b"221 bye\r\n").await?;
                    return Ok(());
                }
                _ => b"250 ok\r\n",
            }
        };
        replies.extend_from_slice(reply);
    }
}
