//! From the neutral conversation to Converse. Pure.
//!
//! Converse has one form for the models of many vendors. Settings that only one family of models knows travel beside it, in that
//! family's own words. Tools must be described as long as the conversation holds calls of them, even when none is offered now.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::wire::{self, Block};
use crate::provider::chat::{ChatRequest, Message, Part, Reasoning, ResponseFormat, Role, Source, ToolChoice, ToolSpec};
use crate::provider::error::{Class, ProviderError};
use crate::provider::quirks::{Quirks, ReasoningStyle};

/// The answer's limit while a model thinks within a budget and the caller names no limit.
const DEFAULT_MAX_TOKENS: u32 = 16_384;
/// The least budget for reasoning that the vendor takes.
const MIN_THINKING_BUDGET: u32 = 1_024;
/// The longest name of a schema, in characters.
const MAX_SCHEMA_NAME: usize = 64;
/// The longest name of a document, in characters, without the number that makes it unique.
const MAX_DOCUMENT_NAME: usize = 180;

/// Media types of pictures, and the vendor's names for them.
const IMAGE_FORMATS: [(&str, &str); 4] = [("image/png", "png"), ("image/jpeg", "jpeg"), ("image/gif", "gif"), ("image/webp", "webp")];

/// Media types of documents, and the vendor's names for them.
const DOCUMENT_FORMATS: [(&str, &str); 9] = [
    ("application/pdf", "pdf"),
    ("text/csv", "csv"),
    ("application/msword", "doc"),
    ("application/vnd.openxmlformats-officedocument.wordprocessingml.document", "docx"),
    ("application/vnd.ms-excel", "xls"),
    ("application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", "xlsx"),
    ("text/html", "html"),
    ("text/plain", "txt"),
    ("text/markdown", "md"),
];

/// Writes the request as this server wants it.
pub(super) fn request(chat: &ChatRequest, model: &str, quirks: &Quirks) -> Result<wire::Request, ProviderError> {
    let family = ModelFamily::of(model);
    let plan = ReasoningPlan::of(chat, family, quirks);
    let inference = inference_config(chat, family, quirks, &plan);
    let mut fields = plan.fields;
    if let Some(top_k) = chat.sampling.top_k.filter(|_| family == ModelFamily::Claude && !plan.fixes_sampling && !quirks.fixed_sampling) {
        fields.insert("top_k".to_owned(), top_k.into());
    }
    Ok(wire::Request {
        messages: messages(chat, family)?,
        system: system(chat),
        inference_config: (inference != wire::InferenceConfig::default()).then_some(inference),
        tool_config: tool_config(chat, plan.forbids_forced_calls),
        output_config: output_config(&chat.response_format),
        additional_model_request_fields: fields,
    })
}

/// Models that share settings outside of Converse's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ModelFamily {
    Claude,
    Nova,
    /// The Nova models that reason.
    Nova2,
    GptOss,
    Other,
}

impl ModelFamily {
    /// Finds the family in a model's id, which may carry a region in front or be an ARN.
    fn of(model: &str) -> Self {
        if model.contains("claude") {
            Self::Claude
        } else if model.contains("amazon.nova-2") {
            Self::Nova2
        } else if model.contains("amazon.nova") {
            Self::Nova
        } else if model.contains("openai.gpt-oss") {
            Self::GptOss
        } else {
            Self::Other
        }
    }

    /// Whether a tool's result may say that the call failed, in a member of its own.
    fn knows_failed_calls(self) -> bool {
        matches!(self, Self::Claude | Self::Nova | Self::Nova2)
    }
}

/// The settings that a wish for reasoning leads to.
struct ReasoningPlan {
    fields: Map<String, Value>,
    max_tokens: Option<u32>,
    /// Temperature and its kin are refused beside it.
    fixes_sampling: bool,
    /// The answer's limit is refused beside it.
    fixes_limit: bool,
    /// A model that thinks may not be made to call a tool.
    forbids_forced_calls: bool,
}

impl ReasoningPlan {
    fn of(chat: &ChatRequest, family: ModelFamily, quirks: &Quirks) -> Self {
        let most = quirks.max_output.unwrap_or(u32::MAX);
        let mut plan = Self {
            fields: Map::new(),
            max_tokens: chat.sampling.max_tokens.map(|limit| limit.min(most)),
            fixes_sampling: false,
            fixes_limit: false,
            forbids_forced_calls: false,
        };
        let Some(reasoning) = chat.reasoning.as_ref().filter(|reasoning| reasoning.enabled) else { return plan };
        match (quirks.reasoning, family) {
            (ReasoningStyle::None, _) => {}
            (ReasoningStyle::Object, _) => plan.set("reasoning_config", json!(coarse_level(reasoning))),
            (ReasoningStyle::Level, ModelFamily::Claude) => {
                plan.set("thinking", json!({ "type": "adaptive" }));
                plan.set("output_config", json!({ "effort": claude_level(reasoning) }));
                plan.fixes_sampling = true;
                plan.forbids_forced_calls = true;
            }
            (ReasoningStyle::Usual, ModelFamily::Claude) => {
                // The vendor counts the thoughts into the limit; the caller's limit is about the answer.
                let budget = reasoning.budget().max(MIN_THINKING_BUDGET);
                let limit = plan.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS).saturating_add(budget).min(most);
                let budget = budget.min(limit.saturating_sub(1));
                plan.set("thinking", json!({ "type": "enabled", "budget_tokens": budget }));
                plan.max_tokens = Some(limit);
                plan.fixes_sampling = true;
                plan.forbids_forced_calls = true;
            }
            (_, ModelFamily::GptOss) => plan.set("reasoning_effort", json!(coarse_level(reasoning))),
            (_, ModelFamily::Nova2) => {
                let level = coarse_level(reasoning);
                plan.set("reasoningConfig", json!({ "type": "enabled", "maxReasoningEffort": level }));
                plan.fixes_sampling = level == "high";
                plan.fixes_limit = level == "high";
            }
            // The others reason as they will.
            (_, ModelFamily::Nova | ModelFamily::Other) => {}
        }
        plan
    }

    fn set(&mut self, name: &str, value: Value) {
        self.fields.insert(name.to_owned(), value);
    }
}

/// Anthropic's levels begin at "low".
fn claude_level(reasoning: &Reasoning) -> &'static str {
    match reasoning.level().name() {
        "none" | "minimal" => "low",
        name => name,
    }
}

/// The level of those who have three.
fn coarse_level(reasoning: &Reasoning) -> &'static str {
    match reasoning.level().name() {
        "none" | "minimal" | "low" => "low",
        "medium" => "medium",
        _ => "high",
    }
}

fn inference_config(chat: &ChatRequest, family: ModelFamily, quirks: &Quirks, plan: &ReasoningPlan) -> wire::InferenceConfig {
    let sampling = &chat.sampling;
    let is_free = !quirks.fixed_sampling && !plan.fixes_sampling;
    // Claude takes one of temperature and top_p, not both.
    let one_only = family == ModelFamily::Claude && sampling.temperature.is_some();
    let stops = sampling.stop.iter().filter(|stop| !quirks.no_stop && !stop.trim().is_empty());
    wire::InferenceConfig {
        max_tokens: plan.max_tokens.filter(|_| !plan.fixes_limit),
        temperature: sampling.temperature.filter(|_| is_free).map(|temperature| temperature.min(1.0)),
        top_p: sampling.top_p.filter(|_| is_free && !one_only),
        stop_sequences: stops.cloned().collect(),
    }
}

fn system(chat: &ChatRequest) -> Vec<wire::SystemText> {
    let texts = chat.messages.iter().filter(|message| message.role == Role::System).map(Message::text);
    texts.filter(|text| !text.trim().is_empty()).map(|text| wire::SystemText { text }).collect()
}

/// A schema that is enforced; every other wish for JSON has become an instruction before.
fn output_config(format: &ResponseFormat) -> Option<Value> {
    let ResponseFormat::JsonSchema { name, schema, strict: true } = format else { return None };
    let fits = |letter: &char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-');
    let plain: String = name.chars().filter(fits).take(MAX_SCHEMA_NAME).collect();
    let name = if plain.is_empty() { "answer" } else { plain.as_str() };
    let structure = json!({ "jsonSchema": { "name": name, "schema": schema.to_string() } });
    Some(json!({ "textFormat": { "type": "json_schema", "structure": structure } }))
}

fn tool_config(chat: &ChatRequest, forbids_forced_calls: bool) -> Option<wire::ToolConfig> {
    let has_history = chat.messages.iter().any(|message| message.role == Role::Tool || !message.tool_calls.is_empty());
    // The format has no tool choice "none"; tools without a call in the history are omitted instead.
    let is_offered = !chat.tools.is_empty() && (chat.tool_choice != ToolChoice::None || has_history);
    let tools: Vec<wire::Tool> = if is_offered { chat.tools.iter().map(tool).collect() } else { former_tools(chat) };
    if tools.is_empty() {
        return None;
    }
    let is_forced = is_offered && chat.tool_choice == ToolChoice::Required && !forbids_forced_calls;
    Some(wire::ToolConfig { tools, tool_choice: is_forced.then(|| json!({ "any": {} })) })
}

fn tool(spec: &ToolSpec) -> wire::Tool {
    described_tool(&spec.name, &spec.description, spec.parameters.clone())
}

fn described_tool(name: &str, description: &str, schema: Value) -> wire::Tool {
    let input_schema = wire::InputSchema { json: schema };
    wire::Tool { tool_spec: wire::ToolSpec { name: name.to_owned(), description: description.trim().to_owned(), input_schema } }
}

/// The tools that the conversation has called, when none is offered any more.
fn former_tools(chat: &ChatRequest) -> Vec<wire::Tool> {
    let mut seen = HashSet::new();
    let names = chat.messages.iter().flat_map(|message| &message.tool_calls).map(|call| call.name.as_str());
    let former = names.filter(|name| seen.insert(*name));
    former.map(|name| described_tool(name, "This tool is no longer available.", json!({ "type": "object", "properties": {} }))).collect()
}

/// User and assistant by turns: everything that belongs to one side in a row becomes one message.
fn messages(chat: &ChatRequest, family: ModelFamily) -> Result<Vec<wire::Message>, ProviderError> {
    let mut names = DocumentNames::default();
    let mut turns: Vec<wire::Message> = Vec::new();
    for message in &chat.messages {
        let (role, blocks) = match message.role {
            Role::System => continue,
            Role::User => ("user", blocks(&message.content, &mut names)?),
            Role::Assistant => ("assistant", assistant_blocks(message, &mut names)?),
            Role::Tool => ("user", result_blocks(message, family, &mut names)?),
        };
        match turns.last_mut() {
            Some(last) if last.role == role => last.content.extend(blocks),
            _ if blocks.is_empty() => {}
            _ => turns.push(wire::Message { role, content: blocks }),
        }
    }
    for turn in turns.iter_mut().filter(|turn| turn.role == "user") {
        complete_user_turn(&mut turn.content);
    }
    Ok(turns)
}

/// Results of tools come first in a turn, and documents want a text beside them.
fn complete_user_turn(content: &mut Vec<Block>) {
    content.sort_by_key(|block| !matches!(block, Block::ToolResult(_)));
    let has_document = content.iter().any(|block| matches!(block, Block::Document(_)));
    if has_document && !content.iter().any(|block| matches!(block, Block::Text(_))) {
        content.push(Block::Text("See the attached document.".to_owned()));
    }
}

fn blocks(parts: &[Part], names: &mut DocumentNames) -> Result<Vec<Block>, ProviderError> {
    parts.iter().filter_map(|part| block(part, names).transpose()).collect()
}

fn assistant_blocks(message: &Message, names: &mut DocumentNames) -> Result<Vec<Block>, ProviderError> {
    let mut blocks = blocks(&message.content, names)?;
    blocks.extend(message.tool_calls.iter().map(|call| {
        Block::ToolUse(wire::ToolUse { tool_use_id: call.id.clone(), name: call.name.clone(), input: arguments(&call.arguments) })
    }));
    Ok(blocks)
}

/// The format wants an object; arguments that are none go back to the model as it wrote them.
fn arguments(text: &str) -> Value {
    match serde_json::from_str(text) {
        Ok(Value::Object(members)) => Value::Object(members),
        _ if text.trim().is_empty() => json!({}),
        _ => json!({ "invalid_arguments": text }),
    }
}

/// A tool's result. Only Claude reads pictures and documents inside of it; for the others they follow it.
fn result_blocks(message: &Message, family: ModelFamily, names: &mut DocumentNames) -> Result<Vec<Block>, ProviderError> {
    let (mut content, beside): (Vec<Block>, Vec<Block>) =
        blocks(&message.content, names)?.into_iter().partition(|block| family == ModelFamily::Claude || matches!(block, Block::Text(_)));
    if content.is_empty() {
        let text = if beside.is_empty() { "(The tool returned nothing.)" } else { "(The tool returned the files below.)" };
        content.push(Block::Text(text.to_owned()));
    }
    let result = wire::ToolResult {
        tool_use_id: message.tool_call_id.clone().unwrap_or_default(),
        content,
        status: (message.is_error && family.knows_failed_calls()).then_some("error"),
    };
    Ok(std::iter::once(Block::ToolResult(result)).chain(beside).collect())
}

fn block(part: &Part, names: &mut DocumentNames) -> Result<Option<Block>, ProviderError> {
    match part {
        // Blank texts are refused.
        Part::Text { text } => Ok((!text.trim().is_empty()).then(|| Block::Text(text.clone()))),
        Part::Image { source, .. } => {
            let (format, source) = media(source, &IMAGE_FORMATS, "picture")?;
            Ok(Some(Block::Image(wire::Image { format, source })))
        }
        Part::File { name, source } => {
            let (format, source) = media(source, &DOCUMENT_FORMATS, "file")?;
            Ok(Some(Block::Document(wire::Document { name: names.claim(name.as_deref()), format, source })))
        }
        Part::Audio { .. } => Err(unsendable("Amazon Bedrock takes no audio".to_owned())),
        // Only signed thoughts are taken back.
        Part::Reasoning(thought) => Ok(thought.signature.clone().map(|signature| {
            Block::ReasoningContent(if thought.redacted {
                wire::ReasoningBlock::RedactedContent(signature)
            } else {
                wire::ReasoningBlock::ReasoningText(wire::SignedText { text: thought.text.clone(), signature })
            })
        })),
    }
}

/// The vendor's name for a format, and the bytes or the place in S3 where they are.
fn media(
    source: &Source,
    formats: &[(&'static str, &'static str)],
    noun: &str,
) -> Result<(&'static str, wire::MediaSource), ProviderError> {
    match source {
        Source::Data { mime, data } => {
            let format = formats.iter().find(|(media_type, _)| mime.eq_ignore_ascii_case(media_type));
            let (_, format) = format.ok_or_else(|| unsendable(format!("Amazon Bedrock takes no {noun} of the type `{mime}`")))?;
            Ok((*format, wire::MediaSource::Bytes(data.trim().to_owned())))
        }
        Source::Url { url, mime } if url.starts_with("s3://") => {
            let extension = url.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase()).unwrap_or_default();
            let wanted = if extension == "jpg" { "jpeg" } else { extension.as_str() };
            let fits = |(media_type, format): &&(&str, &str)| mime.as_deref().map_or(*format == wanted, |mime| mime == *media_type);
            let (_, format) =
                formats.iter().find(fits).ok_or_else(|| unsendable(format!("Amazon Bedrock takes no {noun} of the kind of `{url}`")))?;
            Ok((*format, wire::MediaSource::S3Location(wire::S3Location { uri: url.clone() })))
        }
        Source::Url { .. } => {
            Err(unsendable(format!("Amazon Bedrock fetches no {noun} from the web; send it as data or name it by `s3://`")))
        }
    }
}

/// A request that the server would refuse.
fn unsendable(why: String) -> ProviderError {
    let mut error = ProviderError::new(Class::BadRequest, why);
    error.sent = false;
    error
}

/// The names of a conversation's documents, each of which may occur once.
#[derive(Debug, Default)]
struct DocumentNames(HashSet<String>);

impl DocumentNames {
    /// Returns a free name like the given one: letters, digits, single spaces, hyphens and brackets.
    fn claim(&mut self, given: Option<&str>) -> String {
        let fits = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '(' | ')' | '[' | ']');
        let spaced: String =
            given.unwrap_or_default().chars().take(MAX_DOCUMENT_NAME).map(|letter| if fits(letter) { letter } else { ' ' }).collect();
        let words: Vec<&str> = spaced.split_whitespace().collect();
        let base = if words.is_empty() { "Document".to_owned() } else { words.join(" ") };
        let mut name = base.clone();
        let mut number = 1u32;
        while !self.0.insert(name.clone()) {
            number = number.saturating_add(1);
            name = format!("{base} ({number})");
        }
        name
    }
}

#[cfg(test)]
#[path = "golden.rs"]
mod golden;
