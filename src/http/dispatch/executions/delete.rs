//! Deletes executions that have ended.

use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::filter::Filter;
use crate::clock::Timestamp;
use crate::error::{Error, Kind, Problems, Result};
use crate::http::extract::{Body, Id, InPath};
use crate::http::paging::Pagination;
use crate::http::scope::{FlowsWrite, Scoped};
use crate::id::RunId;
use crate::model::RunState;
use crate::store::{RunDeletion, RunFilter, SharedStore};

/// Executions that one transaction deletes.
const BATCH: usize = 20;
const ENDED: [RunState; 3] = [RunState::Completed, RunState::Failed, RunState::Cancelled];

/// A deleted execution.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "DeletedExecution")]
pub(super) struct DeletionResult {
    id: RunId,
    deleted: bool,
    /// Number of deleted executions: this one and those that it began.
    executions: u64,
}

/// Filters of the executions to delete; at least one. Only executions that have ended are deleted.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[schemars(rename = "BulkDeleteExecutions")]
pub(super) struct BulkDeleteRequest {
    /// `completed`, `failed` or `cancelled`.
    status: Option<RunState>,
    /// `true`: only successful executions. `false`: only executions that ended otherwise, including completed ones with failed steps.
    success: Option<bool>,
    flow_id: Option<String>,
    agent_id: Option<String>,
    record_id: Option<String>,
    /// The API key that started them.
    key_id: Option<String>,
    /// Name of the flow or agent.
    name: Option<String>,
    /// Only executions created at or after this time.
    since: Option<Timestamp>,
    /// Only executions created before this time.
    until: Option<Timestamp>,
    /// Executions per call, 1 to 200; 50 by default.
    limit: Option<u32>,
    /// The `nextCursor` of the previous call with these filters.
    cursor: Option<String>,
}

/// The result of deleting many executions.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "BulkDeletedExecutions")]
pub(super) struct BulkDeleteResult {
    /// Number of deleted executions, including those that deleted ones began.
    deleted: u64,
    /// Executions that were kept: one that they began, or the one that began them, has not ended, or a webhook notification is pending.
    kept: Vec<RunId>,
    /// Pass `nextCursor` as `cursor` to go on.
    pagination: Pagination,
}

impl BulkDeleteRequest {
    fn read(self) -> Result<(RunFilter, crate::http::paging::Paging)> {
        let mut problems = Problems::default();
        let texts = [&self.flow_id, &self.agent_id, &self.record_id, &self.key_id, &self.name];
        let has_filter = texts.iter().any(|text| text.is_some())
            || self.status.is_some()
            || self.success.is_some()
            || self.since.is_some()
            || self.until.is_some();
        if !has_filter {
            problems.add("", "expected at least one filter, for example `until`");
        }
        if self.status.is_some_and(|status| !status.is_terminal()) {
            problems.add("/status", "expected `completed`, `failed` or `cancelled`: other executions have not ended");
        }
        problems.into_result()?;
        let filter = Filter {
            status: self.status,
            success: self.success,
            flow_id: self.flow_id,
            agent_id: self.agent_id,
            record_id: self.record_id,
            key_id: self.key_id,
            name: self.name,
            since: self.since,
            until: self.until,
            limit: self.limit,
            cursor: self.cursor,
        };
        let (filter, paging) = filter.read()?;
        let states = if filter.states.is_empty() { ENDED.to_vec() } else { filter.states.clone() };
        Ok((RunFilter { states, ..filter }, paging))
    }
}

pub(super) async fn delete(
    caller: Scoped<FlowsWrite>,
    State(store): State<SharedStore>,
    Id(id): Id<RunId>,
) -> Result<Json<DeletionResult>> {
    match store.delete_runs(caller.tenant, &[id]).await?.pop() {
        Some(RunDeletion::Deleted(executions)) => Ok(Json(DeletionResult { id, deleted: true, executions })),
        Some(RunDeletion::Active(run)) if run == id => {
            Err(Error::new(Kind::Conflict, "execution_active", "the execution has not ended, so it cannot be deleted")
                .next(format!("cancel it with POST /v1/executions/{id}/cancel, then delete it")))
        }
        Some(RunDeletion::Active(run)) => {
            let message = format!("the execution {run}, which began this one or was begun by it, has not ended");
            Err(Error::new(Kind::Conflict, "execution_active", message)
                .next(format!("cancel it with POST /v1/executions/{run}/cancel, or wait for its end")))
        }
        Some(RunDeletion::Unannounced(run)) => {
            let message = format!("webhooks have not been notified of the execution {run} yet");
            Err(Error::new(Kind::Conflict, "execution_unannounced", message)
                .retry_after(std::time::Duration::from_secs(1))
                .next("delete it again after a second"))
        }
        Some(RunDeletion::Missing) | None => Err(RunId::missing()),
    }
}

pub(super) async fn delete_many(
    caller: Scoped<FlowsWrite>,
    State(store): State<SharedStore>,
    body: Body<BulkDeleteRequest>,
) -> Result<Json<BulkDeleteResult>> {
    let (filter, paging) = body.value.read()?;
    let (trail, limit) = (paging.trail::<RunId>()?, paging.limit());
    let runs = store.list_runs(caller.tenant, RunFilter { before: trail.after(), limit: limit + 1, ..filter }).await?;
    let page = trail.page(runs, limit, false, |run| run.id);
    let ids: Vec<RunId> = page.data.iter().map(|run| run.id).collect();
    let (mut deleted, mut kept) = (0, Vec::new());
    for batch in ids.chunks(BATCH) {
        for (run, deletion) in batch.iter().zip(store.delete_runs(caller.tenant, batch).await?) {
            match deletion {
                RunDeletion::Deleted(executions) => deleted += executions,
                RunDeletion::Active(_) | RunDeletion::Unannounced(_) => kept.push(*run),
                // Deleted together with the one that began it, or by another call.
                RunDeletion::Missing => {}
            }
        }
    }
    Ok(Json(BulkDeleteResult { deleted, kept, pagination: page.pagination }))
}
