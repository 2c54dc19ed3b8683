//! A step's payload before its expressions are filled in: action defaults, then the defaults of the action's schema.

use std::path::Path;

use serde_json::{Map, Value};

use super::case::CaseStep;
use crate::module::ActionRegistry;

/// Payloads by action, from `action-defaults.json` of the state folder.
#[derive(Debug, Clone, Default)]
pub struct ActionDefaults(Map<String, Value>);

impl ActionDefaults {
    /// Reads the file of a state folder; a missing or broken file has no defaults.
    pub fn read(home: &Path) -> Self {
        let text = std::fs::read_to_string(home.join("action-defaults.json")).unwrap_or_default();
        let read = serde_json::from_str::<Map<String, Value>>(&text).unwrap_or_default();
        Self(read.into_iter().filter(|(_, payload)| payload.is_object()).collect())
    }

    /// The default payload of an action.
    pub fn of_action(&self, action: &str) -> Map<String, Value> {
        self.0.get(action).and_then(Value::as_object).cloned().unwrap_or_default()
    }
}

/// The payload that a step sends, before its expressions are filled in.
pub fn effective_payload(step: &CaseStep, registry: &ActionRegistry, defaults: &ActionDefaults) -> Map<String, Value> {
    let mut payload = with_defaults(&step.action, &step.payload, registry, defaults);
    if step.action == "flow.poll"
        && let Some(target) = payload.get("action").and_then(Value::as_str).map(str::to_owned)
        && let Some(inner) = payload.get("payload").and_then(Value::as_object)
    {
        let inner = with_defaults(&target, inner, registry, defaults);
        payload.insert("payload".into(), Value::Object(inner));
    }
    payload
}

/// A payload over the defaults of its action and of the action's schema.
pub fn with_defaults(
    action: &str,
    payload: &Map<String, Value>,
    registry: &ActionRegistry,
    defaults: &ActionDefaults,
) -> Map<String, Value> {
    let mut merged = merge(defaults.of_action(action), payload);
    let schema = registry.find(action).and_then(|action| action.input_schema.as_ref());
    let properties = schema.and_then(|schema| schema.get("properties")).and_then(Value::as_object);
    for (name, property) in properties.into_iter().flatten() {
        if let Some(default) = property.get("default")
            && !merged.contains_key(name)
        {
            merged.insert(name.clone(), default.clone());
        }
    }
    merged
}

/// Objects are merged; anything else of `over` replaces, null too.
fn merge(mut under: Map<String, Value>, over: &Map<String, Value>) -> Map<String, Value> {
    for (name, value) in over {
        let merged = match (under.get_mut(name).map(Value::take), value) {
            (Some(Value::Object(below)), Value::Object(above)) => Value::Object(merge(below, above)),
            _ => value.clone(),
        };
        under.insert(name.clone(), merged);
    }
    under
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_merge_and_everything_else_replaces() {
        let under = json!({ "a": { "x": 1, "y": 2 }, "b": [1], "c": 3 });
        let over = json!({ "a": { "y": null }, "b": [2], "d": 4 });
        let merged = merge(under.as_object().unwrap().clone(), over.as_object().unwrap());
        assert_eq!(Value::Object(merged), json!({ "a": { "x": 1, "y": null }, "b": [2], "c": 3, "d": 4 }));
    }
}
