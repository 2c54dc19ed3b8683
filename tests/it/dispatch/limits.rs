//! What an execution may hold: values too deep to be read back, too large to be carried, too many to be kept.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};

use super::{ask_with, flow, local, set, step};
use crate::support::app::within;
use crate::support::sink::Reply;
use crate::support::world::{KEY, Node, World};

on_both!(a_value_that_nests_too_deep_fails_its_step, deep_answers_fail_their_step, a_name_that_no_database_keeps_fails_its_step);
on_one!(
    Sqlite: what_an_execution_keeps_is_bounded,
    a_large_answer_is_a_failure,
    an_exponential_schema_times_out,
    a_script_that_ignores_interrupts_times_out,
    the_total_size_of_scripts_is_limited,
    the_operator_changes_limits,
    one_tenant_leaves_room_to_others,
);

async fn one_tenant_leaves_room_to_others(world: Arc<World>) {
    world.configure(|config| config.limits.workers.max_active = 10);
    let node = world.crash().await;
    let stranger = world.strangers_key().await;
    let gate = Arc::new(tokio::sync::Notify::new());
    world.sink.on("/gate", [Reply::Gate(gate.clone())]);
    let step = json!({ "id": "s", "type": "fetch-url", "config": { "http": { "url": world.sink.url("/gate") } } });
    let body = flow(json!([step]));
    let begin = |key: &str| node.bare(Method::POST, "/v1/dispatch").bearer(key).header("prefer", "respond-async").json(&body);
    for _ in 0..9 {
        assert_eq!(begin(KEY).send().await.status, 202);
    }
    begin(KEY).refused(503, "at_capacity").await;
    assert_eq!(begin(&stranger).send().await.status, 202, "the last tenth is for tenants with few executions");
    begin(&stranger).refused(503, "at_capacity").await;
    world.sink.reached("/gate", 10).await;
    // What was refused is taken when there is room again.
    let taken = async {
        while begin(KEY).send().await.status != 202 {
            gate.notify_one();
        }
    };
    within(taken).await;
}

fn nested(levels: usize, inner: Value) -> Value {
    (0..levels).fold(inner, |value, _| json!([value]))
}

/// Everything that shows the execution answers.
async fn can_be_read(node: &Node, run: &str) {
    for path in ["", "/events", "/steps"] {
        node.get(&format!("/v1/executions/{run}{path}")).ok().await;
    }
}

async fn a_value_that_nests_too_deep_fails_its_step(world: Arc<World>) {
    let node = world.node();
    let steps = json!([set("x", nested(45, json!(1))), set("y", nested(45, json!("{{x}}"))), set("z", nested(44, json!("{{x}}")))]);
    let end = node.dispatch(&flow(steps)).await;
    for step in ["y", "z"] {
        assert_eq!((&end.step(step)["success"], &end.step(step)["code"]), (&json!(false), &json!("value_too_deep")));
    }
    can_be_read(&node, &end.run()).await;
}

async fn deep_answers_fail_their_step(world: Arc<World>) {
    let node = world.node();
    let call = |id: &str| json!({ "id": id, "type": "fetch-url", "config": { "http": { "url": world.sink.url(&format!("/{id}")) } } });
    let levels = [("most", 64), ("more", 65), ("far", 127)];
    for (id, levels) in levels {
        world.sink.on(&format!("/{id}"), [Reply::json(nested(levels, json!(1)))]);
    }
    let end = node.dispatch(&flow(json!(levels.map(|(id, _)| call(id))))).await;
    assert_eq!(levels.map(|(id, _)| end.step(id)["code"].clone()), [Value::Null, json!("value_too_deep"), json!("value_too_deep")]);
    can_be_read(&node, &end.run()).await;
}

async fn what_an_execution_keeps_is_bounded(world: Arc<World>) {
    let node = world.node();
    let mut body =
        flow((0..10).map(|number| set(&format!("v{number}"), json!(["{{many}}", "{{many}}", "{{many}}", "{{many}}"]))).collect());
    body["inputs"] = json!({ "many": vec![1; 50_000] });
    let end = node.dispatch(&body).await;
    assert_eq!((end.last().kind.as_str(), end.last().text("code")), ("execution_error", "too_much_data"));
    can_be_read(&node, &end.run()).await;
}

async fn a_large_answer_is_a_failure(world: Arc<World>) {
    let node = world.node();
    world.sink.on("/many", [Reply::json(json!(vec![1; 1_000_000]))]);
    let step = json!({ "id": "many", "type": "fetch-url", "config": { "http": { "url": world.sink.url("/many") } } });
    let end = node.dispatch(&flow(json!([step]))).await;
    assert_eq!(end.step("many")["code"], "value_too_large");
}

async fn the_operator_changes_limits(world: Arc<World>) {
    world.configure(|config| {
        let runs = &mut config.limits.runs;
        (runs.max_result_bytes, runs.max_response_bytes, runs.max_waits) = (64 * 1024, 100_000, 2);
    });
    let node = world.crash().await;
    world.sink.on("/many", [Reply::json(json!(vec![1; 3_000]))]);
    world.sink.on("/long", [Reply::text(&"x".repeat(100_001))]);
    let fetch = |id: &str| json!({ "id": id, "type": "fetch-url", "config": { "http": { "url": world.sink.url(&format!("/{id}")) } } });
    let end = node.dispatch(&flow(json!([fetch("many"), fetch("long")]))).await;
    assert_eq!((&end.step("many")["code"], &end.step("long")["code"]), (&json!("value_too_large"), &json!("response_too_large")));
    let tools = json!({ "runtimeTools": [local("act")], "maxToolCalls": 200 });
    let end = node.dispatch(&flow(json!([ask_with("p", &"call act {}\n".repeat(3), tools)]))).await;
    assert_eq!(end.step("p")["code"], "too_many_waits");
}

async fn a_name_that_no_database_keeps_fails_its_step(world: Arc<World>) {
    let node = world.node();
    let mut body = flow(json!([{ "id": "go", "type": "wait-for-signal", "config": { "name": "{{name}}" } }]));
    body["inputs"] = json!({ "name": "a\u{0}b" });
    let end = node.dispatch(&body).await;
    assert_eq!(end.step("go")["success"], false, "{}", end.step("go"));
}

/// A schema whose definitions each refer to the next one twice: small to write, exponential to validate.
fn exponential_schema() -> Value {
    let mut defs: serde_json::Map<String, Value> = (0..60)
        .map(|level| {
            let next = json!({ "$ref": format!("#/$defs/a{}", level + 1) });
            (format!("a{level}"), json!({ "allOf": [next, next] }))
        })
        .collect();
    defs.insert("a60".into(), json!({ "type": "string" }));
    json!({ "type": "object", "properties": { "x": { "$ref": "#/$defs/a0" } }, "$defs": defs })
}

async fn an_exponential_schema_times_out(world: Arc<World>) {
    let node = world.node();
    let tool = json!({
        "name": "echo", "description": "d", "toolType": "custom", "parametersSchema": exponential_schema(), "config": { "code": "return 1" },
    });
    let body = flow(json!([step("s", "tool-call", json!({ "tool": tool, "parameters": { "x": "s" } }))]));
    // One for each thread of the server.
    let mut both = std::pin::pin!(async { tokio::join!(node.dispatch(&body), node.dispatch(&body)) });
    let mut answers = 0;
    let (one, two) = loop {
        tokio::select! {
            biased;
            ended = &mut both => break ended,
            _ = within(node.get("/livez").ok()) => answers += 1,
        }
    };
    assert!(answers > 0, "the server answers meanwhile");
    for end in [one, two] {
        assert_eq!(end.step("s")["code"], "script_timeout", "{}", end.step("s"));
    }
    // Answers of a model and its tool calls are validated in the same way.
    let prompt = json!({ "model": "local/echo", "userPrompt": "json {\"x\": \"s\"}", "responseFormat": { "type": "json_schema", "schema": exponential_schema() } });
    let tools = json!({ "runtimeTools": [tool] });
    let calls = json!({ "model": "local/echo", "userPrompt": "call echo {\"x\": \"s\"}", "tools": tools });
    let end = node.dispatch(&flow(json!([step("answer", "prompt", prompt), step("calls", "prompt", calls)]))).await;
    for id in ["answer", "calls"] {
        assert_eq!(end.step(id)["code"], "script_timeout", "{}", end.step(id));
    }
}

async fn a_script_that_ignores_interrupts_times_out(world: Arc<World>) {
    let node = world.node();
    let script = |code: &str| flow(json!([step("s", "transform-data", json!({ "script": code }))]));
    let end = node.dispatch(&script("return Array.prototype.reverse.call({ length: 2 ** 53 - 1 })")).await;
    assert_eq!(end.step("s")["code"], "script_timeout", "{}", end.step("s"));
    let stranger = world.strangers_key().await;
    let mut next = script("return 1 + 1");
    next["streamResponse"] = json!(false);
    let answer = within(node.bare(reqwest::Method::POST, "/v1/dispatch").bearer(&stranger).json(&next).ok()).await;
    assert_eq!(answer["result"], 2, "{answer}");
}

async fn the_total_size_of_scripts_is_limited(world: Arc<World>) {
    let node = world.node();
    let scripts = |count: usize| {
        let script = |at: usize| {
            step(&format!("s{at}"), "transform-data", json!({ "script": format!("return {at}; //{}", "x".repeat(200 * 1024)) }))
        };
        flow((0..count).map(script).collect())
    };
    assert_eq!(node.result(&scripts(5)).await["success"], true);
    let refused = node.post("/v1/dispatch").json(&scripts(6)).refused(422, "validation_failed").await;
    assert_eq!(refused.pointers(), ["/flow"], "{}", refused.text());
}
