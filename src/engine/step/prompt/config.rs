//! The configuration of a prompt, compiled.

use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::cache::{CacheConfig, MAX_TTL};
use super::fallbacks::{Fallback, FallbackChain, FallbackTrigger};
use super::messages::check_literal_messages;
use super::own_tools::{ArtifactsConfig, Rules, SPAWN, Spawn, SubagentConfig, artifacts};
use super::remember::{MemoryConfig, Remember};
use crate::engine::step::tool_run::{Asking, child_of};
use crate::engine::step::{Fields, StepBody, config};
use crate::error::Problems;
use crate::expr::{Condition, Scope, Template, TemplateTree};
use crate::model::wait::Approver;
use crate::model::{Flow, Step};
use crate::provider::{Effort, Reasoning, ResponseFormat, Sampling, ToolChoice};
use crate::tool::mcp::{Server, ServerConfig};
use crate::tool::schema::{self, Schema};
use crate::tool::{Definition, MAX_TOOLS, Tool};

/// The fields of a prompt step.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "PromptConfig")]
pub struct Config {
    /// `provider/model`, or a bare name of the catalogue.
    pub model: String,
    /// The user's message; a template.
    #[serde(default)]
    pub user_prompt: Option<String>,
    /// The system's message; a template.
    #[serde(default)]
    pub system_prompt: Option<String>,
    /// The conversation so far: usually `"{{messages}}"`, or a list of messages.
    #[serde(default)]
    pub previous_messages: Option<Value>,
    /// `text`, `markdown`, `json`, or `{"type": "json_schema", "schema": {...}}`.
    #[serde(default)]
    pub response_format: Option<Value>,
    #[serde(default)]
    pub tools: Option<ToolsConfig>,
    /// `true`, `false`, an effort (`none`, `minimal`, `low`, `medium`, `high`, `xhigh`, `max`), or `{effort, budgetTokens}`.
    #[serde(default)]
    pub reasoning: Option<Value>,
    #[serde(default)]
    pub temperature: Option<f64>,
    #[serde(default)]
    pub top_p: Option<f64>,
    #[serde(default, deserialize_with = "whole_number")]
    #[schemars(with = "Option<u32>")]
    pub top_k: Option<u32>,
    #[serde(default)]
    pub frequency_penalty: Option<f64>,
    #[serde(default)]
    pub presence_penalty: Option<f64>,
    #[serde(default)]
    pub seed: Option<i64>,
    #[serde(default, alias = "maxOutputTokens")]
    pub max_tokens: Option<u32>,
    #[serde(default, alias = "stopSequences")]
    pub stop: Vec<String>,
    /// What is done, in order, when the model cannot answer: models to ask, `{type: "retry", delay}`, or at the end `{type: "message", message}`.
    #[serde(default, alias = "fallbackModels")]
    pub fallbacks: Vec<Fallback>,
    /// Of the error handling, put in by the document's compiler.
    #[serde(default)]
    #[schemars(skip)]
    pub fallback_triggers: Vec<FallbackTrigger>,
    /// `{enabled, types}`: what the model may show beside its answer.
    #[serde(default)]
    pub artifacts: Option<ArtifactsConfig>,
    /// `{profileTemplate, responseLength, save}`: what is remembered of whom from conversation to conversation.
    #[serde(default)]
    pub memory: Option<MemoryConfig>,
    /// `{ttlSeconds}`: the same request is answered from the last answer for so long. Without it nothing is cached.
    #[serde(default)]
    pub cache: Option<CacheConfig>,
    /// How long an agent goes on; without it the step is one loop until the model stops.
    #[serde(default)]
    pub loop_config: Option<LoopConfig>,
    /// Ask the provider to stream; on by default, whether or not the caller streams.
    #[serde(default)]
    pub stream: Option<bool>,
}

/// The bounds of an agent's loop. A turn is the model's calls and the tools that they ask for, until the model stops or the turn's tool calls
/// (`tools.maxToolCalls`) are used up; only then another turn follows.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LoopConfig {
    /// Turns; 1 to 100.
    #[serde(default = "default_turns")]
    #[schemars(range(min = 1, max = 100))]
    pub max_turns: u32,
    /// US dollars; no turn begins once so much is spent. For a limit that is never passed give the execution a budget.
    #[serde(default)]
    pub max_cost: Option<f64>,
    /// The agent looks back on its work between turns; its thoughts are told as reasoning of the loop.
    #[serde(default)]
    pub enable_reflection: bool,
    /// Turns between two reflections: 1 to 50; 1 when absent.
    #[serde(default)]
    #[schemars(range(min = 1, max = 50))]
    pub reflection_interval: Option<u32>,
}

/// A whole number, also written as `40.0`.
fn whole_number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let Some(number) = Option::<f64>::deserialize(deserializer)? else { return Ok(None) };
    if number.fract() != 0.0 || !(0.0..=f64::from(u32::MAX)).contains(&number) {
        return Err(serde::de::Error::custom(format!("expected a whole number, found {number}")));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked")]
    Ok(Some(number as u32))
}

const fn default_turns() -> u32 {
    MAX_TURNS
}

/// The tools of a prompt.
#[derive(Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct ToolsConfig {
    /// Tools defined in place.
    pub runtime_tools: Vec<Definition>,
    /// Saved (`tool_…`, `tool:name`) and built-in tools (`builtin:name`), and of the `mcpServers` single tools (`mcp:server:tool`) or all
    /// (`mcp:server:*`): a server that is named here offers no others.
    pub tool_ids: Vec<String>,
    /// Servers of the Model Context Protocol whose tools the model may call.
    pub mcp_servers: Vec<ServerConfig>,
    /// Tool calls of the whole step; of each turn, for an agent.
    pub max_tool_calls: Option<u32>,
    /// `auto`, `required` (on the first turn) or `none`.
    pub tool_call_strategy: Option<String>,
    /// Limits by tool name.
    pub per_tool_limits: Map<String, Value>,
    pub approval: Option<ApprovalConfig>,
    /// Gives the model a tool, `spawn_subagent`, that hands a task to an agent of its own.
    pub subagent_config: Option<SubagentConfig>,
}

/// Which calls a person must approve.
#[derive(Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct ApprovalConfig {
    /// `true`, or tool names; `*` at the end of a name stands for any ending. `{tool, when}` in the place of a name asks only for calls whose
    /// arguments fulfil a condition: `{"tool": "refund", "when": "amount > 100"}`.
    pub require: Require,
    /// How long a request lasts, in milliseconds; 30 days unless said otherwise.
    pub timeout: Option<u64>,
    /// Ask the model for a reason to show.
    pub request_reason: Option<bool>,
    /// Whose word it takes: the owner's, with an API key, or also that of the page's user who began the execution.
    pub approver: Approver,
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected true, false or a list of tool names")]
pub enum Require {
    All(bool),
    Names(Vec<Rule>),
}

/// Calls that need a person's word.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a tool's name or {tool, when}")]
pub enum Rule {
    Name(String),
    When { tool: String, when: String },
}

impl Default for Require {
    fn default() -> Self {
        Self::All(false)
    }
}

/// Turns of an agent, unless it says otherwise, and at most.
const MAX_TURNS: u32 = 100;
/// Tool calls that no step may exceed.
const MOST_TOOL_CALLS: u32 = 200;

/// A compiled prompt.
pub struct Prompt {
    /// The models in the order that they are asked in; one that is asked again stands there again.
    pub models: Vec<String>,
    /// How long is waited before each of them takes over.
    pub delays: Vec<Duration>,
    /// The answer when all of them have failed.
    pub message: Option<String>,
    /// Whether an answer without text makes the next model take over.
    pub after_empty: bool,
    pub user: Option<Template>,
    pub system: Option<Template>,
    pub previous: Option<TemplateTree>,
    pub format: ResponseFormat,
    pub schema: Option<Schema>,
    pub sampling: Sampling,
    pub reasoning: Option<Reasoning>,
    pub tools: Vec<Tool>,
    /// Servers that are asked for more tools when the step runs.
    pub servers: Vec<Arc<Server>>,
    /// What tools run, by their place among the tools.
    pub children: Vec<(usize, Flow)>,
    /// The server's default when absent.
    pub max_tool_calls: Option<u32>,
    pub remember: Option<Remember>,
    /// How agents are spawned, if they may be.
    pub spawn: Option<Spawn>,
    /// The bounds of an agent's loop.
    pub turns: Option<Turns>,
    pub choice: ToolChoice,
    pub limits: Vec<(String, u32)>,
    pub approval: Approval,
    /// How long answers are kept for the same request.
    pub cache: Option<Duration>,
    pub stream: bool,
    /// Whether the text is shown in the caller's stream.
    pub show: bool,
}

/// See [`LoopConfig`].
#[derive(Debug, Clone, Copy)]
pub struct Turns {
    pub most: u32,
    /// Nano-dollars.
    pub cost: Option<u64>,
    /// Turns between two reflections.
    pub reflection: Option<u32>,
}

/// The approval policy of a prompt's tools.
pub struct Approval {
    all: bool,
    /// Names, and what the arguments must fulfil.
    rules: Vec<(String, Option<Condition>)>,
    pub asking: Asking,
    pub with_reason: bool,
}

impl Approval {
    fn compile(config: ApprovalConfig, fields: &mut Fields) -> Self {
        let lasts = fields.wait("tools/approval/timeout", config.timeout);
        let (all, rules) = match config.require {
            Require::All(all) => (all, Vec::new()),
            Require::Names(rules) => (false, rules),
        };
        let mut compiled = Vec::with_capacity(rules.len());
        for (index, rule) in rules.into_iter().enumerate() {
            let (name, when) = match rule {
                Rule::Name(name) => (name, None),
                Rule::When { tool, when } => (tool, Some(when)),
            };
            let at = format!("tools/approval/require/{index}/when");
            let condition = when.and_then(|source| match Condition::parse(&source) {
                Ok(condition) if condition.needs_script() || condition.uses_secrets() => {
                    fields.problem(&at, "expected a comparison of arguments, without calls of functions");
                    None
                }
                Ok(condition) => Some(condition),
                Err(error) => {
                    fields.problem(&at, error.to_string());
                    None
                }
            });
            compiled.push((name, condition));
        }
        let asking = Asking { lasts, approver: config.approver };
        Self { all, rules: compiled, asking, with_reason: config.request_reason.unwrap_or(true) }
    }

    /// Whether a call of this tool needs a person's word; without arguments, whether one might.
    pub fn covers(&self, tool: &Tool, arguments: Option<&Map<String, Value>>) -> bool {
        let named = |name: &str| match name.strip_suffix('*') {
            Some(start) => tool.name().starts_with(start),
            None => name == tool.name(),
        };
        // What cannot be judged is asked about.
        let holds = |condition: &Condition| {
            arguments.is_none_or(|arguments| !matches!(condition.eval_native(&Scope::new([arguments])), Some(Ok(false))))
        };
        tool.definition.requires_approval
            || self.all
            || self.rules.iter().any(|(name, condition)| named(name) && condition.as_ref().is_none_or(holds))
    }
}

/// Compiles a prompt step.
pub fn compile(step: &Step) -> Result<Box<dyn StepBody>, Problems> {
    let config: Config = config(step)?;
    let mut fields = Fields::default();
    let user = config.user_prompt.as_deref().and_then(|text| fields.template("userPrompt", text));
    let system = config.system_prompt.as_deref().and_then(|text| fields.template("systemPrompt", text));
    let previous = config.previous_messages.as_ref().and_then(|messages| fields.tree("previousMessages", messages));
    if let Some(Value::Array(messages)) = &config.previous_messages {
        let unsendable = check_literal_messages(messages).0;
        unsendable.into_iter().for_each(|problem| fields.0.0.push(problem.under("/previousMessages")));
    }
    if config.user_prompt.is_none() && config.previous_messages.is_none() {
        fields.problem("userPrompt", "expected a `userPrompt` or `previousMessages`");
    }
    check_ranges(&config, &mut fields);
    let (format, schema) = format(config.response_format.as_ref(), &mut fields);
    let reasoning = reasoning(config.reasoning.as_ref(), &mut fields);
    let chain = FallbackChain::compile(&config.model, &config.fallbacks, &config.fallback_triggers, &mut fields);
    let (models, delays): (Vec<String>, Vec<Duration>) = chain.models.into_iter().unzip();
    let tools = config.tools.unwrap_or_default();
    let choice = choice(&tools, &mut fields);
    let limits = limits(&tools, &mut fields);
    let servers = compile_servers(&tools.mcp_servers, &tools.tool_ids, &mut fields);
    let compiled = compile_tools(tools.runtime_tools, &tools.tool_ids, &mut fields);
    if tools.max_tool_calls.is_some_and(|most| most > MOST_TOOL_CALLS) {
        fields.problem("tools/maxToolCalls", format!("expected {MOST_TOOL_CALLS} or less"));
    }
    let turns = config.loop_config.as_ref().map(|bounds| turns(bounds, &mut fields));
    let approval = Approval::compile(tools.approval.unwrap_or_default(), &mut fields);
    let definitions: Vec<Definition> = compiled.iter().map(|tool| tool.definition.clone()).collect();
    let spawn = tools.subagent_config.map(|config| Spawn::compile(config, &models[0], &definitions, Rules::of(&step.config), &mut fields));
    let mut limits = limits;
    let children = compiled.iter().enumerate().filter_map(|(place, tool)| Some((place, child_of(&tool.definition)?))).collect();
    let mut compiled = compiled;
    let own = artifacts(&config.artifacts.unwrap_or_default()).into_iter().chain(spawn.iter().map(Spawn::tool));
    for tool in own {
        if compiled.iter().any(|known| known.name() == tool.name()) {
            fields.problem("tools/runtimeTools", format!("the name `{}` is taken by a tool of the prompt's own", tool.name()));
        }
        compiled.push(tool);
    }
    limits.extend(spawn.iter().map(|spawn| (SPAWN.to_owned(), spawn.most)));
    let prompt = Prompt {
        models,
        delays,
        message: chain.message,
        after_empty: chain.after_empty,
        user,
        system,
        previous,
        format,
        schema,
        sampling: Sampling {
            temperature: config.temperature,
            top_p: config.top_p,
            top_k: config.top_k,
            frequency_penalty: config.frequency_penalty,
            presence_penalty: config.presence_penalty,
            seed: config.seed,
            max_tokens: config.max_tokens,
            stop: config.stop,
        },
        reasoning,
        children,
        spawn,
        remember: config.memory.as_ref().and_then(|memory| Remember::compile(memory, &mut fields)),
        tools: compiled,
        servers,
        max_tool_calls: tools.max_tool_calls,
        turns,
        choice,
        limits,
        approval,
        cache: config.cache.map(|cache| cache_ttl(cache, &mut fields)),
        stream: config.stream.unwrap_or(true),
        show: step.stream,
    };
    fields.finish(Some(prompt))
}

fn cache_ttl(cache: CacheConfig, fields: &mut Fields) -> Duration {
    let ttl = Duration::from_secs(cache.ttl_seconds);
    if ttl.is_zero() || ttl > MAX_TTL {
        fields.problem("cache/ttlSeconds", format!("expected 1 to {}", MAX_TTL.as_secs()));
    }
    ttl
}

fn check_ranges(config: &Config, fields: &mut Fields) {
    let mut range = |name: &str, value: Option<f64>, low: f64, high: f64| {
        if value.is_some_and(|value| !(low..=high).contains(&value)) {
            fields.problem(name, format!("expected {low} to {high}"));
        }
    };
    range("temperature", config.temperature, 0.0, 2.0);
    range("topP", config.top_p, 0.0, 1.0);
    range("frequencyPenalty", config.frequency_penalty, -2.0, 2.0);
    range("presencePenalty", config.presence_penalty, -2.0, 2.0);
    if config.max_tokens == Some(0) {
        fields.problem("maxTokens", "expected 1 or more");
    }
    if config.model.trim().is_empty() {
        fields.problem("model", "expected `provider/model` or a name of the catalogue");
    }
}

/// Turns between two reflections.
const MOST_INTERVAL: u32 = 50;
/// Dollars that no cap may exceed.
const MOST_DOLLARS: f64 = 1e9;

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked first")]
fn turns(bounds: &LoopConfig, fields: &mut Fields) -> Turns {
    if !(1..=MAX_TURNS).contains(&bounds.max_turns) {
        fields.problem("loopConfig/maxTurns", format!("expected 1 to {MAX_TURNS}"));
    }
    let cost = bounds.max_cost.filter(|cost| {
        let fits = (0.0..=MOST_DOLLARS).contains(cost);
        if !fits {
            fields.problem("loopConfig/maxCost", "expected US dollars, 0 or more");
        }
        fits
    });
    let interval = bounds.reflection_interval.unwrap_or(1);
    if !(1..=MOST_INTERVAL).contains(&interval) {
        fields.problem("loopConfig/reflectionInterval", format!("expected 1 to {MOST_INTERVAL}"));
    }
    let reflection = bounds.enable_reflection.then_some(interval);
    Turns { reflection, most: bounds.max_turns, cost: cost.map(|dollars| (dollars * 1e9).round() as u64) }
}

fn format(given: Option<&Value>, fields: &mut Fields) -> (ResponseFormat, Option<Schema>) {
    let word = match given {
        None | Some(Value::Null) => return (ResponseFormat::Text, None),
        Some(Value::String(word)) => word.to_lowercase(),
        Some(other) => other.get("type").and_then(Value::as_str).unwrap_or_default().to_lowercase(),
    };
    match word.as_str() {
        "text" | "markdown" | "html" => (ResponseFormat::Text, None),
        "json" | "json_object" => (ResponseFormat::Json, None),
        "json_schema" | "jsonschema" => json_schema(given, fields),
        other => {
            fields.problem(
                "responseFormat",
                format!("unknown format `{other}`; one of text, markdown, json, or an object with a JSON schema"),
            );
            (ResponseFormat::Text, None)
        }
    }
}

fn json_schema(given: Option<&Value>, fields: &mut Fields) -> (ResponseFormat, Option<Schema>) {
    let given = given.cloned().unwrap_or_default();
    // OpenAI's spelling nests name and schema under `json_schema`.
    let inner = given.get("json_schema").or_else(|| given.get("jsonSchema")).cloned().unwrap_or(given);
    let Some(schema) = inner.get("schema").filter(|schema| schema.is_object()).cloned() else {
        fields.problem("responseFormat/schema", "expected a JSON Schema");
        return (ResponseFormat::Json, None);
    };
    let judge = schema::compile(&schema).map_err(|fault| fields.problem("responseFormat/schema", fault)).ok();
    let name = inner.get("name").and_then(Value::as_str).unwrap_or("answer").to_owned();
    let strict = inner.get("strict").and_then(Value::as_bool).unwrap_or(false);
    (ResponseFormat::JsonSchema { name, schema, strict }, judge)
}

fn reasoning(given: Option<&Value>, fields: &mut Fields) -> Option<Reasoning> {
    let effort = |word: &str| match word {
        "none" => Some(Effort::None),
        "minimal" => Some(Effort::Minimal),
        "low" => Some(Effort::Low),
        "medium" => Some(Effort::Medium),
        "high" => Some(Effort::High),
        "xhigh" => Some(Effort::XHigh),
        "max" => Some(Effort::Max),
        _ => None,
    };
    let of_effort = |effort: Effort| Reasoning { enabled: effort != Effort::None, effort: Some(effort), budget_tokens: None };
    match given? {
        Value::Bool(enabled) => Some(Reasoning { enabled: *enabled, effort: None, budget_tokens: None }),
        Value::String(word) if effort(word).is_some() => effort(word).map(of_effort),
        Value::Object(map) => reasoning_object(map, effort, fields),
        Value::Null => None,
        _ => {
            fields.problem("reasoning", format!("expected true, false, an effort ({EFFORTS}) or an object"));
            None
        }
    }
}

const EFFORTS: &str = "none, minimal, low, medium, high, xhigh, max";

fn reasoning_object(map: &Map<String, Value>, effort: impl Fn(&str) -> Option<Effort>, fields: &mut Fields) -> Option<Reasoning> {
    let word = match map.get("effort") {
        None | Some(Value::Null) => None,
        Some(given) => {
            let known = given.as_str().and_then(effort);
            if known.is_none() {
                fields.problem("reasoning/effort", format!("expected one of {EFFORTS}"));
            }
            known
        }
    };
    let budget = map.get("budgetTokens").or_else(|| map.get("maxTokens")).filter(|budget| !budget.is_null());
    let budget_tokens = budget.and_then(Value::as_u64).and_then(|tokens| u32::try_from(tokens).ok());
    if budget.is_some() && budget_tokens.is_none() {
        fields.problem("reasoning/budgetTokens", "expected a whole number of tokens");
    }
    let enabled = map.get("enabled").and_then(Value::as_bool).unwrap_or(true) && word != Some(Effort::None);
    Some(Reasoning { enabled, effort: word, budget_tokens })
}

fn choice(tools: &ToolsConfig, fields: &mut Fields) -> ToolChoice {
    match tools.tool_call_strategy.as_deref() {
        None | Some("auto") => ToolChoice::Auto,
        Some("required") => ToolChoice::Required,
        Some("none") => ToolChoice::None,
        Some(other) => {
            fields.problem("tools/toolCallStrategy", format!("unknown strategy `{other}`; one of auto, required, none"));
            ToolChoice::Auto
        }
    }
}

fn limits(tools: &ToolsConfig, fields: &mut Fields) -> Vec<(String, u32)> {
    let mut limits = Vec::new();
    for (name, limit) in &tools.per_tool_limits {
        match limit.get("maxCalls").or(Some(limit)).and_then(Value::as_u64).and_then(|most| u32::try_from(most).ok()) {
            Some(most) => limits.push((name.clone(), most)),
            None if limit.is_object() => {}
            None => fields.problem(&format!("tools/perToolLimits/{name}"), "expected {maxCalls: number}"),
        }
    }
    limits
}

/// Maximum number of MCP servers of one prompt.
const MAX_SERVERS: usize = 100;
/// How ids of servers' tools begin.
const MCP: &str = "mcp:";

fn compile_servers(configs: &[ServerConfig], ids: &[String], fields: &mut Fields) -> Vec<Arc<Server>> {
    if configs.len() > MAX_SERVERS {
        fields.problem("tools/mcpServers", format!("expected at most {MAX_SERVERS} servers"));
    }
    if ids.len() > MAX_TOOLS {
        fields.problem("tools/toolIds", format!("expected at most {MAX_TOOLS} tools"));
    }
    if configs.len() > MAX_SERVERS || ids.len() > MAX_TOOLS {
        return Vec::new();
    }
    let mut servers: Vec<Server> = Vec::with_capacity(configs.len());
    for (index, config) in configs.iter().enumerate() {
        match Server::compile(config) {
            Ok(server) if servers.iter().any(|known| known.name == server.name) => {
                fields.problem(&format!("tools/mcpServers/{index}/name"), format!("two servers are called `{}`", server.name));
            }
            Ok(server) => servers.push(server),
            Err(faults) => {
                faults.0.into_iter().for_each(|fault| fields.0.add(format!("/tools/mcpServers/{index}{}", fault.pointer), fault.message));
            }
        }
    }
    let mut picked: Vec<(usize, String)> = Vec::new();
    for (index, id) in ids.iter().enumerate() {
        let Some((name, tool)) = id.strip_prefix(MCP).and_then(|rest| rest.split_once(':')) else { continue };
        match servers.iter().position(|server| server.name == name) {
            Some(at) => picked.push((at, tool.to_owned())),
            None => fields.problem(&format!("tools/toolIds/{index}"), format!("no MCP server `{name}`; describe it under `mcpServers`")),
        }
    }
    for (at, server) in servers.iter_mut().enumerate() {
        let own: Vec<String> = picked.iter().filter(|(of, _)| *of == at).map(|(_, tool)| tool.clone()).collect();
        if !own.is_empty() {
            let may = |tool: &String| tool == "*" || server.allows(tool);
            let allowed =
                if own.iter().any(|tool| tool == "*") { server.allowed.clone() } else { Some(own.into_iter().filter(may).collect()) };
            server.allowed = allowed;
        }
    }
    servers.into_iter().map(Arc::new).collect()
}

fn compile_tools(definitions: Vec<Definition>, ids: &[String], fields: &mut Fields) -> Vec<Tool> {
    if definitions.len() > MAX_TOOLS {
        fields.problem("tools/runtimeTools", format!("expected at most {MAX_TOOLS} tools"));
    }
    if definitions.len() > MAX_TOOLS || ids.len() > MAX_TOOLS {
        return Vec::new();
    }
    for (index, id) in ids.iter().enumerate().filter(|(_, id)| !id.starts_with(MCP)) {
        fields.problem(&format!("tools/toolIds/{index}"), format!("no tool `{id}` here; define it in place under `runtimeTools`"));
    }
    let mut tools: Vec<Tool> = Vec::with_capacity(definitions.len());
    for (index, definition) in definitions.into_iter().enumerate() {
        match Tool::compile(definition) {
            Ok(tool) if tools.iter().any(|known| known.name() == tool.name()) => {
                fields.problem(&format!("tools/runtimeTools/{index}/name"), format!("two tools are called `{}`", tool.name()));
            }
            Ok(tool) => tools.push(tool),
            Err(faults) => {
                faults.0.into_iter().for_each(|fault| fields.0.add(format!("/tools/runtimeTools/{index}{}", fault.pointer), fault.message));
            }
        }
    }
    tools
}
