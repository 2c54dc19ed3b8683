//! A call and its answer, with the checks that every answer must pass.

use std::sync::Once;

use reqwest::header::{HeaderMap, HeaderValue};
use serde_json::Value;

/// A client that talks to the loopback interface and nobody else.
pub fn client() -> reqwest::Client {
    client_with(|builder| builder)
}

/// Such a client with other settings.
#[expect(clippy::disallowed_methods, reason = "tests call the server under test, not the outside")]
pub fn client_with(settings: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder) -> reqwest::Client {
    static PROVIDER: Once = Once::new();
    // A server that is under test in this process may have installed it first.
    PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    settings(reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none())).build().unwrap()
}

/// A request in the making.
pub struct Call(reqwest::RequestBuilder);

impl Call {
    pub fn new(request: reqwest::RequestBuilder) -> Self {
        Self(request)
    }

    pub fn header(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        Self(self.0.header(name, HeaderValue::from_bytes(value.as_ref()).unwrap()))
    }

    pub fn bearer(self, key: &str) -> Self {
        self.header("authorization", format!("Bearer {key}"))
    }

    pub fn json(self, body: &Value) -> Self {
        self.body("application/json", body.to_string())
    }

    pub fn body(self, kind: &str, body: impl Into<reqwest::Body>) -> Self {
        Self(self.header("content-type", kind).0.body(body))
    }

    pub async fn send(self) -> Answer {
        let response = self.0.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Answer { status, headers, body: response.bytes().await.unwrap().to_vec() }
    }

    /// Sends, and gives the answer before its body has come.
    pub async fn start(self) -> reqwest::Response {
        self.0.send().await.unwrap()
    }

    /// Sends, expects success, and gives the JSON.
    pub async fn ok(self) -> Value {
        let answer = self.send().await;
        assert!((200..300).contains(&answer.status), "{}: {}", answer.status, answer.text());
        answer.json()
    }

    /// Sends and expects this refusal.
    pub async fn refused(self, status: u16, code: &str) -> Answer {
        self.send().await.refused(status, code)
    }
}

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Checks status, code and the whole shape of the error envelope, or of OpenAI's on its routes.
    pub fn refused(self, status: u16, code: &str) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("application/json"));
        let body = self.json();
        let (text, found) = match &body["error"] {
            Value::Object(error) => (&error["message"], &error["code"]),
            text => (text, &body["code"]),
        };
        assert_eq!(*found, code, "{body}");
        assert!(text.as_str().is_some_and(|text| !text.is_empty()), "{body}");
        if let Value::Object(error) = &body["error"] {
            assert!(error["type"].is_string() && (error["param"].is_string() || error["param"].is_null()) && error.len() == 4, "{body}");
        }
        assert_eq!(body["error"] == "Not Found", code == "route_not_found", "{body}");
        assert!(body["retryable"].is_boolean(), "{body}");
        assert_eq!(body.get("retryAfter").map(ToString::to_string).as_deref(), self.header("retry-after"), "{body}");
        let known = ["error", "code", "message", "hint", "details", "retryable", "retryAfter", "next"];
        assert!(body.as_object().unwrap().keys().all(|key| known.contains(&key.as_str())), "{body}");
        self
    }

    /// The pointers of a refused document's problems.
    pub fn pointers(&self) -> Vec<String> {
        let body = self.json();
        body["details"]["problems"].as_array().unwrap().iter().map(|problem| problem["pointer"].as_str().unwrap().to_owned()).collect()
    }
}
