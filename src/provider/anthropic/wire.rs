//! The vendor's types, as far as they are used.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::provider::lenient;

#[derive(Debug, Serialize)]
pub(super) struct Request {
    pub model: String,
    pub max_tokens: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub system: String,
    pub messages: Vec<Message>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Tool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_config: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop_sequences: Vec<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stream: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct Message {
    pub role: &'static str,
    pub content: Vec<Block>,
}

/// A piece of a message that is sent.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Block {
    Text {
        text: String,
    },
    Image {
        source: Source,
    },
    Document {
        source: Source,
        #[serde(skip_serializing_if = "Option::is_none")]
        title: Option<String>,
    },
    Thinking {
        thinking: String,
        signature: String,
    },
    RedactedThinking {
        data: String,
    },
    ToolUse {
        id: String,
        name: String,
        input: Value,
    },
    ToolResult {
        tool_use_id: String,
        content: Vec<Block>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        is_error: bool,
    },
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Source {
    Base64 { media_type: String, data: String },
    Url { url: String },
}

#[derive(Debug, Serialize)]
pub(super) struct Tool {
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    pub input_schema: Value,
}

/// A whole answer.
#[derive(Debug, Deserialize)]
pub(super) struct Answer {
    #[serde(default, deserialize_with = "lenient::list")]
    pub content: Vec<Content>,
    #[serde(default, deserialize_with = "lenient::text")]
    pub stop_reason: Option<String>,
    #[serde(default)]
    pub usage: Option<Value>,
}

/// A piece of an answer; kinds that are not known are kept out of it, not refused.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Content {
    Text {
        #[serde(default, deserialize_with = "lenient::text")]
        text: Option<String>,
        #[serde(default)]
        citations: Option<Value>,
    },
    Thinking {
        #[serde(default, deserialize_with = "lenient::text")]
        thinking: Option<String>,
        #[serde(default, deserialize_with = "lenient::text")]
        signature: Option<String>,
    },
    RedactedThinking {
        #[serde(default, deserialize_with = "lenient::text")]
        data: Option<String>,
    },
    ToolUse {
        #[serde(default, deserialize_with = "lenient::text")]
        id: Option<String>,
        #[serde(default, deserialize_with = "lenient::text")]
        name: Option<String>,
        #[serde(default)]
        input: Value,
    },
    #[serde(other)]
    Other,
}

/// An event of a stream.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum StreamEvent {
    MessageStart {
        #[serde(default, deserialize_with = "lenient::object")]
        message: Option<MessageStart>,
    },
    ContentBlockStart {
        #[serde(default, deserialize_with = "lenient::index")]
        index: Option<u32>,
        content_block: Content,
    },
    ContentBlockDelta {
        #[serde(default, deserialize_with = "lenient::index")]
        index: Option<u32>,
        delta: BlockDelta,
    },
    ContentBlockStop {
        #[serde(default, deserialize_with = "lenient::index")]
        index: Option<u32>,
    },
    MessageDelta {
        #[serde(default, deserialize_with = "lenient::object")]
        delta: Option<MessageDelta>,
        #[serde(default)]
        usage: Option<Value>,
    },
    MessageStop,
    Error {
        #[serde(default)]
        error: Value,
    },
    /// `ping`, and kinds of later versions.
    #[serde(other)]
    Other,
}

#[derive(Debug, Deserialize)]
pub(super) struct MessageStart {
    #[serde(default)]
    pub usage: Option<Value>,
}

#[derive(Debug, Deserialize)]
pub(super) struct MessageDelta {
    #[serde(default, deserialize_with = "lenient::text")]
    pub stop_reason: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[expect(clippy::enum_variant_names, reason = "the vendor's names")]
pub(super) enum BlockDelta {
    TextDelta {
        #[serde(default, deserialize_with = "lenient::text")]
        text: Option<String>,
    },
    InputJsonDelta {
        #[serde(default, deserialize_with = "lenient::text")]
        partial_json: Option<String>,
    },
    ThinkingDelta {
        #[serde(default, deserialize_with = "lenient::text")]
        thinking: Option<String>,
    },
    CitationsDelta {
        #[serde(default)]
        citation: Value,
    },
    SignatureDelta {
        #[serde(default, deserialize_with = "lenient::text")]
        signature: Option<String>,
    },
    #[serde(other)]
    OtherDelta,
}
