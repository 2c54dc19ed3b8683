//! Creating calls under an `Idempotency-Key`.

use std::time::Duration;

use dispatch::clock::Timestamp;
use dispatch::http::idempotency::fingerprint;
use dispatch::id::FlowId;
use dispatch::store::{Begun, Receipt};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::call::Call;

fn flow(name: &str) -> Value {
    json!({ "name": name, "steps": [] })
}

fn keyed(app: &TestApp, path: &str, key: &str, body: &Value) -> Call {
    app.post(path).header("idempotency-key", key).json(body)
}

#[tokio::test]
async fn the_same_call_gives_the_same_answer_on_every_creating_route() {
    let app = TestApp::start().await;
    for (path, body) in [
        ("/v1/flows", flow("f")),
        ("/v1/records", json!({ "type": "t", "name": "n" })),
        ("/v1/tools", json!({ "name": "t", "toolType": "custom", "config": { "code": "return 1;" } })),
        ("/v1/api-keys", json!({ "name": "k", "scopes": ["FLOWS:READ"] })),
    ] {
        let first = keyed(&app, path, "k1", &body).send().await;
        let second = keyed(&app, path, "k1", &body).send().await;
        assert_eq!((first.status, second.status), (201, 201), "{path}");
        assert_eq!(first.json(), second.json(), "{path}");
        assert_eq!((first.header("idempotency-replayed"), second.header("idempotency-replayed")), (None, Some("true")), "{path}");
    }
}

#[tokio::test]
async fn another_body_under_the_same_key_is_refused() {
    let app = TestApp::start().await;
    keyed(&app, "/v1/flows", "k", &flow("one")).ok().await;
    keyed(&app, "/v1/flows", "k", &flow("two")).refused(422, "idempotency_key_reused").await;
    let reordered = app.post("/v1/flows").header("idempotency-key", "k").body("application/json", r#"{ "steps": [],  "name": "one" }"#);
    assert_eq!(reordered.send().await.header("idempotency-replayed"), Some("true"), "the order of fields does not matter");
    keyed(&app, "/v1/records", "k", &json!({ "type": "t", "name": "n" })).ok().await;
    let stranger = app.strangers_key().await;
    let other = app.bare(Method::POST, "/v1/flows").bearer(&stranger).header("idempotency-key", "k").json(&flow("two"));
    assert_eq!(other.ok().await["name"], "two", "keys are each tenant's own");
}

#[tokio::test]
async fn a_refused_call_frees_its_key() {
    let app = TestApp::start().await;
    app.post("/v1/flows").json(&flow("taken")).ok().await;
    keyed(&app, "/v1/flows", "k", &flow("taken")).refused(409, "already_exists").await;
    assert_eq!(keyed(&app, "/v1/flows", "k", &flow("free")).ok().await["name"], "free");
}

#[tokio::test]
async fn of_many_at_once_one_creates() {
    let app = TestApp::start().await;
    let body = json!({ "type": "t", "name": "n" });
    let calls = (0..16).map(|_| keyed(&app, "/v1/records", "k", &body).send());
    let answers = futures_util::future::join_all(calls).await;
    let made: Vec<Value> = answers.iter().filter(|answer| answer.status == 201).map(|answer| answer.json()["id"].clone()).collect();
    assert!(!made.is_empty() && made.iter().all(|id| *id == made[0]), "{made:?}");
    let fresh = answers.iter().filter(|answer| answer.status == 201 && answer.header("idempotency-replayed").is_none()).count();
    assert_eq!(fresh, 1);
    for answer in answers.into_iter().filter(|answer| answer.status != 201) {
        answer.refused(409, "idempotency_in_progress");
    }
    assert_eq!(app.get("/v1/records").ok().await["data"].as_array().unwrap().len(), 1);
}

/// Leaves a claim behind, as a server does that went away in the middle of the work.
async fn abandon(app: &TestApp, body: &Value, seed: u128, lease_until: Timestamp) {
    let now = app.state.clock.now();
    let receipt = Receipt {
        route: "POST /v1/flows".into(),
        key: "k".into(),
        request_hash: fingerprint(body.to_string().as_bytes()),
        seed,
        lease_until,
        expires_at: now.after(Duration::from_secs(3_600)),
    };
    let begun = app.state.store.begin_receipt(app.tenant().await, receipt, now).await.unwrap();
    assert_eq!(begun, Begun::Mine { seed });
}

#[tokio::test]
async fn a_call_in_progress_is_waited_for() {
    let app = TestApp::start().await;
    abandon(&app, &flow("one"), 7, app.state.clock.now().after(Duration::from_secs(60))).await;
    let answer = keyed(&app, "/v1/flows", "k", &flow("one")).refused(409, "idempotency_in_progress").await;
    assert_eq!((answer.header("retry-after"), &answer.json()["retryable"]), (Some("1"), &json!(true)));
    keyed(&app, "/v1/flows", "k", &flow("two")).refused(422, "idempotency_key_reused").await;
}

#[tokio::test]
async fn an_abandoned_call_is_finished_under_its_own_id() {
    let app = TestApp::start().await;
    let id = FlowId::new(&app.state.clock);
    abandon(&app, &flow("one"), id.as_u128(), app.state.clock.now()).await;
    let made = keyed(&app, "/v1/flows", "k", &flow("one")).ok().await;
    assert_eq!(made["id"], id.to_string());
}

#[tokio::test]
async fn a_call_that_had_created_before_the_crash_creates_nothing_new() {
    let app = TestApp::start().await;
    let made = app.post("/v1/flows").json(&flow("one")).ok().await;
    let id: FlowId = made["id"].as_str().unwrap().parse().unwrap();
    abandon(&app, &flow("one"), id.as_u128(), app.state.clock.now()).await;
    assert_eq!(keyed(&app, "/v1/flows", "k", &flow("one")).ok().await, made);
    assert_eq!(app.get("/v1/flows").ok().await["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn filed_answers_hold_no_key_in_the_clear() {
    let app = TestApp::start().await;
    let body = json!({ "name": "k", "scopes": ["FLOWS:READ"] });
    let made = keyed(&app, "/v1/api-keys", "k", &body).ok().await;
    let now = app.state.clock.now();
    let receipt = Receipt {
        route: "POST /v1/api-keys".into(),
        key: "k".into(),
        request_hash: fingerprint(body.to_string().as_bytes()),
        seed: 1,
        lease_until: now,
        expires_at: now,
    };
    let Begun::Answered { answer, .. } = app.state.store.begin_receipt(app.tenant().await, receipt, now).await.unwrap() else {
        panic!("the answer was not filed");
    };
    assert!(!answer.body.to_string().contains(made["key"].as_str().unwrap()));
}

#[tokio::test]
async fn keys_have_a_form() {
    let app = TestApp::start().await;
    keyed(&app, "/v1/flows", &"x".repeat(255), &flow("one")).ok().await;
    for bad in ["", "a b", &"x".repeat(256)] {
        keyed(&app, "/v1/flows", bad, &flow("two")).refused(400, "invalid_idempotency_key").await;
    }
}

/// A route that creates something says that it takes a key; it cannot be forgotten for a new one.
#[test]
fn every_creating_route_takes_a_key() {
    let document = dispatch::http::openapi::document();
    // Creating one of these again is what its caller wants, or is recognised by what it names.
    const OTHERS: [&str; 2] = ["replayDeadLetter", "testWebhook"];
    const STARTING: [&str; 13] = [
        "dispatch",
        "executeAgent",
        "executeTool",
        "addFlowStep",
        "importRecords",
        "uploadRecords",
        "streamEval",
        "runSchedule",
        "runScheduleNow",
        "sendSignal",
        "triggerHttpWorkflow",
        "signalHttpRun",
        "publishEvent",
    ];
    let mut seen = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        let Some(operation) = item.get("post") else { continue };
        let id = operation["operationId"].as_str().unwrap();
        let creates = operation["responses"].get("201").is_some() || STARTING.contains(&id);
        if !creates || OTHERS.contains(&id) {
            continue;
        }
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        assert!(parameters.clone().any(|parameter| parameter["name"] == "Idempotency-Key"), "POST {path} takes no key");
        seen += 1;
    }
    assert!(seen > 20, "only {seen} creating routes were found");
}

#[tokio::test]
async fn an_import_under_a_key_is_done_once() {
    let app = TestApp::start().await;
    let body = json!({ "type": "t", "csv": "name,a\none,1\n" });
    let first = keyed(&app, "/v1/records/import", "k", &body).send().await;
    let again = keyed(&app, "/v1/records/import", "k", &body).send().await;
    assert_eq!((first.status, again.status), (200, 200));
    assert_eq!((&first.json(), again.header("idempotency-replayed")), (&again.json(), Some("true")));
    assert_eq!((&first.json()["created"], &first.json()["updated"]), (&json!(1), &json!(0)));
}

#[tokio::test]
async fn a_step_under_a_key_is_added_once() {
    let app = TestApp::start().await;
    let saved = app.post("/v1/flows").json(&flow("f")).ok().await;
    let path = format!("/v1/flows/{}/steps", saved["id"].as_str().unwrap());
    let body = json!({ "type": "set-variable", "name": "x", "config": { "variableName": "x", "value": 1 } });
    let first = keyed(&app, &path, "k", &body).send().await;
    let again = keyed(&app, &path, "k", &body).send().await;
    assert_eq!((first.status, again.status), (200, 200));
    assert_eq!((&first.json(), again.header("idempotency-replayed")), (&again.json(), Some("true")));
    assert_eq!(app.get(&path).ok().await["data"].as_array().unwrap().len(), 1);
}
