//! Puts what is saved in the place of its id: flows and agents that steps and tools run, and saved and built-in tools.
//!
//! What runs is then whole in itself: an execution pins it by its hash, and a later change of a saved part touches only later executions.

use serde_json::Value;

use super::agent_document;
use super::document;
use super::prompt_tools;
use super::tools::{SavedTool, builtin};
use crate::error::{Error, Kind, Problems, Result};
use crate::id::{AgentId, FlowId, TenantId, ToolId};
use crate::model::TargetKind;
use crate::store::{Collection, SharedStore};
use crate::tool::MAX_TOOLS;

/// How deep flows may run within flows.
const MAX_NESTING: usize = 8;
/// Saved parts of one document, those of its parts included.
const MOST_PARTS: usize = 500;

/// One document's embedding.
pub struct Embed<'a> {
    store: &'a SharedStore,
    tenant: TenantId,
    parts: usize,
    /// Of the document itself; what is missing further down is told when it is run.
    problems: Problems,
}

impl<'a> Embed<'a> {
    /// The whole of a document: flow or agent. What a step names and is not there stays an id, and the step says so when it runs; a tool that
    /// is not there is a fault of the document, with its place.
    pub async fn whole(store: &'a SharedStore, tenant: TenantId, kind: TargetKind, document: Value) -> Result<Value> {
        let mut embed = Self { store, tenant, parts: 0, problems: Problems::default() };
        let whole = embed.document(kind, document, 0).await?;
        embed.problems.into_result()?;
        Ok(whole)
    }

    async fn document(&mut self, kind: TargetKind, mut document: Value, depth: usize) -> Result<Value> {
        if depth >= MAX_NESTING {
            return Ok(document);
        }
        if kind == TargetKind::Agent {
            let at = agent_document::place(&document);
            if let Some(settings) = document.pointer_mut(at) {
                prompt_tools::respell_tools(settings);
                self.tools(settings, at, depth).await?;
            }
            return Ok(document);
        }
        for (path, action) in document::configs(&document) {
            let Some(config) = document.pointer_mut(&path) else { continue };
            match action.as_str() {
                "prompt" => {
                    prompt_tools::respell_tools(config);
                    self.tools(config, &path, depth).await?;
                }
                "tool-call" => self.tool_of_step(config, &path, depth).await?,
                // Its steps are steps of the document, each met here by itself.
                "loop" => {}
                _ => {
                    if let Some(field) = document::child_field(&action) {
                        self.child(config, field, depth).await?;
                    }
                }
            }
        }
        Ok(document)
    }

    /// The document that a configuration runs, in the place of its id or beside it. Whether there is one.
    async fn child(&mut self, config: &mut Value, field: &'static str, depth: usize) -> Result<bool> {
        let kind = if field == "agent" { TargetKind::Agent } else { TargetKind::Flow };
        let saved = config.get(format!("{field}Id")).and_then(Value::as_str);
        let inner = match (config.get(field), saved) {
            (Some(inner), _) if inner.is_object() => inner.clone(),
            (_, Some(id)) => match self.saved(kind, id).await? {
                Some(inner) => inner,
                None => return Ok(false),
            },
            _ => return Ok(false),
        };
        self.count()?;
        let inner = Box::pin(self.document(kind, inner, depth + 1)).await?;
        if let Some(config) = config.as_object_mut() {
            config.insert(field.into(), inner);
        }
        Ok(true)
    }

    fn count(&mut self) -> Result<()> {
        self.parts += 1;
        if self.parts <= MOST_PARTS {
            return Ok(());
        }
        Err(Error::new(Kind::Invalid, "too_many_parts", format!("the flow runs more than {MOST_PARTS} saved flows, agents and tools"))
            .next("let fewer of them run one another"))
    }

    async fn saved(&self, kind: TargetKind, id: &str) -> Result<Option<Value>> {
        let id = match kind {
            TargetKind::Agent => id.parse().ok().map(AgentId::as_flow),
            TargetKind::Flow => id.parse::<FlowId>().ok(),
        };
        let Some(id) = id else { return Ok(None) };
        let Some(saved) = self.store.find_flow(self.tenant, kind, id).await? else { return Ok(None) };
        Ok(self.store.find_flow_version(self.tenant, saved.current).await?.map(|version| version.document))
    }

    /// The tools of a prompt or an agent: saved and built-in ones among those defined in place.
    async fn tools(&mut self, config: &mut Value, at: &str, depth: usize) -> Result<()> {
        let Some(tools) = config.get_mut("tools").and_then(Value::as_object_mut) else { return Ok(()) };
        let ids = match tools.get("toolIds") {
            // The compiler refuses them.
            Some(Value::Array(ids)) if ids.len() > MAX_TOOLS => return Ok(()),
            Some(Value::Array(ids)) if !ids.is_empty() => ids.clone(),
            _ => Vec::new(),
        };
        let (mut found, mut missing) = (Vec::with_capacity(ids.len()), Vec::new());
        for (index, id) in ids.into_iter().enumerate() {
            let tool = match id.as_str() {
                // Of a server that the document itself describes.
                Some(id) if id.starts_with("mcp:") => {
                    missing.push(id.into());
                    continue;
                }
                Some(id) => self.tool(id).await?,
                None => None,
            };
            match tool {
                Some(tool) => found.push(tool),
                None => {
                    self.missing(depth, format!("{at}/tools/toolIds/{index}"), &id);
                    missing.push(id);
                }
            }
        }
        // What is missing stays an id, which the compiler refuses: further down, too, no tool is left out in silence.
        if let Some(ids @ Value::Array(_)) = tools.get_mut("toolIds") {
            *ids = Value::Array(missing);
        }
        if !found.is_empty()
            && let Some(defined) = tools.entry("runtimeTools").or_insert_with(|| Value::Array(Vec::new())).as_array_mut()
        {
            defined.extend(found);
        }
        for (index, tool) in tools.get_mut("runtimeTools").and_then(Value::as_array_mut).into_iter().flatten().enumerate() {
            self.child_of_tool(tool, &format!("{at}/tools/runtimeTools/{index}"), depth).await?;
        }
        Ok(())
    }

    async fn tool_of_step(&mut self, config: &mut Value, at: &str, depth: usize) -> Result<()> {
        if let (None, Some(id)) = (config.get("tool").filter(|tool| !tool.is_null()), config.get("toolId").cloned()) {
            let tool = match id.as_str() {
                Some(id) => self.tool(id).await?,
                None => None,
            };
            match tool {
                Some(tool) => config["tool"] = tool,
                None => {
                    self.missing(depth, format!("{at}/toolId"), &id);
                    return Ok(());
                }
            }
        }
        match config.get_mut("tool") {
            Some(tool) => self.child_of_tool(tool, &format!("{at}/tool"), depth).await,
            None => Ok(()),
        }
    }

    async fn child_of_tool(&mut self, tool: &mut Value, at: &str, depth: usize) -> Result<()> {
        let Some(field) = tool.get("toolType").and_then(Value::as_str).and_then(document::child_field) else { return Ok(()) };
        let Some(config) = tool.get_mut("config").filter(|config| config.is_object()) else { return Ok(()) };
        if !self.child(config, field, depth).await? && depth == 0 {
            self.problems.add(format!("{at}/config/{field}Id"), format!("no such {field}; give its id, or `{field}` itself"));
        }
        Ok(())
    }

    fn missing(&mut self, depth: usize, at: String, id: &Value) {
        if depth == 0 {
            let id = id.as_str().unwrap_or_default();
            self.problems
                .add(at, format!("no tool `{id}`; `tool_…` and `tool:name` are saved ones, `builtin:name` those of GET /v1/tools/builtin"));
        }
    }

    /// A saved or built-in tool's definition.
    async fn tool(&mut self, id: &str) -> Result<Option<Value>> {
        if let Some(name) = id.strip_prefix("builtin:") {
            return Ok(builtin::find(name));
        }
        let all = Collection::<SavedTool>::of(&**self.store, self.tenant);
        let found = match id.strip_prefix("tool:") {
            Some(name) => all.find_at(name).await?,
            None => match id.parse::<ToolId>() {
                Ok(id) => all.find(id).await?,
                Err(_) => None,
            },
        };
        let Some(found) = found else { return Ok(None) };
        self.count()?;
        Ok(Some(Value::Object(found.body.definition)))
    }
}
