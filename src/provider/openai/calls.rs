//! Which tool call a fragment belongs to. Servers number calls from any index, give every call the index 0, repeat ids, send the name
//! late, or send no ids at all; one call never becomes two, and two never become one.

use std::collections::HashMap;

use serde_json::Value;

use super::wire::CallDelta;
use crate::provider::ModelEvent;

/// The tool calls of one answer, as far as they have arrived.
#[derive(Debug, Default)]
pub(super) struct CallAssembler {
    calls: Vec<PartialCall>,
    /// The newest call under each of the server's indexes.
    by_index: HashMap<u32, usize>,
    by_id: HashMap<String, usize>,
}

#[derive(Debug, Default)]
struct PartialCall {
    id: String,
    name: String,
    arguments: String,
    /// The call was emitted. Until its name has arrived its arguments wait.
    emitted: bool,
    state: Option<Value>,
}

/// A piece of a call.
struct CallFragment {
    index: Option<u32>,
    id: String,
    name: String,
    arguments: String,
    state: Option<Value>,
}

impl CallFragment {
    /// Some servers fill in every member of the format with nothing.
    fn is_empty(&self) -> bool {
        self.id.is_empty() && self.name.is_empty() && self.arguments.is_empty()
    }
}

impl From<CallDelta> for CallFragment {
    fn from(delta: CallDelta) -> Self {
        let function = delta.function.unwrap_or_default();
        let arguments = match function.arguments {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text,
            Some(other) => other.to_string(),
        };
        Self {
            index: delta.index,
            id: delta.id.unwrap_or_default(),
            name: function.name.unwrap_or_default(),
            arguments,
            state: delta.extra_content.filter(|state| !state.is_null()),
        }
    }
}

impl CallAssembler {
    /// Takes a fragment of a streamed call.
    pub fn add_fragment(&mut self, delta: CallDelta, out: &mut Vec<ModelEvent>) {
        let fragment = CallFragment::from(delta);
        if fragment.is_empty() {
            return;
        }
        let at = match self.known(&fragment) {
            // The same piece again: some relays send a whole call twice.
            Some(at) if self.repeats(at, &fragment) => return,
            Some(at) => at,
            None => self.open(&fragment),
        };
        self.append(at, fragment, out);
    }

    /// Takes a call of a whole answer.
    pub fn add_whole(&mut self, call: CallDelta, out: &mut Vec<ModelEvent>) {
        let fragment = CallFragment::from(call);
        if fragment.is_empty() {
            return;
        }
        let at = self.open(&fragment);
        self.append(at, fragment, out);
    }

    /// Emits the calls whose name never arrived, so that the model reads of its slip.
    pub fn finish(&mut self, out: &mut Vec<ModelEvent>) {
        for at in 0..self.calls.len() {
            self.emit(at, out);
        }
    }

    /// The call that a fragment continues; `None` for a new one.
    fn known(&self, fragment: &CallFragment) -> Option<usize> {
        let by_id = || self.by_id.get(&fragment.id).copied().filter(|_| !fragment.id.is_empty());
        let last = || self.calls.len().checked_sub(1);
        match fragment.index {
            Some(index) => match self.by_index.get(&index).copied() {
                Some(at) if self.continues(at, fragment) => Some(at),
                // Servers that give every call the same index tell them apart by id.
                Some(_) => by_id(),
                None if !fragment.name.is_empty() => None,
                // A continuation under another number.
                None if !fragment.id.is_empty() => by_id(),
                None => last().filter(|at| !self.is_complete(*at)),
            },
            None if !fragment.id.is_empty() => by_id(),
            None => last().filter(|at| fragment.name.is_empty() || self.continues(*at, fragment)),
        }
    }

    /// Whether a fragment under the same index belongs to this call.
    fn continues(&self, at: usize, fragment: &CallFragment) -> bool {
        let Some(call) = self.calls.get(at) else { return false };
        let other_id = !fragment.id.is_empty() && !call.id.is_empty() && fragment.id != call.id;
        let named_again = !fragment.name.is_empty() && !call.name.is_empty();
        if other_id {
            // A new id without a name is a server that makes up an id for each fragment.
            return fragment.name.is_empty() && !self.by_id.contains_key(&fragment.id);
        }
        let same_id = !fragment.id.is_empty() && fragment.id == call.id;
        // A name, no id, and nothing left to add: another whole call.
        same_id || !named_again || fragment.arguments.is_empty() || !self.is_complete(at) || self.repeats(at, fragment)
    }

    fn is_complete(&self, at: usize) -> bool {
        self.calls.get(at).is_some_and(|call| serde_json::from_str::<serde::de::IgnoredAny>(&call.arguments).is_ok())
    }

    /// Whether a fragment only repeats a call that is complete.
    fn repeats(&self, at: usize, fragment: &CallFragment) -> bool {
        let named_again = |call: &PartialCall| !fragment.name.is_empty() && fragment.name == call.name;
        self.calls.get(at).is_some_and(|call| {
            named_again(call) && !fragment.arguments.is_empty() && fragment.arguments == call.arguments && self.is_complete(at)
        })
    }

    fn open(&mut self, fragment: &CallFragment) -> usize {
        let at = self.calls.len();
        self.calls.push(PartialCall { id: fragment.id.clone(), ..PartialCall::default() });
        if let Some(index) = fragment.index {
            self.by_index.insert(index, at);
        }
        if !fragment.id.is_empty() {
            self.by_id.entry(fragment.id.clone()).or_insert(at);
        }
        at
    }

    fn append(&mut self, at: usize, fragment: CallFragment, out: &mut Vec<ModelEvent>) {
        let Some(call) = self.calls.get_mut(at) else { return };
        if call.id.is_empty() && !fragment.id.is_empty() {
            call.id.clone_from(&fragment.id);
            self.by_id.entry(fragment.id).or_insert(at);
        }
        if call.name.is_empty() {
            call.name = fragment.name;
        }
        call.arguments.push_str(&fragment.arguments);
        let index = u32::try_from(at).unwrap_or(u32::MAX);
        if call.emitted {
            if !fragment.arguments.is_empty() {
                out.push(ModelEvent::ToolCallDelta { index, delta: fragment.arguments });
            }
            out.extend(fragment.state.map(|state| ModelEvent::ToolCallState { index, state }));
            return;
        }
        call.state = fragment.state.or(call.state.take());
        if !call.name.is_empty() {
            self.emit(at, out);
        }
    }

    fn emit(&mut self, at: usize, out: &mut Vec<ModelEvent>) {
        let Some(call) = self.calls.get_mut(at).filter(|call| !call.emitted) else { return };
        call.emitted = true;
        let index = u32::try_from(at).unwrap_or(u32::MAX);
        out.push(ModelEvent::ToolCallStart { index, id: call.id.clone(), name: call.name.clone(), signature: None });
        out.extend(call.state.take().map(|state| ModelEvent::ToolCallState { index, state }));
        if !call.arguments.is_empty() {
            out.push(ModelEvent::ToolCallDelta { index, delta: call.arguments.clone() });
        }
    }
}
