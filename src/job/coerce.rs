//! `key=value` arguments in the types of an action's input schema, for running one action without a case.

use serde_json::{Map, Value};

use super::inputs::{InputIssue, number_value};

/// The type that a schema gives a property.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PropertyType {
    String,
    Number,
    Integer,
    Boolean,
    Array,
    Object,
    /// None, or more than one.
    Unknown,
}

/// Reads pairs as a payload; every fault is named.
pub fn coerce(pairs: &[(String, String)], schema: Option<&Value>) -> Result<Map<String, Value>, Vec<InputIssue>> {
    let properties = schema.and_then(|schema| schema.get("properties"));
    let (mut payload, mut issues) = (Map::new(), Vec::new());
    for (key, text) in pairs {
        let kind = properties.and_then(|properties| properties.get(key)).map_or(PropertyType::Unknown, type_of);
        match value_of(kind, text) {
            Ok(value) => {
                payload.insert(key.clone(), value);
            }
            Err(message) => issues.push(InputIssue::new(format!("inputs.{key}"), message)),
        }
    }
    if issues.is_empty() { Ok(payload) } else { Err(issues) }
}

fn type_of(schema: &Value) -> PropertyType {
    if let Some(kind) = schema.get("type").and_then(Value::as_str) {
        return match kind {
            "string" => PropertyType::String,
            "number" => PropertyType::Number,
            "integer" => PropertyType::Integer,
            "boolean" => PropertyType::Boolean,
            "array" => PropertyType::Array,
            "object" => PropertyType::Object,
            _ => PropertyType::Unknown,
        };
    }
    if let Some(constant) = schema.get("const") {
        return type_of_value(constant);
    }
    if let Some(members) = schema.get("enum").and_then(Value::as_array) {
        return one_of(members.iter().filter(|member| !member.is_null()).map(type_of_value));
    }
    let branches = ["anyOf", "oneOf"].iter().find_map(|name| schema.get(name)?.as_array());
    one_of(branches.into_iter().flatten().filter(|branch| branch.get("type").and_then(Value::as_str) != Some("null")).map(type_of))
}

/// The one type of all; unknown when there are several, or none.
fn one_of(kinds: impl Iterator<Item = PropertyType>) -> PropertyType {
    let kinds: Vec<PropertyType> = kinds.collect();
    match kinds.split_first() {
        Some((first, rest)) if rest.iter().all(|kind| kind == first) => *first,
        _ => PropertyType::Unknown,
    }
}

fn type_of_value(value: &Value) -> PropertyType {
    match value {
        Value::String(_) => PropertyType::String,
        Value::Number(_) => PropertyType::Number,
        Value::Bool(_) => PropertyType::Boolean,
        Value::Array(_) => PropertyType::Array,
        Value::Object(_) => PropertyType::Object,
        Value::Null => PropertyType::Unknown,
    }
}

fn value_of(kind: PropertyType, text: &str) -> Result<Value, String> {
    let json = || serde_json::from_str::<Value>(text).ok();
    match kind {
        PropertyType::String => Ok(Value::String(text.to_owned())),
        PropertyType::Number => number_value(text).ok_or_else(|| "must be a finite number".into()),
        PropertyType::Integer => number_value(text).filter(Value::is_i64).ok_or_else(|| "must be a whole number".into()),
        PropertyType::Boolean => match text {
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            _ => Err("must be true or false".into()),
        },
        PropertyType::Array => json().filter(Value::is_array).ok_or_else(|| "must be a JSON list".into()),
        PropertyType::Object => json().filter(Value::is_object).ok_or_else(|| "must be a JSON object".into()),
        PropertyType::Unknown => Ok(json().unwrap_or_else(|| Value::String(text.to_owned()))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn arguments_take_the_types_of_the_schema() {
        let schema = json!({ "properties": {
            "name": { "type": "string" }, "count": { "type": "integer" }, "on": { "type": "boolean" }, "tags": { "type": "array" },
            "mode": { "enum": ["a", "b"] }, "maybe": { "anyOf": [{ "type": "number" }, { "type": "null" }] },
        } });
        let pairs = |list: &[(&str, &str)]| list.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<Vec<_>>();
        let given = pairs(&[
            ("name", "7"),
            ("count", "3"),
            ("on", "true"),
            ("tags", "[1]"),
            ("mode", "1"),
            ("maybe", "1.5"),
            ("x", "{\"a\":1}"),
            ("y", "z"),
        ]);
        let expected = json!({ "name": "7", "count": 3, "on": true, "tags": [1], "mode": "1", "maybe": 1.5, "x": { "a": 1 }, "y": "z" });
        assert_eq!(coerce(&given, Some(&schema)), Ok(expected.as_object().unwrap().clone()));
        let wrong = coerce(&pairs(&[("count", "1.5"), ("on", "yes"), ("tags", "{}")]), Some(&schema)).unwrap_err();
        assert_eq!(wrong.len(), 3);
    }
}
