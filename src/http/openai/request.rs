//! A chat completion as callers ask for it.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::engine::step::check_messages;
use crate::error::Problems;
use crate::http::budget::BudgetDocument;

/// Most messages of one request.
const MAX_MESSAGES: usize = 10_000;

/// The body of `POST /v1/chat/completions`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(rename = "ChatCompletionRequest")]
pub struct ChatRequest {
    /// `provider/model` or another name that Dispatch knows; `agent:` or `flow:` and the name or id of a saved one.
    pub model: String,
    /// The conversation, oldest message first.
    #[schemars(with = "Vec<MessageDocument>", length(min = 1))]
    pub messages: Vec<Value>,
    #[serde(default)]
    pub stream: Option<bool>,
    #[serde(default)]
    pub stream_options: Option<StreamOptions>,
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 2.0))]
    pub temperature: Option<f64>,
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub top_p: Option<f64>,
    #[serde(default)]
    #[schemars(range(min = -2.0, max = 2.0))]
    pub frequency_penalty: Option<f64>,
    #[serde(default)]
    #[schemars(range(min = -2.0, max = 2.0))]
    pub presence_penalty: Option<f64>,
    #[serde(default)]
    pub seed: Option<i64>,
    /// The older name of `max_completion_tokens`.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub max_tokens: Option<u32>,
    /// The most tokens of the answer.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub max_completion_tokens: Option<u32>,
    /// A text, or several, that end the answer.
    #[serde(default)]
    pub stop: Option<Stop>,
    /// `{type: "text"}`, `{type: "json_object"}` or `{type: "json_schema", json_schema: {name, schema, strict}}`.
    #[serde(default)]
    pub response_format: Option<Map<String, Value>>,
    /// `none`, `minimal`, `low`, `medium`, `high`, `xhigh` or `max`.
    #[serde(default)]
    pub reasoning_effort: Option<String>,
    /// Functions that the caller runs when the model calls them.
    #[serde(default)]
    pub tools: Option<Vec<ToolDocument>>,
    /// `auto`, `none`, `required`, one function (`{type: "function", function: {name}}`), or some of them
    /// (`{type: "allowed_tools", allowed_tools: {mode, tools}}`).
    #[serde(default)]
    pub tool_choice: Option<Value>,
    /// `false`: only the first call of an answer is given.
    #[serde(default)]
    pub parallel_tool_calls: Option<bool>,
    /// Kept with the execution.
    #[serde(default)]
    pub metadata: Option<Map<String, Value>>,
    /// What OpenAI has no parameter for; SDKs send it as an extra member of the body.
    #[serde(default)]
    pub dispatch: Option<DispatchOptions>,
    /// Everything else: taken when it asks for nothing that is not done anyway, refused otherwise.
    #[serde(flatten)]
    #[schemars(skip)]
    pub other: Map<String, Value>,
}

/// A message, for the API document.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "ChatCompletionMessageInput")]
#[expect(dead_code, reason = "describes what `messages` holds")]
pub struct MessageDocument {
    /// `system`, `developer`, `user`, `assistant` or `tool`.
    role: String,
    /// A text or a list of parts: `text`, `image_url`, `input_audio`, `file`, `refusal`.
    content: Option<Value>,
    /// Of an assistant's message: the calls that it asked for.
    tool_calls: Option<Value>,
    /// Of a tool's message: the id of the call that it answers.
    tool_call_id: Option<Value>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[schemars(rename = "ChatCompletionStreamOptions")]
pub struct StreamOptions {
    /// A last chunk tells the usage.
    #[serde(default)]
    pub include_usage: Option<bool>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a text or a list of texts")]
#[schemars(rename = "ChatCompletionStop")]
pub enum Stop {
    One(String),
    Several(Vec<String>),
}

/// A function.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[schemars(rename = "ChatCompletionTool")]
pub struct ToolDocument {
    /// `function`.
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub function: Option<FunctionDocument>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[schemars(rename = "ChatCompletionFunction")]
pub struct FunctionDocument {
    pub name: String,
    #[serde(default)]
    pub description: Option<String>,
    /// JSON Schema of the arguments, with `type: object`.
    #[serde(default)]
    pub parameters: Option<Value>,
}

/// What OpenAI has no parameter for.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[schemars(rename = "ChatCompletionDispatchOptions")]
pub struct DispatchOptions {
    /// Models to ask, in order, when the first cannot answer.
    pub fallbacks: Option<Vec<String>>,
    /// `{ttlSeconds}`: the same request is answered from the last answer for so long.
    pub cache: Option<Map<String, Value>>,
    pub budget: Option<BudgetDocument>,
    /// As with any model that knows it.
    pub top_k: Option<u32>,
}

/// Members that change nothing of the answer.
const WITHOUT_EFFECT: [&str; 6] =
    ["user", "safety_identifier", "store", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options"];

impl ChatRequest {
    /// Notes what cannot be honoured, whichever model is asked.
    pub fn check(&self, problems: &mut Problems) {
        for (name, _) in self.other.iter().filter(|(name, value)| !value.is_null() && !asks_for_nothing(name, value)) {
            problems.add(
                format!("/{}", crate::error::pointer_token(name)),
                format!("`{name}` with this value cannot be honoured here; leave it out"),
            );
        }
        if self.stream_options.is_some() && self.stream != Some(true) {
            problems.add("/stream_options", "`stream_options` belongs to `stream: true`");
        }
        if self.max_tokens.is_some() && self.max_completion_tokens.is_some() && self.max_tokens != self.max_completion_tokens {
            problems.add("/max_tokens", "`max_completion_tokens` says something else; give one of them");
        }
        self.check_messages(problems);
    }

    fn check_messages(&self, problems: &mut Problems) {
        if self.messages.len() > MAX_MESSAGES {
            problems.add("/messages", format!("expected at most {MAX_MESSAGES} messages"));
            return;
        }
        if let Err(found) = check_messages(&self.messages) {
            problems.0.extend(found.0.into_iter().map(|problem| problem.under("/messages")));
            return;
        }
        let role = |message: &Value| message.get("role").and_then(Value::as_str).unwrap_or_default().to_owned();
        if self.messages.iter().all(|message| ["system", "developer"].contains(&role(message).as_str())) {
            problems.add("/messages", "expected at least one message of a user, an assistant or a tool");
        }
    }

    /// The most tokens of the answer, under either name.
    pub fn max_output(&self) -> Option<u32> {
        self.max_completion_tokens.or(self.max_tokens)
    }

    pub fn wants_stream(&self) -> bool {
        self.stream == Some(true)
    }

    pub fn wants_usage(&self) -> bool {
        self.stream_options.and_then(|options| options.include_usage).unwrap_or(false)
    }
}

/// Whether a member that is not read asks for what is done anyway.
fn asks_for_nothing(name: &str, value: &Value) -> bool {
    match name {
        "n" => value.as_u64() == Some(1),
        "logprobs" => value.as_bool() == Some(false),
        "modalities" => *value == json!(["text"]),
        "service_tier" => ["auto", "default"].iter().any(|tier| value == tier),
        "verbosity" => value == "medium",
        "logit_bias" => value.as_object().is_some_and(Map::is_empty),
        _ => WITHOUT_EFFECT.contains(&name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointers(more: Value) -> Vec<String> {
        let mut body = json!({ "model": "local/echo", "messages": [{ "role": "user", "content": "hi" }] });
        for (name, value) in more.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        let request: ChatRequest = serde_json::from_value(body).unwrap();
        let mut problems = Problems::default();
        request.check(&mut problems);
        problems.0.into_iter().map(|problem| problem.pointer).collect()
    }

    #[test]
    fn what_asks_for_nothing_is_taken_and_what_cannot_be_honoured_refused() {
        let nothing = json!({
            "n": 1, "logprobs": false, "modalities": ["text"], "service_tier": "auto", "user": "ada", "store": true, "audio": null,
            "logit_bias": {}, "verbosity": "medium",
        });
        assert_eq!(pointers(nothing), Vec::<String>::new());
        for (name, value) in [
            ("n", json!(2)),
            ("logprobs", json!(true)),
            ("top_logprobs", json!(3)),
            ("audio", json!({ "voice": "alloy" })),
            ("modalities", json!(["text", "audio"])),
            ("functions", json!([])),
            ("function_call", json!("auto")),
            ("prediction", json!({ "type": "content" })),
            ("web_search_options", json!({})),
            ("logit_bias", json!({ "50256": -100 })),
            ("made_up", json!(1)),
        ] {
            assert_eq!(pointers(json!({ name: value })), [format!("/{name}")]);
        }
    }

    #[test]
    fn faults_stand_at_their_place() {
        assert_eq!(pointers(json!({ "stream_options": {} })), ["/stream_options"]);
        assert_eq!(pointers(json!({ "max_tokens": 1, "max_completion_tokens": 2 })), ["/max_tokens"]);
        assert_eq!(pointers(json!({ "messages": [{ "role": "system", "content": "x" }] })), ["/messages"]);
        assert_eq!(pointers(json!({ "messages": [{ "role": "poet", "content": "x" }] })), ["/messages/0/role"]);
    }
}
