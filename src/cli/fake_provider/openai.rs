//! Chat completions, as a server writes them.

use serde_json::{Value, json};

use super::plan::Fault;
use super::render::{CACHED_TOKENS, Chunks, INPUT_TOKENS, Script};
use crate::provider::instance;

pub(super) fn chunks(script: &Script) -> Chunks {
    let chunk = |delta: Value, finish: Option<&str>| {
        let choice = json!({ "index": 0, "delta": delta, "finish_reason": finish });
        line(&json!({ "id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": 0, "model": script.model, "choices": [choice] }))
    };
    let mut head = chunk(json!({ "role": "assistant", "content": "" }), None);
    if let Some(thought) = script.thought {
        head += &chunk(json!({ "reasoning_content": thought }), None);
    }
    if let Some(images) = images(script) {
        head += &chunk(json!({ "images": images }), None);
    }
    for (index, (name, arguments)) in script.calls.iter().enumerate() {
        let function = json!({ "name": name, "arguments": "" });
        head += &chunk(json!({ "tool_calls": [{ "index": index, "id": id(index), "type": "function", "function": function }] }), None);
        let function = json!({ "arguments": arguments.to_string() });
        head += &chunk(json!({ "tool_calls": [{ "index": index, "function": function }] }), None);
    }
    let words = script.words.iter().map(|word| chunk(json!({ "content": word }), None)).collect();
    let end = line(&json!({
        "id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": 0, "model": script.model, "choices": [], "usage": usage(script),
    }));
    // Named twice, as servers do that repeat their notes with every chunk.
    let cited = notes(script).map_or_else(String::new, |notes| chunk(json!({ "annotations": notes }), None).repeat(2));
    let tail = format!("{cited}{}{end}data: [DONE]\n\n", chunk(json!({}), Some(finish(script))));
    Chunks::of_text(head, words, tail)
}

fn images(script: &Script) -> Option<Value> {
    let url = format!("data:image/png;base64,{}", script.drawn?);
    Some(json!([{ "type": "image_url", "image_url": { "url": url } }]))
}

fn notes(script: &Script) -> Option<Value> {
    let (title, url) = script.cited?;
    Some(json!([{ "type": "url_citation", "url_citation": { "url": url, "title": title, "start_index": 0, "end_index": 4 } }]))
}

fn line(value: &Value) -> String {
    format!("data: {value}\n\n")
}

fn id(index: usize) -> String {
    format!("call_fake_{index}")
}

fn finish(script: &Script) -> &'static str {
    if script.calls.is_empty() { "stop" } else { "tool_calls" }
}

fn usage(script: &Script) -> Value {
    // A blank answer used nothing, or it would not be blank.
    let output = script.answer_tokens() + script.reasoning_tokens();
    json!({
        "prompt_tokens": INPUT_TOKENS,
        "completion_tokens": output,
        "total_tokens": INPUT_TOKENS + output,
        "prompt_tokens_details": { "cached_tokens": CACHED_TOKENS },
        "completion_tokens_details": { "reasoning_tokens": script.reasoning_tokens() },
    })
}

pub(super) fn whole(script: &Script) -> Value {
    let calls: Vec<Value> = script.calls.iter().enumerate().map(|(index, (name, arguments))| {
        json!({ "id": id(index), "type": "function", "function": { "name": name, "arguments": arguments.to_string() } })
    }).collect();
    let mut message = json!({ "role": "assistant", "content": script.text() });
    if let Some(thought) = script.thought {
        message["reasoning_content"] = thought.into();
    }
    if let Some(images) = images(script) {
        message["images"] = images;
    }
    if let Some(notes) = notes(script) {
        message["annotations"] = notes;
    }
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    json!({
        "id": "chatcmpl-fake", "object": "chat.completion", "created": 0, "model": script.model,
        "choices": [{ "index": 0, "message": message, "finish_reason": finish(script) }],
        "usage": usage(script),
    })
}

pub(super) fn error(status: u16, fault: Option<Fault>) -> Value {
    let (kind, code, message) = match (fault, status) {
        (Some(Fault::Billing), _) | (_, 402) => ("insufficient_quota", "insufficient_quota", "You exceeded your current quota."),
        (Some(Fault::Context), _) => {
            ("invalid_request_error", "context_length_exceeded", "This model's maximum context length is 8192 tokens.")
        }
        (Some(Fault::Filter), _) => ("invalid_request_error", "content_filter", "The prompt was filtered."),
        (_, 401) => ("invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
        (_, 404) => ("invalid_request_error", "model_not_found", "The model does not exist."),
        (_, 429) => ("requests", "rate_limit_exceeded", "Rate limit reached."),
        (_, 529) => ("server_error", "overloaded", "The engine is currently overloaded."),
        (_, 500..) => ("server_error", "server_error", "The server had an error."),
        _ => ("invalid_request_error", "invalid_request", "The request is not valid."),
    };
    json!({ "error": { "message": message, "type": kind, "param": null, "code": code } })
}

/// How many times in a row tools have answered, and a call of each offered one.
pub(super) fn tools(body: &Value) -> (usize, Vec<(String, Value)>) {
    let messages = body["messages"].as_array().into_iter().flatten().rev();
    let since = messages.take_while(|message| message["role"] == "assistant" || message["role"] == "tool");
    let answered = since.filter(|message| message["role"] == "assistant" && message.get("tool_calls").is_some()).count();
    let offered = body["tools"].as_array().into_iter().flatten();
    let calls =
        offered.map(|tool| (tool["function"]["name"].as_str().unwrap_or_default().to_owned(), instance(&tool["function"]["parameters"])));
    (answered, calls.collect())
}
