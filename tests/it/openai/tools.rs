//! Tools that run in the caller: calls are the answer, and the next request brings the whole conversation with their results.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{asks, chunks, complete, finish, function, message, with};
use crate::support::world::World;

on_both!(a_call_is_the_answer_and_its_result_comes_with_the_history, calls_come_in_chunks_too);
on_one!(Sqlite: the_choice_of_tools_is_kept, calls_of_a_vendor_that_numbers_them);

fn weather() -> Value {
    json!({ "type": "function", "function": {
        "name": "get_weather", "description": "The weather.", "strict": false,
        "parameters": { "type": "object", "properties": { "city": { "type": "string" } }, "required": ["city"] },
    } })
}

async fn a_call_is_the_answer_and_its_result_comes_with_the_history(world: Arc<World>) {
    let node = world.node();
    let body = with(asks("local/echo", "call get_weather {\"city\":\"Oslo\"}"), json!({ "tools": [weather()] }));
    let completion = complete(&node, &body).await;
    let asked = message(&completion);
    assert_eq!((&asked["content"], &completion["choices"][0]["finish_reason"]), (&Value::Null, &json!("tool_calls")));
    let call = &asked["tool_calls"][0];
    assert_eq!(
        (&call["type"], &call["function"]),
        (&json!("function"), &json!({ "name": "get_weather", "arguments": "{\"city\":\"Oslo\"}" }))
    );
    // Nothing waits: the execution has come to its end.
    let run = completion["id"].as_str().unwrap().strip_prefix("chatcmpl-").unwrap();
    let shown = node.execution(run).await;
    assert_eq!((&shown["status"], &shown["success"]), (&json!("completed"), &json!(true)), "{shown}");
    let mut messages = body["messages"].as_array().unwrap().clone();
    messages.push(asked.clone());
    messages.push(json!({ "role": "tool", "tool_call_id": call["id"], "content": "rain" }));
    let next = complete(&node, &with(body, json!({ "messages": messages }))).await;
    assert_eq!(message(&next)["content"], "get_weather answered: rain");
    assert_eq!(next["choices"][0]["finish_reason"], "stop");
}

async fn calls_come_in_chunks_too(world: Arc<World>) {
    let node = world.node();
    let text = "call get_weather {\"city\":\"Oslo\"}\ncall get_weather {\"city\":\"Rome\"}";
    let body = with(asks("local/echo", text), json!({ "tools": [weather()] }));
    let streamed = chunks(&node, &body).await;
    let calls: Vec<&Value> =
        streamed.iter().flat_map(|chunk| chunk["choices"][0]["delta"]["tool_calls"].as_array().into_iter().flatten()).collect();
    let told: Vec<_> =
        calls.iter().map(|call| (call["index"].as_u64().unwrap(), call["function"]["arguments"].as_str().unwrap())).collect();
    assert_eq!(told, [(0, "{\"city\":\"Oslo\"}"), (1, "{\"city\":\"Rome\"}")]);
    assert_ne!(calls[0]["id"], calls[1]["id"]);
    assert_eq!(finish(&streamed), "tool_calls");
    let one = complete(&node, &with(body, json!({ "parallel_tool_calls": false }))).await;
    assert_eq!(message(&one)["tool_calls"].as_array().unwrap().len(), 1);
}

async fn the_choice_of_tools_is_kept(world: Arc<World>) {
    let node = world.node();
    let both = json!([function("first"), function("second")]);
    let called = async |choice: Value| {
        let body = with(asks("local/echo", "say done"), json!({ "tools": both, "tool_choice": choice }));
        let completion = complete(&node, &body).await;
        message(&completion)["tool_calls"][0]["function"]["name"].as_str().map(str::to_owned)
    };
    assert_eq!(called(json!("auto")).await, None);
    assert_eq!(called(json!("required")).await.as_deref(), Some("first"));
    assert_eq!(called(json!({ "type": "function", "function": { "name": "second" } })).await.as_deref(), Some("second"));
    let body = with(asks("local/echo", "call first {}"), json!({ "tools": both, "tool_choice": "none" }));
    assert!(message(&complete(&node, &body).await).get("tool_calls").is_none());
}

async fn calls_of_a_vendor_that_numbers_them(world: Arc<World>) {
    let node = world.node();
    // The vendor gives the same ids in each answer; those in a conversation differ all the same.
    let body = with(asks("openai/fake-tools-2", "go on"), json!({ "tools": [function("act")] }));
    let first = complete(&node, &body).await;
    let call = message(&first)["tool_calls"][0].clone();
    let mut messages = body["messages"].as_array().unwrap().clone();
    messages.extend([message(&first).clone(), json!({ "role": "tool", "tool_call_id": call["id"], "content": "1" })]);
    let second = complete(&node, &with(body, json!({ "messages": messages }))).await;
    assert_ne!(message(&second)["tool_calls"][0]["id"], call["id"], "{second}");
}
