//! Making batches: `POST /v1/flows/{flowId}/run-on-record-type`, `/v1/batches` and `/v1/batch/flow`.

use aide::axum::ApiRouter;
use aide::axum::routing::post_with;
use axum::extract::State;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::records::{StartedBatch, all};
use super::{Batch, Item, MOST, Progress};
use crate::error::{Error, Problems, Result};
use crate::http::AppState;
use crate::http::dispatch::about;
use crate::http::dispatch::execute::{DispatchRequest, Lookup};
use crate::http::dispatch::records::Pages;
use crate::http::extract::{Body, Id, IdempotencyKey, InPath};
use crate::http::idempotency::{Call, Created, Receipts, fingerprint};
use crate::http::scope::{FlowsExecute, Scoped};
use crate::id::{BatchId, FlowId, KeyId, RecordId, TenantId};
use crate::model::filter::Filter;
use crate::model::{Record, TargetKind};
use crate::store::{Kept, SharedStore};

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new().api_route(
        "/v1/flows/{flowId}/run-on-record-type",
        post_with(create_of_flow, about("runFlowOnRecordType", "Batches", "Run a flow for each record of a type")),
    )
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

/// A batch to make.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "BatchInput")]
pub(super) struct BatchInput {
    /// The saved flow.
    flow_id: FlowId,
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
    #[serde(default)]
    options: BatchOptions,
    /// Not available: `/v1/schedules` runs a flow for a record type at a certain time.
    #[serde(default)]
    scheduled_at: Option<Value>,
}

/// How a batch is worked on. What would change what comes of it and is not available here is refused.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(rename = "BatchOptions")]
pub(super) struct BatchOptions {
    /// True, or absent: an execution that fails does not hold up the others.
    continue_on_error: Option<bool>,
    /// Not available: the flow says which models it asks.
    model_override: Option<Value>,
}

impl BatchOptions {
    pub fn check(&self, problems: &mut Problems) {
        if self.continue_on_error == Some(false) {
            problems.add("/options/continueOnError", "not available: an execution that fails does not hold up the others");
        }
        if self.model_override.is_some() {
            problems.add("/options/modelOverride", "not available: the flow says which models it asks");
        }
    }
}

/// The records that a batch is over, in its order.
pub(super) struct RecordSelection {
    /// Empty for chosen records.
    pub record_type: String,
    pub saved: Vec<Record>,
    pub inline: Vec<Map<String, Value>>,
}

/// What is asked for one record: a saved one, one that was sent along, or none.
pub(super) fn request(
    flow: FlowId,
    inputs: &Map<String, Value>,
    record: Option<RecordId>,
    inline: Option<&Map<String, Value>>,
) -> DispatchRequest {
    let saved = record.map(|record| [("id".to_owned(), json!(record))].into_iter().collect::<Map<String, Value>>());
    DispatchRequest {
        flow: Some(json!({ "id": flow })),
        inputs: Some(inputs.clone()).into(),
        record: saved.or_else(|| inline.cloned()).into(),
        ..DispatchRequest::default()
    }
}

/// The records of a type that pass a filter, the last changed first.
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

/// The records of a type that a call asks for. Errors point into its body.
pub(in crate::http::dispatch) async fn of_type(
    store: &SharedStore,
    tenant: TenantId,
    kind: &str,
    filter: Option<Value>,
    limit: Option<usize>,
) -> Result<Vec<Record>> {
    if !(1..=255).contains(&kind.chars().count()) || kind.contains('\0') {
        return Err(Error::invalid_at("/recordType", "expected 1 to 255 characters"));
    }
    let most = limit.unwrap_or(MOST);
    if !(1..=MOST).contains(&most) {
        return Err(Error::invalid_at("/limit", format!("expected 1 to {MOST}")));
    }
    let filter = filter.filter(|filter| !filter.is_null()).map_or(Ok(Filter::everything()), |filter| Filter::parse(&filter));
    records(store, tenant, kind, filter.map_err(|error| error.under("/filter"))?, most).await
}

/// Keeps a batch, which is begun at once. `key_id`: the API key of whoever asked for it.
pub(super) async fn begin(
    state: &AppState,
    (tenant, key_id): (TenantId, Option<KeyId>),
    seed: u128,
    flow: FlowId,
    inputs: Map<String, Value>,
    chosen: RecordSelection,
) -> Result<Kept<Batch>> {
    let now = state.clock.now();
    let name = |record: &Map<String, Value>| record.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let saved = chosen.saved.into_iter().map(|record| Item { record: Some(record.id), name: record.name, run: None, ended: None });
    let inline = chosen.inline.iter().map(|record| Item { record: None, name: name(record), run: None, ended: None });
    let items: Vec<Item> = saved.chain(inline).collect();
    let progress = if items.is_empty() { Progress::done(now) } else { Progress::begun(now) };
    let batch = Batch { flow, record_type: chosen.record_type, inputs, items, inline: chosen.inline, key_id, progress };
    Ok(all(&state.store, tenant).create_once(BatchId::from_u128(seed), batch, now).await?)
}

/// Checks that the flow can be run like this, so that the call fails now and not each execution later.
pub(super) async fn resolved(state: &AppState, tenant: TenantId, flow: FlowId, inputs: &Map<String, Value>) -> Result<()> {
    if state.store.find_flow(tenant, TargetKind::Flow, flow).await?.is_none() {
        return Err(FlowId::missing());
    }
    Lookup::of(state, tenant).resolve(request(flow, inputs, None, None)).await?;
    Ok(())
}

async fn of_input(
    state: &AppState,
    (tenant, key_id): (TenantId, Option<KeyId>),
    seed: u128,
    flow: FlowId,
    input: Input,
) -> Result<StartedBatch> {
    let Input { record_type, filter, limit, inputs } = input;
    let saved = of_type(&state.store, tenant, &record_type, filter, limit).await?;
    resolved(state, tenant, flow, &inputs).await?;
    let chosen = RecordSelection { record_type, saved, inline: Vec::new() };
    begin(state, (tenant, key_id), seed, flow, inputs, chosen).await.map(StartedBatch::from)
}

async fn create_of_flow(
    caller: Scoped<FlowsExecute>,
    State(state): State<AppState>,
    State(receipts): State<Receipts>,
    Id(flow): Id<FlowId>,
    key: IdempotencyKey,
    body: Body<Input>,
) -> Result<Created<StartedBatch>> {
    let (tenant, key_id) = (caller.tenant, caller.key_id());
    let call = Call {
        tenant,
        route: "POST /v1/flows/run-on-record-type",
        key,
        request: format!("{flow}:{}", fingerprint(&body.raw)),
        secret: false,
    };
    let input = body.value;
    receipts.once(call, move |seed| async move { of_input(&state, (tenant, key_id), seed, flow, input).await }).await
}

pub(super) async fn create(
    caller: Scoped<FlowsExecute>,
    State(state): State<AppState>,
    State(receipts): State<Receipts>,
    key: IdempotencyKey,
    body: Body<BatchInput>,
) -> Result<Created<StartedBatch>> {
    let (tenant, key_id) = (caller.tenant, caller.key_id());
    let call = Call { tenant, route: "POST /v1/batches", key, request: fingerprint(&body.raw), secret: false };
    let BatchInput { flow_id, record_type, filter, limit, inputs, options, scheduled_at } = body.value;
    let mut problems = Problems::default();
    options.check(&mut problems);
    if scheduled_at.is_some() {
        problems.add("/scheduledAt", "not available: a schedule with `target.recordType` runs a flow at a certain time");
    }
    problems.into_result()?;
    let input = Input { record_type, filter, limit, inputs };
    let work = move |seed: u128| async move {
        match of_input(&state, (tenant, key_id), seed, flow_id, input).await {
            Err(error) if error.kind() == crate::error::Kind::Missing => Err(Error::invalid_at("/flowId", "no such flow")),
            answer => answer,
        }
    };
    receipts.once(call, work).await
}
