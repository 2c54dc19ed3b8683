//! `/v1/agents`: saved agents and their executions; `agent_versions` has their versions.
//!
//! Saving compiles: an agent that cannot run is never stored. What an unpinned call runs is the agent's current version; `publish` marks
//! one for callers that pin to it. An execution of an agent is one like any other: `execute` is a dispatch, `approve` and `resume` are those
//! of `/v1/dispatch`.

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::deletion::Deletion;
use super::embed::Embed;
use super::execute::{ApproveRequest, Desk, DispatchRequest, Posted, ResumeRequest, may_be_accepted, streamed};
use super::saved::{self, Current, Publication, PublishInput, Shelf, Status};
use super::{about, agent_document, body_optional, provenance};
use crate::clock::{Clock, Timestamp};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::http::AppState;
use crate::http::extract::{Body, Id, IdempotencyKey, InPath, Params};
use crate::http::idempotency::{Call, Created, Receipts, fingerprint};
use crate::http::paging::{Page, Paging};
use crate::http::scope::{AgentsExecute, AgentsRead, AgentsWrite, Scoped};
use crate::id::{AgentId, FlowVersionId, TenantId};
use crate::model::TargetKind;
use crate::store::{FlowVersion, SavedFlow, SharedStore};

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route(
            "/v1/agents",
            get_with(list, about("listAgents", "Agents", "List agents, newest first"))
                .post_with(create, about("createAgent", "Agents", "Save a new agent")),
        )
        .api_route(
            "/v1/agents/{agentId}",
            get_with(read, about("getAgent", "Agents", "Read an agent with its configuration"))
                .put_with(update, about("updateAgent", "Agents", "Save a new version of an agent"))
                .delete_with(delete, about("deleteAgent", "Agents", "Delete an agent and its versions")),
        )
        .api_route(
            "/v1/agents/{agentId}/publish",
            post_with(publish, |op| body_optional(about("publishAgent", "Agents", "Publish a version of an agent")(op))),
        )
        .api_route(
            "/v1/agents/{agentId}/execute",
            post_with(execute, |op| may_be_accepted(streamed(about("executeAgent", "Agents", "Execute an agent")(op)))),
        )
        .api_route(
            "/v1/agents/{agentId}/approve",
            post_with(approve, |op| streamed(about("approveAgent", "Agents", "Approve or deny a pending approval")(op))),
        )
        .api_route(
            "/v1/agents/{agentId}/resume",
            post_with(resume, |op| streamed(about("resumeAgent", "Agents", "Deliver tool outputs to a paused execution")(op))),
        )
}

/// An agent as lists show it.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Agent")]
struct Row {
    id: AgentId,
    /// The tenant, which owns it.
    user_id: TenantId,
    name: String,
    description: Option<String>,
    /// Always `runtype`: an agent that runs here.
    agent_type: &'static str,
    /// Always 0: its tools are in `config`.
    capability_count: u32,
    status: Status,
    created_at: Timestamp,
    updated_at: Timestamp,
    current_version_id: FlowVersionId,
    published_version_id: Option<FlowVersionId>,
}

/// An agent with its configuration.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "AgentDetail")]
struct Detail {
    #[serde(flatten)]
    row: Row,
    icon: Option<String>,
    /// The settings, as they were saved.
    config: Value,
    /// Always empty: its tools are in `config`.
    capabilities: Vec<Map<String, Value>>,
    /// Always null: what runs here is as healthy as the server.
    health_status: Option<String>,
    /// Always empty.
    #[serde(rename = "_warnings")]
    warnings: Vec<String>,
    /// The version that was saved last, unless it is published.
    draft_version_id: Option<FlowVersionId>,
}

/// The document as it was sent. The compiler judges it, so that all faults are told at once.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
struct Input(#[schemars(with = "Shape")] Map<String, Value>);

/// An agent to save. Other fields of the document are kept with it.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "AgentInput")]
#[expect(dead_code, reason = "describes the document; nothing reads it field by field")]
struct Shape {
    /// Unique among the tenant's agents. Required when the agent is new.
    #[schemars(length(min = 1, max = 255))]
    name: Option<String>,
    description: Option<String>,
    icon: Option<String>,
    /// `runtype`, or absent.
    agent_type: Option<String>,
    /// The settings: `model`, `systemPrompt`, `tools`, `loopConfig` and what else a dispatch's inline agent takes. They replace all former ones.
    config: Option<Map<String, Value>>,
}

/// An agent of which a version was published.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "PublishedAgent")]
pub(super) struct PublishedAgent {
    #[serde(flatten)]
    agent: Detail,
    /// Same as `id`.
    agent_id: AgentId,
    #[serde(flatten)]
    publication: Publication,
}

/// The agent that a continuation names. Clients that never learnt it say `virtual`; the execution's id decides.
#[derive(Debug, Clone, JsonSchema)]
#[serde(transparent)]
struct AnyAgent(#[expect(dead_code, reason = "it decides nothing")] String);

impl std::str::FromStr for AnyAgent {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl InPath for AnyAgent {
    const PARAM: &'static str = "agentId";
    const NOUN: &'static str = "agent";
}

async fn list(caller: Scoped<AgentsRead>, State(store): State<SharedStore>, Params(paging): Params<Paging>) -> Result<Json<Page<Row>>> {
    let (trail, limit) = (paging.trail::<AgentId>()?, paging.limit());
    let agents =
        store.list_flows(caller.tenant, TargetKind::Agent, trail.after().map(AgentId::as_flow), paging.search(), limit + 1).await?;
    let page = trail.page(agents, limit, false, |agent| AgentId::of_flow(agent.id));
    let rows = page.data.iter().map(|agent| Row::new(caller.tenant, agent)).collect();
    Ok(Json(Page { data: rows, pagination: page.pagination }))
}

async fn create(
    caller: Scoped<AgentsWrite>,
    State(store): State<SharedStore>,
    State(clock): State<Clock>,
    State(engine): State<Engine>,
    State(receipts): State<Receipts>,
    key: IdempotencyKey,
    body: Body<Input>,
) -> Result<Created<Detail>> {
    let tenant = caller.tenant;
    let call = Call { tenant, route: "POST /v1/agents", key, request: fingerprint(&body.raw), secret: false };
    let source = Value::Object(body.value.0);
    receipts
        .once(call, move |seed| async move {
            let shelf = shelf(&store, tenant);
            let version = checked(&shelf, &engine, &clock, AgentId::from_u128(seed), provenance::edited(&source)).await?;
            shelf.create(version).await.map(|current| Detail::new(tenant, current))
        })
        .await
}

async fn read(caller: Scoped<AgentsRead>, State(store): State<SharedStore>, Id(id): Id<AgentId>) -> Result<Json<Detail>> {
    let current = shelf(&store, caller.tenant).current(id.as_flow()).await?;
    Ok(Json(Detail::new(caller.tenant, current)))
}

async fn update(
    caller: Scoped<AgentsWrite>,
    State(store): State<SharedStore>,
    State(clock): State<Clock>,
    State(engine): State<Engine>,
    Id(id): Id<AgentId>,
    body: Body<Input>,
) -> Result<Json<Detail>> {
    let shelf = shelf(&store, caller.tenant);
    let current = shelf.current(id.as_flow()).await?;
    let mut document = current.1.document.as_object().cloned().unwrap_or_default();
    document.extend(body.value.0);
    let next = checked(&shelf, &engine, &clock, id, provenance::edited(&Value::Object(document))).await?;
    shelf.change(current, next).await.map(|current| Json(Detail::new(caller.tenant, current)))
}

async fn delete(caller: Scoped<AgentsWrite>, State(store): State<SharedStore>, Id(id): Id<AgentId>) -> Result<Json<Deletion<AgentId>>> {
    shelf(&store, caller.tenant).delete(id.as_flow()).await?;
    Ok(Json(Deletion::of(id)))
}

pub(super) async fn publish(
    caller: Scoped<AgentsWrite>,
    State(store): State<SharedStore>,
    State(clock): State<Clock>,
    Id(id): Id<AgentId>,
    body: Option<Body<PublishInput>>,
) -> Result<Json<PublishedAgent>> {
    let version = body.and_then(|body| body.value.version_id);
    let current = shelf(&store, caller.tenant).publish(id.as_flow(), version, clock.now()).await?;
    let publication = Publication::of(&current.0);
    Ok(Json(PublishedAgent { agent: Detail::new(caller.tenant, current), agent_id: id, publication }))
}

async fn execute(
    caller: Scoped<AgentsExecute>,
    State(desk): State<Desk>,
    State(store): State<SharedStore>,
    Id(id): Id<AgentId>,
    key: IdempotencyKey,
    headers: HeaderMap,
    body: Body<DispatchRequest>,
) -> Result<Response> {
    let mut request = body.value;
    if request.agent.is_some() {
        return Err(Error::invalid_at("/agent", "the path says which agent"));
    }
    // A call about an agent that is not there is a call to nowhere, not one with a fault in its body.
    shelf(&store, caller.tenant).head(id.as_flow()).await?;
    request.agent = Some(json!({ "agentId": id }));
    let route = format!("POST /v1/agents/{id}/execute");
    let posted = Posted { route, key, headers: &headers, hash: fingerprint(&body.raw), request, session: None };
    desk.start(&caller, posted).await
}

async fn approve(
    caller: Scoped<AgentsExecute>,
    State(desk): State<Desk>,
    Id(_): Id<AnyAgent>,
    headers: HeaderMap,
    body: Body<ApproveRequest>,
) -> Result<Response> {
    desk.approve(&caller, &headers, body.value).await
}

async fn resume(
    caller: Scoped<AgentsExecute>,
    State(desk): State<Desk>,
    Id(_): Id<AnyAgent>,
    headers: HeaderMap,
    body: Body<ResumeRequest>,
) -> Result<Response> {
    desk.resume(&caller, &headers, body.value).await
}

pub(super) fn shelf(store: &SharedStore, tenant: TenantId) -> Shelf<'_> {
    Shelf { store, tenant, kind: TargetKind::Agent }
}

/// A version of a document that compiles.
pub(super) async fn checked(shelf: &Shelf<'_>, engine: &Engine, clock: &Clock, id: AgentId, document: Value) -> Result<FlowVersion> {
    if document.get("icon").is_some_and(|icon| !icon.is_string() && !icon.is_null()) {
        return Err(Error::invalid_at("/icon", "expected a text"));
    }
    let whole = Embed::whole(shelf.store, shelf.tenant, TargetKind::Agent, document.clone()).await?;
    let flow = agent_document::compile(&whole)?;
    engine.accept(shelf.tenant, || Ok(flow.clone())).await.map_err(|error| agent_document::placed(error, &document))?;
    Ok(saved::version(clock, id.as_flow(), document))
}

impl Row {
    fn new(tenant: TenantId, agent: &SavedFlow) -> Self {
        Self {
            id: AgentId::of_flow(agent.id),
            user_id: tenant,
            agent_type: "runtype",
            capability_count: 0,
            name: agent.name.clone(),
            description: agent.description.clone(),
            status: Status::of(agent),
            created_at: agent.created_at,
            updated_at: agent.updated_at,
            current_version_id: agent.current,
            published_version_id: agent.published,
        }
    }
}

impl Detail {
    fn new(tenant: TenantId, (agent, version): Current) -> Self {
        let document = &version.document;
        Self {
            row: Row::new(tenant, &agent),
            icon: document.get("icon").and_then(Value::as_str).map(str::to_owned),
            config: agent_document::settings(&provenance::content(document)),
            capabilities: Vec::new(),
            health_status: None,
            warnings: Vec::new(),
            draft_version_id: (agent.published != Some(agent.current)).then_some(agent.current),
        }
    }
}
