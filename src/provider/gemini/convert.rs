//! From the neutral conversation to generateContent. Pure.
//!
//! Calls have no ids here: results are matched by name and order. A call made by a model that thinks carries a
//! seal which must come back with it, or the next turn is refused.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::wire::{self, Content};
use crate::provider::chat::{ChatRequest, Message, Part, Reasoning, ResponseFormat, Role, Source, ToolCall, ToolChoice, ToolSpec};
use crate::provider::quirks::{Quirks, ReasoningStyle};

/// The vendor's value for "this call was made elsewhere; skip the check of its signature": `skip_thought_signature_validator`, in base64 as the
/// field requires.
const NO_SIGNATURE: &str = "c2tpcF90aG91Z2h0X3NpZ25hdHVyZV92YWxpZGF0b3I=";

/// The request as this server wants it.
pub(super) fn request(chat: &ChatRequest, quirks: &Quirks) -> wire::Request {
    let functions: Vec<wire::Function> = chat.tools.iter().map(function).collect();
    wire::Request {
        contents: contents(chat, quirks),
        system_instruction: system(chat),
        tools: if functions.is_empty() { Vec::new() } else { vec![wire::Tools { function_declarations: functions }] },
        tool_config: tool_config(chat),
        generation_config: generation_config(chat, quirks),
    }
}

fn generation_config(chat: &ChatRequest, quirks: &Quirks) -> wire::GenerationConfig {
    let sampling = &chat.sampling;
    let json = chat.response_format != ResponseFormat::Text;
    wire::GenerationConfig {
        temperature: sampling.temperature,
        top_p: sampling.top_p,
        top_k: sampling.top_k,
        frequency_penalty: sampling.frequency_penalty,
        presence_penalty: sampling.presence_penalty,
        seed: sampling.seed,
        max_output_tokens: sampling.max_tokens.map(|most| most.saturating_add(thoughts(chat, quirks))),
        stop_sequences: sampling.stop.clone(),
        response_mime_type: json.then_some("application/json"),
        response_json_schema: match &chat.response_format {
            ResponseFormat::JsonSchema { schema, .. } => Some(schema.clone()),
            _ => None,
        },
        thinking_config: chat.reasoning.as_ref().and_then(|reasoning| thinking(reasoning, quirks)),
    }
}

/// The vendor counts the thoughts into the limit; the caller's limit is about the answer.
fn thoughts(chat: &ChatRequest, quirks: &Quirks) -> u32 {
    let counted = chat.reasoning.as_ref().filter(|reasoning| reasoning.enabled && quirks.reasoning == ReasoningStyle::Usual);
    counted.map_or(0, Reasoning::budget)
}

fn thinking(reasoning: &Reasoning, quirks: &Quirks) -> Option<Value> {
    match (quirks.reasoning, reasoning.enabled) {
        (ReasoningStyle::None, _) => None,
        // These models cannot stop thinking altogether.
        (ReasoningStyle::Level, false) => Some(json!({ "thinkingLevel": "low" })),
        (ReasoningStyle::Level, true) => {
            let level = if reasoning.level().budget() > 8_192 { "high" } else { "low" };
            Some(json!({ "includeThoughts": true, "thinkingLevel": level }))
        }
        (_, false) => Some(json!({ "thinkingBudget": 0 })),
        (_, true) => Some(json!({ "includeThoughts": true, "thinkingBudget": reasoning.budget() })),
    }
}

fn function(spec: &ToolSpec) -> wire::Function {
    // An object without properties is refused; such a tool takes no arguments and says so by having no schema.
    let parameters_json_schema = has_parameters(&spec.parameters).then(|| spec.parameters.clone());
    wire::Function { name: spec.name.clone(), description: spec.description.clone(), parameters_json_schema }
}

/// Whether a schema describes any argument: by properties, or by what stands for them.
fn has_parameters(schema: &Value) -> bool {
    let filled = |name: &str| match schema.get(name) {
        Some(Value::Object(members)) => !members.is_empty(),
        Some(Value::Array(items)) => !items.is_empty(),
        Some(Value::String(_)) => true,
        _ => false,
    };
    ["properties", "anyOf", "oneOf", "allOf", "$ref", "patternProperties", "additionalProperties"].into_iter().any(filled)
        || schema.get("additionalProperties") == Some(&Value::Bool(true))
}

fn tool_config(chat: &ChatRequest) -> Option<Value> {
    let mode = match chat.tool_choice {
        _ if chat.tools.is_empty() => return None,
        ToolChoice::Auto => return None,
        ToolChoice::Required => "ANY",
        ToolChoice::None => "NONE",
    };
    Some(json!({ "functionCallingConfig": { "mode": mode } }))
}

fn system(chat: &ChatRequest) -> Option<Content> {
    let texts = chat.messages.iter().filter(|message| message.role == Role::System).map(Message::text);
    let parts: Vec<wire::Part> = texts.filter(|text| !text.is_empty()).map(text).collect();
    (!parts.is_empty()).then_some(Content { role: None, parts })
}

fn text(text: String) -> wire::Part {
    wire::Part { text: Some(text), ..wire::Part::default() }
}

/// User and model by turns: what belongs to one side in a row becomes one content.
fn contents(chat: &ChatRequest, quirks: &Quirks) -> Vec<Content> {
    let mut turns: Vec<Content> = Vec::new();
    let calls = chat.messages.iter().flat_map(|message| &message.tool_calls);
    // The vendor's own ids, by the ids under which the calls are known here.
    let ids: HashMap<&str, String> = calls.filter_map(|call| Some((call.id.as_str(), vendor_id(call)?))).collect();
    for message in &chat.messages {
        let (role, parts) = match message.role {
            Role::System => continue,
            Role::User => ("user", message.content.iter().filter_map(part).collect()),
            Role::Assistant => ("model", assistant(message, quirks)),
            Role::Tool => ("user", tool_result(message, &ids)),
        };
        match turns.last_mut() {
            Some(last) if last.role == Some(role) => last.parts.extend(parts),
            _ if parts.is_empty() => {}
            _ => turns.push(Content { role: Some(role), parts }),
        }
    }
    turns
}

fn assistant(message: &Message, quirks: &Quirks) -> Vec<wire::Part> {
    let said = message.content.iter().filter_map(part);
    let sealed = message.tool_calls.iter().any(|call| call.signature.is_some());
    let calls = message.tool_calls.iter().enumerate().map(|(at, call)| {
        // Of parallel calls only the first one carries the seal.
        let missing = at == 0 && !sealed && quirks.reasoning == ReasoningStyle::Level;
        function_call(call, missing)
    });
    said.chain(calls).collect()
}

fn function_call(call: &ToolCall, missing: bool) -> wire::Part {
    let args = match serde_json::from_str(&call.arguments) {
        Ok(Value::Object(map)) => Value::Object(map),
        _ => json!({ "invalid_arguments": call.arguments }),
    };
    wire::Part {
        function_call: Some(wire::Call { id: vendor_id(call), name: call.name.clone(), args }),
        thought_signature: call.signature.clone().or_else(|| missing.then(|| NO_SIGNATURE.to_owned())),
        ..wire::Part::default()
    }
}

fn vendor_id(call: &ToolCall) -> Option<String> {
    call.state.as_ref()?.get("id")?.as_str().map(str::to_owned)
}

/// The result, and beside it what cannot be part of a result.
fn tool_result(message: &Message, ids: &HashMap<&str, String>) -> Vec<wire::Part> {
    let said = message.text();
    let response = match serde_json::from_str(&said) {
        Ok(Value::Object(map)) if !message.is_error => Value::Object(map),
        _ if message.is_error => json!({ "error": said }),
        Ok(value) => json!({ "result": value }),
        Err(_) => json!({ "result": said }),
    };
    let name = message.tool_name.clone().unwrap_or_default();
    let id = message.tool_call_id.as_deref().and_then(|id| ids.get(id)).cloned();
    let result = wire::Part { function_response: Some(wire::CallResponse { id, name, response }), ..wire::Part::default() };
    let shown = message.content.iter().filter(|part| part.as_text().is_none()).filter_map(part);
    std::iter::once(result).chain(shown).collect()
}

fn part(part: &Part) -> Option<wire::Part> {
    match part {
        Part::Text { text: said } => (!said.is_empty()).then(|| text(said.clone())),
        Part::Image { source, .. } | Part::File { source, .. } | Part::Audio { source } => Some(match source {
            Source::Data { mime, data } => {
                wire::Part { inline_data: Some(wire::Blob { mime_type: mime.clone(), data: data.clone() }), ..wire::Part::default() }
            }
            Source::Url { url, .. } => wire::Part {
                file_data: Some(wire::FileData { mime_type: source.media_type().map(str::to_owned), file_uri: url.clone() }),
                ..wire::Part::default()
            },
        }),
        Part::Reasoning(_) => None,
    }
}

#[cfg(test)]
#[path = "golden.rs"]
mod golden;
