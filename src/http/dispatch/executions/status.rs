//! `/v1/executions/{executionId}/status`: what clients poll that did not wait for an execution.

use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::find;
use crate::clock::Timestamp;
use crate::error::Result;
use crate::http::dispatch::execute::target_id;
use crate::http::extract::Id;
use crate::http::scope::{FlowsRead, Scoped};
use crate::id::RunId;
use crate::model::{RunState, TargetKind};
use crate::store::SharedStore;

/// How far an execution is, and what came of it.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ExecutionProgress")]
pub(super) struct StatusRow {
    execution_id: RunId,
    status: RunState,
    target_kind: TargetKind,
    /// The saved flow or agent, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    target_id: Option<String>,
    created_at: Timestamp,
    finished_at: Option<Timestamp>,
    /// The output, once it has completed.
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Value>,
    /// Why it failed, or why its first failed step did.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub(super) async fn status(caller: Scoped<FlowsRead>, State(store): State<SharedStore>, Id(id): Id<RunId>) -> Result<Json<StatusRow>> {
    let run = find(&store, &caller, id).await?;
    Ok(Json(StatusRow {
        execution_id: run.id,
        status: run.state,
        target_kind: run.target.kind(),
        target_id: target_id(run.target),
        created_at: run.created_at,
        finished_at: run.finished_at,
        result: run.output,
        error: run.failure.map(|failure| failure.message),
    }))
}
