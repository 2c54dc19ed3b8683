//! Tools that a prompt gives its model by itself: artifacts to show, and agents to hand a task to.
//!
//! An artifact is content of its own beside the conversation; the call tells it to the reader and does nothing else. A spawned agent is an execution of
//! its own with the tools that the prompt lends it, and gives its answer back.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::engine::step::Fields;
use crate::model::Flow;
use crate::tool::{Body, Definition, MAX_TIMEOUT_MS, OwnTool, Tool};

/// The tool that hands a task to another agent.
pub const SPAWN: &str = "spawn_subagent";
/// Agents that one execution may spawn, unless it says otherwise, and at most.
const SPAWNS: u32 = 10;
const MOST_SPAWNS: u32 = 100;
/// Turns of a spawned agent, unless it says otherwise, and at most.
const TURNS: u32 = 10;
const MOST_TURNS: u32 = 100;
/// How long a spawned agent may run, unless it says otherwise: 5 minutes.
const TIMEOUT_MS: u64 = 300_000;
const LONGEST_TIMEOUT_MS: u64 = 30 * 24 * 3_600_000;

/// What a model may show beside its answer.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ArtifactsConfig {
    pub enabled: bool,
    /// `markdown` and `component`; both when absent.
    pub types: Option<Vec<ArtifactType>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ArtifactType {
    /// A text.
    Markdown,
    /// A component of the reader's own, by its name, with properties.
    Component,
}

/// Agents that a model may spawn.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SubagentConfig {
    /// Names of the prompt's own tools that it may lend; all of them when absent.
    pub tool_pool: Option<Vec<String>>,
    /// Turns of one that is not told otherwise; 10 when absent.
    pub default_max_turns: Option<u32>,
    /// The most turns that the model may give one; 100 when absent.
    pub max_turns_limit: Option<u32>,
    /// How many may be spawned; 10 when absent, 100 at most.
    pub max_spawns_per_run: Option<u32>,
    /// The model of one; the prompt's own when absent.
    pub default_model: Option<String>,
    /// Whether a spawned agent may spawn.
    pub allow_nesting: bool,
    /// Milliseconds that one may take, its pauses included; 5 minutes when absent.
    pub default_timeout_ms: Option<u64>,
}

/// How agents are spawned.
#[derive(Debug, Clone)]
pub struct Spawn {
    rules: Rules,
    config: SubagentConfig,
    model: String,
    turns: u32,
    most_turns: u32,
    /// What is lent, by name.
    pool: Vec<Definition>,
    /// How many may be spawned.
    pub most: u32,
}

/// The artifact tools of a prompt.
pub fn artifacts(config: &ArtifactsConfig) -> Vec<Tool> {
    let wanted = |kind: ArtifactType| config.enabled && config.types.as_ref().is_none_or(|types| types.contains(&kind));
    let text = |what: &str| json!({ "type": "string", "description": what });
    let mut tools = Vec::new();
    if wanted(ArtifactType::Markdown) {
        let parameters = json!({ "type": "object", "required": ["content"], "properties": {
            "title": text("A short title."), "content": text("The whole text, in Markdown."),
        } });
        let about = "Shows a document (Markdown) to the user beside the conversation. For content of its own: reports, code, letters.";
        tools.push(own("emit_artifact_markdown", about, parameters, OwnTool::MarkdownArtifact));
    }
    if wanted(ArtifactType::Component) {
        let parameters = json!({ "type": "object", "required": ["component"], "properties": {
            "title": text("A short title."), "component": text("The component's name."),
            "props": { "type": "object", "description": "The component's properties." },
        } });
        let about = "Shows a component of the user's application beside the conversation.";
        tools.push(own("emit_artifact_component", about, parameters, OwnTool::ComponentArtifact));
    }
    tools
}

fn own(name: &str, description: &str, parameters_schema: Value, tool: OwnTool) -> Tool {
    let definition = Definition {
        name: name.into(),
        description: description.into(),
        tool_type: "builtin".into(),
        parameters_schema,
        config: Value::Null,
        hidden_parameter_names: Vec::new(),
        requires_approval: false,
        origin: None,
        page_origin: None,
    };
    Tool { definition, body: Body::Own(tool), timeout_ms: MAX_TIMEOUT_MS }
}

/// What the prompt says of calls of its tools, whoever makes them: as it was written.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    approval: Value,
    limits: Value,
}

impl Rules {
    /// Those of a prompt's configuration.
    pub fn of(config: &Value) -> Self {
        let rule = |name: &str| config.get("tools").and_then(|tools| tools.get(name)).filter(|rule| !rule.is_null()).cloned();
        Self { approval: rule("approval").unwrap_or_default(), limits: rule("perToolLimits").unwrap_or_else(|| json!({})) }
    }
}

impl Spawn {
    /// Compiles the configuration; faults are told under `tools/subagentConfig`.
    pub fn compile(config: SubagentConfig, model: &str, tools: &[Definition], rules: Rules, fields: &mut Fields) -> Self {
        let mut range = |name: &str, given: Option<u32>, usual: u32, most: u32| {
            let value = given.unwrap_or(usual);
            if !(1..=most).contains(&value) {
                fields.problem(&format!("tools/subagentConfig/{name}"), format!("expected 1 to {most}"));
            }
            value
        };
        let turns = range("defaultMaxTurns", config.default_max_turns, TURNS, MOST_TURNS);
        let most_turns = range("maxTurnsLimit", config.max_turns_limit, MOST_TURNS, MOST_TURNS);
        let most = range("maxSpawnsPerRun", config.max_spawns_per_run, SPAWNS, MOST_SPAWNS);
        if config.default_timeout_ms.is_some_and(|timeout| !(1..=LONGEST_TIMEOUT_MS).contains(&timeout)) {
            fields.problem("tools/subagentConfig/defaultTimeoutMs", format!("expected 1 to {LONGEST_TIMEOUT_MS}"));
        }
        for (index, name) in config.tool_pool.iter().flatten().enumerate() {
            if !tools.iter().any(|tool| tool.name == *name) {
                fields.problem(&format!("tools/subagentConfig/toolPool/{index}"), format!("the prompt has no tool `{name}` of its own"));
            }
        }
        let lent = |tool: &&Definition| config.tool_pool.as_ref().is_none_or(|pool| pool.contains(&tool.name));
        let pool = tools.iter().filter(lent).cloned().collect();
        let model = config.default_model.clone().unwrap_or_else(|| model.to_owned());
        Self { turns: turns.min(most_turns), most_turns, most, pool, model, rules, config }
    }

    pub fn tool(&self) -> Tool {
        let names: Vec<&str> = self.pool.iter().map(|tool| tool.name.as_str()).collect();
        let text = |what: &str| json!({ "type": "string", "description": what });
        let parameters = json!({ "type": "object", "required": ["task"], "properties": {
            "task": text("What the agent must do, with everything that it must know: it sees nothing of this conversation."),
            "name": text("A short name for it."),
            "instructions": text("How it should work."),
            "tools": { "type": "array", "items": { "type": "string", "enum": names }, "description": "The tools it may use; all of them when absent." },
            "maxTurns": { "type": "integer", "minimum": 1, "maximum": self.most_turns },
        } });
        own(
            SPAWN,
            "Hands a task to an agent of its own and gives its answer back. Several may work side by side.",
            parameters,
            OwnTool::Spawn,
        )
    }

    /// How long one may take, in milliseconds.
    pub fn timeout_ms(&self) -> u64 {
        self.config.default_timeout_ms.unwrap_or(TIMEOUT_MS)
    }

    /// The agent that a call asks for.
    pub fn agent(&self, arguments: &Map<String, Value>) -> Flow {
        let text = |name: &str| arguments.get(name).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty());
        let wanted: Option<Vec<&str>> =
            arguments.get("tools").and_then(Value::as_array).map(|names| names.iter().filter_map(Value::as_str).collect());
        let lent: Vec<&Definition> =
            self.pool.iter().filter(|tool| wanted.as_ref().is_none_or(|names| names.contains(&tool.name.as_str()))).collect();
        let turns = arguments.get("maxTurns").and_then(Value::as_u64).and_then(|turns| u32::try_from(turns).ok()).unwrap_or(self.turns);
        let Rules { approval, limits } = &self.rules;
        let mut tools = json!({ "runtimeTools": lent, "approval": approval, "perToolLimits": limits });
        if self.config.allow_nesting {
            // Its own pool is what it was lent.
            tools["subagentConfig"] = json!({
                "defaultMaxTurns": self.turns, "maxTurnsLimit": self.most_turns, "maxSpawnsPerRun": self.most, "allowNesting": true,
                "defaultModel": self.model, "defaultTimeoutMs": self.timeout_ms(),
            });
        }
        let config = json!({
            "model": self.model,
            // Written by a model: a text, and never a template.
            "systemPrompt": "{{_instructions}}", "previousMessages": "{{messages}}", "tools": tools,
            "loopConfig": { "maxTurns": turns.clamp(1, self.most_turns) },
        });
        let name = text("name").unwrap_or("subagent").chars().filter(|letter| !letter.is_control()).take(200).collect::<String>();
        Flow::of_prompt("agent", &name, config, self.timeout_ms())
    }
}
