//! Messages as callers write them, in the forms of OpenAI, Anthropic, Gemini and the AI SDK.
//!
//! One message of a caller may become several: a tool's results leave the message that holds them and follow the call that they answer.
//! Nothing but reasoning and page data is left out; what cannot be sent is a problem with a pointer.

use serde_json::{Map, Value, json};

use super::part::{ContentItem, ToolResult, owned, problem, read_call, read_invocation, read_part, result_content, text};
use super::results::ConversationBuilder;
use crate::engine::step::prompt::report::AnswerState;
use crate::error::{Problem, Problems};
use crate::provider::{Message, Part, Role, ToolCall};

/// Reads a list of messages.
pub fn read_messages(value: &Value) -> Result<Vec<Message>, Problems> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::String(text) if text.trim().is_empty() => Ok(Vec::new()),
        Value::Array(items) => read_list(items),
        _ => Err(problem("", "expected a list of messages").into()),
    }
}

fn read_list(items: &[Value]) -> Result<Vec<Message>, Problems> {
    let mut reader = ConversationReader::default();
    for (index, item) in items.iter().enumerate() {
        reader.read(item, index);
    }
    if reader.problems.0.is_empty() { Ok(reader.conversation.into_messages()) } else { Err(reader.problems) }
}

/// Checks that messages can be sent to a model. Pointers begin at their list.
pub fn check_messages(messages: &[Value]) -> Result<(), Problems> {
    read_list(messages).map(drop)
}

/// Checks the messages of a document's list that hold no template.
pub fn check_literal_messages(items: &[Value]) -> Problems {
    let mut reader = ConversationReader { is_partial: true, ..ConversationReader::default() };
    for (index, item) in items.iter().enumerate().filter(|(_, item)| !holds_template(item)) {
        reader.read(item, index);
    }
    reader.problems
}

fn holds_template(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains("{{"),
        Value::Array(items) => items.iter().any(holds_template),
        Value::Object(map) => map.values().any(holds_template),
        _ => false,
    }
}

/// One piece of a message with its place in it.
struct PlacedItem {
    pointer: String,
    item: ContentItem,
}

/// The conversation as far as it was read.
#[derive(Default)]
struct ConversationReader {
    conversation: ConversationBuilder,
    problems: Problems,
    /// Some messages are not known yet, so a result may answer a call that is not seen here.
    is_partial: bool,
}

/// What an assistant says in one go: texts, then calls, then the results that its message holds.
#[derive(Default)]
struct AssistantBlock {
    content: Vec<Part>,
    calls: Vec<ToolCall>,
    results: Vec<(String, ToolResult)>,
}

impl AssistantBlock {
    fn is_empty(&self) -> bool {
        self.content.is_empty() && self.calls.is_empty() && self.results.is_empty()
    }
}

impl ConversationReader {
    fn read(&mut self, value: &Value, index: usize) {
        if let Err(problems) = self.read_message(value, index) {
            let at = format!("/{index}");
            self.problems.0.extend(problems.0.into_iter().map(|problem| problem.under(&at)));
        }
    }

    fn read_message(&mut self, value: &Value, index: usize) -> Result<(), Problems> {
        let Some(map) = value.as_object() else { return Err(problem("", "expected an object {role, content}").into()) };
        let role = read_role(map)?;
        if role == Role::Tool && !holds_results(map) {
            return self.read_tool_message(map).map_err(Problems::from);
        }
        let items = read_items(map)?;
        match role {
            Role::System => self.read_system(items, map),
            Role::User | Role::Tool => self.read_user(items, map, role),
            Role::Assistant => self.read_assistant(items, map, index),
        }
    }

    fn read_system(&mut self, items: Vec<PlacedItem>, map: &Map<String, Value>) -> Result<(), Problems> {
        let (mut content, mut problems) = (Vec::new(), Problems::default());
        for PlacedItem { pointer, item } in items {
            match item {
                ContentItem::Content(part @ Part::Text { .. }) => content.push(part),
                ContentItem::Ignored | ContentItem::StepBoundary => {}
                _ => problems.add(pointer, "a system message holds texts only"),
            }
        }
        if !problems.0.is_empty() {
            return Err(problems);
        }
        if content.is_empty() {
            return skip_empty(map);
        }
        self.conversation.push(message(Role::System, content));
        Ok(())
    }

    /// Reads a user's message, or a tool's that is made of result parts: the results come first, after the calls that they answer.
    fn read_user(&mut self, items: Vec<PlacedItem>, map: &Map<String, Value>, role: Role) -> Result<(), Problems> {
        let (mut content, mut results, mut problems) = (Vec::new(), Vec::new(), Problems::default());
        for PlacedItem { pointer, item } in items {
            match item {
                ContentItem::Content(_) if role == Role::Tool => {
                    problems.add(pointer, "a tool's message holds results only; send this in a user's message");
                }
                ContentItem::Content(part) => content.push(part),
                ContentItem::Result(result) => results.push((pointer, result)),
                ContentItem::Ignored | ContentItem::StepBoundary => {}
                ContentItem::Call(_) | ContentItem::CallWithResult(..) => {
                    problems.add(pointer, "only an assistant's message holds tool calls");
                }
            }
        }
        if !problems.0.is_empty() {
            return Err(problems);
        }
        if content.is_empty() && results.is_empty() {
            return Err(empty_message(map).into());
        }
        for (pointer, result) in results {
            self.add_result(result, &pointer)?;
        }
        if !content.is_empty() {
            self.conversation.push(message(Role::User, content));
        }
        Ok(())
    }

    /// Reads a tool's message whose content is the result itself.
    fn read_tool_message(&mut self, map: &Map<String, Value>) -> Result<(), Problem> {
        let (content, failed) = match map.get("content").or_else(|| map.get("parts")) {
            None | Some(Value::Null) => (vec![Part::text("")], false),
            Some(content) => result_content(content).map_err(|problem| problem.under("/content"))?,
        };
        let says_so = |name: &str| map.get(name).and_then(Value::as_bool).unwrap_or(false);
        let result = ToolResult {
            call_id: owned(map, &["tool_call_id", "toolCallId", "tool_use_id", "call_id"]),
            tool_name: owned(map, &["name", "toolName"]),
            content,
            is_error: failed || says_so("is_error") || says_so("isError"),
        };
        self.add_result(result, "/tool_call_id")
    }

    fn read_assistant(&mut self, items: Vec<PlacedItem>, map: &Map<String, Value>, index: usize) -> Result<(), Problems> {
        let (mut blocks, mut block, mut problems) = (Vec::new(), AssistantBlock::default(), Problems::default());
        for (number, PlacedItem { pointer, item }) in items.into_iter().enumerate() {
            // Callers of older APIs give their calls no id.
            let with_id = |call: ToolCall| {
                if call.id.is_empty() { ToolCall { id: format!("call_{index}_{number}"), ..call } } else { call }
            };
            match item {
                ContentItem::Content(part @ Part::Text { .. }) => {
                    if !block.results.is_empty() {
                        blocks.push(std::mem::take(&mut block));
                    }
                    block.content.push(part);
                }
                ContentItem::Content(_) => {
                    problems.add(pointer, "an assistant's message holds texts and tool calls; send pictures and files in a user's message");
                }
                ContentItem::Call(call) => block.calls.push(with_id(call)),
                ContentItem::CallWithResult(call, result) => {
                    let call = with_id(call);
                    block.results.push((pointer, ToolResult { call_id: Some(call.id.clone()), ..result }));
                    block.calls.push(call);
                }
                ContentItem::Result(result) => block.results.push((pointer, result)),
                ContentItem::StepBoundary if !block.results.is_empty() => blocks.push(std::mem::take(&mut block)),
                ContentItem::StepBoundary | ContentItem::Ignored => {}
            }
        }
        if !problems.0.is_empty() {
            return Err(problems);
        }
        if !block.is_empty() {
            blocks.push(block);
        }
        if blocks.is_empty() {
            return skip_empty(map);
        }
        let mut state = if blocks.len() == 1 { AnswerState::of_message(map) } else { None };
        for AssistantBlock { content, calls, results } in blocks {
            if !content.is_empty() || !calls.is_empty() {
                let mut message = Message { tool_calls: calls, ..message(Role::Assistant, content) };
                if let Some(state) = state.take() {
                    state.restore(&mut message);
                }
                self.conversation.push(message);
            }
            for (pointer, result) in results {
                self.add_result(result, &pointer)?;
            }
        }
        Ok(())
    }

    /// Puts a result after the call that it answers, behind the results that are there already.
    fn add_result(&mut self, result: ToolResult, pointer: &str) -> Result<(), Problem> {
        let ToolResult { call_id, tool_name, content, is_error } = result;
        let result = Message { tool_call_id: call_id, tool_name, is_error, ..message(Role::Tool, content) };
        if self.conversation.push_result(result) || self.is_partial {
            return Ok(());
        }
        Err(problem(pointer, "expected the id of the tool call that this result answers"))
    }
}

fn read_role(map: &Map<String, Value>) -> Result<Role, Problem> {
    match map.get("role").and_then(Value::as_str) {
        Some("system" | "developer") => Ok(Role::System),
        Some("user") => Ok(Role::User),
        Some("assistant" | "model") => Ok(Role::Assistant),
        Some("tool" | "function") => Ok(Role::Tool),
        _ => Err(problem("/role", "expected system, developer, user, assistant, model, tool or function")),
    }
}

/// The parts of a message: `parts` of Gemini and of AI SDK pages, else a list as `content`.
fn parts_of(map: &Map<String, Value>) -> Option<(&'static str, &[Value])> {
    let list = |name: &str| map.get(name).and_then(Value::as_array).map(Vec::as_slice);
    match list("parts").filter(|parts| !parts.is_empty()) {
        Some(parts) => Some(("parts", parts)),
        None => Some(("content", list("content")?)),
    }
}

/// Whether a tool's message is made of result parts, each with the id of its call.
fn holds_results(map: &Map<String, Value>) -> bool {
    let is_result = |part: &Value| match part.get("type").and_then(Value::as_str) {
        Some(kind) => ["tool-result", "tool_result"].contains(&kind),
        None => ["functionResponse", "function_response"].into_iter().any(|name| part.get(name).is_some()),
    };
    parts_of(map).is_some_and(|(_, parts)| parts.iter().any(is_result))
}

/// Reads everything that a message says, in its order.
fn read_items(map: &Map<String, Value>) -> Result<Vec<PlacedItem>, Problems> {
    let (mut items, mut problems) = (Vec::new(), Problems::default());
    let mut note = |pointer: String, read: Result<ContentItem, Problem>| match read {
        Ok(item) => items.push(PlacedItem { pointer, item }),
        Err(problem) => problems.0.push(problem.under(&pointer)),
    };
    match (parts_of(map), map.get("content")) {
        (Some((name, parts)), _) => {
            parts.iter().enumerate().for_each(|(number, part)| note(format!("/{name}/{number}"), read_part(part)));
        }
        (None, None | Some(Value::Null)) => {}
        (None, Some(Value::Object(content))) if !content.contains_key("type") => {
            note("/content".into(), Ok(ContentItem::Content(Part::text(Value::Object(content.clone()).to_string()))));
        }
        (None, Some(content @ (Value::String(_) | Value::Object(_)))) => note("/content".into(), read_part(content)),
        (None, Some(other)) => note("/content".into(), Ok(ContentItem::Content(Part::text(other.to_string())))),
    }
    if let Some(refusal) = text(map, &["refusal"]) {
        note("/refusal".into(), read_part(&Value::String(refusal.to_owned())));
    }
    for (number, attachment) in list(map, "experimental_attachments").iter().enumerate() {
        let file = json!({
            "type": "file", "url": attachment.get("url"), "mediaType": attachment.get("contentType"), "filename": attachment.get("name"),
        });
        note(format!("/experimental_attachments/{number}"), read_part(&file));
    }
    // Pages of AI SDK 4 keep their calls twice, here and among the parts.
    let invocations: &[Value] = if parts_of(map).is_some_and(|(name, _)| name == "parts") { &[] } else { list(map, "toolInvocations") };
    for (number, invocation) in invocations.iter().enumerate() {
        let read = invocation.as_object().map_or_else(|| Err(problem("", "expected an object")), read_invocation);
        note(format!("/toolInvocations/{number}"), read);
    }
    for name in ["tool_calls", "toolCalls"] {
        for (number, call) in list(map, name).iter().enumerate() {
            note(format!("/{name}/{number}"), read_call(call));
        }
    }
    if let Some(call) = map.get("function_call").filter(|call| call.is_object()) {
        note("/function_call".into(), read_call(call));
    }
    if problems.0.is_empty() { Ok(items) } else { Err(problems) }
}

fn list<'v>(map: &'v Map<String, Value>, name: &str) -> &'v [Value] {
    map.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn message(role: Role, content: Vec<Part>) -> Message {
    Message { role, content, tool_calls: Vec::new(), tool_call_id: None, tool_name: None, is_error: false, origin: None, state: None }
}

/// Leaves out a message that is an empty text. One that is empty for another reason is a problem.
fn skip_empty(map: &Map<String, Value>) -> Result<(), Problems> {
    let is_blank = |part: &Value| part.get("text").and_then(Value::as_str).is_some_and(|text| text.trim().is_empty());
    let is_text = match map.get("content") {
        Some(Value::Array(parts)) => !parts.is_empty() && parts.iter().all(is_blank),
        Some(content) => content.is_string(),
        None => false,
    };
    if is_text { Ok(()) } else { Err(empty_message(map).into()) }
}

fn empty_message(map: &Map<String, Value>) -> Problem {
    let place = if map.contains_key("content") || !map.contains_key("parts") { "/content" } else { "/parts" };
    problem(place, "the message is empty; a model needs a text, a picture or a file")
}
