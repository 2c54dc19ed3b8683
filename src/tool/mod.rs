//! Tools: what a model, or a step, can have done outside the flow.
//!
//! A [`Tool`] is a description the model sees and a [`Body`] that does the work: an HTTP call, a script, or the
//! caller itself. [`http`] is also what the flow's own HTTP steps are made of.
//!
//! Must not know: runs, journals, approvals, models' wire formats. What must not happen twice is decided above.

mod answer;
mod charset;
pub mod http;
mod integers;
mod json_reader;
pub mod mcp;
pub mod schema;
pub mod services;
pub mod signature;
mod url;

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::error::{Problem, Problems};
use crate::expr::script::{Sandbox, accepted, validate_script};
use http::{HttpConfig, HttpTemplate, Mode};
pub use integers::read_exact_integers;
pub use json_reader::JsonFault;

/// Longest time budget a tool may ask for, in milliseconds.
pub const MAX_TIMEOUT_MS: u64 = 30_000;
/// Maximum number of tools that one prompt offers, and that one request brings along.
pub const MAX_TOOLS: usize = 1_000;
/// Maximum number of faults in a call's arguments that a model is told at once.
const MAX_FAULTS: usize = 5;
/// A name that no caller may declare.
pub const RESERVED_NAME: &str = "runtype_set_state";
/// The parameter that carries the model's reason to the approver; no caller may declare it.
pub const REASON_PARAMETER: &str = "_approvalReason";

/// A tool as documents define it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ToolDefinition")]
pub struct Definition {
    /// Letters, digits, `_` and `-`; what the model calls it by.
    pub name: String,
    #[serde(default)]
    pub description: String,
    /// `external` (HTTP), `graphql`, `state` (what agent and reader share), `custom` (JavaScript), `flow` or `subagent` (an execution of their own), `mcp` (a server's tool), or `local` (runs in the caller).
    #[serde(default = "local")]
    pub tool_type: String,
    /// JSON Schema of the parameters, with `type: object`.
    #[serde(default = "no_parameters", alias = "parameters", alias = "inputSchema")]
    pub parameters_schema: Value,
    #[serde(default)]
    pub config: Value,
    /// Parameters that the model does not see; they are filled from the run's variables.
    #[serde(default)]
    pub hidden_parameter_names: Vec<String>,
    /// A person must approve each call.
    #[serde(default)]
    pub requires_approval: bool,
    /// Of tools that run in a page: `webmcp` or `sdk`.
    #[serde(default)]
    pub origin: Option<String>,
    #[serde(default)]
    pub page_origin: Option<String>,
}

/// What is known of an outside effect whose answer may be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "EffectClass")]
pub enum Effect {
    /// Computed here; may be repeated freely.
    Pure,
    /// The callee gives the same result for the same idempotency key; repeated after a crash.
    Idempotent,
    /// Must not happen twice; when its answer is lost the step's fate is unknown until someone settles it.
    Once,
}

fn local() -> String {
    "local".into()
}

fn no_parameters() -> Value {
    json!({ "type": "object", "properties": {} })
}

/// How a tool does its work.
#[derive(Debug, Clone)]
pub enum Body {
    /// The run pauses and the caller sends the output.
    Local,
    Http(Box<HttpTemplate>),
    /// JavaScript over the parameters.
    Script(String),
    /// A flow or an agent in an execution of its own. Which one is the engine's to know.
    Child(ChildKind),
    /// A tool of an MCP server.
    Mcp(Box<Remote>),
    /// A GraphQL operation: the parameters are its variables, `data` is its result.
    GraphQl(Box<GraphQl>),
    /// What the step itself does for its model.
    Own(OwnTool),
}

/// A GraphQL operation over HTTP (<https://graphql.github.io/graphql-over-http>).
#[derive(Debug, Clone)]
pub struct GraphQl {
    pub call: HttpTemplate,
    pub query: String,
}

/// Tools that a step gives its model by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnTool {
    MarkdownArtifact,
    ComponentArtifact,
    /// Another agent that is handed a task.
    Spawn,
    /// What the agent and its reader both see.
    State,
}

/// A tool of an MCP server.
#[derive(Debug, Clone)]
pub struct Remote {
    pub server: Arc<mcp::Server>,
    /// The server's name of it.
    pub tool: String,
    pub effect: Effect,
    /// The server describes it otherwise than before; the fingerprint of how it does now.
    pub changed: Option<String>,
}

/// What a tool runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChildKind {
    /// A flow; the parameters are its variables.
    Flow,
    /// An agent; the parameter `message` is what it is asked.
    Agent,
}

/// A compiled tool.
#[derive(Debug, Clone)]
pub struct Tool {
    pub definition: Definition,
    pub body: Body,
    /// Time budget of one call in milliseconds.
    pub timeout_ms: u64,
}

#[derive(Deserialize)]
struct Script {
    code: String,
}

impl Tool {
    /// Compiles a definition; pointers of problems are relative to it.
    pub fn compile(definition: Definition) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        check_name(&definition.name, &mut problems);
        check_schema(&definition, &mut problems);
        let timeout_ms = definition.config.get("timeout").or_else(|| definition.config.get("timeoutMs")).and_then(Value::as_u64);
        let own = matches!(definition.tool_type.as_str(), "flow" | "subagent");
        if !own && definition.tool_type != "mcp" && timeout_ms.is_some_and(|timeout| timeout > MAX_TIMEOUT_MS) {
            problems.add("/config/timeout", format!("a tool call may take {MAX_TIMEOUT_MS} ms at most"));
        }
        let body = match definition.tool_type.as_str() {
            "local" | "client" => Some(Body::Local),
            "external" => http_body(&definition.config, &mut problems),
            "custom" => script_body(&definition.config, &mut problems),
            "flow" => Some(Body::Child(ChildKind::Flow)),
            "subagent" => Some(Body::Child(ChildKind::Agent)),
            "mcp" => mcp_body(&definition.config, &mut problems),
            "graphql" => graphql_body(&definition.config, &mut problems),
            "state" => Some(Body::Own(OwnTool::State)),
            other => {
                problems
                    .add("/toolType", format!("unknown tool type `{other}`; one of external, graphql, custom, flow, subagent, mcp, local"));
                None
            }
        };
        match body {
            Some(body) if problems.0.is_empty() => {
                Ok(Self { definition: asking(definition), body, timeout_ms: timeout_ms.unwrap_or(MAX_TIMEOUT_MS) })
            }
            _ => Err(problems),
        }
    }

    pub fn name(&self) -> &str {
        &self.definition.name
    }

    /// The word events carry: `local`, `external`, `graphql`, `custom`, `flow`, `subagent`, `mcp`, `builtin`.
    pub const fn kind(&self) -> &'static str {
        match self.body {
            Body::Local => "local",
            Body::Http(_) => "external",
            Body::Script(_) => "custom",
            Body::Child(ChildKind::Flow) => "flow",
            Body::Child(ChildKind::Agent) => "subagent",
            Body::Mcp(_) => "mcp",
            Body::GraphQl(_) => "graphql",
            Body::Own(OwnTool::Spawn) => "subagent",
            Body::Own(_) => "builtin",
        }
    }

    /// The schema that the model sees: hidden parameters left out, the reason for an approval put in.
    pub fn shown_schema(&self, with_reason: bool) -> Value {
        let mut schema = self.definition.parameters_schema.clone();
        if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
            properties.retain(|name, _| !self.definition.hidden_parameter_names.contains(name));
            if with_reason {
                let reason = json!({ "type": "string", "description": "Why this call is needed, for the person who approves it." });
                properties.insert(REASON_PARAMETER.into(), reason);
            }
        }
        if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
            required.retain(|name| {
                name.as_str().is_none_or(|name| !self.definition.hidden_parameter_names.iter().any(|hidden| hidden == name))
            });
        }
        schema
    }

    /// The model's arguments with the hidden ones filled in; names of `_internal` never are.
    pub fn arguments(&self, mut given: Map<String, Value>, variable: impl Fn(&str) -> Option<Value>) -> Map<String, Value> {
        for name in &self.definition.hidden_parameter_names {
            given.remove(name);
            if !name.starts_with("_internal")
                && let Some(value) = variable(name)
            {
                given.insert(name.clone(), value);
            }
        }
        given
    }

    /// Returns what is wrong with arguments by the declared schema, if anything: the first faults, for the model to correct.
    pub async fn check(&self, arguments: &Value, sandbox: &Sandbox) -> crate::error::Result<Option<String>> {
        // The schema was parsed when the definition was accepted.
        let schema = match accepted(|| schema::compile(&self.definition.parameters_schema)) {
            Ok(schema) => schema,
            Err(fault) => return Ok(Some(fault)),
        };
        let faults = schema.judge(arguments, sandbox).await?;
        let told: Vec<String> = faults.into_iter().take(MAX_FAULTS).map(|(pointer, message)| format!("{pointer}: {message}")).collect();
        Ok((!told.is_empty()).then(|| told.join("; ")))
    }
}

/// An agent that says nothing of its parameters is asked with a message.
fn asking(mut definition: Definition) -> Definition {
    let properties = definition.parameters_schema.get("properties").and_then(Value::as_object);
    if definition.tool_type == "subagent" && properties.is_none_or(Map::is_empty) {
        let message = json!({ "type": "string", "description": "What the agent is asked, with everything that it must know." });
        definition.parameters_schema = json!({ "type": "object", "properties": { "message": message }, "required": ["message"] });
    }
    definition
}

fn check_name(name: &str, problems: &mut Problems) {
    let bare = name.strip_prefix("webmcp:").unwrap_or(name);
    let fits = !bare.is_empty() && bare.len() <= 64 && bare.chars().all(|letter| letter.is_ascii_alphanumeric() || "_-.".contains(letter));
    if !fits {
        problems.add("/name", "expected 1 to 64 letters, digits, `_`, `-` or `.`");
    }
    if name == RESERVED_NAME {
        problems.add("/name", format!("`{RESERVED_NAME}` is reserved"));
    }
}

fn check_schema(definition: &Definition, problems: &mut Problems) {
    let schema = &definition.parameters_schema;
    if schema.get("type").and_then(Value::as_str) != Some("object") {
        problems.add("/parametersSchema/type", "expected `object`");
    } else if let Err(fault) = schema::compile(schema) {
        problems.add("/parametersSchema", fault);
    }
    if schema.get("properties").and_then(|properties| properties.get(REASON_PARAMETER)).is_some() {
        problems.add(format!("/parametersSchema/properties/{REASON_PARAMETER}"), "this name is reserved");
    }
}

fn http_body(config: &Value, problems: &mut Problems) -> Option<Body> {
    match serde_path_to_error::deserialize::<_, HttpConfig>(config) {
        Ok(config) => match HttpTemplate::compile(&config, Mode::Tool) {
            Ok(template) => return Some(Body::Http(Box::new(template))),
            Err(faults) => faults.0.into_iter().for_each(|fault| problems.add(format!("/config{}", fault.pointer), fault.message)),
        },
        Err(error) => problems.0.push(Problem::misfit(&error).under("/config")),
    }
    None
}

fn graphql_body(config: &Value, problems: &mut Problems) -> Option<Body> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Config {
        #[serde(alias = "endpoint")]
        url: String,
        query: String,
        #[serde(default)]
        headers: Map<String, Value>,
        #[serde(default)]
        auth: Option<http::AuthConfig>,
        #[serde(default)]
        effect: Option<Effect>,
    }
    let parsed = serde_path_to_error::deserialize::<_, Config>(config);
    let Config { url, query, headers, auth, effect } =
        parsed.map_err(|error| problems.0.push(Problem::misfit(&error).under("/config"))).ok()?;
    let words = query.trim_start();
    if words.is_empty() {
        problems.add("/config/query", "expected a GraphQL operation");
    }
    // A query reads; a mutation may not happen twice.
    let reads = words.starts_with('{') || words.starts_with("query");
    let effect = effect.or(Some(if reads { Effect::Idempotent } else { Effect::Once }));
    // Operation and variables come as values: braces of GraphQL are no templates.
    let body = json!({ "query": "{{_query}}", "variables": "{{_variables}}" });
    let call = HttpConfig { url, method: "POST".into(), headers, auth, effect, body: Some(body), ..HttpConfig::default() };
    match HttpTemplate::compile(&call, Mode::Tool) {
        Ok(call) => Some(Body::GraphQl(Box::new(GraphQl { call, query }))),
        Err(faults) => {
            faults.0.into_iter().for_each(|fault| problems.add(format!("/config{}", fault.pointer), fault.message));
            None
        }
    }
}

/// One tool of a server, described by whoever wrote the definition.
fn mcp_body(config: &Value, problems: &mut Problems) -> Option<Body> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Config {
        tool: String,
        #[serde(default)]
        effect: Option<Effect>,
        #[serde(flatten)]
        server: mcp::ServerConfig,
    }
    let parsed = serde_path_to_error::deserialize::<_, Config>(config);
    let Config { tool, effect, mut server } = parsed.map_err(|error| problems.0.push(Problem::misfit(&error).under("/config"))).ok()?;
    if server.name.is_empty() {
        server.name = "server".into();
    }
    match mcp::Server::compile(&server) {
        Ok(server) => {
            Some(Body::Mcp(Box::new(Remote { server: Arc::new(server), tool, effect: effect.unwrap_or(Effect::Once), changed: None })))
        }
        Err(faults) => {
            faults.0.into_iter().for_each(|fault| problems.add(format!("/config{}", fault.pointer), fault.message));
            None
        }
    }
}

fn script_body(config: &Value, problems: &mut Problems) -> Option<Body> {
    let Ok(script) = serde_json::from_value::<Script>(config.clone()) else {
        problems.add("/config/code", "expected the JavaScript of the tool");
        return None;
    };
    if let Err(error) = validate_script(&script.code) {
        problems.add("/config/code", error.to_string());
    }
    Some(Body::Script(script.code))
}
