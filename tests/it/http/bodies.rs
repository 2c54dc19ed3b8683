//! Request bodies: what is refused, and how exactly.

use std::io::Write;
use std::time::Duration;

use dispatch::http::limits::LimitOptions;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::app::{Setup, TestApp, within};

const JSON: &str = "application/json";
const MIB: usize = 1024 * 1024;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A record of exactly `size` bytes as JSON.
fn record_of(size: usize) -> String {
    let empty = json!({ "type": "t", "name": "n", "metadata": { "x": "" } }).to_string();
    json!({ "type": "t", "name": "n", "metadata": { "x": "a".repeat(size - empty.len()) } }).to_string()
}

/// A record whose JSON is nested this deep.
fn record_nested(depth: usize) -> String {
    let inner = (0..depth - 2).fold(json!(1), |inner, _| json!([inner]));
    json!({ "type": "t", "name": "n", "metadata": { "x": inner } }).to_string()
}

#[tokio::test]
async fn what_is_not_json_is_refused() {
    let app = TestApp::start().await;
    let post = || app.post("/v1/records");
    for text in ["", "{", "{\"type\": }", "[1,]", "{\"type\":\"t\",\"name\":\"n\"} {}", "\u{feff}{}"] {
        post().body(JSON, text).refused(400, "invalid_json").await;
    }
    post().body(JSON, vec![b'"', 0xff, b'"']).refused(400, "invalid_json").await;
    post().body(JSON, b"{\"type\":\"t\",\"name\":\"n\",\"unknown\":\"\xff\"}".to_vec()).refused(400, "invalid_json").await;
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""] {
        post().body(kind, "{}").refused(415, "unsupported_media_type").await;
    }
    post().body("application/json; charset=utf-8", record_of(100)).ok().await;
}

#[tokio::test]
async fn what_does_not_fit_is_pointed_at() {
    let app = TestApp::start().await;
    let answer = app.post("/v1/records").json(&json!({ "type": "t", "name": "n", "messages": 5 })).refused(422, "validation_failed").await;
    assert_eq!(answer.pointers(), ["/messages"]);
    for text in ["[\"t\",\"n\"]", "5", "null", "\"{}\""] {
        assert_eq!(app.post("/v1/records").body(JSON, text).refused(422, "validation_failed").await.pointers(), [""]);
    }
    let answer = app
        .post("/v1/records")
        .json(&json!({ "type": "", "name": "x".repeat(501), "messages": [1] }))
        .refused(422, "validation_failed")
        .await;
    assert_eq!(answer.pointers(), ["/type", "/name", "/messages/0"]);
    app.post("/v1/records").json(&json!({ "type": "t", "name": "x".repeat(500), "unknown": true })).ok().await;
}

#[tokio::test]
async fn depth_has_a_limit() {
    let app = TestApp::start().await;
    app.post("/v1/records").body(JSON, record_nested(64)).ok().await;
    app.post("/v1/records").body(JSON, record_nested(65)).refused(413, "body_too_deep").await;
    app.post("/v1/records").body(JSON, "[".repeat(MIB)).refused(413, "body_too_deep").await;
}

#[tokio::test]
async fn size_has_a_limit_with_and_without_a_declared_length() {
    let app = TestApp::start().await;
    let (fits, too_large) = (record_of(2 * MIB), record_of(2 * MIB + 1));
    assert_eq!(fits.len(), 2 * MIB);
    app.post("/v1/records").body(JSON, fits).ok().await;
    app.post("/v1/records").body(JSON, too_large.clone()).refused(413, "body_too_large").await;
    let pieces: Vec<Result<Vec<u8>, std::io::Error>> = too_large.as_bytes().chunks(64 * 1024).map(|piece| Ok(piece.to_vec())).collect();
    let body = reqwest::Body::wrap_stream(futures_util::stream::iter(pieces));
    app.post("/v1/records").body(JSON, body).refused(413, "body_too_large").await;
}

#[tokio::test]
async fn who_writes_all_before_reading_learns_why_it_was_refused() {
    let app = TestApp::start().await;
    let mut stream = tokio::net::TcpStream::connect(app.address).await.unwrap();
    let body = "x".repeat(6 * MIB);
    let head = format!(
        "POST /v1/records HTTP/1.1\r\nhost: test\r\nauthorization: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        app.key,
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}

#[tokio::test]
async fn a_connection_survives_a_refusal_that_read_no_body() {
    let app = TestApp::start().await;
    for (path, key, status) in [("/v1/dispatch", "wrong", "401"), ("/v1/agents/x", &*app.key, "405"), ("/nowhere", &*app.key, "404")] {
        let mut stream = tokio::net::TcpStream::connect(app.address).await.unwrap();
        // Head and body in two writes, as many clients send them: the refusal is decided before the body is there.
        let second = "GET /livez HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
        let head = format!("POST {path} HTTP/1.1\r\nhost: test\r\nauthorization: {key}\r\ncontent-length: 40\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        tokio::task::yield_now().await;
        stream.write_all(&[b'x'; 40]).await.unwrap();
        stream.write_all(second.as_bytes()).await.unwrap();
        let mut answers = String::new();
        within(stream.read_to_string(&mut answers)).await.unwrap();
        assert!(answers.starts_with(&format!("HTTP/1.1 {status}")), "{answers}");
        assert!(answers.contains("HTTP/1.1 200"), "{path}: {answers}");
    }
}

#[tokio::test]
async fn a_refusal_that_leaves_a_long_body_unread_ends_the_connection_openly() {
    let app = TestApp::start().await;
    for (length, expect) in [(5 * MIB, ""), (40, "expect: 100-continue\r\n")] {
        let mut stream = tokio::net::TcpStream::connect(app.address).await.unwrap();
        let head = format!("POST /nowhere HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n{expect}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = [0; 2_048];
        let read = within(stream.read(&mut answer)).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..read]).to_lowercase();
        assert!(answer.starts_with("http/1.1 404"), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
    }
}

#[tokio::test]
async fn gzip_is_read_and_bombs_are_refused() {
    let app = TestApp::start().await;
    let post = |body: Vec<u8>| app.post("/v1/records").header("content-encoding", "gzip").body(JSON, body);
    let saved: Value = post(gzip(record_of(8 * MIB).as_bytes())).ok().await;
    assert_eq!(saved["name"], "n");
    post(gzip(record_of(8 * MIB + 1).as_bytes())).refused(413, "body_too_large").await;
    post(gzip(&vec![b' '; 32 * MIB])).refused(413, "body_too_large").await;
    post(b"not gzip".to_vec()).refused(400, "invalid_gzip").await;
    let cut = gzip(record_of(1_000).as_bytes());
    post(cut[..cut.len() - 9].to_vec()).refused(400, "invalid_gzip").await;
    app.post("/v1/records").header("content-encoding", "br").body(JSON, "{}").refused(415, "unsupported_content_encoding").await;
}

#[tokio::test]
async fn a_body_that_trickles_is_not_waited_for() {
    let mut limits = LimitOptions::default();
    limits.body.time = Duration::from_millis(200);
    let app = TestApp::with(Setup { limits, ..Setup::default() }).await;
    let start = futures_util::stream::iter([Ok::<_, std::io::Error>("{\"type\":")]);
    let body = reqwest::Body::wrap_stream(start.chain(futures_util::stream::pending()));
    app.post("/v1/records").body(JSON, body).refused(408, "body_too_slow").await;
    // The same where another library reads the body.
    let start = futures_util::stream::iter([Ok::<_, std::io::Error>("{\"jsonrpc\":")]);
    let body = reqwest::Body::wrap_stream(start.chain(futures_util::stream::pending()));
    let call = app.post("/mcp").header("accept", "application/json, text/event-stream").body(JSON, body);
    within(call.send()).await.refused(408, "body_too_slow");
    let call = app.post("/mcp").header("accept", "application/json, text/event-stream").body(JSON, record_of(2 * MIB + 1));
    call.refused(413, "body_too_large").await;
}

#[tokio::test]
async fn compressed_page_bodies_have_the_limit_of_plain_ones() {
    let app = TestApp::start().await;
    let body = |size: usize| {
        let empty = json!({ "token": "ct_live_x", "padding": "" }).to_string();
        gzip(json!({ "token": "ct_live_x", "padding": "a".repeat(size - empty.len()) }).to_string().as_bytes())
    };
    let post = |size: usize| app.bare(reqwest::Method::POST, "/v1/client/init").header("content-encoding", "gzip").body(JSON, body(size));
    post(2 * MIB).refused(401, "invalid_client_token").await;
    post(2 * MIB + 1).refused(413, "body_too_large").await;
}

#[tokio::test]
async fn queries_are_checked() {
    let app = TestApp::start().await;
    app.get("/v1/flows?limit=many").refused(400, "invalid_query").await;
    app.get("/v1/flows?cursor=nonsense").refused(400, "invalid_cursor").await;
    app.get("/v1/records?filter=%7B").refused(400, "invalid_query").await;
    let answer = app.get("/v1/records?filter=%7B%7D").refused(422, "validation_failed").await;
    assert_eq!(answer.pointers(), ["/filter/field"]);
    app.get("/v1/flows?unknown=1&direction=next&includeCount=true").ok().await;
}
