//! The most that one attempt may use: what a hard budget sets aside before the attempt.
//!
//! Text counts three bytes to a token, a picture what its model takes for the largest, a file a token a byte, reasoning its whole budget.

use super::chat::{ChatRequest, Part, Source};
use super::completion::Usage;
use super::models::Resolved;
use super::quirks::{MaxTokensField, ReasoningStyle};

/// Output tokens of a model whose limit nobody has stated.
const UNKNOWN_OUTPUT: u64 = 8_192;
/// Tokens of a picture, unless its model's entry says otherwise.
const IMAGE_TOKENS: u64 = 3_000;
/// Tokens of a file that only its vendor can read.
const REMOTE_FILE_TOKENS: u64 = 100_000;
/// Bytes of audio to a token.
const AUDIO_BYTES_PER_TOKEN: u64 = 50;

/// The most that one attempt of this request may use at this model.
pub(super) fn usage(request: &ChatRequest, model: &Resolved) -> Usage {
    Usage { input: input(request, model), output: output(request, model), ..Usage::default() }
}

fn input(request: &ChatRequest, model: &Resolved) -> u64 {
    let image = model.quirks.image_tokens.map_or(IMAGE_TOKENS, u64::from);
    let parts = request.messages.iter().flat_map(|message| &message.content);
    let media: u64 = parts
        .map(|part| match part {
            Part::Text { .. } | Part::Reasoning(_) => 0,
            Part::Image { .. } => image,
            Part::File { source: Source::Data { data, .. }, .. } => bytes_of(data).max(image),
            Part::File { source: Source::Url { .. }, .. } | Part::Audio { source: Source::Url { .. } } => {
                model.context.map_or(REMOTE_FILE_TOKENS, u64::from)
            }
            Part::Audio { source: Source::Data { data, .. } } => bytes_of(data) / AUDIO_BYTES_PER_TOKEN + 1,
        })
        .fold(0, u64::saturating_add);
    (text_bytes(request) / 3 + 64).saturating_add(media)
}

/// Bytes of the request's JSON without its media. Shaping may add an instruction, which repeats a schema.
fn text_bytes(request: &ChatRequest) -> u64 {
    let of = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
    let messages = request.messages.iter().map(|message| {
        let texts = message.content.iter().map(|part| match part {
            Part::Text { text } => text.len(),
            Part::Reasoning(thought) => thought.text.len() + thought.signature.as_ref().map_or(0, String::len),
            Part::Image { .. } | Part::File { .. } | Part::Audio { .. } => 0,
        });
        let calls = message.tool_calls.iter().map(|call| call.name.len() + call.arguments.len() + 64);
        let state = message.state.as_ref().map_or(0, |state| state.to_string().len());
        of(texts.chain(calls).sum::<usize>() + state + 64)
    });
    let tools = request.tools.iter().map(|tool| of(tool.name.len() + tool.description.len() + tool.parameters.to_string().len() + 64));
    let format = of(serde_json::to_string(&request.response_format).map_or(0, |text| text.len()) + 256);
    messages.chain(tools).fold(format, u64::saturating_add)
}

fn bytes_of(base64: &str) -> u64 {
    u64::try_from(base64.len()).unwrap_or(u64::MAX) / 4 * 3 + 3
}

fn output(request: &ChatRequest, model: &Resolved) -> u64 {
    let most = model.max_output.map(u64::from);
    let asked = request.sampling.max_tokens.map(u64::from);
    let answer = asked.or(most).unwrap_or(UNKNOWN_OUTPUT);
    // Thoughts come on top where the limit is raised by their budget, or does not cover them.
    let raised = match model.client.wire() {
        "anthropic" | "gemini" | "bedrock" => matches!(model.quirks.reasoning, ReasoningStyle::Usual | ReasoningStyle::Object),
        "openai" => model.quirks.reasoning != ReasoningStyle::None && model.quirks.max_tokens_field == MaxTokensField::MaxTokens,
        _ => false,
    };
    let thoughts = request.reasoning.as_ref().filter(|reasoning| reasoning.enabled && raised);
    let thoughts = thoughts.map_or(0, |reasoning| u64::from(reasoning.budget()));
    let sum = answer.saturating_add(thoughts).max(1);
    most.map_or(sum, |most| sum.min(most.max(1)))
}
