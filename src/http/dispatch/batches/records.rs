//! `POST /v1/flows/{flowId}/run-on-record-type` and `/v1/batches`: a flow for each record of a type.

use std::time::Duration;

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::work::advance;
use super::{Batch, Item, MOST, Status};
use crate::clock::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::http::AppState;
use crate::http::dispatch::about;
use crate::http::dispatch::execute::{DispatchRequest, Lookup};
use crate::http::extract::{Body, Id, IdempotencyKey, InPath, Params};
use crate::http::idempotency::{Call, Created, Receipts, fingerprint};
use crate::http::paging::{Page, Paging};
use crate::http::scope::{FlowsExecute, FlowsRead, Scoped};
use crate::id::{BatchId, FlowId, RecordId, RunId, TenantId};
use crate::model::Record;
use crate::model::filter::Filter;
use crate::store::{Collection, Kept, RecordQuery, SharedStore, StoreError};

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route(
            "/v1/flows/{flowId}/run-on-record-type",
            post_with(create, about("runFlowOnRecordType", "Batches", "Run a flow for each record of a type")),
        )
        .api_route("/v1/batches", get_with(list, about("listBatches", "Batches", "List batches, newest first")))
        .api_route("/v1/batches/{batchId}", get_with(read, about("getBatch", "Batches", "Read a batch and what its executions came to")))
        .api_route("/v1/batches/{batchId}/cancel", post_with(cancel, about("cancelBatch", "Batches", "Cancel a batch and its executions")))
}

/// What to run a flow for.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "RecordBatchInput")]
struct Input {
    /// The type of the records; 1 to 255 characters.
    #[schemars(length(min = 1, max = 255))]
    record_type: String,
    /// Only records that pass it; as in `POST /v1/records/search`.
    #[serde(default)]
    filter: Option<Value>,
    /// At most so many, the last changed first: 1 to 1,000; 1,000 when absent.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1000))]
    limit: Option<usize>,
    /// Variables at the root of templates, the same for each record.
    #[serde(default)]
    inputs: Map<String, Value>,
}

/// A batch.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Batch")]
struct Row {
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

/// One record's execution.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "BatchResult")]
struct ItemRow {
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
    fn of(kept: Kept<Batch>, whole: bool) -> Self {
        let Batch { flow, record_type, items, status, completed_at, .. } = kept.body;
        let count = |success: bool| items.iter().filter(|item| item.ended.as_ref().is_some_and(|ended| ended.success == success)).count();
        Self {
            batch_id: kept.id,
            flow_id: flow,
            record_type,
            record_count: items.len(),
            status,
            executed_immediately: false,
            success_count: count(true),
            failure_count: count(false),
            created_at: kept.created_at,
            completed_at,
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

/// Records read at once.
const PAGE: u32 = 200;
/// How long a batch is one server's, and how soon it is looked at again.
const LEASE: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_millis(300);

fn all(store: &SharedStore, tenant: TenantId) -> Collection<'_, Batch> {
    Collection::of(&**store, tenant)
}

async fn records(store: &SharedStore, tenant: TenantId, kind: &str, filter: &Filter, most: usize) -> Result<Vec<Record>> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let query = RecordQuery { kind: Some(kind.to_owned()), name: None, filter: filter.clone(), after, limit: PAGE };
        let page = store.list_records(tenant, query).await?;
        after = page.records.last().map(|record| (record.updated_at, record.id));
        found.extend(page.records);
        if found.len() >= most || !page.more {
            found.truncate(most);
            return Ok(found);
        }
    }
}

/// What is asked for one record.
fn request(flow: FlowId, inputs: &Map<String, Value>, record: Option<RecordId>) -> DispatchRequest {
    DispatchRequest {
        flow: Some(json!({ "id": flow })),
        inputs: Some(inputs.clone()).into(),
        record: record.map(|record| [("id".to_owned(), json!(record))].into_iter().collect::<Map<String, Value>>()).into(),
        ..DispatchRequest::default()
    }
}

async fn create(
    caller: Scoped<FlowsExecute>,
    State(state): State<AppState>,
    State(receipts): State<Receipts>,
    Id(flow): Id<FlowId>,
    key: IdempotencyKey,
    body: Body<Input>,
) -> Result<Created<Row>> {
    let tenant = caller.tenant;
    let call = Call {
        tenant,
        route: "POST /v1/flows/run-on-record-type",
        key,
        request: format!("{flow}:{}", fingerprint(&body.raw)),
        secret: false,
    };
    let input = body.value;
    receipts
        .once(call, move |seed| async move {
            let length = input.record_type.chars().count();
            if !(1..=255).contains(&length) || input.record_type.contains('\0') {
                return Err(Error::invalid_at("/recordType", "expected 1 to 255 characters"));
            }
            let most = input.limit.unwrap_or(MOST);
            if !(1..=MOST).contains(&most) {
                return Err(Error::invalid_at("/limit", format!("expected 1 to {MOST}")));
            }
            let filter = input.filter.filter(|filter| !filter.is_null()).map_or(Ok(Filter::everything()), |filter| Filter::parse(&filter));
            let filter = filter.map_err(|error| error.under("/filter"))?;
            // What would be run is resolved once, so that faults are told now.
            if state.store.find_flow(tenant, crate::model::TargetKind::Flow, flow).await?.is_none() {
                return Err(FlowId::missing());
            }
            Lookup::of(&state, tenant).resolve(request(flow, &input.inputs, None)).await?;
            let found = records(&state.store, tenant, &input.record_type, &filter, most).await?;
            let items = found.into_iter().map(|record| Item { record: Some(record.id), name: record.name, run: None, ended: None });
            let now = state.clock.now();
            let items: Vec<Item> = items.collect();
            let (status, completed_at) = if items.is_empty() { (Status::Completed, Some(now)) } else { (Status::Running, None) };
            let batch = Batch { flow, record_type: input.record_type, inputs: input.inputs, items, status, next: Some(now), completed_at };
            let id = BatchId::from_u128(seed);
            match all(&state.store, tenant).create(id, batch, now).await {
                Ok(kept) => Ok(Row::of(kept, true)),
                // Taken by ourselves, in a try whose answer was lost.
                Err(error @ StoreError::Exists(_)) => {
                    all(&state.store, tenant).find(id).await?.map(|kept| Row::of(kept, true)).ok_or_else(|| error.into())
                }
                Err(error) => Err(error.into()),
            }
        })
        .await
}

async fn list(caller: Scoped<FlowsRead>, State(store): State<SharedStore>, Params(paging): Params<Paging>) -> Result<Json<Page<Row>>> {
    let (trail, limit) = (paging.trail::<BatchId>()?, paging.limit());
    let found = all(&store, caller.tenant).list(None, trail.after(), limit + 1).await?;
    let page = trail.page(found, limit, false, |batch| batch.id);
    Ok(Json(Page { data: page.data.into_iter().map(|kept| Row::of(kept, false)).collect(), pagination: page.pagination }))
}

async fn read(caller: Scoped<FlowsRead>, State(store): State<SharedStore>, Id(id): Id<BatchId>) -> Result<Json<Row>> {
    let kept = all(&store, caller.tenant).find(id).await?.ok_or_else(BatchId::missing)?;
    Ok(Json(Row::of(kept, true)))
}

async fn cancel(caller: Scoped<FlowsExecute>, State(state): State<AppState>, Id(id): Id<BatchId>) -> Result<Json<Row>> {
    let batches = all(&state.store, caller.tenant);
    let kept = batches.find(id).await?.ok_or_else(BatchId::missing)?;
    let now = state.clock.now();
    let stop = |batch: &mut Batch| -> Result<()> {
        if batch.status == Status::Completed {
            return Err(Error::new(Kind::Conflict, "batch_completed", "the batch has completed; there is nothing to cancel"));
        }
        batch.status = Status::Cancelled;
        batch.next = None;
        batch.completed_at = batch.completed_at.or(Some(now));
        Ok(())
    };
    let kept = batches.amend(kept, now, stop).await?.ok_or_else(BatchId::missing)?;
    stop_all(&state, caller.tenant, &kept.body).await?;
    Ok(Json(Row::of(kept, true)))
}

async fn stop_all(state: &AppState, tenant: TenantId, batch: &Batch) -> Result<()> {
    for run in batch.items.iter().filter(|item| item.ended.is_none()).filter_map(|item| item.run) {
        state.workers.cancel(tenant, run).await?;
    }
    Ok(())
}

/// Does a little of a batch that is due, unless another server has it.
pub(in crate::http::dispatch) async fn tick(state: &AppState, tenant: TenantId, kept: Kept<Batch>) -> Result<()> {
    let batches = all(&state.store, tenant);
    let now = state.clock.now();
    let held = Batch { next: Some(now.after(LEASE)), ..kept.body.clone() };
    let Some(kept) = batches.change(&kept, held, now).await? else { return Ok(()) };
    let mut batch = kept.body.clone();
    let (flow, inputs) = (batch.flow, batch.inputs.clone());
    let done = advance(state, tenant, &kept.id.to_string(), &mut batch.items, |_, item| request(flow, &inputs, item.record)).await?;
    let now = state.clock.now();
    if done {
        (batch.status, batch.completed_at) = (Status::Completed, Some(now));
    }
    batch.next = (!done).then(|| now.after(SOON));
    if batches.change(&kept, batch.clone(), now).await?.is_none()
        && batches.find(kept.id).await?.is_none_or(|now| now.body.status == Status::Cancelled)
    {
        // Whoever cancelled it meanwhile was right, and knew nothing of what was started now. Another server that only went on with it, because
        // this one took so long, finds what was started here under the same keys.
        stop_all(state, tenant, &batch).await?;
    }
    Ok(())
}
