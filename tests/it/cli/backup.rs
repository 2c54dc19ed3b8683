//! `dispatch backup`, `dispatch restore` and `dispatch export`.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::ran::{Server, Shell};
use super::runs::call;

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

fn dispatch(server: &Server, steps: &Value) -> String {
    let body = json!({ "flow": { "name": "f", "steps": steps } });
    text(&call(server, "POST", "/v1/dispatch", &body.to_string())["executionId"])
}

fn waits() -> Value {
    json!([{ "id": "w", "type": "wait-for-signal", "config": { "name": "go" } }])
}

fn until_status(server: &Server, run: &str, status: &str) {
    while call(server, "GET", &format!("/v1/executions/{run}"), "")["status"] != status {}
}

fn mode(path: &str) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_backup_of_a_busy_server_is_restored_and_its_paused_run_goes_on() {
    let shell = Shell::new();
    let server = Server::start(&shell, "data");
    let run = dispatch(&server, &waits());
    until_status(&server, &run, "paused");
    let secret = json!({ "key": "crm", "value": "canary-of-the-owner" });
    call(&server, "POST", "/v1/secrets", &secret.to_string());
    let stop = AtomicBool::new(false);
    let (envelope, written) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                dispatch(&server, &json!([]));
                count += 1;
            }
            count
        });
        let envelope = shell.json(&["backup", "kept/one", "--data", "data", "--include-master-key"]);
        stop.store(true, Ordering::Relaxed);
        (envelope, writer.join().unwrap())
    });
    assert!(written > 0);
    assert_eq!((&envelope["backup"]["masterKey"], &envelope["keepSeparately"]), (&json!(true), &json!([])), "{envelope}");
    for file in ["dispatch.db", "master.key", "backup.json"] {
        assert_eq!(mode(&shell.path(&format!("kept/one/{file}"))), 0o600, "{file}");
    }
    let again = shell.json(&["backup", "kept/one", "--data", "data"]);
    assert_eq!(again["error"]["code"], "backup_exists");
    let refused = shell.json(&["restore", "kept/one", "--data", "data"]);
    assert_eq!(refused["error"]["code"], "data_folder_not_empty");
    let refused = shell.json(&["restore", "data", "--data", "elsewhere"]);
    assert_eq!(refused["error"]["code"], "database_in_use");
    let key = server.key.clone();
    drop(server);
    shell.json(&["restore", "kept/one", "--data", "again"])["restored"].as_object().unwrap();
    assert_eq!(mode(&shell.path("again/dispatch.db")), 0o600);
    let mut restored = Server::start(&shell, "again");
    restored.key = key;
    assert_eq!(call(&restored, "GET", &format!("/v1/executions/{run}"), "")["status"], "paused");
    call(&restored, "POST", &format!("/v1/executions/{run}/signals/go"), "{}");
    until_status(&restored, &run, "completed");
}

#[test]
fn a_backup_without_the_key_says_what_else_to_keep() {
    let shell = Shell::new();
    drop(Server::start(&shell, "data"));
    let envelope = shell.json(&["backup", "kept", "--data", "data"]);
    assert!(text(&envelope["keepSeparately"][0]).contains("master.key"), "{envelope}");
    assert!(!std::path::Path::new(&shell.path("kept/master.key")).exists());
    let leftovers: Vec<_> = std::fs::read_dir(shell.folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.contains("partial"))
        .collect();
    assert!(leftovers.is_empty(), "{leftovers:?}");
}

#[test]
fn what_cannot_be_restored_is_refused_and_leaves_nothing() {
    let shell = Shell::new();
    drop(Server::start(&shell, "data"));
    let nothing = shell.json(&["restore", "nowhere", "--data", "new"]);
    assert_eq!((&nothing["error"]["code"], &nothing["exitCode"]), (&json!("backup_not_found"), &json!(4)));
    std::fs::create_dir(shell.path("bad")).unwrap();
    std::fs::write(shell.path("bad/dispatch.db"), "no database at all, and nothing like one".repeat(500)).unwrap();
    assert_eq!(shell.json(&["restore", "bad", "--data", "new"])["error"]["code"], "backup_faulty");
    assert!(!std::path::Path::new(&shell.path("new")).exists());
    let postgres = ["--database-url", "postgres://nobody@127.0.0.1:1/none"];
    for command in [&["backup", "x"][..], &["restore", "bad"]] {
        let refused = shell.json(&[command, &postgres[..]].concat());
        assert_eq!(refused["error"]["code"], "backup_unsupported", "{refused}");
        assert!(text(&refused["error"]["next"]).contains("pg_dump"), "{refused}");
    }
}

#[test]
fn an_export_has_everything_of_a_tenant_but_its_secrets() {
    let shell = Shell::new();
    let server = Server::start(&shell, "data");
    let secret = json!({ "key": "crm", "value": "canary-of-the-owner" });
    call(&server, "POST", "/v1/secrets", &secret.to_string());
    call(&server, "PUT", "/v1/credentials/openai", &json!({ "apiKey": "sk-canary-0123456789" }).to_string());
    call(&server, "POST", "/v1/flows", &json!({ "name": "saved", "steps": [] }).to_string());
    call(&server, "POST", "/v1/records", &json!({ "type": "t", "name": "r" }).to_string());
    let run = dispatch(&server, &json!([{ "id": "s", "type": "set-variable", "config": { "variableName": "a", "value": "1" } }]));
    until_status(&server, &run, "completed");
    let said = shell.json(&["export", "--data", "data", "--out", "out"]);
    assert_eq!((&said["exported"]["flows"], &said["exported"]["executions"]), (&json!(1), &json!(1)), "{said}");
    let lines = |kind: &str| -> Vec<Value> {
        let text = std::fs::read_to_string(shell.path(&format!("out/{kind}.jsonl"))).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    assert_eq!((&lines("flows")[0]["name"], &lines("records")[0]["name"]), (&json!("saved"), &json!("r")));
    let executions = lines("executions");
    assert_eq!((&executions[0]["id"], &executions[0]["status"]), (&json!(run), &json!("completed")));
    assert!(executions[0]["events"].as_array().unwrap().len() > 1, "{}", executions[0]);
    assert_eq!(lines("secrets").iter().map(|row| row["key"].clone()).collect::<Vec<_>>(), [json!("crm"), Value::Null]);
    let all = shell.run(&["export", "--data", "data", "--out", "-"]);
    assert!(all.code == Some(0) && all.stdout.lines().all(|line| line.starts_with('{')), "{all}");
    let files = ["flows", "agents", "tools", "records", "conversations", "secrets", "executions"];
    let mut texts: Vec<String> =
        files.iter().map(|kind| std::fs::read_to_string(shell.path(&format!("out/{kind}.jsonl"))).unwrap()).collect();
    texts.push(all.stdout);
    for written in texts {
        assert!(!written.contains("canary") && !written.contains(&server.key), "{written}");
    }
    assert_eq!(mode(&shell.path("out/executions.jsonl")), 0o600);
    let stranger = shell.json(&["export", "--data", "data", "--tenant", "tenant_01h455vb4pex5vsknk084sn02q", "--out", "none"]);
    assert_eq!(stranger["error"]["code"], "tenant_not_found");
}
