//! From the Responses format to events. Pure.
//!
//! A stream says everything up to three times: in deltas, in the last event of each item and in the whole answer at its end. Each time
//! only what is new is emitted, so that a server may leave out any of the three.

use std::collections::HashSet;

use serde::de::IgnoredAny;
use serde_json::Value;

use super::wire::{AnswerOutline, OutlineItem};
use crate::net::sse::Event;
use crate::provider::error::{Class, ProviderError};
use crate::provider::lenient::{self, SurrogateJoiner, count};
use crate::provider::transport::{Decode, Flow};
use crate::provider::{Citation, Finish, ModelEvent, Usage, refusal};

/// Reads answers, whole and streamed.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// In the order in which they began.
    items: Vec<OutputItem>,
    /// The number of tool calls begun.
    calls: u32,
    /// The addresses of the citations emitted.
    cited: HashSet<String>,
    /// A part of the answer is a refusal.
    refused: bool,
    ended: bool,
}

impl Decode for Decoder {
    /// The last event repeats the whole answer, pictures included.
    const EVENT_CAP: usize = 32 * 1024 * 1024;

    fn event(&mut self, event: &Event, out: &mut Vec<ModelEvent>) -> Result<Flow, ProviderError> {
        let data = event.data.trim();
        // Some servers send the end mark of chat completions, too; here it proves nothing.
        if data.is_empty() || data == "[DONE]" {
            return Ok(Flow::More);
        }
        let value: Value = match lenient::parse(data.as_bytes()) {
            Ok(value) => value,
            Err(_) if event.event == "error" => Value::from(data),
            Err(error) => return Err(malformed(&error)),
        };
        let kind = match text(&value, "type") {
            "" => event.event.as_str(),
            kind => kind,
        };
        match kind {
            "response.output_item.added" => self.open_item(&value, out),
            "response.output_item.done" => self.close_item(&value, out)?,
            "response.output_text.delta" => self.append_text(&value, out),
            "response.refusal.delta" => {
                self.refused = true;
                self.append_text(&value, out);
            }
            "response.output_text.annotation.added" => emit_citation(&mut self.cited, value.get("annotation"), out),
            "response.reasoning_summary_text.delta" => self.append_reasoning(ReasoningPart::Summary, "summary_index", &value, out),
            "response.reasoning_text.delta" => self.append_reasoning(ReasoningPart::Content, "content_index", &value, out),
            "response.function_call_arguments.delta" => self.append_arguments(ItemKind::FunctionCall, &value, out),
            "response.custom_tool_call_input.delta" => self.append_arguments(ItemKind::CustomCall, &value, out),
            "response.function_call_arguments.done" => self.settle_arguments(ItemKind::FunctionCall, "arguments", &value, out)?,
            "response.custom_tool_call_input.done" => self.settle_arguments(ItemKind::CustomCall, "input", &value, out)?,
            "response.completed" => return self.finish_answer(&value, "completed", out).map(|()| Flow::End),
            "response.incomplete" => return self.finish_answer(&value, "incomplete", out).map(|()| Flow::End),
            "response.failed" => return self.finish_answer(&value, "failed", out).map(|()| Flow::End),
            "response.cancelled" => return self.finish_answer(&value, "cancelled", out).map(|()| Flow::End),
            "error" => return Err(refusal::in_stream(refusal::error_in(&value).unwrap_or(&value))),
            kind if kind.starts_with("response.") => {}
            // A relay in front of the server reports its own errors without a type.
            _ => {
                if let Some(error) = member(&value, "error").filter(|error| says_something(error)) {
                    return Err(refusal::in_stream(error));
                }
            }
        }
        Ok(Flow::More)
    }

    fn whole(&mut self, body: &[u8], out: &mut Vec<ModelEvent>) -> Result<(), ProviderError> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Err(ProviderError::new(Class::Empty, "the answer has no body"));
        }
        let value: Value = lenient::parse(body).map_err(|error| malformed(&error))?;
        if member(&value, "output").is_none()
            && let Some(error) = refusal::error_in(&value)
        {
            return Err(refusal::in_stream(error));
        }
        self.finish_answer(&value, "", out)
    }

    fn is_whole(&self) -> bool {
        self.ended
    }
}

fn malformed(error: &serde_json::Error) -> ProviderError {
    ProviderError::new(Class::Malformed, format!("the answer is not as agreed: {error}"))
}

/// A kind of item in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ItemKind {
    Message,
    Reasoning,
    FunctionCall,
    /// A call whose arguments are plain text.
    CustomCall,
    /// The result of the server's image generation.
    Picture,
    /// A tool that the server runs, and kinds that later versions bring.
    Other,
}

impl ItemKind {
    fn of(item: &Value) -> Self {
        match text(item, "type") {
            "message" => Self::Message,
            "reasoning" => Self::Reasoning,
            "function_call" => Self::FunctionCall,
            "custom_tool_call" => Self::CustomCall,
            "image_generation_call" => Self::Picture,
            _ => Self::Other,
        }
    }
}

/// The two places of a reasoning item's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReasoningPart {
    Summary,
    Content,
}

/// The marks by which an event names its item. Servers leave some out, or get some wrong.
#[derive(Debug, Clone, Copy)]
struct ItemKey<'v> {
    kind: ItemKind,
    id: &'v str,
    index: Option<u64>,
    call_id: &'v str,
}

impl<'v> ItemKey<'v> {
    fn of_delta(kind: ItemKind, event: &'v Value) -> Self {
        Self { kind, id: text(event, "item_id"), index: count(event.get("output_index")), call_id: "" }
    }

    fn of_item(item: &'v Value, index: Option<u64>) -> Self {
        Self { kind: ItemKind::of(item), id: text(item, "id"), index, call_id: text(item, "call_id") }
    }
}

/// An item of the answer, as far as it has come.
#[derive(Debug)]
struct OutputItem {
    kind: ItemKind,
    id: String,
    index: Option<u64>,
    call_id: String,
    /// The item's last event has come.
    done: bool,
    /// The text emitted so far, of an answer or of reasoning.
    text: String,
    joiner: SurrogateJoiner,
    /// The part of the reasoning that is being written.
    part: Option<(ReasoningPart, u64)>,
    call: CallState,
    /// A reasoning item in full, to be sent back.
    sealed: Option<Value>,
    /// The picture has been emitted.
    drawn: bool,
    phase: Option<String>,
}

/// A tool call, as far as it has come.
#[derive(Debug, Default)]
struct CallState {
    /// The position among the calls, once the call has been announced.
    position: Option<u32>,
    name: String,
    arguments: String,
    /// How much of the arguments has been emitted.
    emitted: usize,
    /// The server has repeated the arguments as a whole.
    confirmed: bool,
}

impl OutputItem {
    fn new(key: &ItemKey<'_>) -> Self {
        Self {
            kind: key.kind,
            id: key.id.to_owned(),
            index: key.index,
            call_id: key.call_id.to_owned(),
            done: false,
            text: String::new(),
            joiner: SurrogateJoiner::default(),
            part: None,
            call: CallState::default(),
            sealed: None,
            drawn: false,
            phase: None,
        }
    }

    /// Whether the item may be the one that the key names: of the same kind, and not another call.
    fn may_be(&self, key: &ItemKey<'_>) -> bool {
        self.kind == key.kind && (self.call_id.is_empty() || key.call_id.is_empty() || self.call_id == key.call_id)
    }

    fn has_id(&self, key: &ItemKey<'_>) -> bool {
        !key.id.is_empty() && self.id == key.id
    }

    fn has_index(&self, key: &ItemKey<'_>) -> bool {
        key.index.is_some() && self.index == key.index
    }

    fn has_call_id(&self, key: &ItemKey<'_>) -> bool {
        !key.call_id.is_empty() && self.call_id == key.call_id
    }

    /// Takes over the members that an earlier event did not have.
    fn fill_members(&mut self, item: &Value) {
        let fill = |own: &mut String, name: &str| {
            if own.is_empty() {
                text(item, name).clone_into(own);
            }
        };
        fill(&mut self.id, "id");
        fill(&mut self.call_id, "call_id");
        fill(&mut self.call.name, "name");
        let phase = text(item, "phase");
        if !phase.is_empty() {
            self.phase = Some(phase.to_owned());
        }
    }

    fn append_text(&mut self, delta: &str, out: &mut Vec<ModelEvent>) {
        if !delta.is_empty() {
            self.text.push_str(delta);
            out.push(ModelEvent::Text(delta.to_owned()));
        }
    }

    fn append_reasoning(&mut self, delta: &str, out: &mut Vec<ModelEvent>) {
        if !delta.is_empty() {
            self.text.push_str(delta);
            out.push(ModelEvent::Reasoning(delta.to_owned()));
        }
    }

    /// Emits what is new of a call. A call waits for its name.
    fn emit_call(&mut self, calls: &mut u32, out: &mut Vec<ModelEvent>) {
        if self.call.position.is_none() && self.call.name.is_empty() && !self.done {
            return;
        }
        let index = self.call.position.unwrap_or_else(|| {
            let index = *calls;
            *calls = calls.saturating_add(1);
            let id = if self.call_id.is_empty() { &self.id } else { &self.call_id };
            out.push(ModelEvent::ToolCallStart { index, id: id.clone(), name: self.call.name.clone(), signature: None });
            index
        });
        self.call.position = Some(index);
        let delta = self.call.arguments.get(self.call.emitted..).unwrap_or_default();
        if !delta.is_empty() {
            out.push(ModelEvent::ToolCallDelta { index, delta: delta.to_owned() });
        }
        self.call.emitted = self.call.arguments.len();
    }

    /// Compares the arguments with the whole that the server gives at their end, and takes over what is missing.
    fn settle_arguments(&mut self, whole: &str) -> Result<(), ProviderError> {
        let call = &mut self.call;
        if let Some(rest) = whole.strip_prefix(call.arguments.as_str()) {
            call.arguments.push_str(rest);
            call.confirmed = true;
        } else if whole.is_empty() {
            // The server does not repeat them.
        } else if call.emitted == 0 {
            whole.clone_into(&mut call.arguments);
            call.confirmed = true;
        } else if !is_json(&call.arguments) && is_json(whole) {
            let message = format!("the arguments of a call of `{}` came with a piece missing", call.name);
            return Err(ProviderError::new(Class::Malformed, message));
        }
        Ok(())
    }

    /// Whether a call can be made: the server has given it in full.
    fn is_whole_call(&self) -> bool {
        self.call.position.is_some() && (self.call.confirmed || self.kind == ItemKind::CustomCall || is_json(&self.call.arguments))
    }
}

impl Decoder {
    /// The last item that a test accepts among those which the key may name.
    fn last_item(&self, key: &ItemKey<'_>, accepts: impl Fn(&OutputItem) -> bool) -> Option<usize> {
        self.items.iter().rposition(|item| item.may_be(key) && accepts(item))
    }

    /// The item that an event belongs to. An id and an index together name it best; of the two the index is more often right, since some
    /// servers give an item another id in every event.
    fn find_item(&self, key: &ItemKey<'_>) -> Option<usize> {
        self.last_item(key, |item| item.has_id(key) && item.has_index(key))
            .or_else(|| self.last_item(key, |item| !item.done && item.has_index(key)))
            .or_else(|| self.last_item(key, |item| !item.done && (item.has_id(key) || item.has_call_id(key))))
            .or_else(|| self.last_item(key, |item| key.index.is_none() && item.has_id(key)))
            .or_else(|| self.last_item(key, |item| key.id.is_empty() && item.has_index(key)))
            .or_else(|| self.last_item(key, |item| key.index.is_none() && key.id.is_empty() && !item.done))
            .or_else(|| self.last_item(key, |item| item.index.is_none() && item.id.is_empty() && !item.done))
    }

    fn push_item(&mut self, key: &ItemKey<'_>) -> usize {
        self.items.push(OutputItem::new(key));
        self.items.len() - 1
    }

    fn find_or_push(&mut self, key: &ItemKey<'_>) -> Option<&mut OutputItem> {
        let at = self.find_item(key).unwrap_or_else(|| self.push_item(key));
        self.items.get_mut(at)
    }

    fn open_item(&mut self, event: &Value, out: &mut Vec<ModelEvent>) {
        let Some(value) = member(event, "item") else { return };
        let key = ItemKey::of_item(value, count(event.get("output_index")));
        // An item begins once; a delta may have come before its beginning.
        let known = self.last_item(&key, |item| item.has_id(&key) && (key.index.is_none() || item.has_index(&key)));
        let at = known.unwrap_or_else(|| self.push_item(&key));
        let Some(item) = self.items.get_mut(at) else { return };
        item.fill_members(value);
        if matches!(item.kind, ItemKind::FunctionCall | ItemKind::CustomCall) {
            item.emit_call(&mut self.calls, out);
        }
    }

    fn close_item(&mut self, event: &Value, out: &mut Vec<ModelEvent>) -> Result<(), ProviderError> {
        let Some(value) = member(event, "item") else { return Ok(()) };
        let key = ItemKey::of_item(value, count(event.get("output_index")));
        let at = self.find_item(&key).unwrap_or_else(|| self.push_item(&key));
        self.complete_item(at, value, out)
    }

    fn append_text(&mut self, event: &Value, out: &mut Vec<ModelEvent>) {
        let key = ItemKey::of_delta(ItemKind::Message, event);
        if let Some(item) = self.find_or_push(&key) {
            let delta = item.joiner.join(text(event, "delta").to_owned());
            item.append_text(&delta, out);
        }
    }

    fn append_reasoning(&mut self, part: ReasoningPart, index: &str, event: &Value, out: &mut Vec<ModelEvent>) {
        let key = ItemKey::of_delta(ItemKind::Reasoning, event);
        let Some(item) = self.find_or_push(&key) else { return };
        let delta = item.joiner.join(text(event, "delta").to_owned());
        if delta.is_empty() {
            return;
        }
        let part = Some((part, count(event.get(index)).unwrap_or(0)));
        if item.part != part && !item.text.is_empty() {
            item.append_reasoning("\n", out);
        }
        item.part = part;
        item.append_reasoning(&delta, out);
    }

    /// Takes more of a call's arguments. Those of an unknown call wait for the event that gives them as a whole.
    fn append_arguments(&mut self, kind: ItemKind, event: &Value, out: &mut Vec<ModelEvent>) {
        let at = self.find_item(&ItemKey::of_delta(kind, event));
        let Some(item) = at.and_then(|at| self.items.get_mut(at)) else { return };
        let delta = item.joiner.join(text(event, "delta").to_owned());
        item.call.arguments.push_str(&delta);
        item.emit_call(&mut self.calls, out);
    }

    fn settle_arguments(&mut self, kind: ItemKind, name: &str, event: &Value, out: &mut Vec<ModelEvent>) -> Result<(), ProviderError> {
        let at = self.find_item(&ItemKey::of_delta(kind, event));
        let Some(item) = at.and_then(|at| self.items.get_mut(at)) else { return Ok(()) };
        item.settle_arguments(&arguments_text(event.get(name)))?;
        item.emit_call(&mut self.calls, out);
        Ok(())
    }

    /// Takes an item in full.
    fn complete_item(&mut self, at: usize, value: &Value, out: &mut Vec<ModelEvent>) -> Result<(), ProviderError> {
        let Some(item) = self.items.get_mut(at) else { return Ok(()) };
        let first = !std::mem::replace(&mut item.done, true);
        item.fill_members(value);
        match item.kind {
            ItemKind::Message => {
                self.refused |= list(value, "content").iter().any(|part| text(part, "type") == "refusal");
                let said = join_halves(&message_text(value));
                if let Some(rest) = said.strip_prefix(item.text.as_str()) {
                    item.append_text(rest, out);
                }
                for note in list(value, "content").iter().flat_map(|part| list(part, "annotations")) {
                    emit_citation(&mut self.cited, Some(note), out);
                }
            }
            ItemKind::Reasoning => {
                let thought = join_halves(&reasoning_text(value));
                if let Some(rest) = thought.strip_prefix(item.text.as_str()) {
                    item.append_reasoning(rest, out);
                }
                if first && !item.text.is_empty() {
                    out.push(ModelEvent::ReasoningEnd { signature: None, redacted: false });
                }
                if item.sealed.is_none() || !text(value, "encrypted_content").is_empty() {
                    item.sealed = returnable_item(value);
                }
            }
            ItemKind::FunctionCall => {
                item.settle_arguments(&arguments_text(value.get("arguments")))?;
                item.emit_call(&mut self.calls, out);
            }
            ItemKind::CustomCall => {
                item.settle_arguments(&arguments_text(value.get("input")))?;
                item.emit_call(&mut self.calls, out);
            }
            ItemKind::Picture => {
                let data = text(value, "result");
                if !item.drawn && !data.is_empty() {
                    item.drawn = true;
                    out.push(ModelEvent::Media { media_type: media_type(value), data: data.to_owned() });
                }
            }
            ItemKind::Other => {}
        }
        Ok(())
    }

    /// Reads the whole answer at the end of a stream, or one that was not streamed. `status` is the one that the event's name gives.
    fn finish_answer(&mut self, event: &Value, status: &str, out: &mut Vec<ModelEvent>) -> Result<(), ProviderError> {
        let response = member(event, "response").unwrap_or(event);
        if let Some(error) = member(response, "error").filter(|error| says_something(error)) {
            out.extend(read_usage(response).map(ModelEvent::Usage));
            return Err(refusal::in_stream(error));
        }
        let reconciled = self.reconcile(list(response, "output"), out);
        out.extend(read_usage(response).map(ModelEvent::Usage));
        reconciled?;
        let finish = self.read_finish(response, status)?;
        let cut_short = matches!(finish, Finish::Length | Finish::ContentFilter | Finish::Refusal);
        if let Some(half) = self.call_items().find(|item| !cut_short && !item.is_whole_call()) {
            return Err(ProviderError::new(Class::Cut, format!("the answer ended inside a call of `{}`", half.call.name)));
        }
        out.extend(self.outline_answer().map(ModelEvent::State));
        out.push(ModelEvent::Finish(finish));
        self.ended = true;
        Ok(())
    }

    fn call_items(&self) -> impl Iterator<Item = &OutputItem> {
        self.items.iter().filter(|item| matches!(item.kind, ItemKind::FunctionCall | ItemKind::CustomCall))
    }

    /// Emits what the whole answer holds and the stream did not.
    fn reconcile(&mut self, output: &[Value], out: &mut Vec<ModelEvent>) -> Result<(), ProviderError> {
        let keys: Vec<ItemKey<'_>> = (0..).zip(output).map(|(index, item)| ItemKey::of_item(item, Some(index))).collect();
        let mut free = vec![true; self.items.len()];
        let mut matched: Vec<Option<usize>> = Vec::with_capacity(keys.len());
        for key in &keys {
            let known = self
                .first_free(&mut free, key, |item| item.has_id(key) && item.has_index(key))
                .or_else(|| self.first_free(&mut free, key, |item| item.has_id(key)))
                .or_else(|| self.first_free(&mut free, key, |item| item.has_call_id(key)))
                .or_else(|| self.first_free(&mut free, key, |item| item.has_index(key)));
            matched.push(known);
        }
        // Servers without lasting ids and indexes at least keep the order.
        for (known, key) in matched.iter_mut().zip(&keys) {
            *known = known.or_else(|| self.first_free(&mut free, key, |_| true));
        }
        for ((value, known), key) in output.iter().zip(matched).zip(&keys) {
            let at = known.unwrap_or_else(|| self.push_item(key));
            self.complete_item(at, value, out)?;
        }
        Ok(())
    }

    /// The first item that is still free and that a test accepts among those which the key may name. It is free no longer.
    fn first_free(&self, free: &mut [bool], key: &ItemKey<'_>, accepts: impl Fn(&OutputItem) -> bool) -> Option<usize> {
        let found = self.items.iter().zip(free.iter()).position(|(item, free)| *free && item.may_be(key) && accepts(item))?;
        *free.get_mut(found)? = false;
        Some(found)
    }

    /// Why the answer ended. An ending that is not known is an error: half an answer must not look like a whole one.
    fn read_finish(&self, response: &Value, status: &str) -> Result<Finish, ProviderError> {
        let reason = member(response, "incomplete_details").map_or("", |details| text(details, "reason"));
        let own = text(response, "status");
        // The event's name is surer than a status that says the answer is still being written.
        let status = if status.is_empty() || matches!(own, "incomplete" | "failed" | "cancelled") { own } else { status };
        match (status, reason) {
            ("failed", _) => Err(ProviderError::new(Class::ServerError, "the server ended the answer with an error")),
            ("completed" | "complete" | "incomplete", "max_output_tokens") => Ok(Finish::Length),
            ("completed" | "complete" | "incomplete", "content_filter") => Ok(Finish::ContentFilter),
            ("completed" | "complete", _) if self.refused => Ok(Finish::Refusal),
            ("completed" | "complete", _) if self.calls > 0 => Ok(Finish::ToolCalls),
            ("completed" | "complete", _) => Ok(Finish::EndTurn),
            ("incomplete", "") => Err(ProviderError::new(Class::Cut, "the answer is incomplete and gives no reason")),
            ("incomplete", reason) => Err(ProviderError::new(Class::Cut, format!("the answer is incomplete: `{reason}`"))),
            ("", _) => Err(ProviderError::new(Class::Cut, "the answer gives no status")),
            (status, _) => Err(ProviderError::new(Class::Cut, format!("the answer ended with the status `{status}`"))),
        }
    }

    /// What the server wants back with this answer: its reasoning, and which items it led to.
    fn outline_answer(&self) -> Option<Value> {
        let output: Vec<OutlineItem> = self.items.iter().filter_map(outline_item).collect();
        let matters = |item: &OutlineItem| matches!(item, OutlineItem::Reasoning(_) | OutlineItem::Message { phase: Some(_), .. });
        if !output.iter().any(matters) {
            return None;
        }
        serde_json::to_value(AnswerOutline { output }).ok()
    }
}

fn outline_item(item: &OutputItem) -> Option<OutlineItem> {
    let id = (!item.id.is_empty()).then(|| item.id.clone());
    match item.kind {
        ItemKind::Reasoning => item.sealed.clone().map(OutlineItem::Reasoning),
        ItemKind::Message if item.text.is_empty() => None,
        ItemKind::Message => Some(OutlineItem::Message { bytes: item.text.len(), id, phase: item.phase.clone() }),
        // A custom call goes back as a function call, whose ids have another form.
        ItemKind::CustomCall => Some(OutlineItem::Call { index: usize::try_from(item.call.position?).ok()?, id: None }),
        ItemKind::FunctionCall => Some(OutlineItem::Call { index: usize::try_from(item.call.position?).ok()?, id }),
        ItemKind::Picture | ItemKind::Other => None,
    }
}

/// The reasoning item to be sent back; `None` when it holds nothing.
fn returnable_item(item: &Value) -> Option<Value> {
    let holds = !text(item, "encrypted_content").is_empty() || !list(item, "summary").is_empty() || !list(item, "content").is_empty();
    let mut members = item.as_object().filter(|_| holds)?.clone();
    members.retain(|name, _| name != "status");
    Some(Value::Object(members))
}

/// The text of a message, refusals included.
fn message_text(item: &Value) -> String {
    if let Some(whole) = item.get("content").and_then(Value::as_str) {
        return whole.to_owned();
    }
    let parts = list(item, "content").iter().map(|part| match text(part, "type") {
        "refusal" => text(part, "refusal"),
        _ => text(part, "text"),
    });
    parts.collect()
}

/// The text of a reasoning item: a line break stands between two parts.
fn reasoning_text(item: &Value) -> String {
    let parts = list(item, "summary").iter().chain(list(item, "content")).map(|part| text(part, "text"));
    let parts: Vec<&str> = parts.filter(|part| !part.is_empty()).collect();
    parts.join("\n")
}

fn join_halves(text: &str) -> String {
    let mut joiner = SurrogateJoiner::default();
    let mut whole = joiner.join(text.to_owned());
    whole.extend(joiner.finish());
    whole
}

/// The arguments of a call as JSON text; some servers send the JSON itself.
fn arguments_text(arguments: Option<&Value>) -> String {
    match arguments {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => join_halves(text),
        Some(other) => other.to_string(),
    }
}

fn media_type(item: &Value) -> String {
    match text(item, "output_format") {
        "" => "image/png".to_owned(),
        "jpg" => "image/jpeg".to_owned(),
        format => format!("image/{format}"),
    }
}

/// Emits a page that the answer rests on, once.
fn emit_citation(cited: &mut HashSet<String>, note: Option<&Value>, out: &mut Vec<ModelEvent>) {
    let Some(note) = note.filter(|note| text(note, "type") == "url_citation") else { return };
    let page = Citation::of(member(note, "url_citation").unwrap_or(note), &["url"]);
    out.extend(page.filter(|page| cited.insert(page.url.clone())).map(ModelEvent::Citation));
}

fn read_usage(response: &Value) -> Option<Usage> {
    let usage = member(response, "usage")?;
    let (input, output) = (count(usage.get("input_tokens")), count(usage.get("output_tokens")));
    input.or(output)?;
    let detail = |group: &str, name: &str| usage.get(group).and_then(|details| count(details.get(name)));
    Some(Usage {
        input: input.unwrap_or(0),
        output: output.unwrap_or(0),
        cached_input: detail("input_tokens_details", "cached_tokens").unwrap_or(0),
        cache_write: 0,
        reasoning: detail("output_tokens_details", "reasoning_tokens").unwrap_or(0),
        estimated: false,
    })
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// Whether an `error` member reports one. Some servers have it in every answer, empty.
fn says_something(error: &Value) -> bool {
    match error {
        Value::Bool(failed) => *failed,
        Value::String(message) => !message.is_empty(),
        Value::Object(members) => !members.is_empty(),
        _ => true,
    }
}

/// A member that is there and not `null`.
fn member<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    value.get(name).filter(|member| !member.is_null())
}

/// A member's text; empty for any other type.
fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// A member's items; empty for any other type.
fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}
