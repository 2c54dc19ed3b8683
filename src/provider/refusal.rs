//! A vendor's error body in any of the usual forms, and the reason in it that a person can act on.
//!
//! Forms: `{"error": {...}}`, `{"error": "..."}`, `[{"error": ...}]`, `{"message"}`, `{"detail": [{"loc", "msg"}]}` (FastAPI),
//! `{"errors": [...]}` (Cloudflare), `{"error_msg"}` (Baidu), `{"base_resp": {...}}` (MiniMax), `{"code", "msg"}` (Zhipu),
//! `error.metadata.raw` (OpenRouter), and plain text.

use std::time::Duration;

use serde_json::Value;

use super::error::{Class, ProviderError, classify};
use super::lenient;

/// Longest message that is shown, in characters.
const MAX_MESSAGE: usize = 500;
/// Deepest nesting in which a reason is looked for.
const MAX_DEPTH: usize = 6;
/// Reasons of one list that are shown.
const MAX_REASONS: usize = 3;
/// Members that hold a reason, best first.
const REASON_MEMBERS: [&str; 12] = [
    "message",
    "detail",
    "error",
    "msg",
    "error_msg",
    "error_message",
    "errors",
    "status_msg",
    "reason",
    "description",
    "Message",
    "title",
];

/// Reads an error from a status and a body.
pub(super) fn read(status: u16, body: &[u8]) -> ProviderError {
    let mut error = match serde_json::from_slice::<Value>(body) {
        Ok(value) => from_value(status, error_in(&value).unwrap_or(&value)),
        Err(_) => from_text(status, &String::from_utf8_lossy(body)),
    };
    error.status = Some(status);
    error
}

/// Reads an error that arrived as an event inside a stream, or in the body of a success.
pub(super) fn in_stream(error: &Value) -> ProviderError {
    // OpenRouter and Gemini give the status they would have answered with as `code`.
    let code = ["code", "status", "status_code", "http_code"].iter().find_map(|name| lenient::count(error.get(*name)));
    let status = code.and_then(|code| u16::try_from(code).ok()).filter(|code| (400..600).contains(code));
    from_value(status.unwrap_or(200), error)
}

/// The error inside a body, if there is one.
pub(super) fn error_in(value: &Value) -> Option<&Value> {
    let value = match value {
        Value::Array(items) => items.first()?,
        value => value,
    };
    let given = |name: &str| value.get(name).filter(|member| is_given(member));
    if let Some(error) = given("error") {
        // `"error": true` beside a message.
        return Some(if error.is_boolean() || error.is_number() { value } else { error });
    }
    if let Some(response) = value.get("base_resp") {
        return lenient::count_of(response, &["status_code"]).is_some_and(|code| code != 0).then_some(response);
    }
    let failed = value.get("success") == Some(&Value::Bool(false)) || value.get("object").and_then(Value::as_str) == Some("error");
    let reason = ["message", "detail", "errors", "error_msg", "error_message", "msg", "Message"].iter().any(|name| given(name).is_some());
    (failed || reason).then_some(value)
}

fn is_given(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
        _ => true,
    }
}

fn from_value(status: u16, error: &Value) -> ProviderError {
    let reason = reason(error, MAX_DEPTH);
    let codes = codes(error);
    let waits = retry_info(error);
    let mut class = classify(status, &codes, reason.as_deref().unwrap_or_default());
    // A vendor that names a wait of seconds or minutes does not speak of a debt.
    if class == Class::Billing && waits.is_some() {
        class = Class::RateLimited;
    }
    let message = reason.or_else(|| codes.first().cloned()).unwrap_or_else(|| unexplained(status));
    let mut failure = ProviderError::new(class, clip(&message));
    failure.retry_after = waits;
    failure
}

fn from_text(status: u16, body: &str) -> ProviderError {
    let text = body.trim();
    // A page of a proxy explains nothing to a reader of messages; the excerpt keeps it.
    let is_page = text.starts_with('<');
    let message = if text.is_empty() || is_page { unexplained(status) } else { clip(text) };
    ProviderError::new(classify(status, &[], if is_page { "" } else { text }), message)
}

fn unexplained(status: u16) -> String {
    match status {
        200 => "the server gave no reason".to_owned(),
        status => format!("the server answered {status}"),
    }
}

fn clip(text: &str) -> String {
    text.chars().take(MAX_MESSAGE).collect()
}

/// The codes, types and status words of an error, in lower case.
fn codes(error: &Value) -> Vec<String> {
    let first = match error.get("errors") {
        Some(Value::Array(items)) => items.first(),
        _ => None,
    };
    let nested = error.get("message").filter(|message| message.is_object());
    let sources = std::iter::once(error).chain(first).chain(nested);
    let members = sources.flat_map(|source| {
        ["code", "type", "status", "error_code", "status_code", "__type", "error_type"].into_iter().filter_map(move |name| source.get(name))
    });
    let texts = members.filter_map(|member| match member {
        Value::String(text) if !text.is_empty() => Some(text.to_lowercase()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    });
    texts.collect()
}

/// The vendor's reason in words.
fn reason(value: &Value, depth: usize) -> Option<String> {
    let depth = depth.checked_sub(1)?;
    match value {
        Value::String(text) => {
            let text = text.trim();
            // An upstream's body inside a text.
            let inner = text.starts_with('{').then(|| serde_json::from_str::<Value>(text).ok()).flatten();
            inner.and_then(|inner| reason(&inner, depth)).or_else(|| (!text.is_empty()).then(|| text.to_owned()))
        }
        Value::Array(items) => {
            let reasons: Vec<String> = items.iter().filter_map(|item| located(item, depth)).take(MAX_REASONS).collect();
            (!reasons.is_empty()).then(|| reasons.join("; "))
        }
        Value::Object(members) => {
            let said = REASON_MEMBERS.iter().find_map(|name| reason(members.get(*name)?, depth));
            let raw = members.get("metadata").and_then(|metadata| metadata.get("raw")).and_then(|raw| reason(raw, depth));
            match (said, raw) {
                (Some(said), Some(raw)) if !said.contains(&raw) => Some(format!("{said}: {raw}")),
                (said, raw) => said.or(raw),
            }
        }
        _ => None,
    }
}

/// A reason of a list, with the place that FastAPI names: `body.messages.0.content: Field required`.
fn located(item: &Value, depth: usize) -> Option<String> {
    let said = reason(item, depth)?;
    let place: Vec<String> = item.get("loc").and_then(Value::as_array).into_iter().flatten().map(plain).collect();
    Some(if place.is_empty() { said } else { format!("{}: {said}", place.join(".")) })
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Google's `RetryInfo` (google.rpc.RetryInfo): `"retryDelay": "34.07s"`.
fn retry_info(error: &Value) -> Option<Duration> {
    let details = error.get("details")?.as_array()?;
    let delay = details.iter().find_map(|detail| detail.get("retryDelay")?.as_str())?;
    let seconds: f64 = delay.strip_suffix('s')?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_usual_form_gives_its_message() {
        for (status, body, class, message) in [
            (
                401,
                r#"{"error":{"message":"Incorrect API key provided","type":"invalid_request_error","code":"invalid_api_key"}}"#,
                Class::Auth,
                "Incorrect API key provided",
            ),
            (
                529,
                r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":"r"}"#,
                Class::Overloaded,
                "Overloaded",
            ),
            (
                503,
                r#"[{"error":{"code":503,"message":"The model is overloaded","status":"UNAVAILABLE"}}]"#,
                Class::Overloaded,
                "The model is overloaded",
            ),
            (404, r#"{"error":"model 'x' not found"}"#, Class::NotFound, "model 'x' not found"),
            (422, r#"{"detail":"bad field"}"#, Class::BadRequest, "bad field"),
            (
                422,
                r#"{"detail":[{"type":"missing","loc":["body","messages",0],"msg":"Field required"}]}"#,
                Class::BadRequest,
                "body.messages.0: Field required",
            ),
            (
                400,
                r#"{"error":{"message":"Provider returned error","code":400,"metadata":{"raw":"{\"error\":{\"message\":\"no such field\"}}"}}}"#,
                Class::BadRequest,
                "Provider returned error: no such field",
            ),
            (400, r#"{"errors":[{"code":7003,"message":"no route"}],"success":false}"#, Class::BadRequest, "no route"),
            (400, r#"{"error_code":336003,"error_msg":"too long"}"#, Class::BadRequest, "too long"),
            (400, r#"{"error":{"message":{"detail":"nested"}}}"#, Class::BadRequest, "nested"),
            (400, "plain words", Class::BadRequest, "plain words"),
            (502, "<html>Bad Gateway</html>", Class::ServerError, "the server answered 502"),
            (500, "", Class::ServerError, "the server answered 500"),
        ] {
            let error = read(status, body.as_bytes());
            assert_eq!((error.class, error.message.as_str(), error.status), (class, message, Some(status)));
        }
    }

    #[test]
    fn a_success_that_holds_an_error_is_one() {
        let found = |text: &str| error_in(&serde_json::from_str(text).unwrap()).map(|error| in_stream(error).message.clone());
        assert_eq!(found(r#"{"base_resp":{"status_code":1008,"status_msg":"no credit"}}"#), Some("no credit".into()));
        assert_eq!(found(r#"{"code":1113,"msg":"in debt","success":false}"#), Some("in debt".into()));
        assert_eq!(found(r#"{"object":"error","message":"out of memory","code":500}"#), Some("out of memory".into()));
        assert_eq!(found(r#"{"base_resp":{"status_code":0,"status_msg":""}}"#), None);
        assert_eq!(found(r#"{"id":"x","choices":[],"error":null,"prompt_filter_results":[]}"#), None);
    }

    #[test]
    fn googles_delay_is_read_and_is_no_debt() {
        let body = r#"{"error":{"code":429,"message":"You exceeded your current quota, please check your plan and billing details.","status":"RESOURCE_EXHAUSTED","details":[{"@type":"x"},{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"3.5s"}]}}"#;
        let error = read(429, body.as_bytes());
        assert_eq!((error.class, error.retry_after), (Class::RateLimited, Some(Duration::from_millis(3_500))));
    }

    #[test]
    fn an_error_in_a_stream_keeps_the_status_it_names() {
        let class = |text: &str| in_stream(&serde_json::from_str(text).unwrap()).class;
        assert_eq!(class(r#"{"type":"overloaded_error","message":"Overloaded"}"#), Class::Overloaded);
        assert_eq!(class(r#"{"type":"api_error","message":"Internal"}"#), Class::ServerError);
        assert_eq!(class(r#"{"code":429,"message":"slow down"}"#), Class::RateLimited);
        assert_eq!(class(r#"{"message":"The server had an error","type":"server_error","code":null}"#), Class::ServerError);
    }
}
