//! Refusals and failures in OpenAI's form: `{"error": {"message", "type", "param", "code"}}`.
//!
//! Beside `error` stand the other members of the envelope that all surfaces share: `details`, `retryable`, `retryAfter`, `next`.

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::http::header::{CONTENT_LENGTH, HeaderName, HeaderValue, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::error::{Envelope, Error, Problem, Problems};
use crate::http::problem::Code;

/// The name of [`ErrorDocument`] among the schemas of the API document.
pub const ERROR_SCHEMA: &str = "OpenAiErrorResponse";
/// Bytes of an error's body; ours are far smaller.
const MAX_BODY: usize = 4 * 1024 * 1024;
/// When a provider's limit is used up and it did not say for how long.
const RETRY_SECONDS: u64 = 5;
/// The header by which OpenAI's SDKs are told whether to repeat a call.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// An error as clients of OpenAI read it.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "OpenAiErrorResponse")]
pub struct ErrorDocument {
    error: ErrorBody,
    /// Facts about the failure; `problems` lists every fault of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Value>,
    /// Whether the same call can succeed later.
    retryable: bool,
    /// Seconds to wait before trying again.
    #[serde(rename = "retryAfter", skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "OpenAiError")]
struct ErrorBody {
    /// What went wrong and what to change, for people.
    message: String,
    /// `invalid_request_error`, `rate_limit_error`, `insufficient_quota`, `permission_error` or `server_error`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The parameter at fault, as `messages[0].content`.
    param: Option<String>,
    /// Stable identifier, for programs; OpenAI's where it has one.
    code: String,
}

/// An error with the status that it is answered with.
#[derive(Debug, Clone)]
pub struct WireError {
    status: StatusCode,
    document: Box<ErrorDocument>,
}

/// Codes for which OpenAI has a word of its own, and the status that goes with it.
const RENAMED: [(&str, &str, u16); 11] = [
    ("rate_limited", "rate_limit_exceeded", 429),
    ("too_many_streams", "rate_limit_exceeded", 429),
    ("provider_rate_limited", "rate_limit_exceeded", 429),
    ("provider_billing", "insufficient_quota", 429),
    ("budget_exhausted", "insufficient_quota", 429),
    ("budget_exceeded", "insufficient_quota", 429),
    ("too_many_executions", "rate_limit_exceeded", 429),
    ("unknown_model", "model_not_found", 404),
    ("provider_model_not_found", "model_not_found", 404),
    ("content_filtered", "content_filter", 400),
    ("context_length_exceeded", "context_length_exceeded", 400),
];

/// The status of a failure inside an execution, by its code.
const STATUSES: [(&str, u16); 13] = [
    ("provider_rejected_request", 400),
    ("egress_blocked", 400),
    ("empty_prompt", 400),
    ("invalid_messages", 400),
    ("price_unknown", 400),
    ("provider_auth_failed", 402),
    ("provider_forbidden", 402),
    ("provider_not_configured", 402),
    ("cancelled", 409),
    ("execution_waits", 409),
    ("provider_timeout", 504),
    ("step_timeout", 504),
    ("run_timeout", 504),
];

impl WireError {
    fn new(status: u16, code: &str, message: String) -> Self {
        let renamed = RENAMED.iter().find(|(known, ..)| *known == code);
        let (code, status) = renamed.map_or((code, status), |(_, renamed, status)| (*renamed, *status));
        // Clients of this API know one status for input that is wrong.
        let status = if status == StatusCode::UNPROCESSABLE_ENTITY.as_u16() { 400 } else { status };
        let kind = match status {
            _ if code == "insufficient_quota" => "insufficient_quota",
            403 => "permission_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        let body = ErrorBody { message, kind, param: None, code: code.to_owned() };
        let document = Box::new(ErrorDocument { error: body, details: None, retryable: false, retry_after: None, next: None });
        Self { status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), document }
    }

    /// The failure of an execution.
    pub fn of_failure(code: &str, message: &str, retryable: bool) -> Self {
        let other = if retryable { 503 } else { 400 };
        let status = STATUSES.iter().find(|(known, _)| *known == code).map_or(other, |(_, status)| *status);
        let mut error = Self::new(status, code, message.to_owned());
        error.document.retryable = retryable;
        error.document.retry_after = (error.status == StatusCode::TOO_MANY_REQUESTS && retryable).then_some(RETRY_SECONDS);
        error
    }

    /// An envelope, as it was answered with this status.
    fn of_envelope(status: StatusCode, envelope: &Map<String, Value>) -> Self {
        let text = |name: &str| envelope.get(name).and_then(Value::as_str);
        let mut error = Self::new(status.as_u16(), text("code").unwrap_or_default(), text("error").unwrap_or_default().to_owned());
        let details = envelope.get("details").cloned();
        let pointer = details.as_ref().and_then(|details| details.pointer("/problems/0/pointer")).and_then(Value::as_str);
        error.document.error.param = pointer.filter(|pointer| !pointer.is_empty()).map(parameter);
        error.document.retryable = envelope.get("retryable").and_then(Value::as_bool).unwrap_or(false);
        error.document.retry_after = envelope.get("retryAfter").and_then(Value::as_u64);
        error.document.next = text("next").map(str::to_owned);
        error.document.details = details;
        error
    }

    /// Returns the stable identifier.
    pub fn code(&self) -> &str {
        &self.document.error.code
    }

    /// Returns the class of the error, as `server_error`.
    pub fn kind(&self) -> &'static str {
        self.document.error.kind
    }

    /// Returns the text for people.
    pub fn message(&self) -> &str {
        &self.document.error.message
    }

    /// Returns the parameter at fault.
    pub fn param(&self) -> Option<&str> {
        self.document.error.param.as_deref()
    }

    /// Ends a stream: the error as its last chunk.
    pub fn chunk(&self) -> Value {
        json!({ "error": self.document.error })
    }
}

impl From<Error> for WireError {
    fn from(error: Error) -> Self {
        let status = StatusCode::from_u16(error.kind().status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let envelope: Envelope<'_> = error.envelope();
        match serde_json::to_value(envelope) {
            Ok(Value::Object(envelope)) => Self::of_envelope(status, &envelope),
            _ => Self::new(status.as_u16(), error.code(), error.message().to_owned()),
        }
    }
}

impl IntoResponse for WireError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(&self.document)).into_response();
        self.document.write_headers(response.headers_mut());
        response
    }
}

impl ErrorDocument {
    /// Says in headers whether and when to try again. Without them, OpenAI's SDKs decide by the status alone and repeat what cannot succeed.
    fn write_headers(&self, headers: &mut HeaderMap) {
        headers.insert(SHOULD_RETRY, HeaderValue::from_static(if self.retryable { "true" } else { "false" }));
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
    }
}

/// A pointer as this API names parameters: `/messages/0/content` is `messages[0].content`.
fn parameter(pointer: &str) -> String {
    let mut name = String::with_capacity(pointer.len());
    for token in pointer.split('/').skip(1) {
        let token = token.replace("~1", "/").replace("~0", "~");
        if !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_digit()) {
            name.push_str(&format!("[{token}]"));
        } else {
            if !name.is_empty() {
                name.push('.');
            }
            name.push_str(&token);
        }
    }
    name
}

/// Puts an envelope of the surfaces' common form into OpenAI's. Other answers pass.
pub async fn convert(response: Response) -> Response {
    if response.extensions().get::<Code>().is_none() {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let bytes = to_bytes(body, MAX_BODY).await.unwrap_or_default();
    let Ok(envelope) = serde_json::from_slice::<Map<String, Value>>(&bytes) else {
        return Response::from_parts(parts, Body::from(bytes));
    };
    let error = WireError::of_envelope(parts.status, &envelope);
    parts.status = error.status;
    parts.headers.remove(CONTENT_LENGTH);
    error.document.write_headers(&mut parts.headers);
    Response::from_parts(parts, Body::from(serde_json::to_vec(&error.document).unwrap_or_default()))
}

/// Moves the problems of an error to where the caller wrote what they are about. `place` gives the new pointer.
pub fn placed(error: Error, place: impl Fn(&str) -> String) -> Error {
    if error.problems().is_empty() {
        return error;
    }
    let moved = error.problems().iter().map(|problem| Problem { pointer: place(&problem.pointer), message: problem.message.clone() });
    Problems(moved.collect()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_become_names_of_parameters() {
        for (pointer, name) in [
            ("/model", "model"),
            ("/messages/0/content/1", "messages[0].content[1]"),
            ("/tools/2/function/name", "tools[2].function.name"),
            ("/dispatch/budget/maxCost", "dispatch.budget.maxCost"),
            ("/a~1b", "a/b"),
        ] {
            assert_eq!(parameter(pointer), name);
        }
    }

    #[test]
    fn failures_have_the_status_that_clients_expect() {
        for (code, retryable, status, kind, renamed) in [
            ("provider_rate_limited", true, 429, "rate_limit_error", "rate_limit_exceeded"),
            ("provider_billing", false, 429, "insufficient_quota", "insufficient_quota"),
            ("context_length_exceeded", false, 400, "invalid_request_error", "context_length_exceeded"),
            ("provider_model_not_found", false, 404, "invalid_request_error", "model_not_found"),
            ("provider_overloaded", true, 503, "server_error", "provider_overloaded"),
            ("provider_timeout", true, 504, "server_error", "provider_timeout"),
            ("script_failed", false, 400, "invalid_request_error", "script_failed"),
        ] {
            let error = WireError::of_failure(code, "why", retryable);
            let body = &error.document.error;
            assert_eq!((error.status.as_u16(), body.kind, body.code.as_str()), (status, kind, renamed));
        }
        assert_eq!(WireError::of_failure("provider_rate_limited", "why", true).document.retry_after, Some(RETRY_SECONDS));
    }
}
