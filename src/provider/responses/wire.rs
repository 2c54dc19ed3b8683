//! The vendor's request types, as far as they are used, and the form of a message's state. Answers are read as plain
//! JSON in `decode`: servers disagree about their members, and none of them may lose an answer.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::provider::chat::ImageDetail;

#[derive(Debug, Serialize)]
pub(super) struct Request {
    pub model: String,
    pub input: Vec<InputItem>,
    /// Always `false`: the conversation is sent in full each time.
    pub store: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Tool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stream: bool,
}

/// A piece of the conversation.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum InputItem {
    Message(InputMessage),
    Call(FunctionCall),
    Result(CallOutput),
    /// A reasoning item, as the server wrote it.
    Reasoning(Value),
}

#[derive(Debug, Serialize)]
pub(super) struct InputMessage {
    pub role: &'static str,
    pub content: Content,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Which part of the answer an assistant's message was: `commentary` or `final_answer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Content {
    Text(String),
    Parts(Vec<ContentPart>),
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum ContentPart {
    InputText {
        text: String,
    },
    OutputText {
        text: String,
    },
    InputImage {
        image_url: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        detail: Option<ImageDetail>,
    },
    InputFile {
        #[serde(skip_serializing_if = "Option::is_none")]
        filename: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        file_data: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        file_url: Option<String>,
    },
}

#[derive(Debug, Serialize)]
pub(super) struct FunctionCall {
    #[serde(rename = "type")]
    pub kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    pub call_id: String,
    pub name: String,
    pub arguments: String,
}

#[derive(Debug, Serialize)]
pub(super) struct CallOutput {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub call_id: String,
    pub output: Content,
}

#[derive(Debug, Serialize)]
pub(super) struct Tool {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    pub parameters: Value,
    pub strict: bool,
}

/// The items of an answer in their order: the state that an assistant's message carries, so that the next request can
/// repeat the answer as the server wrote it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct AnswerOutline {
    #[serde(default)]
    pub output: Vec<OutlineItem>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum OutlineItem {
    /// A reasoning item in full.
    Reasoning(Value),
    /// A message, which is the next part of the answer's text.
    Message {
        /// The length of its text.
        bytes: usize,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        phase: Option<String>,
    },
    /// A tool call.
    Call {
        /// Its position among the calls of the answer.
        index: usize,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
    },
}

impl AnswerOutline {
    /// The length of the answer's text.
    pub fn text_bytes(&self) -> usize {
        let bytes = self.output.iter().map(|item| match item {
            OutlineItem::Message { bytes, .. } => *bytes,
            OutlineItem::Reasoning(_) | OutlineItem::Call { .. } => 0,
        });
        bytes.fold(0, usize::saturating_add)
    }

    /// The number of the answer's tool calls.
    pub fn call_count(&self) -> usize {
        self.output.iter().filter(|item| matches!(item, OutlineItem::Call { .. })).count()
    }
}
