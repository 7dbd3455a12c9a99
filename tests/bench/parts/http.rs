//! HTTP/1.1 as lean as it gets: a request is bytes, of an answer only its status and its length are read.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::Outcome;

/// A connection that is kept alive.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// An answer.
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) head: &'a [u8],
    pub(crate) body: &'a [u8],
}

impl Answer<'_> {
    /// The body, where the answer is good.
    pub(crate) fn json(&self) -> Outcome<serde_json::Value> {
        if self.status != 200 {
            return Err(self.quoted().into());
        }
        Ok(serde_json::from_slice(self.body)?)
    }

    /// For messages.
    pub(crate) fn quoted(&self) -> String {
        format!("{} {}", self.status, String::from_utf8_lossy(self.body))
    }
}

impl Connection {
    pub(crate) async fn open(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(4096) })
    }

    /// Makes a request, and reads the answer to its end.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> io::Result<Answer<'_>> {
        self.buffer.clear();
        self.stream.write_all(request).await?;
        let mut whole = None;
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if whole.is_none() {
                whole = head(&self.buffer).map(|(end, length)| (end, end + length));
            }
            if let Some((end, total)) = whole
                && self.buffer.len() >= total
            {
                let status = self.buffer.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok());
                return Ok(Answer {
                    status: status.and_then(|digits| digits.parse().ok()).unwrap_or(0),
                    head: self.buffer.get(..end).unwrap_or_default(),
                    body: self.buffer.get(end..total).unwrap_or_default(),
                });
            }
        }
    }
}

/// Where the head ends, and how long the body is.
fn head(buffer: &[u8]) -> Option<(usize, usize)> {
    const LENGTH: &[u8] = b"\r\ncontent-length: ";
    let end = buffer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = buffer.get(..end)?;
    let at = head.windows(LENGTH.len()).position(|window| window == LENGTH);
    let digits = at.map(|at| head.get(at + LENGTH.len()..).unwrap_or_default()).unwrap_or_default();
    let length = digits.iter().take_while(|byte| byte.is_ascii_digit());
    let length = length.fold(0, |length, digit| length * 10 + usize::from(digit - b'0'));
    Some((end + 4, length))
}

/// A GET.
pub(crate) fn get(path: &str, token: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {token}\r\n\r\n").into_bytes()
}

/// A POST of JSON.
pub(crate) fn post(path: &str, token: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}
