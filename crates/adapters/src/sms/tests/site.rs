//! A gateway that answers as it is told, byte by byte.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What the gateway does with a request, once it has it.
#[derive(Clone, Debug)]
pub(super) enum Does {
    /// Sends these bytes and closes the connection.
    Says(Vec<u8>),
    /// Sends these bytes, and then nothing more.
    SaysAndHangs(Vec<u8>),
    /// Sends bytes for as long as somebody reads them, after these.
    NeverEnds(Vec<u8>),
}

impl Does {
    /// A whole answer.
    pub(super) fn answer(status: u16, body: &str) -> Self {
        let length = body.len();
        Self::Says(format!("HTTP/1.1 {status} Words\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes())
    }
}

pub(super) struct Site {
    pub(super) url: String,
    does: Arc<Mutex<Does>>,
    asked: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Site {
    pub(super) async fn start(does: Does) -> Self {
        Self::start_with(None, does).await
    }

    pub(super) async fn start_with(tls: Option<TlsAcceptor>, does: Does) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = match tls {
            Some(_) => format!("https://localhost:{port}"),
            None => format!("http://127.0.0.1:{port}"),
        };
        let (does, asked) = (Arc::new(Mutex::new(does)), Arc::new(Mutex::new(Vec::new())));
        let (told, noted) = (does.clone(), asked.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (told, noted, tls) = (told.clone(), noted.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, told, noted).await,
                        Some(tls) => serve(tls.accept(stream).await.ok()?, told, noted).await,
                    }
                });
            }
        });
        Self { url, does, asked, task }
    }

    pub(super) fn now(&self, does: Does) {
        *self.does.lock().unwrap() = does;
    }

    /// Every request, as it arrived.
    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves one request. `None` is the end of the connection.
async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    does: Arc<Mutex<Does>>,
    asked: Arc<Mutex<Vec<String>>>,
) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let mut request = String::from_utf8(head).ok()?;
    let length = request.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await.ok()?;
    request.push_str(&String::from_utf8(body).ok()?);
    asked.lock().unwrap().push(request);
    let now = does.lock().unwrap().clone();
    match now {
        Does::Says(bytes) => {
            stream.write_all(&bytes).await.ok()?;
            stream.shutdown().await.ok()
        }
        Does::SaysAndHangs(bytes) => {
            stream.write_all(&bytes).await.ok()?;
            stream.read_to_end(&mut Vec::new()).await.ok().map(drop)
        }
        Does::NeverEnds(bytes) => {
            stream.write_all(&bytes).await.ok()?;
            loop {
                stream.write_all(&[b'x'; 4096]).await.ok()?;
            }
        }
    }
}
