//! Loops: rounds over lists, times and conditions, over crashes too.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{flow, set, step};
use crate::support::sink::Reply;
use crate::support::world::World;

on_both!(rounds_follow_one_another, a_loop_outlives_its_server, a_round_that_fails, wrong_loops_are_refused,);

fn script(code: &str) -> Value {
    json!([{ "id": "s", "type": "transform-data", "config": { "script": code } }])
}

async fn rounds_follow_one_another(world: Arc<World>) {
    let node = world.node();
    let run =
        async |config: Value| node.result(&flow(json!([set("base", json!(10)), step("all", "loop", config)]))).await["result"].clone();
    let sum = script("return base + item + index;");
    assert_eq!(run(json!({ "over": [1, 2, 3], "steps": sum })).await, json!([11, 13, 15]));
    assert_eq!(run(json!({ "over": "{{nothing}}", "steps": sum })).await, json!([]));
    assert_eq!(
        run(json!({ "over": [1, 2, 3], "maxIterations": 2, "itemVariable": "x", "steps": script("return x;") })).await,
        json!([1, 2])
    );
    assert_eq!(
        run(json!({ "times": "{{base}}", "until": "previous >= 3", "steps": script("return (previous || 0) + 1;") })).await,
        json!([1, 2, 3])
    );
    assert_eq!(run(json!({ "while": "index < 2", "steps": script("return index;") })).await, json!([0, 1]));
    // A loop in a loop.
    let inner = json!([{ "id": "in", "type": "loop", "config": { "over": [1, 2], "steps": script("return item * outer;") } }]);
    assert_eq!(run(json!({ "over": [1, 10], "itemVariable": "outer", "steps": inner })).await, json!([[1, 2], [10, 20]]));
}

async fn a_loop_outlives_its_server(world: Arc<World>) {
    let node = world.node();
    let gate = Arc::new(tokio::sync::Notify::new());
    world.sink.on("/round", [Reply::json(json!(1)), Reply::Gate(gate.clone()), Reply::json(json!(3)), Reply::json(json!(4))]);
    let call = json!([{ "id": "c", "type": "fetch-url", "config": { "url": format!("{}?n={{{{index}}}}", world.sink.url("/round")) } }]);
    let body = flow(json!([step("all", "loop", json!({ "times": 3, "steps": call }))]));
    let mut reader = node.open(&body).await;
    let run = reader.until(|frame| frame.kind == "execution_start").await.text("executionId").to_owned();
    world.sink.reached("/round", 2).await;
    let node = world.crash().await;
    gate.notify_one();
    node.log(&run).await;
    let execution = node.execution(&run).await;
    assert_eq!(execution["output"].as_array().map(Vec::len), Some(3), "{execution}");
    let asked: Vec<String> = world.sink.all().into_iter().filter(|path| path.starts_with("/round")).collect();
    assert_eq!(asked.iter().filter(|path| path.ends_with("n=0")).count(), 1, "the first round is not done again: {asked:?}");
}

async fn a_round_that_fails(world: Arc<World>) {
    let node = world.node();
    let steps = json!([{ "id": "s", "type": "transform-data", "config": { "script": "if (item === 2) throw new Error('no two'); return item;", "errorHandling": { "onError": "fail" } } }]);
    let run = async |more: Value| {
        let mut config = json!({ "over": [1, 2, 3], "steps": steps });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        node.dispatch(&flow(json!([step("all", "loop", config)]))).await
    };
    let told = run(json!({})).await;
    assert_eq!((&told.step("all")["code"], &told.step("all")["success"]), (&json!("child_failed"), &json!(false)));
    let told = run(json!({ "onRoundError": "continue" })).await;
    assert_eq!(told.last().data["result"][2], 3, "{:?}", told.last());
    assert_eq!(told.last().data["result"][1]["error"]["code"], "child_failed");
}

async fn wrong_loops_are_refused(world: Arc<World>) {
    let node = world.node();
    for (config, fields) in [
        (json!({ "steps": [] }), vec!["over"]),
        (json!({ "over": [], "times": 1, "steps": 7 }), vec!["steps"]),
        (json!({ "over": [1], "steps": [{ "id": "a", "type": "no-such-step" }] }), vec!["steps/0/type"]),
        (
            json!({ "times": 1, "maxIterations": 1001, "itemVariable": "_x", "until": "secrets.x", "steps": [] }),
            vec!["until", "maxIterations", "itemVariable"],
        ),
    ] {
        let refused =
            node.post("/v1/dispatch").json(&flow(json!([step("out", "loop", config.clone())]))).refused(422, "validation_failed").await;
        assert_eq!(
            refused.pointers(),
            fields.iter().map(|field| format!("/flow/steps/0/config/{field}")).collect::<Vec<_>>(),
            "{config}: {}",
            refused.text()
        );
    }
    let told = node.dispatch(&flow(json!([set("x", json!("text")), step("out", "loop", json!({ "over": "{{x}}", "steps": [] }))]))).await;
    assert_eq!(told.step("out")["code"], "invalid_loop");
}
