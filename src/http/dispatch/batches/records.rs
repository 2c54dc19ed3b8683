//! `/v1/batches`: batches over records, and what their executions came to.

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Batch, Item, Status, cancel, submit};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::http::AppState;
use crate::http::dispatch::about;
use crate::http::extract::{Id, InPath, Params};
use crate::http::paging::{Page, Paging};
use crate::http::scope::{FlowsExecute, FlowsRead, Scoped};
use crate::id::{BatchId, FlowId, RecordId, RunId, TenantId};
use crate::store::{Collection, Kept, SharedStore};

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route(
            "/v1/batches",
            get_with(list, about("listBatches", "Batches", "List batches, newest first"))
                .post_with(submit::create, about("createBatch", "Batches", "Run a flow for each record of a type")),
        )
        .api_route("/v1/batches/{batchId}", get_with(read, about("getBatch", "Batches", "Read a batch and what its executions came to")))
        .api_route("/v1/batches/{batchId}/cancel", post_with(stop, about("cancelBatch", "Batches", "Cancel a batch and its executions")))
}

/// Which batches.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "BatchListQuery")]
struct Query {
    /// Only batches of this flow.
    flow_id: Option<String>,
    /// Only batches over records of this type.
    record_type: Option<String>,
    /// Only batches in this state.
    status: Option<Status>,
    /// Rows per page, 1 to 200; 50 by default.
    limit: Option<u32>,
    /// A `nextCursor` or `prevCursor` of an earlier answer.
    cursor: Option<String>,
}

/// A batch.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Batch")]
pub(super) struct Row {
    /// The same as `batchId`: the name that the official SDK reads.
    id: BatchId,
    batch_id: BatchId,
    flow_id: FlowId,
    record_type: String,
    record_count: usize,
    status: Status,
    /// Always false: executions are started behind the answer.
    executed_immediately: bool,
    success_count: usize,
    failure_count: usize,
    created_at: Timestamp,
    completed_at: Option<Timestamp>,
    /// One for each record; in lists there are none.
    results: Vec<ItemRow>,
}

/// A batch that has begun.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "StartedBatch")]
pub(super) struct StartedBatch {
    /// The same as `batchId`: the name that the official SDK reads.
    id: BatchId,
    batch_id: BatchId,
    flow_id: FlowId,
    record_type: String,
    record_count: usize,
    status: Status,
    /// Whether nothing has failed so far.
    success: bool,
    /// Always false: executions are started behind the answer.
    executed_immediately: bool,
    success_count: usize,
    failure_count: usize,
    created_at: Timestamp,
    /// Empty until it has completed.
    completed_at: String,
    /// One for each execution that has ended: none yet. `GET /v1/batches/{batchId}` has all.
    results: Vec<ItemRow>,
}

impl From<Kept<Batch>> for StartedBatch {
    fn from(kept: Kept<Batch>) -> Self {
        let row = Row::of(kept, false);
        Self {
            id: row.id,
            batch_id: row.batch_id,
            flow_id: row.flow_id,
            record_type: row.record_type,
            record_count: row.record_count,
            status: row.status,
            success: row.failure_count == 0,
            executed_immediately: row.executed_immediately,
            success_count: row.success_count,
            failure_count: row.failure_count,
            created_at: row.created_at,
            completed_at: row.completed_at.map(|at| at.to_string()).unwrap_or_default(),
            results: row.results,
        }
    }
}

/// One record's execution.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "BatchResult")]
pub(super) struct ItemRow {
    record_id: Option<RecordId>,
    record_name: String,
    /// Absent until it was started.
    execution_id: Option<RunId>,
    /// `null` until it has ended.
    success: Option<bool>,
    /// Milliseconds.
    execution_time: Option<u64>,
    prompts_executed: Option<u32>,
    /// US dollars.
    cost: Option<f64>,
    tokens: Option<u64>,
    error: Option<Value>,
}

impl Row {
    pub fn of(kept: Kept<Batch>, whole: bool) -> Self {
        let Batch { flow, record_type, items, progress, .. } = kept.body;
        let count = |success: bool| items.iter().filter(|item| item.ended.as_ref().is_some_and(|ended| ended.success == success)).count();
        Self {
            id: kept.id,
            batch_id: kept.id,
            flow_id: flow,
            record_type,
            record_count: items.len(),
            status: progress.status,
            executed_immediately: false,
            success_count: count(true),
            failure_count: count(false),
            created_at: kept.created_at,
            completed_at: progress.completed_at,
            results: if whole { items.into_iter().map(ItemRow::from).collect() } else { Vec::new() },
        }
    }
}

impl From<Item> for ItemRow {
    fn from(item: Item) -> Self {
        let ended = item.ended;
        let of = ended.as_ref();
        Self {
            record_id: item.record,
            record_name: item.name,
            execution_id: item.run,
            success: of.map(|ended| ended.success),
            execution_time: of.map(|ended| ended.took_ms),
            prompts_executed: of.map(|ended| ended.prompts),
            cost: of.map(|ended| ended.cost),
            tokens: of.map(|ended| ended.tokens),
            error: ended.and_then(|ended| ended.error),
        }
    }
}

pub(super) fn all(store: &SharedStore, tenant: TenantId) -> Collection<'_, Batch> {
    Collection::of(&**store, tenant)
}

async fn list(caller: Scoped<FlowsRead>, State(store): State<SharedStore>, Params(query): Params<Query>) -> Result<Json<Page<Row>>> {
    let paging = Paging { limit: query.limit, cursor: query.cursor, search: None };
    let (trail, limit) = (paging.trail::<BatchId>()?, paging.limit());
    let is_wanted = |kept: &Kept<Batch>| {
        let (status, kind) = (kept.body.progress.status, &kept.body.record_type);
        query.status.is_none_or(|wanted| wanted == status) && query.record_type.as_ref().is_none_or(|wanted| wanted == kind)
    };
    let (mut found, mut before) = (Vec::new(), trail.after());
    while found.len() <= limit as usize {
        let read = all(&store, caller.tenant).list(query.flow_id.as_deref(), before, limit + 1).await?;
        let is_last = read.len() <= limit as usize;
        before = read.last().map(|batch| batch.id);
        found.extend(read.into_iter().filter(is_wanted));
        if is_last {
            break;
        }
    }
    let page = trail.page(found, limit, false, |batch| batch.id);
    Ok(Json(Page { data: page.data.into_iter().map(|kept| Row::of(kept, false)).collect(), pagination: page.pagination }))
}

async fn read(caller: Scoped<FlowsRead>, State(store): State<SharedStore>, Id(id): Id<BatchId>) -> Result<Json<Row>> {
    let kept = all(&store, caller.tenant).find(id).await?.ok_or_else(BatchId::missing)?;
    Ok(Json(Row::of(kept, true)))
}

async fn stop(caller: Scoped<FlowsExecute>, State(state): State<AppState>, Id(id): Id<BatchId>) -> Result<Json<Row>> {
    cancel(&state, caller.tenant, id).await?.map(|kept| Json(Row::of(kept, true))).ok_or_else(BatchId::missing)
}
