//! Calls to the outside: retried as asked, never twice when once was meant, settled by a person when nobody knows.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{ask, ask_with, flow};
use crate::support::sink::Reply;
use crate::support::transcript::Transcript;
use crate::support::world::{Node, World};

on_both!(
    failures_that_pass_are_tried_again,
    a_callee_that_says_when_is_believed,
    failures_that_stay_are_not_tried_again,
    a_lost_answer_is_settled_as_succeeded,
    a_lost_answer_is_settled_as_failed,
    a_lost_answer_is_settled_by_trying_again,
    a_crash_in_the_middle_of_a_call,
    a_stop_in_the_middle_of_a_call,
    a_lost_answer_of_a_models_tool,
    every_step_of_a_graph_acts_once,
    a_run_that_loses_every_server_is_given_up,
);

async fn a_run_that_loses_every_server_is_given_up(world: Arc<World>) {
    world.configure(|config| config.limits.workers.max_recoveries = 2);
    let mut node = world.crash().await;
    let talk = json!({ "id": "talk", "type": "prompt", "config": { "model": "openai/fake-chunks-1000-slow-20", "userPrompt": "talk" } });
    let mut reader = node.open(&flow(json!([talk]))).await;
    let mut seen = reader.until(|frame| frame.kind == "text_delta").await;
    let run = seen.text("executionId").to_owned();
    for _ in 0..2 {
        node = world.crash().await;
        let mut reader = node.events(&run, Some(seen.id)).await;
        reader.until(|frame| frame.custom() == Some("dispatch.attempt_discarded")).await;
        seen = reader.until(|frame| frame.kind == "text_delta").await;
    }
    node = world.crash().await;
    let end = node.events(&run, Some(seen.id)).await.rest().await;
    assert_eq!((end.last().kind.as_str(), end.last().text("code")), ("execution_error", "recovery_exhausted"));
    assert_eq!(node.execution(&run).await["status"], "failed");
    let asked = world.stats_are(|stats| stats["aborted"] == 3).await;
    assert_eq!(asked["openRequests"], 0, "it was tried so often and no more");
}

/// A call with this configuration.
fn call(config: Value) -> Value {
    json!({ "id": "call", "type": "api-call", "config": config, "outputVariable": "call" })
}

async fn failures_that_pass_are_tried_again(world: Arc<World>) {
    let node = world.node();
    world.sink.on("/flaky", [Reply::status(503, json!({})), Reply::status(500, json!({})), Reply::json(json!({ "n": 3 }))]);
    let mut step = call(json!({ "url": world.sink.url("/flaky"), "method": "PUT", "body": { "x": 1 } }));
    step["retry"] = json!({ "maxAttempts": 3, "delayMs": 1, "backoff": "constant" });
    let transcript = node.dispatch(&flow(json!([step]))).await;
    assert_eq!(transcript.step("call")["result"], json!({ "n": 3 }));
    let retries: Vec<&Value> = transcript.customs("dispatch.retrying").map(|value| &value["attempt"]).collect();
    assert_eq!(retries, [1, 2]);
    let seen = world.sink.seen("/flaky");
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|call| call.header("idempotency-key") == seen[0].header("idempotency-key")), "one key for all attempts");
    assert_eq!(transcript.all("step_start").count(), 1);
}

async fn a_callee_that_says_when_is_believed(world: Arc<World>) {
    let node = world.node();
    world.sink.on("/busy", [Reply::later(429, 1), Reply::json(json!({ "ok": 1 }))]);
    let mut step = call(json!({ "url": world.sink.url("/busy") }));
    step["retry"] = json!({ "maxAttempts": 2, "delayMs": 1 });
    let transcript = node.dispatch(&flow(json!([step]))).await;
    assert_eq!(transcript.step("call")["success"], true);
    assert!(transcript.step("call")["durationMs"].as_u64().unwrap() >= 1_000, "it waited for the second that was asked for");
    // A longer wait leaves memory: the run is paused, and comes back by itself.
    world.sink.on("/busier", [Reply::later(503, 3), Reply::json(json!({ "ok": 2 }))]);
    let mut step = call(json!({ "url": world.sink.url("/busier") }));
    step["retry"] = json!({ "maxAttempts": 2, "delayMs": 1 });
    let mut reader = node.open(&flow(json!([step]))).await;
    let run = reader.until(|frame| frame.kind == "execution_start").await.text("executionId").to_owned();
    reader.until(|frame| frame.custom() == Some("dispatch.retrying")).await;
    let end = reader.until(|frame| frame.is_terminal()).await;
    assert_eq!((end.kind.as_str(), &end.data["success"]), ("execution_complete", &json!(true)));
    assert!(node.execution(&run).await["usage"]["durationMs"].as_u64().unwrap() < 2_500, "a pause is not running time");
}

async fn failures_that_stay_are_not_tried_again(world: Arc<World>) {
    let node = world.node();
    world.sink.on("/no", [Reply::status(404, json!({ "why": "gone" }))]);
    let mut step = call(json!({ "url": world.sink.url("/no") }));
    step["retry"] = json!({ "maxAttempts": 5, "delayMs": 1 });
    let transcript = node.dispatch(&flow(json!([step]))).await;
    let end = transcript.step("call");
    assert_eq!((&end["success"], &end["code"]), (&json!(false), &json!("http_status")));
    assert!(end["error"].as_str().unwrap().contains("gone"), "{end}");
    assert_eq!(world.sink.seen("/no").len(), 1);
    // What cannot be reached at all: nothing was sent, so it is a plain failure also for a POST.
    let closed = json!({ "url": "http://127.0.0.1:1/", "method": "POST", "body": {} });
    let transcript = node.dispatch(&flow(json!([call(closed)]))).await;
    assert_eq!(transcript.step("call")["code"], "connect_failed");
}

/// A POST whose answer is lost, once; then it would be answered.
async fn lose(world: &World, node: &Node) -> (Transcript, String) {
    world.sink.on("/charge", [Reply::Drop, Reply::json(json!({ "charge": 2 }))]);
    let steps = json!([
        call(json!({ "url": world.sink.url("/charge"), "method": "POST", "body": { "amount": 5 } })),
        ask("end", "say got {{call}}")
    ]);
    let lost = node.dispatch(&flow(steps)).await;
    let unknown = lost.custom("dispatch.effect_unknown");
    assert_eq!(unknown["stepId"], "call");
    let wait = unknown["waitId"].as_str().unwrap().to_owned();
    assert_eq!(world.sink.seen("/charge").len(), 1);
    let shown = node.execution(&lost.run()).await;
    assert_eq!(
        (&shown["status"], &shown["waits"][0]["kind"], &shown["waits"][0]["id"]),
        (&json!("paused"), &json!("settlement"), &json!(wait))
    );
    (lost, wait)
}

async fn settle(node: &Node, lost: &Transcript, body: Value) -> Transcript {
    let settled = node.post(&format!("/v1/executions/{}/settle", lost.run())).json(&body).ok().await;
    assert_eq!(settled["executionId"], lost.run());
    node.after(&lost.run(), lost.last().id).await
}

async fn a_lost_answer_is_settled_as_succeeded(world: Arc<World>) {
    let node = world.node();
    let (lost, wait) = lose(&world, &node).await;
    let body = json!({ "waitId": wait, "outcome": "succeeded", "result": { "charge": 1 } });
    let end = settle(&node, &lost, body.clone()).await;
    assert_eq!(end.step("call")["result"], json!({ "charge": 1 }), "{:?}", end.step("call"));
    assert_eq!(end.step("end")["result"]["response"], "got {\"charge\":1}");
    assert_eq!(world.sink.seen("/charge").len(), 1);
    let place = format!("/v1/executions/{}/settle", lost.run());
    node.post(&place).json(&body).ok().await;
    let other = json!({ "waitId": wait, "outcome": "failed" });
    node.post(&place).json(&other).refused(409, "effect_already_settled").await;
}

async fn a_lost_answer_is_settled_as_failed(world: Arc<World>) {
    let node = world.crash().await;
    let (lost, wait) = lose(&world, &node).await;
    let node = world.crash().await;
    let end = settle(&node, &lost, json!({ "waitId": wait, "outcome": "failed" })).await;
    assert_eq!((&end.step("call")["success"], &end.step("call")["code"]), (&json!(false), &json!("effect_settled_as_failed")));
    assert_eq!(world.sink.seen("/charge").len(), 1);
}

async fn a_lost_answer_is_settled_by_trying_again(world: Arc<World>) {
    let node = world.node();
    let (lost, wait) = lose(&world, &node).await;
    let end = settle(&node, &lost, json!({ "waitId": wait, "outcome": "retry" })).await;
    assert_eq!(end.step("call")["result"], json!({ "charge": 2 }));
    let seen = world.sink.seen("/charge");
    assert_eq!((seen.len(), seen[0].header("idempotency-key")), (2, seen[1].header("idempotency-key")));
}

async fn a_crash_in_the_middle_of_a_call(world: Arc<World>) {
    let node = world.node();
    let gate = Arc::new(tokio::sync::Notify::new());
    for (path, method) in [("/get", "GET"), ("/post", "POST")] {
        world.sink.on(path, [Reply::Gate(gate.clone()), Reply::json(json!({ "second": true }))]);
        let body = flow(json!([call(json!({ "url": world.sink.url(path), "method": method, "body": { "x": 1 } }))]));
        node.open(&body).await.until(|frame| frame.kind == "step_start").await;
        world.sink.reached(path, 1).await;
    }
    let runs = node.get("/v1/executions").ok().await;
    let run = |at: usize| runs["data"][at]["id"].as_str().unwrap().to_owned();
    let node = world.crash().await;
    // The lease of the dead server runs out, and the run is taken up.
    let mut reader = node.events(&run(1), None).await;
    let end = reader.until(|frame| frame.is_terminal()).await;
    assert_eq!(end.data["success"], true, "a GET is made again");
    assert_eq!(world.sink.seen("/get").len(), 2);
    let mut reader = node.events(&run(0), None).await;
    reader.until(|frame| frame.custom() == Some("dispatch.effect_unknown")).await;
    assert_eq!(world.sink.seen("/post").len(), 1, "a POST is not");
}

async fn a_stop_in_the_middle_of_a_call(world: Arc<World>) {
    world.configure(|config| config.grace = std::time::Duration::ZERO);
    let node = world.crash().await;
    let gate = Arc::new(tokio::sync::Notify::new());
    world.sink.on("/post", [Reply::Gate(gate.clone()), Reply::json(json!({ "second": true }))]);
    let step = call(json!({ "url": world.sink.url("/post"), "method": "POST", "body": { "x": 1 } }));
    let mut reader = node.open(&flow(json!([step, ask("then", "say done")]))).await;
    let run = reader.until(|frame| frame.kind == "step_start").await.text("executionId").to_owned();
    world.sink.reached("/post", 1).await;
    let answer = async {
        // The answer comes when the server has begun to stop.
        while node.get("/readyz").send().await.status == 200 {}
        gate.notify_one();
    };
    tokio::join!(node.stop(), answer);
    let node = world.crash().await;
    let reader = node.events(&run, None).await;
    let log = reader.rest().await;
    assert_eq!((&log.last().data["success"], log.customs("dispatch.effect_unknown").count()), (&json!(true), 0));
    assert_eq!(world.sink.seen("/post").len(), 1);
}

async fn a_lost_answer_of_a_models_tool(world: Arc<World>) {
    let node = world.node();
    world.sink.on("/tool", [Reply::Drop]);
    let tool = super::external("pay", &world.sink.url("/tool"), "POST");
    let lost = node.dispatch(&flow(json!([ask_with("work", "call pay {}", json!({ "runtimeTools": [tool] }))]))).await;
    let wait = lost.custom("dispatch.effect_unknown")["waitId"].clone();
    let end = settle(&node, &lost, json!({ "waitId": wait, "outcome": "succeeded", "result": "paid before" })).await;
    assert_eq!(end.step("work")["result"]["response"], "pay answered: paid before");
    assert_eq!(world.sink.seen("/tool").len(), 1);
}

async fn every_step_of_a_graph_acts_once(world: Arc<World>) {
    let node = world.node();
    let put = |id: &str, after: &[&str]| {
        let config = json!({ "url": world.sink.url(&format!("/{id}")), "method": "PUT", "body": "x" });
        json!({ "id": id, "type": "fetch-url", "after": after, "config": config })
    };
    let mut person = ask_with("person", "call look {}", json!({ "runtimeTools": [super::local("look")] }));
    person["after"] = json!(["left"]);
    let branches = json!({ "condition": "true", "trueSteps": [put("taken", &[])], "falseSteps": [put("passed", &[])] });
    let steps = json!([
        put("start", &[]), put("left", &["start"]), put("middle", &["start"]), put("right", &["start"]), person,
        { "id": "choice", "type": "conditional", "after": ["middle", "right"], "config": branches },
        put("end", &["person", "choice"]),
    ]);
    let body = flow(steps);
    let paused = futures_util::future::join_all((0..10).map(|_| node.dispatch(&body))).await;
    let node = world.crash().await;
    let ends = paused.iter().map(|paused| {
        let (node, run) = (node.clone(), paused.run());
        async move { node.resume(&run, json!({ "look": 1 })).await }
    });
    for end in futures_util::future::join_all(ends).await {
        assert_eq!(end.last().data["success"], true);
    }
    for id in ["start", "left", "middle", "right", "taken", "end"] {
        let keys: std::collections::BTreeSet<String> =
            world.sink.seen(&format!("/{id}")).iter().map(|call| call.header("idempotency-key").to_owned()).collect();
        assert_eq!((world.sink.seen(&format!("/{id}")).len(), keys.len()), (10, 10), "{id}: once in each execution");
    }
    assert_eq!(world.sink.seen("/passed").len(), 0);
}
