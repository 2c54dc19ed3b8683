//! The conversation that a prompt sends: system, what was said before, the user's message.

use serde_json::{Map, Value};

use super::config::Prompt;
use crate::engine::context::{StepContext, StepFailure, StepResult};
use crate::engine::step::text_of;
use crate::provider::{Message, Part, Role, Source, ToolCall};

/// Renders the conversation.
pub fn render(prompt: &Prompt, context: &StepContext<'_>) -> StepResult<Vec<Message>> {
    let scope = context.scope();
    let text = |template: &crate::expr::Template| -> StepResult<String> {
        let rendered = template.render(&scope)?;
        context.unresolved(rendered.unresolved);
        Ok(text_of(&rendered.value))
    };
    let mut messages = Vec::new();
    if let Some(system) = &prompt.system {
        messages.push(Message::system(text(system)?));
    }
    if let Some(previous) = &prompt.previous {
        let rendered = previous.render(&scope)?;
        context.unresolved(rendered.unresolved);
        messages.extend(read_all(&rendered.value)?);
    }
    if let Some(user) = &prompt.user {
        let mut words = text(user)?;
        append_metadata(context, &mut words);
        let said = messages.last().is_some_and(|last| last.role == Role::User && plain(last) == words);
        // The history may end with the very message that the prompt is made of.
        let silent = words.is_empty() && !messages.is_empty();
        if !said && !silent {
            messages.push(Message::user(words));
        }
    }
    if !messages.iter().any(|message| message.role != Role::System) {
        return Err(StepFailure::new("empty_prompt", "the prompt has no message for the model").into());
    }
    Ok(messages)
}

fn plain(message: &Message) -> String {
    let texts: Vec<&str> =
        message.content.iter().filter_map(|part| if let Part::Text { text } = part { Some(text.as_str()) } else { None }).collect();
    texts.join("\n")
}

/// With `autoAppendMetadata`, the record's metadata follows the prompt, one line a key.
fn append_metadata(context: &StepContext<'_>, words: &mut String) {
    if !context.run.input.options.auto_append_metadata {
        return;
    }
    let metadata = context.run.input.record.as_ref().and_then(|record| record.get("metadata")).and_then(Value::as_object);
    let Some(metadata) = metadata.filter(|metadata| !metadata.is_empty()) else { return };
    words.push_str("\n\nRecord metadata:");
    for (key, value) in metadata {
        words.push_str(&format!("\n- {key}: {}", text_of(value)));
    }
}

/// Reads messages as callers write them.
pub fn read_all(value: &Value) -> StepResult<Vec<Message>> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::String(text) if text.is_empty() => Ok(Vec::new()),
        Value::Array(items) => items.iter().enumerate().map(|(index, item)| read(item, index)).collect(),
        _ => Err(StepFailure::new("invalid_messages", "`previousMessages` is not a list of messages").into()),
    }
}

fn read(value: &Value, index: usize) -> StepResult<Message> {
    let wrong = |why: &str| StepFailure::new("invalid_messages", format!("message {index}: {why}"));
    let map = value.as_object().ok_or_else(|| wrong("expected {role, content}"))?;
    let role = match map.get("role").and_then(Value::as_str) {
        Some("system" | "developer") => Role::System,
        Some("user") => Role::User,
        Some("assistant") => Role::Assistant,
        Some("tool") => Role::Tool,
        _ => return Err(wrong("`role` is not system, user, assistant or tool").into()),
    };
    let content = match map.get("content") {
        Some(Value::String(text)) => vec![Part::Text { text: text.clone() }],
        Some(Value::Array(parts)) => parts.iter().filter_map(part).collect(),
        None | Some(Value::Null) => Vec::new(),
        Some(other) => vec![Part::Text { text: other.to_string() }],
    };
    let text = |name: &str| map.get(name).and_then(Value::as_str).map(str::to_owned);
    let tool_calls = map.get("tool_calls").or_else(|| map.get("toolCalls")).and_then(Value::as_array);
    Ok(Message {
        role,
        content,
        tool_calls: tool_calls.map(|calls| calls.iter().filter_map(call).collect()).unwrap_or_default(),
        tool_call_id: text("tool_call_id").or_else(|| text("toolCallId")),
        tool_name: text("name").or_else(|| text("toolName")),
        is_error: false,
        origin: None,
        state: None,
    })
}

/// A part of a message; kinds that no model reads are left out.
fn part(value: &Value) -> Option<Part> {
    let map = value.as_object()?;
    let text = |name: &str| map.get(name).and_then(Value::as_str);
    match text("type")? {
        "text" => Some(Part::Text { text: text("text")?.to_owned() }),
        "image" => Some(Part::Image { source: source(text("image").or_else(|| text("url"))?, text("mimeType")) }),
        "image_url" => Some(Part::Image { source: Source::from_url(map.get("image_url")?.get("url")?.as_str()?) }),
        "file" => Some(Part::File { name: text("filename").map(str::to_owned), source: source(text("data")?, text("mimeType")) }),
        _ => None,
    }
}

/// A URL, a data URL, or bare base64 with its media type beside it.
fn source(given: &str, mime: Option<&str>) -> Source {
    match mime {
        Some(mime) if !given.contains(':') => Source::Data { mime: mime.to_owned(), data: given.to_owned() },
        _ => Source::from_url(given),
    }
}

fn call(value: &Value) -> Option<ToolCall> {
    let function = value.get("function").unwrap_or(value);
    let arguments = function.get("arguments").cloned().unwrap_or_else(|| Value::Object(Map::new()));
    Some(ToolCall {
        id: value.get("id").or_else(|| value.get("toolCallId"))?.as_str()?.to_owned(),
        name: function.get("name")?.as_str()?.to_owned(),
        arguments: arguments.as_str().map_or_else(|| arguments.to_string(), str::to_owned),
        signature: None,
        state: None,
    })
}
