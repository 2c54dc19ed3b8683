//! The vendor's types, as far as they are used.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::provider::lenient;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Request {
    pub messages: Vec<Message>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub system: Vec<SystemText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inference_config: Option<InferenceConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_config: Option<ToolConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_config: Option<Value>,
    /// Settings of one family of models, in that family's own words.
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    pub additional_model_request_fields: serde_json::Map<String, Value>,
}

#[derive(Debug, Serialize)]
pub(super) struct SystemText {
    pub text: String,
}

#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct InferenceConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop_sequences: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ToolConfig {
    pub tools: Vec<Tool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<Value>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Tool {
    pub tool_spec: ToolSpec,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ToolSpec {
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    pub input_schema: InputSchema,
}

#[derive(Debug, Serialize)]
pub(super) struct InputSchema {
    pub json: Value,
}

#[derive(Debug, Serialize)]
pub(super) struct Message {
    pub role: &'static str,
    pub content: Vec<Block>,
}

/// A piece of a message that is sent.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Block {
    Text(String),
    Image(Image),
    Document(Document),
    ToolUse(ToolUse),
    ToolResult(ToolResult),
    ReasoningContent(ReasoningBlock),
}

#[derive(Debug, Serialize)]
pub(super) struct Image {
    pub format: &'static str,
    pub source: MediaSource,
}

#[derive(Debug, Serialize)]
pub(super) struct Document {
    pub name: String,
    pub format: &'static str,
    pub source: MediaSource,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum MediaSource {
    /// Base64.
    Bytes(String),
    S3Location(S3Location),
}

#[derive(Debug, Serialize)]
pub(super) struct S3Location {
    pub uri: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ToolUse {
    pub tool_use_id: String,
    pub name: String,
    pub input: Value,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ToolResult {
    pub tool_use_id: String,
    pub content: Vec<Block>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<&'static str>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum ReasoningBlock {
    ReasoningText(SignedText),
    /// Base64.
    RedactedContent(String),
}

#[derive(Debug, Serialize)]
pub(super) struct SignedText {
    pub text: String,
    pub signature: String,
}

/// A whole answer.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    #[serde(default, deserialize_with = "lenient::object")]
    pub output: Option<AnswerOutput>,
    #[serde(default, deserialize_with = "lenient::text")]
    pub stop_reason: Option<String>,
    #[serde(default)]
    pub usage: Option<Value>,
}

#[derive(Debug, Deserialize)]
pub(super) struct AnswerOutput {
    #[serde(default, deserialize_with = "lenient::object")]
    pub message: Option<AnswerMessage>,
}

#[derive(Debug, Deserialize)]
pub(super) struct AnswerMessage {
    #[serde(default, deserialize_with = "lenient::list")]
    pub content: Vec<AnswerBlock>,
}

/// A piece of a whole answer: one of the members is there.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AnswerBlock {
    #[serde(default, deserialize_with = "lenient::text")]
    pub text: Option<String>,
    #[serde(default, deserialize_with = "lenient::object")]
    pub tool_use: Option<CalledTool>,
    #[serde(default, deserialize_with = "lenient::object")]
    pub reasoning_content: Option<AnswerReasoning>,
    #[serde(default, deserialize_with = "lenient::object")]
    pub citations_content: Option<CitedText>,
}

/// A call of a tool, or the beginning of one.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CalledTool {
    #[serde(default, deserialize_with = "lenient::text")]
    pub tool_use_id: Option<String>,
    #[serde(default, deserialize_with = "lenient::text")]
    pub name: Option<String>,
    #[serde(default)]
    pub input: Value,
    /// `server_tool_use` for a tool that the vendor runs itself.
    #[serde(default, rename = "type", deserialize_with = "lenient::text")]
    pub kind: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AnswerReasoning {
    #[serde(default, deserialize_with = "lenient::object")]
    pub reasoning_text: Option<ReasoningText>,
    #[serde(default, deserialize_with = "lenient::text")]
    pub redacted_content: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ReasoningText {
    #[serde(default, deserialize_with = "lenient::text")]
    pub text: Option<String>,
    #[serde(default, deserialize_with = "lenient::text")]
    pub signature: Option<String>,
}

/// A text with the places that it rests on.
#[derive(Debug, Deserialize)]
pub(super) struct CitedText {
    #[serde(default, deserialize_with = "lenient::list")]
    pub content: Vec<PlainText>,
    #[serde(default, deserialize_with = "lenient::list")]
    pub citations: Vec<Value>,
}

#[derive(Debug, Deserialize)]
pub(super) struct PlainText {
    #[serde(default, deserialize_with = "lenient::text")]
    pub text: Option<String>,
}

/// The beginning of a block of a stream.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BlockStart {
    #[serde(default, deserialize_with = "lenient::index")]
    pub content_block_index: Option<u32>,
    #[serde(default, deserialize_with = "lenient::object")]
    pub start: Option<StartedBlock>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StartedBlock {
    #[serde(default, deserialize_with = "lenient::object")]
    pub tool_use: Option<CalledTool>,
}

/// More of a block of a stream.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BlockDelta {
    #[serde(default, deserialize_with = "lenient::index")]
    pub content_block_index: Option<u32>,
    #[serde(default, deserialize_with = "lenient::object")]
    pub delta: Option<Delta>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Delta {
    #[serde(default, deserialize_with = "lenient::text")]
    pub text: Option<String>,
    #[serde(default, deserialize_with = "lenient::object")]
    pub tool_use: Option<InputDelta>,
    #[serde(default, deserialize_with = "lenient::object")]
    pub reasoning_content: Option<ReasoningDelta>,
    #[serde(default)]
    pub citation: Option<Value>,
}

#[derive(Debug, Deserialize)]
pub(super) struct InputDelta {
    #[serde(default)]
    pub input: Value,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReasoningDelta {
    #[serde(default, deserialize_with = "lenient::text")]
    pub text: Option<String>,
    #[serde(default, deserialize_with = "lenient::text")]
    pub signature: Option<String>,
    #[serde(default, deserialize_with = "lenient::text")]
    pub redacted_content: Option<String>,
}

/// The end of a block of a stream.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BlockStop {
    #[serde(default, deserialize_with = "lenient::index")]
    pub content_block_index: Option<u32>,
}

/// The end of a streamed message.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MessageStop {
    #[serde(default, deserialize_with = "lenient::text")]
    pub stop_reason: Option<String>,
}

/// What follows the end of a streamed message.
#[derive(Debug, Deserialize)]
pub(super) struct Metadata {
    #[serde(default)]
    pub usage: Option<Value>,
}
