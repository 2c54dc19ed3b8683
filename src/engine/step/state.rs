//! State that an agent and its reader share: a call sets members of one object, and the log tells it: the whole the first time, then what changed
//! (RFC 6902).

use serde_json::{Map, Value, json};

use super::tool_run::{Invocation, ToolOutcome};
use crate::engine::context::StepContext;
use crate::model::event::Event;

/// Bytes of the whole state.
const LARGEST: usize = 64 * 1024;

/// Sets members. No await stands between reading and keeping, so calls of one turn follow one another.
pub fn set(invocation: &Invocation<'_>, context: &StepContext<'_>) -> ToolOutcome {
    let key = context.key("state");
    let before: Option<Map<String, Value>> = context.recall_as(&key);
    let mut state = before.clone().unwrap_or_default();
    let mut patch = Vec::new();
    for (name, value) in invocation.arguments.get("set").and_then(Value::as_object).into_iter().flatten() {
        let path = format!("/{}", crate::error::pointer_token(name));
        if value.is_null() {
            if state.shift_remove(name).is_some() {
                patch.push(json!({ "op": "remove", "path": path }));
            }
        } else {
            state.insert(name.clone(), value.clone());
            // Adding to an object replaces a member that is there.
            patch.push(json!({ "op": "add", "path": path, "value": value }));
        }
    }
    let whole = Value::Object(state.clone());
    if whole.to_string().len() > LARGEST {
        return ToolOutcome::failed(format!("the state would have more than {LARGEST} bytes; it stays as it was"));
    }
    let iteration = invocation.turn;
    context.emit(match before {
        None => Event::StateSnapshot { state: whole.clone(), iteration },
        Some(_) => Event::StateDelta { patch: Value::Array(patch), iteration },
    });
    context.record_done(&key, &state);
    ToolOutcome::done(whole)
}
