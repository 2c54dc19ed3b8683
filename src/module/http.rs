//! Declarative HTTP actions: a request as data, and what becomes of its response. Pure; the caller sends the request.
//!
//! A text may hold expressions `${root.path}`. The roots are the members of the scope that the caller gives: `payload`,
//! `credential`, and those of the job. The response's own parts are under `response`.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::call::{ActionFault, ActionOutcome, ModuleRequest, ModuleResponse};
use super::path;

/// Maximum number of characters of a response body in an error message.
const MAX_BODY_CHARS: usize = 2_000;
/// The methods of actions.
const METHODS: &[&str] = &["GET", "POST", "PUT", "PATCH", "DELETE"];

/// The request of an action and the form of its result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpDefinition {
    pub method: String,
    /// Relative to the job's base URL, or absolute. The values in it are percent-encoded, except one at its beginning.
    pub path: String,
    /// A parameter whose value is missing is left out; a list gives one parameter for each item.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub query: IndexMap<String, Value>,
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub headers: IndexMap<String, String>,
    /// A member whose whole value is an expression without a value is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
    /// Statuses that are a success; empty: 200 to 299.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expect: Vec<u16>,
    /// The response of the action; the body when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<Value>,
    /// The exports of the action.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub exports: IndexMap<String, Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// A line for `activity.log`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activity: Option<String>,
}

impl HttpDefinition {
    /// Returns every fault of the definition: the member's name and a message.
    pub fn faults(&self) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        if !METHODS.contains(&self.method.as_str()) {
            faults.push(("request.method".to_owned(), format!("`{}` is not one of {}", self.method, METHODS.join(", "))));
        }
        if self.path.is_empty() {
            faults.push(("request.path".to_owned(), "the path is empty".to_owned()));
        }
        for status in self.expect.iter().filter(|status| !(100..=599).contains(*status)) {
            faults.push(("expect".to_owned(), format!("{status} is not an HTTP status")));
        }
        let mut check = |at: String, value: &Value| {
            for text in texts(value).into_iter().filter(|text| is_path(text)) {
                faults.extend(path::check(text).err().map(|message| (at.clone(), message)));
            }
        };
        if let Some(response) = &self.response {
            check("response".into(), response);
        }
        for (name, value) in &self.exports {
            check(format!("exports.{name}"), value);
        }
        faults
    }

    /// Returns the request for a payload and a credential.
    pub fn request(&self, scope: &Value) -> Result<ModuleRequest, ActionFault> {
        let mut url = fill_path(&self.path, scope);
        let query = self.encoded_query(scope);
        if !query.is_empty() {
            url.push(if url.contains('?') { '&' } else { '?' });
            url.push_str(&query);
        }
        let headers = self.headers.iter().map(|(name, value)| (name.to_lowercase(), fill_text(value, scope))).collect();
        let body = self.body.as_ref().and_then(|body| fill(body, scope));
        Ok(ModuleRequest { method: self.method.clone(), url, headers, body, ..ModuleRequest::default() })
    }

    fn encoded_query(&self, scope: &Value) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        for (name, template) in &self.query {
            match fill(template, scope) {
                Some(Value::Array(items)) => items.iter().for_each(|item| {
                    query.append_pair(name, &text_of(item));
                }),
                Some(value) => {
                    query.append_pair(name, &text_of(&value));
                }
                None => {}
            }
        }
        query.finish()
    }

    /// Returns the action's outcome. A status that is not expected is a fault; it is retryable where the server may recover.
    pub fn outcome(&self, scope: &Value, response: &ModuleResponse) -> Result<ActionOutcome, ActionFault> {
        let status = response.status;
        let is_expected = if self.expect.is_empty() { (200..300).contains(&status) } else { self.expect.contains(&status) };
        if !is_expected {
            let body: String = response.body.to_string().chars().take(MAX_BODY_CHARS).collect();
            let message = format!("{} {} failed with HTTP {status}: {body}", self.method, self.path);
            return Err(ActionFault { message, retryable: matches!(status, 408 | 429 | 502..=504) });
        }
        let result = match &self.response {
            Some(template) => select(template, scope, &response.body)?.unwrap_or_else(|| json!({})),
            None => response.body.clone(),
        };
        let mut exports = Map::new();
        for (name, template) in &self.exports {
            if let Some(value) = select(template, scope, &response.body)? {
                exports.insert(name.clone(), value);
            }
        }
        let scope = with_response(scope, &result);
        let detail = self.detail.as_ref().map(|detail| fill_text(detail, &scope));
        Ok(ActionOutcome { response: result, exports: exports.into(), detail, diagnostics: Value::Null, run_patch: None })
    }

    /// Returns the line for `activity.log`, if the action has one.
    pub fn activity_line(&self, scope: &Value, response: &Value) -> Option<String> {
        self.activity.as_ref().map(|activity| fill_text(activity, &with_response(scope, response)))
    }
}

fn with_response(scope: &Value, response: &Value) -> Value {
    let mut scope = scope.as_object().cloned().unwrap_or_default();
    scope.insert("response".into(), response.clone());
    scope.into()
}

/// A template over a response: texts that begin with `$.` or are `$` are JSONPaths over the body.
fn select(template: &Value, scope: &Value, body: &Value) -> Result<Option<Value>, ActionFault> {
    match template {
        Value::String(text) if is_path(text) => path::pick(text, body).map_err(ActionFault::new),
        Value::Object(members) => {
            let mut selected = Map::new();
            for (name, member) in members {
                if let Some(value) = select(member, scope, body)? {
                    selected.insert(name.clone(), value);
                }
            }
            Ok(Some(selected.into()))
        }
        Value::Array(items) => {
            let items = items.iter().map(|item| Ok(select(item, scope, body)?.unwrap_or_default()));
            items.collect::<Result<Vec<_>, ActionFault>>().map(|items| Some(items.into()))
        }
        other => Ok(fill(other, &with_response(scope, body))),
    }
}

fn is_path(text: &str) -> bool {
    text == "$" || text.starts_with("$.") || text.starts_with("$[")
}

/// Every text in a value.
fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text.as_str()],
        Value::Array(items) => items.iter().flat_map(texts).collect(),
        Value::Object(members) => members.values().flat_map(texts).collect(),
        _ => Vec::new(),
    }
}

/// A template with its values. A text that is one expression keeps the value's type; one without a value is left out.
fn fill(template: &Value, scope: &Value) -> Option<Value> {
    match template {
        Value::String(text) => match sole_expression(text) {
            Some(expression) => lookup(expression, scope).filter(|value| !value.is_null()).cloned(),
            None => Some(fill_text(text, scope).into()),
        },
        Value::Array(items) => Some(items.iter().map(|item| fill(item, scope).unwrap_or_default()).collect()),
        Value::Object(members) => {
            let members = members.iter().filter_map(|(name, member)| Some((name.clone(), fill(member, scope)?)));
            Some(Value::Object(members.collect()))
        }
        other => Some(other.clone()),
    }
}

/// A text with its values as text; a missing one is empty.
fn fill_text(template: &str, scope: &Value) -> String {
    let parts = split_template(template).into_iter();
    parts
        .map(|part| match part {
            TemplatePart::Literal(text) => text.to_owned(),
            TemplatePart::Expression(expression) => lookup(expression, scope).map(text_of).unwrap_or_default(),
        })
        .collect()
}

/// A path with its values percent-encoded, so that none adds a segment or a query. A value at the very beginning is a base URL.
fn fill_path(template: &str, scope: &Value) -> String {
    let parts = split_template(template).into_iter().enumerate();
    parts
        .map(|(number, part)| match part {
            TemplatePart::Literal(text) => text.to_owned(),
            TemplatePart::Expression(expression) => {
                let text = lookup(expression, scope).map(text_of).unwrap_or_default();
                if number == 0 { text } else { encode_segment(&text) }
            }
        })
        .collect()
}

/// Percent-encodes everything but the unreserved characters of RFC 3986. A text of dots alone would be a step in the path.
fn encode_segment(text: &str) -> String {
    let is_dots = matches!(text, "." | "..");
    let encode = |byte: u8| {
        let is_plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~') || (byte == b'.' && !is_dots);
        if is_plain { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    text.bytes().map(encode).collect()
}

/// A part of a template.
enum TemplatePart<'a> {
    Literal(&'a str),
    Expression(&'a str),
}

/// The parts of a text; an expression that does not end is a literal.
fn split_template(text: &str) -> Vec<TemplatePart<'_>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((literal, expression, after)) = rest.split_once("${").and_then(|(literal, after)| {
        let (expression, after) = after.split_once('}')?;
        Some((literal, expression, after))
    }) {
        if !literal.is_empty() {
            parts.push(TemplatePart::Literal(literal));
        }
        parts.push(TemplatePart::Expression(expression.trim()));
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(TemplatePart::Literal(rest));
    }
    parts
}

/// The expression of a text that is one expression and nothing else.
fn sole_expression(text: &str) -> Option<&str> {
    match split_template(text).as_slice() {
        [TemplatePart::Expression(expression)] => Some(*expression),
        _ => None,
    }
}

/// The value at a dotted path; objects only.
fn lookup<'a>(expression: &str, scope: &'a Value) -> Option<&'a Value> {
    expression.split('.').try_fold(scope, |place, name| place.as_object()?.get(name))
}

/// A value as a part of a text: texts as they are, everything else as compact JSON, nothing for null.
fn text_of(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> HttpDefinition {
        serde_json::from_value(json!({
            "method": "POST", "path": "/boards/${payload.board}/tickets", "query": { "notify": "${payload.notify}", "all": true },
            "headers": { "X-Key": "${credential.key}" }, "body": { "title": "${payload.title}", "note": "${payload.note}" },
            "exports": { "id": "$.id", "label": "ticket ${response.id}" }, "detail": "opened ${response.id}"
        }))
        .unwrap()
    }

    #[test]
    fn a_request_is_filled_from_the_payload() {
        let scope = json!({ "payload": { "board": "a/../b", "title": { "en": "Hi" } }, "credential": { "key": "k" } });
        let request = open().request(&scope).unwrap();
        assert_eq!(request.url, "/boards/a%2F..%2Fb/tickets?all=true");
        assert_eq!(request.headers.get("x-key").map(String::as_str), Some("k"));
        assert_eq!(request.body, Some(json!({ "title": { "en": "Hi" } })));
        assert_eq!(encode_segment(".."), "%2E%2E");
    }

    #[test]
    fn a_response_gives_exports_and_a_detail() {
        let response = ModuleResponse { status: 201, body: json!({ "id": 7 }) };
        let outcome = open().outcome(&json!({}), &response).unwrap();
        assert_eq!(outcome.exports, json!({ "id": 7, "label": "ticket 7" }));
        assert_eq!((outcome.detail.as_deref(), &outcome.response), (Some("opened 7"), &response.body));
        let fault = open().outcome(&json!({}), &ModuleResponse { status: 503, body: json!({}) }).unwrap_err();
        assert!(fault.retryable && fault.message.contains("HTTP 503"), "{fault}");
    }
}
