//! How a server reacts to process signals.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::json;

use super::ran::{Server, Shell};
use crate::support::call::{Call, client};

/// Returns the status line of the answer to a health check.
fn health(server: &Server) -> String {
    let mut stream = TcpStream::connect(server.url.strip_prefix("http://").unwrap()).unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_sigterm_ends_the_server() {
    let shell = Shell::new();
    let mut server = Server::start_with(&shell, "data", &["--log", "off", "--grace-seconds", "600"], &[]);
    // Accepts connections and says nothing, so the execution is still at work when the server stops.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let body = json!({ "flow": { "name": "Waits", "steps": [{ "id": "s", "type": "fetch-url", "config": { "http": { "url": url } } }] } });
    let call = Call::new(client().post(format!("{}/v1/dispatch", server.url))).bearer(&server.key).header("prefer", "respond-async");
    assert_eq!(call.json(&body).send().await.status, 202);
    let _connection = silent.accept().unwrap();
    server.signal("TERM");
    // Each further one is the second at least.
    let code = loop {
        if let Some(code) = server.try_wait() {
            break code;
        }
        server.signal("TERM");
    };
    assert_eq!(code, Some(1));
}

#[test]
fn sighup_and_sigusr1_do_not_stop_the_server() {
    let shell = Shell::new();
    let mut server = Server::start(&shell, "data");
    assert_eq!(health(&server), "HTTP/1.1 200 OK");
    for name in ["HUP", "USR1", "HUP"] {
        server.signal(name);
        assert_eq!(health(&server), "HTTP/1.1 200 OK", "after {name}");
    }
    server.signal("TERM");
    assert_eq!(server.wait(), Some(0));
}

#[test]
fn a_sigterm_right_after_the_start_stops_the_server() {
    let shell = Shell::new();
    for _ in 0..8 {
        assert_eq!(Server::start(&shell, "data").terminate(), Some(0));
    }
}
