//! Dispatch requests from files, and changes to them from the command line.

use std::io::Read;

use serde_json::{Map, Value};

use crate::error::{Error, Kind, Result};

/// Reads a request; `-` is stdin.
pub fn read_request(file: &str) -> Result<Value> {
    let mut text = String::new();
    let read = if file == "-" {
        std::io::stdin().lock().read_to_string(&mut text).map(|_| ())
    } else {
        std::fs::read_to_string(file).map(|read| text = read)
    };
    read.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::new(Kind::Missing, "file_not_found", format!("there is no file {file}")),
        _ => Error::new(Kind::Invalid, "file_unreadable", format!("{file} cannot be read: {error}")),
    })?;
    serde_json::from_str(&text).map_err(|error| Error::new(Kind::Malformed, "invalid_json", format!("{file} is not JSON: {error}")))
}

/// Sets the value at a path of names and numbers: `inputs.city`, `flow.steps.0.config.model`.
pub fn set(request: &mut Value, path: &str, value: Value) -> Result<()> {
    let mut place = request;
    for name in path.split('.') {
        let refuse = || Error::new(Kind::Invalid, "invalid_setting", format!("`--set {path}`: the request has no place for `{name}`"));
        if place.is_null() {
            *place = Value::Object(Map::new());
        }
        place = match place {
            Value::Object(map) => map.entry(name).or_insert(Value::Null),
            Value::Array(items) => name.parse().ok().and_then(|index: usize| items.get_mut(index)).ok_or_else(refuse)?,
            _ => return Err(refuse()),
        };
    }
    *place = value;
    Ok(())
}

/// `PATH=VALUE`.
pub fn parse_setting(text: &str) -> Result<(String, Value), String> {
    let (path, value) = text.split_once('=').ok_or("write PATH=VALUE, as in inputs.city=Oslo")?;
    if path.split('.').any(str::is_empty) {
        return Err(format!("`{path}` is not a path; write names with dots between them, as in inputs.city"));
    }
    Ok((path.to_owned(), value_of(value)))
}

/// `TOOL=VALUE`.
pub fn parse_answer(text: &str) -> Result<(String, Value), String> {
    let (tool, value) = text.split_once('=').filter(|(tool, _)| !tool.is_empty()).ok_or("write TOOL=VALUE")?;
    Ok((tool.to_owned(), value_of(value)))
}

/// JSON where it is JSON, else the text itself.
fn value_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_reach_into_objects_and_lists() {
        let mut request = json!({ "flow": { "steps": [{ "name": "a" }] } });
        for setting in ["inputs.city=Oslo", "inputs.days=3", "flow.steps.0.config.model=local/echo", "options={\"debugMode\":true}"] {
            let (path, value) = parse_setting(setting).unwrap();
            set(&mut request, &path, value).unwrap();
        }
        let expected = json!({
            "flow": { "steps": [{ "name": "a", "config": { "model": "local/echo" } }] },
            "inputs": { "city": "Oslo", "days": 3 },
            "options": { "debugMode": true },
        });
        assert_eq!(request, expected);
    }

    #[test]
    fn settings_without_a_place_are_refused() {
        let mut request = json!({ "flow": { "steps": [] }, "async": true });
        for path in ["flow.steps.0", "flow.steps.x", "async.x"] {
            assert!(set(&mut request, path, Value::Null).is_err(), "{path}");
        }
        for wrong in ["city", "=x", "inputs..x=1", ".x=1"] {
            assert!(parse_setting(wrong).is_err(), "{wrong}");
        }
    }
}
