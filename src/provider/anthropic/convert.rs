//! From the neutral conversation to the messages format. Pure.
//!
//! The format has no system role (the texts move to the front), wants every tool result of a turn in one user
//! message, has no JSON mode (the wish becomes an instruction; a strict schema is enforced), and refuses
//! sampling settings while it thinks.

use serde_json::{Value, json};

use super::wire::{self, Block};
use crate::provider::chat::{ChatRequest, Message, Part, Reasoning, ResponseFormat, Role, Source, ToolChoice, ToolSpec};
use crate::provider::quirks::{Quirks, ReasoningStyle};

/// The answer's limit when neither the caller names one nor the catalogue a smaller.
const DEFAULT_MAX_TOKENS: u32 = 16_384;
/// The least budget the vendor takes.
const LEAST_THINKING: u32 = 1_024;

/// The request as this server wants it.
pub(super) fn request(chat: &ChatRequest, model: &str, quirks: &Quirks) -> wire::Request {
    let sampling = &chat.sampling;
    let thinking = Thinking::of(chat, quirks);
    let free = !quirks.fixed_sampling && thinking.config.is_none();
    wire::Request {
        model: model.to_owned(),
        max_tokens: thinking.max_tokens,
        system: system(chat),
        messages: messages(chat),
        tools: chat.tools.iter().map(tool).collect(),
        tool_choice: tool_choice(chat, thinking.config.is_some() && quirks.reasoning != ReasoningStyle::Level),
        output_config: output_config(chat, thinking.effort),
        thinking: thinking.config,
        temperature: sampling.temperature.filter(|_| free).map(|temperature| temperature.min(1.0)),
        // The newer models take one of temperature and top_p, not both.
        top_p: sampling.top_p.filter(|_| free && sampling.temperature.is_none()),
        top_k: sampling.top_k.filter(|_| free),
        stop_sequences: sampling.stop.iter().filter(|stop| !stop.trim().is_empty()).cloned().collect(),
        stream: chat.stream,
    }
}

/// What the wish for reasoning comes to.
struct Thinking {
    config: Option<Value>,
    effort: Option<&'static str>,
    max_tokens: u32,
}

impl Thinking {
    fn of(chat: &ChatRequest, quirks: &Quirks) -> Self {
        let most = quirks.max_output.unwrap_or(u32::MAX);
        let answer = chat.sampling.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS).min(most);
        let Some(reasoning) = chat.reasoning.as_ref().filter(|reasoning| reasoning.enabled) else {
            return Self { config: None, effort: None, max_tokens: answer };
        };
        match quirks.reasoning {
            ReasoningStyle::None => Self { config: None, effort: None, max_tokens: answer },
            ReasoningStyle::Level => {
                Self { config: Some(json!({ "type": "adaptive" })), effort: Some(level(reasoning)), max_tokens: answer }
            }
            ReasoningStyle::Usual | ReasoningStyle::Object => {
                // The vendor counts the thoughts into the limit; the caller's limit is about the answer.
                let budget = reasoning.budget().max(LEAST_THINKING);
                let max_tokens = answer.saturating_add(budget).min(most);
                let budget = budget.min(max_tokens.saturating_sub(1));
                Self { config: Some(json!({ "type": "enabled", "budget_tokens": budget })), effort: None, max_tokens }
            }
        }
    }
}

/// The vendor's levels begin at "low".
fn level(reasoning: &Reasoning) -> &'static str {
    match reasoning.level().name() {
        "minimal" => "low",
        name => name,
    }
}

fn output_config(chat: &ChatRequest, effort: Option<&'static str>) -> Option<Value> {
    let format = match &chat.response_format {
        ResponseFormat::JsonSchema { schema, strict: true, .. } => Some(json!({ "type": "json_schema", "schema": schema })),
        _ => None,
    };
    match (format, effort) {
        (None, None) => None,
        (Some(format), None) => Some(json!({ "format": format })),
        (None, Some(effort)) => Some(json!({ "effort": effort })),
        (Some(format), Some(effort)) => Some(json!({ "format": format, "effort": effort })),
    }
}

fn system(chat: &ChatRequest) -> String {
    let mut texts: Vec<String> = chat.messages.iter().filter(|message| message.role == Role::System).map(Message::text).collect();
    match &chat.response_format {
        ResponseFormat::Json => texts.push("Answer with one JSON value and nothing else: no prose, no code fence.".to_owned()),
        ResponseFormat::JsonSchema { schema, strict: false, .. } => texts.push(format!(
            "Answer with one JSON value that follows this JSON Schema, and nothing else: no prose, no code fence.\n{schema}"
        )),
        _ => {}
    }
    texts.retain(|text| !text.is_empty());
    texts.join("\n\n")
}

fn tool(spec: &ToolSpec) -> wire::Tool {
    wire::Tool { name: spec.name.clone(), description: spec.description.clone(), input_schema: spec.parameters.clone() }
}

fn tool_choice(chat: &ChatRequest, thinking: bool) -> Option<Value> {
    match chat.tool_choice {
        _ if chat.tools.is_empty() => None,
        ToolChoice::Auto => None,
        // A model with a token budget for thinking refuses a forced tool choice.
        ToolChoice::Required if thinking => None,
        ToolChoice::Required => Some(json!({ "type": "any" })),
        ToolChoice::None => Some(json!({ "type": "none" })),
    }
}

/// User and assistant by turns: what belongs to one side in a row becomes one message.
fn messages(chat: &ChatRequest) -> Vec<wire::Message> {
    let mut turns: Vec<wire::Message> = Vec::new();
    for message in &chat.messages {
        let (role, blocks) = match message.role {
            Role::System => continue,
            Role::User => ("user", message.content.iter().filter_map(block).collect()),
            Role::Assistant => ("assistant", assistant(message)),
            Role::Tool => ("user", vec![tool_result(message)]),
        };
        match turns.last_mut() {
            Some(last) if last.role == role => last.content.extend(blocks),
            _ if blocks.is_empty() => {}
            _ => turns.push(wire::Message { role, content: blocks }),
        }
    }
    turns
}

fn assistant(message: &Message) -> Vec<Block> {
    let said = message.content.iter().filter_map(block);
    let calls = message.tool_calls.iter().map(|call| Block::ToolUse {
        id: call.id.clone(),
        name: call.name.clone(),
        input: arguments(&call.arguments),
    });
    said.chain(calls).collect()
}

/// The format wants an object; what a model got wrong is given back to it as it was.
fn arguments(text: &str) -> Value {
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Value::Object(map),
        _ => json!({ "invalid_arguments": text }),
    }
}

fn tool_result(message: &Message) -> Block {
    Block::ToolResult {
        tool_use_id: message.tool_call_id.clone().unwrap_or_default(),
        // The vendor takes only text in a failed result.
        content: message.content.iter().filter(|part| !message.is_error || part.as_text().is_some()).filter_map(block).collect(),
        is_error: message.is_error,
    }
}

fn block(part: &Part) -> Option<Block> {
    match part {
        // Empty texts are refused.
        Part::Text { text } => (!text.is_empty()).then(|| Block::Text { text: text.clone() }),
        Part::Image { source, .. } => Some(Block::Image { source: self::source(source) }),
        Part::File { name, source } => Some(Block::Document { source: self::source(source), title: name.clone() }),
        Part::Audio { .. } => None,
        // Only sealed thoughts are taken back; another vendor's are dropped.
        Part::Reasoning(thought) => match (&thought.signature, thought.redacted) {
            (Some(data), true) => Some(Block::RedactedThinking { data: data.clone() }),
            (Some(signature), false) => Some(Block::Thinking { thinking: thought.text.clone(), signature: signature.clone() }),
            (None, _) => None,
        },
    }
}

fn source(source: &Source) -> wire::Source {
    match source {
        Source::Url { url, .. } => wire::Source::Url { url: url.clone() },
        Source::Data { mime, data } => wire::Source::Base64 { media_type: mime.clone(), data: data.clone() },
    }
}

#[cfg(test)]
#[path = "golden.rs"]
mod golden;
