//! The items of a request's input as the messages of a conversation, and back where the API shows them again (`items`).
//!
//! Function calls that follow one another are one assistant's message, as models want it. A reasoning item belongs to the answer that it stands in:
//! the data in it goes with that answer's message, so that its model gets it back.

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use super::places::{ItemPlace, PlaceMap};
use crate::engine::step::{ANSWER_STATE, AnswerState};
use crate::error::Problems;

/// The member of an assistant's message that keeps its reasoning items.
pub const REASONING_ITEMS: &str = "reasoningItems";
/// The member of a tool call that keeps the id of its item.
pub const ITEM_ID: &str = "itemId";
/// What sealed data of this server begins with. Its number changes with its form.
const SEALED: &str = "dsp1.";

/// The data that a model wants back, as the `encrypted_content` of a reasoning item. What must be hidden in it was encrypted by the model's vendor.
pub fn sealed_state(state: &AnswerState) -> String {
    format!("{SEALED}{}", URL_SAFE_NO_PAD.encode(serde_json::to_vec(state).unwrap_or_default()))
}

/// Reads what [`sealed_state`] wrote. `None`: it is not from this server. An error: it is, and was altered.
fn opened_state(text: &str) -> Result<Option<Value>, ()> {
    let Some(sealed) = text.strip_prefix(SEALED) else { return Ok(None) };
    let bytes = URL_SAFE_NO_PAD.decode(sealed).map_err(drop)?;
    let state: AnswerState = serde_json::from_slice(&bytes).map_err(drop)?;
    serde_json::to_value(state).map(Some).map_err(drop)
}

/// The conversation as far as it was read.
#[derive(Debug, Default)]
pub struct Conversation {
    pub messages: Vec<Value>,
    /// Where the caller wrote each message.
    pub places: PlaceMap,
}

impl Conversation {
    /// Adds a message that does not stand in the input.
    pub fn add(&mut self, message: Value, place: &str) {
        self.messages.push(message);
        self.places.0.push(ItemPlace::Elsewhere(place.to_owned()));
    }

    /// Adds the input of a request.
    pub fn read(mut self, input: Option<&Value>, problems: &mut Problems) -> Self {
        match input {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => self.add(json!({ "role": "user", "content": text }), "/input"),
            Some(Value::Array(items)) => {
                let mut reader =
                    InputReader { conversation: self, problems: &mut *problems, open: None, reasoning: Vec::new(), state: None };
                for (index, item) in items.iter().enumerate() {
                    reader.read(item, &format!("/input/{index}"));
                }
                self = reader.conversation;
            }
            Some(_) => problems.add("/input", "expected a text or a list of items"),
        }
        self.check_calls(problems);
        self
    }

    /// Each call must have its output, and each output its call: no model goes on otherwise.
    fn check_calls(&self, problems: &mut Problems) {
        let mut calls: Vec<(&str, String)> = Vec::new();
        let (mut called, mut answered) = (HashSet::new(), HashSet::new());
        for (index, message) in self.messages.iter().enumerate() {
            let of_message = message.get("tool_calls").and_then(Value::as_array).into_iter().flatten();
            for (number, id) in of_message.enumerate().filter_map(|(number, call)| Some((number, call["id"].as_str()?))) {
                calls.push((id, self.places.of(index, &format!("/tool_calls/{number}"))));
                called.insert(id);
            }
            let Some(id) = message.get("tool_call_id").and_then(Value::as_str) else { continue };
            if !called.contains(id) {
                let message = format!("no function call with the `call_id` `{id}` comes before this output");
                problems.add(self.places.of(index, "/tool_call_id"), message);
            }
            answered.insert(id);
        }
        for (id, place) in calls.into_iter().filter(|(id, _)| !answered.contains(id)) {
            problems.add(place, format!("no `function_call_output` answers the call `{id}`"));
        }
    }
}

/// Reads items.
struct InputReader<'p> {
    conversation: Conversation,
    problems: &'p mut Problems,
    /// The assistant's message that calls and reasoning items still belong to.
    open: Option<usize>,
    /// Reasoning items of the answer that comes next, and the data in them.
    reasoning: Vec<Value>,
    state: Option<Value>,
}

impl InputReader<'_> {
    fn read(&mut self, item: &Value, at: &str) {
        let Some(map) = item.as_object() else {
            self.problems.add(at, "expected an object");
            return;
        };
        match map.get("type").and_then(Value::as_str) {
            Some("message") => self.read_message(map, at),
            None if map.contains_key("role") => self.read_message(map, at),
            Some("function_call") => self.read_call(map, at),
            Some("function_call_output") => self.read_output(map, at),
            Some("reasoning") => self.read_reasoning(map, at),
            Some(other) => {
                let message = format!(
                    "items of type `{other}` cannot be honoured here; send message, function_call, function_call_output or reasoning"
                );
                self.problems.add(format!("{at}/type"), message);
            }
            None => self.problems.add(format!("{at}/type"), "expected the type of the item"),
        }
    }

    fn push(&mut self, message: Value, place: ItemPlace) -> usize {
        self.conversation.messages.push(message);
        self.conversation.places.0.push(place);
        self.conversation.messages.len() - 1
    }

    fn read_message(&mut self, map: &Map<String, Value>, at: &str) {
        let role = map.get("role").and_then(Value::as_str).unwrap_or_default();
        if !["user", "assistant", "system", "developer"].contains(&role) {
            self.problems.add(format!("{at}/role"), "expected user, assistant, system or developer");
            return;
        }
        let known = ["id", "role", "content"];
        let kept: Map<String, Value> = map.iter().filter(|(name, _)| known.contains(&name.as_str())).map(owned).collect();
        let index = self.push(Value::Object(kept), ItemPlace::Message(at.to_owned()));
        if role == "assistant" {
            self.answer_begins(index);
        } else {
            self.answer_ends();
        }
    }

    fn read_call(&mut self, map: &Map<String, Value>, at: &str) {
        let mut text = |name: &str| {
            let text = map.get(name).and_then(Value::as_str).filter(|text| name == "arguments" || !text.is_empty());
            if text.is_none() {
                self.problems.add(format!("{at}/{name}"), "expected a text");
            }
            text
        };
        let (Some(id), Some(name), Some(arguments)) = (text("call_id"), text("name"), text("arguments")) else { return };
        let mut call = json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments } });
        if let Some(item) = map.get("id").filter(|id| id.is_string()) {
            call[ITEM_ID] = item.clone();
        }
        let index = match self.open {
            Some(index) => index,
            None => {
                let message = json!({ "role": "assistant", "content": null, "tool_calls": [] });
                let index = self.push(message, ItemPlace::Message(at.to_owned()));
                self.answer_begins(index);
                index
            }
        };
        let message = &mut self.conversation.messages[index];
        match message.get_mut("tool_calls").and_then(Value::as_array_mut) {
            Some(calls) => calls.push(call),
            None => message["tool_calls"] = json!([call]),
        }
        self.conversation.places.add_call(index, at);
    }

    fn read_output(&mut self, map: &Map<String, Value>, at: &str) {
        self.answer_ends();
        let id = map.get("call_id").and_then(Value::as_str).filter(|id| !id.is_empty());
        let output = map.get("output").filter(|output| output.is_string() || output.is_array());
        if id.is_none() {
            self.problems.add(format!("{at}/call_id"), "expected the `call_id` of the function call that this output answers");
        }
        if output.is_none() {
            self.problems.add(format!("{at}/output"), "expected a text or a list of parts");
        }
        let (Some(id), Some(output)) = (id, output) else { return };
        let mut message = json!({ "role": "tool", "tool_call_id": id, "content": output });
        if let Some(item) = map.get("id").filter(|id| id.is_string()) {
            message["id"] = item.clone();
        }
        self.push(message, ItemPlace::Output(at.to_owned()));
    }

    fn read_reasoning(&mut self, map: &Map<String, Value>, at: &str) {
        if let Some(sealed) = map.get("encrypted_content").and_then(Value::as_str) {
            match opened_state(sealed) {
                Ok(state) => self.state = state.or(self.state.take()),
                Err(()) => self.problems.add(format!("{at}/encrypted_content"), "the content was altered; send it as it was received"),
            }
        }
        self.reasoning.push(Value::Object(map.clone()));
        if let Some(index) = self.open {
            self.attach(index);
        }
    }

    /// An assistant's message begins, with what was thought before it.
    fn answer_begins(&mut self, index: usize) {
        self.open = Some(index);
        self.attach(index);
    }

    /// Somebody else speaks. Reasoning that led to nothing is left out: models want it in front of an answer only.
    fn answer_ends(&mut self) {
        self.open = None;
        self.reasoning.clear();
        self.state = None;
    }

    fn attach(&mut self, index: usize) {
        let message = &mut self.conversation.messages[index];
        if let Some(state) = self.state.take() {
            message[ANSWER_STATE] = state;
        }
        if self.reasoning.is_empty() {
            return;
        }
        let items = std::mem::take(&mut self.reasoning);
        match message.get_mut(REASONING_ITEMS).and_then(Value::as_array_mut) {
            Some(known) => known.extend(items),
            None => message[REASONING_ITEMS] = Value::Array(items),
        }
    }
}

fn owned((name, value): (&String, &Value)) -> (String, Value) {
    (name.clone(), value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(input: Value) -> (Vec<Value>, Vec<String>) {
        let mut problems = Problems::default();
        let conversation = Conversation::default().read(Some(&input), &mut problems);
        (conversation.messages, problems.0.into_iter().map(|problem| problem.pointer).collect())
    }

    fn call(id: &str) -> Value {
        json!({ "type": "function_call", "call_id": id, "name": "act", "arguments": "{}" })
    }

    fn output(id: &str) -> Value {
        json!({ "type": "function_call_output", "call_id": id, "output": "done" })
    }

    #[test]
    fn calls_in_a_row_are_one_message() {
        let said = json!({ "role": "assistant", "content": "Wait." });
        let (messages, problems) =
            read(json!([said, call("a"), call("b"), output("a"), output("b"), { "role": "user", "content": "And?" }]));
        assert_eq!(problems, Vec::<String>::new());
        let roles: Vec<&Value> = messages.iter().map(|message| &message["role"]).collect();
        assert_eq!(roles, ["assistant", "tool", "tool", "user"]);
        assert_eq!((&messages[0]["content"], messages[0]["tool_calls"].as_array().map(Vec::len)), (&json!("Wait."), Some(2)));
    }

    #[test]
    fn reasoning_goes_with_its_answer() {
        let state: AnswerState = serde_json::from_value(json!({ "origin": "p/m", "state": { "a": 1 } })).unwrap();
        let thought = json!({ "type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": sealed_state(&state) });
        let said = json!({ "type": "message", "role": "assistant", "content": [{ "type": "output_text", "text": "Yes." }] });
        for input in [json!([thought, said]), json!([said, thought])] {
            let (messages, problems) = read(input);
            assert_eq!((messages.len(), problems.len()), (1, 0));
            assert_eq!(messages[0][ANSWER_STATE], json!({ "origin": "p/m", "state": { "a": 1 } }));
        }
        let altered = json!({ "type": "reasoning", "summary": [], "encrypted_content": "dsp1.x" });
        assert_eq!(read(json!([altered, said])).1, ["/input/0/encrypted_content"]);
        let foreign = json!({ "type": "reasoning", "summary": [], "encrypted_content": "gAAAA" });
        assert_eq!(read(json!([foreign, said])).0[0].get(ANSWER_STATE), None);
    }

    #[test]
    fn many_calls_are_matched_with_their_outputs() {
        let ids: Vec<String> = (0..50_000).map(|number| format!("c{number}")).collect();
        let items: Vec<Value> = ids.iter().map(|id| call(id)).chain(ids.iter().skip(1).map(|id| output(id))).collect();
        assert_eq!(read(items.into()).1, ["/input/0"]);
    }

    #[test]
    fn faults_stand_where_the_caller_wrote() {
        assert_eq!(read(json!(7)).1, ["/input"]);
        assert_eq!(read(json!([1, { "type": "web_search_call" }, {}])).1, ["/input/0", "/input/1/type", "/input/2/type"]);
        assert_eq!(read(json!([{ "role": "poet", "content": "x" }])).1, ["/input/0/role"]);
        assert_eq!(read(json!([{ "type": "function_call", "call_id": "a", "arguments": "{}" }])).1, ["/input/0/name"]);
        assert_eq!(read(json!([call("a"), call("b"), output("b")])).1, ["/input/0"]);
        assert_eq!(read(json!([output("z")])).1, ["/input/0/call_id"]);
    }
}
