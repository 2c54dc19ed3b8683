//! The messages format, as a server writes it.

use serde_json::{Value, json};

use super::plan::Fault;
use super::render::{CACHED_TOKENS, Chunks, INPUT_TOKENS, Script};
use crate::provider::instance;

pub(super) fn chunks(script: &Script) -> Chunks {
    let message = json!({
        "id": "msg_fake", "type": "message", "role": "assistant", "model": script.model, "content": [],
        "stop_reason": null, "stop_sequence": null, "usage": usage(1),
    });
    let mut head = event("message_start", json!({ "message": message }));
    let mut index = 0;
    if let Some(thought) = script.thought {
        let delta = [json!({ "type": "thinking_delta", "thinking": thought }), json!({ "type": "signature_delta", "signature": "sealed" })];
        head += &block(index, json!({ "type": "thinking", "thinking": "", "signature": "" }), &delta);
        index += 1;
    }
    for (at, (name, arguments)) in script.calls.iter().enumerate() {
        let delta = [json!({ "type": "input_json_delta", "partial_json": arguments.to_string() })];
        head += &block(index, json!({ "type": "tool_use", "id": id(at), "name": name, "input": {} }), &delta);
        index += 1;
    }
    let mut tail = String::new();
    if !script.words.is_empty() {
        head += &event("content_block_start", json!({ "index": index, "content_block": { "type": "text", "text": "" } }));
        head += &event("ping", json!({}));
        if let Some(citation) = citation(script) {
            tail += &event("content_block_delta", json!({ "index": index, "delta": { "type": "citations_delta", "citation": citation } }));
        }
        tail += &event("content_block_stop", json!({ "index": index }));
    }
    let word = |text: &String| event("content_block_delta", json!({ "index": index, "delta": { "type": "text_delta", "text": text } }));
    let words = script.words.iter().map(word).collect();
    let stop = json!({ "stop_reason": stop_reason(script), "stop_sequence": null });
    tail += &event("message_delta", json!({ "delta": stop, "usage": { "output_tokens": output(script) } }));
    tail += &event("message_stop", json!({}));
    Chunks::of_text(head, words, tail)
}

fn citation(script: &Script) -> Option<Value> {
    let (title, url) = script.cited?;
    Some(json!({ "type": "web_search_result_location", "url": url, "title": title, "encrypted_index": "x", "cited_text": "word1" }))
}

fn event(name: &str, mut data: Value) -> String {
    data["type"] = name.into();
    format!("event: {name}\ndata: {data}\n\n")
}

fn block(index: usize, content: Value, deltas: &[Value]) -> String {
    let mut text = event("content_block_start", json!({ "index": index, "content_block": content }));
    for delta in deltas {
        text += &event("content_block_delta", json!({ "index": index, "delta": delta }));
    }
    text + &event("content_block_stop", json!({ "index": index }))
}

fn id(index: usize) -> String {
    format!("toolu_fake_{index}")
}

fn stop_reason(script: &Script) -> &'static str {
    if script.calls.is_empty() { "end_turn" } else { "tool_use" }
}

fn output(script: &Script) -> u64 {
    script.answer_tokens() + script.reasoning_tokens()
}

/// Cached tokens are counted beside the input here.
fn usage(output: u64) -> Value {
    json!({
        "input_tokens": INPUT_TOKENS - CACHED_TOKENS,
        "cache_read_input_tokens": CACHED_TOKENS,
        "cache_creation_input_tokens": 0,
        "output_tokens": output,
    })
}

pub(super) fn whole(script: &Script) -> Value {
    let thought = script.thought.map(|thought| json!({ "type": "thinking", "thinking": thought, "signature": "sealed" }));
    let text = (!script.words.is_empty()).then(|| match citation(script) {
        Some(citation) => json!({ "type": "text", "text": script.text(), "citations": [citation] }),
        None => json!({ "type": "text", "text": script.text() }),
    });
    let calls = script.calls.iter().enumerate();
    let calls = calls.map(|(at, (name, arguments))| json!({ "type": "tool_use", "id": id(at), "name": name, "input": arguments }));
    let content: Vec<Value> = thought.into_iter().chain(calls).chain(text).collect();
    json!({
        "id": "msg_fake", "type": "message", "role": "assistant", "model": script.model, "content": content,
        "stop_reason": stop_reason(script), "stop_sequence": null, "usage": usage(output(script)),
    })
}

pub(super) fn error(status: u16, fault: Option<Fault>) -> Value {
    let (kind, message) = match (fault, status) {
        (Some(Fault::Billing), _) => ("invalid_request_error", "Your credit balance is too low to access the API."),
        (Some(Fault::Context), _) => ("invalid_request_error", "prompt is too long: 200001 tokens > 200000 maximum"),
        (Some(Fault::Filter), _) => ("invalid_request_error", "Output blocked by content filtering policy (content_filter)"),
        (_, 401) => ("authentication_error", "invalid x-api-key"),
        (_, 402) => ("billing_error", "Payment required"),
        (_, 403) => ("permission_error", "Your key may not do this."),
        (_, 404) => ("not_found_error", "model: no such model"),
        (_, 429) => ("rate_limit_error", "This request would exceed your rate limit."),
        (_, 529) => ("overloaded_error", "Overloaded"),
        (_, 500..) => ("api_error", "Internal server error"),
        _ => ("invalid_request_error", "The request is not valid."),
    };
    json!({ "type": "error", "error": { "type": kind, "message": message }, "request_id": "req_fake" })
}

/// How many times in a row tools have answered, and a call of each offered one.
pub(super) fn tools(body: &Value) -> (usize, Vec<(String, Value)>) {
    let answers = |message: &Value| message["content"].as_array().into_iter().flatten().any(|block| block["type"] == "tool_result");
    let messages = body["messages"].as_array().into_iter().flatten().rev();
    let since = messages.take_while(|message| message["role"] == "assistant" || answers(message));
    let answered = since.filter(|message| answers(message)).count();
    let offered = body["tools"].as_array().into_iter().flatten();
    let calls = offered.map(|tool| (tool["name"].as_str().unwrap_or_default().to_owned(), instance(&tool["input_schema"])));
    (answered, calls.collect())
}
