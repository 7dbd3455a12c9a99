//! A client's connection, which is given up where the client does not take what it is sent.
//!
//! Whoever asks and never reads would otherwise hold the connection, and the answer in memory, for ever: no answer is
//! ever written, and so no other time limit ever begins.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// A stream on which all that is written has to leave within a time, from when the client first kept it waiting. Taking
/// a little of it now and then does not help: the time begins anew only once everything has left.
pub(crate) struct ClientStream<S> {
    inner: S,
    within: Duration,
    until: Option<Pin<Box<Sleep>>>,
}

impl<S> ClientStream<S> {
    pub(crate) fn new(inner: S, within: Duration) -> Self {
        Self { inner, within, until: None }
    }

    /// What has become of a write.
    fn written<T>(&mut self, cx: &mut Context<'_>, write: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if write.is_ready() {
            return write;
        }
        let within = self.within;
        let until = self.until.get_or_insert_with(|| Box::pin(tokio::time::sleep(within)));
        until.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ClientStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ClientStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.written(cx, write)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.written(cx, write)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    /// Hyper flushes once it has nothing left to write.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flush = Pin::new(&mut self.inner).poll_flush(cx);
        if flush.is_ready() {
            self.until = None;
        }
        self.written(cx, flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::Instant;

    use super::*;

    const WITHIN: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up() {
        let (_client, server) = tokio::io::duplex(8);
        let mut server = ClientStream::new(server, WITHIN);
        let began = Instant::now();
        let written = server.write_all(&[0; 64]).await;
        assert_eq!(written.map_err(|error| error.kind()), Err(io::ErrorKind::TimedOut));
        assert_eq!(began.elapsed(), WITHIN);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_a_byte_now_and_then_is_given_up_too() {
        let (mut client, server) = tokio::io::duplex(8);
        let mut server = ClientStream::new(server, WITHIN);
        let trickle = tokio::spawn(async move {
            loop {
                tokio::time::sleep(WITHIN / 10).await;
                if client.read_u8().await.is_err() {
                    return;
                }
            }
        });
        let written = server.write_all(&[0; 64]).await;
        assert_eq!(written.map_err(|error| error.kind()), Err(io::ErrorKind::TimedOut));
        trickle.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_everything_has_all_the_time_for_the_next_answer() -> io::Result<()> {
        let (mut client, server) = tokio::io::duplex(8);
        let mut server = ClientStream::new(server, WITHIN);
        let answers = tokio::spawn(async move {
            for _ in 0..5 {
                server.write_all(&[0; 16]).await?;
                server.flush().await?;
            }
            io::Result::Ok(())
        });
        for _ in 0..5 {
            tokio::time::sleep(WITHIN * 2 / 3).await;
            client.read_exact(&mut [0; 16]).await?;
        }
        assert!(answers.await?.is_ok());
        Ok(())
    }
}
