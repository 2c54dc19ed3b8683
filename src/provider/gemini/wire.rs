//! The vendor's types, as far as they are used.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::provider::lenient;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Request {
    pub contents: Vec<Content>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_instruction: Option<Content>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Tools>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_config: Option<Value>,
    pub generation_config: GenerationConfig,
}

#[derive(Debug, Serialize)]
pub(super) struct Content {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    pub parts: Vec<Part>,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Part {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inline_data: Option<Blob>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_data: Option<FileData>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function_call: Option<Call>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function_response: Option<CallResponse>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thought_signature: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Blob {
    pub mime_type: String,
    pub data: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FileData {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mime_type: Option<String>,
    pub file_uri: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Call {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    pub name: String,
    pub args: Value,
}

#[derive(Debug, Serialize)]
pub(super) struct CallResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    pub name: String,
    pub response: Value,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Tools {
    pub function_declarations: Vec<Function>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Function {
    pub name: String,
    pub description: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters_json_schema: Option<Value>,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct GenerationConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frequency_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop_sequences: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_mime_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_json_schema: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking_config: Option<Value>,
}

/// A whole answer or a chunk of a streamed one: they have the same form.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    #[serde(default, deserialize_with = "lenient::list")]
    pub candidates: Vec<Candidate>,
    #[serde(default)]
    pub usage_metadata: Option<Value>,
    #[serde(default, deserialize_with = "lenient::object")]
    pub prompt_feedback: Option<Feedback>,
    #[serde(default)]
    pub error: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Candidate {
    #[serde(default, deserialize_with = "lenient::object")]
    pub content: Option<AnswerContent>,
    #[serde(default, deserialize_with = "lenient::text")]
    pub finish_reason: Option<String>,
    #[serde(default, deserialize_with = "lenient::text")]
    pub finish_message: Option<String>,
    /// What a search found: `groundingChunks: [{web: {uri, title}}]`.
    #[serde(default)]
    pub grounding_metadata: Option<Value>,
}

#[derive(Debug, Deserialize)]
pub(super) struct AnswerContent {
    #[serde(default, deserialize_with = "lenient::list")]
    pub parts: Vec<AnswerPart>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AnswerPart {
    #[serde(default, deserialize_with = "lenient::text")]
    pub text: Option<String>,
    /// The text is a thought.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub thought: bool,
    #[serde(default, deserialize_with = "lenient::text")]
    pub thought_signature: Option<String>,
    #[serde(default, deserialize_with = "lenient::object")]
    pub function_call: Option<AnswerCall>,
    #[serde(default, deserialize_with = "lenient::object")]
    pub inline_data: Option<AnswerBlob>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AnswerBlob {
    #[serde(default, deserialize_with = "lenient::text")]
    pub mime_type: Option<String>,
    #[serde(default, deserialize_with = "lenient::text")]
    pub data: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AnswerCall {
    #[serde(default, deserialize_with = "lenient::text")]
    pub id: Option<String>,
    #[serde(default, deserialize_with = "lenient::text")]
    pub name: Option<String>,
    #[serde(default)]
    pub args: Option<Value>,
    /// Arguments in pieces, which are sent only to who asks for them.
    #[serde(default)]
    pub partial_args: Option<Value>,
    #[serde(default, deserialize_with = "lenient::flag")]
    pub will_continue: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Feedback {
    #[serde(default, deserialize_with = "lenient::text")]
    pub block_reason: Option<String>,
}
