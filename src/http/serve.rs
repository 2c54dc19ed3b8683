//! The server loop: sockets in, requests to the router, an orderly end.
//!
//! Many connections are idle event streams, so each costs little: small buffers, one task. A client that is slow
//! to send its request is cut; when a limit on connections is reached, an idle connection is closed (`connections`), and if none is idle the new
//! one is answered 503 and closed. At shutdown the loop stops accepting, lets requests finish, and closes what is left at a hard
//! deadline.

use std::io::{self, ErrorKind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connections::{Connection, Connections};
use crate::clock::Clock;

/// The server loop's figures.
#[derive(Debug, Clone, Copy)]
pub struct ServeOptions {
    pub max_connections: usize,
    /// Maximum number of connections from one address; a quarter of all when absent, 0 for no limit.
    pub max_per_peer: Option<usize>,
    /// Maximum size of a request's head, and of what is read ahead of a body, in bytes; 8 KiB or more.
    pub max_header_bytes: usize,
    /// Maximum number of concurrent streams on one HTTP/2 connection.
    pub max_http2_streams: u32,
    /// From the connection's start, or the end of the request before, until a request's head is complete.
    pub header_timeout: Duration,
    /// From the shutdown signal until open connections are cut.
    pub shutdown_timeout: Duration,
}

impl Default for ServeOptions {
    fn default() -> Self {
        let (header_timeout, shutdown_timeout) = (Duration::from_secs(15), Duration::from_secs(30));
        Self {
            max_connections: 20_000,
            max_per_peer: None,
            max_header_bytes: 32 * 1024,
            max_http2_streams: 200,
            header_timeout,
            shutdown_timeout,
        }
    }
}

impl ServeOptions {
    /// Reduces the number of connections to fit a limit on open files, with a reserve for the database, files and outgoing calls.
    #[must_use]
    pub fn fitted_to(self, open_files: u64) -> Self {
        let reserved = (open_files / 4).clamp(MIN_RESERVED_FILES, MAX_RESERVED_FILES);
        let most = usize::try_from(open_files.saturating_sub(reserved)).unwrap_or(usize::MAX).max(MIN_CONNECTIONS);
        Self { max_connections: self.max_connections.min(most), ..self }
    }

    fn most_per_peer(&self) -> usize {
        match self.max_per_peer {
            None => (self.max_connections / 4).max(1),
            Some(0) => usize::MAX,
            Some(most) => most,
        }
    }
}

/// File descriptors that are reserved for everything but callers' connections.
const MIN_RESERVED_FILES: u64 = 128;
const MAX_RESERVED_FILES: u64 = 8_192;
/// Minimum number of connections, however low the limit on open files is.
const MIN_CONNECTIONS: usize = 16;

/// Most bytes that wait for a slow HTTP/2 reader, per stream.
const SEND_BUFFER: usize = 64 * 1024;
/// HTTP/2 peers that do not answer a ping are gone.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Wait after `accept` failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Pause before accepting again after an idle connection was told to close.
const ROOM_PAUSE: Duration = Duration::from_millis(5);
/// Minimum interval between log lines about connections that could not be accepted.
const ACCEPT_LOG_INTERVAL: Duration = Duration::from_secs(10);
/// Connections above the cap that are told so at once; more are closed without a word.
const MAX_REFUSALS: usize = 64;
/// How long a refused client may take to read why.
const REFUSAL_TIME: Duration = Duration::from_secs(1);

/// What a connection above the cap hears.
const REFUSAL: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: 120\r\nretry-after: 1\r\n\
    connection: close\r\n\r\n{\"error\":\"the server holds as many connections as it may\",\"code\":\"too_many_connections\",\"retryable\":true,\"retryAfter\":1}";

/// Serves the router on the listener until `shutdown`, then until requests are done or the deadline has passed.
pub async fn serve(listener: TcpListener, router: Router, clock: Clock, shutdown: CancellationToken, options: ServeOptions) {
    let connections = Connections::new(clock.clone(), options.max_connections, options.most_per_peer());
    let server = Arc::new(Server {
        builder: builder(options),
        router,
        clock,
        shutdown,
        cut: CancellationToken::new(),
        options,
        connections: connections.clone(),
        accept_failures: Mutex::default(),
    });
    let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = server.shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                server.note_accept_failure(&error).await;
                continue;
            }
        };
        if let Some(place) = connections.admit(address.ip()) {
            let server = server.clone();
            tasks.spawn(async move {
                server.connection(stream, &place.connection).await;
                drop(place);
            });
        } else if let Ok(place) = refusals.clone().try_acquire_owned() {
            let clock = server.clock.clone();
            tasks.spawn(async move {
                tokio::select! { () = refuse(stream) => {}, () = clock.sleep(REFUSAL_TIME) => {} }
                drop(place);
            });
        }
    }
    drop(listener);
    tasks.close();
    tokio::select! {
        () = tasks.wait() => return,
        () = server.clock.sleep(options.shutdown_timeout) => {}
    }
    tracing::warn!(connections = tasks.len(), "cutting connections that did not end in time");
    server.cut.cancel();
    tasks.wait().await;
}

struct Server {
    builder: auto::Builder<TokioExecutor>,
    router: Router,
    clock: Clock,
    shutdown: CancellationToken,
    cut: CancellationToken,
    options: ServeOptions,
    connections: Arc<Connections>,
    accept_failures: Mutex<AcceptFailures>,
}

/// Failures to accept that have not been logged.
#[derive(Default)]
struct AcceptFailures {
    count: u64,
    reported: Option<Instant>,
}

fn builder(options: ServeOptions) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(options.header_timeout).max_buf_size(options.max_header_bytes);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(options.max_http2_streams)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(u32::try_from(options.max_header_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

impl Server {
    async fn note_accept_failure(&self, error: &io::Error) {
        // The peer left before we looked: nothing is wrong here.
        if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused) {
            return;
        }
        // The idle connection frees a file descriptor soon.
        let has_room = self.connections.make_room();
        if let Some(count) = self.unreported_failures() {
            tracing::error!(%error, count, "failed to accept connections; closing idle ones to make room");
        }
        self.clock.sleep(if has_room { ROOM_PAUSE } else { ACCEPT_PAUSE }).await;
    }

    /// Returns how many failures to report now, including this one, if a log line is due.
    fn unreported_failures(&self) -> Option<u64> {
        let now = self.clock.instant();
        let mut failures = self.accept_failures.lock();
        failures.count += 1;
        if failures.reported.is_some_and(|reported| now.duration_since(reported) < ACCEPT_LOG_INTERVAL) {
            return None;
        }
        failures.reported = Some(now);
        Some(std::mem::take(&mut failures.count))
    }

    /// One connection, until it ends or is cut.
    async fn connection(&self, stream: TcpStream, own: &Arc<Connection>) {
        // Deltas are small and must not wait for each other.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY was refused");
        }
        let stream = Greeted::new(stream, &self.clock, self.options.header_timeout);
        let service = own.counting(self.router.clone());
        let mut connection = pin!(self.builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = own.until_cut() => Ok(()),
            () = self.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! { ended = connection => ended, () = self.cut.cancelled() => Ok(()) }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(error, "a connection ended badly");
        }
    }
}

/// Says why, then reads on until the client has heard it: closing with unread bytes would throw the answer away.
async fn refuse(mut stream: TcpStream) {
    let _ = stream.write_all(REFUSAL.as_bytes()).await;
    let _ = stream.shutdown().await;
    let mut waste = [0u8; 1_024];
    while stream.read(&mut waste).await.is_ok_and(|read| read > 0) {}
}

/// How HTTP/2 connections begin.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream that must say in time which HTTP it speaks. hyper's own clock starts only after that.
struct Greeted {
    stream: TcpStream,
    /// Runs until the first bytes have told the version.
    deadline: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// How much of [`PREFACE`] has come.
    matched: usize,
}

impl Greeted {
    fn new(stream: TcpStream, clock: &Clock, limit: Duration) -> Self {
        let clock = clock.clone();
        Self { stream, deadline: Some(Box::pin(async move { clock.sleep(limit).await })), matched: 0 }
    }

    fn note(&mut self, bytes: &[u8]) {
        let expected = PREFACE.get(self.matched..).unwrap_or_default();
        let same = bytes.iter().zip(expected).take_while(|(byte, wanted)| byte == wanted).count();
        self.matched += same;
        if same < bytes.len() || self.matched == PREFACE.len() {
            self.deadline = None;
        }
    }
}

impl AsyncRead for Greeted {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(context, buffer) {
            if self.deadline.is_some() {
                self.note(buffer.filled().get(before..).unwrap_or_default());
            }
            return Poll::Ready(read);
        }
        if let Some(deadline) = &mut self.deadline {
            ready!(deadline.as_mut().poll(context));
            return Poll::Ready(Err(ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl AsyncWrite for Greeted {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_is_as_long_as_it_says() {
        let (head, body) = REFUSAL.split_once("\r\n\r\n").unwrap_or_default();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
    }
}
