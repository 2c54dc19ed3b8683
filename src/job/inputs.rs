//! Caller inputs: `key=value` arguments in the types that a case declares.

use serde::Serialize;
use serde_json::{Map, Value};

use super::case::{InputDeclaration, InputType};
use super::poll::number_of_text;

/// One fault of the given inputs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InputIssue {
    pub path: String,
    pub message: String,
}

impl InputIssue {
    /// A fault at a place.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

/// Splits `key=value` arguments; a key given twice keeps its first value. Malformed and repeated ones are faults under `place`.
pub fn split_pairs(arguments: &[String], place: &str) -> (Vec<(String, String)>, Vec<InputIssue>) {
    let (mut pairs, mut issues) = (Vec::<(String, String)>::new(), Vec::new());
    for argument in arguments {
        match argument.trim().split_once('=').map(|(key, value)| (key.trim(), value)) {
            Some((key, value)) if !key.is_empty() => {
                if pairs.iter().any(|(known, _)| known == key) {
                    issues.push(InputIssue::new(format!("{place}.{key}"), "is given more than once"));
                } else {
                    pairs.push((key.to_owned(), value.to_owned()));
                }
            }
            _ => issues.push(InputIssue::new(place, "must use key=value")),
        }
    }
    (pairs, issues)
}

/// Reads the inputs of a case. Error: every fault; malformed ones first, then undeclared ones, then those of each declared input.
pub fn read_inputs(declared: &[InputDeclaration], arguments: &[String]) -> Result<Map<String, Value>, Vec<InputIssue>> {
    let (pairs, mut issues) = split_pairs(arguments, "inputs");
    for (key, _) in &pairs {
        if !declared.iter().any(|input| input.name == *key) {
            issues.push(InputIssue::new(format!("inputs.{key}"), "is not declared in `inputs` of the case"));
        }
    }
    let mut inputs = Map::new();
    for input in declared {
        let at = format!("inputs.{}", input.name);
        match pairs.iter().find(|(key, _)| *key == input.name) {
            None if input.required => issues.push(InputIssue::new(at, "is required but was not given")),
            None => {}
            Some((_, text)) => match typed(input.kind, text) {
                Ok(value) => {
                    inputs.insert(input.name.clone(), value);
                }
                Err(message) => issues.push(InputIssue::new(at, message)),
            },
        }
    }
    if issues.is_empty() { Ok(inputs) } else { Err(issues) }
}

fn typed(kind: InputType, text: &str) -> Result<Value, String> {
    match kind {
        InputType::String => Ok(Value::String(text.to_owned())),
        InputType::Boolean => match text {
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            _ => Err("must be true or false".into()),
        },
        InputType::Number => number_value(text).ok_or_else(|| "must be a finite number".into()),
    }
}

/// A text as a JSON number, whole where it is whole.
pub fn number_value(text: &str) -> Option<Value> {
    if let Ok(whole) = text.trim().parse::<i64>() {
        return Some(whole.into());
    }
    let number = number_of_text(text);
    #[expect(clippy::cast_possible_truncation, reason = "the number is whole and within the range of exact integers")]
    let whole = (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64);
    whole.map(Value::from).or_else(|| serde_json::Number::from_f64(number).map(Value::Number))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn inputs_are_typed_and_every_fault_is_named() {
        let input = |name: &str, kind, required| InputDeclaration { name: name.into(), kind, required };
        let declared =
            [input("name", InputType::String, true), input("count", InputType::Number, false), input("dry", InputType::Boolean, false)];
        let read = |arguments: &[&str]| read_inputs(&declared, &arguments.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        assert_eq!(
            read(&[" name=a=b", "count=0x10", "dry=true"]),
            Ok(json!({ "name": "a=b", "count": 16, "dry": true }).as_object().unwrap().clone())
        );
        assert_eq!(read(&["name=", "count="]), Ok(json!({ "name": "", "count": 0 }).as_object().unwrap().clone()));
        let paths: Vec<String> =
            read(&["", "x=1", "count=many", "dry=yes", "dry=no"]).unwrap_err().into_iter().map(|issue| issue.path).collect();
        assert_eq!(paths, ["inputs", "inputs.dry", "inputs.x", "inputs.name", "inputs.count", "inputs.dry"]);
    }
}
