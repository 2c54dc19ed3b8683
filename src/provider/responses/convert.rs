//! From the neutral conversation to the Responses format. Pure.
//!
//! Nothing is stored at the server, so every request repeats the whole conversation. A model that reasons wants its reasoning items back
//! unchanged and in front of the items that followed them; the state of an assistant's message says where that was.

use serde::Deserialize;
use serde_json::{Value, json};

use super::wire::{self, AnswerOutline, Content, ContentPart, InputItem, OutlineItem};
use crate::provider::chat::{ChatRequest, Message, Part, Reasoning, ResponseFormat, Role, Source, ToolCall, ToolChoice, ToolSpec};
use crate::provider::quirks::{Quirks, ReasoningStyle};

/// The server refuses a smaller limit of the answer.
const MIN_OUTPUT_TOKENS: u32 = 16;

/// The request as this server wants it.
pub(super) fn request(chat: &ChatRequest, model: &str, quirks: &Quirks) -> wire::Request {
    let sampling = &chat.sampling;
    let reasons = quirks.reasoning != ReasoningStyle::None;
    let free = |value: Option<f64>| value.filter(|_| !quirks.fixed_sampling);
    let mut input = Vec::new();
    for message in &chat.messages {
        write_message(message, &mut input);
    }
    wire::Request {
        model: model.to_owned(),
        input,
        store: false,
        include: if reasons { vec!["reasoning.encrypted_content"] } else { Vec::new() },
        tools: chat.tools.iter().map(tool).collect(),
        tool_choice: tool_choice(chat),
        text: text_format(&chat.response_format),
        reasoning: chat.reasoning.as_ref().filter(|_| reasons).map(reasoning_wish),
        max_output_tokens: sampling.max_tokens.map(|limit| limit.max(MIN_OUTPUT_TOKENS)),
        temperature: free(sampling.temperature),
        top_p: free(sampling.top_p),
        stream: chat.stream,
    }
}

fn tool(spec: &ToolSpec) -> wire::Tool {
    wire::Tool {
        kind: "function",
        name: spec.name.clone(),
        description: spec.description.clone(),
        parameters: spec.parameters.clone(),
        strict: false,
    }
}

/// A choice without tools is refused, so it is sent only when there are some.
fn tool_choice(chat: &ChatRequest) -> Option<&'static str> {
    match chat.tool_choice {
        _ if chat.tools.is_empty() => None,
        ToolChoice::Auto => None,
        ToolChoice::Required => Some("required"),
        ToolChoice::None => Some("none"),
    }
}

fn text_format(format: &ResponseFormat) -> Option<Value> {
    let format = match format {
        ResponseFormat::Text => return None,
        ResponseFormat::Json => json!({ "type": "json_object" }),
        ResponseFormat::JsonSchema { name, schema, strict } => {
            json!({ "type": "json_schema", "name": name, "schema": schema, "strict": strict })
        }
    };
    Some(json!({ "format": format }))
}

fn reasoning_wish(reasoning: &Reasoning) -> Value {
    match reasoning.level().name() {
        effort if reasoning.enabled && effort != "none" => json!({ "effort": effort, "summary": "auto" }),
        _ => json!({ "effort": "none" }),
    }
}

fn write_message(message: &Message, input: &mut Vec<InputItem>) {
    match message.role {
        Role::System => input.push(plain("system", Content::Text(message.text()))),
        Role::User => input.push(plain("user", Content::Parts(message.content.iter().filter_map(content_part).collect()))),
        Role::Assistant => write_answer(message, input),
        Role::Tool => input.push(InputItem::Result(wire::CallOutput {
            kind: "function_call_output",
            call_id: message.tool_call_id.clone().unwrap_or_default(),
            output: call_output(message),
        })),
    }
}

fn plain(role: &'static str, content: Content) -> InputItem {
    InputItem::Message(wire::InputMessage { role, content, id: None, phase: None })
}

fn content_part(part: &Part) -> Option<ContentPart> {
    match part {
        Part::Text { text } => Some(ContentPart::InputText { text: text.clone() }),
        Part::Image { source, detail } => Some(ContentPart::InputImage { image_url: source.to_url(), detail: *detail }),
        Part::File { name, source } => Some(match source {
            Source::Data { mime, .. } => ContentPart::InputFile {
                filename: Some(name.clone().unwrap_or_else(|| default_file_name(mime).to_owned())),
                file_data: Some(source.to_url()),
                file_url: None,
            },
            Source::Url { url, .. } => ContentPart::InputFile { filename: None, file_data: None, file_url: Some(url.clone()) },
        }),
        Part::Audio { .. } | Part::Reasoning(_) => None,
    }
}

/// The server reads the kind of a file from its name.
fn default_file_name(mime: &str) -> &'static str {
    if mime == "application/pdf" { "file.pdf" } else { "file" }
}

/// The result as one text, or as parts when it holds more than text.
fn call_output(message: &Message) -> Content {
    let shows = |part: &Part| matches!(part, Part::Image { .. } | Part::File { .. });
    if !message.content.iter().any(shows) {
        return Content::Text(message.text());
    }
    let blank = |part: &Part| part.as_text().is_some_and(str::is_empty);
    Content::Parts(message.content.iter().filter(|part| !blank(part)).filter_map(content_part).collect())
}

/// The items of an answer, in the order of its outline. Without an outline: the text, then the calls.
fn write_answer(message: &Message, input: &mut Vec<InputItem>) {
    let text = message.text();
    let outline = message.state.as_ref().and_then(|state| AnswerOutline::deserialize(state).ok()).unwrap_or_default();
    let same_text = outline.text_bytes() == text.len();
    let same_calls = outline.call_count() == message.tool_calls.len();
    let mut rest = text.as_str();
    let mut left: Vec<Option<&ToolCall>> = message.tool_calls.iter().map(Some).collect();
    // Reasoning that waits for the item it led to. It is dropped when that item is gone or altered: the server would refuse it.
    let mut thoughts = Vec::new();
    for item in outline.output {
        match item {
            OutlineItem::Reasoning(item) => thoughts.extend(reasoning_item(item)),
            OutlineItem::Message { bytes, id, phase } => {
                let cut = if same_text { rest.split_at_checked(bytes) } else { None };
                let (said, id, phase) = match cut {
                    Some((said, tail)) => {
                        rest = tail;
                        (said, id, phase)
                    }
                    None => (std::mem::take(&mut rest), None, None),
                };
                if cut.is_none() || said.is_empty() {
                    thoughts.clear();
                }
                if !said.is_empty() {
                    input.append(&mut thoughts);
                    input.push(answer_text(said, id, phase));
                }
            }
            OutlineItem::Call { index, id } => {
                let call = left.get_mut(index).and_then(Option::take);
                if call.is_none() || !same_calls {
                    thoughts.clear();
                }
                if let Some(call) = call {
                    input.append(&mut thoughts);
                    input.push(function_call(call, id.filter(|_| same_calls)));
                }
            }
        }
    }
    if !rest.is_empty() {
        input.push(answer_text(rest, None, None));
    }
    input.extend(left.into_iter().flatten().map(|call| function_call(call, None)));
}

/// A reasoning item as an input; `None` for anything else that a state may hold.
fn reasoning_item(item: Value) -> Option<InputItem> {
    let Value::Object(mut members) = item else { return None };
    if members.get("type").and_then(Value::as_str) != Some("reasoning") {
        return None;
    }
    members.retain(|name, _| name != "status");
    members.entry("summary").or_insert_with(|| json!([]));
    Some(InputItem::Reasoning(Value::Object(members)))
}

fn answer_text(text: &str, id: Option<String>, phase: Option<String>) -> InputItem {
    let content = Content::Parts(vec![ContentPart::OutputText { text: text.to_owned() }]);
    InputItem::Message(wire::InputMessage { role: "assistant", content, id, phase })
}

fn function_call(call: &ToolCall, id: Option<String>) -> InputItem {
    InputItem::Call(wire::FunctionCall {
        kind: "function_call",
        id,
        call_id: call.id.clone(),
        name: call.name.clone(),
        arguments: call.arguments.clone(),
    })
}

#[cfg(test)]
#[path = "golden.rs"]
mod golden;
