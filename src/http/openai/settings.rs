//! The parameters of a chat completion as the settings of a prompt.

use serde_json::{Map, Value, json};

use super::request::{ChatRequest, Stop};
use super::tools::OfferedTools;
use crate::error::Problems;
use crate::model::Flow;

/// The id of the flow's one step.
const STEP: &str = "chat";
/// Milliseconds that the model may take, its retries and fallbacks included.
const TIMEOUT_MS: u64 = 15 * 60 * 1_000;

/// Parameters, and where the prompt's configuration has them.
const PLACES: [(&str, &str); 14] = [
    ("/config/model", "/model"),
    ("/config/temperature", "/temperature"),
    ("/config/topP", "/top_p"),
    ("/config/topK", "/dispatch/topK"),
    ("/config/frequencyPenalty", "/frequency_penalty"),
    ("/config/presencePenalty", "/presence_penalty"),
    ("/config/maxTokens", "/max_completion_tokens"),
    ("/config/stop", "/stop"),
    ("/config/seed", "/seed"),
    ("/config/responseFormat/schema", "/response_format/json_schema/schema"),
    ("/config/responseFormat", "/response_format"),
    ("/config/reasoning", "/reasoning_effort"),
    ("/config/fallbacks", "/dispatch/fallbacks"),
    ("/config/cache", "/dispatch/cache"),
];

/// The flow of one prompt that answers the request. It holds no message, so that all requests with the same settings share it.
pub fn flow(request: &ChatRequest, title: &str, tools: &OfferedTools) -> Flow {
    let options = request.dispatch.clone().unwrap_or_default();
    let mut config = Map::new();
    config.insert("model".into(), request.model.clone().into());
    config.insert("previousMessages".into(), "{{messages}}".into());
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            config.insert(name.into(), value);
        }
    };
    set("temperature", request.temperature.map(Value::from));
    set("topP", request.top_p.map(Value::from));
    set("topK", options.top_k.map(Value::from));
    set("frequencyPenalty", request.frequency_penalty.map(Value::from));
    set("presencePenalty", request.presence_penalty.map(Value::from));
    set("seed", request.seed.map(Value::from));
    set("maxTokens", request.max_output().map(Value::from));
    set("stop", request.stop.clone().map(stops));
    set("responseFormat", request.response_format.clone().map(Value::Object));
    set("reasoning", request.reasoning_effort.clone().map(Value::from));
    set("fallbacks", options.fallbacks.map(Value::from));
    set("cache", options.cache.map(Value::Object));
    set("tools", (!tools.definitions.is_empty()).then(|| json!({ "toolCallStrategy": tools.strategy })));
    Flow::of_prompt(STEP, title, Value::Object(config), TIMEOUT_MS)
}

fn stops(stop: Stop) -> Value {
    match stop {
        Stop::One(text) => json!([text]),
        Stop::Several(texts) => texts.into(),
    }
}

/// Where the caller wrote what a problem of the flow is about.
pub fn place(pointer: &str) -> String {
    let found = PLACES.iter().find_map(|(config, parameter)| Some((parameter, pointer.strip_prefix(config)?)));
    found.map_or_else(|| pointer.to_owned(), |(parameter, rest)| format!("{parameter}{rest}"))
}

/// Notes the parameters that a saved agent or flow has settings of its own for. `tools` may be given to agents.
pub fn refuse_settings(request: &ChatRequest, takes_tools: bool, problems: &mut Problems) {
    let options = request.dispatch.as_ref();
    let is_text = |format: &Map<String, Value>| format.get("type").is_some_and(|kind| kind == "text");
    let is_auto = |choice: &Value| choice.is_null() || choice == "auto";
    for (pointer, is_given) in [
        ("/temperature", request.temperature.is_some()),
        ("/top_p", request.top_p.is_some()),
        ("/frequency_penalty", request.frequency_penalty.is_some()),
        ("/presence_penalty", request.presence_penalty.is_some()),
        ("/seed", request.seed.is_some()),
        ("/max_tokens", request.max_tokens.is_some()),
        ("/max_completion_tokens", request.max_completion_tokens.is_some()),
        ("/stop", request.stop.is_some()),
        ("/response_format", request.response_format.as_ref().is_some_and(|format| !is_text(format))),
        ("/reasoning_effort", request.reasoning_effort.is_some()),
        ("/tool_choice", request.tool_choice.as_ref().is_some_and(|choice| !is_auto(choice))),
        ("/tools", !takes_tools && request.tools.as_ref().is_some_and(|tools| !tools.is_empty())),
        ("/dispatch/fallbacks", options.is_some_and(|options| options.fallbacks.is_some())),
        ("/dispatch/cache", options.is_some_and(|options| options.cache.is_some())),
        ("/dispatch/topK", options.is_some_and(|options| options.top_k.is_some())),
    ] {
        if is_given {
            problems.add(pointer, "a saved agent or flow has settings of its own; leave this out");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(more: Value) -> ChatRequest {
        let mut body = json!({ "model": "m", "messages": [] });
        for (name, value) in more.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        serde_json::from_value(body).unwrap()
    }

    #[test]
    fn parameters_become_settings() {
        let format = json!({ "type": "json_schema", "json_schema": { "name": "x", "schema": { "type": "object" } } });
        let request = request(json!({
            "temperature": 0.5, "top_p": 0.9, "max_tokens": 7, "stop": "end", "seed": 3, "reasoning_effort": "low",
            "response_format": format, "dispatch": { "fallbacks": ["local/echo"], "cache": { "ttlSeconds": 60 }, "topK": 40 },
        }));
        let tools = OfferedTools { definitions: vec![json!({ "name": "a" })], strategy: "required" };
        assert_eq!(
            flow(&request, "Chat completion", &tools).steps[0].config,
            json!({
                "model": "m", "previousMessages": "{{messages}}", "temperature": 0.5, "topP": 0.9, "topK": 40, "seed": 3,
                "maxTokens": 7, "stop": ["end"], "responseFormat": format, "reasoning": "low", "fallbacks": ["local/echo"],
                "cache": { "ttlSeconds": 60 }, "tools": { "toolCallStrategy": "required" },
            })
        );
    }

    #[test]
    fn problems_are_placed_where_the_caller_wrote() {
        assert_eq!(place("/config/responseFormat/schema"), "/response_format/json_schema/schema");
        assert_eq!(place("/config/fallbacks/0"), "/dispatch/fallbacks/0");
        assert_eq!(place("/messages/0"), "/messages/0");
    }

    #[test]
    fn saved_ones_have_settings_of_their_own() {
        let request = request(json!({
            "temperature": 1, "response_format": { "type": "text" }, "tool_choice": "auto",
            "tools": [{ "type": "function", "function": { "name": "a" } }],
        }));
        let refused = |takes_tools| {
            let mut problems = Problems::default();
            refuse_settings(&request, takes_tools, &mut problems);
            problems.0.into_iter().map(|problem| problem.pointer).collect::<Vec<_>>()
        };
        assert_eq!(refused(true), ["/temperature"]);
        assert_eq!(refused(false), ["/temperature", "/tools"]);
    }
}
