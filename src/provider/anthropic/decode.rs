//! From the messages format to events. Pure.

use serde_json::Value;

use super::wire::{self, Answer, BlockDelta, Content, StreamEvent};
use crate::net::sse::Event;
use crate::provider::error::{Class, ProviderError};
use crate::provider::transport::{Decode, Flow};
use crate::provider::{Citation, Finish, ModelEvent, Usage, refusal};

/// Reads answers, whole and streamed.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    usage: wire::Usage,
    /// Tool calls begun.
    calls: u32,
    /// The block that is open, by the vendor's index.
    open: Option<(u32, Open)>,
    stopped: bool,
}

#[derive(Debug)]
enum Open {
    Plain,
    Thinking { signature: Option<String> },
    Tool { index: u32 },
}

impl Decode for Decoder {
    fn event(&mut self, event: &Event, out: &mut Vec<ModelEvent>) -> Result<Flow, ProviderError> {
        let event: StreamEvent = serde_json::from_str(&event.data).map_err(malformed)?;
        match event {
            StreamEvent::MessageStart { message } => {
                self.note(message.usage);
                // The count of output at the start is a placeholder.
                out.push(ModelEvent::Usage(Usage { output: 0, ..self.total() }));
            }
            StreamEvent::ContentBlockStart { index, content_block } => self.open(index, content_block, out),
            StreamEvent::ContentBlockDelta { index, delta } => self.delta(index, delta, out),
            StreamEvent::ContentBlockStop { index } => self.close(index, out),
            StreamEvent::MessageDelta { delta, usage } => {
                self.note(usage);
                out.push(ModelEvent::Usage(self.total()));
                out.extend(delta.stop_reason.map(|reason| ModelEvent::Finish(finish(&reason))));
            }
            StreamEvent::MessageStop => {
                self.stopped = true;
                return Ok(Flow::End);
            }
            StreamEvent::Error { error } => return Err(refusal::in_stream(&error)),
            StreamEvent::Other => {}
        }
        Ok(Flow::More)
    }

    fn whole(&mut self, body: &[u8], out: &mut Vec<ModelEvent>) -> Result<(), ProviderError> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Err(ProviderError::new(Class::Empty, "the answer has no body"));
        }
        let value: Value = serde_json::from_slice(body).map_err(malformed)?;
        if let Some(error) = value.get("error").filter(|error| !error.is_null()) {
            return Err(refusal::in_stream(error));
        }
        let answer: Answer = serde_json::from_value(value).map_err(malformed)?;
        for (index, content) in (0u32..).zip(answer.content) {
            self.open(index, content, out);
            self.close(index, out);
        }
        self.note(answer.usage);
        out.push(ModelEvent::Usage(self.total()));
        out.extend(answer.stop_reason.map(|reason| ModelEvent::Finish(finish(&reason))));
        self.stopped = true;
        Ok(())
    }

    fn is_whole(&self) -> bool {
        self.stopped
    }
}

fn malformed(error: serde_json::Error) -> ProviderError {
    ProviderError::new(Class::Malformed, format!("the answer is not as agreed: {error}"))
}

impl Decoder {
    fn open(&mut self, at: u32, content: Content, out: &mut Vec<ModelEvent>) {
        let open = match content {
            Content::Text { text, citations } => {
                out.extend(some(text).map(ModelEvent::Text));
                let notes = citations.as_ref().and_then(Value::as_array).into_iter().flatten();
                out.extend(notes.filter_map(cited).map(ModelEvent::Citation));
                Open::Plain
            }
            Content::Thinking { thinking, signature } => {
                out.extend(some(thinking).map(ModelEvent::Reasoning));
                Open::Thinking { signature: signature.and_then(some) }
            }
            Content::RedactedThinking { data } => {
                out.push(ModelEvent::ReasoningEnd { signature: Some(data), redacted: true });
                Open::Plain
            }
            Content::ToolUse { id, name, input } => {
                let index = self.calls;
                self.calls += 1;
                out.push(ModelEvent::ToolCallStart { index, id, name, signature: None });
                // A stream opens with an empty object and sends the text after it.
                let given = input.as_object().is_some_and(|input| !input.is_empty());
                out.extend(given.then(|| ModelEvent::ToolCallDelta { index, delta: input.to_string() }));
                Open::Tool { index }
            }
            Content::Other => Open::Plain,
        };
        self.open = Some((at, open));
    }

    fn delta(&mut self, at: u32, delta: BlockDelta, out: &mut Vec<ModelEvent>) {
        let open = self.open.as_mut().filter(|(index, _)| *index == at).map(|(_, open)| open);
        match (delta, open) {
            (BlockDelta::TextDelta { text }, _) => out.extend(some(text).map(ModelEvent::Text)),
            (BlockDelta::CitationsDelta { citation }, _) => out.extend(cited(&citation).map(ModelEvent::Citation)),
            (BlockDelta::ThinkingDelta { thinking }, _) => out.extend(some(thinking).map(ModelEvent::Reasoning)),
            (BlockDelta::SignatureDelta { signature: more }, Some(Open::Thinking { signature })) => {
                signature.get_or_insert_default().push_str(&more);
            }
            (BlockDelta::InputJsonDelta { partial_json }, Some(Open::Tool { index })) => {
                let index = *index;
                out.extend(some(partial_json).map(|delta| ModelEvent::ToolCallDelta { index, delta }));
            }
            _ => {}
        }
    }

    fn close(&mut self, at: u32, out: &mut Vec<ModelEvent>) {
        if let Some((_, Open::Thinking { signature })) = self.open.take_if(|(index, _)| *index == at) {
            out.push(ModelEvent::ReasoningEnd { signature, redacted: false });
        }
    }

    /// Each field's last value wins: later totals repeat only what changed.
    fn note(&mut self, usage: Option<wire::Usage>) {
        let Some(new) = usage else { return };
        self.usage = wire::Usage {
            input_tokens: new.input_tokens.or(self.usage.input_tokens),
            output_tokens: new.output_tokens.or(self.usage.output_tokens),
            cache_read_input_tokens: new.cache_read_input_tokens.or(self.usage.cache_read_input_tokens),
            cache_creation_input_tokens: new.cache_creation_input_tokens.or(self.usage.cache_creation_input_tokens),
        };
    }

    /// The vendor counts cached tokens beside the input; here they are part of it. Thoughts are not told apart.
    fn total(&self) -> Usage {
        let usage = &self.usage;
        let (read, written) = (usage.cache_read_input_tokens.unwrap_or(0), usage.cache_creation_input_tokens.unwrap_or(0));
        Usage {
            input: usage.input_tokens.unwrap_or(0).saturating_add(read).saturating_add(written),
            output: usage.output_tokens.unwrap_or(0),
            cached_input: read,
            cache_write: written,
            reasoning: 0,
            estimated: false,
        }
    }
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// A page that was cited; places in documents of the request have no address.
fn cited(citation: &Value) -> Option<Citation> {
    Citation::of(citation, &["url"])
}

fn finish(reason: &str) -> Finish {
    match reason {
        "end_turn" | "stop_sequence" | "pause_turn" => Finish::EndTurn,
        "tool_use" => Finish::ToolCalls,
        "max_tokens" | "model_context_window_exceeded" => Finish::Length,
        "refusal" => Finish::ContentFilter,
        _ => Finish::Unknown,
    }
}
