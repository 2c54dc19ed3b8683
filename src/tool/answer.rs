//! HTTP responses: how they are stored, and how their bodies are read.

use std::borrow::Cow;

use base64::Engine as _;
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::charset::{DecodedText, decode};
use super::json_reader::{JsonFault, read_json};
use crate::error::{Error, Kind, Result};
use crate::expr::bounds::Misfit;
use crate::secret::Redactor;

/// A stored response. Any other value is read as the body of a successful response, so that a person who settles
/// an effect can give the callee's result without knowing this format.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", from = "Kept")]
pub struct HttpAnswer {
    pub status: u16,
    /// Lower-case names. Repeated headers are joined with `, ` (RFC 9110, section 5.3), and those that steer a run, whose texts may contain
    /// commas, with line breaks.
    pub headers: Map<String, Value>,
    pub media_type: String,
    /// The body as text, or in base64; empty if `json` is set.
    pub body: String,
    /// The body, if it is JSON that contained secrets. They were removed from its values; a redacted text would not parse.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json: Option<Value>,
    /// The body is not text and is stored in base64.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub binary: bool,
    /// Some bytes of the body are invalid in its charset.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_malformed: bool,
    /// The requested delay before another call, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

/// A stored response as it is deserialized.
#[derive(Deserialize)]
#[serde(untagged)]
enum Kept {
    #[serde(rename_all = "camelCase")]
    Answer {
        status: u16,
        headers: Map<String, Value>,
        media_type: String,
        body: String,
        #[serde(default)]
        json: Option<Value>,
        #[serde(default)]
        binary: bool,
        #[serde(default)]
        is_malformed: bool,
        #[serde(default)]
        retry_after_ms: Option<u64>,
    },
    Told(Value),
}

impl From<Kept> for HttpAnswer {
    fn from(kept: Kept) -> Self {
        match kept {
            Kept::Answer { status, headers, media_type, body, json, binary, is_malformed, retry_after_ms } => {
                Self { status, headers, media_type, body, json, binary, is_malformed, retry_after_ms }
            }
            Kept::Told(value) => {
                let (media_type, body) = match value {
                    Value::String(text) => ("text/plain", text),
                    Value::Null => ("text/plain", String::new()),
                    other => ("application/json", other.to_string()),
                };
                Self { status: 200, media_type: media_type.into(), body, ..Self::default() }
            }
        }
    }
}

impl HttpAnswer {
    /// Adds the body, without secrets. JSON is parsed before its values are redacted, because a redacted text might not
    /// parse. `keep_binary`: a body that is not text is stored whole, in base64.
    pub(super) fn with_body(mut self, bytes: &[u8], content_type: &str, keep_binary: bool, secrets: [&Redactor; 2]) -> Self {
        let DecodedText { text, is_malformed } = decode(bytes, content_type);
        let redacted = secrets.iter().fold(text.to_string(), |text, secrets| secrets.text(&text));
        let says_secret = redacted != text;
        self.is_malformed = is_malformed;
        if says_secret
            && !is_malformed
            && self.may_be_json(&text)
            && let Ok(mut value) = read_json(&text)
        {
            secrets.iter().for_each(|secrets| secrets.value(&mut value));
            self.json = Some(value);
        } else if is_malformed && keep_binary && !says_secret {
            // Not if it contains a secret: base64 of the bytes would reveal it.
            self.body = base64::engine::general_purpose::STANDARD.encode(bytes);
            self.binary = true;
        } else {
            self.body = redacted;
        }
        self
    }

    /// Returns whether the content type says that the body is one JSON text.
    fn says_json(&self) -> bool {
        let subtype = self.media_type.rsplit('/').next().unwrap_or_default();
        // `stream+json` is a sequence of JSON texts.
        matches!(subtype, "json" | "x-json") || subtype.ends_with("+json") && subtype != "stream+json"
    }

    /// Returns whether a text should be tried as JSON.
    fn may_be_json(&self, text: &str) -> bool {
        let is_blank = |letter: char| letter.is_whitespace() || letter == '\u{feff}';
        self.media_type.ends_with("json") || text.trim_start_matches(is_blank).starts_with(['{', '['])
    }

    pub fn is_empty(&self) -> bool {
        self.body.is_empty() && self.json.is_none()
    }

    /// Returns the body as text.
    pub fn text(&self) -> Cow<'_, str> {
        self.json.as_ref().map_or(Cow::Borrowed(self.body.as_str()), |value| Cow::Owned(value.to_string()))
    }

    /// Returns the body as JSON, whatever the content type says; null if it is blank.
    pub fn json(&self) -> Result<Value, JsonFault> {
        if let Some(value) = &self.json {
            return Ok(value.clone());
        }
        if self.is_malformed || self.binary {
            let why = "some of its bytes are invalid in its charset, which is UTF-8 unless the content type names another";
            return Err(JsonFault::Invalid(why.to_owned()));
        }
        if self.body.trim().is_empty() {
            return Ok(Value::Null);
        }
        read_json(&self.body)
    }

    /// Returns the body by its type: JSON if the content type says so or the text parses as JSON, otherwise text. Error `reply_not_json`: the
    /// content type says JSON, and the body is not. Error `value_too_deep`: it nests deeper than a run's values may.
    pub fn read(&self) -> Result<Value> {
        if !self.says_json() {
            return Ok(self.value());
        }
        self.json().map_err(|fault| self.unreadable(&fault))
    }

    /// Returns the body like [`HttpAnswer::read`], but the text where that fails, for readers who can use either.
    pub fn value(&self) -> Value {
        if self.json.is_some() || self.says_json() {
            if let Ok(value) = self.json() {
                return value;
            }
        } else if !self.binary
            && self.may_be_json(&self.body)
            && let Ok(value) = read_json(&self.body)
        {
            return value;
        }
        Value::String(self.body.clone())
    }

    fn unreadable(&self, fault: &JsonFault) -> Error {
        let status = self.status;
        let JsonFault::Invalid(why) = fault else {
            return Error::new(
                Kind::Invalid,
                Misfit::TooDeep.code(),
                format!("the JSON of the reply (status {status}) cannot be stored: {fault}"),
            );
        };
        let mut message = format!("the reply (status {status}) has the content type `{}`, but it is not JSON: {why}", self.media_type);
        if let Some(coding) = self.headers.get("content-encoding").and_then(Value::as_str) {
            message.push_str(&format!("; it is encoded as `{coding}`, and only gzip is decoded"));
        }
        if !self.binary {
            let beginning: String = self.body.chars().take(MAX_BEGINNING_CHARS).collect();
            message.push_str(&format!("; it begins with: {}", beginning.trim()));
        }
        Error::new(Kind::Invalid, "reply_not_json", message)
    }

    pub const fn is_success(&self) -> bool {
        self.status < 400
    }

    /// Returns whether another call may get another response.
    pub const fn is_transient(&self) -> bool {
        matches!(self.status, 408 | 425 | 429 | 500 | 502 | 503 | 504 | 529)
    }

    /// Describes an error response, with the beginning of its body.
    pub fn complaint(&self) -> String {
        let words: String = self.text().chars().take(MAX_COMPLAINT_CHARS).collect();
        format!("the server answered {}: {}", self.status, words.trim())
    }
}

/// Maximum number of characters of an error response that are quoted.
const MAX_COMPLAINT_CHARS: usize = 300;
/// Maximum number of characters of an unreadable body that are quoted.
const MAX_BEGINNING_CHARS: usize = 100;
/// Prefix of the headers by which services steer the run that calls them.
const STEERING: &str = "dispatched-";

/// Returns the headers of a response, without those that may contain credentials.
pub(super) fn kept_headers(map: &HeaderMap) -> Map<String, Value> {
    let kept = map.keys().filter(|name| !matches!(name.as_str(), "set-cookie" | "www-authenticate" | "proxy-authenticate"));
    kept.map(|name| {
        let lines: Vec<Cow<'_, str>> = map.get_all(name).iter().map(|line| String::from_utf8_lossy(line.as_bytes())).collect();
        let separator = if name.as_str().starts_with(STEERING) { "\n" } else { ", " };
        (name.as_str().to_owned(), Value::String(lines.join(separator)))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use serde_json::json;

    use super::*;
    use crate::secret::Secret;

    fn answer(media_type: &str, body: &[u8]) -> HttpAnswer {
        let none = Redactor::default();
        HttpAnswer { status: 200, media_type: media_type.into(), ..HttpAnswer::default() }.with_body(body, media_type, true, [&none, &none])
    }

    #[test]
    fn a_body_is_read_by_its_type() {
        for (media_type, body, wanted) in [
            ("application/json", "{\"a\": 1}", json!({ "a": 1 })),
            ("application/problem+json", " \r\n", json!(null)),
            ("application/json", "", json!(null)),
            ("application/json", "\u{feff}[1]", json!([1])),
            ("text/plain", "[1]", json!([1])),
            ("text/plain", "{{ 1 }}", json!("{{ 1 }}")),
            ("text/plain", " ", json!(" ")),
            ("application/x-ndjson", "{\"a\": 1}\n{\"a\": 2}\n", json!("{\"a\": 1}\n{\"a\": 2}\n")),
            ("", "12", json!("12")),
        ] {
            assert_eq!(answer(media_type, body.as_bytes()).read().unwrap(), wanted, "{media_type} {body}");
        }
        assert_eq!(answer("image/png", b"\x89\xff").read().unwrap(), json!("if8="));
    }

    #[test]
    fn invalid_json_is_an_error_and_readable_as_text() {
        let page = answer("application/json", b"<html>login</html>");
        let error = page.read().unwrap_err();
        assert_eq!(error.code(), "reply_not_json");
        for part in ["status 200", "`application/json`", "line 1 column 1", "<html>login</html>"] {
            assert!(error.message().contains(part), "{error:?}");
        }
        assert_eq!(page.value(), json!("<html>login</html>"));
        assert_eq!(answer("application/json", b"\"caf\xe9\"").read().unwrap_err().code(), "reply_not_json");
        let deep = format!("{}{}", "[".repeat(65), "]".repeat(65));
        assert_eq!(answer("application/json", deep.as_bytes()).read().unwrap_err().code(), "value_too_deep");
    }

    #[test]
    fn json_without_its_secrets_is_still_json() {
        let (own, known) = (Redactor::new([Secret::new("sk-canary-own")]), Redactor::new([Secret::new("4812345")]));
        let body = br#"{"said": "sk-canary-own", "status": "open", "limit": 48123459, "text": "is 4812345"}"#;
        let whole = HttpAnswer { status: 200, media_type: "application/json".into(), ..HttpAnswer::default() };
        let kept = whole.with_body(body, "application/json", true, [&own, &known]);
        let wanted = json!({ "said": "[redacted]", "status": "open", "limit": 48_123_459, "text": "is [redacted]" });
        assert_eq!(kept.read().unwrap(), wanted);
        let back: HttpAnswer = serde_json::from_value(serde_json::to_value(&kept).unwrap()).unwrap();
        assert_eq!(back, kept);
        assert!(!kept.complaint().contains("canary"));
    }

    #[test]
    fn the_lines_of_a_header_are_one() {
        let mut map = HeaderMap::new();
        for (name, line) in
            [("link", "<1>"), ("dispatched-log", "one, two"), ("link", "<2>"), ("dispatched-log", "three"), ("set-cookie", "a=b")]
        {
            map.append(name, HeaderValue::from_static(line));
        }
        assert_eq!(Value::Object(kept_headers(&map)), json!({ "link": "<1>, <2>", "dispatched-log": "one, two\nthree" }));
    }
}
