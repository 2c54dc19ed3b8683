//! Cohere's chat format, as a server writes it. It has no pictures.

use serde_json::{Value, json};

use super::plan::Fault;
use super::render::{CACHED_TOKENS, Chunks, INPUT_TOKENS, Script};
use crate::provider::instance;

const PLAN: &str = "I will use the tools.";

pub(super) fn chunks(script: &Script) -> Chunks {
    let empty = json!({ "role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": [] });
    let mut head = event("message-start", json!({ "id": "fake", "delta": { "message": empty } }));
    let mut index = 0;
    if let Some(thought) = script.thought {
        head += &content("content-start", index, json!({ "type": "thinking", "thinking": "" }));
        head += &content("content-delta", index, json!({ "thinking": thought }));
        head += &event("content-end", json!({ "index": index }));
        index += 1;
    }
    if !script.calls.is_empty() {
        head += &event("tool-plan-delta", json!({ "delta": { "message": { "tool_plan": PLAN } } }));
    }
    for (at, (name, arguments)) in script.calls.iter().enumerate() {
        let call = json!({ "id": id(at), "type": "function", "function": { "name": name, "arguments": "" } });
        head += &event("tool-call-start", json!({ "index": at, "delta": { "message": { "tool_calls": call } } }));
        let more = json!({ "function": { "arguments": arguments.to_string() } });
        head += &event("tool-call-delta", json!({ "index": at, "delta": { "message": { "tool_calls": more } } }));
        head += &event("tool-call-end", json!({ "index": at }));
    }
    let mut tail = String::new();
    if !script.words.is_empty() {
        head += &content("content-start", index, json!({ "type": "text", "text": "" }));
        if let Some(citation) = citation(script) {
            tail += &event("citation-start", json!({ "index": 0, "delta": { "message": { "citations": citation } } }));
            tail += &event("citation-end", json!({ "index": 0 }));
        }
        tail += &event("content-end", json!({ "index": index }));
    }
    let words = script.words.iter().map(|word| content("content-delta", index, json!({ "text": word }))).collect();
    let end = json!({ "finish_reason": finish_reason(script), "usage": usage(script) });
    tail += &event("message-end", json!({ "id": "fake", "delta": end }));
    Chunks::of_text(head, words, tail)
}

fn event(name: &str, mut data: Value) -> String {
    data["type"] = name.into();
    format!("event: {name}\ndata: {data}\n\n")
}

fn content(name: &str, index: usize, content: Value) -> String {
    event(name, json!({ "index": index, "delta": { "message": { "content": content } } }))
}

fn id(index: usize) -> String {
    format!("call_fake_{index}")
}

fn finish_reason(script: &Script) -> &'static str {
    if script.calls.is_empty() { "COMPLETE" } else { "TOOL_CALL" }
}

fn citation(script: &Script) -> Option<Value> {
    let (title, url) = script.cited?;
    let source = json!({ "type": "document", "id": "doc:0", "document": { "id": "doc:0", "title": title, "url": url } });
    Some(json!({ "start": 0, "end": 4, "text": "word", "type": "TEXT_CONTENT", "sources": [source] }))
}

/// Reasoning is not counted apart here.
fn usage(script: &Script) -> Value {
    let output = script.answer_tokens() + script.reasoning_tokens();
    json!({
        "billed_units": { "input_tokens": INPUT_TOKENS - CACHED_TOKENS, "output_tokens": output },
        "tokens": { "input_tokens": INPUT_TOKENS, "output_tokens": output },
        "cached_tokens": CACHED_TOKENS,
    })
}

pub(super) fn whole(script: &Script) -> Value {
    let mut parts = Vec::new();
    if let Some(thought) = script.thought {
        parts.push(json!({ "type": "thinking", "thinking": thought }));
    }
    if !script.words.is_empty() {
        parts.push(json!({ "type": "text", "text": script.text() }));
    }
    let mut message = json!({ "role": "assistant", "content": parts });
    if !script.calls.is_empty() {
        let calls = script.calls.iter().enumerate().map(|(at, (name, arguments))| {
            json!({ "id": id(at), "type": "function", "function": { "name": name, "arguments": arguments.to_string() } })
        });
        message["tool_calls"] = calls.collect();
        message["tool_plan"] = PLAN.into();
    }
    if let Some(citation) = citation(script) {
        message["citations"] = json!([citation]);
    }
    json!({ "id": "fake", "message": message, "finish_reason": finish_reason(script), "usage": usage(script) })
}

pub(super) fn error(status: u16, fault: Option<Fault>) -> Value {
    let message = match (fault, status) {
        (Some(Fault::Billing), _) | (_, 402) => "Your account is out of credit.",
        (Some(Fault::Context), _) => "too many tokens: the prompt is longer than the model's maximum context length of 8192 tokens",
        (Some(Fault::Filter), _) => "The prompt violates the content policy.",
        (_, 401) => "invalid api token",
        (_, 403) => "Your key may not do this.",
        (_, 404) => "model 'x' not found, make sure the correct model ID was used and that you have access to the model.",
        (_, 429) => "You are past the per minute request limit, please wait and try again later.",
        (_, 503 | 529) => "The model is overloaded.",
        (_, 500..) => "internal server error, this has been reported to our developers.",
        _ => "invalid request: the request is not valid",
    };
    json!({ "id": "fake", "message": message })
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
