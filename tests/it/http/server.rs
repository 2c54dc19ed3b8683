//! The server loop: slow clients, too many clients, and an orderly end.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use bytes::Bytes;
use dispatch::clock::Clock;
use dispatch::http::serve::{ServeOptions, serve};
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::app::within;
use crate::support::call::client_with;

struct Server {
    address: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

/// A server whose `/stream` sends one line and then stays silent for ever.
async fn server(options: ServeOptions) -> Server {
    let endless = || async {
        let stream =
            futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"first\n"))]).chain(futures_util::stream::pending());
        Body::from_stream(stream)
    };
    let router =
        Router::new().route("/", get(|| async { "hello" }).post(|body: String| async move { body })).route("/stream", get(endless));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let (address, shutdown) = (listener.local_addr().unwrap(), CancellationToken::new());
    let task = tokio::spawn(serve(listener, router, Clock::system(), shutdown.clone(), options));
    Server { address, shutdown, task }
}

async fn send(address: SocketAddr, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

/// Reads until the text has come.
async fn read_until(stream: &mut TcpStream, wanted: &str) -> String {
    let mut text = String::new();
    while !text.contains(wanted) {
        let mut buffer = [0u8; 1_024];
        let read = within(stream.read(&mut buffer)).await.unwrap();
        assert!(read > 0, "closed after: {text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    text
}

async fn rest(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = within(stream.read_to_end(&mut bytes)).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
const STREAM: &str = "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n";

#[tokio::test]
async fn clients_that_never_say_what_they_want_are_cut() {
    let server = server(ServeOptions { header_timeout: Duration::from_millis(200), ..ServeOptions::default() }).await;
    for start in ["", "P", "PRI * HTTP/2.0\r\n", "GET / HTTP/1.1\r\nHost:", "GET"] {
        let answer = rest(send(server.address, start).await).await;
        assert!(!answer.contains("200 OK"), "{start}: {answer}");
    }
    let mut idle = send(server.address, REQUEST).await;
    read_until(&mut idle, "hello").await;
    assert_eq!(rest(idle).await, "", "an idle connection is closed");
}

#[tokio::test]
async fn a_quick_client_may_stay_as_long_as_it_is_answered() {
    let server = server(ServeOptions { header_timeout: Duration::from_millis(200), ..ServeOptions::default() }).await;
    let mut stream = send(server.address, "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n").await;
    read_until(&mut stream, "first").await;
    let more = tokio::time::timeout(Duration::from_millis(600), stream.read(&mut [0u8; 16])).await;
    assert!(more.is_err(), "the stream was cut: {more:?}");
}

#[tokio::test]
async fn connections_above_the_cap_are_told_and_closed() {
    let server = server(ServeOptions { max_connections: 2, ..ServeOptions::default() }).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = send(server.address, STREAM).await;
        read_until(&mut stream, "first").await;
        held.push(stream);
    }
    let refused = rest(send(server.address, REQUEST).await).await;
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("retry-after: 1"), "{refused}");
    let body: serde_json::Value = serde_json::from_str(refused.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(body["code"], "too_many_connections");
    held.pop();
    let freed = async {
        loop {
            if rest(send(server.address, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await).await.contains("200 OK") {
                return;
            }
        }
    };
    within(freed).await;
}

#[tokio::test]
async fn idle_connections_make_room_for_active_ones() {
    let server = server(ServeOptions { max_connections: 3, ..ServeOptions::default() }).await;
    let mut at_work = send(server.address, STREAM).await;
    read_until(&mut at_work, "first").await;
    let mut silent = Vec::new();
    let half_sent = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf";
    for start in ["", half_sent, "GET / HTTP/1.1\r\nHost:", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "", "G"] {
        silent.push(send(server.address, start).await);
    }
    let mut asking = send(server.address, REQUEST).await;
    read_until(&mut asking, "hello").await;
    for stream in silent.drain(..5) {
        assert!(!rest(stream).await.contains("HTTP/1.1"), "it was cut without a word");
    }
    let more = tokio::time::timeout(Duration::from_millis(100), at_work.read(&mut [0u8; 16])).await;
    assert!(more.is_err(), "one that is at work is left alone: {more:?}");
}

#[test]
fn connections_are_limited_by_open_files() {
    let fitted = |files| ServeOptions::default().fitted_to(files).max_connections;
    assert_eq!((fitted(1_024), fitted(64), fitted(1_048_576)), (768, 16, 20_000));
}

#[tokio::test]
async fn idle_connections_end_at_once_at_shutdown() {
    let server = server(ServeOptions::default()).await;
    let mut stream = send(server.address, REQUEST).await;
    read_until(&mut stream, "hello").await;
    let silent = send(server.address, "").await;
    server.shutdown.cancel();
    assert_eq!(rest(stream).await, "");
    drop(silent);
    within(server.task).await.unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn what_does_not_end_is_cut_at_the_deadline() {
    let server = server(ServeOptions { shutdown_timeout: Duration::from_millis(200), ..ServeOptions::default() }).await;
    let mut stream = send(server.address, "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n").await;
    read_until(&mut stream, "first").await;
    server.shutdown.cancel();
    within(server.task).await.unwrap();
    rest(stream).await;
}

#[tokio::test]
async fn http_2_is_spoken_too() {
    let server = server(ServeOptions::default()).await;
    let answer =
        client_with(reqwest::ClientBuilder::http2_prior_knowledge).get(format!("http://{}/", server.address)).send().await.unwrap();
    assert_eq!((answer.version(), answer.text().await.unwrap().as_str()), (reqwest::Version::HTTP_2, "hello"));
}
