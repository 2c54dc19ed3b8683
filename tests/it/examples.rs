//! The files under `examples/`, run as they are written.

use std::fs;
use std::path::Path;

use dispatch::cli::fake_provider::{self, FakeOptions};
use dispatch::http::dispatch::{agent_document, document};
use serde_json::{Value, json};

use crate::support::app::{Setup, TestApp, within};
use crate::support::call::client;

/// Looks at an answer.
type Check = fn(&Value);

/// Every request file, with what it comes to.
const EXAMPLES: &[(&str, Check)] = &[
    ("01-sales-analysis.json", |answer| {
        let text = answer["result"].as_str().unwrap();
        assert!(text.contains("Analyze the sales performance for Q4 2024 in North America."), "{text}");
        assert!(text.contains("- total_revenue: $2.5M"), "{text}");
    }),
    ("02-approval.json", |answer| {
        assert_eq!(answer["result"], r#"refund answered: {"order":"1042","refunded":39.9,"receipt":"R-1042"}"#);
    }),
    ("03-client-tools.json", |answer| {
        assert_eq!(answer["result"], "get_weather answered: rain\nget_weather answered: sun");
    }),
    ("04-branches.json", |answer| {
        assert_eq!(answer["result"], json!({"queue": "on-call", "subject": "Checkout is down", "apologized": true}));
        let kinds = |id: &str| events(answer).filter(|event| event["id"] == id).map(|event| event["type"].clone()).collect::<Vec<_>>();
        assert_eq!(kinds("page"), ["step_start", "step_complete"]);
        assert_eq!(kinds("enqueue"), Vec::<Value>::new());
        assert_eq!(kinds("upsell"), ["step_skip"]);
    }),
    ("05-parallel.json", |answer| {
        assert_eq!(answer["result"], "# On Queues\n\nA short summary of On Queues.\n\nWhat On Queues leaves out.\n\n#queues #latency ");
        let kinds: Vec<&str> =
            events(answer).filter_map(|event| event["type"].as_str()).filter(|kind| kind.starts_with("step_")).take(4).collect();
        assert_eq!(kinds, ["step_start", "step_start", "step_start", "step_complete"], "the three do not run side by side");
    }),
    ("06-transform.json", |answer| assert_eq!(answer["result"], "3 orders were paid, 77.4 in all.\nNO: 64.9\nIT: 12.5")),
    ("07-records.json", |answer| {
        assert_eq!(answer["result"], json!(["ada@example.com"]));
        assert_eq!(answer["results"]["Save"]["metadata"]["seats"], 12);
    }),
    ("08-wait.json", |answer| {
        assert_eq!(answer["results"]["Second"], "Here again.\n");
        let waited = events(answer).any(|event| event["type"] == "step_complete" && event["id"] == "pause" && event["success"] == true);
        assert!(waited, "{answer}");
    }),
    ("09-http.json", |answer| assert_eq!(answer["result"], "The server says: ok")),
    ("10-agent.json", |answer| {
        assert_eq!(
            (&answer["kind"], &answer["result"]),
            (&json!("agent"), &json!(r#"forecast answered: {"city":"Oslo","weather":"rain"}"#))
        );
        assert_eq!(events(answer).filter(|event| event["type"] == "turn_complete").count(), 1);
    }),
];

fn events(answer: &Value) -> impl Iterator<Item = &Value> {
    answer["events"].as_array().unwrap().iter()
}

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

fn read(name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(folder().join(name)).unwrap()).unwrap()
}

#[test]
fn every_example_is_run() {
    let mut files: Vec<String> = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    files.retain(|name| name.ends_with(".json"));
    files.sort();
    let run: Vec<&str> = EXAMPLES.iter().map(|(name, _)| *name).collect();
    assert_eq!(files, run);
}

#[tokio::test]
async fn the_examples_do_what_they_say() {
    let app = TestApp::with(Setup { dev: true, ..Setup::default() }).await;
    for (name, judge) in EXAMPLES {
        let mut request = read(name);
        let compiled = match &request["agent"] {
            Value::Null => document::compile(&request["flow"]),
            agent => agent_document::compile(agent),
        };
        assert!(compiled.is_ok(), "{name}");
        // Written for a server on its usual port.
        if request["inputs"]["base_url"].is_string() {
            request["inputs"]["base_url"] = format!("http://{}", app.address).into();
        }
        let answer = within(run(&app, request)).await;
        assert_eq!(answer["status"], "completed", "{name}: {answer}");
        assert_eq!(answer["success"], true, "{name}: {answer}");
        judge(&answer);
    }
}

/// The examples of wire formats, each with the model whose request the fake provider has seen, and a member that only this format has.
const WIRE_EXAMPLES: &[(&str, &str, &str)] = &[
    ("azure.json", "gpt-4o", "/messages/0/content"),
    ("bedrock.json", "anthropic.claude-sonnet-4-5-20250929-v1:0", "/inferenceConfig/maxTokens"),
    ("cohere.json", "command-a-03-2025", "/messages/0/role"),
    ("responses.json", "gpt-5.4", "/input/0/role"),
    ("vertex.json", "gemini-2.5-flash", "/generationConfig/thinkingConfig/thinkingBudget"),
];

#[tokio::test]
async fn the_examples_of_wires_run_against_the_fake_provider() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(fake_provider::serve(listener, FakeOptions::default()));
    let env = [
        ("OPENAI_API_KEY", "any".to_owned()),
        ("OPENAI_BASE_URL", format!("{url}/v1")),
        ("AZURE_OPENAI_API_KEY", "any".to_owned()),
        ("AZURE_OPENAI_BASE_URL", format!("{url}/v1")),
        ("COHERE_API_KEY", "any".to_owned()),
        ("COHERE_BASE_URL", url.clone()),
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "any".to_owned()),
        ("BEDROCK_BASE_URL", url.clone()),
        ("GOOGLE_ACCESS_TOKEN", "ya29.any".to_owned()),
        ("VERTEX_BASE_URL", url.clone()),
    ];
    let env = env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let app = TestApp::with(Setup { dev: true, env, ..Setup::default() }).await;
    let mut files: Vec<String> =
        fs::read_dir(folder().join("providers")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    assert_eq!(files, WIRE_EXAMPLES.iter().map(|(name, _, _)| *name).collect::<Vec<_>>());
    for (name, model, member) in WIRE_EXAMPLES {
        let answer = within(run(&app, read(&format!("providers/{name}")))).await;
        assert_eq!(answer["result"], "word1 word2 word3 word4 word5 ", "{name}: {answer}");
        let seen: Value = client().get(format!("{url}/_fake/last/{model}")).send().await.unwrap().json().await.unwrap();
        assert!(seen.pointer(member).is_some(), "{name}: {seen}");
    }
}

/// Runs a request to its end: approves what waits for approval, answers what runs in the caller.
async fn run(app: &TestApp, mut request: Value) -> Value {
    request["options"]["streamResponse"] = false.into();
    let mut answer = app.post("/v1/dispatch").json(&request).ok().await;
    while answer["status"] == "paused" {
        let (run, paused) = (answer["executionId"].clone(), answer["pausedReason"].clone());
        answer = match paused["waitType"].as_str().unwrap() {
            "approval" => {
                let decision = json!({
                    "executionId": run, "approvalId": paused["approvalId"], "digest": paused["digest"], "decision": "approved", "streamResponse": false,
                });
                app.post("/v1/dispatch/approve").json(&decision).ok().await
            }
            "local_tool" => {
                let outputs = paused["waits"].as_array().unwrap().iter().map(|wait| {
                    let weather = if wait["parameters"]["city"] == "Oslo" { "rain" } else { "sun" };
                    (wait["toolCallId"].as_str().unwrap().to_owned(), weather.into())
                });
                let outputs = Value::Object(outputs.collect());
                app.post("/v1/dispatch/resume")
                    .json(&json!({"executionId": run, "toolOutputs": outputs, "streamResponse": false}))
                    .ok()
                    .await
            }
            other => panic!("waits for {other}"),
        };
    }
    answer
}
