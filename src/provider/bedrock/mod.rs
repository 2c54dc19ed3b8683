//! Amazon Bedrock's Converse format: one form for the models of many vendors, streamed in AWS's own frames.
//!
//! Source: docs.aws.amazon.com/bedrock, "Converse" and "ConverseStream" of the API reference.

mod convert;
mod decode;
mod wire;

use futures_util::stream::BoxStream;

use super::endpoint::endpoint;
use super::frames::FrameReader;
use super::transport::{Decode, Post, decode_all, exchange, read_all, read_whole};
use super::{Class, IdRule, JsonSupport, ModelEvent, NameRule, Provider, ProviderCall, ProviderError, WireRules};
use crate::clock::Clock;
use crate::net::{Egress, parse_url};

/// Servers that speak Converse.
#[derive(Debug, Clone)]
pub struct Bedrock {
    egress: Egress,
    clock: Clock,
}

impl Bedrock {
    pub fn new(egress: Egress, clock: Clock) -> Self {
        Self { egress, clock }
    }
}

impl Provider for Bedrock {
    fn wire(&self) -> &'static str {
        "bedrock"
    }

    /// Names and ids: `[a-zA-Z0-9_-]+`, at most 64; blank texts are refused.
    fn rules(&self) -> WireRules {
        WireRules {
            tool_name: NameRule { max_len: 64, extra: "-", letter_first: false },
            call_id: IdRule::Plain { max_len: 64 },
            max_description: 10_000,
            user_first: true,
            no_blank_text: true,
            images: &["image/jpeg", "image/png", "image/gif", "image/webp"],
            image_detail: false,
            files: &[
                "application/pdf",
                "text/csv",
                "application/msword",
                "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
                "application/vnd.ms-excel",
                "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
                "text/html",
                "text/plain",
                "text/markdown",
            ],
            audio: false,
            video: false,
            url_schemes: &["s3"],
            json: JsonSupport::StrictSchema,
            unknown_settings: &["frequencyPenalty", "presencePenalty", "seed"],
            signed_thoughts: true,
        }
    }

    fn stream(&self, call: ProviderCall) -> BoxStream<'static, Result<ModelEvent, ProviderError>> {
        let verb = if call.request.stream { "converse-stream" } else { "converse" };
        let body = convert::request(&call.request, &call.model, &call.quirks);
        let post = body.and_then(|body| Ok(Post { url: model_url(&call.base_url, &call.model, verb)?, body }));
        exchange(self.egress.clone(), self.clock.clone(), call, post, decode::Decoder::default())
    }
}

/// The address of a model. AWS signs the path as it is sent, and its own clients encode the colons of model ids.
fn model_url(base: &str, model: &str, verb: &str) -> Result<String, ProviderError> {
    let mut url = parse_url(&endpoint(base, &["model", model, verb])?)?;
    let path = url.path().replace(':', "%3A");
    url.set_path(&path);
    Ok(url.into())
}

/// Decodes a recorded answer; a stream is in AWS's frames, or the same events as server-sent ones.
pub(super) fn read(body: &[u8], streamed: bool) -> Result<Vec<ModelEvent>, ProviderError> {
    let decoder = decode::Decoder::default();
    if !streamed {
        return read_whole(decoder, body);
    }
    // The first byte of a frame belongs to its length, which never reaches 16 MiB.
    if body.first() != Some(&0) {
        return read_all(decoder, body);
    }
    let mut reader = FrameReader::new(<decode::Decoder as Decode>::EVENT_CAP);
    reader.feed(body).map_err(|error| ProviderError::new(Class::Malformed, error.to_string()))?;
    decode_all(decoder, std::iter::from_fn(|| reader.next_event()))
}
