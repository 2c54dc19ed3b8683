//! The Cohere chat format, version 2.
//!
//! Source: docs.cohere.com/v2/reference/chat and chat-stream.

mod convert;
mod decode;
mod wire;

use futures_util::stream::BoxStream;

use super::endpoint::endpoint;
use super::transport::{Post, exchange, read_all, read_whole};
use super::{IdRule, JsonSupport, ModelEvent, NameRule, Provider, ProviderCall, ProviderError, WireRules};
use crate::clock::Clock;
use crate::net::Egress;

/// Servers that speak Cohere's chat format.
#[derive(Debug, Clone)]
pub struct Cohere {
    egress: Egress,
    clock: Clock,
}

impl Cohere {
    pub fn new(egress: Egress, clock: Clock) -> Self {
        Self { egress, clock }
    }
}

impl Provider for Cohere {
    fn wire(&self) -> &'static str {
        "cohere"
    }

    /// Names: letters, digits and `_`, a digit not first; empty texts are refused. Only text files can be sent, as text.
    fn rules(&self) -> WireRules {
        WireRules {
            tool_name: NameRule { max_len: 64, extra: "", letter_first: true },
            call_id: IdRule::Any { max_len: 256 },
            max_description: usize::MAX,
            user_first: false,
            no_blank_text: true,
            images: &["image/jpeg", "image/png", "image/gif", "image/webp"],
            image_detail: true,
            files: WireRules::NO_FILES,
            audio: false,
            video: false,
            url_schemes: WireRules::WEB,
            json: JsonSupport::Native,
            unknown_settings: &[],
            signed_thoughts: false,
        }
    }

    fn stream(&self, call: ProviderCall) -> BoxStream<'static, Result<ModelEvent, ProviderError>> {
        let body = convert::request(&call.request, &call.model, &call.quirks);
        let post = endpoint(&call.base_url, &["v2", "chat"]).map(|url| Post { url, body });
        exchange(self.egress.clone(), self.clock.clone(), call, post, decode::Decoder::default())
    }
}

/// Decodes a recorded answer.
pub(super) fn read(body: &[u8], streamed: bool) -> Result<Vec<ModelEvent>, ProviderError> {
    let decoder = decode::Decoder::default();
    if streamed { read_all(decoder, body) } else { read_whole(decoder, body) }
}
