//! From generateContent to events. Pure.

use serde_json::Value;

use super::wire::{Answer, AnswerPart, Candidate, Usage as Counted};
use crate::net::sse::Event;
use crate::provider::error::{Class, ProviderError};
use crate::provider::transport::{Decode, Flow};
use crate::provider::{Citation, Finish, ModelEvent, Usage, refusal};

/// Reads answers, whole and streamed.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    calls: u32,
    finished: bool,
}

impl Decode for Decoder {
    /// Images come as one event.
    const EVENT_CAP: usize = 16 * 1024 * 1024;

    fn event(&mut self, event: &Event, out: &mut Vec<ModelEvent>) -> Result<Flow, ProviderError> {
        let answer: Answer = serde_json::from_str(&event.data).map_err(malformed)?;
        self.answer(answer, out)?;
        // There is no end mark: totals may follow the finish reason, and the connection's end follows them.
        Ok(Flow::More)
    }

    fn whole(&mut self, body: &[u8], out: &mut Vec<ModelEvent>) -> Result<(), ProviderError> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Err(ProviderError::new(Class::Empty, "the answer has no body"));
        }
        // Without `alt=sse` a stream is one array of chunks; some relays answer so whatever they are asked.
        let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
        let answers: Vec<Answer> = match first {
            Some(b'[') => serde_json::from_slice(body).map_err(malformed)?,
            _ => vec![serde_json::from_slice(body).map_err(malformed)?],
        };
        for answer in answers {
            self.answer(answer, out)?;
        }
        if !self.finished && out.iter().any(|event| matches!(event, ModelEvent::Text(_))) {
            return Err(ProviderError::new(Class::Cut, "the answer gives no finish reason"));
        }
        Ok(())
    }

    fn is_whole(&self) -> bool {
        self.finished
    }
}

fn malformed(error: serde_json::Error) -> ProviderError {
    ProviderError::new(Class::Malformed, format!("the answer is not as agreed: {error}"))
}

impl Decoder {
    fn answer(&mut self, answer: Answer, out: &mut Vec<ModelEvent>) -> Result<(), ProviderError> {
        if let Some(error) = answer.error {
            return Err(refusal::in_stream(&error));
        }
        if let Some(reason) = answer.prompt_feedback.and_then(|feedback| feedback.block_reason) {
            return Err(ProviderError::new(Class::ContentFilter, format!("the prompt was blocked ({reason})")));
        }
        let usage = answer.usage_metadata.as_ref().map(usage);
        if let Some(candidate) = answer.candidates.into_iter().next() {
            self.candidate(candidate, out)?;
        }
        out.extend(usage.map(ModelEvent::Usage));
        Ok(())
    }

    fn candidate(&mut self, candidate: Candidate, out: &mut Vec<ModelEvent>) -> Result<(), ProviderError> {
        for part in candidate.content.map(|content| content.parts).unwrap_or_default() {
            self.part(part, out);
        }
        let found = candidate.grounding_metadata.as_ref().and_then(|found| found.get("groundingChunks")?.as_array());
        let pages = found.into_iter().flatten().filter_map(|chunk| Citation::of(chunk.get("web")?, &["uri"]));
        out.extend(pages.map(ModelEvent::Citation));
        let Some(reason) = candidate.finish_reason.filter(|reason| reason != "FINISH_REASON_UNSPECIFIED") else { return Ok(()) };
        if matches!(reason.as_str(), "MALFORMED_FUNCTION_CALL" | "UNEXPECTED_TOOL_CALL" | "MALFORMED_RESPONSE") {
            let why = candidate.finish_message.unwrap_or_else(|| reason.clone());
            return Err(ProviderError::new(Class::Malformed, format!("the model made a broken answer: {why}")));
        }
        self.finished = true;
        out.push(ModelEvent::Finish(finish(&reason)));
        Ok(())
    }

    fn part(&mut self, part: AnswerPart, out: &mut Vec<ModelEvent>) {
        if let Some(call) = part.function_call {
            let index = self.calls;
            self.calls += 1;
            let arguments = call.args.unwrap_or_else(|| Value::Object(serde_json::Map::new()));
            out.push(ModelEvent::ToolCallStart {
                index,
                id: call.id.unwrap_or_default(),
                name: call.name,
                signature: part.thought_signature,
            });
            out.push(ModelEvent::ToolCallDelta { index, delta: arguments.to_string() });
            return;
        }
        if let Some(text) = part.text.filter(|text| !text.is_empty()) {
            out.push(if part.thought { ModelEvent::Reasoning(text) } else { ModelEvent::Text(text) });
        }
        if let Some(blob) = part.inline_data {
            out.push(ModelEvent::Media { media_type: blob.mime_type, data: blob.data });
        }
    }
}

fn finish(reason: &str) -> Finish {
    match reason {
        "STOP" => Finish::EndTurn,
        "MAX_TOKENS" => Finish::Length,
        "SAFETY" | "RECITATION" | "BLOCKLIST" | "PROHIBITED_CONTENT" | "SPII" | "IMAGE_SAFETY" | "LANGUAGE" => Finish::ContentFilter,
        _ => Finish::Unknown,
    }
}

/// The vendor counts thoughts beside the answer and tool prompts beside the prompt; here they are parts of them.
fn usage(counted: &Counted) -> Usage {
    Usage {
        input: counted.prompt_token_count.saturating_add(counted.tool_use_prompt_token_count),
        output: counted.candidates_token_count.saturating_add(counted.thoughts_token_count),
        cached_input: counted.cached_content_token_count,
        cache_write: 0,
        reasoning: counted.thoughts_token_count,
        estimated: false,
    }
}
