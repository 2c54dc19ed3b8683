//! Every stated limit, at the limit and one above it: what fits is taken, what does not is refused by name, and nothing is left behind.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{ask_with, flow, local, set};
use crate::support::sink::Reply;
use crate::support::world::{KEY, Node, World};

on_both!(flows_within_flows_end_somewhere, what_is_waited_for_at_once);
on_one!(Sqlite: requests_at_their_limits, what_steps_bring_at_its_limit, names_and_lists_at_their_limits, an_execution_has_so_many_events);

const MIB: usize = 1024 * 1024;

/// A limit of a request: what is limited, how much of it, where the refusal points, and a request with so much.
type Edge = (&'static str, usize, &'static str, fn(usize) -> Value);

/// One step, with a member.
fn step_with(member: &str, value: Value) -> Value {
    let mut step = set("a", json!(1));
    step[member] = value;
    flow(json!([step]))
}

fn flow_with(member: &str, value: Value) -> Value {
    let mut body = flow(json!([set("a", json!(1))]));
    body["flow"][member] = value;
    body
}

fn conditionals(levels: usize) -> Value {
    let inside = |inner: Value, level| json!({ "id": format!("c{level}"), "type": "conditional", "config": { "condition": "true", "trueSteps": [inner] } });
    flow(json!([(0..levels).fold(set("x", json!(1)), inside)]))
}

const REQUESTS: &[Edge] = &[
    ("steps", 500, "/flow/steps", |n| flow((0..n).map(|at| set(&format!("s{at}"), json!(1))).collect())),
    ("conditionals within each other", 10, "/flow/steps/0/config/trueSteps/0", conditionals),
    ("steps at once", 100, "/flow/maxParallel", |n| flow_with("maxParallel", json!(n))),
    ("attempts", 5, "/flow/steps/0/retry/maxAttempts", |n| step_with("retry", json!({ "maxAttempts": n }))),
    ("milliseconds of a flow", 86_400_000, "/flow/timeoutMs", |n| flow_with("timeoutMs", json!(n))),
    ("milliseconds of a step", 86_400_000, "/flow/steps/0/timeoutMs", |n| step_with("timeoutMs", json!(n))),
    ("tool calls", 200, "/flow/steps/0/config/tools/maxToolCalls", |n| flow(json!([ask_with("a", "say x", json!({ "maxToolCalls": n }))]))),
    ("bytes of a document", MIB, "/flow/steps/0/config/template", |n| {
        flow(json!([{ "id": "a", "type": "template", "config": { "template": format!("{}{{# #}}", " ".repeat(n - 5)) } }]))
    }),
    ("messages", 10_000, "/messages", |n| {
        let mut body = flow(json!([set("a", json!(1))]));
        body["messages"] = json!(vec![json!({ "role": "user", "content": "x" }); n]);
        body
    }),
    ("secrets", 100, "/secrets", |n| {
        let mut body = flow(json!([set("a", json!(1))]));
        body["secrets"] = (0..n).map(|at| (format!("s{at}"), json!("long enough to be one"))).collect();
        body
    }),
];

async fn requests_at_their_limits(world: Arc<World>) {
    let node = world.node();
    for (what, limit, pointer, body) in REQUESTS {
        let taken = node.result(&body(*limit)).await;
        assert_eq!(taken["success"], true, "{limit} {what}: {taken}");
        let before = node.get("/v1/executions").ok().await;
        let refused = node.post("/v1/dispatch").json(&body(limit + 1)).refused(422, "validation_failed").await;
        assert!(refused.pointers().iter().any(|at| at.starts_with(pointer)), "{} {what}: {}", limit + 1, refused.text());
        assert_eq!(node.get("/v1/executions").ok().await, before, "{what}: what was refused left nothing");
    }
}

/// The step's end in a flow of this step alone, with inputs.
async fn end_of(node: &Node, config: (&str, Value), inputs: Value) -> Value {
    let mut body = flow(json!([{ "id": "s", "type": config.0, "config": config.1 }]));
    body["inputs"] = inputs;
    node.dispatch(&body).await.step("s").clone()
}

async fn what_steps_bring_at_its_limit(world: Arc<World>) {
    let node = world.node();
    let text = |bytes: usize| "x".repeat(bytes);
    for (bytes, fits) in [(10 * MIB, true), (10 * MIB + 1, false)] {
        world.sink.on("/large", [Reply::Answer(200, vec![("content-type", "text/plain".into())], text(bytes))]);
        let end = end_of(&node, ("fetch-url", json!({ "http": { "url": world.sink.url("/large") } })), json!({})).await;
        assert_eq!(end["success"], fits, "an answer of {bytes} bytes: {}", end["error"]);
        assert!(fits || end["code"] == "response_too_large", "{}", end["code"]);
    }
    for (bytes, fits) in [(MIB, true), (MIB + 1, false)] {
        let inputs = json!({ "x": text(bytes) });
        let document = end_of(&node, ("template", json!({ "template": "{{ x }}" })), inputs.clone()).await;
        assert_eq!(document["success"], fits, "a document of {bytes} bytes: {}", document["error"]);
        let variable =
            end_of(&node, ("set-variable", json!({ "variableName": "y", "value": "{{x}}!" })), json!({ "x": text(bytes - 1) })).await;
        assert_eq!(variable["success"], fits, "a text of {bytes} bytes: {}", variable["error"]);
        // A script's result is counted as JSON, its quotation marks included.
        let script = end_of(&node, ("transform-data", json!({ "script": format!("return 'x'.repeat({})", bytes - 2) })), json!({})).await;
        assert_eq!(script["success"], fits, "a result of {bytes} bytes: {}", script["error"]);
    }
    assert_eq!(node.result(&flow(json!([set("a", json!(1))]))).await["success"], true, "the server is well");
}

async fn names_and_lists_at_their_limits(world: Arc<World>) {
    let node = world.node();
    let asks = |calls: &str| flow(json!([ask_with("p", calls, json!({ "runtimeTools": [local("act")] }))]));
    let run = node.dispatch(&asks("call act {}")).await.run();
    let signal = |letters: usize| node.post(&format!("/v1/executions/{run}/signals/{}", "x".repeat(letters))).json(&json!({}));
    signal(200).ok().await;
    assert_eq!(signal(201).send().await.status, 422);
    let record = |letters: usize| node.post("/v1/records").json(&json!({ "type": "t", "name": "x".repeat(letters) }));
    record(500).ok().await;
    assert_eq!(record(501).refused(422, "validation_failed").await.pointers(), ["/name"]);
    let saved = |letters: usize| node.post("/v1/flows").json(&json!({ "name": "x".repeat(letters), "steps": [] }));
    saved(255).ok().await;
    assert_eq!(saved(256).refused(422, "validation_failed").await.pointers(), ["/name"]);
    let ids = |count: usize| node.post("/v1/records/bulk-delete").json(&json!({ "ids": vec!["record_00000000000000000000000001"; count] }));
    ids(1_000).ok().await;
    assert_eq!(ids(1_001).refused(422, "validation_failed").await.pointers(), ["/ids"]);
    // A page is never larger than the largest, however large a one is asked for.
    for name in 0..201 {
        node.post("/v1/records").json(&json!({ "type": "many", "name": format!("{name}") })).ok().await;
    }
    for (asked, given) in [(199, 199), (200, 200), (201, 200)] {
        let page = node.get(&format!("/v1/records?type=many&limit={asked}")).ok().await;
        assert_eq!(page["data"].as_array().unwrap().len(), given, "limit={asked}");
    }
}

async fn what_is_waited_for_at_once(world: Arc<World>) {
    let node = world.node();
    let asks = |calls: usize| {
        let tools = json!({ "runtimeTools": [local("act")], "maxToolCalls": 200 });
        flow(json!([ask_with("p", &"call act {}\n".repeat(calls), tools)]))
    };
    let paused = node.dispatch(&asks(100)).await;
    assert_eq!(node.execution(&paused.run()).await["waits"].as_array().unwrap().len(), 100);
    let end = node.dispatch(&asks(101)).await;
    assert_eq!((&end.step("p")["success"], &end.step("p")["code"]), (&json!(false), &json!("too_many_waits")));
    assert_eq!(node.execution(&end.run()).await["waits"], json!([]), "nothing is left open");
}

async fn flows_within_flows_end_somewhere(world: Arc<World>) {
    let node = world.node();
    let saved = node.post("/v1/flows").json(&json!({ "name": "within itself", "steps": [] })).ok().await;
    let id = saved["id"].as_str().unwrap();
    let again = json!({ "id": "again", "type": "run-flow", "config": { "flowId": id } });
    node.bare(reqwest::Method::PUT, &format!("/v1/flows/{id}")).bearer(KEY).json(&json!({ "steps": [again] })).ok().await;
    let end = node.dispatch(&json!({ "flow": { "id": id } })).await;
    assert_eq!(end.last().kind, "execution_complete");
    let all = node.get("/v1/executions?limit=100").ok().await["data"].as_array().unwrap().clone();
    assert_eq!(all.len(), 9, "one, and eight within each other");
    let deepest = node.log(all[0]["id"].as_str().unwrap()).await;
    assert_eq!(deepest.step("again")["code"], "nesting_too_deep");
}

async fn an_execution_has_so_many_events(world: Arc<World>) {
    let node = world.node();
    let says =
        |words: usize| (0..words.div_ceil(10_000)).map(move |at| super::ask(&format!("s{at}"), "repeat 10000 w")).collect::<Vec<_>>();
    let fits = node.result(&flow(json!(says(40_000)))).await;
    assert_eq!(fits["success"], true, "{}", fits["status"]);
    let end = node.result(&flow(json!(says(60_000)))).await;
    assert_eq!(end["status"], "failed");
    let path = format!("/v1/executions/{}/events?after=49900&wait=0", end["executionId"].as_str().unwrap());
    let tail = node.get(&path).ok().await["events"].as_array().unwrap().clone();
    assert_eq!((&tail.last().unwrap()["type"], &tail.last().unwrap()["code"]), (&json!("execution_error"), &json!("too_many_events")));
    assert!(tail.last().unwrap()["seq"].as_u64().unwrap() < 60_000, "it was stopped soon");
}
