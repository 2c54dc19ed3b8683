//! Responses in OpenAI's form.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ResponseId;
use crate::http::openai::answer::Answer;
use crate::http::openai::error::WireError;
use crate::http::openai::wire::{FinishReason, Usage};
use crate::id::RunId;

/// A response.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "OpenAiResponse")]
pub struct ResponseDocument {
    /// `resp_` and the suffix of the execution's id.
    pub id: ResponseId,
    /// Always `response`.
    pub object: &'static str,
    /// Unix time in seconds.
    pub created_at: i64,
    /// Unix time in seconds; null until the response has ended.
    pub completed_at: Option<i64>,
    pub status: ResponseStatus,
    /// Why the response failed.
    pub error: Option<ResponseError>,
    /// Why the response is incomplete.
    pub incomplete_details: Option<IncompleteDetails>,
    /// The model that answered, or the saved agent or flow as it was asked for.
    pub model: String,
    pub output: Vec<OutputItem>,
    /// Null until the response has ended.
    pub usage: Option<ResponseUsage>,
    pub metadata: Map<String, Value>,
    #[serde(flatten)]
    pub settings: ResponseSettings,
}

/// The parameters that a response was asked for with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ResponseSettings {
    pub instructions: Option<String>,
    pub previous_response_id: Option<String>,
    pub tools: Vec<Value>,
    /// `auto`, `none`, `required`, a function or `allowed_tools`.
    pub tool_choice: Value,
    pub parallel_tool_calls: bool,
    /// Never counts: no tool of the model's vendor is called.
    pub max_tool_calls: Option<u64>,
    /// `{format, verbosity}`.
    pub text: Value,
    /// `{effort, summary}`.
    pub reasoning: Value,
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    pub max_output_tokens: Option<u32>,
    /// Always `disabled`.
    pub truncation: String,
    /// Whether the response can be read later.
    pub store: bool,
    pub background: bool,
    pub user: Option<String>,
    pub safety_identifier: Option<String>,
    pub prompt_cache_key: Option<String>,
}

/// Where a response is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "OpenAiResponseStatus")]
pub enum ResponseStatus {
    Queued,
    InProgress,
    Completed,
    Incomplete,
    Failed,
    Cancelled,
}

/// Why a response failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "OpenAiResponseError")]
pub struct ResponseError {
    /// `server_error`, `rate_limit_exceeded` or `invalid_prompt`: OpenAI knows no others.
    pub code: &'static str,
    /// The stable identifier of the failure, as errors of other calls have it in `code`.
    #[serde(rename = "type")]
    pub kind: String,
    pub message: String,
}

/// Why a response is incomplete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "OpenAiIncompleteDetails")]
pub struct IncompleteDetails {
    /// `max_output_tokens` or `content_filter`.
    pub reason: &'static str,
}

/// An item of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[schemars(rename = "OpenAiOutputItem")]
pub enum OutputItem {
    /// A text, or a refusal.
    Message {
        id: String,
        /// Always `assistant`.
        role: &'static str,
        status: ItemStatus,
        content: Vec<ContentPart>,
    },
    /// A call that the caller makes.
    FunctionCall {
        id: String,
        /// What the call's output names it by.
        call_id: String,
        name: String,
        /// JSON as the model wrote it; nobody has checked it.
        arguments: String,
        status: ItemStatus,
    },
    /// The thoughts of the model, where it tells them.
    Reasoning {
        id: String,
        summary: Vec<SummaryPart>,
        /// The data that the model wants back with its answer; only with `include: ["reasoning.encrypted_content"]`.
        #[serde(skip_serializing_if = "Option::is_none")]
        encrypted_content: Option<String>,
        status: ItemStatus,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "OpenAiItemStatus")]
pub enum ItemStatus {
    InProgress,
    Completed,
    Incomplete,
}

/// A part of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[schemars(rename = "OpenAiContentPart")]
pub enum ContentPart {
    OutputText {
        text: String,
        /// Always empty.
        annotations: Vec<Value>,
        /// Always empty.
        logprobs: Vec<Value>,
    },
    /// Why the model would not answer.
    Refusal { refusal: String },
}

impl ContentPart {
    pub const fn text(text: String) -> Self {
        Self::OutputText { text, annotations: Vec::new(), logprobs: Vec::new() }
    }
}

/// A part of the model's thoughts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "OpenAiSummaryPart")]
pub struct SummaryPart {
    /// Always `summary_text`.
    #[serde(rename = "type")]
    kind: &'static str,
    pub text: String,
}

impl SummaryPart {
    pub const fn new(text: String) -> Self {
        Self { kind: "summary_text", text }
    }
}

/// Tokens of the whole execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "OpenAiResponseUsage")]
pub struct ResponseUsage {
    pub input_tokens: u64,
    pub input_tokens_details: InputTokensDetails,
    pub output_tokens: u64,
    pub output_tokens_details: OutputTokensDetails,
    pub total_tokens: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct InputTokensDetails {
    /// Read from the provider's cache.
    pub cached_tokens: u64,
    /// Written to the provider's cache.
    pub cache_write_tokens: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct OutputTokensDetails {
    pub reasoning_tokens: u64,
}

impl From<Usage> for ResponseUsage {
    fn from(usage: Usage) -> Self {
        let Usage { prompt_tokens, completion_tokens, total_tokens, prompt_tokens_details, completion_tokens_details } = usage;
        Self {
            input_tokens: prompt_tokens,
            input_tokens_details: InputTokensDetails {
                cached_tokens: prompt_tokens_details.cached_tokens,
                cache_write_tokens: prompt_tokens_details.cache_write_tokens,
            },
            output_tokens: completion_tokens,
            output_tokens_details: OutputTokensDetails { reasoning_tokens: completion_tokens_details.reasoning_tokens },
            total_tokens,
        }
    }
}

impl ResponseDocument {
    /// A response that has no output yet.
    pub fn new(run: RunId, model: String, metadata: Map<String, Value>, settings: ResponseSettings) -> Self {
        Self {
            id: ResponseId(run),
            object: "response",
            created_at: created_at(run),
            completed_at: None,
            status: ResponseStatus::InProgress,
            error: None,
            incomplete_details: None,
            model,
            output: Vec::new(),
            usage: None,
            metadata,
            settings,
        }
    }

    /// The same response with its answer.
    #[must_use]
    pub fn answered(self, answer: &Answer, output: Vec<OutputItem>, completed_at: Option<i64>) -> Self {
        let reason = incomplete_reason(answer);
        Self {
            completed_at: completed_at.or(Some(self.created_at)),
            status: if reason.is_some() { ResponseStatus::Incomplete } else { ResponseStatus::Completed },
            incomplete_details: reason.map(|reason| IncompleteDetails { reason }),
            model: answer.model.clone(),
            output,
            usage: Some(answer.usage.into()),
            ..self
        }
    }

    /// The same response as one that failed, or was cancelled.
    #[must_use]
    pub fn failed(self, error: &WireError, output: Vec<OutputItem>, completed_at: Option<i64>) -> Self {
        if error.code() == CANCELLED {
            return Self { status: ResponseStatus::Cancelled, output, completed_at, ..self };
        }
        Self { status: ResponseStatus::Failed, error: Some(ResponseError::of_failure(error)), output, completed_at, ..self }
    }
}

/// The code with which a cancelled execution fails.
pub const CANCELLED: &str = "cancelled";

impl ResponseError {
    fn of_failure(error: &WireError) -> Self {
        let code = match error.kind() {
            "rate_limit_error" | "insufficient_quota" => "rate_limit_exceeded",
            "server_error" => "server_error",
            _ => "invalid_prompt",
        };
        Self { code, kind: error.code().to_owned(), message: error.message().to_owned() }
    }
}

/// Why an answer is not whole, in OpenAI's words.
pub fn incomplete_reason(answer: &Answer) -> Option<&'static str> {
    match answer.finish_reason {
        FinishReason::Length => Some("max_output_tokens"),
        // A refusal is an answer.
        FinishReason::ContentFilter if answer.refusal.is_none() => Some("content_filter"),
        FinishReason::ContentFilter | FinishReason::Stop | FinishReason::ToolCalls => None,
    }
}

/// When an execution was created, in seconds of Unix time: its id begins with it, so every event of a stream says the same.
fn created_at(run: RunId) -> i64 {
    i64::try_from(run.as_u128() >> 80).unwrap_or_default() / 1_000
}
