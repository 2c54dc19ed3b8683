//! generateContent, as a server writes it.

use serde_json::{Value, json};

use super::plan::Fault;
use super::render::{CACHED_TOKENS, Chunks, INPUT_TOKENS, Script};
use crate::provider::instance;

pub(super) fn chunks(script: &Script) -> Chunks {
    let chunk = |parts: Vec<Value>| {
        let candidate = json!({ "content": { "parts": parts, "role": "model" }, "index": 0 });
        line(&json!({ "candidates": [candidate], "modelVersion": script.model }))
    };
    let ahead = ahead(script);
    let head = if ahead.is_empty() { String::new() } else { chunk(ahead) };
    let words = script.words.iter().map(|word| chunk(vec![json!({ "text": word })])).collect();
    let mut candidate = json!({ "content": { "parts": [], "role": "model" }, "finishReason": "STOP", "index": 0 });
    ground(script, &mut candidate);
    let tail = line(&json!({ "candidates": [candidate], "usageMetadata": usage(script), "modelVersion": script.model }));
    Chunks::of_text(head, words, tail)
}

/// What a search found.
fn ground(script: &Script, candidate: &mut Value) {
    if let Some((title, url)) = script.cited {
        candidate["groundingMetadata"] = json!({ "groundingChunks": [{ "web": { "uri": url, "title": title } }] });
    }
}

fn line(value: &Value) -> String {
    format!("data: {value}\r\n\r\n")
}

/// What comes before the words: thoughts, a picture and calls.
fn ahead(script: &Script) -> Vec<Value> {
    let thought = script.thought.map(|thought| json!({ "text": thought, "thought": true }));
    let calls = script.calls.iter().enumerate().map(|(at, (name, arguments))| {
        let call = json!({ "name": name, "args": arguments });
        if at == 0 { json!({ "functionCall": call, "thoughtSignature": "sealed" }) } else { json!({ "functionCall": call }) }
    });
    let drawn = script.drawn.map(|data| json!({ "inlineData": { "mimeType": "image/png", "data": data } }));
    thought.into_iter().chain(drawn).chain(calls).collect()
}

fn usage(script: &Script) -> Value {
    json!({
        "promptTokenCount": INPUT_TOKENS,
        "cachedContentTokenCount": CACHED_TOKENS,
        "candidatesTokenCount": script.answer_tokens(),
        "thoughtsTokenCount": script.reasoning_tokens(),
        "totalTokenCount": INPUT_TOKENS + script.answer_tokens() + script.reasoning_tokens(),
    })
}

pub(super) fn whole(script: &Script) -> Value {
    let mut parts = ahead(script);
    if !script.words.is_empty() {
        parts.push(json!({ "text": script.text() }));
    }
    let mut candidate = json!({ "content": { "parts": parts, "role": "model" }, "finishReason": "STOP", "index": 0 });
    ground(script, &mut candidate);
    json!({ "candidates": [candidate], "usageMetadata": usage(script), "modelVersion": script.model })
}

pub(super) fn error(status: u16, fault: Option<Fault>) -> Value {
    let (word, message) = match (fault, status) {
        (Some(Fault::Billing), _) | (_, 402) => ("FAILED_PRECONDITION", "Billing is not active for this project."),
        (Some(Fault::Context), _) => ("INVALID_ARGUMENT", "The input token count exceeds the maximum number of tokens allowed."),
        (Some(Fault::Filter), _) => ("INVALID_ARGUMENT", "The prompt violates the content policy."),
        (_, 401) => ("UNAUTHENTICATED", "API key not valid. Please pass a valid API key."),
        (_, 403) => ("PERMISSION_DENIED", "Your key may not do this."),
        (_, 404) => ("NOT_FOUND", "models/x is not found"),
        (_, 429) => ("RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota)."),
        (_, 503 | 529) => ("UNAVAILABLE", "The model is overloaded. Please try again later."),
        (_, 500..) => ("INTERNAL", "An internal error has occurred."),
        _ => ("INVALID_ARGUMENT", "The request is not valid."),
    };
    json!({ "error": { "code": status, "message": message, "status": word } })
}

/// How many times in a row tools have answered, and a call of each offered one.
pub(super) fn tools(body: &Value) -> (usize, Vec<(String, Value)>) {
    let answers = |content: &Value| content["parts"].as_array().into_iter().flatten().any(|part| part.get("functionResponse").is_some());
    let contents = body["contents"].as_array().into_iter().flatten().rev();
    let since = contents.take_while(|content| content["role"] == "model" || answers(content));
    let answered = since.filter(|content| answers(content)).count();
    let declared =
        body["tools"].as_array().into_iter().flatten().flat_map(|tools| tools["functionDeclarations"].as_array().into_iter().flatten());
    let calls = declared.map(|tool| (tool["name"].as_str().unwrap_or_default().to_owned(), instance(&tool["parametersJsonSchema"])));
    let objects = calls.map(|(name, arguments)| (name, if arguments.is_object() { arguments } else { json!({}) }));
    (answered, objects.collect())
}
