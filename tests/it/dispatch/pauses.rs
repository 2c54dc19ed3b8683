//! Tools that run in the caller: one answer or many, partial ones, late ones, wrong ones, across crashes and nodes.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{ask, ask_with, flow, local};
use crate::support::world::{Kind, World};

on_both!(
    two_calls_are_answered_at_once,
    partial_answers_ask_again,
    outputs_are_found_by_tool_name,
    tools_of_a_page_have_their_own_names,
    a_pause_outlives_a_crash,
    many_pauses_in_one_run,
    wrong_outputs_are_refused,
    two_answers_at_the_same_time,
    another_node_goes_on,
);

/// Two local calls in one turn.
fn two_calls() -> Value {
    let tools = json!({ "runtimeTools": [local("left"), local("right")] });
    flow(json!([ask_with("work", "call left {\"n\": 1}\ncall right {\"n\": 2}", tools), ask("end", "say then {{work}}")]))
}

fn call_of(frames: &crate::support::transcript::Transcript, tool: &str) -> String {
    frames.all("await").find(|frame| frame.data["toolName"] == tool).unwrap().text("toolCallId").to_owned()
}

async fn two_calls_are_answered_at_once(world: Arc<World>) {
    let node = world.node();
    let paused = node.dispatch(&two_calls()).await;
    assert_eq!(paused.all("await").count(), 2);
    let waits = node.execution(&paused.run()).await;
    assert_eq!((&waits["status"], waits["waits"].as_array().unwrap().len()), (&json!("paused"), 2));
    let outputs = json!({ call_of(&paused, "left"): { "a": 1 }, call_of(&paused, "right"): "two" });
    let body =
        json!({ "executionId": paused.run(), "toolOutputs": outputs.clone(), "messages": [{ "role": "user", "content": "say thanks" }] });
    let then = node.go_on("/v1/dispatch/resume", &body).await;
    assert_eq!(then.last().kind, "execution_complete");
    assert_eq!(then.all("tool_complete").count(), 2);
    assert_eq!(then.step("work")["result"]["response"], "thanks", "new words of the user reach the model");
    assert_eq!(then.step("end")["result"]["response"], "then thanks");
    // The same once more is answered from the log, and nothing runs again.
    let again = node.go_on("/v1/dispatch/resume", &body).await;
    assert_eq!(again.frames, then.frames);
}

async fn partial_answers_ask_again(world: Arc<World>) {
    let node = world.node();
    let paused = node.dispatch(&two_calls()).await;
    let (left, right) = (call_of(&paused, "left"), call_of(&paused, "right"));
    let again = node.resume(&paused.run(), json!({ left.clone(): "one" })).await;
    let asked = again.one("await");
    assert_eq!((asked.text("toolCallId"), again.last()), (right.as_str(), asked));
    let end = node.resume(&paused.run(), json!({ right: "two" })).await;
    assert_eq!(end.step("work")["result"]["response"], "left answered: one\nright answered: two");
    assert_eq!(end.last().kind, "execution_complete");
}

async fn outputs_are_found_by_tool_name(world: Arc<World>) {
    let node = world.node();
    let paused = node.dispatch(&two_calls()).await;
    let end = node.resume(&paused.run(), json!({ "left": "one", "right": null })).await;
    assert_eq!(end.step("work")["result"]["response"], "left answered: one\nright answered: ");
}

async fn tools_of_a_page_have_their_own_names(world: Arc<World>) {
    let node = world.node();
    for key in ["add_to_cart", "webmcp:add_to_cart"] {
        let mut body = flow(json!([ask("shop", "call add_to_cart {\"sku\": \"A1\"}")]));
        body["clientTools"] = json!([{
            "name": "add_to_cart", "description": "Adds.", "origin": "webmcp", "pageOrigin": "https://shop.example",
            "parametersSchema": { "type": "object", "properties": { "sku": { "type": "string" } } },
        }]);
        let paused = node.dispatch(&body).await;
        let asked = paused.last();
        assert_eq!((asked.text("toolName"), asked.text("origin")), ("add_to_cart", "webmcp"), "the page's bare name");
        assert_eq!(asked.data["parameters"], json!({ "sku": "A1" }));
        let output = json!({ "content": [{ "type": "text", "text": "added" }] });
        let end = node.resume(&paused.run(), json!({ key: output })).await;
        assert_eq!(end.step("shop")["result"]["response"], "add_to_cart answered: added");
    }
    let mut failing = flow(json!([ask("shop", "call f {}")]));
    failing["clientTools"] = json!([{ "name": "f", "description": "Fails.", "origin": "sdk", "parametersSchema": { "type": "object" } }]);
    let paused = node.dispatch(&failing).await;
    let output = json!({ "content": [{ "type": "text", "text": "out of stock" }], "isError": true });
    let end = node.resume(&paused.run(), json!({ "f": output })).await;
    assert_eq!(end.one("tool_complete").data["success"], false);
    assert_eq!(end.step("shop")["success"], true, "a failed tool is told to the model");
}

async fn a_pause_outlives_a_crash(world: Arc<World>) {
    let paused = world.node().dispatch(&two_calls()).await;
    let node = world.crash().await;
    assert_eq!(node.log(&paused.run()).await.frames, paused.frames, "the log is what was streamed");
    let first = node.resume(&paused.run(), json!({ "left": "one" })).await;
    assert!(first.frames[0].id > paused.last().id);
    let node = world.crash().await;
    let end = node.resume(&paused.run(), json!({ "right": "two" })).await;
    assert_eq!(end.step("work")["result"]["response"], "left answered: one\nright answered: two");
    let all = node.log(&paused.run()).await;
    let parts: Vec<_> = [&paused, &first, &end].into_iter().flat_map(|part| part.frames.clone()).collect();
    assert_eq!(all.frames, parts);
}

async fn many_pauses_in_one_run(world: Arc<World>) {
    let node = world.node();
    let tools = json!({ "runtimeTools": [local("next")] });
    let steps: Vec<Value> = (1..=5).map(|n| ask_with(&format!("s{n}"), "call next {}", tools.clone())).collect();
    let mut part = node.dispatch(&flow(json!(steps))).await;
    let run = part.run();
    for n in 1..=5 {
        let call = part.last().text("toolCallId").to_owned();
        part = node.resume(&run, json!({ call: n })).await;
        assert_eq!(part.step(&format!("s{n}"))["result"]["response"], format!("next answered: {n}"), "each answer finds its own call");
    }
    assert_eq!(part.last().kind, "execution_complete");
}

async fn wrong_outputs_are_refused(world: Arc<World>) {
    let node = world.node();
    let resume = |body: Value| node.post("/v1/dispatch/resume").json(&body);
    let paused = node.dispatch(&two_calls()).await;
    let (run, left) = (paused.run(), call_of(&paused, "left"));
    let unknown =
        resume(json!({ "executionId": run, "toolOutputs": { "left": 1, "nobody/asked": 2 } })).refused(422, "validation_failed").await;
    assert_eq!(unknown.pointers(), ["/toolOutputs/nobody~1asked"]);
    assert_eq!(node.execution(&run).await["waits"].as_array().unwrap().len(), 2, "nothing of a refused call is taken");
    resume(json!({ "executionId": run, "toolOutputs": {} })).refused(422, "validation_failed").await;
    node.resume(&run, json!({ left.clone(): "one" })).await;
    resume(json!({ "executionId": run, "toolOutputs": { left: "another" } })).refused(409, "tool_output_already_delivered").await;
    node.resume(&run, json!({ "right": "two" })).await;

    let not_paused = "No paused execution found for this executionId";
    let finished = node.dispatch(&flow(json!([ask("a", "say a")]))).await.run();
    for run in [finished.as_str(), "exec_00000000000000000000000001", &run] {
        let answer = resume(json!({ "executionId": run, "toolOutputs": { "other": 1 } })).send().await;
        assert_eq!((answer.status, answer.json()["error"].as_str()), (404, Some(not_paused)), "{}", answer.text());
    }
}

async fn two_answers_at_the_same_time(world: Arc<World>) {
    let node = world.node();
    let tools = json!({ "runtimeTools": [local("left"), local("right")] });
    let paused = node.dispatch(&flow(json!([ask_with("work", "call left {}\ncall right {}", tools)]))).await;
    let run = paused.run();
    // Each carries one of the two: whoever comes second must not find the run asleep.
    let (one, two) = tokio::join!(
        node.post("/v1/dispatch/resume").json(&json!({ "executionId": run, "toolOutputs": { "left": 1 } })).send(),
        node.post("/v1/dispatch/resume").json(&json!({ "executionId": run, "toolOutputs": { "right": 2 } })).send(),
    );
    assert_eq!((one.status, two.status), (200, 200), "{} {}", one.text(), two.text());
    let log = node.log(&run).await;
    assert_eq!(log.last().kind, "execution_complete");
    assert_eq!(log.all("tool_complete").count(), 2);
}

async fn another_node_goes_on(world: Arc<World>) {
    if world.kind == Kind::Sqlite {
        // One file, one process: the other node comes after the first.
        world.node().stop().await;
    }
    let (one, two) = match world.kind {
        Kind::Sqlite => (world.crash().await, None),
        Kind::Postgres => (world.node(), Some(world.start().await)),
    };
    let paused = one.dispatch(&two_calls()).await;
    let other = two.unwrap_or_else(|| one.clone());
    assert_eq!(one.events(&paused.run(), Some(paused.last().id)).await.rest().await.frames, []);
    let first = other.resume(&paused.run(), json!({ "left": 1 })).await;
    let end = one.resume(&paused.run(), json!({ "right": 2 })).await;
    assert_eq!(end.last().kind, "execution_complete");
    assert_eq!(one.after(&paused.run(), paused.last().id).await.frames[..first.frames.len()], first.frames[..]);
    assert_eq!(other.log(&paused.run()).await.frames, one.log(&paused.run()).await.frames);
}
