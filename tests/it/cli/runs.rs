//! `dispatch runs`.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use super::ran::{Server, Shell};

/// Calls a server and returns the body of the response.
pub(super) fn call(server: &Server, method: &str, path: &str, body: &str) -> Value {
    let host = server.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    let (key, length) = (&server.key, body.len());
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {key}\r\nprefer: respond-async\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
    // Short bodies come in one piece; with chunked encoding the JSON stands between the chunk lengths.
    let (start, end) = (body.find('{').unwrap_or(0), body.rfind('}').map_or(0, |end| end + 1));
    serde_json::from_str(&body[start..end]).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

#[test]
fn a_run_that_crashes_servers_is_listed_and_discarded() {
    let shell = Shell::new();
    let first = Server::start(&shell, "data");
    let key = first.key.clone();
    let prompt = json!({ "model": "local/echo", "userPrompt": "slow 1000\nrepeat 600 word" });
    let flow = json!({ "flow": { "name": "heavy", "steps": [{ "id": "talk", "type": "prompt", "config": prompt }] } });
    let started = call(&first, "POST", "/v1/dispatch", &flow.to_string());
    let run = started["executionId"].as_str().unwrap_or_else(|| panic!("{started}")).to_owned();
    drop(first);
    assert_eq!(shell.json(&["runs", "list", "--data", "data"])["runs"][0]["id"], run);
    assert_eq!(shell.json(&["runs", "list", "--stuck", "--data", "data"])["runs"], json!([]), "it lost its first server just now");
    let mut second = Server::start(&shell, "data");
    second.key = key.clone();
    while call(&second, "GET", &format!("/v1/executions/{run}"), "")["recoveries"] != 1 {}
    let refused = shell.json(&["runs", "discard", &run, "--data", "data"]);
    assert_eq!((&refused["error"]["code"], &refused["exitCode"]), (&"database_in_use".into(), &2.into()));
    drop(second);
    let stuck = shell.json(&["runs", "list", "--stuck", "--data", "data"]);
    assert_eq!(
        (&stuck["runs"][0]["id"], &stuck["runs"][0]["lostServers"], &stuck["runs"][0]["name"]),
        (&json!(run), &json!(1), &json!("heavy"))
    );
    assert_eq!(shell.json(&["runs", "discard", &run, "--data", "data"])["discarded"], true);
    assert_eq!(shell.json(&["runs", "list", "--data", "data"])["runs"], json!([]));
    let again = shell.json(&["runs", "discard", &run, "--data", "data"]);
    assert_eq!(again["error"]["code"], "execution_ended");
    let mut third = Server::start(&shell, "data");
    third.key = key;
    let end = call(&third, "GET", &format!("/v1/executions/{run}"), "");
    assert_eq!((&end["status"], &end["error"]["code"]), (&json!("failed"), &json!("run_discarded")), "{end}");
}

#[test]
fn a_missing_run_is_not_discarded() {
    let shell = Shell::new();
    drop(Server::start(&shell, "data"));
    for id in ["exec_01m818aaaaaaaaaaaaaaaaaaaa", "nonsense"] {
        let ran = shell.json(&["runs", "discard", id, "--data", "data"]);
        assert_eq!((&ran["error"]["code"], &ran["exitCode"]), (&"not_found".into(), &4.into()), "{id}");
    }
}
