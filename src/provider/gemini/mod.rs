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
use super::transport::{Post, ask, exchange, read_all};
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
            files: &[],
            audio: true,
            json: JsonSupport::Native,
        }
    }

    fn stream(&self, call: ProviderCall) -> BoxStream<'static, Result<ModelEvent, ProviderError>> {
        let body = convert::request(&call.request, &call.quirks);
        let (verb, query) = if call.request.stream { ("streamGenerateContent", "?alt=sse") } else { ("generateContent", "") };
        let model = format!("{}:{verb}", call.model);
        let post = endpoint(&call.base_url, &["v1beta", "models", &model]).map(|url| Post { url: url + query, body });
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

/// Decodes a recorded stream.
pub(super) fn read(stream: &[u8]) -> Result<Vec<ModelEvent>, ProviderError> {
    read_all(decode::Decoder::default(), stream)
}
