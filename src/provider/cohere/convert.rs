//! From the neutral conversation to Cohere's chat format. Pure.
//!
//! The results of parallel calls must follow each other, and only a user can show a picture; so the pictures of results are shown
//! after the last of them.

use serde_json::{Value, json};

use super::wire::{self, Content, ContentPart};
use crate::provider::chat::{ChatRequest, Message, Part, Reasoning, ResponseFormat, Role, Source, ToolCall, ToolChoice, ToolSpec};
use crate::provider::quirks::{Quirks, ReasoningStyle};

/// The range of `p` that the server takes.
const MIN_TOP_P: f64 = 0.01;
const MAX_TOP_P: f64 = 0.99;
/// The most stop sequences that the server takes.
const MAX_STOPS: usize = 5;
/// The largest `k` that the server takes.
const MAX_TOP_K: u32 = 500;

/// The request as this server wants it.
pub(super) fn request(chat: &ChatRequest, model: &str, quirks: &Quirks) -> wire::Request {
    let sampling = &chat.sampling;
    let thinking = chat.reasoning.as_ref().filter(|_| quirks.reasoning != ReasoningStyle::None);
    let free = |value: Option<f64>| value.filter(|_| !quirks.fixed_sampling);
    let penalty = |value: Option<f64>| free(value).map(|value| value.clamp(0.0, 1.0));
    // The vendor counts the thoughts into the limit; the caller's limit is about the answer.
    let budget = thinking.filter(|reasoning| reasoning.enabled).map_or(0, Reasoning::budget);
    let most = quirks.max_output.unwrap_or(u32::MAX);
    wire::Request {
        model: model.to_owned(),
        messages: messages(chat),
        tools: chat.tools.iter().map(tool).collect(),
        tool_choice: tool_choice(chat),
        response_format: response_format(&chat.response_format),
        thinking: thinking.map(thinking_wish),
        temperature: free(sampling.temperature),
        p: free(sampling.top_p).map(|top_p| top_p.clamp(MIN_TOP_P, MAX_TOP_P)),
        k: sampling.top_k.filter(|_| !quirks.fixed_sampling).map(|top_k| top_k.min(MAX_TOP_K)),
        frequency_penalty: penalty(sampling.frequency_penalty),
        presence_penalty: penalty(sampling.presence_penalty),
        seed: sampling.seed.filter(|seed| *seed >= 0),
        max_tokens: sampling.max_tokens.map(|limit| limit.saturating_add(budget).min(most)),
        stop_sequences: sampling.stop.iter().filter(|stop| !stop.is_empty()).take(MAX_STOPS).cloned().collect(),
        stream: chat.stream,
    }
}

fn tool(spec: &ToolSpec) -> wire::Tool {
    wire::Tool {
        kind: "function",
        function: wire::Function { name: spec.name.clone(), description: spec.description.clone(), parameters: spec.parameters.clone() },
    }
}

/// A choice without tools is refused, so it is sent only when there are some.
fn tool_choice(chat: &ChatRequest) -> Option<&'static str> {
    match chat.tool_choice {
        _ if chat.tools.is_empty() => None,
        ToolChoice::Auto => None,
        ToolChoice::Required => Some("REQUIRED"),
        ToolChoice::None => Some("NONE"),
    }
}

fn response_format(format: &ResponseFormat) -> Option<Value> {
    match format {
        ResponseFormat::Text => None,
        ResponseFormat::Json => Some(json!({ "type": "json_object" })),
        ResponseFormat::JsonSchema { schema, .. } => Some(json!({ "type": "json_object", "json_schema": schema })),
    }
}

fn thinking_wish(reasoning: &Reasoning) -> Value {
    match reasoning.budget() {
        budget if reasoning.enabled && budget > 0 => json!({ "type": "enabled", "token_budget": budget }),
        _ => json!({ "type": "disabled" }),
    }
}

fn messages(chat: &ChatRequest) -> Vec<wire::Message> {
    let mut messages: Vec<wire::Message> = Vec::new();
    let mut pictures: Vec<ContentPart> = Vec::new();
    for message in &chat.messages {
        if message.role != Role::Tool {
            show(&mut pictures, &mut messages);
        }
        match message.role {
            Role::System => messages.push(plain("system", Some(Content::Text(message.text())))),
            Role::User => messages.push(plain("user", Some(user_content(message)))),
            Role::Assistant => messages.push(answer(message)),
            Role::Tool => {
                let id = message.tool_call_id.clone().unwrap_or_default();
                messages.push(wire::Message { tool_call_id: Some(id), ..plain("tool", Some(Content::Text(message.text()))) });
                pictures.extend(message.content.iter().filter(|part| part.as_text().is_none()).filter_map(content_part));
            }
        }
    }
    show(&mut pictures, &mut messages);
    messages
}

/// Shows the pictures of tool results that have not been shown yet.
fn show(pictures: &mut Vec<ContentPart>, messages: &mut Vec<wire::Message>) {
    if !pictures.is_empty() {
        messages.push(plain("user", Some(Content::Parts(std::mem::take(pictures)))));
    }
}

fn plain(role: &'static str, content: Option<Content>) -> wire::Message {
    wire::Message { role, content, tool_calls: Vec::new(), tool_plan: None, tool_call_id: None }
}

fn user_content(message: &Message) -> Content {
    if message.content.iter().all(|part| part.as_text().is_some()) {
        return Content::Text(message.text());
    }
    Content::Parts(message.content.iter().filter_map(content_part).collect())
}

fn content_part(part: &Part) -> Option<ContentPart> {
    match part {
        Part::Text { text } => (!text.is_empty()).then(|| ContentPart::Text { text: text.clone() }),
        Part::Image { source, detail } => {
            Some(ContentPart::ImageUrl { image_url: wire::ImageUrl { url: source.to_url(), detail: *detail } })
        }
        Part::File { name, source } => {
            let name = name.as_deref().unwrap_or("file");
            // The format takes no files; the model can at least know that there is one.
            let text = match source {
                Source::Url { url, .. } => format!("[{name}]({url})"),
                Source::Data { mime, .. } => format!("[{name}: a file of type {mime} that cannot be shown]"),
            };
            Some(ContentPart::Text { text })
        }
        Part::Reasoning(thought) => {
            (!thought.redacted && !thought.text.is_empty()).then(|| ContentPart::Thinking { thinking: thought.text.clone() })
        }
        Part::Audio { .. } => None,
    }
}

/// An assistant's message. Its plan comes back with its calls.
fn answer(message: &Message) -> wire::Message {
    let parts: Vec<ContentPart> = message.content.iter().filter_map(content_part).collect();
    let plan = message.state.as_ref().and_then(|state| state.get("tool_plan")?.as_str());
    let content = match parts.as_slice() {
        [] => None,
        [ContentPart::Text { text }] => Some(Content::Text(text.clone())),
        _ => Some(Content::Parts(parts)),
    };
    wire::Message {
        tool_calls: message.tool_calls.iter().map(call).collect(),
        tool_plan: plan.filter(|_| !message.tool_calls.is_empty()).map(str::to_owned),
        ..plain("assistant", content)
    }
}

fn call(call: &ToolCall) -> wire::Call {
    let function = wire::CalledFunction { name: call.name.clone(), arguments: call.arguments.clone() };
    wire::Call { id: call.id.clone(), kind: "function", function }
}

#[cfg(test)]
#[path = "golden.rs"]
mod golden;
