//! From generateContent to events. Pure.

use serde_json::{Value, json};

use super::wire::{Answer, AnswerPart, Candidate, Feedback};
use crate::net::sse::Event;
use crate::provider::error::{Class, ProviderError};
use crate::provider::transport::{Decode, Flow};
use crate::provider::{Citation, Finish, ModelEvent, Usage, lenient, refusal};

/// Reads answers, whole and streamed.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    calls: u32,
    finished: bool,
    /// Content followed a finish reason: this server gives one with every chunk.
    resumed: bool,
    usage: Option<Usage>,
    /// The last chunk with a call. Relays send a chunk twice; a model's equal calls come in one chunk or differ in their counts.
    last_call: String,
}

impl Decode for Decoder {
    /// Images come as one event.
    const EVENT_CAP: usize = 16 * 1024 * 1024;

    fn event(&mut self, event: &Event, out: &mut Vec<ModelEvent>) -> Result<Flow, ProviderError> {
        if event.data.trim() == "[DONE]" {
            // A relay's mark; the finish reason decides whether the answer is whole.
            return Ok(if self.finished { Flow::End } else { Flow::More });
        }
        if self.last_call == event.data {
            return Ok(Flow::More);
        }
        let (value, calls) = (lenient::parse(event.data.as_bytes()).map_err(malformed)?, self.calls);
        self.answer(value, out)?;
        if self.calls > calls {
            self.last_call.clone_from(&event.data);
        }
        // There is no end mark: totals may follow the finish reason, and the connection's end follows them.
        Ok(Flow::More)
    }

    fn whole(&mut self, body: &[u8], out: &mut Vec<ModelEvent>) -> Result<(), ProviderError> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Err(ProviderError::new(Class::Empty, "the answer has no body"));
        }
        // Without `alt=sse` a stream is one array of chunks; some relays answer so whatever they are asked.
        let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
        let answers: Vec<Value> = match first {
            Some(b'[') => lenient::parse(body).map_err(malformed)?,
            _ => vec![lenient::parse(body).map_err(malformed)?],
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

    fn may_break_off(&self) -> bool {
        !self.resumed
    }
}

fn malformed(error: serde_json::Error) -> ProviderError {
    ProviderError::new(Class::Malformed, format!("the answer is not of generateContent: {error}"))
}

impl Decoder {
    fn answer(&mut self, value: Value, out: &mut Vec<ModelEvent>) -> Result<(), ProviderError> {
        let is_answer = ["candidates", "usageMetadata", "promptFeedback"].iter().any(|name| value.get(*name).is_some());
        if let Some(error) = refusal::error_in(&value).filter(|_| !is_answer) {
            return Err(refusal::in_stream(error));
        }
        let answer: Answer = serde_json::from_value(value).map_err(malformed)?;
        let read = self.content(answer.error, answer.prompt_feedback, answer.candidates, out);
        // What a broken answer used is billed, too.
        if let Some(new) = answer.usage_metadata.as_ref().and_then(usage) {
            let total = self.usage.map_or(new, |old| old.updated(&new));
            self.usage = Some(total);
            out.push(ModelEvent::Usage(total));
        }
        read
    }

    fn content(
        &mut self,
        error: Option<Value>,
        feedback: Option<Feedback>,
        candidates: Vec<Candidate>,
        out: &mut Vec<ModelEvent>,
    ) -> Result<(), ProviderError> {
        if let Some(error) = error.filter(|error| !error.is_null()) {
            return Err(refusal::in_stream(&error));
        }
        if let Some(reason) = feedback.and_then(|feedback| feedback.block_reason) {
            return Err(ProviderError::new(Class::ContentFilter, format!("the prompt was blocked ({reason})")));
        }
        candidates.into_iter().next().map_or(Ok(()), |candidate| self.candidate(candidate, out))
    }

    fn candidate(&mut self, candidate: Candidate, out: &mut Vec<ModelEvent>) -> Result<(), ProviderError> {
        let before = out.len();
        for part in candidate.content.map(|content| content.parts).unwrap_or_default() {
            self.part(part, out)?;
        }
        self.resumed |= self.finished && out.len() > before;
        let found = candidate.grounding_metadata.as_ref().and_then(|found| found.get("groundingChunks")?.as_array());
        let pages = found.into_iter().flatten().filter_map(|chunk| Citation::of(chunk.get("web")?, &["uri"]));
        out.extend(pages.map(ModelEvent::Citation));
        let Some(reason) = candidate.finish_reason.filter(|reason| !reason.is_empty() && reason != "FINISH_REASON_UNSPECIFIED") else {
            return Ok(());
        };
        let finish = finish(&reason, candidate.finish_message.as_deref())?;
        self.finished = true;
        out.push(ModelEvent::Finish(finish));
        Ok(())
    }

    fn part(&mut self, part: AnswerPart, out: &mut Vec<ModelEvent>) -> Result<(), ProviderError> {
        if let Some(call) = part.function_call {
            if call.partial_args.is_some() || call.will_continue {
                return Err(ProviderError::new(Class::Malformed, "the server sends a call's arguments in pieces, which was not asked for"));
            }
            let index = self.calls;
            self.calls += 1;
            let arguments = call.args.filter(|args| !args.is_null()).unwrap_or_else(|| json!({}));
            let id = call.id.unwrap_or_default();
            let state = (!id.is_empty()).then(|| json!({ "id": id }));
            let name = call.name.unwrap_or_default();
            out.push(ModelEvent::ToolCallStart { index, id, name, signature: part.thought_signature });
            out.extend(state.map(|state| ModelEvent::ToolCallState { index, state }));
            out.push(ModelEvent::ToolCallDelta { index, delta: arguments.to_string() });
            return Ok(());
        }
        if let Some(text) = part.text.filter(|text| !text.is_empty()) {
            out.push(if part.thought { ModelEvent::Reasoning(text) } else { ModelEvent::Text(text) });
        }
        let blob = part.inline_data.and_then(|blob| Some((blob.mime_type?, blob.data?)));
        out.extend(blob.map(|(media_type, data)| ModelEvent::Media { media_type, data }));
        Ok(())
    }
}

fn finish(reason: &str, why: Option<&str>) -> Result<Finish, ProviderError> {
    let failure = |class, what: &str| Err(ProviderError::new(class, format!("{what}: {}", why.unwrap_or(reason))));
    Ok(match reason {
        "STOP" => Finish::EndTurn,
        "MAX_TOKENS" => Finish::Length,
        "SAFETY"
        | "RECITATION"
        | "BLOCKLIST"
        | "PROHIBITED_CONTENT"
        | "SPII"
        | "IMAGE_SAFETY"
        | "LANGUAGE"
        | "MODEL_ARMOR"
        | "IMAGE_PROHIBITED_CONTENT"
        | "IMAGE_RECITATION" => Finish::ContentFilter,
        "MALFORMED_FUNCTION_CALL" | "UNEXPECTED_TOOL_CALL" | "MALFORMED_RESPONSE" | "NO_IMAGE" | "IMAGE_OTHER" | "TOO_MANY_TOOL_CALLS" => {
            return failure(Class::Malformed, "the model made a broken answer");
        }
        // The request lacks it; asking again does not mend that.
        "MISSING_THOUGHT_SIGNATURE" => return failure(Class::BadRequest, "the server misses a thought's signature"),
        _ => return Err(ProviderError::new(Class::Cut, format!("the server broke the answer off with the finish reason `{reason}`"))),
    })
}

/// The vendor counts thoughts beside the answer and tool prompts beside the prompt; here they are parts of them.
fn usage(counted: &Value) -> Option<Usage> {
    let get = |name: &str| lenient::count(counted.get(name));
    let (input, answer) = (get("promptTokenCount"), get("candidatesTokenCount"));
    let thoughts = get("thoughtsTokenCount").unwrap_or(0);
    input.or(answer)?;
    Some(Usage {
        input: input.unwrap_or(0).saturating_add(get("toolUsePromptTokenCount").unwrap_or(0)),
        output: answer.unwrap_or(0).saturating_add(thoughts),
        cached_input: get("cachedContentTokenCount").unwrap_or(0),
        cache_write: 0,
        reasoning: thoughts,
        estimated: false,
    })
}
