//! `${...}` in payloads and in `http`: what an expression reads, and what a text comes to.
//!
//! Pure: what needs a JSONPath beyond plain paths is evaluated by the caller first ([`path_queries`]), because it alone can
//! stop such an evaluation.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::json_path::{PathPick, pick_plain};
use super::names::is_env_name;
use super::state::JobState;

/// What an expression reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    Env(String),
    /// A declared input, and the names below it.
    Input(String, Vec<String>),
    Run(Vec<String>),
    /// A finished step's `response` or `exports`, and the names below it.
    Step {
        id: String,
        part: StepPart,
        path: Vec<String>,
    },
    /// JSONPath over the run scope.
    RunPath(String),
    /// JSONPath over a step's response.
    StepPath {
        id: String,
        path: String,
    },
    /// A root of the caller's own, such as `payload`, and the names below it.
    Own(String, Vec<String>),
}

/// A part of what a step left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepPart {
    Response,
    Exports,
}

/// Why an expression cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpressionFault(pub String);

/// Reads the text between `${` and `}`. `own` are the roots that the caller adds.
pub fn parse_expression(text: &str, own: &[&str]) -> Result<Reference, ExpressionFault> {
    let text = text.trim();
    let fault = |why: &str| ExpressionFault(format!("`${{{text}}}` {why}"));
    if let Some(arguments) = text.strip_prefix("jsonpath(").and_then(|rest| rest.strip_suffix(')')) {
        let (scope, path) = arguments.split_once(',').ok_or_else(|| fault("needs a scope and a path: jsonpath(run, $.a)"))?;
        let (scope, path) = (scope.trim(), path.trim().to_owned());
        return match scope.strip_prefix("step:") {
            Some(id) if !id.is_empty() => Ok(Reference::StepPath { id: id.to_owned(), path }),
            _ if scope == "run" => Ok(Reference::RunPath(path)),
            _ => Err(fault("has an unsupported scope; one of run, step:ID")),
        };
    }
    let mut names = text.split('.').map(str::to_owned);
    let root = names.next().unwrap_or_default();
    let names: Vec<String> = names.collect();
    if names.iter().any(String::is_empty) {
        return Err(fault("has an empty name in its path"));
    }
    match (root.as_str(), names.as_slice()) {
        ("env", [name]) if is_env_name(name) => Ok(Reference::Env(name.clone())),
        ("env", _) => Err(fault("does not name an environment variable")),
        ("input", [name, rest @ ..]) => Ok(Reference::Input(name.clone(), rest.to_vec())),
        ("run", [_, ..]) => Ok(Reference::Run(names)),
        ("step", [id, part, rest @ ..]) if part == "response" || part == "exports" => {
            let part = if part == "response" { StepPart::Response } else { StepPart::Exports };
            Ok(Reference::Step { id: id.clone(), part, path: rest.to_vec() })
        }
        (root, _) if own.contains(&root) => Ok(Reference::Own(root.to_owned(), names)),
        _ => Err(fault("is not supported; use env., input., run., step.ID.response, step.ID.exports or jsonpath(...)")),
    }
}

/// The complete expressions of a text.
pub fn expressions(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let Some(after) = rest.get(start + 2..) else { break };
        let Some(end) = after.find('}') else { break };
        if end > 0 {
            found.extend(after.get(..end));
        }
        rest = after.get(end + 1..).unwrap_or_default();
    }
    found
}

/// Whether a text begins an expression and has none that is complete.
pub fn is_malformed(text: &str) -> bool {
    text.contains("${") && expressions(text).is_empty()
}

/// Whether a text is one expression and nothing else.
pub fn is_whole(text: &str) -> bool {
    text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')).is_some_and(|inside| !inside.is_empty() && !inside.contains('}'))
}

/// A JSONPath that must be evaluated before [`Interpolation::fill`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PathQuery {
    /// The step whose response is searched; `None` for the run scope.
    pub step: Option<String>,
    pub path: String,
}

/// The JSONPaths of a value that are not plain.
pub fn path_queries(value: &Value) -> Vec<PathQuery> {
    let mut found = Vec::new();
    walk(value, "", &mut |_, text| {
        for expression in expressions(text) {
            let query = match parse_expression(expression, &[]) {
                Ok(Reference::RunPath(path)) => PathQuery { step: None, path },
                Ok(Reference::StepPath { id, path }) => PathQuery { step: Some(id), path },
                _ => continue,
            };
            if pick_plain(&query.path, &Value::Null) == PathPick::Foreign && !found.contains(&query) {
                found.push(query);
            }
        }
    });
    found
}

/// Calls `visit` with the place and the text of each string of a value; a place is written as `a.b[0]`.
pub fn walk(value: &Value, at: &str, visit: &mut dyn FnMut(&str, &str)) {
    match value {
        Value::String(text) => visit(at, text),
        Value::Array(items) => items.iter().enumerate().for_each(|(index, item)| walk(item, &format!("{at}[{index}]"), visit)),
        Value::Object(map) => {
            for (name, item) in map {
                let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                walk(item, &at, visit);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// What expressions are read from.
pub struct Interpolation<'a> {
    pub state: &'a JobState,
    /// Roots of the caller's own, by name.
    pub own: &'a Map<String, Value>,
    /// The values of [`path_queries`].
    pub paths: &'a HashMap<PathQuery, Value>,
}

impl Interpolation<'_> {
    /// The value with each of its texts filled in; keys stay as they are.
    pub fn fill(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => self.text(text),
            Value::Array(items) => items.iter().map(|item| self.fill(item)).collect(),
            Value::Object(map) => Value::Object(map.iter().map(|(name, item)| (name.clone(), self.fill(item))).collect()),
            other => other.clone(),
        }
    }

    /// A text that is one expression keeps the type of its value; null and what is missing are an empty text.
    fn text(&self, text: &str) -> Value {
        if is_whole(text) {
            let inside = text.get(2..text.len() - 1).unwrap_or_default();
            return self.read(inside).filter(|value| !value.is_null()).unwrap_or_else(|| Value::String(String::new()));
        }
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            let (before, opened) = rest.split_at(start);
            filled.push_str(before);
            let Some(end) = opened.find('}').filter(|end| *end > 2) else {
                let length = opened.find('}').map_or(opened.len(), |end| end + 1);
                let (left, after) = opened.split_at(length);
                filled.push_str(left);
                rest = after;
                continue;
            };
            let value = opened.get(2..end).and_then(|inside| self.read(inside));
            filled.push_str(&value.as_ref().map(as_text).unwrap_or_default());
            rest = opened.get(end + 1..).unwrap_or_default();
        }
        filled.push_str(rest);
        Value::String(filled)
    }

    fn read(&self, expression: &str) -> Option<Value> {
        let own: Vec<&str> = self.own.keys().map(String::as_str).collect();
        match parse_expression(expression, &own).ok()? {
            Reference::Env(name) => self.state.env.get(&name).map(|value| Value::String(value.clone())),
            Reference::Input(name, path) => follow(self.state.input.get(&name)?, &path).cloned(),
            Reference::Run(path) => follow_map(&self.state.run, &path).cloned(),
            Reference::Step { id, part, path } => {
                let result = self.state.step(&id)?;
                follow(if part == StepPart::Response { &result.response } else { &result.exports }, &path).cloned()
            }
            Reference::RunPath(path) => self.path(None, path, &Value::Object(self.state.run.clone())),
            Reference::StepPath { id, path } => {
                let response = &self.state.step(&id)?.response;
                self.path(Some(id), path, response)
            }
            Reference::Own(root, path) => follow(self.own.get(&root)?, &path).cloned(),
        }
    }

    fn path(&self, step: Option<String>, path: String, root: &Value) -> Option<Value> {
        match pick_plain(&path, root) {
            PathPick::Found(found) => found,
            PathPick::Foreign => self.paths.get(&PathQuery { step, path }).cloned(),
        }
    }
}

/// Follows names through objects.
pub fn follow<'v>(value: &'v Value, path: &[String]) -> Option<&'v Value> {
    path.iter().try_fold(value, |value, name| value.as_object()?.get(name))
}

fn follow_map<'v>(map: &'v Map<String, Value>, path: &[String]) -> Option<&'v Value> {
    let (first, rest) = path.split_first()?;
    follow(map.get(first)?, rest)
}

/// A value inside a text: as JavaScript writes it, but objects as compact JSON.
pub fn as_text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Number(number) => number_text(number),
        Value::Array(items) => items.iter().map(as_text).collect::<Vec<_>>().join(","),
        Value::Bool(_) | Value::Object(_) => value.to_string(),
    }
}

/// A number without a fraction of zero.
fn number_text(number: &serde_json::Number) -> String {
    let text = number.to_string();
    text.strip_suffix(".0").map_or_else(|| text.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::job::state::StepResult;

    fn fill(value: Value) -> Value {
        let mut state = JobState::default();
        state.env.insert("CITY".into(), "Oslo".into());
        state.input.insert("count".into(), json!(3));
        state.run.insert("order".into(), json!({ "id": 7 }));
        let result = StepResult {
            response: json!({ "items": [{ "n": 1 }, { "n": 2 }], "gone": null }),
            exports: json!({ "id": "x" }),
            ..StepResult::default()
        };
        state.steps.push(("list".into(), result));
        Interpolation { state: &state, own: &Map::new(), paths: &HashMap::new() }.fill(&value)
    }

    #[test]
    fn a_whole_expression_keeps_its_type_and_others_become_text() {
        let given = json!({
            "env": "${env.CITY}", "both": "to ${env.CITY}!", "count": "${ input.count }", "text": "${input.count} pieces",
            "object": "${step.list.exports}", "inside": "<${step.list.exports}>", "first": "${jsonpath(step:list, $.items[0].n)}",
            "run": "${run.order.id}", "index": "${step.list.response.items.0.n}", "null": "${step.list.response.gone}",
            "missing": "${run.nothing}", "open": "${env.CITY", "empty": "${}", "list": ["${env.CITY}", 1], "bare": "${run}",
        });
        let expected = json!({
            "env": "Oslo", "both": "to Oslo!", "count": 3, "text": "3 pieces",
            "object": { "id": "x" }, "inside": "<{\"id\":\"x\"}>", "first": 1,
            "run": 7, "index": "", "null": "", "missing": "", "open": "${env.CITY", "empty": "${}", "list": ["Oslo", 1], "bare": "",
        });
        assert_eq!(fill(given), expected);
    }

    #[test]
    fn what_cannot_be_read_is_known_before() {
        for wrong in ["env.a-b", "step.x", "input", "run", "jsonpath(all, $.a)", "jsonpath(run)", "other.x"] {
            assert!(parse_expression(wrong, &[]).is_err(), "{wrong}");
        }
        assert!(is_malformed("a ${b") && is_malformed("${}") && !is_malformed("${a} ${b"));
        let queries = path_queries(&json!(["${jsonpath(run, $.a[*])}", "${jsonpath(step:s, $.a[0,1])}", "${jsonpath(run, $.a)}"]));
        assert_eq!(queries.len(), 2);
        assert_eq!(queries[1], PathQuery { step: Some("s".into()), path: "$.a[0,1]".into() });
    }
}
