//! From Converse to events. Pure.
//!
//! A stream's totals follow its stop reason: the stream is whole at the stop reason and over at the totals.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::wire::{Answer, AnswerBlock, BlockDelta, BlockStart, BlockStop, CalledTool, MessageStop, Metadata, ReasoningDelta};
use crate::net::sse::Event;
use crate::provider::error::{Class, ProviderError, classify};
use crate::provider::frames::EXCEPTION_PREFIX;
use crate::provider::transport::{Decode, Flow};
use crate::provider::{Citation, Finish, ModelEvent, Usage, lenient, refusal};

/// The kind of a call whose tool the vendor runs itself.
const SERVER_TOOL: &str = "server_tool_use";

/// Reads answers, whole and streamed.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// The number of tool calls so far.
    calls: u32,
    /// The open blocks, by the vendor's index.
    open: BTreeMap<u32, OpenBlock>,
    has_stopped: bool,
    has_totals: bool,
}

/// A block of a stream that has not ended.
#[derive(Debug)]
enum OpenBlock {
    Tool {
        index: u32,
    },
    Reasoning {
        signature: Option<String>,
    },
    /// Hidden reasoning; its bytes come in base64, each piece for itself.
    Redacted {
        pieces: Vec<String>,
    },
}

impl Decode for Decoder {
    const EVENT_CAP: usize = 16 * 1024 * 1024;

    fn event(&mut self, event: &Event, out: &mut Vec<ModelEvent>) -> Result<Flow, ProviderError> {
        if let Some(kind) = event.event.strip_prefix(EXCEPTION_PREFIX) {
            return Err(exception(kind, &event.data));
        }
        let value: Value = lenient::parse(event.data.as_bytes()).map_err(malformed)?;
        let (name, value) = if event.event.is_empty() { unwrap_event(value) } else { (event.event.clone(), value) };
        match name.as_str() {
            "contentBlockStart" => self.start_block(parse(value)?, out),
            "contentBlockDelta" => self.extend_block(parse(value)?, out),
            "contentBlockStop" => {
                let stop: BlockStop = parse(value)?;
                self.close_block(stop.content_block_index.unwrap_or(0), out);
            }
            "messageStop" => {
                let stop: MessageStop = parse(value)?;
                while let Some((at, _)) = self.open.first_key_value() {
                    let at = *at;
                    self.close_block(at, out);
                }
                out.push(ModelEvent::Finish(finish(stop.stop_reason.as_deref())?));
                self.has_stopped = true;
            }
            "metadata" => {
                let metadata: Metadata = parse(value)?;
                out.extend(metadata.usage.as_ref().and_then(usage).map(ModelEvent::Usage));
                self.has_totals = true;
            }
            name if name.ends_with("Exception") => return Err(exception(name, &value.to_string())),
            // `messageStart`, and later additions.
            _ => {}
        }
        Ok(if self.has_stopped && self.has_totals { Flow::End } else { Flow::More })
    }

    fn whole(&mut self, body: &[u8], out: &mut Vec<ModelEvent>) -> Result<(), ProviderError> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Err(ProviderError::new(Class::Empty, "the answer has no body"));
        }
        let value: Value = lenient::parse(body).map_err(malformed)?;
        if value.get("output").is_none()
            && let Some(error) = refusal::error_in(&value)
        {
            return Err(refusal::in_stream(error));
        }
        let answer: Answer = parse(value)?;
        let Some(message) = answer.output.and_then(|output| output.message) else {
            return Err(ProviderError::new(Class::Malformed, "the answer has no message"));
        };
        for block in message.content {
            self.read_block(block, out);
        }
        out.extend(answer.usage.as_ref().and_then(usage).map(ModelEvent::Usage));
        out.push(ModelEvent::Finish(finish(answer.stop_reason.as_deref())?));
        self.has_stopped = true;
        Ok(())
    }

    fn is_whole(&self) -> bool {
        self.has_stopped
    }

    fn is_totalled(&self) -> bool {
        self.has_totals
    }
}

fn malformed(error: serde_json::Error) -> ProviderError {
    ProviderError::new(Class::Malformed, format!("the answer is not as agreed: {error}"))
}

fn parse<T: DeserializeOwned>(value: Value) -> Result<T, ProviderError> {
    serde_json::from_value(value).map_err(malformed)
}

/// Gateways that pass the stream on as JSON name each event by its only member: `{"messageStop": {...}}`.
fn unwrap_event(value: Value) -> (String, Value) {
    match value {
        Value::Object(members) if members.len() == 1 => members.into_iter().next().unwrap_or_default(),
        value => (String::new(), value),
    }
}

/// An error that ends a stream, by the name of its type.
fn exception(kind: &str, data: &str) -> ProviderError {
    let body: Value = serde_json::from_str(data).unwrap_or_default();
    let said = ["message", "Message", "originalMessage"].iter().find_map(|name| body.get(*name)?.as_str());
    let message = said.filter(|said| !said.trim().is_empty()).unwrap_or(if kind.is_empty() { "the stream failed" } else { kind });
    let class = match kind.to_ascii_lowercase().as_str() {
        "throttlingexception" | "servicequotaexceededexception" => Class::RateLimited,
        "serviceunavailableexception" | "modelnotreadyexception" => Class::Overloaded,
        "modeltimeoutexception" => Class::TimeoutFirstByte,
        "accessdeniedexception" => Class::Forbidden,
        "resourcenotfoundexception" => Class::NotFound,
        "validationexception" => classify(400, &[], message),
        // `internalServerException`, `modelStreamErrorException`, and later additions.
        _ => Class::ServerError,
    };
    ProviderError::new(class, message)
}

/// Reads why the model stopped. An unknown reason is no success.
fn finish(reason: Option<&str>) -> Result<Finish, ProviderError> {
    match reason {
        Some("end_turn" | "stop_sequence") => Ok(Finish::EndTurn),
        Some("tool_use") => Ok(Finish::ToolCalls),
        Some("max_tokens" | "model_context_window_exceeded") => Ok(Finish::Length),
        Some("guardrail_intervened" | "content_filtered" | "refusal") => Ok(Finish::ContentFilter),
        Some(reason @ ("malformed_model_output" | "malformed_tool_use")) => {
            Err(ProviderError::new(Class::Malformed, format!("the model made a broken answer (`{reason}`)")))
        }
        Some(reason) => Err(ProviderError::new(Class::Cut, format!("the model stopped for an unknown reason, `{reason}`"))),
        None => Err(ProviderError::new(Class::Cut, "the answer gives no stop reason")),
    }
}

/// Reads the totals. The vendor counts cached tokens beside the input; here they are part of it. Thoughts are not told apart.
fn usage(counted: &Value) -> Option<Usage> {
    let count = |names: &[&str]| lenient::count_of(counted, names);
    let (input, output) = (count(&["inputTokens"]), count(&["outputTokens"]));
    if input.is_none() && output.is_none() {
        return None;
    }
    let read = count(&["cacheReadInputTokens", "cacheReadInputTokenCount"]).unwrap_or(0);
    let written = count(&["cacheWriteInputTokens", "cacheWriteInputTokenCount"]).unwrap_or(0);
    Some(Usage {
        input: input.unwrap_or(0).saturating_add(read).saturating_add(written),
        output: output.unwrap_or(0),
        cached_input: read,
        cache_write: written,
        ..Usage::default()
    })
}

/// The page that a citation names; citations of documents name none.
fn cited_page(citation: &Value) -> Option<Citation> {
    let page = citation.pointer("/location/web/url")?.as_str()?;
    let title = citation.get("title").and_then(Value::as_str).filter(|title| !title.is_empty());
    Citation::at(page, title.map(str::to_owned))
}

/// Puts a blob together whose pieces were encoded one by one.
fn join_base64(pieces: &[String]) -> String {
    if let [piece] = pieces {
        return piece.clone();
    }
    let decoded: Option<Vec<Vec<u8>>> = pieces.iter().map(|piece| STANDARD.decode(piece).ok()).collect();
    decoded.map_or_else(|| pieces.concat(), |decoded| STANDARD.encode(decoded.concat()))
}

fn some(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

impl Decoder {
    /// Begins a block. In a stream a call of the vendor's own tool is given like any other; Dispatch asks for no such tools.
    fn start_block(&mut self, start: BlockStart, out: &mut Vec<ModelEvent>) {
        if let Some(tool) = start.start.and_then(|start| start.tool_use) {
            let index = self.start_call(tool, out);
            self.open.insert(start.content_block_index.unwrap_or(0), OpenBlock::Tool { index });
        }
    }

    fn start_call(&mut self, tool: CalledTool, out: &mut Vec<ModelEvent>) -> u32 {
        let index = self.calls;
        self.calls = self.calls.saturating_add(1);
        out.push(ModelEvent::ToolCallStart {
            index,
            id: tool.tool_use_id.unwrap_or_default(),
            name: tool.name.unwrap_or_default(),
            signature: None,
        });
        extend_call(index, tool.input, out);
        index
    }

    fn extend_block(&mut self, more: BlockDelta, out: &mut Vec<ModelEvent>) {
        let at = more.content_block_index.unwrap_or(0);
        let Some(delta) = more.delta else { return };
        out.extend(some(delta.text).map(ModelEvent::Text));
        out.extend(delta.citation.as_ref().and_then(cited_page).map(ModelEvent::Citation));
        if let (Some(tool), Some(OpenBlock::Tool { index })) = (delta.tool_use, self.open.get(&at)) {
            extend_call(*index, tool.input, out);
        }
        if let Some(reasoning) = delta.reasoning_content {
            self.extend_reasoning(at, reasoning, out);
        }
    }

    /// Blocks of reasoning begin with their first delta.
    fn extend_reasoning(&mut self, at: u32, delta: ReasoningDelta, out: &mut Vec<ModelEvent>) {
        if let Some(piece) = some(delta.redacted_content) {
            match self.open.get_mut(&at) {
                Some(OpenBlock::Redacted { pieces }) => pieces.push(piece),
                _ => {
                    self.close_block(at, out);
                    self.open.insert(at, OpenBlock::Redacted { pieces: vec![piece] });
                }
            }
            return;
        }
        let block = self.open.entry(at).or_insert(OpenBlock::Reasoning { signature: None });
        if let (OpenBlock::Reasoning { signature }, Some(more)) = (block, some(delta.signature)) {
            signature.get_or_insert_default().push_str(&more);
        }
        out.extend(some(delta.text).map(ModelEvent::Reasoning));
    }

    fn close_block(&mut self, at: u32, out: &mut Vec<ModelEvent>) {
        match self.open.remove(&at) {
            Some(OpenBlock::Reasoning { signature }) => out.push(ModelEvent::ReasoningEnd { signature, redacted: false }),
            Some(OpenBlock::Redacted { pieces }) => {
                out.push(ModelEvent::ReasoningEnd { signature: Some(join_base64(&pieces)), redacted: true });
            }
            Some(OpenBlock::Tool { .. }) | None => {}
        }
    }

    fn read_block(&mut self, block: AnswerBlock, out: &mut Vec<ModelEvent>) {
        out.extend(some(block.text).map(ModelEvent::Text));
        if let Some(cited) = block.citations_content {
            out.extend(cited.content.into_iter().filter_map(|piece| some(piece.text)).map(ModelEvent::Text));
            out.extend(cited.citations.iter().filter_map(cited_page).map(ModelEvent::Citation));
        }
        if let Some(tool) = block.tool_use.filter(|tool| tool.kind.as_deref() != Some(SERVER_TOOL)) {
            self.start_call(tool, out);
        }
        let Some(reasoning) = block.reasoning_content else { return };
        if let Some(data) = some(reasoning.redacted_content) {
            out.push(ModelEvent::ReasoningEnd { signature: Some(data), redacted: true });
        }
        if let Some(thought) = reasoning.reasoning_text {
            out.extend(some(thought.text).map(ModelEvent::Reasoning));
            out.push(ModelEvent::ReasoningEnd { signature: some(thought.signature), redacted: false });
        }
    }
}

/// Gives more of a call's arguments; a piece that is no text is JSON itself.
fn extend_call(index: u32, input: Value, out: &mut Vec<ModelEvent>) {
    let delta = match input {
        Value::Null => return,
        Value::String(text) if text.is_empty() => return,
        Value::String(text) => text,
        // An empty object is what the arguments come to anyway.
        Value::Object(members) if members.is_empty() => return,
        input => input.to_string(),
    };
    out.push(ModelEvent::ToolCallDelta { index, delta });
}
