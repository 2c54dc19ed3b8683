//! Builds the HTTP response from a document's `response`.

use axum::Json;
use axum::http::StatusCode;
use axum::http::header::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::printed;
use crate::error::{Error, Kind, Result};
use crate::id::RunId;

/// Headers that only the server may set: framing, and what browsers trust for everything that this origin serves.
const RESERVED: [&str; 24] = [
    "alt-svc",
    "clear-site-data",
    "connection",
    "content-length",
    "content-security-policy",
    "content-security-policy-report-only",
    "date",
    "keep-alive",
    "nel",
    "permissions-policy",
    "referrer-policy",
    "report-to",
    "reporting-endpoints",
    "server",
    "service-worker-allowed",
    "set-cookie",
    "set-cookie2",
    "strict-transport-security",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "www-authenticate",
    "x-frame-options",
];
/// Prefixes of further such headers.
const RESERVED_FAMILIES: [&str; 6] = ["access-control-", "cross-origin-", "proxy-", "sec-", "x-accel-", "x-content-type-"];

/// Returns whether only the server may set a header.
pub(super) fn is_reserved(name: &HeaderName) -> bool {
    let name = name.as_str();
    RESERVED.contains(&name) || RESERVED_FAMILIES.iter().any(|family| name.starts_with(family))
}

/// Returns the status that a document's `response` asks for: a number, or a string with one.
pub(super) fn status_of(value: &Value) -> Option<StatusCode> {
    let whole = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok()).filter(|number| number.fract() == 0.0)?;
    let status = (200..600_u16).find(|status| f64::from(*status) == whole)?;
    StatusCode::from_u16(status).ok()
}

/// Responses with these statuses have no content (RFC 9110, section 15).
fn has_no_content(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Builds the response of a run whose `response` evaluated to `output`.
pub(super) fn reply(run: RunId, output: &Value) -> Result<Response> {
    let wrong = |what: &str| {
        let message = format!("the document's `response.{what}` evaluated to a value that cannot be sent");
        Error::new(Kind::Invalid, "invalid_response", message)
    };
    let status = match output.get("status") {
        None | Some(Value::Null) => StatusCode::OK,
        Some(status) => status_of(status).ok_or_else(|| wrong("status"))?,
    };
    let mut response = match output.get("body") {
        _ if has_no_content(status) => status.into_response(),
        None | Some(Value::Null) => status.into_response(),
        Some(Value::String(text)) => (status, text.clone()).into_response(),
        Some(body) => (status, Json(body.clone())).into_response(),
    };
    // A null means that the header is absent.
    let headers = output.get("headers").and_then(Value::as_object).into_iter().flatten();
    for (name, value) in headers.filter(|(_, value)| !value.is_null()) {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let (name, value) = (HeaderName::try_from(name.as_str()), HeaderValue::try_from(text));
        let (Ok(name), Ok(value)) = (name, value) else { return Err(wrong("headers")) };
        if is_reserved(&name) {
            // Literal names are refused when the document is saved; an expression can still produce one.
            tracing::warn!(run = %printed(run), header = %name, "a workflow's response tried to set a header that only the server may set; the header was omitted");
            continue;
        }
        response.headers_mut().insert(name, value);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reserved_headers_are_omitted() {
        let own = json!({ "Set-Cookie": "a=1", "Access-Control-Allow-Origin": "*", "X-Said": "yes", "location": "/x", "Content-Type": "text/html" });
        let response = reply(RunId::from_u128(1), &json!({ "status": 302, "headers": own, "body": "x" })).unwrap();
        let mut names: Vec<&str> = response.headers().keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-type", "location", "x-said"]);
    }
}
