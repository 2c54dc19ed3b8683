//! The neutral conversation: what is asked of any model, in no vendor's words.
//!
//! These types are journaled with the run, so their serialized form is kept stable: camelCase, unknown fields
//! ignored, new fields optional.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::media_type::{media_type_of_name, normalise_media_type};

/// One call of a model.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ChatRequest {
    pub messages: Vec<Message>,
    pub tools: Vec<ToolSpec>,
    pub tool_choice: ToolChoice,
    pub response_format: ResponseFormat,
    pub sampling: Sampling,
    /// `None` leaves reasoning to the model's default.
    pub reasoning: Option<Reasoning>,
    /// Whether the vendor is asked to stream. The pieces that come back have the same form either way. Prefer `true`
    /// even where nobody reads along: a whole answer sends its first byte only when it is finished, so a long one may
    /// run into the first-byte deadline.
    pub stream: bool,
    /// Sent to the vendor, the same on every attempt.
    pub idempotency_key: Option<String>,
}

/// A tool the model may call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolSpec {
    pub name: String,
    #[serde(default)]
    pub description: String,
    /// JSON Schema of the arguments, an object.
    pub parameters: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ToolChoice {
    #[default]
    Auto,
    /// At least one tool must be called.
    Required,
    /// No tool may be called, though tools may be described.
    None,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum ResponseFormat {
    #[default]
    Text,
    /// Any JSON value.
    Json,
    /// JSON that follows a schema. `strict` asks the vendor to enforce it, which most do for a subset of
    /// JSON Schema only (every object closed, every property required).
    JsonSchema {
        name: String,
        schema: Value,
        #[serde(default)]
        strict: bool,
    },
}

/// How the next token is chosen. What a vendor does not know is left out of its request.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Sampling {
    /// 0 to 2.
    pub temperature: Option<f64>,
    /// 0 to 1.
    pub top_p: Option<f64>,
    pub top_k: Option<u32>,
    /// -2 to 2.
    pub frequency_penalty: Option<f64>,
    /// -2 to 2.
    pub presence_penalty: Option<f64>,
    pub seed: Option<i64>,
    /// The most tokens of the answer.
    pub max_tokens: Option<u32>,
    /// Texts that end the answer.
    pub stop: Vec<String>,
}

/// How much a model thinks before it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reasoning {
    pub enabled: bool,
    #[serde(default)]
    pub effort: Option<Effort>,
    /// The most tokens of reasoning, for vendors that count instead of weigh.
    #[serde(default)]
    pub budget_tokens: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Effort {
    /// No reasoning, said in so many words.
    None,
    Minimal,
    Low,
    Medium,
    High,
    #[serde(rename = "xhigh")]
    XHigh,
    Max,
}

impl Effort {
    /// The word that vendors with effort levels use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Minimal => "minimal",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::XHigh => "xhigh",
            Self::Max => "max",
        }
    }

    /// The budget in tokens that stands for this effort where a vendor counts.
    pub const fn budget(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Minimal => 1_024,
            Self::Low => 2_048,
            Self::Medium => 8_192,
            Self::High => 24_576,
            Self::XHigh => 32_768,
            Self::Max => 49_152,
        }
    }
}

impl Reasoning {
    /// The budget in tokens: the one named, else the effort's, else a medium one.
    pub fn budget(&self) -> u32 {
        self.budget_tokens.unwrap_or_else(|| self.effort.unwrap_or(Effort::Medium).budget())
    }

    /// The effort: the one named, else the one whose budget comes nearest from above, else medium.
    pub fn level(&self) -> Effort {
        let fits = |budget: u32| [Effort::Minimal, Effort::Low, Effort::Medium].into_iter().find(|effort| budget <= effort.budget());
        self.effort.unwrap_or_else(|| self.budget_tokens.map_or(Effort::Medium, |budget| fits(budget).unwrap_or(Effort::High)))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    System,
    User,
    Assistant,
    /// The result of a tool call.
    Tool,
}

/// One message of the conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    pub role: Role,
    #[serde(default)]
    pub content: Vec<Part>,
    /// What the assistant asked to have called.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Of a tool's message: the call it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// Of a tool's message: the tool's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_name: Option<String>,
    /// Of a tool's message: the call failed and the content says why.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_error: bool,
    /// Of an assistant's message: the `provider/model` that wrote it. Reasoning, signatures and vendor state are sent
    /// back to that model only; for any other they are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// Of an assistant's message: opaque state that the wire format of `origin` wants back with it, such as encrypted
    /// reasoning items. Only the wire that wrote it knows its form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Value>,
}

/// A piece of a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum Part {
    Text {
        text: String,
    },
    Image {
        source: Source,
        /// How closely the model should look; `None` leaves it to the vendor.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<ImageDetail>,
    },
    File {
        #[serde(default)]
        name: Option<String>,
        source: Source,
    },
    Audio {
        source: Source,
    },
    /// What the assistant thought; given back to vendors that want it beside tool calls.
    Reasoning(Thought),
}

/// How closely a model looks at a picture, which determines the picture's number of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ImageDetail {
    Auto,
    Low,
    High,
    Original,
}

/// A stretch of reasoning, with the vendor's seal on it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Thought {
    pub text: String,
    /// Opaque proof of origin, given back unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// The vendor hid the text; `signature` holds the sealed form.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub redacted: bool,
}

/// Where an image's or a file's bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Source {
    Url {
        url: String,
        /// The media type, if the caller named one; otherwise the URL's file extension decides.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mime: Option<String>,
    },
    /// Base64 with the media type of what it encodes.
    Data { mime: String, data: String },
}

impl Source {
    /// As one URL; data becomes a `data:` URL (RFC 2397).
    pub fn to_url(&self) -> String {
        match self {
            Self::Url { url, .. } => url.clone(),
            Self::Data { mime, data } => format!("data:{mime};base64,{data}"),
        }
    }

    /// From one URL. A `data:` URL becomes data: its media type is normalised, and a body that is not base64 is encoded.
    pub fn from_url(url: &str) -> Self {
        Self::from_data_url(url).unwrap_or_else(|| Self::remote(url))
    }

    /// From base64 with its media type beside it. White space between the digits is left out.
    pub fn from_base64(mime: &str, data: &str) -> Self {
        Self::Data { mime: normalise_media_type(mime), data: data.chars().filter(|letter| !letter.is_ascii_whitespace()).collect() }
    }

    /// From a text, under its media type.
    pub fn from_text(mime: &str, text: &str) -> Self {
        Self::Data { mime: normalise_media_type(mime), data: STANDARD.encode(text) }
    }

    /// A source at a URL, without a media type.
    pub fn remote(url: &str) -> Self {
        Self::Url { url: url.to_owned(), mime: None }
    }

    /// Returns the media type, if it is named or the URL has a known file extension.
    pub fn media_type(&self) -> Option<&str> {
        match self {
            Self::Data { mime, .. } => Some(mime),
            Self::Url { url, mime } => mime.as_deref().or_else(|| media_type_of_name(url)),
        }
    }

    /// Reads `data:<media type>[;parameter…][;base64],<body>` (RFC 2397).
    fn from_data_url(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once(':')?;
        if !scheme.eq_ignore_ascii_case("data") {
            return None;
        }
        let (head, body) = rest.split_once(',')?;
        let is_base64 = head.rsplit_once(';').is_some_and(|(_, last)| last.trim().eq_ignore_ascii_case("base64"));
        let mime = match normalise_media_type(head) {
            mime if mime.is_empty() => "text/plain".to_owned(),
            mime => mime,
        };
        if !is_base64 {
            return Some(Self::Data { mime, data: STANDARD.encode(Self::percent_decode(body)) });
        }
        if !body.contains('%') {
            return Some(Self::from_base64(&mime, body));
        }
        let decoded = String::from_utf8(Self::percent_decode(body)).unwrap_or_default();
        Some(Self::from_base64(&mime, &decoded))
    }

    fn percent_decode(text: &str) -> Vec<u8> {
        let bytes = text.as_bytes();
        let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16)).and_then(|digit| u8::try_from(digit).ok());
        let mut decoded = Vec::with_capacity(bytes.len());
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            match (byte, digit(at + 1), digit(at + 2)) {
                (b'%', Some(high), Some(low)) => {
                    decoded.push(high * 16 + low);
                    at += 3;
                }
                _ => {
                    decoded.push(*byte);
                    at += 1;
                }
            }
        }
        decoded
    }
}

/// A call of a tool, as the model asked for it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ToolCall {
    pub id: String,
    pub name: String,
    /// The arguments as the model wrote them: JSON, but nobody has checked it yet.
    pub arguments: String,
    /// Opaque proof of the thought behind the call (Gemini), given back unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// The answer ended before the arguments were complete, so the call is not made.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
    /// Opaque state of the call that its wire format wants back, such as the vendor's own id of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Value>,
}

impl Message {
    fn of(role: Role, content: Vec<Part>) -> Self {
        Self { role, content, tool_calls: Vec::new(), tool_call_id: None, tool_name: None, is_error: false, origin: None, state: None }
    }

    pub fn system(text: impl Into<String>) -> Self {
        Self::of(Role::System, vec![Part::text(text)])
    }

    pub fn user(text: impl Into<String>) -> Self {
        Self::of(Role::User, vec![Part::text(text)])
    }

    pub fn assistant(text: impl Into<String>) -> Self {
        Self::of(Role::Assistant, vec![Part::text(text)])
    }

    /// The result of a tool call.
    pub fn tool(call: &ToolCall, text: impl Into<String>) -> Self {
        Self { tool_call_id: Some(call.id.clone()), tool_name: Some(call.name.clone()), ..Self::of(Role::Tool, vec![Part::text(text)]) }
    }

    /// The text parts, joined by line feeds.
    pub fn text(&self) -> String {
        let texts: Vec<&str> = self.content.iter().filter_map(Part::as_text).collect();
        texts.join("\n")
    }
}

impl Part {
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text { text: text.into() }
    }

    /// A picture without a `detail`.
    pub fn image(source: Source) -> Self {
        Self::Image { source, detail: None }
    }

    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text { text } => Some(text),
            _ => None,
        }
    }
}
