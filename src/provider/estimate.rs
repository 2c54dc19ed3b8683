//! Counting tokens when nobody else did: four bytes of UTF-8 to a token, rounded up, over texts, tool
//! descriptions and arguments. Images and files count as 1,000 tokens each. Only a stand-in, and flagged as one.

use super::chat::{ChatRequest, Part};
use super::completion::Usage;

const BYTES_PER_TOKEN: u64 = 4;
const ATTACHMENT_TOKENS: u64 = 1_000;

/// Tokens of this many bytes of text.
pub fn tokens(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX).div_ceil(BYTES_PER_TOKEN)
}

/// Tokens of everything the request says.
pub fn input(request: &ChatRequest) -> u64 {
    let tools = request.tools.iter().map(|tool| tool.name.len() + tool.description.len() + json_len(&tool.parameters));
    let calls = request.messages.iter().flat_map(|message| &message.tool_calls).map(|call| call.name.len() + call.arguments.len());
    let parts = || request.messages.iter().flat_map(|message| &message.content);
    let texts = parts().map(|part| match part {
        Part::Text { text } => text.len(),
        Part::Reasoning(thought) => thought.text.len(),
        Part::Image { .. } | Part::File { .. } | Part::Audio { .. } => 0,
    });
    let attachments = parts().filter(|part| matches!(part, Part::Image { .. } | Part::File { .. } | Part::Audio { .. })).count();
    let attachments = u64::try_from(attachments).unwrap_or(u64::MAX).saturating_mul(ATTACHMENT_TOKENS);
    tokens(tools.chain(calls).chain(texts).sum()).saturating_add(attachments)
}

/// An estimate for a request and the bytes of its answer.
pub fn usage(request: &ChatRequest, output_bytes: usize, reasoning_bytes: usize) -> Usage {
    Usage {
        input: input(request),
        output: tokens(output_bytes + reasoning_bytes),
        reasoning: tokens(reasoning_bytes),
        estimated: true,
        ..Usage::default()
    }
}

fn json_len(value: &serde_json::Value) -> usize {
    value.to_string().len()
}
