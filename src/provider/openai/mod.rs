//! The OpenAI chat completions format, as spoken by OpenAI and by every compatible server.
//!
//! Source: platform.openai.com/docs/api-reference/chat; deviations of compatible servers are noted where they are
//! allowed for.

mod calls;
mod convert;
mod decode;
mod wire;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

use super::embed::{self, EmbedCall, Embedded};
use super::endpoint::endpoint;
use super::transport::{Post, ask, exchange, read_all, read_whole};
use super::{IdRule, JsonSupport, ModelEvent, NameRule, Provider, ProviderCall, ProviderError, WireRules};
use crate::clock::Clock;
use crate::net::Egress;

/// Servers that speak chat completions.
#[derive(Debug, Clone)]
pub struct OpenAi {
    egress: Egress,
    clock: Clock,
}

impl OpenAi {
    pub fn new(egress: Egress, clock: Clock) -> Self {
        Self { egress, clock }
    }
}

impl Provider for OpenAi {
    fn wire(&self) -> &'static str {
        "openai"
    }

    /// Names: `^[a-zA-Z0-9_-]{1,64}$`; descriptions: at most 1,024 characters; files: PDF only.
    fn rules(&self) -> WireRules {
        WireRules {
            tool_name: NameRule { max_len: 64, extra: "-", letter_first: false },
            call_id: IdRule::Any { max_len: 40 },
            max_description: 1_024,
            user_first: false,
            no_blank_text: false,
            images: &[],
            image_detail: true,
            files: &["application/pdf"],
            audio: true,
            video: false,
            url_schemes: WireRules::WEB,
            json: JsonSupport::Native,
            unknown_settings: &[],
            signed_thoughts: false,
        }
    }

    fn stream(&self, call: ProviderCall) -> BoxStream<'static, Result<ModelEvent, ProviderError>> {
        let body = convert::request(&call.request, &call.model, &call.quirks);
        let post = endpoint(&call.base_url, &["chat", "completions"]).map(|url| Post { url, body });
        exchange(self.egress.clone(), self.clock.clone(), call, post, decode::Decoder::default())
    }

    fn embed(&self, call: EmbedCall) -> BoxFuture<'static, Result<Embedded, ProviderError>> {
        let (egress, clock) = (self.egress.clone(), self.clock.clone());
        async move {
            let post = endpoint(&call.call.base_url, &["embeddings"]).map(|url| Post { url, body: embed::openai_request(&call) });
            let body = ask(&egress, &clock, &call.call, post).await?;
            embed::openai_answer(&call, &body)
        }
        .boxed()
    }
}

/// Decodes a recorded answer.
pub(super) fn read(body: &[u8], streamed: bool) -> Result<Vec<ModelEvent>, ProviderError> {
    let decoder = decode::Decoder::default();
    if streamed { read_all(decoder, body) } else { read_whole(decoder, body) }
}
