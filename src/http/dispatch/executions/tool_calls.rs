//! The tool calls of an execution, from its log.

use std::convert::Infallible;
use std::str::FromStr;
use std::time::Duration;

use aide::axum::ApiRouter;
use aide::axum::routing::get_with;
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::{find, find_of_agent};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::http::AppState;
use crate::http::dispatch::about;
use crate::http::extract::{Id, Ids, InPath};
use crate::http::scope::{AgentsRead, FlowsRead, Scoped};
use crate::id::{AgentId, RunId, TenantId};
use crate::model::event::Event;
use crate::store::SharedStore;

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route(
            "/v1/executions/{executionId}/tool-calls",
            get_with(list, about("listExecutionToolCalls", "Executions", "List the tool calls of an execution, oldest first")),
        )
        .api_route(
            "/v1/executions/{executionId}/tool-calls/{toolCallId}",
            get_with(read, about("getExecutionToolCall", "Executions", "Read a tool call of an execution")),
        )
        .api_route(
            "/v1/agents/{agentId}/executions/{executionId}/tool-calls",
            get_with(list_of_agent, about("listAgentToolCalls", "Agents", "List the tool calls of an agent's execution, oldest first")),
        )
        .api_route(
            "/v1/agents/{agentId}/executions/{executionId}/tool-calls/{toolCallId}",
            get_with(read_of_agent, about("getAgentToolCall", "Agents", "Read a tool call of an agent's execution")),
        )
}

/// A tool call's id, as models and providers make them.
#[derive(Debug, Clone, JsonSchema)]
#[serde(transparent)]
struct CallId(String);

impl FromStr for CallId {
    type Err = Infallible;

    fn from_str(text: &str) -> std::result::Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl InPath for CallId {
    const PARAM: &'static str = "toolCallId";
    const NOUN: &'static str = "tool call";
}

/// Where a tool call stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "ExecutionToolCallStatus")]
enum Status {
    Running,
    /// For its output, or for somebody's approval.
    Waiting,
    Completed,
    Failed,
}

/// A tool call of an execution.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ExecutionToolCall")]
pub(in crate::http::dispatch) struct Row {
    id: String,
    /// Same as `id`.
    tool_call_id: String,
    tool_name: String,
    status: Status,
    /// The step that made it.
    pub step_id: String,
    /// The turn in which it was made, from 1; absent until it has begun.
    iteration: Option<u32>,
    input_parameters: Value,
    /// Always false: logs have them whole.
    input_truncated: bool,
    output_result: Option<Value>,
    /// Always false: logs have them whole.
    output_truncated: bool,
    error_message: Option<String>,
    execution_time_ms: Option<u64>,
    created_at: Timestamp,
    started_at: Timestamp,
    completed_at: Option<Timestamp>,
}

/// The tool calls of an execution.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ExecutionToolCallList")]
struct Rows {
    tool_calls: Vec<Row>,
}

impl Row {
    fn new(id: String, tool_name: String, step_id: String, input_parameters: Value, at: Timestamp) -> Self {
        Self {
            tool_call_id: id.clone(),
            id,
            tool_name,
            status: Status::Running,
            step_id,
            iteration: None,
            input_parameters,
            input_truncated: false,
            output_result: None,
            output_truncated: false,
            error_message: None,
            execution_time_ms: None,
            created_at: at,
            started_at: at,
            completed_at: None,
        }
    }
}

/// Puts a call into the list, in the place of an earlier attempt of it.
fn put(rows: &mut Vec<Row>, row: Row) {
    match rows.iter_mut().find(|known| known.id == row.id) {
        Some(known) => *known = Row { created_at: known.created_at, ..row },
        None => rows.push(row),
    }
}

/// Notes that a call waits.
fn wait(rows: &mut Vec<Row>, row: Row) {
    match rows.iter_mut().find(|known| known.id == row.id) {
        Some(known) => known.status = Status::Waiting,
        None => rows.push(Row { status: Status::Waiting, ..row }),
    }
}

/// Folds one event into the calls.
fn note(rows: &mut Vec<Row>, event: Event) {
    match event {
        Event::ToolStart { tool_call_id, tool_name, parameters, step_id, iteration, started_at, .. } => {
            let row = Row::new(tool_call_id, tool_name, step_id, parameters, started_at);
            put(rows, Row { iteration: Some(iteration), ..row });
        }
        Event::Await { tool_call_id, tool_name, parameters, step_id, awaited_at, .. } => {
            wait(rows, Row::new(tool_call_id, tool_name, step_id, parameters, awaited_at));
        }
        Event::ApprovalStart { tool_call_id, tool_name, parameters, step_id, started_at, .. } => {
            wait(rows, Row::new(tool_call_id, tool_name, step_id, parameters, started_at));
        }
        Event::ToolComplete { tool_call_id, success, result, error, execution_time, iteration, .. } => {
            let Some(row) = rows.iter_mut().find(|row| row.id == tool_call_id) else { return };
            row.status = if success { Status::Completed } else { Status::Failed };
            (row.output_result, row.error_message) = (result, error);
            row.execution_time_ms = Some(execution_time);
            row.completed_at = Some(row.started_at.after(Duration::from_millis(execution_time)));
            row.iteration = Some(iteration);
        }
        _ => {}
    }
}

/// Returns the tool calls of an execution, oldest first.
pub(in crate::http::dispatch) async fn tool_calls_of(store: &SharedStore, tenant: TenantId, id: RunId) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let log = store.read_log(tenant, id, None, u32::MAX).await?;
    for event in log.iter().flat_map(|segment| &segment.events).filter_map(|record| record.event()) {
        note(&mut rows, event);
    }
    Ok(rows)
}

async fn one(store: &SharedStore, tenant: TenantId, id: RunId, CallId(call): CallId) -> Result<Json<Row>> {
    let found = tool_calls_of(store, tenant, id).await?.into_iter().find(|row| row.id == call);
    found.map(Json).ok_or_else(CallId::missing)
}

async fn list(caller: Scoped<FlowsRead>, State(store): State<SharedStore>, Id(id): Id<RunId>) -> Result<Json<Rows>> {
    find(&store, &caller, id).await?;
    Ok(Json(Rows { tool_calls: tool_calls_of(&store, caller.tenant, id).await? }))
}

async fn read(caller: Scoped<FlowsRead>, State(store): State<SharedStore>, Ids(id, call): Ids<RunId, CallId>) -> Result<Json<Row>> {
    find(&store, &caller, id).await?;
    one(&store, caller.tenant, id, call).await
}

async fn list_of_agent(
    caller: Scoped<AgentsRead>,
    State(store): State<SharedStore>,
    Ids(agent, id): Ids<AgentId, RunId>,
) -> Result<Json<Rows>> {
    find_of_agent(&store, &caller, agent, id).await?;
    Ok(Json(Rows { tool_calls: tool_calls_of(&store, caller.tenant, id).await? }))
}

async fn read_of_agent(
    caller: Scoped<AgentsRead>,
    State(store): State<SharedStore>,
    Ids(agent, id): Ids<AgentId, RunId>,
    Id(call): Id<CallId>,
) -> Result<Json<Row>> {
    find_of_agent(&store, &caller, agent, id).await?;
    one(&store, caller.tenant, id, call).await
}
