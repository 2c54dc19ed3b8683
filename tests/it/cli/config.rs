//! `dispatch config`, and the configuration file of a server.

use std::path::Path;

use dispatch::cli::config::reference_table;
use reqwest::Method;
use serde_json::{Value, json};

use super::ran::{Server, Shell, example};
use crate::support::app::within;
use crate::support::call::{Answer, Call, client};

/// Writes a configuration file and returns its path.
fn write(shell: &Shell, text: &str) -> String {
    let path = shell.path("dispatch.toml");
    std::fs::write(&path, text).unwrap();
    path
}

/// Returns the settings that `config show` prints with these arguments and variables.
fn show(shell: &Shell, arguments: &[&str], variables: &[(&str, &str)]) -> Value {
    let arguments = [&["config", "show", "--json"][..], arguments].concat();
    let output = shell.command(&arguments).envs(variables.iter().copied()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    serde_json::from_str(&text).unwrap()
}

/// Returns the value of a setting and where it comes from.
fn setting(shown: &Value, name: &str) -> (Value, String) {
    let found = shown["settings"].as_array().unwrap().iter().find(|setting| setting["name"] == name).unwrap();
    (found["value"].clone(), found["source"].as_str().unwrap().to_owned())
}

/// Returns the problems that `config check` finds in a file, as line, key and message.
fn problems(shell: &Shell, text: &str) -> Vec<(u64, String, String)> {
    let file = write(shell, text);
    let refused = shell.json(&["config", "check", "--config", &file]);
    assert_eq!((&refused["exitCode"], &refused["error"]["code"]), (&json!(2), &json!("invalid_configuration")), "{refused}");
    assert!(refused["error"]["next"].as_str().unwrap().contains("dispatch config check"), "{refused}");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let problems = refused["error"]["details"]["problems"].as_array().unwrap();
    problems.iter().map(|problem| (problem["line"].as_u64().unwrap(), text(&problem["key"]), text(&problem["message"]))).collect()
}

#[test]
fn flags_go_before_variables_before_the_file_before_defaults() {
    let shell = Shell::new();
    let file = write(&shell, "[http]\nrate-limit = 20\nmax-connections = 300\nbody-seconds = 0x7\ncors-origin = [\"a.example.com\"]\n");
    let shown =
        show(&shell, &["--config", &file, "--rate-limit", "40"], &[("DISPATCH_RATE_LIMIT", "30"), ("DISPATCH_MAX_CONNECTIONS", "400")]);
    assert_eq!(setting(&shown, "rate-limit"), (json!(40), "flag".into()));
    assert_eq!(setting(&shown, "max-connections"), (json!(400), "env".into()));
    assert_eq!(setting(&shown, "body-seconds"), (json!(7), "file".into()));
    assert_eq!(setting(&shown, "cors-origin"), (json!(["a.example.com"]), "file".into()));
    assert_eq!(setting(&shown, "stream-seconds"), (json!(3_600), "default".into()));
    assert_eq!(setting(&shown, "script-workers"), (Value::Null, "default".into()));
    // A list is replaced as a whole, and the file can be named by a variable.
    let shown = show(&shell, &["--cors-origin", "b.example.com,c.example.com"], &[("DISPATCH_CONFIG", file.as_str())]);
    assert_eq!(setting(&shown, "cors-origin"), (json!(["b.example.com", "c.example.com"]), "flag".into()));
    assert_eq!(setting(&shown, "rate-limit"), (json!(20), "file".into()));
}

#[test]
fn a_switch_of_the_file_can_be_turned_off() {
    let shell = Shell::new();
    let file = write(&shell, "[server]\ndev = true\n[logs]\nlog-json = false\n");
    let shown = show(&shell, &["--config", &file], &[]);
    assert_eq!(setting(&shown, "dev"), (json!(true), "file".into()));
    assert_eq!(setting(&shown, "log-json"), (json!(false), "file".into()));
    let shown = show(&shell, &["--config", &file], &[("DISPATCH_DEV", "false")]);
    assert_eq!(setting(&shown, "dev"), (json!(false), "env".into()));
}

#[test]
fn every_fault_of_a_file_is_named_with_its_line() {
    let shell = Shell::new();
    let found = problems(
        &shell,
        "[http]\nrate-limits = 5\nmax-body-bytes = 10\n\n[logs]\nlog-json = \"yes\"\nlog = 3\n\n[srver]\nlisten = \"localhost:1\"\n",
    );
    let expected = [
        (2, "http.rate-limits", "did you mean `http.rate-limit`?"),
        (3, "http.max-body-bytes", "10 is not in the range 1024 to 67108864"),
        (6, "logs.log-json", "expected true or false, found string"),
        (7, "logs.log", "expected a string, found integer"),
        (9, "srver", "did you mean [server]?"),
    ];
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for ((line, key, message), (at, name, text)) in found.iter().zip(expected) {
        assert!(*line == at && key == name && message.contains(text), "{line}: {key}: {message}");
    }
}

#[test]
fn a_setting_in_the_wrong_place_is_told_the_right_one() {
    let shell = Shell::new();
    for (text, line, says) in [
        ("listen = \"localhost:1\"\n", 1, "`server.listen`"),
        ("\n[http]\nlisten = \"localhost:1\"\n", 3, "`server.listen`"),
        ("http = 5\n", 1, "[http]"),
        ("[server]\nlisten = \"8080\"\n", 2, "HOST:PORT"),
        ("[server]\nallow-private = [\"nowhere\"]\n", 2, "`server.allow-private`"),
        ("[http]\nrate-limit = -1\n", 2, "-1 is not in the range"),
        ("[http]\nrate-limit = 1.5\n", 2, "expected a whole number, found float"),
        ("[http]\ncors-origin = \"a.example.com\"\n", 2, "expected a list of strings, found string"),
        ("[http", 1, "not valid TOML"),
    ] {
        let found = problems(&shell, text);
        assert!(found.len() == 1 && found[0].0 == line && found[0].2.contains(says), "{text}: {found:?}");
    }
}

#[test]
fn secrets_of_the_environment_are_not_read_from_a_file() {
    let shell = Shell::new();
    for name in ["master-key", "api-key"] {
        let found = problems(&shell, &format!("[server]\n{name} = \"hunter2-hunter2-hunter2\"\n"));
        let variable = format!("DISPATCH_{}", name.to_uppercase().replace('-', "_"));
        assert!(found[0].2.contains(&variable) && !found[0].2.contains("hunter2"), "{found:?}");
    }
}

#[test]
fn secrets_are_masked() {
    let shell = Shell::new();
    let file = write(&shell, "[server]\ndatabase-url = \"postgres://u:hunter2@h/d\"\n");
    let variables = [("DISPATCH_API_KEY", "hunter2-hunter2-hunter2"), ("DISPATCH_SMTP_URL", "smtps://u:hunter2@h")];
    let shown = show(&shell, &["--config", &file], &variables);
    assert!(!shown.to_string().contains("hunter2"), "{shown}");
    assert_eq!(setting(&shown, "database-url"), (json!("***"), "file".into()));
    assert_eq!(setting(&shown, "smtp-url"), (json!("***"), "env".into()));
    assert_eq!(setting(&shown, "api-key"), (json!("***"), "env".into()));
    assert_eq!(setting(&shown, "master-key"), (Value::Null, "default".into()));
    let output = shell.command(&["config", "show", "--config", &file]).envs(variables).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains("hunter2"), "{text}");
    assert!(text.contains("[http]\n") && text.contains("\nrate-limit = 500  # default\n"), "{text}");
    assert!(text.contains("\ndatabase-url = \"***\"  # file\n"), "{text}");
}

#[test]
fn a_number_out_of_range_is_refused_wherever_it_comes_from() {
    let shell = Shell::new();
    let by_flag = shell.run(&["serve", "--max-body-bytes", "10"]);
    assert!(by_flag.code == Some(2) && by_flag.stderr.contains("1024..=67108864"), "{by_flag}");
    let by_variable = shell.command(&["config", "check"]).env("DISPATCH_LEASE_SECONDS", "0").output().unwrap();
    assert_eq!(by_variable.status.code(), Some(2));
    let file = write(&shell, "[runs]\nlease-seconds = 0\n");
    let by_file = shell.run(&["serve", "--config", &file]);
    assert!(by_file.code == Some(2) && by_file.stderr.contains("dispatch.toml:2: `runs.lease-seconds`"), "{by_file}");
}

#[test]
fn the_example_is_valid_and_checking_leaves_nothing_behind() {
    let shell = Shell::new();
    let checked = shell.json(&["config", "check", "--config", &example("dispatch.toml")]);
    assert!(checked["next"].as_str().unwrap().starts_with("start the server with `dispatch serve --config "), "{checked}");
    assert_eq!(std::fs::read_dir(shell.folder.path()).unwrap().count(), 0);
}

#[test]
fn what_a_file_refers_to_is_checked() {
    let shell = Shell::new();
    for (text, code) in [
        ("[models]\nmodel-alias = [\"fast=nowhere/nothing\"]\n", "invalid_configuration"),
        ("[models]\ndefault-provider = \"nobody\"\n", "invalid_configuration"),
        ("[http]\ncors-origin = [\"https://\"]\n", "invalid_origin"),
        ("[logs]\nlog = \"dispatch=loud\"\n", "log_filter_invalid"),
    ] {
        let file = write(&shell, text);
        let refused = shell.json(&["config", "check", "--config", &file]);
        assert_eq!((&refused["exitCode"], &refused["error"]["code"]), (&json!(2), &json!(code)), "{text}: {refused}");
    }
    let missing = shell.json(&["config", "check", "--config", "nowhere.toml"]);
    assert_eq!(missing["error"]["code"], "invalid_configuration", "{missing}");
}

#[test]
fn the_table_of_settings_is_up_to_date() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md")).unwrap();
    let begin = "<!-- settings: made by `dispatch config reference` -->\n";
    let kept = page.split(begin).nth(1).and_then(|rest| rest.split("<!-- end of settings -->").next()).unwrap();
    let table = reference_table();
    let stale = kept.lines().zip(table.lines()).find(|(kept, fresh)| kept != fresh);
    assert!(kept == table, "docs/configuration.md needs the output of `dispatch config reference`; the first difference: {stale:?}");
    assert_eq!(Shell::new().run(&["config", "reference"]).stdout, table);
}

/// Sends a request whose body has about so many bytes.
async fn send(server: &Server, bytes: usize) -> Answer {
    let body = json!({ "streamResponse": false, "inputs": { "text": "x".repeat(bytes) }, "flow": { "name": "Empty", "steps": [] } });
    Call::new(client().request(Method::POST, format!("{}/v1/dispatch", server.url))).bearer(&server.key).json(&body).send().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_of_the_file_is_in_force() {
    let shell = Shell::new();
    let file = write(&shell, "[http]\nmax-body-bytes = 2_048\n");
    let server = Server::start_with(&shell, "data", &["--log", "off", "--config", &file], &[]);
    let refused = send(&server, 3_000).await.refused(413, "body_too_large");
    assert_eq!(refused.json()["details"]["limitBytes"], 2_048);
    assert_ne!(send(&server, 1_000).await.status, 413);
}

/// Waits until the server's log has a line with these words.
async fn logged(shell: &Shell, server: &Server, words: &str) {
    let client = client();
    within(async {
        while !std::fs::read_to_string(shell.path("server.log")).unwrap().contains(words) {
            Call::new(client.request(Method::GET, format!("{}/livez", server.url))).send().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_reads_the_file_again() {
    let shell = Shell::new();
    let file = write(&shell, "[http]\nmax-body-bytes = 2_048\n");
    let server = Server::start_with(&shell, "data", &["--log", "info", "--config", &file], &[]);
    send(&server, 3_000).await.refused(413, "body_too_large");
    write(&shell, "[http]\nmax-body-bytes = 1_000_000\n[runs]\nlease-seconds = 20\n");
    server.signal("HUP");
    logged(&shell, &server, "need a restart").await;
    let log = std::fs::read_to_string(shell.path("server.log")).unwrap();
    assert!(log.contains("http.max-body-bytes") && log.contains("runs.lease-seconds"), "{log}");
    assert_ne!(send(&server, 3_000).await.status, 413);
    // A file that is not valid changes nothing.
    write(&shell, "[http]\nmax-body-bytes = 1_024\nmax-body-byte = 1\n");
    server.signal("HUP");
    logged(&shell, &server, "all settings stay as they are").await;
    assert_ne!(send(&server, 3_000).await.status, 413);
}
