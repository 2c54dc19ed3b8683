//! How a server reacts to process signals.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::ran::{Server, Shell};

/// Returns the status line of the answer to a health check.
fn health(server: &Server) -> String {
    let mut stream = TcpStream::connect(server.url.strip_prefix("http://").unwrap()).unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.lines().next().unwrap_or_default().to_owned()
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
