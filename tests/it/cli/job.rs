//! `dispatch job`: cases checked, run and looked at, by the real binary against a local stand-in.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::ran::{Server, Shell};
use crate::support::sink::{Reply, Sink};

/// A workspace: `jobs/`, `modules/tickets` and a state folder.
pub struct Workspace {
    pub shell: Shell,
}

/// What a command answered with `--json`.
pub struct Answer {
    pub code: i32,
    pub body: Value,
}

impl Workspace {
    pub fn new() -> Self {
        let shell = Shell::new();
        let manifest = json!({ "name": "tickets", "version": "0.1.0", "actions": {
            "open": {
                "description": "Open a ticket",
                "input": { "type": "object", "required": ["title"], "properties": {
                    "title": { "type": "string", "minLength": 1 }, "priority": { "type": "integer", "default": 3 },
                } },
                "request": { "method": "POST", "path": "/tickets", "body": { "title": "${payload.title}", "priority": "${payload.priority}" } },
                "exports": { "ticketId": "$.id" }, "detail": "opened ${response.id}",
            },
            "get": {
                "description": "Get a ticket",
                "input": { "type": "object", "required": ["id"], "properties": { "id": { "type": "integer" } } },
                "request": { "method": "GET", "path": "/tickets/${payload.id}" },
            },
            "close": {
                "description": "Close a ticket",
                "input": { "type": "object", "required": ["id"], "properties": { "id": { "type": "integer" } } },
                "credential": { "type": "object", "required": ["token"], "properties": { "token": { "type": "string", "minLength": 1 } } },
                "request": { "method": "DELETE", "path": "/tickets/${payload.id}", "headers": { "authorization": "Bearer ${credential.token}" } },
            },
        } });
        let workspace = Self { shell };
        workspace.write("modules/tickets/module.json", &manifest);
        std::fs::create_dir_all(workspace.path("jobs")).unwrap();
        workspace
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.shell.folder.path().join(name)
    }

    pub fn write(&self, name: &str, content: &Value) -> String {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content.to_string()).unwrap();
        path.display().to_string()
    }

    /// A case of steps that call the stand-in.
    pub fn case(&self, name: &str, base: &str, steps: &Value) -> String {
        let case = json!({ "schemaVersion": 1, "jobType": name, "http": { "baseUrl": base }, "scenario": { "steps": steps } });
        self.write(&format!("jobs/{name}.job.case.json"), &case)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.shell.command(arguments);
        command.env("DISPATCH_HOME", self.path("home")).env("DISPATCH_ROOT", self.path("")).stdin(Stdio::null()).stderr(Stdio::piped());
        command
    }

    pub fn json(&self, arguments: &[&str]) -> Answer {
        self.json_with(arguments, &[])
    }

    pub fn json_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Answer {
        let output = self.command(&[arguments, &["--json"]].concat()).envs(variables.iter().copied()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let body = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text:?}; stderr: {errors}"));
        Answer { code: output.status.code().unwrap(), body }
    }

    pub fn text(&self, arguments: &[&str]) -> String {
        String::from_utf8(self.command(arguments).output().unwrap().stdout).unwrap()
    }

    /// A JSON file of a run's folder.
    pub fn file(&self, run: &Value, name: &str) -> Value {
        let folder = Path::new(run["runDir"].as_str().unwrap_or_else(|| panic!("no runDir in {run}")));
        serde_json::from_str(&std::fs::read_to_string(folder.join(name)).unwrap()).unwrap()
    }
}

/// The commands that an answer offers.
pub fn next(body: &Value) -> Vec<String> {
    let commands = body["next"].as_array().map(Vec::as_slice).unwrap_or_default().iter();
    commands.map(|next| next["command"].as_str().unwrap().to_owned()).collect()
}

fn codes(issues: &Value) -> Vec<&str> {
    issues.as_array().unwrap_or_else(|| panic!("no list: {issues}")).iter().map(|issue| issue["code"].as_str().unwrap()).collect()
}

/// Opens a ticket, and polls it until it is done.
fn ticket_steps() -> Value {
    json!([
        { "id": "open", "action": "tickets.open", "payload": { "title": "Broken" }, "capture": { "ticket.id": "exports.ticketId" } },
        { "id": "done", "action": "flow.poll", "payload": {
            "action": "tickets.get", "payload": { "id": "${run.ticket.id}" }, "intervalMs": 250,
            "conditions": { "mode": "ALL", "rules": [{ "path": "$.state", "op": "eq", "value": "done" }] }, "store": { "final": "$.state" },
        } },
    ])
}

fn ticket_replies(sink: &Sink) {
    sink.on("/tickets", [Reply::status(201, json!({ "id": 7, "password": "hunter2" }))]);
    sink.on("/tickets/7", [Reply::json(json!({ "state": "open" })), Reply::json(json!({ "state": "done" }))]);
}

#[test]
fn a_sleep_runs_and_leaves_its_files() {
    let workspace = Workspace::new();
    let steps = json!([{ "id": "wait", "action": "flow.sleep", "payload": { "duration": "1ms" } }]);
    let case = json!({ "schemaVersion": 1, "jobType": "nap", "scenario": { "steps": steps } });
    workspace.write("jobs/nap.job.case.json", &case);
    let valid = workspace.json(&["job", "validate", "--case", "nap"]);
    assert_eq!((valid.code, &valid.body["valid"]), (0, &true.into()), "{}", valid.body);
    let run = workspace.json(&["job", "run", "--case", "nap"]);
    assert_eq!((run.code, &run.body["status"], &run.body["jobType"]), (0, &"SUCCESS".into(), &"nap".into()), "{}", run.body);
    let id = run.body["runId"].as_str().unwrap();
    assert_eq!(next(&run.body), [format!("dispatch job assert --run-id {id}")]);
    assert_eq!(workspace.file(&run.body, "step-results.json")[0]["response"], json!({ "slept": "1ms" }));
    assert_eq!(workspace.file(&run.body, "summary.json")["status"], "SUCCESS");
    assert_eq!(workspace.file(&run.body, "meta.json")["runId"], id);
    assert_eq!(workspace.file(&run.body, "module_resolution.json")["steps"][0]["resolved"]["actionKey"], "flow.sleep");
    let folder = Path::new(run.body["runDir"].as_str().unwrap());
    assert!(std::fs::read_to_string(folder.join("activity.log")).unwrap().contains("step wait action=flow.sleep"));
    assert!(!folder.join(".engine").exists());
    let asserted = workspace.json(&["job", "assert"]);
    assert_eq!((asserted.code, &asserted.body["overall"]), (0, &"PASS".into()), "{}", asserted.body);
    assert!(asserted.body.get("next").is_none());
    assert_eq!(workspace.json(&["job", "latest"]).body["runId"], id);
    assert_eq!(workspace.json(&["job", "list"]).body[0]["runId"], id);
    assert_eq!(workspace.json(&["job", "cases"]).body["cases"], json!(["nap.job.case.json"]));
    assert_eq!(workspace.json(&["job", "assert", "--run-id", "nothing-like-it"]).code, 1);
    assert_eq!(workspace.json(&["job", "resume", "--run-id", id]).code, 2);
}

#[test]
fn every_fault_of_a_case_is_reported_at_once() {
    let workspace = Workspace::new();
    let broken =
        workspace.write("jobs/broken.job.case.json", &json!({ "schemaVersion": "1", "scenario": { "steps": [{ "action": "x" }] } }));
    for command in ["validate", "run"] {
        let answer = workspace.json(&["job", command, "--case", &broken]);
        assert_eq!((answer.code, &answer.body["code"]), (2, &"USAGE_ERROR".into()));
        let paths: Vec<&str> =
            answer.body["details"]["issues"].as_array().unwrap().iter().map(|issue| issue["path"].as_str().unwrap()).collect();
        assert_eq!(paths, ["schemaVersion", "jobType", "scenario.steps.0.action"]);
    }
    let steps = json!([
        { "id": "a", "action": "memory.store", "payload": { "namespace": "n", "key": "k", "value": "${step.b.response}" } },
        { "id": "a", "action": "tickets.open", "payload": { "title": 7 }, "capture": { "x": "response.id" } },
        { "id": "b", "action": "tickets.get", "payload": { "id": "${input.ticket}" } },
        { "id": "c", "action": "tickets.lose", "payload": { "x": "${env.A" } },
        { "id": "d", "action": "flow.poll", "payload": { "action": "memory.forget", "conditions": { "mode": "ALL", "rules": [{ "path": "$.x[?(", "op": "exists" }] } } },
    ]);
    let case = workspace.case("wrong", "${step.a.response}", &steps);
    let answer = workspace.json(&["job", "validate", "--case", &case, "--input", "x=1"]);
    assert_eq!(answer.code, 2);
    let details = &answer.body["details"];
    assert_eq!(
        codes(&details["issues"]),
        [
            "DUPLICATE_STEP_ID",
            "DISALLOWED_MEMORY_MUTATION",
            "FORWARD_STEP_REFERENCE",
            "INVALID_CAPTURE",
            "MODULE_VALIDATION_ERROR",
            "INVALID_INTERPOLATION",
            "UNKNOWN_ACTION",
            "MALFORMED_INTERPOLATION",
            "DISALLOWED_MEMORY_MUTATION",
            "FLOW_POLL_VALIDATION_ERROR",
            "INVALID_INTERPOLATION",
        ]
    );
    assert_eq!(details["inputIssues"][0]["path"], "inputs.x");
    assert!(!workspace.path("run-output").exists());
    let missing = workspace.json(&["job", "run", "--case", "nowhere"]);
    assert_eq!((missing.code, &missing.body["code"]), (4, &"NOT_FOUND".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_polls_and_captures_are_kept() {
    let (sink, workspace) = (Sink::start().await, Workspace::new());
    ticket_replies(&sink);
    workspace.case("ticket", &sink.url(""), &ticket_steps());
    let run = workspace.json(&["job", "run", "--case", "ticket"]);
    assert_eq!(run.code, 0, "{}", run.body);
    let sent = sink.seen("/tickets");
    assert_eq!((sent.len(), sent[0].json()), (1, json!({ "title": "Broken", "priority": 3 })));
    assert_eq!(sink.seen("/tickets/7").len(), 2);
    let results = workspace.file(&run.body, "step-results.json");
    assert_eq!((&results[0]["exports"]["ticketId"], &results[0]["detail"]), (&7.into(), &"opened 7".into()));
    assert_eq!((&results[1]["response"]["matched"], &results[1]["response"]["attempts"]), (&true.into(), &2.into()), "{results}");
    let resolved = workspace.file(&run.body, "job.case.resolved.json");
    assert_eq!(resolved["scenario"]["steps"][1]["payload"]["payload"]["id"], 7);
    let dump = workspace.json(&["job", "dump"]).body;
    let names: Vec<&str> = dump["calls"].as_array().unwrap().iter().map(|call| call["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["post_tickets", "get_tickets_7", "get_tickets_7"]);
    assert_eq!(dump["calls"][0]["request"]["title"], "Broken");
    assert!(!dump.to_string().contains("hunter2"), "{dump}");
    let inspected = workspace.json(&["job", "inspect", "--step", "2"]).body;
    assert_eq!((&inspected["totalCalls"], &inspected["failedCallCount"]), (&2.into(), &0.into()), "{inspected}");
    let readable = workspace.json(&["job", "readable", "--out", "calls.txt"]);
    assert_eq!(readable.body["calls"], 3);
    assert!(std::fs::read_to_string(workspace.path("calls.txt")).unwrap().contains("HTTP: POST"));
    let offline = workspace.json(&["job", "replay", "--run-id", "latest", "--offline"]);
    assert_eq!((offline.code, &offline.body["status"]), (0, &"SUCCESS".into()), "{}", offline.body);
    assert_eq!(workspace.file(&offline.body, "step-results.json")[1]["response"]["lastResponse"], json!({ "state": "done" }));
    assert_eq!(sink.everything().len(), 3);
    let strict = ["job", "assert", "--check", "calls-count-min", "--param", "min=4"];
    assert_eq!(workspace.json(&strict).code, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_run_says_what_to_look_at() {
    let (sink, workspace) = (Sink::start().await, Workspace::new());
    sink.on("/tickets", [Reply::status(500, json!({ "error": "no" }))]);
    workspace.case("ticket", &sink.url(""), &ticket_steps());
    let run = workspace.json(&["job", "run", "--case", "ticket"]);
    assert_eq!((run.code, &run.body["code"], &run.body["retryable"]), (1, &"RUNTIME_ERROR".into(), &false.into()), "{}", run.body);
    let result = &run.body["details"]["result"];
    assert_eq!((&result["failedStep"]["id"], &result["failedStepIndex"]), (&"open".into(), &1.into()), "{result}");
    let id = result["runId"].as_str().unwrap();
    let commands = [format!("inspect --run-id {id} --step 1"), format!("readable --run-id {id}"), format!("replay --run-id {id}")];
    assert_eq!(next(&run.body), commands.map(|command| format!("dispatch job {command}")));
    assert_eq!(workspace.file(result, "job.case.resolved.json")["http"]["baseUrl"], sink.url(""));
    let failed = workspace.json(&["job", "assert"]);
    assert_eq!((failed.code, &failed.body["overall"], failed.body.get("code")), (1, &"FAIL".into(), None));
    assert_eq!(next(&failed.body).len(), 2);
    let last = &workspace.json(&["job", "inspect", "--step", "1", "--show-curl"]).body["lastFailure"];
    assert_eq!((&last["httpCode"], &last["response"]["error"]), (&500.into(), &"no".into()), "{last}");
    assert!(last["curl"].as_str().unwrap().starts_with("curl -X POST"));
    let explained = workspace.json(&["job", "explain"]).body;
    assert_eq!(
        (&explained["steps"][0]["state"], &explained["steps"][1]["state"]),
        (&"failed".into(), &"not reached".into()),
        "{explained}"
    );
    let unreachable = workspace.case("away", "http://127.0.0.1:1", &ticket_steps());
    let away = workspace.json(&["job", "run", "--case", &unreachable]);
    assert_eq!(away.code, 1, "{}", away.body);
    assert_eq!(workspace.json(&["job", "dump"]).body["calls"][0]["httpCode"], 0);
    let other = workspace.json(&["job", "diff", id, "latest"]);
    assert_eq!((other.code, &other.body["equal"]), (1, &false.into()));
}

#[test]
fn memory_is_filled_by_seeds_and_read_by_cases() {
    let workspace = Workspace::new();
    let seed = json!({ "schemaVersion": 1, "jobType": "seed", "scenario": { "steps": [
        { "action": "memory.store", "payload": { "namespace": "shop", "key": "user.id", "value": 42 } },
    ] } });
    workspace.write("modules/tickets/jobs/user.job.seed.json", &seed);
    let case = json!({ "schemaVersion": 1, "jobType": "read",
        "dependencies": { "memory": [{ "namespace": "shop", "key": "user.id", "fill": { "module": "tickets", "job": "user" } }] },
        "scenario": { "steps": [{ "id": "get", "action": "memory.recall", "payload": { "namespace": "shop", "key": "user.id" }, "capture": { "user": "exports.value" } }] } });
    workspace.write("jobs/read.job.case.json", &case);
    let missing = workspace.json(&["job", "run", "--case", "read"]);
    assert_eq!((missing.code, codes(&missing.body["details"]["issues"])), (2, vec!["MISSING_MEMORY_DEPENDENCY"]), "{}", missing.body);
    assert!(missing.body["message"].as_str().unwrap().contains("seed with"));
    assert_eq!(next(&missing.body), ["dispatch job run --case modules/tickets/jobs/user.job.seed.json"]);
    let run = workspace.json(&["job", "run", "--case", "read", "--resolve-deps"]);
    assert_eq!(run.code, 0, "{}", run.body);
    assert_eq!(workspace.file(&run.body, "step-results.json")[0]["response"]["value"], 42);
    let memory: Value = serde_json::from_str(&std::fs::read_to_string(workspace.path("home/memory/shop.json")).unwrap()).unwrap();
    assert_eq!(memory, json!({ "user": { "id": 42 } }));
    let labels: BTreeSet<bool> = workspace
        .json(&["job", "list"])
        .body
        .as_array()
        .unwrap()
        .iter()
        .map(|run| run["runId"].as_str().unwrap().contains("job-dependency-fill"))
        .collect();
    assert_eq!(labels.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_reach_the_callee_and_no_file() {
    const TOKEN: &str = "tok-4711-very-secret";
    let (sink, workspace) = (Sink::start().await, Workspace::new());
    let case = json!({ "schemaVersion": 1, "jobType": "close", "http": { "baseUrl": "${env.BASE}", "defaultHeaders": { "x-count": "${input.count}" } },
        "inputs": { "count": { "type": "number", "required": true } },
        "credentials": { "api": { "fromEnv": { "token": "TICKETS_TOKEN" } } },
        "scenario": { "steps": [{ "id": "close", "action": "tickets.close", "payload": { "id": 7 }, "credential": "api" }] } });
    let file = workspace.write("jobs/close.job.case.json", &case);
    let base = sink.url("");
    let arguments = ["job", "run", "--case", file.as_str(), "--input", "count=3"];
    let refused = workspace.json_with(&arguments, &[("BASE", &base)]);
    assert_eq!((refused.code, codes(&refused.body["details"]["issues"])), (2, vec!["MISSING_CREDENTIAL_ENV"]), "{}", refused.body);
    let inputs = workspace.json_with(&["job", "run", "--case", &file], &[("BASE", &base)]);
    assert_eq!((inputs.code, &inputs.body["details"]["inputIssues"][0]["path"]), (2, &"inputs.count".into()));
    let run = workspace.json_with(&arguments, &[("BASE", &base), ("TICKETS_TOKEN", TOKEN)]);
    assert_eq!(run.code, 0, "{}", run.body);
    let seen = &sink.seen("/tickets/7")[0];
    assert_eq!((seen.header("authorization"), seen.header("x-count")), (format!("Bearer {TOKEN}").as_str(), "3"));
    let mut files = vec![PathBuf::from(run.body["runDir"].as_str().unwrap())];
    let mut read = 0;
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            read += 1;
            assert!(!String::from_utf8_lossy(&std::fs::read(&path).unwrap()).contains(TOKEN), "{}", path.display());
        }
    }
    assert!(read > 5);
    assert!(!run.body.to_string().contains(TOKEN));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_runs_its_case_many_times() {
    let (sink, workspace) = (Sink::start().await, Workspace::new());
    sink.on("/tickets", [Reply::status(201, json!({ "id": 1 }))]);
    let steps = json!([{ "action": "tickets.open", "payload": { "title": "n ${run.batchIndex}" } }]);
    workspace.case("many", &sink.url(""), &steps);
    let batch = workspace.json(&["job", "run-many", "--case", "many", "--count", "6", "--concurrency", "3"]);
    assert_eq!((batch.code, &batch.body["overall"], &batch.body["passed"]), (0, &"PASS".into(), &6.into()), "{}", batch.body);
    let titles: BTreeSet<String> = sink.seen("/tickets").iter().map(|seen| seen.json()["title"].as_str().unwrap().to_owned()).collect();
    assert_eq!(titles.len(), 6);
    let analysis = workspace.json(&["job", "batch-inspect"]).body;
    assert_eq!(
        (&analysis["callTotals"]["calls"], &analysis["actionTimings"][0]["name"]),
        (&6.into(), &"post_tickets".into()),
        "{analysis}"
    );
    sink.on("/tickets", [Reply::status(500, json!({}))]);
    let failed = workspace.json(&["job", "run-many", "--case", "many", "--count", "2"]);
    assert_eq!((failed.code, &failed.body["details"]["result"]["failed"]), (1, &2.into()), "{}", failed.body);
    assert_eq!(next(&failed.body).len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_run_goes_on_and_repeats_nothing() {
    let (sink, workspace) = (Sink::start().await, Workspace::new());
    let gate = std::sync::Arc::new(tokio::sync::Notify::new());
    sink.on("/tickets", [Reply::status(201, json!({ "id": 7 }))]);
    sink.on("/tickets/7", [Reply::Gate(gate)]);
    let steps = json!([
        { "id": "open", "action": "tickets.open", "payload": { "title": "a" }, "capture": { "id": "exports.ticketId" } },
        { "id": "get", "action": "tickets.get", "payload": { "id": "${run.id}" } },
        { "id": "again", "action": "tickets.open", "payload": { "title": "b ${step.get.response.state}" } },
    ]);
    workspace.case("long", &sink.url(""), &steps);
    let mut child = workspace.command(&["job", "run", "--case", "long", "--json"]).spawn().unwrap();
    sink.reached("/tickets/7", 1).await;
    child.kill().unwrap();
    child.wait().unwrap();
    sink.on("/tickets/7", [Reply::json(json!({ "state": "open" }))]);
    assert_eq!(workspace.json(&["job", "list"]).body[0]["status"], "OPEN");
    let resumed = workspace.json(&["job", "resume"]);
    assert_eq!((resumed.code, &resumed.body["status"]), (0, &"SUCCESS".into()), "{}", resumed.body);
    let titles: Vec<Value> = sink.seen("/tickets").iter().map(|seen| seen.json()["title"].clone()).collect();
    assert_eq!(titles, ["a", "b open"]);
    assert_eq!(workspace.file(&resumed.body, "step-results.json").as_array().unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_leaves_the_same_files() {
    let (sink, workspace) = (Sink::start().await, Workspace::new());
    let server = Server::start(&workspace.shell, "data");
    let steps = json!([
        { "id": "open", "action": "tickets.open", "payload": { "title": "Broken" }, "capture": { "ticket": "exports.ticketId" } },
        { "id": "read", "action": "memory.recall", "payload": { "namespace": "shop", "key": "k", "defaultValue": "${run.ticket}" } },
    ]);
    sink.on("/tickets", [Reply::status(201, json!({ "id": 7 }))]);
    workspace.case("both", &sink.url(""), &steps);
    let here = workspace.json(&["job", "run", "--case", "both"]);
    let there = workspace.json(&["job", "run", "--case", "both", "--server", &server.url, "--key", &server.key]);
    assert_eq!((here.code, there.code), (0, 0), "{} {}", here.body, there.body);
    for name in ["job.case.input.json", "job.case.resolved.json", "step-results.json"] {
        assert_eq!(workspace.file(&here.body, name), workspace.file(&there.body, name), "{name}");
    }
    assert_eq!(workspace.file(&there.body, "step-results.json")[1]["response"]["value"], 7);
    let [left, right] = [&here, &there].map(|run| run.body["runId"].as_str().unwrap().to_owned());
    let same = workspace.json(&["job", "diff", &left, &right]);
    assert_eq!((same.code, &same.body["equal"]), (0, &true.into()), "{}", same.body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_action_runs_without_a_case() {
    let (sink, workspace) = (Sink::start().await, Workspace::new());
    sink.on("/tickets", [Reply::status(201, json!({ "id": 9 }))]);
    let base = sink.url("");
    let run = workspace.json(&["run", "tickets.open", "--input", "title=${env.HOME}", "--base-url", &base, "--header", "x-a=b=c"]);
    assert_eq!((run.code, &run.body["response"]["id"], &run.body["detail"]), (0, &9.into(), &"opened 9".into()), "{}", run.body);
    let seen = &sink.seen("/tickets")[0];
    assert_eq!((seen.json()["title"].as_str(), seen.header("x-a")), (Some("${env.HOME}"), "b=c"));
    let id = run.body["runId"].as_str().unwrap();
    assert!(id.contains("action-run"));
    assert_eq!(next(&run.body), [format!("dispatch job readable --run-id {id}")]);
    let unknown = workspace.json(&["run", "tickets.lose"]);
    assert_eq!((unknown.code, &unknown.body["code"]), (4, &"NOT_FOUND".into()));
    let wrong = workspace.json(&["run", "tickets.get", "--input", "id=x", "--input", "bad", "--base-url", &base]);
    let paths: Vec<&str> =
        wrong.body["details"]["issues"].as_array().unwrap().iter().map(|issue| issue["path"].as_str().unwrap()).collect();
    assert_eq!((wrong.code, paths), (2, vec!["inputs", "inputs.id"]));
    let away = workspace.json(&["run", "tickets.get", "--input", "id=1", "--base-url", "http://127.0.0.1:1"]);
    assert_eq!((away.code, &away.body["code"], &away.body["retryable"]), (3, &"TRANSIENT_ERROR".into(), &true.into()), "{}", away.body);
    let made = workspace.json(&["job", "from-run", id]);
    assert_eq!(made.code, 0, "{}", made.body);
    let file = made.body["casePath"].as_str().unwrap();
    assert_eq!(workspace.json(&["job", "validate", "--case", file]).code, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cases_travel_and_runs_are_repeated() {
    let (sink, workspace) = (Sink::start().await, Workspace::new());
    sink.on("/tickets", [Reply::status(201, json!({ "id": 1 }))]);
    let steps = json!([{ "id": "open", "action": "tickets.open", "payload": { "title": "${input.title}" } }]);
    let case = json!({ "schemaVersion": 1, "jobType": "open", "inputs": { "title": { "type": "string" } }, "http": { "baseUrl": sink.url("") },
        "scenario": { "steps": steps } });
    workspace.write("jobs/open.job.case.json", &case);
    let run = workspace.json(&["job", "run", "--case", "open", "--input", "title=kept"]);
    let replayed = workspace.json(&["job", "replay", "--run-id", "latest"]);
    assert_eq!((run.code, replayed.code), (0, 0), "{}", replayed.body);
    let titles: Vec<Value> = sink.seen("/tickets").iter().map(|seen| seen.json()["title"].clone()).collect();
    assert_eq!(titles, ["kept", "kept"]);
    let id = run.body["runId"].as_str().unwrap();
    assert_eq!(workspace.json(&["job", "export", "--run-id", id, "--out", "out.json"]).code, 0);
    let exported: Value = serde_json::from_str(&std::fs::read_to_string(workspace.path("out.json")).unwrap()).unwrap();
    assert_eq!(exported, case);
    assert_eq!(workspace.json(&["job", "import", "--file", "out.json"]).code, 0);
    assert_eq!(std::fs::read_dir(workspace.path("jobs/imported")).unwrap().count(), 1);
    let text = workspace.text(&["job", "run", "--case", "open", "--input", "title=x"]);
    assert!(text.contains("[1/1] tickets.open") && text.contains("Complete") && text.contains("dispatch job assert"), "{text}");
    let secret = json!({ "schemaVersion": 1, "jobType": "s", "http": { "baseUrl": sink.url(""), "defaultHeaders": { "authorization": "literal" } },
        "scenario": { "steps": [{ "action": "tickets.open", "payload": { "title": "x" } }] } });
    workspace.write("jobs/s.job.case.json", &secret);
    assert_eq!(workspace.json(&["job", "run", "--case", "s"]).code, 0);
    let refused = workspace.json(&["job", "replay", "--run-id", "latest"]);
    assert_eq!((refused.code, &refused.body["code"]), (2, &"USAGE_ERROR".into()), "{}", refused.body);
}
