//! The Responses format, as a server writes it.

use serde_json::{Value, json};

use super::openai;
use super::plan::Fault;
use super::render::{CACHED_TOKENS, Chunks, INPUT_TOKENS, Script};
use crate::provider::instance;

pub(super) fn chunks(script: &Script) -> Chunks {
    let mut events = EventWriter::default();
    let begun = response(script, "in_progress", Vec::new(), Value::Null);
    let mut head = events.write("response.created", json!({ "response": begun }));
    head += &events.write("response.in_progress", json!({ "response": begun }));
    let items = leading_items(script);
    for (index, item) in items.iter().enumerate() {
        head += &events.write("response.output_item.added", json!({ "output_index": index, "item": opened(item) }));
        if let Some((name, delta)) = delta(item) {
            let data = json!({ "output_index": index, "item_id": item["id"], "summary_index": 0, "delta": delta });
            head += &events.write(name, data);
        }
        head += &events.write("response.output_item.done", json!({ "output_index": index, "item": item }));
    }
    let index = items.len();
    let place = json!({ "output_index": index, "item_id": MESSAGE_ID, "content_index": 0 });
    let mut output = items;
    let mut words = Vec::new();
    let mut tail = String::new();
    if !script.words.is_empty() {
        let message = message(script);
        head += &events.write("response.output_item.added", json!({ "output_index": index, "item": opened(&message) }));
        for word in &script.words {
            words.push(events.write("response.output_text.delta", with(&place, "delta", word.as_str().into())));
        }
        if let Some(note) = note(script) {
            tail += &events.write("response.output_text.annotation.added", with(&place, "annotation", note));
        }
        tail += &events.write("response.output_text.done", with(&place, "text", script.text().into()));
        tail += &events.write("response.output_item.done", json!({ "output_index": index, "item": message }));
        output.push(message);
    }
    let whole = response(script, "completed", output, usage(script));
    tail += &events.write("response.completed", json!({ "response": whole }));
    Chunks::of_text(head, words, tail)
}

const MESSAGE_ID: &str = "msg_fake";

/// Writes the events of a stream and numbers them.
#[derive(Default)]
struct EventWriter {
    written: u64,
}

impl EventWriter {
    fn write(&mut self, name: &str, mut data: Value) -> String {
        data["type"] = name.into();
        data["sequence_number"] = self.written.into();
        self.written += 1;
        format!("event: {name}\ndata: {data}\n\n")
    }
}

fn with(place: &Value, name: &str, value: Value) -> Value {
    let mut data = place.clone();
    data[name] = value;
    data
}

fn response(script: &Script, status: &str, output: Vec<Value>, usage: Value) -> Value {
    json!({
        "id": "resp_fake", "object": "response", "created_at": 0, "status": status, "error": null, "incomplete_details": null,
        "model": script.model, "output": output, "store": false, "usage": usage,
    })
}

/// The items before the words: reasoning, a picture and calls.
fn leading_items(script: &Script) -> Vec<Value> {
    let thought = script.thought.map(|thought| {
        let summary = json!([{ "type": "summary_text", "text": thought }]);
        json!({ "id": "rs_fake", "type": "reasoning", "summary": summary, "encrypted_content": "sealed" })
    });
    let drawn = script.drawn.map(
        |data| json!({ "id": "ig_fake", "type": "image_generation_call", "status": "completed", "output_format": "png", "result": data }),
    );
    let calls = script.calls.iter().enumerate().map(|(at, (name, arguments))| {
        json!({
            "id": format!("fc_fake_{at}"), "type": "function_call", "status": "completed", "call_id": format!("call_fake_{at}"),
            "name": name, "arguments": arguments.to_string(),
        })
    });
    thought.into_iter().chain(drawn).chain(calls).collect()
}

fn message(script: &Script) -> Value {
    let notes: Vec<Value> = note(script).into_iter().collect();
    let part = json!({ "type": "output_text", "text": script.text(), "annotations": notes });
    json!({ "id": MESSAGE_ID, "type": "message", "status": "completed", "role": "assistant", "content": [part] })
}

fn note(script: &Script) -> Option<Value> {
    let (title, url) = script.cited?;
    Some(json!({ "type": "url_citation", "url": url, "title": title, "start_index": 0, "end_index": 4 }))
}

/// An item as it begins: without what its deltas bring.
fn opened(item: &Value) -> Value {
    let mut item = item.clone();
    for (name, empty) in [("summary", json!([])), ("content", json!([])), ("arguments", json!("")), ("result", Value::Null)] {
        if item.get(name).is_some() {
            item[name] = empty;
        }
    }
    if item.get("status").is_some() {
        item["status"] = "in_progress".into();
    }
    item
}

/// The event that brings an item's content, and the content.
fn delta(item: &Value) -> Option<(&'static str, &str)> {
    match item["type"].as_str()? {
        "reasoning" => Some(("response.reasoning_summary_text.delta", item["summary"][0]["text"].as_str()?)),
        "function_call" => Some(("response.function_call_arguments.delta", item["arguments"].as_str()?)),
        _ => None,
    }
}

fn usage(script: &Script) -> Value {
    let output = script.answer_tokens() + script.reasoning_tokens();
    json!({
        "input_tokens": INPUT_TOKENS,
        "input_tokens_details": { "cached_tokens": CACHED_TOKENS },
        "output_tokens": output,
        "output_tokens_details": { "reasoning_tokens": script.reasoning_tokens() },
        "total_tokens": INPUT_TOKENS + output,
    })
}

pub(super) fn whole(script: &Script) -> Value {
    let mut output = leading_items(script);
    if !script.words.is_empty() {
        output.push(message(script));
    }
    response(script, "completed", output, usage(script))
}

/// The same as in chat completions.
pub(super) fn error(status: u16, fault: Option<Fault>) -> Value {
    openai::error(status, fault)
}

/// How many times in a row tools have answered, and a call of each offered one.
pub(super) fn tools(body: &Value) -> (usize, Vec<(String, Value)>) {
    let items = body["input"].as_array().into_iter().flatten().rev();
    let kinds = ["function_call", "function_call_output", "reasoning"];
    let since = items.take_while(|item| item["role"] == "assistant" || item["type"].as_str().is_some_and(|kind| kinds.contains(&kind)));
    let results: Vec<bool> = since.map(|item| item["type"] == "function_call_output").collect();
    // The results of parallel calls follow each other; each such row is one answer.
    let following = std::iter::once(&false).chain(&results);
    let answered = results.iter().zip(following).filter(|(result, next)| **result && !**next).count();
    let offered = body["tools"].as_array().into_iter().flatten();
    let calls = offered.map(|tool| (tool["name"].as_str().unwrap_or_default().to_owned(), instance(&tool["parameters"])));
    (answered, calls.collect())
}
