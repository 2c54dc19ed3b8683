//! HTTP calls of actions: the request as it goes out, the response as actions see it, and what the run's record keeps of both.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::cookies::CookieJar;
use super::interpolation::as_text;
use super::redaction::{REDACTED, is_secret_key, redact_keys, redact_text};
use crate::clock::Timestamp;
use crate::module::{ModuleRequest, ModuleResponse};

/// The event that tells of one call.
pub const CALL_EVENT: &str = "dispatch.job.call";
/// The event that tells of a line of the activity log.
pub const ACTIVITY_EVENT: &str = "dispatch.job.activity";

/// The `http` block of a case, resolved.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(rename = "JobHttpDefaults")]
pub struct HttpDefaults {
    /// In front of relative URLs.
    pub base_url: Option<String>,
    /// Sent with every request, unless the request has its own.
    pub default_headers: Map<String, Value>,
}

/// A request as it goes out.
#[derive(Debug, Clone)]
pub struct PreparedRequest {
    pub method: String,
    pub url: String,
    /// Lower-case names, each once.
    pub headers: Vec<(String, String)>,
    pub body: Option<Value>,
}

impl PreparedRequest {
    /// Applies the defaults of the case, and the cookies of the run.
    pub fn new(request: &ModuleRequest, defaults: &HttpDefaults, jar: &CookieJar, now: Timestamp) -> Result<Self, String> {
        let base = request.base_url.as_deref().or(defaults.base_url.as_deref());
        let is_absolute = request.url.starts_with("http://") || request.url.starts_with("https://");
        let url = match base {
            Some(base) if !is_absolute => {
                format!("{}/{}", base.strip_suffix('/').unwrap_or(base), request.url.strip_prefix('/').unwrap_or(&request.url))
            }
            _ if is_absolute => request.url.clone(),
            _ => return Err(format!("`{}` is not an absolute URL, and the case has no http.baseUrl", request.url)),
        };
        let parsed = url::Url::parse(&url).map_err(|error| format!("`{url}` is not a URL: {error}"))?;
        let mut headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        let defaults = defaults.default_headers.iter().map(|(name, value)| (name, as_text(value)));
        let more = request.default_headers.iter().chain(&request.headers).map(|(name, value)| (name, value.clone()));
        for (name, value) in defaults.chain(more) {
            let name = name.to_ascii_lowercase();
            headers.retain(|(known, _)| *known != name);
            headers.push((name, value));
        }
        let manual = headers.iter().find(|(name, _)| name == "cookie").map(|(_, value)| value.clone());
        if let Some(cookie) = jar.header(&parsed, manual.as_deref(), now) {
            headers.retain(|(name, _)| name != "cookie");
            headers.push(("cookie".to_owned(), cookie));
        }
        Ok(Self { method: request.method.to_ascii_uppercase(), url, headers, body: request.body.clone() })
    }

    /// Whether the same request may be sent twice without harm.
    pub fn is_repeatable(&self) -> bool {
        matches!(self.method.as_str(), "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE")
    }

    /// What the record keeps of the call: secret headers and members are not in it. A status of 0 means that no response came.
    pub fn record(&self, step: &str, started: Timestamp, ended: Timestamp, status: u16, response: &str) -> Value {
        let hidden = |(name, value): &(String, String)| {
            (name.clone(), Value::String(if is_secret_key(name) { REDACTED.to_owned() } else { value.clone() }))
        };
        let headers: Map<String, Value> = self.headers.iter().map(hidden).collect();
        let mut body = self.body.clone().unwrap_or_default();
        redact_keys(&mut body);
        json!({
            "stepId": step, "startedAt": started, "endedAt": ended, "method": self.method, "url": self.url, "headers": headers,
            "body": body, "httpCode": status, "response": redact_text(response),
        })
    }
}

/// A response as actions see it: `{}` for an empty body, the parsed JSON, or `{"_raw": text}`.
pub fn module_response(status: u16, text: &str) -> ModuleResponse {
    let body = if text.trim().is_empty() { json!({}) } else { serde_json::from_str(text).unwrap_or_else(|_| json!({ "_raw": text })) };
    ModuleResponse { status, body }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(url: &str, base: Option<&str>) -> Result<PreparedRequest, String> {
        let request = ModuleRequest { method: "get".into(), url: url.into(), ..ModuleRequest::default() };
        let mut defaults = HttpDefaults { base_url: base.map(str::to_owned), ..HttpDefaults::default() };
        defaults.default_headers.insert("X-Tenant".into(), "t".into());
        PreparedRequest::new(&request, &defaults, &CookieJar::default(), Timestamp::from_millis(0))
    }

    #[test]
    fn relative_urls_follow_the_base() {
        let url = |url, base| prepared(url, base).map(|request| request.url);
        assert_eq!(url("/a?b=1", Some("http://h/x/")), Ok("http://h/x/a?b=1".into()));
        assert_eq!(url("a", Some("http://h")), Ok("http://h/a".into()));
        assert_eq!(url("https://other/a", Some("http://h")), Ok("https://other/a".into()));
        assert!(url("/a", None).is_err());
        let request = prepared("/a", Some("http://h")).unwrap();
        let headers: Vec<(&str, &str)> = request.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(headers, [("content-type", "application/json"), ("x-tenant", "t")]);
    }
}
