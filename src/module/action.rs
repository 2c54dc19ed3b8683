//! An action of a module: its schemas, and the handler that performs it.

use jsonschema::error::ValidationErrorKind;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::http::HttpDefinition;
use super::script::ScriptEntry;

/// Maximum number of issues that are reported for one payload.
const MAX_ISSUES: usize = 50;

/// The layer that a module comes from. A later layer wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModuleLayer {
    /// Part of this binary.
    Builtin,
    /// A `modules/` folder of a workspace.
    Repo,
    /// Installed in the state folder.
    User,
}

impl ModuleLayer {
    /// Returns the layer's name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Builtin => "builtin",
            Self::Repo => "repo",
            Self::User => "user",
        }
    }
}

/// An action that a module offers.
#[derive(Debug, Clone)]
pub struct ModuleAction {
    /// `tickets.open`.
    pub key: String,
    /// `tickets`.
    pub module: String,
    /// `open`.
    pub name: String,
    /// The module's version.
    pub version: String,
    pub layer: ModuleLayer,
    /// The module's manifest, or `builtin:<name>`.
    pub source_path: String,
    pub description: String,
    /// JSON Schema of the payload; absent when the module has one that cannot be expressed so.
    pub input_schema: Option<Value>,
    /// JSON Schema of the exports.
    pub exports_schema: Option<Value>,
    /// JSON Schema of the credential. An action that has one needs a credential.
    pub credential_schema: Option<Value>,
    pub handler: ActionHandler,
}

impl ModuleAction {
    /// Reports whether the action changes memory, which only seed jobs may do.
    pub const fn mutates_memory(&self) -> bool {
        matches!(self.handler, ActionHandler::Memory(verb) if verb.mutates())
    }

    /// Reports whether the action is performed by [`ModuleAction::call_local`] and not by the engine.
    pub const fn is_local(&self) -> bool {
        matches!(self.handler, ActionHandler::Memory(_) | ActionHandler::Script(_))
    }
}

/// How an action is performed.
#[derive(Debug, Clone)]
pub enum ActionHandler {
    /// `flow.sleep`.
    Sleep,
    /// `flow.poll`.
    Poll,
    /// An action of the `memory` module.
    Memory(MemoryVerb),
    /// A declarative HTTP action of a manifest.
    Http(Box<HttpDefinition>),
    /// An action of a JavaScript module.
    Script(ScriptEntry),
}

/// The actions of the `memory` module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryVerb {
    Store,
    StoreMany,
    Recall,
    RecallMany,
    List,
    Forget,
}

impl MemoryVerb {
    /// Reports whether the action changes memory.
    pub const fn mutates(self) -> bool {
        matches!(self, Self::Store | Self::StoreMany | Self::Forget)
    }
}

/// A place in a payload that does not fit the schema.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayloadIssue {
    /// Dotted path of the member, `a.b.0`; empty for the whole payload.
    pub path: String,
    pub message: String,
}

/// Validates a payload against a JSON Schema (draft 2020-12), and returns every place that does not fit.
pub fn check_payload(schema: &Value, payload: &Value) -> Vec<PayloadIssue> {
    let validator = match jsonschema::draft202012::new(schema) {
        Ok(validator) => validator,
        Err(error) => return vec![PayloadIssue { path: String::new(), message: format!("the action's schema is not valid: {error}") }],
    };
    let issues = validator.iter_errors(payload).take(MAX_ISSUES);
    issues
        .map(|error| {
            let mut names: Vec<String> = error.instance_path().to_string().split('/').skip(1).map(unescape).collect();
            if let ValidationErrorKind::Required { property } = error.kind() {
                names.extend(property.as_str().map(str::to_owned));
            }
            PayloadIssue { path: names.join("."), message: error.to_string() }
        })
        .collect()
}

/// A token of a JSON pointer as the name that it encodes.
fn unescape(token: &str) -> String {
    token.replace("~1", "/").replace("~0", "~")
}
