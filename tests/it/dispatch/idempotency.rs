//! The same dispatch sent again is one run.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{ask, ask_with, flow, local};
use crate::support::app::within;
use crate::support::sink::Reply;
use crate::support::transcript::Transcript;
use crate::support::world::{Node, World};

on_both!(
    the_same_again_is_answered_from_the_log,
    another_body_is_refused,
    one_in_progress_is_not_begun_again,
    of_fifty_at_once_one_runs,
    it_holds_over_a_crash,
    of_a_thousand_over_a_crash_one_runs,
    a_paused_run_is_told_again,
    what_was_refused_may_be_sent_again,
    a_record_is_made_once,
);

fn body(world: &World) -> Value {
    flow(json!([{ "id": "hit", "type": "fetch-url", "config": { "url": world.sink.url("/hit"), "method": "PUT", "body": "x" } }]))
}

async fn send(node: &Node, key: &str, body: &Value) -> crate::support::call::Answer {
    within(node.post("/v1/dispatch").header("idempotency-key", key).json(body).send()).await
}

async fn the_same_again_is_answered_from_the_log(world: Arc<World>) {
    let node = world.node();
    let body = body(&world);
    let first = send(&node, "k", &body).await;
    let again = send(&node, "k", &body).await;
    assert_eq!((first.status, first.header("idempotency-replayed")), (200, None));
    assert_eq!((again.status, again.header("idempotency-replayed")), (200, Some("true")));
    assert_eq!(first.text(), again.text());
    assert_eq!(first.header("x-execution-id"), again.header("x-execution-id"));
    // The order of keys and the space between them are no other body.
    let spaced = serde_json::to_string_pretty(&body).unwrap();
    let call = node.post("/v1/dispatch").header("idempotency-key", "k").body("application/json", spaced);
    assert_eq!(call.send().await.text(), first.text());
    send(&node, "other", &body).await;
    let stranger = world.strangers_key().await;
    let theirs = node.bare(reqwest::Method::POST, "/v1/dispatch").bearer(&stranger).header("idempotency-key", "k").json(&body).send().await;
    assert_eq!((theirs.status, theirs.header("idempotency-replayed")), (200, None), "keys are each tenant's own");
    assert_eq!(world.sink.seen("/hit").len(), 3);
}

async fn another_body_is_refused(world: Arc<World>) {
    let node = world.node();
    send(&node, "k", &body(&world)).await;
    let mut other = body(&world);
    other["inputs"] = json!({ "x": 1 });
    send(&node, "k", &other).await.refused(422, "idempotency_key_reused");
    assert_eq!(world.sink.seen("/hit").len(), 1);
}

async fn one_in_progress_is_not_begun_again(world: Arc<World>) {
    let node = world.node();
    let gate = Arc::new(tokio::sync::Notify::new());
    world.sink.on("/hit", [Reply::Gate(gate.clone())]);
    let body = body(&world);
    let first = node.reader(node.post("/v1/dispatch").header("idempotency-key", "k").json(&body)).await;
    world.sink.reached("/hit", 1).await;
    let busy = send(&node, "k", &body).await.refused(409, "idempotency_in_progress");
    assert_eq!((busy.header("retry-after"), &busy.json()["retryable"]), (Some("1"), &json!(true)));
    let run = busy.json()["details"]["executionId"].as_str().unwrap().to_owned();
    gate.notify_one();
    let streamed = first.rest().await.fresh();
    assert_eq!(streamed.run(), run);
    assert_eq!(Transcript::parse(send(&node, "k", &body).await.text().as_bytes()).frames, streamed.frames);
    assert_eq!(world.sink.seen("/hit").len(), 1);
}

async fn of_fifty_at_once_one_runs(world: Arc<World>) {
    let node = world.node();
    let body = body(&world);
    let answers = within(futures_util::future::join_all((0..50).map(|_| send(&node, "k", &body)))).await;
    let mut runs = BTreeSet::new();
    for answer in &answers {
        match answer.status {
            200 => runs.insert(answer.header("x-execution-id").unwrap().to_owned()),
            409 => runs.insert(answer.json()["details"]["executionId"].as_str().unwrap().to_owned()),
            other => panic!("{other}: {}", answer.text()),
        };
    }
    assert_eq!(runs.len(), 1, "{runs:?}");
    assert_eq!(answers.iter().filter(|answer| answer.status == 200 && answer.header("idempotency-replayed").is_none()).count(), 1);
    assert_eq!(world.sink.seen("/hit").len(), 1);
    assert_eq!(node.get("/v1/executions").ok().await["data"].as_array().unwrap().len(), 1);
}

async fn it_holds_over_a_crash(world: Arc<World>) {
    let node = world.node();
    let gate = Arc::new(tokio::sync::Notify::new());
    world.sink.on("/hit", [Reply::Gate(gate.clone()), Reply::json(json!({ "n": 2 }))]);
    let body = body(&world);
    let mut first = node.reader(node.post("/v1/dispatch").header("idempotency-key", "k").json(&body)).await;
    let run = first.until(|frame| frame.kind == "step_start").await.text("executionId").to_owned();
    world.sink.reached("/hit", 1).await;
    let node = world.crash().await;
    let busy = send(&node, "k", &body).await;
    assert!(busy.status == 409 || busy.header("idempotency-replayed").is_some(), "{}", busy.text());
    node.events(&run, None).await.until(|frame| frame.is_terminal()).await;
    let again = Transcript::parse(send(&node, "k", &body).await.text().as_bytes()).fresh();
    assert_eq!((again.run(), &again.step("hit")["result"]), (run, &json!({ "n": 2 })));
    let keys: BTreeSet<String> = world.sink.seen("/hit").iter().map(|call| call.header("idempotency-key").to_owned()).collect();
    assert_eq!(keys.len(), 1, "the callee can tell that both calls are one");
}

async fn of_a_thousand_over_a_crash_one_runs(world: Arc<World>) {
    world.configure(|config| config.limits.http.streams_per_key = 2_000);
    let node = world.crash().await;
    let gate = Arc::new(tokio::sync::Notify::new());
    world.sink.on("/hit", [Reply::Gate(gate.clone()), Reply::json(json!({ "n": 2 }))]);
    let body = body(&world);
    let all = |node: Arc<Node>, count: usize| {
        let calls = (0..count).map(|_| {
            let (node, body) = (node.clone(), body.clone());
            tokio::spawn(async move { node.post("/v1/dispatch").header("idempotency-key", "k").json(&body).start().await })
        });
        calls.collect::<Vec<_>>()
    };
    let before = all(node.clone(), 500);
    world.sink.reached("/hit", 1).await;
    let node = world.crash().await;
    // Those that were cut off by the crash learn nothing; the others must not have been told of another run.
    before.iter().for_each(tokio::task::JoinHandle::abort);
    let answers = within(futures_util::future::join_all(all(node.clone(), 1_000))).await;
    let mut runs = BTreeSet::new();
    for answer in answers {
        let answer = answer.unwrap();
        let named = answer.headers().get("x-execution-id").map(|run| run.to_str().unwrap().to_owned());
        match answer.status().as_u16() {
            200 => runs.insert(named.unwrap()),
            409 => runs.insert(answer.json::<Value>().await.unwrap()["details"]["executionId"].as_str().unwrap().to_owned()),
            other => panic!("{other}: {}", answer.text().await.unwrap()),
        };
    }
    assert_eq!(runs.len(), 1, "{runs:?}");
    let mut other = body.clone();
    other["inputs"] = json!({ "x": 1 });
    send(&node, "k", &other).await.refused(422, "idempotency_key_reused");
    node.events(runs.first().unwrap(), None).await.until(|frame| frame.is_terminal()).await;
    assert_eq!(node.get("/v1/executions").ok().await["data"].as_array().unwrap().len(), 1);
    let keys: BTreeSet<String> = world.sink.seen("/hit").iter().map(|call| call.header("idempotency-key").to_owned()).collect();
    assert_eq!(keys.len(), 1, "the callee can tell that both calls are one");
}

async fn a_paused_run_is_told_again(world: Arc<World>) {
    let node = world.node();
    let body = flow(json!([ask_with("w", "call look {}", json!({ "runtimeTools": [local("look")] })), ask("end", "say end")]));
    let paused = Transcript::parse(send(&node, "k", &body).await.text().as_bytes()).fresh();
    assert_eq!(Transcript::parse(send(&node, "k", &body).await.text().as_bytes()).frames, paused.frames);
    let end = node.resume(&paused.run(), json!({ "look": 1 })).await;
    let whole = Transcript::parse(send(&node, "k", &body).await.text().as_bytes()).fresh();
    assert_eq!((whole.run(), whole.last()), (paused.run(), end.last()));
}

async fn what_was_refused_may_be_sent_again(world: Arc<World>) {
    let node = world.node();
    let wrong = flow(json!([{ "id": "a", "type": "promt" }]));
    send(&node, "k", &wrong).await.refused(422, "validation_failed");
    assert_eq!(send(&node, "k", &body(&world)).await.status, 200, "nothing had begun under the key");
    for bad in ["", "a b", &"x".repeat(256)] {
        send(&node, bad, &body(&world)).await.refused(400, "invalid_idempotency_key");
    }
}

async fn a_record_is_made_once(world: Arc<World>) {
    let node = world.node();
    let mut body = body(&world);
    body["record"] = json!({ "type": "lead", "name": "Ada", "metadata": {} });
    body["options"] = json!({ "recordMode": "create", "flowMode": "create" });
    let answers = within(futures_util::future::join_all((0..10).map(|_| send(&node, "k", &body)))).await;
    for answer in &answers {
        let fine = answer.status == 200 || answer.status == 409 && answer.json()["code"] == "idempotency_in_progress";
        assert!(fine, "{}: {}", answer.status, answer.text());
    }
    assert_eq!(world.sink.seen("/hit").len(), 1);
    assert_eq!(node.get("/v1/records").ok().await["data"].as_array().unwrap().len(), 1);
    assert_eq!(send(&node, "k", &body).await.header("idempotency-replayed"), Some("true"));
}
