//! Streamed responses: the events in OpenAI's order, and streams that are taken up again.

use std::sync::Arc;

use serde_json::{Value, json};

use super::responses::{asks, text_of};
use super::with;
use crate::support::app::within;
use crate::support::call::{Answer, Call};
use crate::support::world::{Node, World};

on_both!(a_text_is_told_in_order, a_stream_is_taken_up_again);
on_one!(Sqlite: calls_and_thoughts_are_items, a_cut_stream_ends_with_an_error, a_failure_in_the_background_is_an_event);

/// The events of a stream, with what holds for each.
async fn events(call: Call) -> Vec<Value> {
    let answer: Answer = within(call.send()).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/event-stream; charset=utf-8")), "{}", answer.text());
    let text = answer.text();
    let frames = text.split("\n\n").filter(|frame| !frame.is_empty() && !frame.starts_with(':'));
    let read = |frame: &str| {
        let (name, data) = frame.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap();
        let event: Value = serde_json::from_str(data).unwrap();
        assert_eq!(event["type"], name);
        event
    };
    frames.map(read).collect()
}

async fn streamed(node: &Node, body: &Value) -> Vec<Value> {
    let events = events(node.post("/v1/responses").json(&with(body.clone(), json!({ "stream": true })))).await;
    let numbers: Vec<u64> = events.iter().map(|event| event["sequence_number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..u64::try_from(events.len()).unwrap()).collect::<Vec<_>>());
    assert_eq!(kinds(&events)[..2], ["response.created", "response.in_progress"]);
    events
}

/// The kinds of the events; those that follow one another are told once.
fn kinds(events: &[Value]) -> Vec<&str> {
    let mut kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    kinds.dedup();
    kinds
}

/// What the last event says of the response, which must be what can be read of it.
async fn settled<'e>(node: &Node, events: &'e [Value]) -> &'e Value {
    let response = &events.last().unwrap()["response"];
    let shown = node.get(&format!("/v1/responses/{}", response["id"].as_str().unwrap())).ok().await;
    assert_eq!(&shown, response);
    response
}

async fn a_text_is_told_in_order(world: Arc<World>) {
    let node = world.node();
    let events = streamed(&node, &asks("local/echo", "say Hello there")).await;
    let expected = [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ];
    assert_eq!(kinds(&events), expected);
    let deltas: Vec<&Value> = events.iter().filter(|event| event["type"] == "response.output_text.delta").collect();
    assert!(deltas.len() > 1, "word by word: {events:?}");
    assert_eq!(deltas.iter().filter_map(|event| event["delta"].as_str()).collect::<String>(), "Hello there");
    assert_eq!((&events[0]["response"]["status"], &events[0]["response"]["output"]), (&json!("in_progress"), &json!([])));
    assert_eq!((&events[2]["item"]["status"], &events[2]["item"]["content"]), (&json!("in_progress"), &json!([])));
    let response = settled(&node, &events).await;
    assert_eq!((text_of(response).as_str(), &response["status"]), ("Hello there", &json!("completed")));
    let done = events.iter().find(|event| event["type"] == "response.output_item.done").unwrap();
    assert_eq!(done["item"], response["output"][0]);
}

async fn calls_and_thoughts_are_items(world: Arc<World>) {
    let node = world.node();
    let tool = json!({ "type": "function", "name": "act", "parameters": { "type": "object", "properties": {} } });
    let events = streamed(&node, &with(asks("local/echo", "call act {\"a\":1}"), json!({ "tools": [tool] }))).await;
    let expected = [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ];
    assert_eq!(kinds(&events), expected);
    let done = events.iter().find(|event| event["type"] == "response.function_call_arguments.done").unwrap();
    assert_eq!((&done["arguments"], &done["output_index"]), (&json!("{\"a\":1}"), &json!(0)));
    assert_eq!(settled(&node, &events).await["output"][0]["name"], "act");
    let events = streamed(&node, &asks("openai/fake-reasoning", "think")).await;
    let expected = [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.done",
        "response.reasoning_summary_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ];
    assert_eq!(kinds(&events), expected);
    settled(&node, &events).await;
    // What the model wants back is known at the end only; the item that holds it is done then.
    let sealed =
        streamed(&node, &with(asks("openai/fake-reasoning", "think"), json!({ "include": ["reasoning.encrypted_content"] }))).await;
    let done = sealed.iter().rfind(|event| event["type"] == "response.output_item.done").unwrap();
    assert!(done["output_index"] == 0 && done["item"]["encrypted_content"].is_string(), "{done}");
    settled(&node, &sealed).await;
}

async fn a_stream_is_taken_up_again(world: Arc<World>) {
    let node = world.node();
    let body = with(asks("local/echo", "say one two three"), json!({ "background": true }));
    let whole = events(node.post("/v1/responses").json(&with(body, json!({ "stream": true })))).await;
    assert_eq!(kinds(&whole)[..3], ["response.created", "response.queued", "response.in_progress"]);
    let id = whole[0]["response"]["id"].as_str().unwrap();
    let again = events(node.get(&format!("/v1/responses/{id}?stream=true"))).await;
    assert_eq!(again.first(), whole.first());
    assert_eq!(again.last(), whole.last());
    let last = again.last().unwrap()["sequence_number"].as_u64().unwrap();
    let tail = events(node.get(&format!("/v1/responses/{id}?stream=true&starting_after={}", last - 2))).await;
    assert_eq!(tail, again[again.len() - 2..]);
}

async fn a_cut_stream_ends_with_an_error(world: Arc<World>) {
    let node = world.node();
    let events = streamed(&node, &asks("openai/fake-chunks-6-cut-after-3", "go on")).await;
    let last = events.last().unwrap();
    assert_eq!((&last["type"], &last["code"], &last["param"]), (&json!("error"), &json!("provider_cut"), &Value::Null), "{last}");
}

async fn a_failure_in_the_background_is_an_event(world: Arc<World>) {
    let node = world.node();
    let body = with(asks("openai/fake-context", "hi"), json!({ "background": true, "stream": true }));
    let events = events(node.post("/v1/responses").json(&body)).await;
    assert_eq!(kinds(&events), ["response.created", "response.queued", "response.in_progress", "response.failed"]);
    let response = settled(&node, &events).await;
    assert_eq!((&response["status"], &response["error"]["type"]), (&json!("failed"), &json!("context_length_exceeded")));
}
