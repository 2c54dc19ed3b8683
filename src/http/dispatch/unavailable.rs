//! Members that clients of this API send and that this version cannot honour.
//!
//! Left out in silence they would be missed too late, so each is refused with its place, unless its value asks for nothing.

use serde_json::{Map, Value};

use crate::error::{Problems, pointer_token};

/// Of `options`.
pub(super) const OF_OPTIONS: [&str; 7] =
    ["resumeFrom", "clientToolOutputs", "localInference", "createVersion", "versionType", "versionLabel", "versionNotes"];
/// Of an agent.
pub(super) const OF_AGENTS: [&str; 13] = [
    "skills",
    "skillIds",
    "capabilities",
    "primaryFlowId",
    "externalConfig",
    "claudeManagedConfig",
    "piiRedaction",
    "sandbox",
    "advisor",
    "tenancyStrategy",
    "state",
    "contextManagement",
    "temporal",
];
/// Of the tools of a prompt or an agent.
pub(super) const OF_TOOLS: [&str; 3] = ["codeModeConfig", "toolConfigs", "toolSearch"];

/// Notes each of the members that is there and asks for something.
pub(super) fn refuse(map: &Map<String, Value>, names: &[&str], at: &str, problems: &mut Problems) {
    for name in names {
        refuse_value(map.get(*name), &format!("{at}/{}", pointer_token(name)), problems);
    }
}

/// Notes a member that is there and asks for something.
pub(super) fn refuse_value(value: Option<&Value>, at: &str, problems: &mut Problems) {
    if value.is_some_and(|value| !asks_for_nothing(value)) {
        problems.add(at, "not available in this version");
    }
}

/// Whether a member says no more than its absence: null, false, empty, or `enabled: false`.
fn asks_for_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty() || map.get("enabled") == Some(&Value::Bool(false)),
        Value::Bool(true) | Value::Number(_) => false,
    }
}
