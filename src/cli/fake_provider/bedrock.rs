//! Converse, as a server writes it: streams in AWS's frames.

use aws_smithy_eventstream::frame::write_message_to;
use aws_smithy_types::event_stream::{Header, HeaderValue, Message};
use serde_json::{Value, json};

use super::plan::Fault;
use super::render::{CACHED_TOKENS, Chunks, INPUT_TOKENS, Script};
use crate::provider::instance;

pub(super) fn chunks(script: &Script) -> Chunks {
    let mut head = event("messageStart", json!({ "role": "assistant" }));
    let mut index = 0;
    if let Some(thought) = script.thought {
        head.extend(delta(index, json!({ "reasoningContent": { "text": thought } })));
        head.extend(delta(index, json!({ "reasoningContent": { "signature": "sealed" } })));
        head.extend(event("contentBlockStop", json!({ "contentBlockIndex": index })));
        index += 1;
    }
    for (at, (name, arguments)) in script.calls.iter().enumerate() {
        let start = json!({ "toolUse": { "toolUseId": call_id(at), "name": name } });
        head.extend(event("contentBlockStart", json!({ "contentBlockIndex": index, "start": start })));
        head.extend(delta(index, json!({ "toolUse": { "input": arguments.to_string() } })));
        head.extend(event("contentBlockStop", json!({ "contentBlockIndex": index })));
        index += 1;
    }
    let mut tail = Vec::new();
    if !script.words.is_empty() {
        if let Some(citation) = citation(script) {
            tail.extend(delta(index, json!({ "citation": citation })));
        }
        tail.extend(event("contentBlockStop", json!({ "contentBlockIndex": index })));
    }
    let words = script.words.iter().map(|word| delta(index, json!({ "text": word }))).collect();
    tail.extend(event("messageStop", json!({ "stopReason": stop_reason(script) })));
    tail.extend(event("metadata", json!({ "usage": usage(script), "metrics": { "latencyMs": 1 } })));
    Chunks { head, words, tail }
}

/// A failure inside of a stream.
pub(super) fn late_error() -> Vec<u8> {
    let body = json!({ "message": "Bedrock is unable to process your request." });
    frame(&[(":exception-type", "serviceUnavailableException"), (":message-type", "exception")], &body)
}

fn delta(index: usize, delta: Value) -> Vec<u8> {
    event("contentBlockDelta", json!({ "contentBlockIndex": index, "delta": delta }))
}

fn event(name: &'static str, payload: Value) -> Vec<u8> {
    frame(&[(":event-type", name), (":message-type", "event")], &payload)
}

fn frame(headers: &[(&'static str, &'static str)], payload: &Value) -> Vec<u8> {
    let written = headers.iter().map(|(name, value)| Header::new(*name, HeaderValue::String((*value).into())));
    let kind = Header::new(":content-type", HeaderValue::String("application/json".into()));
    let message = Message::new_from_parts(written.chain([kind]).collect(), payload.to_string().into_bytes());
    let mut bytes = Vec::new();
    match write_message_to(&message, &mut bytes) {
        Ok(()) => bytes,
        // Only a frame of more than 4 GiB cannot be written.
        Err(_) => Vec::new(),
    }
}

fn citation(script: &Script) -> Option<Value> {
    let (title, url) = script.cited?;
    Some(json!({ "title": title, "location": { "web": { "url": url, "domain": "page.example" } } }))
}

fn call_id(index: usize) -> String {
    format!("tooluse_fake_{index}")
}

fn stop_reason(script: &Script) -> &'static str {
    if script.calls.is_empty() { "end_turn" } else { "tool_use" }
}

/// Cached tokens are counted beside the input here.
fn usage(script: &Script) -> Value {
    let (input, output) = (INPUT_TOKENS - CACHED_TOKENS, script.answer_tokens() + script.reasoning_tokens());
    json!({
        "inputTokens": input,
        "outputTokens": output,
        "totalTokens": INPUT_TOKENS + output,
        "cacheReadInputTokens": CACHED_TOKENS,
        "cacheWriteInputTokens": 0,
    })
}

pub(super) fn whole(script: &Script) -> Value {
    let thought =
        script.thought.map(|thought| json!({ "reasoningContent": { "reasoningText": { "text": thought, "signature": "sealed" } } }));
    let text = (!script.words.is_empty()).then(|| match citation(script) {
        Some(citation) => json!({ "citationsContent": { "content": [{ "text": script.text() }], "citations": [citation] } }),
        None => json!({ "text": script.text() }),
    });
    let calls = script.calls.iter().enumerate();
    let calls = calls.map(|(at, (name, arguments))| json!({ "toolUse": { "toolUseId": call_id(at), "name": name, "input": arguments } }));
    let content: Vec<Value> = thought.into_iter().chain(calls).chain(text).collect();
    json!({
        "output": { "message": { "role": "assistant", "content": content } },
        "stopReason": stop_reason(script), "usage": usage(script), "metrics": { "latencyMs": 1 },
    })
}

/// The type of an error is in a header there; the body has its words only.
pub(super) fn error(status: u16, fault: Option<Fault>) -> Value {
    let message = match (fault, status) {
        (Some(Fault::Billing), _) | (_, 402) => "Your account has insufficient credit to invoke this model.",
        (Some(Fault::Context), _) => "Input is too long for requested model.",
        (Some(Fault::Filter), _) => "The request was blocked by the content filtering policy.",
        (_, 401) => "The security token included in the request is invalid.",
        (_, 403) => "You don't have access to the model with the specified model ID.",
        (_, 404) => "The provided model identifier is invalid.",
        (_, 429) => "Too many requests, please wait before trying again.",
        (_, 503 | 529) => "Bedrock is unable to process your request.",
        (_, 500..) => "The system encountered an unexpected error during processing. Try your request again.",
        _ => "The request is not valid.",
    };
    let kind = match status {
        403 => "AccessDeniedException",
        429 => "ThrottlingException",
        503 | 529 => "ServiceUnavailableException",
        500.. => "InternalServerException",
        _ => "ValidationException",
    };
    json!({ "__type": kind, "message": message })
}

/// How many times in a row tools have answered, and a call of each offered one.
pub(super) fn tools(body: &Value) -> (usize, Vec<(String, Value)>) {
    let answers = |message: &Value| message["content"].as_array().into_iter().flatten().any(|block| block.get("toolResult").is_some());
    let messages = body["messages"].as_array().into_iter().flatten().rev();
    let since = messages.take_while(|message| message["role"] == "assistant" || answers(message));
    let answered = since.filter(|message| answers(message)).count();
    let offered = body["toolConfig"]["tools"].as_array().into_iter().flatten().map(|tool| &tool["toolSpec"]);
    let calls = offered.map(|tool| (tool["name"].as_str().unwrap_or_default().to_owned(), instance(&tool["inputSchema"]["json"])));
    (answered, calls.collect())
}
