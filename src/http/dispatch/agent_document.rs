//! Agent documents of this surface into compiled flows.
//!
//! An agent is a flow of one prompt whose conversation is the request's messages. Inline agents have their settings at the top, saved ones
//! under `config`; both are read here.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::bounds::{FLOW_TIMEOUT_MS, LONGEST_FLOW_MS, NO_CONTROLS};
use super::document::{self, STEP_TIMEOUT_MS};
use super::{handling, prompt_tools, unavailable};
use crate::error::{Error, Problem, Problems, Result};
use crate::model::Flow;

/// An agent as callers write it, for the API document.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "describes the document; the compiler reads it as it came")]
pub struct AgentDocument {
    /// A saved agent; then nothing else is needed.
    agent_id: Option<String>,
    #[schemars(length(min = 1, max = 255))]
    name: Option<String>,
    /// `provider/model`, or a bare name of the catalogue.
    model: Option<String>,
    /// The system's message; a template. `instructions` is another name.
    system_prompt: Option<String>,
    /// Saved, built-in and in-place tools, their limits and which calls a person must approve; as in a prompt step.
    tools: Option<Map<String, Value>>,
    /// `{maxTurns, maxCost, enableReflection, reflectionInterval}`.
    loop_config: Option<Map<String, Value>>,
    /// `{enabled, types: ["markdown", "component"]}`: what the agent may show beside its answer.
    artifacts: Option<Map<String, Value>>,
    /// `{profileTemplate, responseLength, save}`: what is remembered of whom from conversation to conversation.
    memory: Option<Map<String, Value>>,
    response_format: Option<Value>,
    reasoning: Option<Value>,
    temperature: Option<f64>,
    max_tokens: Option<u32>,
    /// What is done, in order, when the model cannot answer: models to ask, a `retry`, or at the end a `message`.
    fallbacks: Option<Vec<FallbackDocument>>,
    /// `{onError: "fail" | "fallback", fallbacks, triggers}`: the same, as some clients write it.
    error_handling: Option<Map<String, Value>>,
    /// Milliseconds the agent may run, pauses not counted.
    timeout_ms: Option<u64>,
}

/// What takes over: a model's name, or a step of the chain.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum FallbackDocument {
    Name(String),
    Model(FallbackModel),
}

/// A step of the chain.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
pub struct FallbackModel {
    /// `model` (the default), `retry` or `message`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub model: Option<String>,
    /// The answer, of a `message`.
    pub message: Option<String>,
    /// Milliseconds before the model is asked.
    pub delay: Option<u64>,
}

/// The id of an agent's one step. It stands in no log, but in keys that callees see.
const STEP: &str = "agent";
/// What an agent's prompt takes over as it is.
const SETTINGS: [&str; 20] = [
    "model",
    "memory",
    "artifacts",
    "systemPrompt",
    "tools",
    "loopConfig",
    "responseFormat",
    "reasoning",
    "temperature",
    "topP",
    "topK",
    "frequencyPenalty",
    "presencePenalty",
    "seed",
    "maxTokens",
    "maxOutputTokens",
    "stop",
    "stopSequences",
    "fallbacks",
    "fallbackModels",
];
/// Compiles an agent. Error: `validation_failed` with a pointer to every fault that can be seen without the engine.
pub fn compile(document: &Value) -> Result<Flow> {
    let mut problems = Problems::default();
    let Some(map) = document.as_object() else {
        problems.add("", "expected an agent: `{name, model, systemPrompt}`, or `{agentId}` of a saved one");
        return Err(problems.into());
    };
    let name = map.get("name").and_then(Value::as_str).map(str::trim).unwrap_or_default();
    if name.is_empty() {
        problems.add("/name", "expected a text that is not empty");
    }
    if name.contains(char::is_control) {
        problems.add("/name", NO_CONTROLS);
    }
    if map.get("description").is_some_and(|text| !text.is_string() && !text.is_null()) {
        problems.add("/description", "expected a text");
    }
    match map.get("agentType") {
        None | Some(Value::Null) => {}
        Some(Value::String(kind)) if kind == "runtype" => {}
        Some(_) => problems.add("/agentType", "only agents of the type `runtype`, which run here, are available"),
    }
    if map.get("config").is_some_and(|config| !config.is_object() && !config.is_null()) {
        problems.add("/config", "expected an object");
    }
    let at = place(document);
    if !at.is_empty() {
        unavailable::refuse(map, &unavailable::OF_AGENTS, "", &mut problems);
    }
    let empty = Map::new();
    let settings = if at.is_empty() { map } else { map.get("config").and_then(Value::as_object).unwrap_or(&empty) };
    let timeout_ms = match settings.get("timeoutMs") {
        None | Some(Value::Null) => FLOW_TIMEOUT_MS,
        Some(given) => given.as_u64().filter(|given| (1..=LONGEST_FLOW_MS).contains(given)).unwrap_or_else(|| {
            problems.add(format!("{at}/timeoutMs"), format!("expected 1 to {LONGEST_FLOW_MS}"));
            FLOW_TIMEOUT_MS
        }),
    };
    let mut config = Value::Object(prompt(settings, at, &mut problems));
    document::compile_tools(&mut config, STEP_TIMEOUT_MS, at, &mut problems);
    problems.into_result()?;
    Ok(Flow::of_prompt(STEP, name, config, timeout_ms))
}

/// Where the settings stand in the document.
pub fn place(document: &Value) -> &'static str {
    if document.get("config").is_some_and(Value::is_object) { "/config" } else { "" }
}

/// The settings as they were saved, wherever in the document they stand.
pub fn settings(document: &Value) -> Value {
    if let Some(config) = document.get("config").filter(|config| config.is_object()) {
        return config.clone();
    }
    const ABOUT: [&str; 4] = ["name", "description", "icon", "agentType"];
    let map = document.as_object().into_iter().flatten();
    Value::Object(map.filter(|(name, _)| !ABOUT.contains(&name.as_str())).map(|(name, value)| (name.clone(), value.clone())).collect())
}

/// The faults that the engine found in an agent's step, at their place in its document.
pub fn placed(error: Error, document: &Value) -> Error {
    if error.problems().is_empty() {
        return error;
    }
    let at = place(document);
    let move_it = |problem: &Problem| {
        let rest = problem.pointer.strip_prefix("/config").unwrap_or(&problem.pointer);
        Problem { pointer: format!("{at}{rest}"), message: problem.message.clone() }
    };
    Problems(error.problems().iter().map(move_it).collect()).into()
}

/// The settings as the configuration of a prompt.
fn prompt(settings: &Map<String, Value>, at: &str, problems: &mut Problems) -> Map<String, Value> {
    let given = |name: &str| settings.get(name).filter(|value| !value.is_null());
    unavailable::refuse(settings, &unavailable::OF_AGENTS, at, problems);
    if given("loggingPolicy").is_some_and(|policy| policy != "default" && policy != "on") {
        problems.add(format!("{at}/loggingPolicy"), "expected `default` or `on`: the events of every execution are kept");
    }
    let mut config: Map<String, Value> =
        SETTINGS.into_iter().filter_map(|name| given(name).map(|value| (name.to_owned(), value.clone()))).collect();
    if let Some(instructions) = given("instructions") {
        if config.contains_key("systemPrompt") {
            problems.add(format!("{at}/instructions"), "`systemPrompt` says the same; give one of them");
        }
        config.insert("systemPrompt".into(), instructions.clone());
    }
    if given("model").is_none() {
        problems.add(format!("{at}/model"), "expected `provider/model` or a name of the catalogue");
    }
    let bounds = config.entry("loopConfig").or_insert_with(|| json!({}));
    if let (Some(bounds), Some(turns)) = (bounds.as_object_mut(), given("maxTurns")) {
        bounds.entry("maxTurns").or_insert_with(|| turns.clone());
    }
    config.insert("previousMessages".into(), "{{messages}}".into());
    let handling = read_handling(given("errorHandling"), at, problems);
    handling::put_into_prompt(&mut config, &handling, at, problems);
    prompt_tools::normalize(&mut config, at, problems);
    config
}

/// The error handling of an agent. It has one prompt, so there is nothing to go on with when that fails.
fn read_handling(given: Option<&Value>, at: &str, problems: &mut Problems) -> Map<String, Value> {
    let handling = handling::read(given, at, problems);
    if handling.get("onError").is_some_and(|policy| !policy.is_null() && policy != "fail" && policy != "fallback") {
        problems.add(format!("{at}/errorHandling/onError"), "expected fail or fallback: an agent that failed has nothing to go on with");
    }
    unavailable::refuse(&handling, &["defaultValue", "retry"], &format!("{at}/errorHandling"), problems);
    handling
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointers(document: Value) -> Vec<String> {
        compile(&document).err().map(|error| error.problems().iter().map(|problem| problem.pointer.clone()).collect()).unwrap_or_default()
    }

    #[test]
    fn settings_stand_at_the_top_or_under_config() {
        let settings = json!({"model": "local/echo", "instructions": "Be brief.", "maxTurns": 3});
        let mut flat = settings.clone();
        flat["name"] = "Helper".into();
        let flat = compile(&flat).unwrap();
        assert_eq!(compile(&json!({"name": "Helper", "config": settings})).unwrap(), flat);
        assert_eq!(
            flat.steps[0].config,
            json!({"model": "local/echo", "systemPrompt": "Be brief.", "loopConfig": {"maxTurns": 3}, "previousMessages": "{{messages}}"})
        );
    }

    #[test]
    fn every_fault_is_named_at_its_place() {
        assert_eq!(pointers(json!(3)), [""]);
        assert_eq!(
            pointers(json!({"name": " ", "agentType": "external", "skills": ["x"], "timeoutMs": 0})),
            ["/name", "/agentType", "/timeoutMs", "/skills", "/model"]
        );
        let nested = json!({"name": "x", "capabilities": ["y"], "config": {"skills": ["x"], "instructions": "a", "systemPrompt": "b"}});
        assert_eq!(pointers(nested), ["/capabilities", "/config/skills", "/config/instructions", "/config/model"]);
        assert_eq!(
            pointers(json!({"name": "x", "model": "local/echo", "capabilities": [], "sandbox": {"enabled": false}, "skills": null})),
            [""; 0]
        );
        assert_eq!(pointers(json!({"name": "x", "config": 7})), ["/config", "/model"]);
    }
}
