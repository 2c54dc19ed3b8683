//! The OpenAI Responses format, used without any state at the server.
//!
//! Source: platform.openai.com/docs/api-reference/responses; deviations of compatible servers are noted where they are
//! allowed for.

mod convert;
mod decode;
mod wire;

use futures_util::stream::BoxStream;

use super::endpoint::endpoint;
use super::transport::{Post, exchange, read_all, read_whole};
use super::{IdRule, JsonSupport, ModelEvent, NameRule, Provider, ProviderCall, ProviderError, WireRules};
use crate::clock::Clock;
use crate::net::Egress;

/// Servers that speak the Responses format.
#[derive(Debug, Clone)]
pub struct Responses {
    egress: Egress,
    clock: Clock,
}

impl Responses {
    pub fn new(egress: Egress, clock: Clock) -> Self {
        Self { egress, clock }
    }
}

impl Provider for Responses {
    fn wire(&self) -> &'static str {
        "responses"
    }

    /// Names: `^[a-zA-Z0-9_-]{1,64}$`; ids of calls: at most 64 characters; descriptions: at most 1,024; files: PDF only.
    fn rules(&self) -> WireRules {
        WireRules {
            tool_name: NameRule { max_len: 64, extra: "-", letter_first: false },
            call_id: IdRule::Any { max_len: 64 },
            max_description: 1_024,
            user_first: false,
            no_blank_text: false,
            images: &[],
            image_detail: true,
            files: &["application/pdf"],
            audio: false,
            video: false,
            url_schemes: WireRules::WEB,
            json: JsonSupport::Native,
            unknown_settings: &["topK", "frequencyPenalty", "presencePenalty", "seed", "stop"],
            signed_thoughts: false,
        }
    }

    fn stream(&self, call: ProviderCall) -> BoxStream<'static, Result<ModelEvent, ProviderError>> {
        let body = convert::request(&call.request, &call.model, &call.quirks);
        let post = endpoint(&call.base_url, &["responses"]).map(|url| Post { url, body });
        exchange(self.egress.clone(), self.clock.clone(), call, post, decode::Decoder::default())
    }
}

/// Decodes a recorded answer.
pub(super) fn read(body: &[u8], streamed: bool) -> Result<Vec<ModelEvent>, ProviderError> {
    let decoder = decode::Decoder::default();
    if streamed { read_all(decoder, body) } else { read_whole(decoder, body) }
}
