//! The OpenAI surface from end to end: a real server on the loopback interface, both databases, models that answer as told.

use serde_json::{Value, json};

use crate::support::app::within;
use crate::support::call::Answer;
use crate::support::world::Node;

mod answers;
mod embeddings;
mod models;
mod refusals;
mod responses;
mod responses_stored;
mod responses_stream;
mod saved;
mod tools;

/// A request for a completion of one user's message.
fn asks(model: &str, text: &str) -> Value {
    json!({ "model": model, "messages": [{ "role": "user", "content": text }] })
}

/// The same with more parameters.
fn with(mut body: Value, more: Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

/// A function without parameters.
fn function(name: &str) -> Value {
    json!({ "type": "function", "function": { "name": name, "description": "Does it.", "parameters": { "type": "object", "properties": {} } } })
}

/// The whole completion, with what holds for every one.
async fn complete(node: &Node, body: &Value) -> Value {
    let answer = within(node.post("/v1/chat/completions").json(body).send()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let completion = answer.json();
    let run = answer.header("x-execution-id").unwrap();
    assert_eq!((&completion["id"], &completion["object"]), (&json!(format!("chatcmpl-{run}")), &json!("chat.completion")));
    assert!(completion["created"].as_i64().unwrap() > 1_700_000_000, "{completion}");
    assert_eq!(completion["choices"].as_array().unwrap().len(), 1);
    let usage = &completion["usage"];
    assert_eq!(
        usage["total_tokens"].as_u64(),
        Some(usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap())
    );
    completion
}

/// A streamed completion, with what holds for every one: its chunks without `[DONE]`.
async fn chunks(node: &Node, body: &Value) -> Vec<Value> {
    let body = with(body.clone(), json!({ "stream": true }));
    let answer = within(node.post("/v1/chat/completions").json(&body).send()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("text/event-stream; charset=utf-8"));
    let mut events = events(&answer);
    assert_eq!(events.pop().as_deref(), Some("[DONE]"), "{}", answer.text());
    let chunks: Vec<Value> = events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    let id = format!("chatcmpl-{}", answer.header("x-execution-id").unwrap());
    assert!(chunks.iter().all(|chunk| chunk["id"] == id && chunk["object"] == "chat.completion.chunk"), "{chunks:?}");
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    chunks
}

/// The data of a stream's events.
fn events(answer: &Answer) -> Vec<String> {
    let text = answer.text();
    let events = text.split("\n\n").filter(|event| !event.is_empty() && !event.starts_with(':'));
    events.map(|event| event.strip_prefix("data: ").unwrap().to_owned()).collect()
}

/// The texts of a member of the deltas, joined.
fn joined(chunks: &[Value], member: &str) -> String {
    chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"][member].as_str()).collect()
}

/// The message of a completion.
fn message(completion: &Value) -> &Value {
    &completion["choices"][0]["message"]
}

/// The one reason to finish that a stream gives.
fn finish(chunks: &[Value]) -> &Value {
    let reasons: Vec<&Value> =
        chunks.iter().map(|chunk| &chunk["choices"][0]["finish_reason"]).filter(|reason| reason.is_string()).collect();
    assert_eq!(reasons.len(), 1, "{chunks:?}");
    reasons[0]
}
