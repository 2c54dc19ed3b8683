//! The messages of a conversation as items of a response's input, each under an id of its own.

use serde_json::{Map, Value, json};

use super::input::{ITEM_ID, REASONING_ITEMS};
use crate::id::RunId;

/// The items that a response was made of, oldest first.
pub fn input_items(run: RunId, messages: &[Value]) -> Vec<Value> {
    let mut writer = ItemWriter { run, items: Vec::new() };
    for message in messages.iter().filter_map(Value::as_object) {
        writer.write(message);
    }
    writer.items
}

struct ItemWriter {
    run: RunId,
    items: Vec<Value>,
}

impl ItemWriter {
    fn write(&mut self, message: &Map<String, Value>) {
        let list = |name: &str| message.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let role = message.get("role").and_then(Value::as_str).unwrap_or_default();
        if role == "tool" {
            let id = self.id("fco", message.get("id"));
            let (call, output) = (message.get("tool_call_id"), message.get("content"));
            self.items.push(json!({ "id": id, "type": "function_call_output", "call_id": call, "output": output, "status": "completed" }));
            return;
        }
        for item in list(REASONING_ITEMS).iter().filter_map(Value::as_object) {
            let mut item = item.clone();
            item.insert("id".into(), self.id("rs", item.get("id")).into());
            self.items.push(Value::Object(item));
        }
        if let Some(content) = message.get("content").filter(|content| !content.is_null()) {
            let id = self.id("msg", message.get("id"));
            let content = parts(role, content);
            self.items.push(json!({ "id": id, "type": "message", "role": role, "status": "completed", "content": content }));
        }
        for call in list("tool_calls") {
            let id = self.id("fc", call.get(ITEM_ID));
            let (name, arguments) = (&call["function"]["name"], &call["function"]["arguments"]);
            self.items.push(json!({
                "id": id, "type": "function_call", "status": "completed", "call_id": call["id"], "name": name, "arguments": arguments,
            }));
        }
    }

    /// The id that the item came with, else one by its position.
    fn id(&self, prefix: &str, given: Option<&Value>) -> String {
        let given = given.and_then(Value::as_str).filter(|id| !id.is_empty()).map(str::to_owned);
        given.unwrap_or_else(|| format!("{prefix}_{}i{}", self.run.suffix(), self.items.len()))
    }
}

/// The content of a message as parts that have all their members.
fn parts(role: &str, content: &Value) -> Vec<Value> {
    let kind = if role == "assistant" { "output_text" } else { "input_text" };
    let given = match content {
        Value::Array(parts) => parts.clone(),
        other => vec![json!({ "type": kind, "text": other })],
    };
    given.into_iter().map(completed_part).collect()
}

fn completed_part(mut part: Value) -> Value {
    let defaults = match part.get("type").and_then(Value::as_str) {
        Some("output_text") => vec![("annotations", json!([])), ("logprobs", json!([]))],
        Some("input_image") => vec![("detail", json!("auto"))],
        _ => Vec::new(),
    };
    if let Some(members) = part.as_object_mut() {
        for (name, value) in defaults {
            members.entry(name).or_insert(value);
        }
    }
    part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_items_again() {
        let messages = [
            json!({ "role": "user", "content": "hi" }),
            json!({
                "role": "assistant", "content": null,
                "tool_calls": [{ "id": "call_1", "type": "function", "function": { "name": "act", "arguments": "{}" } }],
            }),
            json!({ "role": "tool", "tool_call_id": "call_1", "content": "done" }),
            json!({ "role": "assistant", "id": "msg_7", "content": [{ "type": "output_text", "text": "Yes." }] }),
        ];
        let items = input_items(RunId::from_u128(7), &messages);
        let kinds: Vec<&Value> = items.iter().map(|item| &item["type"]).collect();
        assert_eq!(kinds, ["message", "function_call", "function_call_output", "message"]);
        assert_eq!(items[0]["content"], json!([{ "type": "input_text", "text": "hi" }]));
        assert_eq!((&items[1]["call_id"], &items[2]["call_id"]), (&json!("call_1"), &json!("call_1")));
        assert_eq!((&items[3]["id"], &items[3]["content"][0]["annotations"]), (&json!("msg_7"), &json!([])));
        let ids: std::collections::BTreeSet<&str> = items.iter().filter_map(|item| item["id"].as_str()).collect();
        assert_eq!(ids.len(), 4);
    }
}
