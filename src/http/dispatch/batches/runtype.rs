//! `/v1/batch`: batches in the words of Runtype's API, which calls a batch a batch execution.

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::records::{ItemRow, all};
use super::submit::{BatchOptions, RecordSelection, begin, resolved};
use super::{Batch, Item, MOST, Status, cancel};
use crate::clock::Timestamp;
use crate::error::{Error, Kind, Problems, Result};
use crate::http::AppState;
use crate::http::dispatch::about;
use crate::http::extract::{Body, Id, IdempotencyKey, InPath};
use crate::http::idempotency::{Call, Created, Receipts, fingerprint};
use crate::http::scope::{FlowsExecute, FlowsRead, Scoped};
use crate::id::{BatchId, FlowId, RecordId};
use crate::model::TargetKind;
use crate::store::{Kept, SharedStore};

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route("/v1/batch/flow", post_with(submit, about("submitBatch", "Batches", "Run a flow for chosen records")))
        .api_route("/v1/batch/status/{batchId}", get_with(status, about("getBatchStatus", "Batches", "Read how far a batch is")))
        .api_route("/v1/batch/cancel/{batchId}", post_with(stop, about("stopBatch", "Batches", "Cancel a batch and its executions")))
        .api_route(
            "/v1/batch/summary",
            get_with(summary, about("summarizeBatches", "Batches", "List the batches at work and those that ended last")),
        )
        .api_route("/v1/batch/{batchId}/cost", get_with(cost, about("getBatchCost", "Batches", "Add up what a batch's executions cost")))
}

/// Batches that a summary looks at: the newest.
const LOOKED_AT: u32 = 50;

/// A batch over chosen records.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "RecordListBatchInput")]
struct RecordListBatch {
    /// The saved flow.
    flow_id: FlowId,
    /// Saved records.
    #[serde(default)]
    record_ids: Vec<RecordId>,
    /// Records that are not saved: `{type?, name?, metadata?}`. With `recordIds` at most 1,000.
    #[serde(default)]
    records: Vec<Map<String, Value>>,
    /// Variables at the root of templates, the same for each record.
    #[serde(default)]
    inputs: Map<String, Value>,
    #[serde(default)]
    options: BatchOptions,
    /// Not available: evals ask agents many things.
    #[serde(default)]
    agent_id: Option<Value>,
    /// Not available: a batch runs a saved flow.
    #[serde(default)]
    flow_definition: Option<Value>,
    /// Not available: `inputs` are the same for each record.
    #[serde(default)]
    messages: Option<Value>,
}

/// A batch that was taken in.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "BatchSubmitted")]
struct SubmittedBatch {
    batch_execution_id: BatchId,
    status: Status,
}

/// How far a batch is.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "BatchProgress")]
struct BatchProgress {
    batch_execution_id: BatchId,
    flow_id: FlowId,
    status: Status,
    total_records: usize,
    /// Those whose execution has ended.
    processed_records: usize,
    success_count: usize,
    failed_records: usize,
    /// Percent.
    progress: usize,
    started_at: Timestamp,
    completed_at: Option<Timestamp>,
    results: Vec<ItemRow>,
}

/// What became of a cancellation.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "BatchStopped")]
struct CancelAnswer {
    /// Always true.
    success: bool,
    message: String,
}

/// The newest batches.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "BatchOverview")]
struct BatchOverview {
    active_batches: usize,
    recently_completed: usize,
    /// Those at work.
    batches: Vec<BatchBrief>,
    /// Those that ended, of the newest fifty.
    recent: Vec<BatchBrief>,
}

/// A batch in an overview.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "BatchBrief")]
struct BatchBrief {
    id: BatchId,
    /// Empty when the flow was deleted.
    flow_name: String,
    status: Status,
    total_records: usize,
    processed_records: usize,
    failed_records: usize,
    /// Percent.
    progress: usize,
    started_at: Timestamp,
}

/// What a batch's executions cost.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "BatchCost")]
struct BatchCost {
    batch_execution_id: BatchId,
    /// US dollars, of the executions that have ended.
    total_cost_usd: f64,
    /// Always 0: nothing runs elsewhere and reports its own cost.
    self_reported_cost_usd: f64,
    /// Executions that asked models without a known price.
    unpriced_executions: usize,
}

/// How many of a batch's executions have ended, and how many failed.
struct BatchCounts {
    total: usize,
    ended: usize,
    failed: usize,
}

impl BatchCounts {
    fn of(items: &[Item]) -> Self {
        let ended = || items.iter().filter_map(|item| item.ended.as_ref());
        Self { total: items.len(), ended: ended().count(), failed: ended().filter(|ended| !ended.success).count() }
    }

    fn percent(&self) -> usize {
        (self.ended * 100).checked_div(self.total).unwrap_or(100)
    }
}

async fn submit(
    caller: Scoped<FlowsExecute>,
    State(state): State<AppState>,
    State(receipts): State<Receipts>,
    key: IdempotencyKey,
    body: Body<RecordListBatch>,
) -> Result<Created<SubmittedBatch>> {
    let (tenant, key_id) = (caller.tenant, caller.key_id());
    let call = Call { tenant, route: "POST /v1/batch/flow", key, request: fingerprint(&body.raw), secret: false };
    let input = body.value;
    receipts
        .once(call, move |seed| async move {
            let mut problems = Problems::default();
            let refused = [("agentId", &input.agent_id), ("flowDefinition", &input.flow_definition), ("messages", &input.messages)];
            for (name, _) in refused.into_iter().filter(|(_, given)| given.is_some()) {
                problems.add(format!("/{name}"), "not available: a batch runs a saved flow, named by `flowId`");
            }
            input.options.check(&mut problems);
            let count = input.record_ids.len() + input.records.len();
            if !(1..=MOST).contains(&count) {
                problems.add("/recordIds", format!("expected 1 to {MOST} records, together with `records`"));
            }
            problems.into_result()?;
            let mut saved = Vec::with_capacity(input.record_ids.len());
            for (index, id) in input.record_ids.iter().enumerate() {
                let found = state.store.find_record(tenant, *id).await?;
                saved.push(found.ok_or_else(|| Error::invalid_at(format!("/recordIds/{index}"), "no such record"))?);
            }
            let known = resolved(&state, tenant, input.flow_id, &input.inputs).await;
            known.map_err(|error| if error.kind() == Kind::Missing { Error::invalid_at("/flowId", "no such flow") } else { error })?;
            let chosen = RecordSelection { record_type: String::new(), saved, inline: input.records };
            let kept = begin(&state, (tenant, key_id), seed, input.flow_id, input.inputs, chosen).await?;
            Ok(SubmittedBatch { batch_execution_id: kept.id, status: kept.body.progress.status })
        })
        .await
}

async fn status(caller: Scoped<FlowsRead>, State(store): State<SharedStore>, Id(id): Id<BatchId>) -> Result<Json<BatchProgress>> {
    let Kept { created_at, body, .. } = all(&store, caller.tenant).find(id).await?.ok_or_else(BatchId::missing)?;
    let counts = BatchCounts::of(&body.items);
    Ok(Json(BatchProgress {
        batch_execution_id: id,
        flow_id: body.flow,
        status: body.progress.status,
        total_records: counts.total,
        processed_records: counts.ended,
        success_count: counts.ended - counts.failed,
        failed_records: counts.failed,
        progress: counts.percent(),
        started_at: created_at,
        completed_at: body.progress.completed_at,
        results: body.items.into_iter().map(ItemRow::from).collect(),
    }))
}

async fn stop(caller: Scoped<FlowsExecute>, State(state): State<AppState>, Id(id): Id<BatchId>) -> Result<Json<CancelAnswer>> {
    let kept: Kept<Batch> = cancel(&state, caller.tenant, id).await?.ok_or_else(BatchId::missing)?;
    Ok(Json(CancelAnswer { success: true, message: format!("the batch {} was cancelled", kept.id) }))
}

async fn summary(caller: Scoped<FlowsRead>, State(store): State<SharedStore>) -> Result<Json<BatchOverview>> {
    let (mut batches, mut recent) = (Vec::new(), Vec::new());
    for kept in all(&store, caller.tenant).list(None, None, LOOKED_AT).await? {
        let counts = BatchCounts::of(&kept.body.items);
        let flow = store.find_flow(caller.tenant, TargetKind::Flow, kept.body.flow).await?;
        let status = kept.body.progress.status;
        let brief = BatchBrief {
            id: kept.id,
            flow_name: flow.map(|flow| flow.name).unwrap_or_default(),
            status,
            total_records: counts.total,
            processed_records: counts.ended,
            failed_records: counts.failed,
            progress: counts.percent(),
            started_at: kept.created_at,
        };
        if status == Status::Running { batches.push(brief) } else { recent.push(brief) }
    }
    Ok(Json(BatchOverview { active_batches: batches.len(), recently_completed: recent.len(), batches, recent }))
}

async fn cost(caller: Scoped<FlowsRead>, State(store): State<SharedStore>, Id(id): Id<BatchId>) -> Result<Json<BatchCost>> {
    let kept = all(&store, caller.tenant).find(id).await?.ok_or_else(BatchId::missing)?;
    let ended = || kept.body.items.iter().filter_map(|item| item.ended.as_ref());
    Ok(Json(BatchCost {
        batch_execution_id: id,
        total_cost_usd: ended().map(|ended| ended.cost).fold(0.0, |sum, cost| sum + cost),
        self_reported_cost_usd: 0.0,
        unpriced_executions: ended().filter(|ended| ended.unpriced).count(),
    }))
}
