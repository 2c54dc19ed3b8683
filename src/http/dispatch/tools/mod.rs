//! `/v1/tools`: saved tools, which prompts and agents name in `toolIds`, and the built-in ones.
//!
//! A saved tool is a definition like those in `runtimeTools`. Whatever names it gets it as it is then: see [`super::embed`].

pub mod builtin;

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::about;
use super::document;
use super::embed::Embed;
use super::execute::{Desk, DispatchRequest, Posted, streamed};
use crate::clock::{Clock, Timestamp};
use crate::engine::Engine;
use crate::error::{Error, Kind, Problem, Result};
use crate::http::AppState;
use crate::http::extract::{Body, Id, IdempotencyKey, InPath, Params};
use crate::http::idempotency::{Call, Created, Receipts, fingerprint};
use crate::http::paging::{Page, Paging};
use crate::http::scope::{FlowsExecute, Scoped, ToolsRead, ToolsWrite};
use crate::id::{TenantId, ToolId};
use crate::model::TargetKind;
use crate::store::{Collection, Document, Kept, SharedStore};

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route(
            "/v1/tools",
            get_with(list, about("listTools", "Tools", "List saved tools, newest first"))
                .post_with(create, about("createTool", "Tools", "Save a tool")),
        )
        .api_route("/v1/tools/builtin", get_with(list_builtin, about("listBuiltinTools", "Tools", "List the built-in tools")))
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
            post_with(execute, |op| streamed(about("executeTool", "Tools", "Call a saved tool, as an execution of its own")(op))),
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
    parameters_schema: Value,
}

/// The built-in tools.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "BuiltinToolList")]
struct Builtins {
    data: Vec<Builtin>,
}

/// What is wrong with a tool.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ToolVerdict")]
struct Verdict {
    valid: bool,
    issues: Vec<Problem>,
}

/// The parameters of a call.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(rename = "ToolCallRequest")]
struct CallRequest {
    parameters: Map<String, Value>,
    stream_response: Option<bool>,
}

/// What was deleted.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "DeletedTool")]
struct Deleted {
    id: ToolId,
    /// Always true.
    deleted: bool,
}

impl From<Kept<SavedTool>> for Row {
    fn from(kept: Kept<SavedTool>) -> Self {
        Self { id: kept.id, definition: kept.body.definition, created_at: kept.created_at, updated_at: kept.updated_at }
    }
}

/// What the row says itself.
const OF_THE_ROW: [&str; 3] = ["id", "createdAt", "updatedAt"];
/// Where a tool stands in [`flow_of`].
const STEP: &str = "/steps/0/config/tool";
const PARAMETERS: &str = "{{parameters}}";

fn all(store: &SharedStore, tenant: TenantId) -> Collection<'_, SavedTool> {
    Collection::of(&**store, tenant)
}

/// A flow of one call of this tool.
fn flow_of(name: &str, definition: &Map<String, Value>, parameters: &str) -> Value {
    let config = json!({ "tool": definition, "parameters": parameters, "errorHandling": { "onError": "fail" } });
    json!({ "name": name, "steps": [{ "id": "call", "name": name, "type": "tool-call", "config": config }] })
}

/// A definition that compiles. It is judged as the one tool of a flow, which is what it may run in.
async fn checked(store: &SharedStore, tenant: TenantId, engine: &Engine, mut definition: Map<String, Value>) -> Result<Map<String, Value>> {
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
    Ok(Json(Page { data: page.data.into_iter().map(Row::from).collect(), pagination: page.pagination }))
}

async fn list_builtin(_: Scoped<ToolsRead>) -> Json<Builtins> {
    let text = |tool: &Value, name: &str| tool[name].as_str().unwrap_or_default().to_owned();
    let row = |tool: Value| Builtin {
        id: format!("builtin:{}", text(&tool, "name")),
        name: text(&tool, "name"),
        description: text(&tool, "description"),
        parameters_schema: tool["parametersSchema"].clone(),
    };
    Json(Builtins { data: builtin::all().into_iter().map(row).collect() })
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
            Ok(Row::from(all(&store, tenant).create_once(id, SavedTool { definition }, clock.now()).await?))
        })
        .await
}

async fn find(store: &SharedStore, tenant: TenantId, id: ToolId) -> Result<Kept<SavedTool>> {
    all(store, tenant).find(id).await?.ok_or_else(ToolId::missing)
}

async fn read(caller: Scoped<ToolsRead>, State(store): State<SharedStore>, Id(id): Id<ToolId>) -> Result<Json<Row>> {
    find(&store, caller.tenant, id).await.map(|tool| Json(tool.into()))
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
    Ok(Json(changed.into()))
}

async fn delete(caller: Scoped<ToolsWrite>, State(store): State<SharedStore>, Id(id): Id<ToolId>) -> Result<Json<Deleted>> {
    if !all(&store, caller.tenant).delete(id).await? {
        return Err(ToolId::missing());
    }
    Ok(Json(Deleted { id, deleted: true }))
}

async fn execute(
    caller: Scoped<FlowsExecute>,
    State(desk): State<Desk>,
    State(store): State<SharedStore>,
    Id(id): Id<ToolId>,
    key: IdempotencyKey,
    headers: HeaderMap,
    body: Body<CallRequest>,
) -> Result<Response> {
    let tool = find(&store, caller.tenant, id).await?;
    let name = tool.body.place().unwrap_or_default();
    // What a caller sends is no template: it comes as a variable.
    let flow = flow_of(&name, &tool.body.definition, PARAMETERS);
    let inputs: Map<String, Value> = [("parameters".to_owned(), Value::Object(body.value.parameters))].into_iter().collect();
    let request = DispatchRequest {
        flow: Some(flow),
        inputs: Some(inputs).into(),
        stream_response: body.value.stream_response.into(),
        ..DispatchRequest::default()
    };
    let route = format!("POST /v1/tools/{id}/execute");
    let posted = Posted { route, key, headers: &headers, hash: fingerprint(&body.raw), request, session: None };
    desk.start(&caller, posted).await
}
