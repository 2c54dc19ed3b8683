//! The call of an action that is performed on this side, and its outcome.

use std::fmt;
use std::path::Path;

use async_trait::async_trait;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::action::{ActionHandler, ModuleAction};
use super::{memory, script};

/// The result of an action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ActionOutcome {
    /// The response; `{}` when the action gives none.
    #[serde(default = "empty_object")]
    pub response: Value,
    /// Derived values for later steps; `{}` when the action gives none.
    #[serde(default = "empty_object")]
    pub exports: Value,
    /// One line about the result, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Further facts for `step-results.json`.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub diagnostics: Value,
    /// Members of the run scope that a JavaScript handler changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_patch: Option<Map<String, Value>>,
}

fn empty_object() -> Value {
    Value::Object(Map::new())
}

impl ActionOutcome {
    /// Returns an outcome that has a response and a line about it.
    pub fn new(response: Value, detail: impl Into<String>) -> Self {
        Self { response, exports: empty_object(), detail: Some(detail.into()), diagnostics: Value::Null, run_patch: None }
    }

    /// Returns an outcome whose exports equal its response.
    pub fn exported(response: Value, detail: impl Into<String>) -> Self {
        Self { exports: response.clone(), ..Self::new(response, detail) }
    }
}

/// Why an action failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionFault {
    pub message: String,
    /// The same call may succeed later.
    pub retryable: bool,
}

impl ActionFault {
    /// Returns a fault that another attempt does not mend.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), retryable: false }
    }

    /// Returns a fault that another attempt may mend.
    pub fn transient(message: impl Into<String>) -> Self {
        Self { message: message.into(), retryable: true }
    }
}

impl fmt::Display for ActionFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ActionFault {}

/// An HTTP request of an action, before the job's base URL and default headers are applied.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModuleRequest {
    pub method: String,
    /// Absolute, or relative to a base URL.
    pub url: String,
    #[serde(default)]
    pub headers: IndexMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
    /// A base URL that replaces the job's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_url: Option<String>,
    /// Headers between the job's defaults and `headers`.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub default_headers: IndexMap<String, String>,
}

/// The answer to a [`ModuleRequest`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModuleResponse {
    pub status: u16,
    /// `{}` for an empty body, the parsed JSON, or `{"_raw": text}`.
    pub body: Value,
}

/// The one way of an action to the network: cookies, pools, artifacts, egress policy and redaction are on its other side.
#[async_trait]
pub trait HttpGate: Send + Sync {
    /// Sends a request. A response of any status is a response; a fault means that none came.
    async fn send(&self, request: ModuleRequest) -> Result<ModuleResponse, ActionFault>;
}

/// Where an action reports what it does.
pub trait ActivityLog: Send + Sync {
    /// Adds a line to `activity.log`.
    fn line(&self, text: &str);
    /// Shows a line in an interactive terminal.
    fn progress(&self, text: &str);
}

/// A call of an action that is performed on this side.
pub struct LocalCall<'a> {
    /// The state folder.
    pub home: &'a Path,
    pub step_id: &'a str,
    /// The interpolated payload.
    pub payload: Value,
    pub credential: Option<Value>,
    /// `configDir`, `input`, `run` and `steps` of the job.
    pub runtime: Value,
    pub http: &'a dyn HttpGate,
    pub log: &'a dyn ActivityLog,
}

impl ModuleAction {
    /// Performs a `memory.*` or JavaScript action.
    pub async fn call_local(&self, call: LocalCall<'_>) -> Result<ActionOutcome, ActionFault> {
        match &self.handler {
            ActionHandler::Memory(verb) => memory::perform(*verb, call.home, call.payload).await,
            ActionHandler::Script(entry) => script::call(entry, &self.key, call).await,
            ActionHandler::Sleep | ActionHandler::Poll | ActionHandler::Http(_) => {
                Err(ActionFault::new(format!("{} is performed by the engine, not locally", self.key)))
            }
        }
    }
}
