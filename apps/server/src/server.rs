//! The server: connections in, requests to the router, and a clean stop.
//!
//! It speaks HTTP/1.1 on hyper, since axum's own loop sets no limits on heads of requests. TLS and HTTP/2 are the
//! reverse proxy's.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue, TRANSFER_ENCODING};
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
use crate::client_stream::ClientStream;
use crate::http::{self, HttpSettings};
use crate::metrics::Metrics;

/// How long to wait before accepting again when the system has nothing left for another connection.
const PAUSE_WHEN_EXHAUSTED: Duration = Duration::from_millis(200);

/// How long a connection that is silent when the server stops may take to make a request.
const LAST_WORDS: Duration = Duration::from_millis(250);

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
    /// Then it accepts no more than have connected by then; requests in flight, the commands they began and what the
    /// relay is delivering end, for [`HttpSettings::shutdown_grace`] at most. What is cut off then is not lost: its lease ends, and it is tried again
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
        // They end with `stop`, after a batch or an account at most; whatever ends one early, everything goes on without it.
        let tidying = self.caretaker().map(|caretaker| tokio::spawn(caretaker.run(stop.clone())));
        let sweeping = self.sweep().map(|sweep| tokio::spawn(sweep.run(stop.clone())));
        let connections = GracefulShutdown::new();
        let router = http::standalone(&self.api, extra);
        let doors = Doors::new(router, &self.api.settings, self.api.metrics.clone());
        tokio::select! {
            () = shutdown => {}
            () = doors.accept(&listener, &connections) => {}
            ended = &mut relay => return ended.map_err(ServeError::Relay),
        }
        doors.close(listener, &connections);
        tracing::info!(connections = connections.count(), "stopping");
        stop.cancel();
        let settled = tokio::time::timeout(self.api.settings.shutdown_grace, async {
            // Without it, a connection is closed from which nothing was read yet, though a request may have arrived.
            tokio::time::sleep(LAST_WORDS).await;
            connections.shutdown().await;
            self.api.commands.close();
            self.api.commands.wait().await;
            for ending in [tidying, sweeping].into_iter().flatten() {
                let _ended = ending.await;
            }
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

impl Metrics {
    /// Serves [`Metrics::router`] on `listener` until `shutdown`. It takes a few connections at a time, since it is for
    /// whoever watches over this server and for nobody else.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let settings = HttpSettings { max_connections: 16, ..HttpSettings::default() };
        // Whoever watches is not watched.
        let doors = Doors::new(self.router(), &settings, None);
        let connections = GracefulShutdown::new();
        tokio::select! {
            () = shutdown => {}
            () = doors.accept(&listener, &connections) => {}
        }
        doors.close(listener, &connections);
        // A scrape that lasts longer is cut off.
        let _ended = tokio::time::timeout(Duration::from_secs(1), connections.shutdown()).await;
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
    answer_timeout: Duration,
    metrics: Option<Metrics>,
    /// Whether each answer is its connection's last.
    closed: CancellationToken,
}

impl Doors {
    fn new(router: Router, settings: &HttpSettings, metrics: Option<Metrics>) -> Self {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(settings.header_timeout)
            .max_buf_size(settings.max_header_bytes.max(8 * 1024));
        let most = settings.max_connections.max(1);
        if let Some(metrics) = &metrics {
            metrics.requests().connections_at_most(most);
        }
        let free = Arc::new(Semaphore::new(most));
        let closed = CancellationToken::new();
        Self { router, http, free, answer_timeout: settings.answer_timeout, metrics, closed }
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

    /// Accepts whoever has connected by now, as far as there is room, and nobody after that. The system has told them
    /// that they are connected, and would drop them and what they have sent with the listener.
    fn close(&self, listener: TcpListener, connections: &GracefulShutdown) {
        self.closed.cancel();
        // tokio's own `accept` finds only whom it has heard of, which may not be everybody.
        let listener = match listener.into_std() {
            Ok(listener) => listener,
            Err(error) => return tracing::debug!(%error, "cannot look who has connected last"),
        };
        while let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
            let taken = listener.accept().and_then(|(stream, peer)| {
                stream.set_nonblocking(true)?;
                Ok((TcpStream::from_std(stream)?, peer))
            });
            match taken {
                Ok((stream, peer)) => self.open(stream, peer, connections.watcher(), permit),
                Err(error) if is_the_clients(&error) => {}
                Err(_nobody_is_left) => return,
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
        let closed = self.closed.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(peer));
            // Where a body in chunks ends is what a proxy and a server most easily read differently, so nothing that
            // follows one is read.
            let is_last = request.headers().contains_key(TRANSFER_ENCODING);
            let answer = router.clone().call(request);
            let closed = closed.clone();
            async move {
                let mut answer = answer.await?;
                if is_last || closed.is_cancelled() {
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(answer)
            }
        });
        let stream = ClientStream::new(stream, self.answer_timeout);
        // Boxed, since a future that another one takes over is held in that one's memory twice.
        let connection = Box::pin(watcher.watch(self.http.serve_connection(TokioIo::new(stream), service)));
        let counted = self.metrics.as_ref().map(|metrics| metrics.requests().connected());
        tokio::spawn(async move {
            let (_permit, _counted) = (permit, counted);
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

#[cfg(test)]
mod tests {
    #![expect(clippy::panic, reason = "what a test stands on fails it")]

    use std::sync::Arc;

    use async_trait::async_trait;
    use axum::routing::get;
    use threepid_domain::ports::{Limit, MockOutbox, RateLimiter, Unavailable, Verdict};
    use threepid_domain::testing::RowState;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::{Notify, oneshot};

    use super::*;
    use crate::http::testing::Server as Fakes;

    /// A server on a port of its own.
    struct Running {
        address: SocketAddr,
        stop: oneshot::Sender<()>,
        ended: JoinHandle<Result<(), ServeError>>,
    }

    impl Running {
        async fn start(fakes: &Fakes) -> io::Result<Self> {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let address = listener.local_addr()?;
            let (stop, stopped) = oneshot::channel();
            let extra = Router::new().route("/extra", get(|| async { "beside" }));
            let shutdown = async move {
                let _either_way = stopped.await;
            };
            let ended = tokio::spawn(fakes.app.clone().serve(listener, Some(extra), shutdown));
            Ok(Self { address, stop, ended })
        }

        async fn ask(&self, request: &str) -> io::Result<String> {
            let mut stream = TcpStream::connect(self.address).await?;
            stream.write_all(request.as_bytes()).await?;
            read(&mut stream).await
        }

        async fn stop(self) -> Result<(), ServeError> {
            assert!(self.stop.send(()).is_ok(), "it still runs");
            let ended = tokio::time::timeout(Duration::from_secs(10), self.ended).await;
            ended.unwrap_or_else(|_| panic!("it does not stop")).unwrap_or_else(|error| panic!("{error}"))
        }
    }

    async fn read(stream: &mut TcpStream) -> io::Result<String> {
        let mut text = String::new();
        match tokio::time::timeout(Duration::from_secs(10), stream.read_to_string(&mut text)).await {
            Ok(read) => read.map(|_| text),
            Err(_) => panic!("no answer, or the connection stays open: {text}"),
        }
    }

    fn token_request() -> String {
        let body = r#"{"client_secret":"secret","email":"a@example.org","send_attempt":1}"#;
        format!(
            "POST /_matrix/client/v3/account/3pid/email/requestToken HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    #[tokio::test]
    async fn it_answers_over_tcp_knows_its_peer_and_delivers_what_it_owes()
    -> Result<(), Box<dyn std::error::Error>> {
        let fakes = Fakes::new();
        let running = Running::start(&fakes).await?;
        let answer = running.ask(&token_request()).await?;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(r#"{"sid":"sid1"}"#), "{answer}");
        let peer = (Limit::RequestTokenPerClient, "127.0.0.1".to_owned());
        assert_eq!(fakes.limiter.taken().first(), Some(&peer));
        tokio::time::timeout(Duration::from_secs(10), async {
            while fakes.store.outbox_rows().iter().any(|row| row.state != RowState::Sent) {
                tokio::task::yield_now().await;
            }
        })
        .await?;
        let answer = running.ask("GET /extra HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await?;
        assert!(answer.ends_with("beside") && answer.contains("x-request-id"), "{answer}");
        running.stop().await?;
        Ok(())
    }

    #[tokio::test]
    async fn a_head_that_is_too_large_is_431() -> Result<(), Box<dyn std::error::Error>> {
        let running = Running::start(&Fakes::new()).await?;
        let head = format!("GET / HTTP/1.1\r\nhost: x\r\nx-filler: {}\r\n\r\n", "x".repeat(20_000));
        assert!(running.ask(&head).await?.starts_with("HTTP/1.1 431"));
        running.stop().await?;
        Ok(())
    }

    #[tokio::test]
    async fn a_head_that_does_not_arrive_is_given_up() -> Result<(), Box<dyn std::error::Error>> {
        let http = HttpSettings { header_timeout: Duration::from_millis(50), ..HttpSettings::default() };
        let running = Running::start(&Fakes::built(|builder| builder.http(http))).await?;
        let mut answers = Vec::new();
        for begun in ["", "GET / HT", "GET / HTTP/1.1\r\nhost: x\r\n"] {
            answers.push(running.ask(begun).await?);
        }
        assert!(answers.iter().all(|answer| !answer.contains("200")), "{answers:?}");
        running.stop().await?;
        Ok(())
    }

    /// A limiter that lets a request wait in its midst.
    #[derive(Default)]
    struct Gate {
        reached: Notify,
        open: Notify,
    }

    #[async_trait]
    impl RateLimiter for Gate {
        async fn take(&self, limit: Limit, _subject: String) -> Result<Verdict, Unavailable> {
            if limit == Limit::RequestTokenPerClient {
                self.reached.notify_one();
                self.open.notified().await;
            }
            Ok(Verdict::Allowed)
        }

        async fn look(&self, _limit: Limit, _subject: String) -> Result<Verdict, Unavailable> {
            Ok(Verdict::Allowed)
        }

        async fn give_back(&self, _limit: Limit, _subject: String) -> Result<(), Unavailable> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_request_in_flight_is_answered_before_it_stops() -> Result<(), Box<dyn std::error::Error>> {
        let gate = Arc::new(Gate::default());
        let running = Running::start(&Fakes::built(|builder| builder.rate_limiter(gate.clone()))).await?;
        let mut idle = TcpStream::connect(running.address).await?;
        let mut stream = TcpStream::connect(running.address).await?;
        stream.write_all(token_request().as_bytes()).await?;
        gate.reached.notified().await;
        let address = running.address;
        let stopping = tokio::spawn(running.stop());
        tokio::time::timeout(Duration::from_secs(10), async {
            while TcpStream::connect(address).await.is_ok() {
                tokio::task::yield_now().await;
            }
        })
        .await?;
        gate.open.notify_one();
        let answer = read(&mut stream).await?;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(read(&mut idle).await?, "", "a connection that waits for nothing is closed");
        stopping.await??;
        Ok(())
    }

    #[tokio::test]
    async fn a_request_that_has_arrived_unseen_is_answered_before_it_stops()
    -> Result<(), Box<dyn std::error::Error>> {
        let running = Running::start(&Fakes::new()).await?;
        // The server does not run in between, so it has not heard of the connection when it is stopped.
        let mut stream = std::net::TcpStream::connect(running.address)?;
        io::Write::write_all(&mut stream, token_request().as_bytes())?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream)?;
        running.stop().await?;
        let answer = read(&mut stream).await?;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        Ok(())
    }

    #[tokio::test]
    async fn a_request_that_does_not_end_is_cut_off_after_the_grace() -> Result<(), Box<dyn std::error::Error>>
    {
        let gate = Arc::new(Gate::default());
        let http = HttpSettings { shutdown_grace: Duration::from_millis(50), ..HttpSettings::default() };
        let fakes = Fakes::built(|builder| builder.rate_limiter(gate.clone()).http(http));
        let running = Running::start(&fakes).await?;
        let mut stream = TcpStream::connect(running.address).await?;
        stream.write_all(token_request().as_bytes()).await?;
        gate.reached.notified().await;
        running.stop().await?;
        Ok(())
    }

    #[tokio::test]
    async fn a_relay_that_breaks_off_ends_the_server() -> Result<(), Box<dyn std::error::Error>> {
        let mut outbox = MockOutbox::new();
        outbox.expect_claim().returning(|_, _, _, _| panic!("the outbox broke"));
        let running = Running::start(&Fakes::built(|builder| builder.outbox(Arc::new(outbox)))).await?;
        let ended = tokio::time::timeout(Duration::from_secs(10), running.ended).await??;
        assert!(matches!(ended, Err(ServeError::Relay(_))), "{ended:?}");
        Ok(())
    }
}
