//! `POST /v1/flows/{flowId}/run-on-record-type` and `/v1/batches`: a flow for each record of a type.

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Batch, Item, MOST, Progress, Status, cancel};
use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::http::AppState;
use crate::http::dispatch::about;
use crate::http::dispatch::execute::{DispatchRequest, Lookup};
use crate::http::dispatch::records::Pages;
use crate::http::extract::{Body, Id, IdempotencyKey, InPath, Params};
use crate::http::idempotency::{Call, Created, Receipts, fingerprint};
use crate::http::paging::{Page, Paging};
use crate::http::scope::{FlowsExecute, FlowsRead, Scoped};
use crate::id::{BatchId, FlowId, RecordId, RunId, TenantId};
use crate::model::Record;
use crate::model::filter::Filter;
use crate::store::{Collection, Kept, SharedStore};

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route(
            "/v1/flows/{flowId}/run-on-record-type",
            post_with(create, about("runFlowOnRecordType", "Batches", "Run a flow for each record of a type")),
        )
        .api_route("/v1/batches", get_with(list, about("listBatches", "Batches", "List batches, newest first")))
        .api_route("/v1/batches/{batchId}", get_with(read, about("getBatch", "Batches", "Read a batch and what its executions came to")))
        .api_route("/v1/batches/{batchId}/cancel", post_with(stop, about("cancelBatch", "Batches", "Cancel a batch and its executions")))
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
        let Batch { flow, record_type, items, progress, .. } = kept.body;
        let count = |success: bool| items.iter().filter(|item| item.ended.as_ref().is_some_and(|ended| ended.success == success)).count();
        Self {
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

fn all(store: &SharedStore, tenant: TenantId) -> Collection<'_, Batch> {
    Collection::of(&**store, tenant)
}

async fn records(store: &SharedStore, tenant: TenantId, kind: &str, filter: Filter, most: usize) -> Result<Vec<Record>> {
    let (mut found, mut pages) = (Vec::new(), Pages::of(kind.to_owned(), filter));
    while let Some(page) = pages.next(store, tenant).await? {
        found.extend(page);
        if found.len() >= most {
            found.truncate(most);
            break;
        }
    }
    Ok(found)
}

/// What is asked for one record.
pub(super) fn request(flow: FlowId, inputs: &Map<String, Value>, record: Option<RecordId>) -> DispatchRequest {
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
    let (tenant, key_id) = (caller.tenant, caller.key_id());
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
            let found = records(&state.store, tenant, &input.record_type, filter, most).await?;
            let items = found.into_iter().map(|record| Item { record: Some(record.id), name: record.name, run: None, ended: None });
            let now = state.clock.now();
            let items: Vec<Item> = items.collect();
            let progress = if items.is_empty() { Progress::done(now) } else { Progress::begun(now) };
            let batch = Batch { flow, record_type: input.record_type, inputs: input.inputs, items, key_id, progress };
            Ok(Row::of(all(&state.store, tenant).create_once(BatchId::from_u128(seed), batch, now).await?, true))
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

async fn stop(caller: Scoped<FlowsExecute>, State(state): State<AppState>, Id(id): Id<BatchId>) -> Result<Json<Row>> {
    cancel(&state, caller.tenant, id).await?.map(|kept| Json(Row::of(kept, true))).ok_or_else(BatchId::missing)
}
