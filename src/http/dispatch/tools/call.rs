//! `POST /v1/tools/{toolId}/execute`: a saved tool, called without a model.

use aide::transform::TransformOperation;
use axum::Json;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{PARAMETERS, find, flow_of};
use crate::error::{Error, Result};
use crate::http::AppState;
use crate::http::dispatch::execute::{Desk, DispatchRequest, Posted, or_events};
use crate::http::extract::{Body, Id, IdempotencyKey};
use crate::http::idempotency::fingerprint;
use crate::http::scope::{FlowsExecute, Scoped};
use crate::id::{RunId, TenantId, ToolId};
use crate::store::Document;

/// The parameters of a call.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(rename = "ToolCallRequest")]
pub(super) struct CallRequest {
    parameters: Map<String, Value>,
    /// Whether the events are streamed; absent, they are those of a tool of the type `flow`.
    stream_response: Option<bool>,
}

/// What a call came to. It also has the members of a dispatch's result, but for those that are called otherwise.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ToolCallResult")]
#[expect(dead_code, reason = "describes the answer, which is put together from an execution's")]
struct CallResult {
    execution_id: RunId,
    /// `success`, `failed`, `waiting_for_local`, or `pending` while it waits for something else.
    status: String,
    /// Milliseconds.
    execution_time_ms: u64,
    result: Value,
    /// Why it failed.
    error: Option<String>,
    /// The execution's status: `completed`, `failed`, `cancelled` or `paused`.
    execution_status: String,
    /// The execution's error.
    failure: Option<Value>,
}

/// Documents the two forms of the answer.
pub(super) fn answered(operation: TransformOperation<'_>) -> TransformOperation<'_> {
    or_events(operation.response::<200, Json<CallResult>>(), "The call's result")
}

pub(super) async fn execute(
    caller: Scoped<FlowsExecute>,
    State(desk): State<Desk>,
    State(state): State<AppState>,
    Id(id): Id<ToolId>,
    key: IdempotencyKey,
    headers: HeaderMap,
    body: Body<CallRequest>,
) -> Result<Response> {
    let tool = find(&state.store, caller.tenant, id).await?;
    let name = tool.body.place().unwrap_or_default();
    // What a caller sends is no template: it comes as a variable.
    let flow = flow_of(&name, &tool.body.definition, PARAMETERS);
    let inputs: Map<String, Value> = [("parameters".to_owned(), Value::Object(body.value.parameters))].into_iter().collect();
    let is_flow = tool.body.definition.get("toolType").is_some_and(|kind| kind == "flow");
    let wants_events = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).is_some_and(|value| value.contains("text/event-stream"));
    let stream = body.value.stream_response.or((!is_flow && !wants_events).then_some(false));
    let request =
        DispatchRequest { flow: Some(flow), inputs: Some(inputs).into(), stream_response: stream.into(), ..DispatchRequest::default() };
    let route = format!("POST /v1/tools/{id}/execute");
    let posted = Posted { route, key, headers: &headers, hash: fingerprint(&body.raw), request, session: None };
    let response = desk.start(&caller, posted).await?;
    as_call(&state, caller.tenant, response).await
}

/// An execution's answer in the words of a tool call. Streams and handles stay as they are.
async fn as_call(state: &AppState, tenant: TenantId, response: Response) -> Result<Response> {
    let is_json = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if !is_json || response.status() != StatusCode::OK {
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, usize::MAX).await.map_err(Error::internal)?;
    let mut answer: Map<String, Value> = serde_json::from_slice(&bytes).map_err(Error::internal)?;
    let run = answer.get("executionId").and_then(Value::as_str).and_then(|id| id.parse::<RunId>().ok());
    let run = match run {
        Some(id) => state.store.find_run(tenant, id).await?,
        None => None,
    };
    let took = run.map(|run| run.finished_at.unwrap_or_else(|| state.clock.now()).since(run.created_at)).unwrap_or_default();
    let status = match answer.get("status").and_then(Value::as_str) {
        Some("paused") => {
            let waits_for = answer.get("pausedReason").and_then(|reason| reason.get("waitType")).and_then(Value::as_str);
            if waits_for == Some("local_tool") { "waiting_for_local" } else { "pending" }
        }
        _ if answer.get("success") == Some(&Value::Bool(true)) => "success",
        _ => "failed",
    };
    let before = answer.insert("status".into(), status.into());
    answer.insert("executionStatus".into(), before.unwrap_or_default());
    answer.insert("executionTimeMs".into(), json!(u64::try_from(took.as_millis()).unwrap_or(u64::MAX)));
    if let Some(failure) = answer.shift_remove("error") {
        answer.insert("error".into(), failure.get("message").cloned().unwrap_or_else(|| failure.to_string().into()));
        answer.insert("failure".into(), failure);
    }
    Ok(Response::from_parts(parts, axum::body::Body::from(Value::Object(answer).to_string())))
}
