//! `dispatch serve`: its output at the start, and its log.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use reqwest::Method;
use serde_json::{Value, json};

use super::ran::{Server, Shell, example};
use crate::support::call::{Call, client};

/// A flow whose only step fails the execution.
fn failing() -> Value {
    json!({ "streamResponse": false, "flow": { "name": "Sync", "onStepError": "stop", "steps": [
        { "id": "pull", "type": "transform-data", "config": { "script": "throw new Error('no')" } },
    ] } })
}

/// Makes a refused call and a failed execution, each with its own request id.
async fn troubles(server: &Server) {
    let client = client();
    let dispatch = |id: &str| {
        let call = client.request(Method::POST, format!("{}/v1/dispatch", server.url));
        Call::new(call).bearer(&server.key).header("x-request-id", id)
    };
    dispatch("refused-1").json(&json!({ "flow": { "name": "x", "steps": 5 } })).refused(422, "validation_failed").await;
    assert_eq!(dispatch("failed-1").json(&failing()).ok().await["status"], "failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_says_what_happened() {
    let shell = Shell::new();
    let server = Server::start_with(&shell, "data", &["--log", "info"], &[]);
    troubles(&server).await;
    let log = std::fs::read_to_string(shell.path("server.log")).unwrap();
    assert!(!log.contains('\u{1b}'), "colours in a file: {log}");
    let line = |words: &[&str]| log.lines().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(line(&["dispatch started", env!("CARGO_PKG_VERSION"), "data/dispatch.db", "data/master.key"]), "{log}");
    assert!(line(&["refused", "refused-1", "422", "validation_failed", "/v1/dispatch"]), "{log}");
    assert!(line(&["the execution failed", "failed-1", "exec_", "Sync", "script_failed", "pull"]), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_json_log_says_the_same() {
    let shell = Shell::new();
    let server = Server::start_with(&shell, "data", &["--log", "info", "--log-json"], &[]);
    troubles(&server).await;
    let log = std::fs::read_to_string(shell.path("server.log")).unwrap();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |id: &str| lines.iter().filter(|line| line["span"]["request_id"] == id).collect::<Vec<_>>();
    assert!(of("refused-1").iter().any(|line| line["fields"]["code"] == "validation_failed"), "{log}");
    assert!(of("failed-1").iter().any(|line| line["fields"]["code"] == "script_failed" && line["fields"]["step"] == "pull"), "{log}");
}

#[test]
fn the_first_key_is_not_logged() {
    let shell = Shell::new();
    let arguments = ["serve", "--dev", "--log", "off", "--listen", "localhost:0", "--data", "data"];
    let mut child = shell.command(&arguments).stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut said = Vec::new();
    for line in lines {
        said.push(line);
        if said.last().unwrap().starts_with("listening on ") {
            break;
        }
    }
    assert_eq!(said[0], "API key: written to data/first-api-key; move it to a safe place", "{said:?}");
    assert!(!said.concat().contains("dsp_live_"), "{said:?}");
    let path = shell.path("data/first-api-key");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let key = std::fs::read_to_string(path).unwrap();
    let url = said[1].strip_prefix("listening on ").unwrap();
    let done = shell.json(&["run", &example("01-sales-analysis.json"), "--server", url, "--key", key.trim()]);
    assert_eq!(done["execution"]["success"], true, "{done}");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Runs the server until it refuses to start.
fn refused(shell: &Shell, more: &[&str]) -> Value {
    shell.json(&[&["serve", "--dev", "--log", "off", "--listen", "127.0.0.1:0", "--data", "data"], more].concat())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_master_key_is_not_replaced_silently() {
    let shell = Shell::new();
    let (file, aside) = (shell.path("data/master.key"), shell.path("aside.key"));
    let server = Server::start(&shell, "data");
    let key = server.key.clone();
    drop(server);
    // Nothing is sealed yet, so a new key does no harm.
    std::fs::remove_file(&file).unwrap();
    let server = Server::start(&shell, "data");
    let call = Call::new(client().post(format!("{}/v1/secrets", server.url))).bearer(&key);
    call.json(&json!({ "key": "PAY", "value": "canary-1234" })).ok().await;
    drop(server);
    std::fs::rename(&file, &aside).unwrap();
    let error = refused(&shell, &[]);
    assert_eq!((&error["error"]["code"], &error["exitCode"]), (&"master_key_missing".into(), &2.into()), "{error}");
    assert!(error["error"]["next"].as_str().unwrap().contains("--new-master-key"), "{error}");
    assert!(!std::path::Path::new(&file).exists(), "no key was made");
    std::fs::copy(&aside, &file).unwrap();
    drop(Server::start(&shell, "data"));
    std::fs::remove_file(&file).unwrap();
    drop(Server::start_with(&shell, "data", &["--log", "off", "--new-master-key"], &[]));
    assert_ne!(std::fs::read(&file).unwrap(), std::fs::read(&aside).unwrap());
}

#[test]
fn a_start_on_a_full_disk_says_so() {
    let shell = Shell::new();
    // A server that has stopped leaves no log of the database behind, so the next one writes at once.
    assert_eq!(Server::start(&shell, "data").terminate(), Some(0));
    let serve = "trap '' XFSZ; ulimit -f 1; exec \"$0\" serve --dev --json --log off --listen 127.0.0.1:0 --data data";
    let mut limited = std::process::Command::new("/bin/sh");
    limited.args(["-c", serve, env!("CARGO_BIN_EXE_dispatch")]).current_dir(shell.folder.path()).env_clear();
    let output = limited.stdin(Stdio::null()).output().unwrap();
    let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert_eq!(
        (&said["error"]["code"], said["exitCode"].as_i64(), output.status.code()),
        (&"disk_full".into(), Some(2), Some(2)),
        "{said}"
    );
    assert!(said["error"]["next"].as_str().unwrap().contains("free some space"), "{said}");
    drop(Server::start(&shell, "data"));
}

#[test]
fn an_address_that_clients_cannot_reach_is_warned_of() {
    let shell = Shell::new();
    for (more, warned) in [(vec![], true), (vec!["--public-url", "https://dispatch.example.com"], false)] {
        let log = std::fs::File::create(shell.path("server.log")).unwrap();
        let mut arguments = vec!["serve", "--dev", "--log", "info", "--listen", "0.0.0.0:0", "--data", "data"];
        arguments.extend(more);
        let mut child = shell.command(&arguments).stdin(Stdio::null()).stderr(log).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        assert!(lines.any(|line| line.starts_with("listening on ")));
        child.kill().unwrap();
        child.wait().unwrap();
        let log = std::fs::read_to_string(shell.path("server.log")).unwrap();
        assert_eq!(log.contains("set --public-url"), warned, "{log}");
    }
}

#[test]
fn an_invalid_listen_address_is_refused() {
    let shell = Shell::new();
    for wrong in ["8080", "localhost", ":8080", "http://localhost:8080", "localhost:99999"] {
        let ran = shell.run(&["serve", "--listen", wrong]);
        assert!(ran.code == Some(2) && ran.stderr.contains("HOST:PORT"), "{wrong}: {ran}");
    }
}
