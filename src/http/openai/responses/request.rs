//! A response as callers ask for it, and its translation into a chat completion.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::document::ResponseSettings;
use crate::error::{Problems, pointer_token};
use crate::http::openai::request::{ChatRequest, DispatchOptions, FunctionDocument, ToolDocument};

/// Pairs of a response's metadata, and the lengths of a name and a text of them, in characters.
const MAX_METADATA: usize = 16;
const MAX_METADATA_NAME: usize = 64;
const MAX_METADATA_TEXT: usize = 512;

/// The body of `POST /v1/responses`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[schemars(rename = "OpenAiResponseRequest")]
pub struct ResponseRequest {
    /// `provider/model` or another name that Dispatch knows; `agent:` or `flow:` and the name or id of a saved one.
    pub model: String,
    /// A text, or items: messages, function calls and their outputs, reasoning.
    #[serde(default)]
    #[schemars(with = "Option<ResponseInput>")]
    pub input: Option<Value>,
    /// A system message in front of the input. A later response does not inherit it.
    #[serde(default)]
    pub instructions: Option<String>,
    /// A stored response whose conversation goes on.
    #[serde(default)]
    pub previous_response_id: Option<String>,
    #[serde(default)]
    pub stream: Option<bool>,
    #[serde(default)]
    pub stream_options: Option<Map<String, Value>>,
    /// `false`: the response cannot be read or continued by its id. `true` when absent.
    #[serde(default)]
    pub store: Option<bool>,
    /// `true`: the answer comes at once, and the response goes on without its caller.
    #[serde(default)]
    pub background: Option<bool>,
    /// `reasoning.encrypted_content`: the data that the model wants back comes with the answer.
    #[serde(default)]
    pub include: Option<Vec<String>>,
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 2.0))]
    pub temperature: Option<f64>,
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub top_p: Option<f64>,
    /// The most tokens of the answer.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub max_output_tokens: Option<u32>,
    /// Never counts: no tool of the model's vendor is called.
    #[serde(default)]
    pub max_tool_calls: Option<u64>,
    #[serde(default)]
    pub reasoning: Option<ReasoningOptions>,
    #[serde(default)]
    pub text: Option<TextOptions>,
    /// Functions that the caller runs when the model calls them: `{type: "function", name, description, parameters}`.
    #[serde(default)]
    pub tools: Option<Vec<Map<String, Value>>>,
    /// `auto`, `none`, `required`, one function (`{type: "function", name}`), or some of them (`{type: "allowed_tools", mode, tools}`).
    #[serde(default)]
    pub tool_choice: Option<Value>,
    /// `false`: only the first call of an answer is given.
    #[serde(default)]
    pub parallel_tool_calls: Option<bool>,
    /// Up to 16 texts, kept with the execution.
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

/// The input, for the API document.
#[derive(JsonSchema)]
#[schemars(untagged, rename = "OpenAiResponseInput")]
#[expect(dead_code, reason = "describes what `input` holds")]
enum ResponseInput {
    Text(String),
    Items(Vec<Map<String, Value>>),
}

/// How much the model thinks.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[schemars(rename = "OpenAiReasoningOptions")]
pub struct ReasoningOptions {
    /// `none`, `minimal`, `low`, `medium`, `high`, `xhigh` or `max`.
    #[serde(default)]
    effort: Option<String>,
    /// `auto`: the thoughts that the model tells always come.
    #[serde(default)]
    summary: Option<String>,
    #[serde(flatten)]
    #[schemars(skip)]
    other: Map<String, Value>,
}

/// The form of the answer's text.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[schemars(rename = "OpenAiTextOptions")]
pub struct TextOptions {
    /// `{type: "text"}`, `{type: "json_object"}` or `{type: "json_schema", name, schema, strict}`.
    #[serde(default)]
    format: Option<Map<String, Value>>,
    #[serde(flatten)]
    #[schemars(skip)]
    other: Map<String, Value>,
}

/// Asks for the data that the model wants back.
pub const ENCRYPTED_CONTENT: &str = "reasoning.encrypted_content";
/// What may be included and never exists here, or always comes.
const WITHOUT_EFFECT: [&str; 6] = [
    "message.input_image.image_url",
    "web_search_call.results",
    "web_search_call.action.sources",
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
];

/// Notes what cannot be included. `at` is the place of the list.
pub fn check_include(include: &[String], at: &str, problems: &mut Problems) {
    for (index, name) in include.iter().enumerate() {
        if name != ENCRYPTED_CONTENT && !WITHOUT_EFFECT.contains(&name.as_str()) {
            problems.add(format!("{at}/{index}"), format!("`{name}` cannot be included here; `{ENCRYPTED_CONTENT}` can"));
        }
    }
}

impl ResponseRequest {
    pub fn is_stored(&self) -> bool {
        self.store != Some(false)
    }

    pub fn is_in_background(&self) -> bool {
        self.background == Some(true)
    }

    pub fn wants_stream(&self) -> bool {
        self.stream == Some(true)
    }

    /// Whether the answer carries the data that the model wants back.
    pub fn wants_state(&self) -> bool {
        self.include.iter().flatten().any(|name| name == ENCRYPTED_CONTENT)
    }

    /// The instructions, unless they are empty.
    pub fn instructions(&self) -> Option<&str> {
        self.instructions.as_deref().filter(|text| !text.trim().is_empty())
    }

    /// Notes what cannot be honoured, whichever model is asked.
    pub fn check(&self, problems: &mut Problems) {
        refuse_unless(&self.other, "", asks_for_nothing, problems);
        check_include(self.include.as_deref().unwrap_or_default(), "/include", problems);
        if let Some(options) = &self.stream_options {
            if !self.wants_stream() {
                problems.add("/stream_options", "`stream_options` belongs to `stream: true`");
            }
            refuse_unless(options, "/stream_options", |name, value| name == "include_obfuscation" && *value == false, problems);
        }
        if self.is_in_background() && !self.is_stored() {
            problems.add("/background", "a response in the background must be stored to be read; leave `store: false` out");
        }
        if let Some(reasoning) = &self.reasoning {
            refuse_unless(&reasoning.other, "/reasoning", reasons_anyway, problems);
            if reasoning.summary.as_deref().is_some_and(|summary| summary != "auto") {
                problems.add("/reasoning/summary", "expected `auto`; the length of the summary is the model's own choice");
            }
        }
        if let Some(text) = &self.text {
            refuse_unless(&text.other, "/text", |name, value| name == "verbosity" && value == "medium", problems);
            let is_schema = text.format.as_ref().is_some_and(|format| format.get("type").is_some_and(|kind| kind == "json_schema"));
            if is_schema && !text.format.as_ref().is_some_and(|format| format.get("name").is_some_and(Value::is_string)) {
                problems.add("/text/format/name", "expected a text");
            }
        }
        self.check_tools(problems);
        self.check_metadata(problems);
    }

    fn check_tools(&self, problems: &mut Problems) {
        for (index, tool) in self.tools.iter().flatten().enumerate() {
            let at = format!("/tools/{index}");
            if tool.get("type").is_none_or(|kind| kind != "function") {
                let message = "expected `function`; tools that OpenAI or the model's vendor runs are not available here";
                problems.add(format!("{at}/type"), message);
                continue;
            }
            if !tool.get("name").is_some_and(Value::is_string) {
                problems.add(format!("{at}/name"), "expected a text");
            }
            if tool.get("description").is_some_and(|text| !text.is_null() && !text.is_string()) {
                problems.add(format!("{at}/description"), "expected a text");
            }
            for name in ["async", "defer_loading"] {
                if tool.get(name).is_some_and(|value| *value != false && !value.is_null()) {
                    problems
                        .add(format!("{at}/{name}"), "calls are the answer: they are neither deferred nor made beside it; leave this out");
                }
            }
        }
    }

    fn check_metadata(&self, problems: &mut Problems) {
        let Some(metadata) = &self.metadata else { return };
        if metadata.len() > MAX_METADATA {
            problems.add("/metadata", format!("expected at most {MAX_METADATA} pairs"));
        }
        for (name, value) in metadata {
            let at = format!("/metadata/{}", pointer_token(name));
            if name.chars().count() > MAX_METADATA_NAME {
                problems.add(at.clone(), format!("expected a name of at most {MAX_METADATA_NAME} characters"));
            }
            if value.as_str().is_none_or(|text| text.chars().count() > MAX_METADATA_TEXT) {
                problems.add(at, format!("expected a text of at most {MAX_METADATA_TEXT} characters"));
            }
        }
    }

    /// The same request as a chat completion with this conversation.
    pub fn to_chat(&self, messages: Vec<Value>) -> ChatRequest {
        ChatRequest {
            model: self.model.clone(),
            messages,
            temperature: self.temperature,
            top_p: self.top_p,
            max_completion_tokens: self.max_output_tokens,
            response_format: self.text.as_ref().and_then(|text| text.format.clone()).map(chat_format),
            reasoning_effort: self.reasoning.as_ref().and_then(|reasoning| reasoning.effort.clone()),
            tools: self.tools.as_ref().map(|tools| tools.iter().map(chat_tool).collect()),
            tool_choice: self.tool_choice.as_ref().map(chat_choice),
            parallel_tool_calls: self.parallel_tool_calls,
            metadata: self.metadata.clone(),
            dispatch: self.dispatch.clone(),
            ..ChatRequest::default()
        }
    }

    /// The parameters as the response shows them.
    pub fn settings(&self) -> ResponseSettings {
        let text = |name: &str| self.other.get(name).and_then(Value::as_str).map(str::to_owned);
        let format = self.text.as_ref().and_then(|text| text.format.clone()).map_or_else(|| json!({ "type": "text" }), Value::Object);
        let reasoning = self.reasoning.as_ref();
        ResponseSettings {
            instructions: self.instructions.clone(),
            previous_response_id: self.previous_response_id.clone(),
            tools: self.tools.iter().flatten().map(shown_tool).collect(),
            tool_choice: self.tool_choice.clone().filter(|choice| !choice.is_null()).unwrap_or_else(|| "auto".into()),
            parallel_tool_calls: self.parallel_tool_calls.unwrap_or(true),
            max_tool_calls: self.max_tool_calls,
            text: json!({ "format": format, "verbosity": "medium" }),
            reasoning: json!({
                "effort": reasoning.and_then(|reasoning| reasoning.effort.clone()),
                "summary": reasoning.and_then(|reasoning| reasoning.summary.clone()),
            }),
            temperature: self.temperature,
            top_p: self.top_p,
            max_output_tokens: self.max_output_tokens,
            truncation: "disabled".into(),
            store: self.is_stored(),
            background: self.is_in_background(),
            user: text("user"),
            safety_identifier: text("safety_identifier"),
            prompt_cache_key: text("prompt_cache_key"),
        }
    }
}

/// Notes the members that ask for something.
fn refuse_unless(members: &Map<String, Value>, at: &str, asks_for_nothing: fn(&str, &Value) -> bool, problems: &mut Problems) {
    for (name, _) in members.iter().filter(|(name, value)| !value.is_null() && !asks_for_nothing(name, value)) {
        let message = format!("`{name}` with this value cannot be honoured here; leave it out");
        problems.add(format!("{at}/{}", pointer_token(name)), message);
    }
}

/// Whether a member that is not read asks for what is done anyway.
fn asks_for_nothing(name: &str, value: &Value) -> bool {
    match name {
        "truncation" => value == "disabled",
        "service_tier" => ["auto", "default"].iter().any(|tier| value == tier),
        "top_logprobs" => value.as_u64() == Some(0),
        "context_management" => value.as_array().is_some_and(Vec::is_empty),
        "background_options" => *value == json!({ "completion_window": "soonest" }) || *value == json!({}),
        "user" | "safety_identifier" | "prompt_cache_key" => value.is_string(),
        "prompt_cache_retention" | "prompt_cache_options" => true,
        _ => false,
    }
}

/// Whether an option of reasoning asks for what is done anyway.
fn reasons_anyway(name: &str, value: &Value) -> bool {
    match name {
        "generate_summary" | "context" => value == "auto",
        "mode" => value == "standard",
        _ => false,
    }
}

fn chat_format(format: Map<String, Value>) -> Map<String, Value> {
    if format.get("type").is_none_or(|kind| kind != "json_schema") {
        return format;
    }
    let inner: Map<String, Value> = format.into_iter().filter(|(name, _)| name != "type").collect();
    [("type".to_owned(), "json_schema".into()), ("json_schema".to_owned(), Value::Object(inner))].into_iter().collect()
}

fn chat_tool(tool: &Map<String, Value>) -> ToolDocument {
    let text = |name: &str| tool.get(name).and_then(Value::as_str).map(str::to_owned);
    let function = FunctionDocument {
        name: text("name").unwrap_or_default(),
        description: text("description"),
        parameters: tool.get("parameters").cloned(),
    };
    ToolDocument { kind: text("type").unwrap_or_default(), function: Some(function) }
}

fn chat_choice(choice: &Value) -> Value {
    let named = |tool: &Value| json!({ "type": "function", "function": { "name": tool["name"] } });
    match choice.get("type").and_then(Value::as_str) {
        Some("function") => named(choice),
        Some("allowed_tools") => {
            let tools: Vec<Value> = choice["tools"].as_array().into_iter().flatten().map(named).collect();
            json!({ "type": "allowed_tools", "allowed_tools": { "mode": choice["mode"], "tools": tools } })
        }
        _ => choice.clone(),
    }
}

/// A tool as the response shows it.
fn shown_tool(tool: &Map<String, Value>) -> Value {
    let mut shown = tool.clone();
    for (name, value) in [("description", Value::Null), ("parameters", Value::Null), ("strict", false.into())] {
        let given = shown.entry(name).or_insert(Value::Null);
        if given.is_null() {
            *given = value;
        }
    }
    Value::Object(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(more: Value) -> ResponseRequest {
        let mut body = json!({ "model": "local/echo", "input": "hi" });
        for (name, value) in more.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        serde_json::from_value(body).unwrap()
    }

    fn pointers(more: Value) -> Vec<String> {
        let mut problems = Problems::default();
        request(more).check(&mut problems);
        problems.0.into_iter().map(|problem| problem.pointer).collect()
    }

    #[test]
    fn what_asks_for_nothing_is_taken_and_what_cannot_be_honoured_refused() {
        let nothing = json!({
            "truncation": "disabled", "service_tier": "auto", "user": "ada", "conversation": null, "top_logprobs": 0, "max_tool_calls": 3,
            "reasoning": { "effort": "low", "summary": "auto" }, "text": { "verbosity": "medium" }, "include": [ENCRYPTED_CONTENT],
            "metadata": { "of": "Ada" },
        });
        assert_eq!(pointers(nothing), Vec::<String>::new());
        for (more, pointer) in [
            (json!({ "truncation": "auto" }), "/truncation"),
            (json!({ "conversation": "conv_1" }), "/conversation"),
            (json!({ "prompt": { "id": "pmpt_1" } }), "/prompt"),
            (json!({ "made_up": 1 }), "/made_up"),
            (json!({ "include": ["message.output_text.logprobs"] }), "/include/0"),
            (json!({ "stream_options": { "include_obfuscation": false } }), "/stream_options"),
            (json!({ "stream": true, "stream_options": { "include_obfuscation": true } }), "/stream_options/include_obfuscation"),
            (json!({ "background": true, "store": false }), "/background"),
            (json!({ "reasoning": { "summary": "detailed" } }), "/reasoning/summary"),
            (json!({ "text": { "verbosity": "low" } }), "/text/verbosity"),
            (json!({ "text": { "format": { "type": "json_schema", "schema": {} } } }), "/text/format/name"),
            (json!({ "tools": [{ "type": "web_search" }] }), "/tools/0/type"),
            (json!({ "tools": [{ "type": "function" }] }), "/tools/0/name"),
            (json!({ "tools": [{ "type": "function", "name": "a", "async": true }] }), "/tools/0/async"),
            (json!({ "metadata": { "a": 1 } }), "/metadata/a"),
        ] {
            assert_eq!(pointers(more), [pointer]);
        }
    }

    #[test]
    fn parameters_are_those_of_a_chat_completion() {
        let chat = request(json!({
            "max_output_tokens": 7, "reasoning": { "effort": "low" }, "tool_choice": { "type": "function", "name": "a" },
            "tools": [{ "type": "function", "name": "a", "parameters": { "type": "object" } }],
            "text": { "format": { "type": "json_schema", "name": "x", "schema": { "type": "object" }, "strict": true } },
        }))
        .to_chat(Vec::new());
        assert_eq!((chat.max_output(), chat.reasoning_effort.as_deref()), (Some(7), Some("low")));
        assert_eq!(chat.tool_choice, Some(json!({ "type": "function", "function": { "name": "a" } })));
        let inner = json!({ "name": "x", "schema": { "type": "object" }, "strict": true });
        assert_eq!(Value::Object(chat.response_format.unwrap()), json!({ "type": "json_schema", "json_schema": inner }));
        let allowed = json!({ "type": "allowed_tools", "mode": "auto", "tools": [{ "type": "function", "name": "a" }] });
        assert_eq!(chat_choice(&allowed)["allowed_tools"]["tools"][0]["function"]["name"], "a");
    }
}
