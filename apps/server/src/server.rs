//! The server: connections in, requests to the router, and a clean stop.
//!
//! It speaks HTTP/1.1 on hyper, since axum's own loop sets no limits on heads of requests. TLS and HTTP/2 are the
//! reverse proxy's.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::builder::App;
use crate::http::{self, HttpSettings};

/// How long to wait before accepting again when the system has nothing left for another connection.
const PAUSE_WHEN_EXHAUSTED: Duration = Duration::from_millis(200);

/// Why serving ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The relay broke off. Mail would pile up unseen, so the server stops for whoever watches over it to start it anew.
    #[error("the relay broke off")]
    Relay(#[source] JoinError),
}

impl App {
    /// Serves [`App::standalone`] on `listener`, with `extra` routes beside it, and runs the relay, until `shutdown`.
    ///
    /// Then it accepts no more; requests in flight, the commands they began and what the relay is delivering end, for
    /// [`HttpSettings::shutdown_grace`] at most. What is cut off then is not lost: its lease ends, and it is tried again
    /// at the next start.
    ///
    /// # Errors
    /// [`ServeError`].
    pub async fn serve(
        self,
        listener: TcpListener,
        extra: Option<Router>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        let stop = CancellationToken::new();
        // Whatever ends this future, dropped ones included, stops the relay too.
        let _stop_at_the_end = stop.clone().drop_guard();
        let mut relay = tokio::spawn(run_relay(self.worker(), stop.clone()));
        let connections = GracefulShutdown::new();
        let doors = Doors::new(http::standalone(&self.api, extra), &self.api.settings);
        let ended = tokio::select! {
            () = shutdown => Ok(()),
            () = doors.accept(&listener, &connections) => Ok(()),
            ended = &mut relay => ended.map_err(ServeError::Relay),
        };
        drop(listener);
        ended?;
        tracing::info!(connections = connections.count(), "stopping");
        stop.cancel();
        let settled = tokio::time::timeout(self.api.settings.shutdown_grace, async {
            connections.shutdown().await;
            self.api.commands.close();
            self.api.commands.wait().await;
            (&mut relay).await
        });
        match settled.await {
            Ok(relay) => relay.map_err(ServeError::Relay),
            Err(_elapsed) => {
                tracing::warn!(
                    "the time to stop ran out; what is not settled is tried again at the next start"
                );
                abort(relay).await;
                Ok(())
            }
        }
    }
}

/// Without a mailer there is nothing to deliver; then it only waits, as the other does.
async fn run_relay(worker: Option<crate::Worker>, stop: CancellationToken) {
    match worker {
        Some(worker) => worker.run(stop).await,
        None => stop.cancelled().await,
    }
}

/// Ends the relay, deliveries included, before the caller goes on to close what they stand on.
async fn abort(relay: JoinHandle<()>) {
    relay.abort();
    // It was aborted, so there is nothing to learn from how it ended.
    let _ended = relay.await;
}

/// Takes connections.
struct Doors {
    router: Router,
    http: http1::Builder,
    free: Arc<Semaphore>,
}

impl Doors {
    fn new(router: Router, settings: &HttpSettings) -> Self {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(settings.header_timeout)
            .max_buf_size(settings.max_header_bytes.max(8 * 1024));
        Self { router, http, free: Arc::new(Semaphore::new(settings.max_connections.max(1))) }
    }

    /// Accepts connections for ever.
    async fn accept(&self, listener: &TcpListener, connections: &GracefulShutdown) {
        loop {
            // The semaphore is never closed.
            let Ok(permit) = Arc::clone(&self.free).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, peer)) => self.open(stream, peer, connections.watcher(), permit),
                Err(error) if is_the_clients(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "cannot accept connections");
                    tokio::time::sleep(PAUSE_WHEN_EXHAUSTED).await;
                }
            }
        }
    }

    /// Serves one connection in a task of its own, which `shutdown` reaches through `watcher`.
    fn open(&self, stream: TcpStream, peer: SocketAddr, watcher: Watcher, permit: OwnedSemaphorePermit) {
        // Answers are small; without this the end of one may wait for the peer.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let router = self.router.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(peer));
            router.clone().call(request)
        });
        let connection = watcher.watch(self.http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended early");
            }
        });
    }
}

/// Errors of one connection that its client gave up; the listener is well.
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
