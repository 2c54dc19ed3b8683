//! From Cohere's chat format to events. Pure.

use std::collections::HashSet;

use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::net::sse::Event;
use crate::provider::error::{Class, ProviderError};
use crate::provider::lenient::{self, count};
use crate::provider::transport::{Decode, Flow};
use crate::provider::{Citation, Finish, ModelEvent, Usage, refusal};

/// Reads answers, whole and streamed.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    calls: Vec<PartialCall>,
    /// What the model said about its calls: no part of the answer, but the server wants it back with them.
    tool_plan: String,
    /// The addresses of the citations emitted.
    cited: HashSet<String>,
    ended: bool,
}

/// A tool call, as far as it has come.
#[derive(Debug)]
struct PartialCall {
    /// The server's index.
    theirs: Option<u64>,
    id: String,
    name: String,
    arguments: String,
    /// The server has said that the call is complete.
    ended: bool,
}

impl Decode for Decoder {
    fn event(&mut self, event: &Event, out: &mut Vec<ModelEvent>) -> Result<Flow, ProviderError> {
        let data = event.data.trim();
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
        let none = Value::Null;
        let delta = member(&value, "delta").unwrap_or(&none);
        let message = member(delta, "message").unwrap_or(&none);
        match kind {
            "content-start" | "content-delta" => {
                for part in items(message, "content") {
                    emit_content(part, out);
                }
            }
            "tool-plan-delta" => self.tool_plan.push_str(text(message, "tool_plan")),
            "tool-call-start" => {
                for call in items(message, "tool_calls") {
                    self.begin_call(count(value.get("index")), call, out);
                }
            }
            "tool-call-delta" => {
                for call in items(message, "tool_calls") {
                    self.extend_call(count(value.get("index")), call, out);
                }
            }
            "tool-call-end" => self.end_call(count(value.get("index"))),
            "citation-start" => self.emit_citations(message, out),
            "message-end" => {
                self.finish_answer(delta, out)?;
                return Ok(Flow::End);
            }
            "message-start" | "content-end" | "citation-end" | "debug" => {}
            "error" => return Err(refusal::in_stream(refusal::error_in(&value).unwrap_or(&value))),
            // An error has no type here; events of later versions have one.
            _ => {
                if let Some(error) = refusal::error_in(&value).filter(|_| text(&value, "type").is_empty()) {
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
        // An error has a text where an answer has its message.
        let Some(message) = value.get("message").filter(|message| message.is_object()) else {
            return Err(match refusal::error_in(&value) {
                Some(error) => refusal::in_stream(error),
                None => ProviderError::new(Class::Malformed, "the answer is not as agreed: it has no message"),
            });
        };
        for part in items(message, "content") {
            emit_content(part, out);
        }
        self.tool_plan.push_str(text(message, "tool_plan"));
        for call in items(message, "tool_calls") {
            self.begin_call(None, call, out);
            self.end_call(None);
        }
        self.emit_citations(message, out);
        self.finish_answer(&value, out)
    }

    fn is_whole(&self) -> bool {
        self.ended
    }
}

fn malformed(error: &serde_json::Error) -> ProviderError {
    ProviderError::new(Class::Malformed, format!("the answer is not as agreed: {error}"))
}

impl Decoder {
    fn begin_call(&mut self, theirs: Option<u64>, call: &Value, out: &mut Vec<ModelEvent>) {
        let id = text(call, "id");
        // The same call may be announced twice; one call must not become two.
        let known = self.calls.iter().any(|known| !id.is_empty() && theirs.is_some() && known.id == id && known.theirs == theirs);
        if known {
            return;
        }
        let none = Value::Null;
        let function = member(call, "function").unwrap_or(&none);
        let (id, name) = (id.to_owned(), text(function, "name").to_owned());
        let index = u32::try_from(self.calls.len()).unwrap_or(u32::MAX);
        out.push(ModelEvent::ToolCallStart { index, id: id.clone(), name: name.clone(), signature: None });
        self.calls.push(PartialCall { theirs, id, name, arguments: String::new(), ended: false });
        self.add_arguments(self.calls.len() - 1, function, out);
    }

    fn extend_call(&mut self, theirs: Option<u64>, call: &Value, out: &mut Vec<ModelEvent>) {
        if let (Some(at), Some(function)) = (self.call_position(theirs), member(call, "function")) {
            self.add_arguments(at, function, out);
        }
    }

    fn end_call(&mut self, theirs: Option<u64>) {
        if let Some(call) = self.call_position(theirs).and_then(|at| self.calls.get_mut(at)) {
            call.ended = true;
        }
    }

    /// The call that the server's index means; without a known index, the last one.
    fn call_position(&self, theirs: Option<u64>) -> Option<usize> {
        let known = self.calls.iter().rposition(|call| theirs.is_some() && call.theirs == theirs);
        known.or_else(|| self.calls.len().checked_sub(1))
    }

    fn add_arguments(&mut self, at: usize, function: &Value, out: &mut Vec<ModelEvent>) {
        let Some(call) = self.calls.get_mut(at) else { return };
        let delta = match function.get("arguments") {
            None | Some(Value::Null) => return,
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        // A call without arguments has `null` for them.
        if delta.is_empty() || (call.arguments.is_empty() && delta.trim() == "null") {
            return;
        }
        call.arguments.push_str(&delta);
        out.push(ModelEvent::ToolCallDelta { index: u32::try_from(at).unwrap_or(u32::MAX), delta });
    }

    /// Emits the pages of the documents and tool results that a passage rests on.
    fn emit_citations(&mut self, message: &Value, out: &mut Vec<ModelEvent>) {
        let sources = items(message, "citations").iter().flat_map(|citation| items(citation, "sources"));
        let pages = sources.filter_map(|source| {
            let holder = member(source, "document").or_else(|| member(source, "tool_output"))?;
            Citation::of(holder, &["url"])
        });
        for page in pages {
            if self.cited.insert(page.url.clone()) {
                out.push(ModelEvent::Citation(page));
            }
        }
    }

    /// Reads why the answer ended. An ending that is not known is an error: half an answer must not look like a whole one.
    fn finish_answer(&mut self, end: &Value, out: &mut Vec<ModelEvent>) -> Result<(), ProviderError> {
        out.extend(read_usage(end).map(ModelEvent::Usage));
        let finish = match text(end, "finish_reason") {
            "COMPLETE" | "STOP_SEQUENCE" if self.calls.is_empty() => Finish::EndTurn,
            "TOOL_CALL" if self.calls.is_empty() => {
                return Err(ProviderError::new(Class::Cut, "the answer announces tool calls and has none"));
            }
            "COMPLETE" | "STOP_SEQUENCE" | "TOOL_CALL" => Finish::ToolCalls,
            "MAX_TOKENS" => Finish::Length,
            "ERROR_TOXIC" => Finish::ContentFilter,
            "ERROR" => {
                return Err(match member(end, "error") {
                    Some(error) => refusal::in_stream(error),
                    None => ProviderError::new(Class::ServerError, "the server ended the answer with an error"),
                });
            }
            "" => return Err(ProviderError::new(Class::Cut, "the answer gives no finish reason")),
            reason => return Err(ProviderError::new(Class::Cut, format!("the answer ended early: `{reason}`"))),
        };
        let half = self.calls.iter().find(|call| !call.ended && !is_json(&call.arguments));
        if let Some(half) = half.filter(|_| matches!(finish, Finish::EndTurn | Finish::ToolCalls)) {
            return Err(ProviderError::new(Class::Cut, format!("the answer ended inside a call of `{}`", half.name)));
        }
        if !self.tool_plan.is_empty() && !self.calls.is_empty() {
            out.push(ModelEvent::State(json!({ "tool_plan": self.tool_plan })));
        }
        out.push(ModelEvent::Finish(finish));
        self.ended = true;
        Ok(())
    }
}

/// Emits a part of the answer's content.
fn emit_content(part: &Value, out: &mut Vec<ModelEvent>) {
    let thought = text(part, "thinking");
    if !thought.is_empty() {
        out.push(ModelEvent::Reasoning(thought.to_owned()));
    }
    let said = part.as_str().unwrap_or_else(|| text(part, "text"));
    if !said.is_empty() {
        out.push(ModelEvent::Text(said.to_owned()));
    }
}

/// The tokens that the model read and wrote; those that are billed, where the server gives no others.
fn read_usage(end: &Value) -> Option<Usage> {
    let usage = member(end, "usage")?;
    let counted = |group: &str| {
        let tokens = member(usage, group)?;
        let (input, output) = (count(tokens.get("input_tokens")), count(tokens.get("output_tokens")));
        input.or(output)?;
        Some((input.unwrap_or(0), output.unwrap_or(0)))
    };
    let (input, output) = counted("tokens").or_else(|| counted("billed_units"))?;
    Some(Usage { input, output, cached_input: count(usage.get("cached_tokens")).unwrap_or(0), ..Usage::default() })
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// A member that is there and not `null`.
fn member<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    value.get(name).filter(|member| !member.is_null())
}

/// A member's text; empty for any other type.
fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// A member's items; the member itself where the server gives one item without a list, as it does in events.
fn items<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    match member(value, name) {
        None => Default::default(),
        Some(Value::Array(items)) => items.as_slice(),
        Some(item) => std::slice::from_ref(item),
    }
}
