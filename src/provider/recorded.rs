//! Recorded answers, read as if a server had just sent them: for tests, fuzzing and whoever compares readings.

use super::chat::ToolCall;
use super::completion::{Finish, Usage};
use super::draft::Draft;
use super::{ChatRequest, ModelEvent, ProviderError, anthropic, bedrock, cohere, gemini, openai, refusal, responses};

/// What an answer says, put together.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedAnswer {
    pub text: String,
    pub reasoning: String,
    pub tool_calls: Vec<ToolCall>,
    pub finish: Finish,
    /// As the vendor counts, or an estimate where it does not.
    pub usage: Usage,
    /// Addresses that the answer rests on, each once.
    pub citations: Vec<String>,
    /// Pictures in the answer.
    pub media: usize,
}

/// Decodes a recorded answer in a wire format; `None` for a format that is not spoken over HTTP.
pub fn read_recorded(wire: &str, body: &[u8], streamed: bool) -> Option<Result<Vec<ModelEvent>, ProviderError>> {
    Some(match wire {
        "openai" => openai::read(body, streamed),
        "anthropic" => anthropic::read(body, streamed),
        "gemini" => gemini::read(body, streamed),
        "responses" => responses::read(body, streamed),
        "cohere" => cohere::read(body, streamed),
        "bedrock" => bedrock::read(body, streamed),
        _ => return None,
    })
}

/// Reads a recorded refusal: the body of an answer whose status is an error.
pub fn read_refusal(status: u16, body: &[u8]) -> ProviderError {
    refusal::read(status, body)
}

/// Puts the events of an answer together.
pub fn fold_events(events: &[ModelEvent]) -> RecordedAnswer {
    let mut draft = Draft::default();
    let (mut citations, mut media) = (Vec::new(), 0);
    for event in events {
        draft.take(event);
        match event {
            ModelEvent::Citation(citation) if !citations.contains(&citation.url) => citations.push(citation.url.clone()),
            ModelEvent::Media { .. } => media += 1,
            _ => {}
        }
    }
    let usage = draft.usage(&ChatRequest::default());
    let finish = draft.finish();
    let tool_calls = draft.tool_calls();
    let reasoning = draft.reasoning.iter().map(|thought| thought.text.as_str()).collect();
    RecordedAnswer { text: draft.text, reasoning, tool_calls, finish, usage, citations, media }
}
