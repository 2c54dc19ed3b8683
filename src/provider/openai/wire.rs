//! The vendor's types, as far as they are used.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::provider::chat::ImageDetail;
use crate::provider::lenient;

#[derive(Debug, Serialize)]
pub(super) struct Request {
    pub model: String,
    pub messages: Vec<Message>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Tool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_format: Option<Value>,
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
    pub max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_completion_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_effort: Option<&'static str>,
    /// OpenRouter's form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<Value>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_options: Option<StreamOptions>,
}

#[derive(Debug, Serialize)]
pub(super) struct StreamOptions {
    pub include_usage: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct Message {
    pub role: &'static str,
    /// `null` for an assistant that only calls tools.
    pub content: Option<Content>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<Call>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_details: Option<Value>,
}

impl Message {
    pub fn of(role: &'static str, content: Option<Content>) -> Self {
        Self {
            role,
            content,
            tool_calls: Vec::new(),
            tool_call_id: None,
            reasoning_content: None,
            reasoning: None,
            reasoning_details: None,
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Part {
    Text {
        text: String,
    },
    ImageUrl {
        image_url: Url,
    },
    File {
        file: File,
    },
    InputAudio {
        input_audio: Audio,
    },
    VideoUrl {
        video_url: Url,
    },
    /// Mistral's form of a file.
    DocumentUrl {
        document_url: String,
    },
}

#[derive(Debug, Serialize)]
pub(super) struct Audio {
    pub data: String,
    pub format: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Url {
    pub url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<ImageDetail>,
}

#[derive(Debug, Serialize)]
pub(super) struct File {
    pub filename: String,
    pub file_data: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Tool {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub function: Function,
}

#[derive(Debug, Serialize)]
pub(super) struct Function {
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    pub parameters: Value,
}

#[derive(Debug, Serialize)]
pub(super) struct Call {
    pub id: String,
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub function: CalledFunction,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extra_content: Option<Value>,
}

#[derive(Debug, Serialize)]
pub(super) struct CalledFunction {
    pub name: String,
    pub arguments: String,
}

/// A whole answer or a chunk of a streamed one: they differ in `message` against `delta` only.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Answer {
    /// Absent in an error that looks like an answer.
    #[serde(default)]
    pub choices: Option<Choices>,
    #[serde(default)]
    pub usage: Option<Value>,
    #[serde(default)]
    pub error: Option<Value>,
    /// Addresses that the answer rests on: Perplexity and others that search.
    #[serde(default)]
    pub citations: Option<Value>,
    /// Groq puts a stream's usage here.
    #[serde(default, deserialize_with = "lenient::object")]
    pub x_groq: Option<GroqExtension>,
}

/// Choices, tolerantly read.
#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
pub(super) struct Choices(#[serde(deserialize_with = "lenient::list")] pub Vec<Choice>);

#[derive(Debug, Deserialize)]
pub(super) struct GroqExtension {
    #[serde(default)]
    pub usage: Option<Value>,
    #[serde(default)]
    pub error: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Choice {
    #[serde(default, deserialize_with = "lenient::object")]
    pub delta: Option<Delta>,
    /// Of a whole answer; some servers send the text so far here, beside `delta`.
    #[serde(default, deserialize_with = "lenient::object")]
    pub message: Option<Delta>,
    /// Of the older completions form.
    #[serde(default, deserialize_with = "lenient::text")]
    pub text: Option<String>,
    #[serde(default, deserialize_with = "lenient::text")]
    pub finish_reason: Option<String>,
    /// OpenRouter puts an upstream's error here.
    #[serde(default)]
    pub error: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Delta {
    /// A text, or parts: Mistral's reasoning models answer in parts.
    #[serde(default)]
    pub content: Option<AnswerContent>,
    /// DeepSeek, vLLM, Qwen.
    #[serde(default, deserialize_with = "lenient::text")]
    pub reasoning_content: Option<String>,
    /// OpenRouter, Groq, Ollama.
    #[serde(default, deserialize_with = "lenient::text")]
    pub reasoning: Option<String>,
    /// OpenRouter: reasoning with the proofs that its vendor wants back.
    #[serde(default)]
    pub reasoning_details: Option<Value>,
    #[serde(default, deserialize_with = "lenient::text")]
    pub refusal: Option<String>,
    #[serde(default, deserialize_with = "lenient::list")]
    pub tool_calls: Vec<CallDelta>,
    /// The form before tools.
    #[serde(default, deserialize_with = "lenient::object")]
    pub function_call: Option<FunctionDelta>,
    /// `{type: "image_url", image_url: {url}}` of models that draw (OpenRouter).
    #[serde(default)]
    pub images: Option<Value>,
    /// `{type: "url_citation", url_citation: {url, title}}` of models that search.
    #[serde(default)]
    pub annotations: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum AnswerContent {
    Text(String),
    Parts(#[serde(deserialize_with = "lenient::list")] Vec<AnswerPart>),
}

#[derive(Debug, Deserialize)]
pub(super) struct AnswerPart {
    #[serde(default, deserialize_with = "lenient::text")]
    pub text: Option<String>,
    #[serde(default, deserialize_with = "lenient::text")]
    pub refusal: Option<String>,
    #[serde(default, deserialize_with = "lenient::list")]
    pub thinking: Vec<AnswerPart>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct CallDelta {
    #[serde(default, deserialize_with = "lenient::index")]
    pub index: Option<u32>,
    #[serde(default, deserialize_with = "lenient::text")]
    pub id: Option<String>,
    #[serde(default, deserialize_with = "lenient::object")]
    pub function: Option<FunctionDelta>,
    /// Google's compatible endpoint: the proof of the thought behind the call.
    #[serde(default)]
    pub extra_content: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct FunctionDelta {
    #[serde(default, deserialize_with = "lenient::text")]
    pub name: Option<String>,
    /// A text of JSON; some servers send the JSON itself.
    #[serde(default)]
    pub arguments: Option<Value>,
}
