//! A vendor's error body, in whichever of the usual forms: `{"error": {...}}`, `{"error": "..."}`,
//! `[{"error": ...}]`, `{"message": ...}`, `{"detail": ...}`, or not JSON at all.

use std::time::Duration;

use serde_json::Value;

use super::error::{Class, ProviderError, classify};

/// The longest message taken over, in characters.
const LONGEST_MESSAGE: usize = 500;

/// An error from a status and a body.
pub(super) fn read(status: u16, body: &[u8]) -> ProviderError {
    let value: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let mut error = match error_in(&value) {
        Some(inner) => from_value(status, inner),
        None => ProviderError::new(classify(status, &String::from_utf8_lossy(body)), format!("the server answered {status}")),
    };
    error.status = Some(status);
    error
}

/// An error that came as an event inside a stream that had begun well.
pub(super) fn in_stream(error: &Value) -> ProviderError {
    // OpenRouter and Gemini give the status they would have answered with as `code`.
    let code = error.get("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok());
    from_value(code.filter(|code| (400..600).contains(code)).unwrap_or(200), error)
}

/// The error inside a body, if there is one.
pub(super) fn error_in(value: &Value) -> Option<&Value> {
    let value = match value {
        Value::Array(items) => items.first()?,
        value => value,
    };
    let inner = value.get("error").filter(|error| !error.is_null());
    inner.or_else(|| (value.get("message").is_some() || value.get("detail").is_some()).then_some(value))
}

fn from_value(status: u16, error: &Value) -> ProviderError {
    let field = |name: &str| match error.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    };
    let message = match error {
        Value::String(text) => text.clone(),
        _ => [field("message"), field("detail"), field("type")].into_iter().find(|text| !text.is_empty()).unwrap_or_default(),
    };
    let words = format!("{} {} {} {message}", field("code"), field("type"), field("status"));
    let class = match field("type").as_str() {
        // Anthropic's types are its own table.
        "api_error" if status == 200 => Class::ServerError,
        "permission_error" => Class::Forbidden,
        "timeout_error" => Class::TimeoutFirstByte,
        _ => classify(status, &words),
    };
    let message = if message.is_empty() { "the server gave no reason".to_owned() } else { message };
    let mut failure = ProviderError::new(class, message.chars().take(LONGEST_MESSAGE).collect::<String>());
    failure.retry_after = retry_info(error);
    failure
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
            (502, "<html>Bad Gateway</html>", Class::ServerError, "the server answered 502"),
            (500, "", Class::ServerError, "the server answered 500"),
        ] {
            let error = read(status, body.as_bytes());
            assert_eq!((error.class, error.message.as_str(), error.status), (class, message, Some(status)));
        }
    }

    #[test]
    fn googles_delay_is_read() {
        let body = r#"{"error":{"code":429,"message":"Quota","status":"RESOURCE_EXHAUSTED","details":[{"@type":"x"},{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"3.5s"}]}}"#;
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
