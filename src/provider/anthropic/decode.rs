//! From the messages format to events. Pure.

use serde_json::Value;

use super::wire::{Answer, BlockDelta, Content, StreamEvent};
use crate::net::sse::Event;
use crate::provider::error::{Class, ProviderError};
use crate::provider::transport::{Decode, Flow};
use crate::provider::{Citation, Finish, ModelEvent, Usage, lenient, refusal};

/// Reads answers, whole and streamed.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    usage: Usage,
    /// Tool calls begun.
    calls: u32,
    /// The blocks that are open, by the vendor's index.
    open: Vec<(u32, OpenBlock)>,
    started: bool,
    stopped: bool,
}

#[derive(Debug)]
enum OpenBlock {
    Plain,
    Thinking {
        signature: Option<String>,
    },
    Tool {
        index: u32,
        id: String,
        /// The input that the block began with. Most servers begin with an empty object and send the text after it; where they give both,
        /// it is given twice.
        given: Option<String>,
    },
}

impl Decode for Decoder {
    fn event(&mut self, event: &Event, out: &mut Vec<ModelEvent>) -> Result<Flow, ProviderError> {
        let parsed: StreamEvent = match lenient::parse(event.data.as_bytes()) {
            Ok(parsed) => parsed,
            Err(error) => return Err(unread(event, error)),
        };
        match parsed {
            StreamEvent::MessageStart { message } => {
                // A relay that lost its upstream restarts the message; discard the content before it.
                if std::mem::replace(&mut self.started, true) {
                    (self.calls, self.open) = (0, Vec::new());
                    out.push(ModelEvent::Restart);
                }
                self.count(message.and_then(|message| message.usage).as_ref());
                // The count of output at the start is a placeholder.
                self.usage.output = 0;
                out.push(ModelEvent::Usage(self.usage));
            }
            StreamEvent::ContentBlockStart { index, content_block } => {
                let index = index.unwrap_or_else(|| self.open.last().map_or(0, |(last, _)| last.saturating_add(1)));
                self.open_block(index, content_block, out);
            }
            StreamEvent::ContentBlockDelta { index, delta } => self.add_delta(index, delta, out),
            StreamEvent::ContentBlockStop { index } => self.close_block(index, out),
            StreamEvent::MessageDelta { delta, usage } => {
                self.count(usage.as_ref());
                out.push(ModelEvent::Usage(self.usage));
                if let Some(reason) = delta.and_then(|delta| delta.stop_reason) {
                    out.push(ModelEvent::Finish(finish(&reason)?));
                }
            }
            StreamEvent::MessageStop => {
                self.stopped = true;
                return Ok(Flow::End);
            }
            StreamEvent::Error { error } if !error.is_null() => return Err(refusal::in_stream(&error)),
            StreamEvent::Error { .. } => return Err(unexplained(event)),
            StreamEvent::Other if event.event == "error" => return Err(unexplained(event)),
            StreamEvent::Other => {}
        }
        Ok(Flow::More)
    }

    fn whole(&mut self, body: &[u8], out: &mut Vec<ModelEvent>) -> Result<(), ProviderError> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Err(ProviderError::new(Class::Empty, "the answer has no body"));
        }
        let value: Value = lenient::parse(body).map_err(malformed)?;
        let is_answer = value.get("content").is_some_and(Value::is_array);
        if let Some(error) = refusal::error_in(&value).filter(|_| !is_answer || value.get("error").is_some_and(Value::is_object)) {
            return Err(refusal::in_stream(error));
        }
        let answer: Answer = serde_json::from_value(value).map_err(malformed)?;
        for (index, content) in (0u32..).zip(answer.content) {
            self.open_block(index, content, out);
            self.close_block(Some(index), out);
        }
        self.count(answer.usage.as_ref());
        out.push(ModelEvent::Usage(self.usage));
        if let Some(reason) = answer.stop_reason {
            out.push(ModelEvent::Finish(finish(&reason)?));
        }
        self.stopped = true;
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<ModelEvent>) {
        while let Some((index, _)) = self.open.first() {
            self.close_block(Some(*index), out);
        }
    }

    fn is_whole(&self) -> bool {
        self.stopped
    }
}

fn malformed(error: serde_json::Error) -> ProviderError {
    ProviderError::new(Class::Malformed, format!("the answer is not a message: {error}"))
}

/// Classifies an event outside the format: an error in another shape, or unreadable data.
fn unread(event: &Event, error: serde_json::Error) -> ProviderError {
    let value: Option<Value> = lenient::parse(event.data.as_bytes()).ok();
    match value.as_ref().and_then(refusal::error_in) {
        Some(error) => refusal::in_stream(error),
        None if event.event == "error" => unexplained(event),
        None => malformed(error),
    }
}

fn unexplained(event: &Event) -> ProviderError {
    let value: Value = lenient::parse(event.data.as_bytes()).unwrap_or_else(|_| Value::from(event.data.as_str()));
    refusal::in_stream(refusal::error_in(&value).unwrap_or(&value))
}

impl Decoder {
    fn open_block(&mut self, at: u32, content: Content, out: &mut Vec<ModelEvent>) {
        // A relay that sends an event twice does not make a second call.
        let repeats = |open: &OpenBlock| match (open, &content) {
            (OpenBlock::Tool { id: known, .. }, Content::ToolUse { id: Some(id), .. }) => known == id,
            _ => false,
        };
        if self.open.iter().any(|(index, open)| *index == at && repeats(open)) {
            return;
        }
        let open = match content {
            Content::Text { text, citations } => {
                out.extend(some(text).map(ModelEvent::Text));
                let notes = citations.as_ref().and_then(Value::as_array).into_iter().flatten();
                out.extend(notes.filter_map(cited).map(ModelEvent::Citation));
                OpenBlock::Plain
            }
            Content::Thinking { thinking, signature } => {
                out.extend(some(thinking).map(ModelEvent::Reasoning));
                OpenBlock::Thinking { signature: some(signature) }
            }
            Content::RedactedThinking { data } => {
                out.push(ModelEvent::ReasoningEnd { signature: data, redacted: true });
                OpenBlock::Plain
            }
            Content::ToolUse { id, name, input } => {
                let index = self.calls;
                self.calls += 1;
                let (id, name) = (id.unwrap_or_default(), name.unwrap_or_default());
                out.push(ModelEvent::ToolCallStart { index, id: id.clone(), name, signature: None });
                let given = match input {
                    Value::Object(input) if input.is_empty() => None,
                    Value::Null => None,
                    Value::String(text) => some(Some(text)),
                    input => Some(input.to_string()),
                };
                OpenBlock::Tool { index, id, given }
            }
            Content::Other => OpenBlock::Plain,
        };
        self.open.push((at, open));
    }

    /// The open block of this index; without an index, the newest.
    fn block(&mut self, at: Option<u32>) -> Option<&mut OpenBlock> {
        let mut blocks = self.open.iter_mut().rev();
        blocks.find(|(index, _)| at.is_none_or(|at| at == *index)).map(|(_, open)| open)
    }

    fn add_delta(&mut self, at: Option<u32>, delta: BlockDelta, out: &mut Vec<ModelEvent>) {
        match (delta, self.block(at)) {
            (BlockDelta::TextDelta { text }, _) => out.extend(some(text).map(ModelEvent::Text)),
            (BlockDelta::CitationsDelta { citation }, _) => out.extend(cited(&citation).map(ModelEvent::Citation)),
            (BlockDelta::ThinkingDelta { thinking }, _) => out.extend(some(thinking).map(ModelEvent::Reasoning)),
            (BlockDelta::SignatureDelta { signature: more }, Some(OpenBlock::Thinking { signature })) => {
                signature.get_or_insert_default().push_str(&more.unwrap_or_default());
            }
            (BlockDelta::InputJsonDelta { partial_json }, Some(OpenBlock::Tool { index, given, .. })) => {
                if let Some(delta) = some(partial_json) {
                    *given = None;
                    out.push(ModelEvent::ToolCallDelta { index: *index, delta });
                }
            }
            _ => {}
        }
    }

    fn close_block(&mut self, at: Option<u32>, out: &mut Vec<ModelEvent>) {
        let Some(place) = self.open.iter().rposition(|(index, _)| at.is_none_or(|at| at == *index)) else { return };
        match self.open.remove(place).1 {
            OpenBlock::Thinking { signature } => out.push(ModelEvent::ReasoningEnd { signature, redacted: false }),
            OpenBlock::Tool { index, given: Some(delta), .. } => out.push(ModelEvent::ToolCallDelta { index, delta }),
            OpenBlock::Tool { given: None, .. } | OpenBlock::Plain => {}
        }
    }

    /// Takes a total: later ones repeat only what changed, and a relay's zero erases nothing. The vendor counts cached tokens beside the
    /// input; here they are part of it. Thoughts are not counted apart.
    fn count(&mut self, usage: Option<&Value>) {
        let Some(usage) = usage else { return };
        let get = |name: &str| lenient::count(usage.get(name));
        let old = &self.usage;
        let counts = ["input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"];
        let speaks = counts.iter().any(|name| get(name).is_some_and(|count| count > 0));
        let pick = |new: Option<u64>, old: u64| new.filter(|_| speaks).unwrap_or(old);
        let fresh = old.input.saturating_sub(old.cached_input).saturating_sub(old.cache_write);
        let (read, written) =
            (pick(get("cache_read_input_tokens"), old.cached_input), pick(get("cache_creation_input_tokens"), old.cache_write));
        self.usage = Usage {
            input: pick(get("input_tokens"), fresh).saturating_add(read).saturating_add(written),
            output: get("output_tokens").filter(|count| *count > 0).unwrap_or(old.output),
            cached_input: read,
            cache_write: written,
            reasoning: 0,
            estimated: false,
        };
    }
}

fn some(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

/// A page that was cited; places in documents of the request have no address.
fn cited(citation: &Value) -> Option<Citation> {
    Citation::of(citation, &["url"])
}

fn finish(reason: &str) -> Result<Finish, ProviderError> {
    Ok(match reason {
        "end_turn" | "stop_sequence" => Finish::EndTurn,
        "pause_turn" => Finish::Pause,
        "tool_use" => Finish::ToolCalls,
        "max_tokens" | "model_context_window_exceeded" => Finish::Length,
        "refusal" => Finish::ContentFilter,
        other => return Err(ProviderError::new(Class::Cut, format!("the server broke the answer off with the stop reason `{other}`"))),
    })
}
