//! `/v1/tools`: saved tools, which prompts and agents name in `toolIds`, and the built-in ones.
//!
//! A saved tool is a definition like those in `runtimeTools`. Flows and agents that name it get its current definition: see [`super::embed`]. `call` calls one.

pub mod builtin;
mod call;

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::about;
use super::deletion::Deletion;
use super::document;
use super::embed::Embed;
use crate::clock::{Clock, Timestamp};
use crate::engine::Engine;
use crate::error::{Error, Kind, Problem, Result};
use crate::http::AppState;
use crate::http::extract::{Body, Id, IdempotencyKey, InPath, Params};
use crate::http::idempotency::{Call, Created, Receipts, fingerprint};
use crate::http::paging::{Page, Paging};
use crate::http::scope::{Scoped, ToolsRead, ToolsWrite};
use crate::id::{TenantId, ToolId};
use crate::model::TargetKind;
use crate::store::{Collection, Document, Kept, SharedStore, StoreResult};

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route(
            "/v1/tools",
            get_with(list, about("listTools", "Tools", "List saved tools, newest first"))
                .post_with(create, about("createTool", "Tools", "Save a tool")),
        )
        .api_route("/v1/tools/builtin", get_with(list_builtin, about("listBuiltinTools", "Tools", "List the built-in tools")))
        .api_route(
            "/v1/tools/builtin/compatible",
            get_with(list_builtin, about("listCompatibleTools", "Tools", "List the built-in tools that a model can use: all of them")),
        )
        .api_route(
            "/v1/tools/builtin/{builtinId}/schema",
            get_with(read_builtin, about("getBuiltinToolSchema", "Tools", "Read the parameters of a built-in tool")),
        )
        .api_route("/v1/tools/schema", get_with(schemas, about("listToolSchemas", "Tools", "List the parameters of all saved tools")))
        .api_route("/v1/tools/schemas", get_with(schemas, about("listSchemasOfTools", "Tools", "List the parameters of all saved tools")))
        .api_route(
            "/v1/tools/validate",
            post_with(validate, about("validateTool", "Tools", "Say what is wrong with a tool, without saving it")),
        )
        .api_route(
            "/v1/tools/{toolId}",
            get_with(read, about("getTool", "Tools", "Read a saved tool"))
                .put_with(update, about("updateTool", "Tools", "Change a saved tool"))
                .delete_with(delete, about("deleteTool", "Tools", "Delete a saved tool")),
        )
        .api_route(
            "/v1/tools/{toolId}/execute",
            post_with(call::execute, |op| {
                call::answered(about("executeTool", "Tools", "Call a saved tool, as an execution of its own")(op))
            }),
        )
}

/// A saved tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedTool {
    /// As in `runtimeTools`.
    pub definition: Map<String, Value>,
}

impl Document for SavedTool {
    const KIND: &'static str = "tool";
    const TAKEN: &'static str = "a tool with this name";
    type Id = ToolId;

    fn place(&self) -> Option<String> {
        self.definition.get("name").and_then(Value::as_str).map(str::to_owned)
    }
}

/// A tool as it was sent. The compiler judges it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
struct Input(#[schemars(with = "crate::tool::Definition")] Map<String, Value>);

/// Fields of a tool, whichever they are: what changes about a saved one, or one that may be wrong.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
struct Fields(Map<String, Value>);

/// A saved tool.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Tool")]
struct Row {
    id: ToolId,
    /// The tenant, which owns it.
    user_id: TenantId,
    /// Always true: a tool that shall not be used is deleted.
    is_active: bool,
    #[serde(flatten)]
    #[schemars(with = "crate::tool::Definition")]
    definition: Map<String, Value>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

/// A built-in tool.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "BuiltinTool")]
struct Builtin {
    /// What `toolIds` names it by.
    id: String,
    name: String,
    description: String,
    /// `time`, `web`, `records` or `state`.
    category: &'static str,
    /// Who does its work: always `dispatch`, this server.
    providers: [&'static str; 1],
    parameters_schema: Value,
    /// Always empty: it needs no settings.
    default_config: Map<String, Value>,
}

/// The built-in tools.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "BuiltinToolList")]
struct Builtins {
    data: Vec<Builtin>,
    total: usize,
}

/// The name of a built-in tool in a path, as `builtin:fetch_url` or `fetch_url`.
#[derive(Debug, Clone, JsonSchema)]
#[serde(transparent)]
struct BuiltinName(String);

impl std::str::FromStr for BuiltinName {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        Ok(Self(text.strip_prefix("builtin:").unwrap_or(text).to_owned()))
    }
}

impl InPath for BuiltinName {
    const PARAM: &'static str = "builtinId";
    const NOUN: &'static str = "built-in tool";
}

/// The parameters of saved tools.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ToolSchemaList")]
struct Schemas {
    tools: Vec<Schema>,
}

/// A saved tool's parameters.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ToolSchema")]
struct Schema {
    id: ToolId,
    name: String,
    description: Option<String>,
    tool_type: String,
    parameters_schema: Option<Value>,
}

/// What is wrong with a tool.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ToolVerdict")]
struct Verdict {
    valid: bool,
    issues: Vec<Problem>,
}

impl Row {
    fn new(tenant: TenantId, kept: Kept<SavedTool>) -> Self {
        let Kept { id, created_at, updated_at, body, .. } = kept;
        Self { id, user_id: tenant, is_active: true, definition: body.definition, created_at, updated_at }
    }
}

impl Builtin {
    fn new(tool: &Value) -> Self {
        let text = |name: &str| tool[name].as_str().unwrap_or_default().to_owned();
        Self {
            id: format!("builtin:{}", text("name")),
            category: builtin::category(&text("name")),
            name: text("name"),
            description: text("description"),
            providers: ["dispatch"],
            parameters_schema: tool["parametersSchema"].clone(),
            default_config: Map::new(),
        }
    }
}

/// What the row says itself.
const OF_THE_ROW: [&str; 5] = ["id", "userId", "isActive", "createdAt", "updatedAt"];
/// Saved tools that are read at once.
const PAGE: u32 = 200;
/// Where a tool stands in [`flow_of`].
const STEP: &str = "/steps/0/config/tool";
const PARAMETERS: &str = "{{parameters}}";

fn all(store: &SharedStore, tenant: TenantId) -> Collection<'_, SavedTool> {
    Collection::of(&**store, tenant)
}

/// Every saved tool, newest first.
pub async fn every(store: &SharedStore, tenant: TenantId) -> StoreResult<Vec<Kept<SavedTool>>> {
    let (mut found, mut before) = (Vec::new(), None);
    loop {
        let page = all(store, tenant).list(None, before, PAGE).await?;
        let is_last = page.len() < PAGE as usize;
        before = page.last().map(|tool| tool.id);
        found.extend(page);
        if is_last {
            return Ok(found);
        }
    }
}

/// A flow of one call of this tool.
fn flow_of(name: &str, definition: &Map<String, Value>, parameters: &str) -> Value {
    let config = json!({ "tool": definition, "parameters": parameters, "errorHandling": { "onError": "fail" } });
    json!({ "name": name, "steps": [{ "id": "call", "name": name, "type": "tool-call", "config": config }] })
}

/// A definition that compiles. It is judged as the one tool of a flow, which is what it may run in.
async fn checked(store: &SharedStore, tenant: TenantId, engine: &Engine, mut definition: Map<String, Value>) -> Result<Map<String, Value>> {
    if definition.get("isActive").is_some_and(|active| *active != true) {
        return Err(Error::invalid_at("/isActive", "expected true: a tool that shall not be used is deleted"));
    }
    OF_THE_ROW.iter().for_each(|name| drop(definition.shift_remove(*name)));
    let flow = flow_of("tool", &definition, PARAMETERS);
    let compiled = match Embed::whole(store, tenant, TargetKind::Flow, flow).await {
        Ok(whole) => document::compile(&whole),
        Err(error) => Err(error),
    };
    let flow = compiled.map_err(placed)?;
    engine.accept(tenant, || Ok(flow.clone())).await.map_err(placed)?;
    Ok(definition)
}

/// Faults at their place in the definition.
fn placed(error: Error) -> Error {
    if error.problems().is_empty() {
        return error;
    }
    let moved = error.problems().iter().map(|problem| Problem {
        pointer: problem.pointer.strip_prefix(STEP).unwrap_or(&problem.pointer).to_owned(),
        message: problem.message.clone(),
    });
    crate::error::Problems(moved.collect()).into()
}

async fn list(caller: Scoped<ToolsRead>, State(store): State<SharedStore>, Params(paging): Params<Paging>) -> Result<Json<Page<Row>>> {
    let (trail, limit) = (paging.trail::<ToolId>()?, paging.limit());
    let tools = all(&store, caller.tenant).list(None, trail.after(), limit + 1).await?;
    let page = trail.page(tools, limit, false, |tool| tool.id);
    let data = page.data.into_iter().map(|tool| Row::new(caller.tenant, tool)).collect();
    Ok(Json(Page { data, pagination: page.pagination }))
}

async fn list_builtin(_: Scoped<ToolsRead>) -> Json<Builtins> {
    let data: Vec<Builtin> = builtin::all().iter().map(Builtin::new).collect();
    Json(Builtins { total: data.len(), data })
}

async fn read_builtin(_: Scoped<ToolsRead>, Id(BuiltinName(name)): Id<BuiltinName>) -> Result<Json<Builtin>> {
    builtin::find(&name).map(|tool| Json(Builtin::new(&tool))).ok_or_else(BuiltinName::missing)
}

async fn schemas(caller: Scoped<ToolsRead>, State(store): State<SharedStore>) -> Result<Json<Schemas>> {
    let schema = |tool: Kept<SavedTool>| {
        let text = |name: &str| tool.body.definition.get(name).and_then(Value::as_str).map(str::to_owned);
        Schema {
            id: tool.id,
            name: text("name").unwrap_or_default(),
            description: text("description"),
            tool_type: text("toolType").unwrap_or_default(),
            parameters_schema: tool.body.definition.get("parametersSchema").cloned(),
        }
    };
    Ok(Json(Schemas { tools: every(&store, caller.tenant).await?.into_iter().map(schema).collect() }))
}

async fn validate(
    caller: Scoped<ToolsRead>,
    State(store): State<SharedStore>,
    State(engine): State<Engine>,
    body: Body<Fields>,
) -> Result<Json<Verdict>> {
    match checked(&store, caller.tenant, &engine, body.value.0).await {
        Ok(_) => Ok(Json(Verdict { valid: true, issues: Vec::new() })),
        Err(error) if error.problems().is_empty() => Err(error),
        Err(error) => Ok(Json(Verdict { valid: false, issues: error.problems().to_vec() })),
    }
}

async fn create(
    caller: Scoped<ToolsWrite>,
    State(store): State<SharedStore>,
    State(engine): State<Engine>,
    State(clock): State<Clock>,
    State(receipts): State<Receipts>,
    key: IdempotencyKey,
    body: Body<Input>,
) -> Result<Created<Row>> {
    let tenant = caller.tenant;
    let call = Call { tenant, route: "POST /v1/tools", key, request: fingerprint(&body.raw), secret: false };
    let definition = body.value.0;
    receipts
        .once(call, move |seed| async move {
            let definition = checked(&store, tenant, &engine, definition).await?;
            let id = ToolId::from_u128(seed);
            Ok(Row::new(tenant, all(&store, tenant).create_once(id, SavedTool { definition }, clock.now()).await?))
        })
        .await
}

async fn find(store: &SharedStore, tenant: TenantId, id: ToolId) -> Result<Kept<SavedTool>> {
    all(store, tenant).find(id).await?.ok_or_else(ToolId::missing)
}

async fn read(caller: Scoped<ToolsRead>, State(store): State<SharedStore>, Id(id): Id<ToolId>) -> Result<Json<Row>> {
    find(&store, caller.tenant, id).await.map(|tool| Json(Row::new(caller.tenant, tool)))
}

async fn update(
    caller: Scoped<ToolsWrite>,
    State(store): State<SharedStore>,
    State(engine): State<Engine>,
    State(clock): State<Clock>,
    Id(id): Id<ToolId>,
    body: Body<Fields>,
) -> Result<Json<Row>> {
    let old = find(&store, caller.tenant, id).await?;
    let mut definition = old.body.definition.clone();
    definition.extend(body.value.0);
    let definition = checked(&store, caller.tenant, &engine, definition).await?;
    let changed = all(&store, caller.tenant).change(&old, SavedTool { definition }, clock.now()).await?;
    let changed = changed.ok_or_else(|| {
        Error::new(Kind::Conflict, "tool_changed", "somebody else changed this tool at the same time")
            .next("read it again, then repeat the change")
    })?;
    Ok(Json(Row::new(caller.tenant, changed)))
}

async fn delete(caller: Scoped<ToolsWrite>, State(store): State<SharedStore>, Id(id): Id<ToolId>) -> Result<Json<Deletion<ToolId>>> {
    if !all(&store, caller.tenant).delete(id).await? {
        return Err(ToolId::missing());
    }
    Ok(Json(Deletion::of(id)))
}
