//! Runs of flows by their names.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};

use super::{call, flow, until};
use crate::dispatch::step;
use crate::support::world::World;

on_both!(a_flow_is_started_by_its_name, runs_are_listed_by_their_state, a_run_s_children_are_told, a_run_is_done_again_from_a_step_on);

fn at(run: &Value, what: &str) -> String {
    format!("/v1/workflows/runs/{}{what}", run["id"].as_str().unwrap())
}

async fn a_flow_is_started_by_its_name(world: Arc<World>) {
    let node = world.node();
    let steps = json!([
        step("first", "transform-data", json!({ "script": "return n + 1;" })),
        step("second", "transform-data", json!({ "script": "return first * 2;" })),
    ]);
    flow(&node, "onboard_user", steps).await;
    flow(&node, "another", json!([step("s", "set-variable", json!({ "variableName": "x", "value": 1 }))])).await;
    assert_eq!(node.get("/v1/workflows").ok().await, json!({ "names": ["another", "onboard_user"] }));
    let post =
        |key: &str| node.post("/v1/workflows/onboard_user/runs").header("idempotency-key", key).json(&json!({ "input": { "n": 4 } }));
    let run = post("one").ok().await;
    assert!(run["id"].as_str().unwrap().starts_with("wfrun_"), "{run}");
    assert_eq!((&run["name"], &run["input"]), (&json!("onboard_user"), &json!({ "n": 4 })));
    assert_eq!(post("one").ok().await["id"], run["id"]);
    let done = until(&node, &at(&run, ""), |run| run["state"] == "completed").await;
    assert_eq!((&done["output"], &done["current_step"]), (&json!(10), &json!("second")), "{done}");
    let timeline = node.get(&at(&run, "/timeline")).ok().await;
    let told: Vec<(&str, i64)> =
        timeline.as_array().unwrap().iter().map(|step| (step["step_name"].as_str().unwrap(), step["data"].as_i64().unwrap())).collect();
    assert_eq!(told, [("first", 5), ("second", 10)]);
    let other = run["id"].as_str().unwrap().replace("wfrun_", "run_");
    assert_eq!(node.get(&format!("/v1/workflows/runs/{other}")).ok().await["id"], run["id"], "the other name of its id");
    call(&node, Method::POST, &at(&run, "/cancel")).refused(400, "run_over").await;
    node.post("/v1/workflows/nowhere/runs").json(&json!({})).refused(404, "not_found").await;
    node.get("/v1/workflows/runs/wfrun_01h455vb4pex5vsknk084sn02q").refused(404, "not_found").await;
    node.get("/v1/workflows/runs/x").refused(400, "invalid_id").await;
    let stranger = world.strangers_key().await;
    node.bare(Method::GET, &at(&run, "")).bearer(&stranger).refused(404, "not_found").await;
}

async fn runs_are_listed_by_their_state(world: Arc<World>) {
    let node = world.node();
    flow(&node, "waits", json!([step("w", "wait-for-signal", json!({ "name": "go" }))])).await;
    flow(&node, "fails", json!([step("s", "transform-data", json!({ "script": "throw new Error('no');" }))])).await;
    let start = async |name: &str| node.post(&format!("/v1/workflows/{name}/runs")).json(&json!({})).ok().await;
    let (first, second, failed) = (start("waits").await, start("waits").await, start("fails").await);
    until(&node, &at(&failed, ""), |run| run["state"] == "failed").await;
    let list = async |query: &str| -> Vec<Value> {
        let runs = node.get(&format!("/v1/workflows/runs{query}")).ok().await;
        runs.as_array().unwrap().iter().map(|run| run["id"].clone()).collect()
    };
    assert_eq!(list("").await, [first["id"].clone(), second["id"].clone(), failed["id"].clone()]);
    assert_eq!(list("?state=running&limit=1&offset=1").await, [second["id"].clone()]);
    assert_eq!(list("?state=failed").await, [failed["id"].clone()]);
    node.get("/v1/workflows/runs?state=pending").refused(400, "invalid_query").await;
    let waits = until(&node, &at(&first, ""), |run| run["current_step"] == "w").await;
    assert_eq!((&waits["state"], &waits["completed_at"]), (&json!("running"), &Value::Null));
    assert_eq!(call(&node, Method::POST, &at(&first, "/cancel")).send().await.status, 204);
    let cancelled = until(&node, &at(&first, ""), |run| run["state"] == "failed").await;
    assert!(cancelled["error"].as_str().unwrap().contains("cancelled"), "{cancelled}");
}

async fn a_run_s_children_are_told(world: Arc<World>) {
    let node = world.node();
    let inner = json!({ "name": "inner", "steps": [step("s", "set-variable", json!({ "variableName": "x", "value": 3 }))] });
    flow(&node, "outer", json!([step("child", "run-flow", json!({ "flow": inner }))])).await;
    let run = node.post("/v1/workflows/outer/runs").json(&json!({})).ok().await;
    until(&node, &at(&run, ""), |run| run["state"] == "completed").await;
    let children = node.get(&at(&run, "/children")).ok().await;
    assert_eq!((children.as_array().unwrap().len(), &children[0]["name"], &children[0]["parent_run_id"]), (1, &json!("inner"), &run["id"]));
}

async fn a_run_is_done_again_from_a_step_on(world: Arc<World>) {
    let node = world.node();
    let put = |id: &str, path: &str| {
        step(id, "fetch-url", json!({ "http": { "url": world.sink.url(path), "method": "PUT", "body": { "n": "{{n}}" } } }))
    };
    let with = |mut step: Value, after: Value| {
        step["after"] = after;
        step
    };
    world.sink.on("/b", [crate::support::sink::Reply::status(500, json!({})), crate::support::sink::Reply::json(json!("mended"))]);
    world.sink.on("/a", [crate::support::sink::Reply::json(json!("once"))]);
    // Two branches; one of them fails at first.
    let steps = json!([
        with(put("a", "/a"), json!([])),
        with(put("side", "/side"), json!(["a"])),
        with(put("b", "/b"), json!(["a"])),
        with(step("end", "transform-data", json!({ "script": "return [a, b];" })), json!(["b", "side"])),
    ]);
    flow(&node, "branches", steps).await;
    let run = node.post("/v1/workflows/branches/runs").json(&json!({ "input": { "n": 1 } })).ok().await;
    let failed = until(&node, &at(&run, ""), |run| run["state"] == "failed").await;
    assert!(failed["error"].as_str().unwrap().contains("500"), "{failed}");
    let a = world.sink.seen("/a").len();
    let replay = |from: &str| node.post(&at(&run, "/replay")).header("idempotency-key", from).json(&json!({ "from_step": from }));
    replay("nowhere").refused(400, "step_not_found").await;
    let again = replay("b").ok().await;
    assert_ne!(again["id"], run["id"]);
    assert_eq!(replay("b").ok().await["id"], again["id"], "the same call is the same run");
    let done = until(&node, &at(&again, ""), |run| run["state"] == "completed").await;
    assert_eq!((&done["output"], &done["input"]), (&json!(["once", "mended"]), &json!({ "n": 1 })), "{done}");
    assert_eq!((world.sink.seen("/a").len(), world.sink.seen("/b").len()), (a, 2), "what came before is not done again");
    let waits = json!([step("w", "wait-for-signal", json!({ "name": "go" }))]);
    flow(&node, "waits", waits).await;
    let open = node.post("/v1/workflows/waits/runs").json(&json!({})).ok().await;
    node.post(&at(&open, "/replay")).json(&json!({ "from_step": "w" })).refused(409, "run_goes_on").await;
    let stranger = world.strangers_key().await;
    node.bare(Method::POST, &at(&run, "/replay")).bearer(&stranger).json(&json!({ "from_step": "b" })).refused(404, "not_found").await;
}
