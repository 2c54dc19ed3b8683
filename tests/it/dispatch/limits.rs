//! What an execution may hold: values too deep to be read back, too large to be carried, too many to be kept.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{flow, set};
use crate::support::sink::Reply;
use crate::support::world::{Node, World};

on_both!(a_value_that_nests_too_deep_fails_its_step, deep_answers_fail_their_step, a_name_that_no_database_keeps_fails_its_step);
on_one!(Sqlite: what_an_execution_keeps_is_bounded, a_large_answer_is_a_failure);

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

async fn a_name_that_no_database_keeps_fails_its_step(world: Arc<World>) {
    let node = world.node();
    let mut body = flow(json!([{ "id": "go", "type": "wait-for-signal", "config": { "name": "{{name}}" } }]));
    body["inputs"] = json!({ "name": "a\u{0}b" });
    let end = node.dispatch(&body).await;
    assert_eq!(end.step("go")["success"], false, "{}", end.step("go"));
}
