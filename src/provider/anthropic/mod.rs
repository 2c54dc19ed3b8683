//! The Anthropic messages format.
//!
//! Source: docs.anthropic.com, "Messages" and "Streaming messages".

mod convert;
mod decode;
mod wire;

use futures_util::stream::BoxStream;

use super::endpoint::endpoint;
use super::transport::{Post, exchange, read_all, read_whole};
use super::{IdRule, JsonSupport, ModelEvent, NameRule, Provider, ProviderCall, ProviderError, WireRules};
use crate::clock::Clock;
use crate::net::Egress;

/// Servers that speak the messages format.
#[derive(Debug, Clone)]
pub struct Anthropic {
    egress: Egress,
    clock: Clock,
}

impl Anthropic {
    pub fn new(egress: Egress, clock: Clock) -> Self {
        Self { egress, clock }
    }
}

impl Provider for Anthropic {
    fn wire(&self) -> &'static str {
        "anthropic"
    }

    /// Names and ids: `^[a-zA-Z0-9_-]+$`; blank texts are refused; documents as data are PDF only.
    fn rules(&self) -> WireRules {
        WireRules {
            tool_name: NameRule { max_len: 64, extra: "-", letter_first: false },
            call_id: IdRule::Plain { max_len: 64 },
            max_description: 10_000,
            user_first: true,
            no_blank_text: true,
            images: &["image/jpeg", "image/png", "image/gif", "image/webp"],
            image_detail: false,
            files: &["application/pdf"],
            audio: false,
            video: false,
            url_schemes: WireRules::WEB,
            json: JsonSupport::StrictSchema,
            unknown_settings: &["frequencyPenalty", "presencePenalty", "seed"],
            signed_thoughts: true,
        }
    }

    fn stream(&self, call: ProviderCall) -> BoxStream<'static, Result<ModelEvent, ProviderError>> {
        let body = convert::request(&call.request, &call.model, &call.quirks);
        let post = endpoint(&call.base_url, &["v1", "messages"]).map(|url| Post { url, body });
        exchange(self.egress.clone(), self.clock.clone(), call, post, decode::Decoder::default())
    }
}

/// Decodes a recorded answer.
pub(super) fn read(body: &[u8], streamed: bool) -> Result<Vec<ModelEvent>, ProviderError> {
    let decoder = decode::Decoder::default();
    if streamed { read_all(decoder, body) } else { read_whole(decoder, body) }
}
