//! The Anthropic messages format.
//!
//! Source: docs.anthropic.com, "Messages" and "Streaming messages".

mod convert;
mod decode;
mod wire;

use futures_util::stream::BoxStream;

use super::endpoint::endpoint;
use super::transport::{Post, exchange, read_all};
use super::{ModelEvent, Provider, ProviderCall, ProviderError};
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

    fn stream(&self, call: ProviderCall) -> BoxStream<'static, Result<ModelEvent, ProviderError>> {
        let body = convert::request(&call.request, &call.model, &call.quirks);
        let post = endpoint(&call.base_url, &["v1", "messages"]).map(|url| Post { url, body });
        exchange(self.egress.clone(), self.clock.clone(), call, post, decode::Decoder::default())
    }
}

/// Decodes a recorded stream.
pub(super) fn read(stream: &[u8]) -> Result<Vec<ModelEvent>, ProviderError> {
    read_all(decode::Decoder::default(), stream)
}
