//! A dispatch request, as callers write it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::super::agent_document::AgentDocument;
use super::super::document::FlowDocument;
use super::super::unavailable;
use crate::engine::Decision;
use crate::error::{Problem, Problems};
use crate::http::budget::BudgetDocument;
use crate::id::{RunId, WaitId};
use crate::secret::Secret;
use crate::tool::Definition;

/// A part of a request that is read by itself: a fault in it hides none of the others.
pub struct Part<T>(Result<Option<T>, Problem>);

impl<T> Part<T> {
    /// The part, if it was given. A fault in it is noted under the part's place.
    pub fn take(self, at: &str, problems: &mut Problems) -> Option<T> {
        self.0.unwrap_or_else(|fault| {
            problems.add(format!("{at}{}", fault.pointer), fault.message);
            None
        })
    }

    /// The part, if it was given and is well-formed.
    pub fn peek(&self) -> Option<&T> {
        self.0.as_ref().ok().and_then(Option::as_ref)
    }
}

impl<T> From<Option<T>> for Part<T> {
    fn from(part: Option<T>) -> Self {
        Self(Ok(part))
    }
}

impl<T> Default for Part<T> {
    fn default() -> Self {
        Self(Ok(None))
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Part<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Some(value) = Option::<Value>::deserialize(deserializer)? else { return Ok(Self(Ok(None))) };
        let read = serde_path_to_error::deserialize(value).map(Some);
        Ok(Self(read.map_err(|error| Problem::misfit(&error))))
    }
}

/// The body of `POST /v1/dispatch`. Parts are read one by one, so that every fault is reported at once.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DispatchRequest {
    /// The flow: `{name, steps}` inline, or `{id}` of a saved one.
    #[schemars(with = "Option<FlowDocument>")]
    pub flow: Option<Value>,
    /// A saved flow; the same as `flow: {id}`.
    #[schemars(with = "Option<String>")]
    pub flow_id: Part<String>,
    /// An agent: `{name, model, systemPrompt, ...}` inline, or `{agentId}` of a saved one. Instead of a flow.
    #[schemars(with = "Option<AgentDocument>")]
    pub agent: Option<Value>,
    /// The record that templates read as `_record`.
    #[schemars(with = "Option<RecordDocument>")]
    pub record: Part<Map<String, Value>>,
    /// Chat history, oldest first: `{role, content}`.
    #[schemars(with = "Vec<MessageDocument>")]
    pub messages: Option<Value>,
    /// Variables at the root of templates.
    #[schemars(with = "Option<Map<String, Value>>")]
    pub inputs: Part<Map<String, Value>>,
    /// Anything; flows read it as `metadata`.
    pub metadata: Option<Value>,
    /// Anything; flows read it as `context`.
    pub context: Option<Value>,
    /// Tools that run in the caller: the run pauses with `await` when one is called.
    #[schemars(with = "Option<Vec<Definition>>")]
    pub client_tools: Part<Vec<Value>>,
    /// Which of the page's tools among them the model may see.
    #[schemars(with = "Option<ClientToolsPolicy>")]
    pub client_tools_policy: Part<ClientToolsPolicy>,
    /// Values read as `{{secrets.name}}` in HTTP steps and external tools; sealed while the run lives, never shown.
    #[schemars(with = "Option<BTreeMap<String, Secret>>")]
    pub secrets: Part<BTreeMap<String, Secret>>,
    #[schemars(with = "Option<OptionsDocument>")]
    pub options: Part<Map<String, Value>>,
    /// The same as `Prefer: respond-async`.
    #[serde(rename = "async")]
    #[schemars(with = "Option<bool>")]
    pub respond_async: Part<bool>,
    /// A version of the saved flow or agent, or `published`.
    #[schemars(with = "Option<String>")]
    pub version_id: Part<String>,
    /// A release of the saved agent, as `live`; instead of `versionId`.
    #[schemars(with = "Option<String>")]
    pub alias: Part<String>,
    /// The same as `options.streamResponse`.
    #[schemars(with = "Option<bool>")]
    pub stream_response: Part<bool>,
    /// Refused, as the members below it.
    #[schemars(skip)]
    pub credential_proxies: Option<Value>,
    #[schemars(skip)]
    pub end_user: Option<Value>,
    #[schemars(skip)]
    pub tenant: Option<Value>,
    #[schemars(skip)]
    pub identity_proof: Option<Value>,
    /// `inline`; others are refused.
    #[schemars(skip)]
    pub history: Option<Value>,
}

impl DispatchRequest {
    /// Notes the members that cannot be honoured.
    pub fn refuse_unavailable(&self, problems: &mut Problems) {
        let given = [
            ("credentialProxies", &self.credential_proxies),
            ("endUser", &self.end_user),
            ("tenant", &self.tenant),
            ("identityProof", &self.identity_proof),
        ];
        for (name, value) in given {
            unavailable::refuse_value(value.as_ref(), &format!("/{name}"), problems);
        }
        if self.history.as_ref().is_some_and(|history| !history.is_null() && history != "inline") {
            problems.add("/history", "expected `inline`: an execution's history is what `messages` holds");
        }
    }
}

/// What a host allows of the tools that its page declares.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ClientToolsPolicy {
    /// Names of tools of the origin `webmcp`, without the prefix; `*` stands for any text. All of them when absent. Tools of the origin `sdk` are
    /// not judged.
    pub allowlist: Option<Vec<String>>,
}

/// Maximum number of patterns of a policy, and the maximum length of each, in bytes: each tool's name is compared with each of them.
const MAX_PATTERNS: usize = 1_000;
const MAX_PATTERN_BYTES: usize = 200;

impl ClientToolsPolicy {
    /// Notes a list that is too long, and forgets it: the request is refused.
    pub fn check(&mut self, at: &str, problems: &mut Problems) {
        let Some(patterns) = &self.allowlist else { return };
        if patterns.len() > MAX_PATTERNS {
            problems.add(format!("{at}/allowlist"), format!("expected at most {MAX_PATTERNS} names"));
        } else if let Some(index) = patterns.iter().position(|pattern| pattern.len() > MAX_PATTERN_BYTES) {
            problems.add(format!("{at}/allowlist/{index}"), format!("expected at most {MAX_PATTERN_BYTES} bytes"));
        } else {
            return;
        }
        self.allowlist = None;
    }

    /// Whether the model may see a page's tool of this name.
    pub fn allows(&self, name: &str) -> bool {
        let name = name.strip_prefix("webmcp:").unwrap_or(name);
        let matches = |pattern: &String| matches(pattern.strip_prefix("webmcp:").unwrap_or(pattern), name);
        self.allowlist.as_ref().is_none_or(|patterns| patterns.iter().any(matches))
    }
}

/// Whether a name fits a pattern in which `*` stands for any text.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut left) = name.strip_prefix(start) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let end = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = left.find(part) else { return false };
        left = left.get(at + part.len()..).unwrap_or_default();
    }
    left.ends_with(end)
}

/// How one dispatch behaves.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct OptionsDocument {
    /// Server-sent events (the default unless `Accept` asks for JSON), or one JSON.
    pub stream_response: Option<bool>,
    /// `virtual`, `existing`, `upsert` or `create`; follows from `flow` when absent.
    pub flow_mode: Option<String>,
    /// `virtual`, `existing`, `upsert` or `create`; follows from `record` when absent.
    pub record_mode: Option<String>,
    /// Append the record's metadata to each user prompt.
    pub auto_append_metadata: Option<bool>,
    /// Steps and events are always kept; accepted for compatibility.
    pub store_results: Option<bool>,
    pub debug_mode: Option<bool>,
    /// The model of every prompt of the flow, or of the agent, instead of its own.
    pub model_override: Option<String>,
    /// Milliseconds one step may take, unless it says otherwise.
    pub step_timeout_ms: Option<u64>,
    /// Milliseconds the flow or the agent may run, instead of its own `timeoutMs`.
    pub flow_timeout_ms: Option<u64>,
    /// The same as `versionId`.
    pub flow_version_id: Option<String>,
    /// `upsert` keeps a version of each change; on by default. Without it the version before is deleted unless it is published.
    pub create_version_on_change: Option<bool>,
    /// `upsert` replaces a flow that was changed in another way since the last upsert.
    pub allow_overwrite_external_changes: Option<bool>,
    /// The same two members, as some clients send them.
    pub upsert_options: Option<UpsertOptions>,
    /// `default` or `on`.
    pub logging_policy: Option<String>,
    /// `continue` (the default): the run goes on when the caller hangs up; `cancel`: it is cancelled.
    pub on_disconnect: Option<String>,
    pub budget: Option<BudgetDocument>,
}

/// How an upsert treats the flow that it finds.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct UpsertOptions {
    pub create_version_on_change: Option<bool>,
    pub allow_overwrite_external_changes: Option<bool>,
}

impl OptionsDocument {
    /// Whether an upsert keeps the version before.
    pub fn keeps_versions(&self) -> bool {
        let nested = self.upsert_options.and_then(|options| options.create_version_on_change);
        self.create_version_on_change.or(nested).unwrap_or(true)
    }

    /// Whether an upsert replaces what was changed in another way.
    pub fn overwrites(&self) -> bool {
        let nested = self.upsert_options.and_then(|options| options.allow_overwrite_external_changes);
        self.allow_overwrite_external_changes.or(nested).unwrap_or(false)
    }
}

/// A record, inline or by id.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RecordDocument {
    pub id: Option<String>,
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub name: Option<String>,
    pub metadata: Option<Map<String, Value>>,
    pub messages: Option<Vec<Value>>,
}

/// A message, for the API document.
#[derive(Debug, Deserialize, JsonSchema)]
#[expect(dead_code, reason = "describes what `messages` holds")]
pub struct MessageDocument {
    /// `system`, `developer`, `user`, `assistant` (or `model`), `tool` (or `function`).
    role: String,
    /// A text, or a list of parts in the form of OpenAI, Anthropic, Gemini, MCP or the AI SDK; docs/agents.md lists them. Messages that have their
    /// parts or their tool calls elsewhere, as those forms may, need none.
    #[serde(default)]
    content: Value,
}

/// The body of `POST /v1/dispatch/approve`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApproveRequest {
    pub execution_id: RunId,
    pub approval_id: WaitId,
    pub decision: Decision,
    /// Told to the model when the call is denied.
    #[serde(default)]
    pub reason: Option<String>,
    /// The `digest` of the `approval_start` that was decided about; a different one is refused.
    #[serde(default)]
    pub digest: Option<String>,
    #[serde(default)]
    pub stream_response: Option<bool>,
}

/// The body of `POST /v1/dispatch/resume`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResumeRequest {
    pub execution_id: RunId,
    /// Outputs by `toolCallId` (or tool name); at least one.
    #[serde(default)]
    #[schemars(extend("minProperties" = 1))]
    pub tool_outputs: Map<String, Value>,
    /// New user input, appended after the outputs.
    #[serde(default)]
    #[schemars(with = "Vec<MessageDocument>")]
    pub messages: Vec<Value>,
    #[serde(default)]
    pub stream_response: Option<bool>,
}

/// The body of `POST /v1/dispatch/continue`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContinueRequest {
    pub execution_id: RunId,
    pub continuation: Continuation,
    #[serde(default)]
    pub stream_response: Option<bool>,
}

/// Either tool outputs or a decision; told apart by what is in it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Continuation {
    /// Outputs by `toolCallId` (or tool name); at least one.
    #[serde(default)]
    pub tool_outputs: Option<Map<String, Value>>,
    /// New user input, appended after the outputs.
    #[serde(default)]
    #[schemars(with = "Vec<MessageDocument>")]
    pub messages: Vec<Value>,
    /// The approval that is decided about.
    #[serde(default)]
    pub approval_id: Option<WaitId>,
    #[serde(default)]
    pub decision: Option<Decision>,
    #[serde(default)]
    pub reason: Option<String>,
    #[serde(default)]
    pub digest: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        let policy = |patterns: &[&str]| ClientToolsPolicy { allowlist: Some(patterns.iter().map(|text| (*text).to_owned()).collect()) };
        for (pattern, name, fits) in [
            ("add_*", "webmcp:add_cart", true),
            ("add_*", "delete_cart", false),
            ("*_cart", "add_cart", true),
            ("*_cart", "add_cart_now", false),
            ("a*c*e", "abcde", true),
            ("a*c*e", "aec", false),
            ("ab*ba", "aba", false),
            ("*", "anything", true),
            ("add_cart", "add_cart", true),
            ("add_cart", "add_carts", false),
        ] {
            assert_eq!(policy(&[pattern]).allows(name), fits, "{pattern} {name}");
        }
        assert!(!policy(&[]).allows("a"), "an empty list allows none");
        assert!(ClientToolsPolicy::default().allows("a"));
    }
}
