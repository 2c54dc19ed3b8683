//! The Gemini format: `generateContent` and `streamGenerateContent?alt=sse`.
//!
//! Source: ai.google.dev/api/generate-content.

mod convert;
mod decode;
mod wire;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

use super::embed::{self, EmbedCall, Embedded};
use super::endpoint::endpoint;
use super::quirks::GeminiPath;
use super::transport::{Post, ask, exchange, read_all, read_whole};
use super::{IdRule, JsonSupport, ModelEvent, NameRule, Provider, ProviderCall, ProviderError, WireRules};
use crate::clock::Clock;
use crate::net::Egress;

/// Servers that speak generateContent.
#[derive(Debug, Clone)]
pub struct Gemini {
    egress: Egress,
    clock: Clock,
}

impl Gemini {
    pub fn new(egress: Egress, clock: Clock) -> Self {
        Self { egress, clock }
    }
}

impl Provider for Gemini {
    fn wire(&self) -> &'static str {
        "gemini"
    }

    /// Names: a letter or `_` first, then letters, digits, `_`, `.`, `:` and `-`, at most 64; every media type as data.
    fn rules(&self) -> WireRules {
        WireRules {
            tool_name: NameRule { max_len: 64, extra: "-.:", letter_first: true },
            call_id: IdRule::Any { max_len: 256 },
            max_description: usize::MAX,
            user_first: true,
            no_blank_text: false,
            images: &[],
            image_detail: false,
            files: &[],
            audio: true,
            video: true,
            url_schemes: &["http", "https", "gs"],
            json: JsonSupport::Native,
            unknown_settings: &[],
            signed_thoughts: false,
        }
    }

    fn stream(&self, call: ProviderCall) -> BoxStream<'static, Result<ModelEvent, ProviderError>> {
        let body = convert::request(&call.request, &call.quirks);
        let (verb, query) = if call.request.stream { ("streamGenerateContent", "?alt=sse") } else { ("generateContent", "") };
        let model = format!("{}:{verb}", call.model);
        let post = match call.quirks.gemini_path {
            GeminiPath::Usual => endpoint(&call.base_url, &["v1beta", "models", &model]),
            GeminiPath::Plain => endpoint(&call.base_url, &["models", &model]),
        };
        let post = post.map(|url| Post { url: url + query, body });
        exchange(self.egress.clone(), self.clock.clone(), call, post, decode::Decoder::default())
    }

    fn embed(&self, call: EmbedCall) -> BoxFuture<'static, Result<Embedded, ProviderError>> {
        let (egress, clock) = (self.egress.clone(), self.clock.clone());
        async move {
            let model = format!("{}:batchEmbedContents", call.call.model);
            let post =
                endpoint(&call.call.base_url, &["v1beta", "models", &model]).map(|url| Post { url, body: embed::gemini_request(&call) });
            let body = ask(&egress, &clock, &call.call, post).await?;
            embed::gemini_answer(&call, &body)
        }
        .boxed()
    }
}

/// Decodes a recorded answer.
pub(super) fn read(body: &[u8], streamed: bool) -> Result<Vec<ModelEvent>, ProviderError> {
    let decoder = decode::Decoder::default();
    if streamed { read_all(decoder, body) } else { read_whole(decoder, body) }
}
