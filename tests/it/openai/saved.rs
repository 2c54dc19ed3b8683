//! Saved agents and flows as models.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{asks, chunks, complete, function, joined, message, with};
use crate::dispatch::step;
use crate::support::world::World;

on_both!(an_agent_answers_like_a_model, an_agent_leaves_the_caller_s_calls_and_makes_its_own, a_flow_answers_with_its_output);
on_one!(Sqlite: what_waits_for_a_person_is_not_left_waiting);

fn sum() -> Value {
    json!({
        "name": "sum", "description": "Adds.", "toolType": "custom", "config": { "code": "return a + b;" },
        "parametersSchema": { "type": "object", "properties": { "a": { "type": "number" }, "b": { "type": "number" } } },
    })
}

async fn an_agent_answers_like_a_model(world: Arc<World>) {
    let node = world.node();
    let agent =
        node.post("/v1/agents").json(&json!({ "name": "Support desk", "model": "local/echo", "systemPrompt": "Be brief." })).ok().await;
    for name in ["agent:Support desk".to_owned(), format!("agent:{}", agent["id"].as_str().unwrap())] {
        let completion = complete(&node, &asks(&name, "say hello")).await;
        assert_eq!((&message(&completion)["content"], &completion["model"]), (&json!("hello"), &json!(name)));
        assert_eq!(joined(&chunks(&node, &asks(&name, "say hello")).await, "content"), "hello");
    }
    let run = complete(&node, &asks("agent:Support desk", "say hello")).await["id"].as_str().unwrap().replace("chatcmpl-", "");
    assert_eq!(node.execution(&run).await["agentId"], agent["id"]);
    let refused = node.post("/v1/chat/completions").json(&with(asks("agent:Support desk", "x"), json!({ "temperature": 1 })));
    assert_eq!(refused.refused(400, "validation_failed").await.json()["error"]["param"], "temperature");
}

async fn an_agent_leaves_the_caller_s_calls_and_makes_its_own(world: Arc<World>) {
    let node = world.node();
    let agent = json!({ "name": "Clerk", "model": "local/echo", "tools": { "runtimeTools": [sum()] } });
    node.post("/v1/agents").json(&agent).ok().await;
    let own = complete(&node, &asks("agent:Clerk", "call sum {\"a\":1,\"b\":2}")).await;
    assert_eq!((&message(&own)["content"], &own["choices"][0]["finish_reason"]), (&json!("sum answered: 3"), &json!("stop")));
    let body = with(asks("agent:Clerk", "call sum {\"a\":1,\"b\":2}\ncall look {}"), json!({ "tools": [function("look")] }));
    let left = complete(&node, &body).await;
    let calls = message(&left)["tool_calls"].as_array().unwrap().clone();
    assert_eq!((calls.len(), &calls[0]["function"]["name"]), (1, &json!("look")), "{left}");
}

async fn a_flow_answers_with_its_output(world: Arc<World>) {
    let node = world.node();
    let ask = step("said", "prompt", json!({ "model": "local/echo", "userPrompt": "say {{user_message}}, indeed" }));
    let shape = step("shaped", "transform-data", json!({ "script": "return { said: said };" }));
    node.post("/v1/flows").json(&json!({ "name": "Says", "steps": [ask.clone()] })).ok().await;
    node.post("/v1/flows").json(&json!({ "name": "Shapes", "steps": [ask, shape] })).ok().await;
    for (name, content) in [("flow:Says", "yes, indeed"), ("flow:Shapes", "{\"said\":\"yes, indeed\"}")] {
        assert_eq!(message(&complete(&node, &asks(name, "yes")).await)["content"], content, "{name}");
        assert_eq!(joined(&chunks(&node, &asks(name, "yes")).await, "content"), content, "{name}");
    }
    let tools = with(asks("flow:Says", "yes"), json!({ "tools": [function("look")] }));
    let refused = node.post("/v1/chat/completions").json(&tools).refused(400, "validation_failed").await;
    assert_eq!(refused.json()["error"]["param"], "tools");
}

async fn what_waits_for_a_person_is_not_left_waiting(world: Arc<World>) {
    let node = world.node();
    let agent = json!({ "name": "Careful", "model": "local/echo", "tools": { "runtimeTools": [sum()], "approval": { "require": true } } });
    node.post("/v1/agents").json(&agent).ok().await;
    for stream in [false, true] {
        let body = with(asks("agent:Careful", "call sum {\"a\":1,\"b\":2}"), json!({ "stream": stream }));
        let refused = node.post("/v1/chat/completions").json(&body).refused(409, "execution_waits").await;
        let run = refused.header("x-execution-id").unwrap().to_owned();
        assert!(refused.json()["error"]["message"].as_str().unwrap().contains("approval of `sum`"), "{}", refused.text());
        crate::support::world::until(&node, &format!("/v1/executions/{run}"), |shown| shown["status"] == "cancelled").await;
    }
}
