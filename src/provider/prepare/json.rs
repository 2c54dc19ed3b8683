//! JSON answers: by the vendor's own means where the model has them, and by an instruction where not. The answer is checked afterwards either
//! way.

use serde_json::Value;

use super::RequestTarget;
use crate::provider::catalogue::Capability;
use crate::provider::chat::{ChatRequest, Message, ResponseFormat, Role};
use crate::provider::rules::JsonSupport;

/// Replaces a wish that the model cannot meet natively by what it can.
pub(super) fn ask_for_json(request: &mut ChatRequest, target: &RequestTarget<'_>) {
    let beside_tools = request.tools.is_empty() || !target.quirks.no_json_with_tools;
    let native = target.rules.json;
    let has_mode = native == JsonSupport::Native && beside_tools && target.can(Capability::Json);
    let has_schema = |strict: bool| {
        let by_wire = native == JsonSupport::Native || (native == JsonSupport::StrictSchema && strict);
        by_wire && beside_tools && !target.quirks.no_json_schema && target.can(Capability::JsonSchema)
    };
    let (format, instruction) = match &request.response_format {
        ResponseFormat::Text => return,
        ResponseFormat::JsonSchema { strict, .. } if has_schema(*strict) => return,
        ResponseFormat::JsonSchema { schema, .. } => {
            (if has_mode { ResponseFormat::Json } else { ResponseFormat::Text }, Some(schema_instruction(schema)))
        }
        // Vendors refuse the mode when no message has the word.
        ResponseFormat::Json if has_mode => (ResponseFormat::Json, (!mentions_json(&request.messages)).then(|| JSON.to_owned())),
        ResponseFormat::Json => (ResponseFormat::Text, Some(JSON.to_owned())),
    };
    request.response_format = format;
    if let Some(instruction) = instruction {
        let after = request.messages.iter().take_while(|message| message.role == Role::System).count();
        request.messages.insert(after, Message::system(instruction));
    }
}

const JSON: &str = "Answer with one JSON value and nothing else: no prose, no code fence.";

fn schema_instruction(schema: &Value) -> String {
    format!("Answer with one JSON value that follows this JSON Schema, and nothing else: no prose, no code fence.\n{schema}")
}

fn mentions_json(messages: &[Message]) -> bool {
    let texts = messages.iter().flat_map(|message| &message.content).filter_map(|part| part.as_text());
    texts.into_iter().any(|text| text.as_bytes().windows(4).any(|word| word.eq_ignore_ascii_case(b"json")))
}
