//! From the neutral conversation to chat completions. Pure.
//!
//! Reasoning goes back to the model that wrote it, under the names in which it came: DeepSeek, OpenRouter and Google's compatible endpoint
//! refuse a tool loop without it.

use serde_json::{Value, json};

use super::wire;
use crate::provider::chat::{ChatRequest, Effort, Message, Part, Reasoning, ResponseFormat, Role, Source, ToolChoice};
use crate::provider::quirks::{FileForm, MaxTokensField, Quirks, ReasoningStyle};

/// The request as this server wants it.
pub(super) fn request(chat: &ChatRequest, model: &str, quirks: &Quirks) -> wire::Request {
    let sampling = &chat.sampling;
    let free = |value: Option<f64>| value.filter(|_| !quirks.fixed_sampling);
    let limit = |field| sampling.max_tokens.filter(|_| quirks.max_tokens_field == field);
    wire::Request {
        model: model.to_owned(),
        messages: messages(chat, quirks),
        tools: chat.tools.iter().map(tool).collect(),
        tool_choice: tool_choice(chat),
        response_format: response_format(&chat.response_format),
        temperature: free(sampling.temperature),
        top_p: free(sampling.top_p),
        top_k: sampling.top_k.filter(|_| quirks.top_k),
        frequency_penalty: free(sampling.frequency_penalty).filter(|_| !quirks.no_penalties),
        presence_penalty: free(sampling.presence_penalty).filter(|_| !quirks.no_penalties),
        seed: sampling.seed,
        max_tokens: limit(MaxTokensField::MaxTokens),
        max_completion_tokens: limit(MaxTokensField::MaxCompletionTokens),
        stop: if quirks.no_stop { Vec::new() } else { sampling.stop.clone() },
        reasoning_effort: chat.reasoning.as_ref().and_then(|reasoning| effort(reasoning, quirks)),
        reasoning: chat.reasoning.as_ref().filter(|_| quirks.reasoning == ReasoningStyle::Object).map(reasoning_object),
        stream: chat.stream,
        stream_options: (chat.stream && !quirks.no_stream_options).then_some(wire::StreamOptions { include_usage: true }),
    }
}

fn tool(spec: &crate::provider::chat::ToolSpec) -> wire::Tool {
    wire::Tool {
        kind: "function",
        function: wire::Function { name: spec.name.clone(), description: spec.description.clone(), parameters: spec.parameters.clone() },
    }
}

/// A choice without tools is refused, so it is said only when there are some.
fn tool_choice(chat: &ChatRequest) -> Option<&'static str> {
    match chat.tool_choice {
        _ if chat.tools.is_empty() => None,
        ToolChoice::Auto => None,
        ToolChoice::Required => Some("required"),
        ToolChoice::None => Some("none"),
    }
}

fn response_format(format: &ResponseFormat) -> Option<Value> {
    match format {
        ResponseFormat::Text => None,
        ResponseFormat::Json => Some(json!({ "type": "json_object" })),
        ResponseFormat::JsonSchema { name, schema, strict } => {
            Some(json!({ "type": "json_schema", "json_schema": { "name": name, "schema": schema, "strict": strict } }))
        }
    }
}

fn effort(reasoning: &Reasoning, quirks: &Quirks) -> Option<&'static str> {
    if !matches!(quirks.reasoning, ReasoningStyle::Usual | ReasoningStyle::Level) {
        return None;
    }
    match reasoning.enabled {
        true => Some(reasoning.level().name()),
        // Only some models can be told not to think; a caller who says `none` in so many words is believed.
        false => (reasoning.effort == Some(Effort::None) || quirks.takes_effort("none")).then_some("none"),
    }
}

fn reasoning_object(reasoning: &Reasoning) -> Value {
    match reasoning {
        Reasoning { enabled: false, .. } => json!({ "enabled": false }),
        Reasoning { budget_tokens: Some(budget), .. } => json!({ "max_tokens": budget }),
        reasoning => json!({ "effort": reasoning.level().name() }),
    }
}

/// The conversation. Results of parallel calls stay together; what they show follows the last of them in a user's message, since a tool's
/// message holds text only.
fn messages(chat: &ChatRequest, quirks: &Quirks) -> Vec<wire::Message> {
    let mut written: Vec<wire::Message> = Vec::with_capacity(chat.messages.len());
    let mut shown: Vec<wire::Part> = Vec::new();
    for message in &chat.messages {
        if message.role == Role::Tool {
            let content = Some(wire::Content::Text(message.text()));
            let tool_call_id = Some(message.tool_call_id.clone().unwrap_or_default());
            written.push(wire::Message { tool_call_id, ..wire::Message::of("tool", content) });
            shown.extend(message.content.iter().filter(|part| part.as_text().is_none()).filter_map(|part| self::part(part, quirks)));
            continue;
        }
        show(&mut shown, &mut written, quirks);
        if message.role == Role::User {
            bridge(&mut written, quirks);
        }
        written.push(plain(message, quirks));
    }
    show(&mut shown, &mut written, quirks);
    written
}

fn show(shown: &mut Vec<wire::Part>, written: &mut Vec<wire::Message>, quirks: &Quirks) {
    if !shown.is_empty() {
        bridge(written, quirks);
        written.push(wire::Message::of("user", Some(wire::Content::Parts(std::mem::take(shown)))));
    }
}

/// Mistral refuses a user's message right after a tool's.
fn bridge(written: &mut Vec<wire::Message>, quirks: &Quirks) {
    if quirks.no_user_after_tool && written.last().is_some_and(|last| last.role == "tool") {
        written.push(wire::Message::of("assistant", Some(wire::Content::Text("OK.".to_owned()))));
    }
}

fn plain(message: &Message, quirks: &Quirks) -> wire::Message {
    match message.role {
        Role::System => wire::Message::of("system", Some(wire::Content::Text(message.text()))),
        Role::Assistant => assistant(message),
        Role::User | Role::Tool => wire::Message::of("user", Some(content(message, quirks))),
    }
}

fn assistant(message: &Message) -> wire::Message {
    let text = message.text();
    let silent = text.is_empty() && !message.tool_calls.is_empty();
    let state = message.state.as_ref();
    let thoughts = || {
        let texts = message.content.iter().filter_map(|part| match part {
            Part::Reasoning(thought) => Some(thought.text.as_str()),
            _ => None,
        });
        Some(texts.collect::<String>()).filter(|text| !text.is_empty())
    };
    let member = state.and_then(|state| state.get("member")?.as_str());
    wire::Message {
        tool_calls: message.tool_calls.iter().map(call).collect(),
        reasoning_content: thoughts().filter(|_| member == Some("reasoning_content")),
        reasoning: thoughts().filter(|_| member == Some("reasoning")),
        reasoning_details: state.and_then(|state| state.get("details")).cloned(),
        ..wire::Message::of("assistant", (!silent).then_some(wire::Content::Text(text)))
    }
}

fn call(call: &crate::provider::chat::ToolCall) -> wire::Call {
    let function = wire::CalledFunction { name: call.name.clone(), arguments: call.arguments.clone() };
    wire::Call { id: call.id.clone(), kind: "function", function, extra_content: call.state.clone() }
}

fn content(message: &Message, quirks: &Quirks) -> wire::Content {
    match message.content.as_slice() {
        [Part::Text { text }] => wire::Content::Text(text.clone()),
        parts if parts.iter().all(|part| part.as_text().is_some()) => wire::Content::Text(message.text()),
        parts => wire::Content::Parts(parts.iter().filter_map(|part| self::part(part, quirks)).collect()),
    }
}

fn part(part: &Part, quirks: &Quirks) -> Option<wire::Part> {
    match part {
        Part::Text { text } => Some(wire::Part::Text { text: text.clone() }),
        Part::Image { source, detail } => Some(wire::Part::ImageUrl { image_url: wire::Url { url: source.to_url(), detail: *detail } }),
        Part::File { name, source } => Some(file(name.as_deref(), source, quirks)),
        Part::Audio { source: Source::Data { mime, data } } => {
            let format = mime.rsplit('/').next().unwrap_or("wav").trim_start_matches("x-").to_owned();
            let format = if format == "mpeg" { "mp3".to_owned() } else { format };
            Some(wire::Part::InputAudio { input_audio: wire::Audio { data: data.clone(), format } })
        }
        Part::Audio { source: Source::Url { url, .. } } => Some(wire::Part::Text { text: format!("[audio]({url})") }),
        Part::Reasoning(_) => None,
    }
}

fn file(name: Option<&str>, source: &Source, quirks: &Quirks) -> wire::Part {
    let filename = name.unwrap_or("file").to_owned();
    match (quirks.file_form, source) {
        _ if quirks.video_url && is_video(source) => wire::Part::VideoUrl { video_url: wire::Url { url: source.to_url(), detail: None } },
        (FileForm::DocumentUrl, source) => wire::Part::DocumentUrl { document_url: source.to_url() },
        (FileForm::Usual, Source::Data { .. }) => wire::Part::File { file: wire::File { filename, file_data: source.to_url() } },
        // The format takes no URL for a file; the model can at least read where it is.
        (FileForm::Usual, Source::Url { url, .. }) => wire::Part::Text { text: format!("[{filename}]({url})") },
    }
}

fn is_video(source: &Source) -> bool {
    source.media_type().is_some_and(|mime| mime.starts_with("video/"))
}

#[cfg(test)]
#[path = "golden.rs"]
mod golden;
