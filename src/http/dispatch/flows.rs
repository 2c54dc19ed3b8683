//! `/v1/flows`: saved flows.
//!
//! Saving compiles: a flow that cannot run is never stored. What an unpinned dispatch runs is the flow's current
//! version; `publish` marks one for callers that pin to it. `flow_steps` has their steps as rows.

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::deletion::Deletion;
use super::document::StepDocument;
use super::embed::Embed;
use super::saved::{self, Current, Publication, PublishInput, Shelf, Status};
use super::{about, body_optional, document, provenance};
use crate::clock::{Clock, Timestamp};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::http::AppState;
use crate::http::extract::{Body, Id, IdempotencyKey, Params};
use crate::http::idempotency::{Call, Created, Receipts, fingerprint};
use crate::http::paging::{Page, Paging};
use crate::http::scope::{FlowsRead, FlowsWrite, Scoped};
use crate::id::{FlowId, FlowVersionId, TenantId};
use crate::model::{Target, TargetKind};
use crate::store::{FlowVersion, RunFilter, SavedFlow, SharedStore};

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route(
            "/v1/flows",
            get_with(list, about("listFlows", "Flows", "List flows, newest first"))
                .post_with(create, about("createFlow", "Flows", "Save a new flow")),
        )
        .api_route(
            "/v1/flows/{flowId}",
            get_with(read, about("getFlow", "Flows", "Read a flow with its steps"))
                .put_with(update, about("updateFlow", "Flows", "Save a new version of a flow"))
                .patch_with(update, about("patchFlow", "Flows", "Save a new version of a flow"))
                .delete_with(delete, about("deleteFlow", "Flows", "Delete a flow and its versions")),
        )
        .api_route(
            "/v1/flows/{flowId}/publish",
            post_with(publish, |op| body_optional(about("publishFlow", "Flows", "Publish a version of a flow")(op))),
        )
}

/// A flow as lists show it.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Flow")]
pub(super) struct Row {
    id: FlowId,
    /// The tenant, which owns it.
    user_id: TenantId,
    name: String,
    description: Option<String>,
    status: Status,
    created_at: Timestamp,
    updated_at: Timestamp,
    last_run_at: Option<Timestamp>,
    current_version_id: FlowVersionId,
    published_version_id: Option<FlowVersionId>,
}

/// A flow with its steps.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "FlowDetail")]
pub(super) struct Detail {
    #[serde(flatten)]
    row: Row,
    flow_steps: Vec<Map<String, Value>>,
    step_count: usize,
    /// The version that was saved last, unless it is published.
    draft_version_id: Option<FlowVersionId>,
}

/// The document as it was sent. The compiler judges it, so that all faults are told at once.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub(super) struct Input(#[schemars(with = "Shape")] Map<String, Value>);

/// A flow to save. Other fields of the document are kept with it.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "FlowInput")]
#[expect(dead_code, reason = "describes the document; nothing reads it field by field")]
struct Shape {
    /// Unique among the tenant's flows. Required when the flow is new.
    #[schemars(length(min = 1, max = 255))]
    name: Option<String>,
    description: Option<String>,
    /// The steps, in order. They replace all former steps.
    steps: Option<Vec<StepDocument>>,
    /// Another name of `steps`.
    flow_steps: Option<Vec<StepDocument>>,
}

/// A flow of which a version was published.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "PublishedFlow")]
pub(super) struct PublishedFlow {
    #[serde(flatten)]
    flow: Detail,
    /// Same as `id`.
    flow_id: FlowId,
    #[serde(flatten)]
    publication: Publication,
}

async fn list(caller: Scoped<FlowsRead>, State(store): State<SharedStore>, Params(paging): Params<Paging>) -> Result<Json<Page<Row>>> {
    let (trail, limit) = (paging.trail::<FlowId>()?, paging.limit());
    let flows = store.list_flows(caller.tenant, TargetKind::Flow, trail.after(), paging.search(), limit + 1).await?;
    let page = trail.page(flows, limit, false, |flow| flow.id);
    let mut rows = Vec::with_capacity(page.data.len());
    for flow in &page.data {
        rows.push(Row::new(caller.tenant, flow, last_run(&store, caller.tenant, flow.id).await?));
    }
    Ok(Json(Page { data: rows, pagination: page.pagination }))
}

async fn create(
    caller: Scoped<FlowsWrite>,
    State(store): State<SharedStore>,
    State(clock): State<Clock>,
    State(engine): State<Engine>,
    State(receipts): State<Receipts>,
    key: IdempotencyKey,
    body: Body<Input>,
) -> Result<Created<Detail>> {
    let tenant = caller.tenant;
    let call = Call { tenant, route: "POST /v1/flows", key, request: fingerprint(&body.raw), secret: false };
    let source = Value::Object(with_steps(body.value.0));
    receipts
        .once(call, move |seed| async move {
            let shelf = shelf(&store, tenant);
            let version = version(&shelf, &engine, &clock, FlowId::from_u128(seed), provenance::edited(&source)).await?;
            let current = shelf.create(version).await?;
            detail(&store, tenant, current).await
        })
        .await
}

async fn read(caller: Scoped<FlowsRead>, State(store): State<SharedStore>, Id(id): Id<FlowId>) -> Result<Json<Detail>> {
    let current = shelf(&store, caller.tenant).current(id).await?;
    detail(&store, caller.tenant, current).await.map(Json)
}

async fn update(
    caller: Scoped<FlowsWrite>,
    State(store): State<SharedStore>,
    State(clock): State<Clock>,
    State(engine): State<Engine>,
    Id(id): Id<FlowId>,
    body: Body<Input>,
) -> Result<Json<Detail>> {
    let shelf = shelf(&store, caller.tenant);
    let current = shelf.current(id).await?;
    let change = without_status(body.value.0, &current.0)?;
    let document = provenance::edited(&merged(&current.1.document, change));
    let next = version(&shelf, &engine, &clock, id, document).await?;
    let current = shelf.change(current, next).await?;
    let mut detail = detail(&store, caller.tenant, current).await?;
    // Clients read here what was saved, also when nothing changed and it is published.
    detail.draft_version_id = Some(detail.row.current_version_id);
    Ok(Json(detail))
}

async fn delete(caller: Scoped<FlowsWrite>, State(store): State<SharedStore>, Id(id): Id<FlowId>) -> Result<Json<Deletion<FlowId>>> {
    shelf(&store, caller.tenant).delete(id).await?;
    Ok(Json(Deletion::of(id)))
}

pub(super) async fn publish(
    caller: Scoped<FlowsWrite>,
    State(store): State<SharedStore>,
    State(clock): State<Clock>,
    Id(id): Id<FlowId>,
    body: Option<Body<PublishInput>>,
) -> Result<Json<PublishedFlow>> {
    let version = body.and_then(|body| body.value.version_id);
    let current = shelf(&store, caller.tenant).publish(id, version, clock.now()).await?;
    let publication = Publication::of(&current.0);
    Ok(Json(PublishedFlow { flow: detail(&store, caller.tenant, current).await?, flow_id: id, publication }))
}

pub(super) fn shelf(store: &SharedStore, tenant: TenantId) -> Shelf<'_> {
    Shelf { store, tenant, kind: TargetKind::Flow }
}

async fn detail(store: &SharedStore, tenant: TenantId, (flow, version): Current) -> Result<Detail> {
    Ok(Detail::new(tenant, &flow, &version.document, last_run(store, tenant, flow.id).await?))
}

/// When the flow's newest run was started.
async fn last_run(store: &SharedStore, tenant: TenantId, flow: FlowId) -> Result<Option<Timestamp>> {
    let filter = RunFilter { target: Some(Target::Flow(Some(flow))), limit: 1, ..RunFilter::default() };
    Ok(store.list_runs(tenant, filter).await?.first().map(|run| run.created_at))
}

/// The old document with the new one's fields in place of its own; steps replace steps under either name.
fn merged(old: &Value, new: Map<String, Value>) -> Value {
    let mut merged = old.as_object().cloned().unwrap_or_default();
    if new.contains_key("steps") || new.contains_key("flowSteps") {
        merged.shift_remove("steps");
        merged.shift_remove("flowSteps");
    }
    merged.extend(new);
    Value::Object(merged)
}

/// A new flow may come without steps, which are added later.
fn with_steps(mut document: Map<String, Value>) -> Map<String, Value> {
    let is_given = |name: &str| document.get(name).is_some_and(|steps| !steps.is_null());
    if !is_given("steps") && !is_given("flowSteps") {
        document.shift_remove("flowSteps");
        document.insert("steps".into(), json!([]));
    }
    document
}

/// The change without the flow's status, which may be repeated but not set: it follows from what is published.
fn without_status(mut change: Map<String, Value>, flow: &SavedFlow) -> Result<Map<String, Value>> {
    let is_published = flow.published == Some(flow.current);
    let is_same = match change.shift_remove("status") {
        None | Some(Value::Null) => true,
        Some(status) => match status.as_str() {
            Some("draft") => !is_published,
            Some("published" | "active") => is_published,
            _ => false,
        },
    };
    if is_same {
        return Ok(change);
    }
    Err(Error::invalid_at("/status", "the status follows from what is published; POST /v1/flows/{flowId}/publish publishes a version"))
}

/// A version of a document that compiles.
pub(super) async fn version(shelf: &Shelf<'_>, engine: &Engine, clock: &Clock, id: FlowId, document: Value) -> Result<FlowVersion> {
    let whole = Embed::whole(shelf.store, shelf.tenant, TargetKind::Flow, document.clone()).await?;
    engine.accept(shelf.tenant, || document::compile(&whole)).await?;
    Ok(saved::version(clock, id, document))
}

/// The document's steps as rows: with an id, their place and whether they run.
pub(super) fn steps(document: &Value) -> Vec<Map<String, Value>> {
    let given = |name: &str| document.get(name).and_then(Value::as_array);
    let row = |(index, step): (usize, &Value)| {
        let mut row: Map<String, Value> = [
            ("id".to_owned(), json!(format!("step_{}", index + 1))),
            ("order".to_owned(), json!(index)),
            ("enabled".to_owned(), json!(true)),
            ("when".to_owned(), Value::Null),
            ("config".to_owned(), json!({})),
        ]
        .into_iter()
        .collect();
        let own = step.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
        row.extend(own.map(|(name, value)| (name.clone(), value.clone())));
        row
    };
    given("steps").or_else(|| given("flowSteps")).into_iter().flatten().enumerate().map(row).collect()
}

impl Row {
    fn new(tenant: TenantId, flow: &SavedFlow, last_run_at: Option<Timestamp>) -> Self {
        Self {
            id: flow.id,
            user_id: tenant,
            name: flow.name.clone(),
            description: flow.description.clone(),
            status: Status::of(flow),
            created_at: flow.created_at,
            updated_at: flow.updated_at,
            last_run_at,
            current_version_id: flow.current,
            published_version_id: flow.published,
        }
    }
}

impl Detail {
    fn new(tenant: TenantId, flow: &SavedFlow, document: &Value, last_run_at: Option<Timestamp>) -> Self {
        let flow_steps = steps(document);
        let draft_version_id = (flow.published != Some(flow.current)).then_some(flow.current);
        Self { row: Row::new(tenant, flow, last_run_at), step_count: flow_steps.len(), flow_steps, draft_version_id }
    }
}
