//! `dispatch run`.

use dispatch::http::schemas;
use serde_json::{Value, json};

use super::ran::{Server, Shell, example};

/// A flow whose only step calls a tool that runs in the caller.
fn where_am_i() -> Value {
    json!({ "flow": { "name": "Where", "steps": [{ "name": "Ask", "type": "prompt", "config": {
        "model": "local/echo",
        "userPrompt": "call get_location {\"precise\":true}",
        "tools": { "runtimeTools": [{ "name": "get_location", "toolType": "local", "parametersSchema": { "type": "object" } }] },
    } }] } })
}

/// A flow that stops at its only step.
fn stopping(kind: &str, config: &Value) -> Value {
    json!({ "flow": { "name": "Stop", "onStepError": "stop", "steps": [{ "name": "Only", "type": kind, "config": config }] } })
}

#[test]
fn a_request_is_streamed_step_by_step() {
    let shell = Shell::new();
    insta::assert_snapshot!(shell.run(&["run", &example("01-sales-analysis.json"), "--dev"]), @r#"
    exit 0
    --- stdout
    Sales Analysis  1 step  exec_[id]
    ▸ Analyze Sales Performance  prompt
      │ local/echo answers for openai/gpt-4: it needs no key
      │ Echo:
      │ 
      │ Analyze the sales performance for Q4 2024 in North America.
      │ 
      │ Record metadata:
      │ - quarter: Q4 2024
      │ - region: North America
      │ - sales_team: Team Alpha
      │ - total_revenue: $2.5M
      │ - growth_rate: 18%
      │ - top_products: ["Product A","Product B","Product C"]
    ✓ Analyze Sales Performance  [time] · 123 tokens · $0.00
    done  1 step · [time] · 123 tokens · $0.00
    "#);
    assert_eq!(std::fs::read_dir(shell.folder.path()).unwrap().count(), 0);
}

#[test]
fn several_kinds_of_steps_are_told_apart() {
    let shell = Shell::new();
    let request = json!({ "inputs": { "city": "Bergen" }, "flow": { "name": "Many", "steps": [
        { "name": "Set", "type": "set-variable", "config": { "variableName": "plan", "value": { "city": "{{city}}", "days": 3 } } },
        { "name": "Never", "type": "set-variable", "when": "false", "config": { "variableName": "x", "value": 1 } },
        { "name": "Think", "type": "prompt", "config": { "model": "local/echo", "userPrompt": "think {{plan.city}}?\nsay One line.\nsay {{nobody}}" } },
        { "name": "Tell", "type": "send-stream", "config": { "message": "Go to {{plan.city}}." } },
    ] } });
    let file = shell.file("request.json", &request);
    insta::assert_snapshot!(shell.run(&["run", &file, "--set", "inputs.city=Oslo", "--set", "flow.name=Few"]), @r#"
    exit 0
    --- stdout
    Few  4 steps  exec_[id]
    ▸ Set  set-variable
      │ {"city":"Oslo","days":3}
    ✓ Set  [time]
    ○ Never  skipped: because of `false`
    ▸ Think  prompt
      │ Oslo?
      │ One line.
      │ ! no value for nobody
    ✓ Think  [time] · 12 tokens · $0.00
    ▸ Tell  send-stream
      │ Go to Oslo.
    ✓ Tell  [time]
    done  3 succeeded · 1 skipped · [time] · 12 tokens · $0.00
    "#);
}

#[test]
fn texts_of_steps_side_by_side_are_not_mixed() {
    let ran = Shell::new().run(&["run", &example("05-parallel.json")]);
    assert_eq!(ran.code, Some(0), "{ran}");
    for line in ["  │ Summary: A short summary of On Queues.", "  │ Critique: What On Queues leaves out."] {
        assert!(ran.stdout.lines().any(|found| found.trim_end() == line), "{line}: {ran}");
    }
}

#[test]
fn the_envelope_holds_the_result_in_its_documented_form() {
    let shell = Shell::new();
    let envelope = shell.json(&["run", &example("02-approval.json"), "--approve", "all"]);
    let execution = &envelope["execution"];
    assert_eq!((&execution["status"], &execution["success"]), (&"completed".into(), &true.into()));
    assert!(execution["finalOutput"].as_str().unwrap().contains("R-1042"), "{execution}");
    assert!(execution.get("pausedReason").is_none(), "{execution}");
    let kinds: Vec<&str> = execution["events"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect();
    let found = |kind: &str| kinds.iter().position(|known| *known == kind).unwrap_or_else(|| panic!("no {kind} in {kinds:?}"));
    assert!(found("execution_start") == 0 && found("approval_start") < found("approval_complete"), "{kinds:?}");
    assert!(found("approval_complete") < found("tool_start") && found("execution_complete") == kinds.len() - 1, "{kinds:?}");
    let schema = schemas::all().into_iter().find(|document| document.name == "dispatch-result").unwrap().schema;
    let faults: Vec<String> = jsonschema::validator_for(&schema)
        .unwrap()
        .iter_errors(execution)
        .map(|fault| format!("{}: {fault}", fault.instance_path()))
        .collect();
    assert!(faults.is_empty(), "{faults:?}");
}

#[test]
fn an_approval_is_decided_by_option_or_not_at_all() {
    let shell = Shell::new();
    let file = example("02-approval.json");
    insta::assert_snapshot!(shell.run(&["run", &file, "--approve", "none"]), @r#"
    exit 0
    --- stdout
    Refund with approval  1 step  exec_[id]
    ▸ Decide about the refund  prompt
      ? refund asks for approval
        order   "1042"
        amount  39.9
        “The carrier lost the parcel.”
      denied (--approve none)
      │ denied
      │ ✗ refund: the user denied this call; it was not made
      │ refund failed: Error: the user denied this call; it was not made
    ✓ Decide about the refund  [time] · 310 tokens · $0.00
    done  1 step · [time] · 310 tokens · $0.00
    "#);
    insta::assert_snapshot!(shell.run(&["run", &file]), @r#"
    exit 2
    --- stdout
    Refund with approval  1 step  exec_[id]
    ▸ Decide about the refund  prompt
      ? refund asks for approval
        order   "1042"
        amount  39.9
        “The carrier lost the parcel.”
    --- stderr
    error: `refund` waits for an approval (approval_needed)
    next: run it anew with --approve all, or with --data DIR or --server URL, which keep it until it is answered
    "#);
    let envelope = shell.json(&["run", &file]);
    assert_eq!((&envelope["error"]["code"], &envelope["exitCode"]), (&"approval_needed".into(), &2.into()));
    assert_eq!(envelope["execution"]["pausedReason"]["toolName"], "refund");
}

#[test]
fn a_tool_of_the_callers_is_answered_by_option_or_the_run_stays_paused() {
    let shell = Shell::new();
    let request = where_am_i().to_string();
    insta::assert_snapshot!(shell.pipe(&request, &["run", "-", "--answer", "get_location={\"city\":\"Oslo\"}"]), @r#"
    exit 0
    --- stdout
    Where  1 step  exec_[id]
    ▸ Ask  prompt
      ? get_location runs with you: send its output
        precise  true
      │ ← get_location {"city":"Oslo"}  [time]
      │ get_location answered: {"city":"Oslo"}
    ✓ Ask  [time] · 68 tokens · $0.00
    done  1 step · [time] · 68 tokens · $0.00
    "#);
    insta::assert_snapshot!(shell.pipe(&request, &["run", "-", "--data", "data"]), @r#"
    exit 2
    --- stdout
    API key of this data folder (shown once): [key]
    Where  1 step  exec_[id]
    ▸ Ask  prompt
      ? get_location runs with you: send its output
        precise  true
    --- stderr
    error: `get_location` runs with you, and its output is needed (tool_output_needed)
    next: POST /v1/dispatch/resume {"executionId":"exec_[id]","toolOutputs":{"call_[id]":"..."}} at `dispatch serve --data data`, or run it anew with --answer get_location=VALUE
    "#);
}

#[test]
fn a_data_folder_keeps_its_runs_and_no_key_that_was_lent() {
    let shell = Shell::new();
    let file = shell.file("request.json", &where_am_i());
    let first = shell.json(&["run", &file, "--data", "data"]);
    let second = shell.json(&["run", &file, "--data", "data", "--answer", "get_location=Oslo"]);
    assert_eq!((&first["execution"]["status"], &second["execution"]["status"]), (&"paused".into(), &"completed".into()));
    let keys = shell.json(&["keys", "list", "--data", "data"]);
    let lent = keys["apiKeys"].as_array().unwrap().iter().find(|key| key["name"] == "dispatch run").unwrap();
    assert!(lent["revokedAt"].is_string(), "{lent}");
}

#[test]
fn a_failed_execution_says_whether_to_try_again() {
    let shell = Shell::new();
    let unreachable = shell.file("unreachable.json", &stopping("fetch-url", &json!({ "url": "http://127.0.0.1:1/" })));
    insta::assert_snapshot!(shell.run(&["run", &unreachable, "--dev"]), @"
    exit 3
    --- stdout
    Stop  1 step  exec_[id]
    ▸ Only  fetch-url
    ✗ Only  cannot connect to http://127.0.0.1:[port]: Connection refused (os error 111)  [time]
    failed  connect_failed · 0 tokens · $0.00
    --- stderr
    error: cannot connect to http://127.0.0.1:[port]: Connection refused (os error 111) (connect_failed)
    ");
    let broken = shell.file("broken.json", &stopping("transform-data", &json!({ "script": "throw new Error('no')" })));
    let envelope = shell.json(&["run", &broken]);
    assert_eq!((&envelope["exitCode"], &envelope["execution"]["status"]), (&1.into(), &"failed".into()), "{envelope}");
    assert_eq!(envelope["error"]["code"], envelope["execution"]["error"]["code"]);
    let mut going_on = stopping("transform-data", &json!({ "script": "throw new Error('no')" }));
    going_on["flow"]["onStepError"] = "continue".into();
    let going_on = shell.json(&["run", &shell.file("going-on.json", &going_on)]);
    assert_eq!((&going_on["exitCode"], &going_on["error"]["code"]), (&1.into(), &"steps_failed".into()), "{going_on}");
}

#[test]
fn a_refused_request_shows_every_fault() {
    let shell = Shell::new();
    let request = json!({ "flow": { "name": "", "steps": [{ "name": "a", "type": "prompt", "config": { "model": "local/echo" } }] } });
    insta::assert_snapshot!(shell.run(&["run", &shell.file("request.json", &request)]), @"
    exit 2
    --- stderr
    error: /flow/name: expected a text that is not empty (validation_failed)
      at /flow/name: expected a text that is not empty
    ");
    insta::assert_snapshot!(shell.run(&["run", &example("01-sales-analysis.json")]), @"
    exit 2
    --- stderr
    error: no key is configured for the provider `openai` (provider_not_configured)
    next: set OPENAI_API_KEY in the server's environment, or store a key for this provider; or let local/echo answer with --dev
    ");
}

#[test]
fn files_that_cannot_be_read_are_refused() {
    let shell = Shell::new();
    insta::assert_snapshot!(shell.run(&["run", "nowhere.json"]), @"
    exit 4
    --- stderr
    error: there is no file nowhere.json (file_not_found)
    ");
    insta::assert_snapshot!(shell.pipe("{\"flow\": ", &["run", "-"]), @"
    exit 2
    --- stderr
    error: - is not JSON: EOF while parsing a value at line 1 column 9 (invalid_json)
    ");
    for (input, code) in [("[]", "invalid_request"), ("7", "invalid_request")] {
        let ran = shell.pipe(input, &["run", "-"]);
        assert!(ran.code == Some(2) && ran.stderr.contains(code), "{ran}");
    }
}

#[test]
fn a_server_does_it_when_one_is_named() {
    let shell = Shell::new();
    let server = Server::start(&shell, "data");
    let file = example("02-approval.json");
    insta::assert_snapshot!(shell.run(&["run", &file, "--server", &server.url, "--key", &server.key, "--approve", "all"]), @r#"
    exit 0
    --- stdout
    Refund with approval  1 step  exec_[id]
    ▸ Decide about the refund  prompt
      ? refund asks for approval
        order   "1042"
        amount  39.9
        “The carrier lost the parcel.”
      approved (--approve all)
      │ approved
      │ → refund {"order":"1042","amount":39.9}
      │ ← refund {"order":"1042","refunded":39.9,"receipt":"R-1042"}  [time]
      │ refund answered: {"order":"1042","refunded":39.9,"receipt":"R-1042"}
    ✓ Decide about the refund  [time] · 311 tokens · $0.00
    done  1 step · [time] · 311 tokens · $0.00
    "#);
    let wrong = shell.json(&["run", &file, "--server", &server.url, "--key", "dsp_live_not-a-key-of-this-server"]);
    assert_eq!((&wrong["error"]["code"], &wrong["exitCode"]), (&"invalid_api_key".into(), &2.into()));
    let elsewhere = format!("{}/elsewhere", server.url);
    let missing = shell.json(&["run", &file, "--server", &elsewhere, "--key", &server.key]);
    assert_eq!((&missing["error"]["code"], &missing["exitCode"]), (&"route_not_found".into(), &4.into()), "{missing}");
    let unsaved = shell.file("saved.json", &json!({ "flow": { "id": "flow_01m818aaaaaaaaaaaaaaaaaaaa" } }));
    let refused = shell.json(&["run", &unsaved, "--server", &server.url, "--key", &server.key]);
    assert_eq!(refused["error"]["details"]["problems"][0]["pointer"], "/flow/id", "{refused}");
    let accepted = shell.file("async.json", &json!({ "async": true, "streamResponse": false, "flow": where_am_i()["flow"] }));
    let answered = ["run", &accepted, "--server", &server.url, "--key", &server.key, "--answer", "get_location=Oslo"];
    assert_eq!(shell.json(&answered)["execution"]["status"], "completed");
}

#[test]
fn a_server_that_is_not_there_may_come_back() {
    let shell = Shell::new();
    let file = example("01-sales-analysis.json");
    insta::assert_snapshot!(shell.run(&["run", &file, "--server", "http://127.0.0.1:1"]), @"
    exit 3
    --- stderr
    error: cannot connect to http://127.0.0.1:[port]: Connection refused (os error 111) (server_unreachable)
    next: check --server (DISPATCH_URL), or start a server with `dispatch serve --dev`
    ");
    let envelope = shell.json(&["run", &file, "--server", "http://127.0.0.1:1"]);
    assert_eq!((&envelope["error"]["retryable"], &envelope["exitCode"]), (&true.into(), &3.into()));
}
