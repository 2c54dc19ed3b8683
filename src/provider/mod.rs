//! Models behind one face.
//!
//! A call is a neutral [`ChatRequest`]; what comes back is a stream of [`ModelEvent`], whether the vendor
//! streamed or not. Wire formats are code, one folder each (`wire` = the vendor's types, `convert` = pure
//! conversion both ways, `mod` = transport); which servers speak them, their models and prices are data in
//! `providers/models/*.toml`. [`Models`] is the face for everyone above: it resolves names, finds keys,
//! retries, falls back and adds up the cost.
//!
//! To add a server that speaks a known format, add a file to the catalogue. To add a format, add a folder, implement
//! [`Provider`] and name it in `models.rs`.
//!
//! Must not know: runs, flows, steps, tenants, storage.

mod anthropic;
mod attempts;
mod bedrock;
pub mod catalogue;
pub mod chat;
mod citation;
mod cohere;
mod completion;
mod credential;
mod draft;
mod echo;
mod embed;
mod endpoint;
mod error;
mod estimate;
mod frames;
mod gemini;
mod instance;
mod lenient;
mod media_type;
mod models;
mod openai;
mod prepare;
mod price;
mod quirks;
mod recorded;
mod refusal;
mod responses;
mod retry;
mod routing;
mod rules;
mod transport;
mod worst_case;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use serde_json::Value;

pub use anthropic::Anthropic;
pub use attempts::{Call, ModelStream, Piece};
pub use bedrock::Bedrock;
pub use catalogue::{Auth, Catalogue, ModelRef, ProviderEntry};
pub use chat::*;
pub use citation::Citation;
pub use cohere::Cohere;
pub use completion::{AttemptReport, Completion, Finish, Usage};
pub use echo::Echo;
pub use embed::{EmbedCall, Embedded, MOST_TEXTS, to_value as vector_value};
pub use error::{Class, Detail, ProviderError, Remedy, Summary, classify};
pub use gemini::Gemini;
pub use instance::instance;
pub use media_type::{media_type_of_name, normalise_media_type};
pub use models::{ModelCard, Models, Resolved, Setup, TenantKeys};
pub use openai::OpenAi;
pub use prepare::{Adjustment, AdjustmentAction};
pub use price::{Cost, LongPrice, Price, Rate};
pub use quirks::{MaxTokensField, QuirkOverrides, Quirks, ReasoningStyle};
pub use recorded::{RecordedAnswer, fold_events, read_recorded, read_refusal};
pub use responses::Responses;
pub use retry::RetryPolicy;
pub use rules::{IdRule, JsonSupport, NameRule, WireRules};

pub use crate::net::Deadlines;
use crate::secret::Secret;

/// A wire format: how one kind of server is asked and how its answer is read.
pub trait Provider: Send + Sync {
    /// The format's name in the catalogue: `openai`, `anthropic`, `gemini`, `echo`.
    fn wire(&self) -> &'static str;

    /// What the format takes; requests are shaped by it before they reach [`stream`](Self::stream).
    fn rules(&self) -> WireRules {
        WireRules::LENIENT
    }

    /// Makes one request. Nothing is sent before the stream is polled; dropping it closes the connection.
    ///
    /// A stream that ends without an error is a whole answer: formats check their own terminal marker.
    fn stream(&self, call: ProviderCall) -> BoxStream<'static, Result<ModelEvent, ProviderError>>;

    /// Embeds texts; one request. A format without embeddings refuses.
    fn embed(&self, call: EmbedCall) -> BoxFuture<'static, Result<Embedded, ProviderError>> {
        let mut error =
            ProviderError::new(Class::BadRequest, format!("`{}` is asked over a format that has no embeddings", call.call.model));
        error.sent = false;
        async move { Err(error) }.boxed()
    }
}

/// One request to one server.
#[derive(Clone)]
pub struct ProviderCall {
    /// Without a trailing slash, such as `https://api.openai.com/v1`. From the operator's configuration.
    pub base_url: String,
    pub key: Option<Secret>,
    pub auth: Auth,
    /// The model's name as this server knows it.
    pub model: String,
    /// Further headers, from the catalogue.
    pub headers: Vec<(String, String)>,
    pub quirks: Quirks,
    pub request: Arc<ChatRequest>,
    pub deadlines: Deadlines,
}

impl fmt::Debug for ProviderCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProviderCall").field("model", &self.model).finish_non_exhaustive()
    }
}

/// Something a model did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelEvent {
    /// The server begins its answer anew; everything before is void.
    Restart,
    Text(String),
    Reasoning(String),
    /// The stretch of reasoning before this is complete, with the vendor's seal on it.
    ReasoningEnd {
        signature: Option<String>,
        /// The text was hidden; the seal is all there is.
        redacted: bool,
    },
    ToolCallStart {
        /// Position among the calls of this answer, from 0.
        index: u32,
        /// Empty when the vendor gives none.
        id: String,
        name: String,
        signature: Option<String>,
    },
    /// Opaque state of the call; see [`ToolCall::state`].
    ToolCallState {
        index: u32,
        state: Value,
    },
    /// More of the call's arguments, raw JSON text.
    ToolCallDelta {
        index: u32,
        delta: String,
    },
    /// A picture that the model made, in base64. A part of the text, too.
    Media {
        /// As `image/png`.
        media_type: String,
        data: String,
    },
    /// What the answer rests on.
    Citation(Citation),
    /// Opaque state of the whole answer, that the same model wants back with it; see [`Message::state`].
    State(Value),
    /// The server has used up its limit for this key and takes no more for so long.
    LimitReached(Duration),
    /// A new total; replaces any earlier one.
    Usage(Usage),
    Finish(Finish),
}
