//! `/v1/agents`: saved agents, their versions, and their executions.
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

use super::execute::{ApproveRequest, Desk, DispatchRequest, Posted, ResumeRequest, may_be_accepted, streamed};
use super::{about, agent_document, body_optional};
use crate::clock::{Clock, Timestamp};
use crate::engine::Engine;
use crate::error::{Error, Kind, Result};
use crate::http::AppState;
use crate::http::extract::{Body, Id, IdempotencyKey, Ids, InPath, Params};
use crate::http::idempotency::{Call, Created, Receipts, fingerprint};
use crate::http::paging::{Page, Paging};
use crate::http::scope::{AgentsExecute, AgentsRead, AgentsWrite, Scoped};
use crate::id::{AgentId, FlowId, FlowVersionId, TenantId};
use crate::model::TargetKind;
use crate::store::{FlowVersion, SavedFlow, SharedStore, StoreError};

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
            "/v1/agents/{agentId}/versions",
            get_with(versions, about("listAgentVersions", "Agents", "List an agent's versions, newest first")),
        )
        .api_route(
            "/v1/agents/{agentId}/versions/{versionId}",
            get_with(version, about("getAgentVersion", "Agents", "Read a version of an agent")),
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
    name: String,
    description: Option<String>,
    status: Status,
    created_at: Timestamp,
    updated_at: Timestamp,
    current_version_id: FlowVersionId,
    published_version_id: Option<FlowVersionId>,
}

/// Whether the current version is the published one.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "AgentStatus")]
enum Status {
    Draft,
    Published,
}

/// An agent with its configuration.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "AgentDetail")]
struct Detail {
    #[serde(flatten)]
    row: Row,
    icon: Option<String>,
    /// Always `runtype`: an agent that runs here.
    agent_type: &'static str,
    /// The settings, as they were saved.
    config: Value,
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

/// Which version to publish.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "PublishAgentInput")]
struct PublishInput {
    /// The current version when absent.
    version_id: Option<FlowVersionId>,
}

/// One version of an agent.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "AgentVersion")]
struct Version {
    id: FlowVersionId,
    agent_id: AgentId,
    /// 1, 2, 3, ... within the agent.
    version_number: u32,
    /// The document as it was saved.
    agent_config: Value,
    created_at: Timestamp,
    published_at: Option<Timestamp>,
}

/// The versions of an agent.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "AgentVersionList")]
struct Versions {
    data: Vec<Version>,
}

/// What was deleted.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "DeletedAgent")]
struct Deleted {
    id: AgentId,
    /// Always true.
    deleted: bool,
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

/// Most characters of an agent's name.
const LONGEST_NAME: usize = 255;
const KIND: TargetKind = TargetKind::Agent;

async fn list(caller: Scoped<AgentsRead>, State(store): State<SharedStore>, Params(paging): Params<Paging>) -> Result<Json<Page<Row>>> {
    let (trail, limit) = (paging.trail::<AgentId>()?, paging.limit());
    let agents = store.list_flows(caller.tenant, KIND, trail.after().map(kept), paging.search(), limit + 1).await?;
    let page = trail.page(agents, limit, false, |agent| shown(agent.id));
    Ok(Json(Page { data: page.data.iter().map(Row::new).collect(), pagination: page.pagination }))
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
            let (id, now) = (AgentId::from_u128(seed), clock.now());
            let version = checked(&engine, &clock, id, source)?;
            let agent = saved(id, &version, now)?;
            match store.create_flow(tenant, agent.clone(), version.clone()).await {
                Ok(()) => Ok(Detail::new(&agent, &version.document)),
                // Taken by ourselves, in a try whose answer was lost.
                Err(StoreError::Exists(_)) if store.find_flow(tenant, KIND, kept(id)).await?.is_some() => detail(&store, tenant, id).await,
                Err(StoreError::Exists(_)) => Err(StoreError::Exists("an agent with this name").into()),
                Err(error) => Err(error.into()),
            }
        })
        .await
}

async fn read(caller: Scoped<AgentsRead>, State(store): State<SharedStore>, Id(id): Id<AgentId>) -> Result<Json<Detail>> {
    detail(&store, caller.tenant, id).await.map(Json)
}

async fn update(
    caller: Scoped<AgentsWrite>,
    State(store): State<SharedStore>,
    State(clock): State<Clock>,
    State(engine): State<Engine>,
    Id(id): Id<AgentId>,
    body: Body<Input>,
) -> Result<Json<Detail>> {
    let (agent, current) = find(&store, caller.tenant, id).await?;
    let mut document = current.document.as_object().cloned().unwrap_or_default();
    document.extend(body.value.0);
    let next = checked(&engine, &clock, id, Value::Object(document))?;
    if next.document == current.document {
        return Ok(Json(Detail::new(&agent, &current.document)));
    }
    let changed = SavedFlow { created_at: agent.created_at, published: agent.published, ..saved(id, &next, clock.now())? };
    match store.update_flow(caller.tenant, changed, Some(next.clone()), Some(agent.current)).await {
        Ok(Some(changed)) => Ok(Json(Detail::new(&changed, &next.document))),
        Ok(None) => {
            find(&store, caller.tenant, id).await?;
            Err(Error::new(Kind::Conflict, "agent_changed", "somebody else saved this agent at the same time")
                .next("read it again, then repeat the change"))
        }
        Err(StoreError::Exists(_)) => Err(StoreError::Exists("an agent with this name").into()),
        Err(error) => Err(error.into()),
    }
}

async fn delete(caller: Scoped<AgentsWrite>, State(store): State<SharedStore>, Id(id): Id<AgentId>) -> Result<Json<Deleted>> {
    if !store.delete_flow(caller.tenant, KIND, kept(id)).await? {
        return Err(AgentId::missing());
    }
    Ok(Json(Deleted { id, deleted: true }))
}

async fn publish(
    caller: Scoped<AgentsWrite>,
    State(store): State<SharedStore>,
    State(clock): State<Clock>,
    Id(id): Id<AgentId>,
    body: Option<Body<PublishInput>>,
) -> Result<Json<Detail>> {
    let agent = store.find_flow(caller.tenant, KIND, kept(id)).await?.ok_or_else(AgentId::missing)?;
    let version = body.and_then(|body| body.value.version_id).unwrap_or(agent.current);
    if !store.publish_flow(caller.tenant, KIND, kept(id), version, clock.now()).await? {
        return Err(FlowVersionId::missing());
    }
    detail(&store, caller.tenant, id).await.map(Json)
}

async fn versions(caller: Scoped<AgentsRead>, State(store): State<SharedStore>, Id(id): Id<AgentId>) -> Result<Json<Versions>> {
    store.find_flow(caller.tenant, KIND, kept(id)).await?.ok_or_else(AgentId::missing)?;
    let versions = store.list_flow_versions(caller.tenant, kept(id)).await?;
    Ok(Json(Versions { data: versions.into_iter().map(Version::from).collect() }))
}

async fn version(
    caller: Scoped<AgentsRead>,
    State(store): State<SharedStore>,
    Ids(id, version): Ids<AgentId, FlowVersionId>,
) -> Result<Json<Version>> {
    store.find_flow(caller.tenant, KIND, kept(id)).await?.ok_or_else(AgentId::missing)?;
    let version = store.find_flow_version(caller.tenant, version).await?.filter(|version| version.flow == kept(id));
    version.map(|version| Json(version.into())).ok_or_else(FlowVersionId::missing)
}

async fn execute(
    caller: Scoped<AgentsExecute>,
    State(desk): State<Desk>,
    Id(id): Id<AgentId>,
    key: IdempotencyKey,
    headers: HeaderMap,
    body: Body<DispatchRequest>,
) -> Result<Response> {
    let mut request = body.value;
    if request.agent.is_some() {
        return Err(Error::invalid_at("/agent", "the path says which agent"));
    }
    desk.must_have_agent(caller.tenant, id).await?;
    request.agent = Some(json!({ "agentId": id }));
    let route = format!("POST /v1/agents/{id}/execute");
    desk.start(&caller, Posted { route, key, headers: &headers, hash: fingerprint(&body.raw), request }).await
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

/// The id under which the store keeps an agent.
const fn kept(id: AgentId) -> FlowId {
    FlowId::from_u128(id.as_u128())
}

const fn shown(id: FlowId) -> AgentId {
    AgentId::from_u128(id.as_u128())
}

/// An agent and its current version.
async fn find(store: &SharedStore, tenant: TenantId, id: AgentId) -> Result<(SavedFlow, FlowVersion)> {
    let agent = store.find_flow(tenant, KIND, kept(id)).await?.ok_or_else(AgentId::missing)?;
    let version = store.find_flow_version(tenant, agent.current).await?.ok_or_else(AgentId::missing)?;
    Ok((agent, version))
}

async fn detail(store: &SharedStore, tenant: TenantId, id: AgentId) -> Result<Detail> {
    let (agent, version) = find(store, tenant, id).await?;
    Ok(Detail::new(&agent, &version.document))
}

/// A version of a document that compiles. The store sets its number.
fn checked(engine: &Engine, clock: &Clock, id: AgentId, document: Value) -> Result<FlowVersion> {
    let flow = agent_document::compile(&document)?;
    let plan = engine.check(&flow).map_err(|error| agent_document::placed(error, &document))?;
    if plan.flow.name.chars().count() > LONGEST_NAME {
        return Err(Error::invalid_at("/name", format!("an agent's name has at most {LONGEST_NAME} characters")));
    }
    Ok(FlowVersion { id: FlowVersionId::new(clock), flow: kept(id), number: 0, document, created_at: clock.now(), published_at: None })
}

/// The agent that a version makes.
fn saved(id: AgentId, version: &FlowVersion, now: Timestamp) -> Result<SavedFlow> {
    let text = |key: &str| version.document.get(key).and_then(Value::as_str).map(|text| text.trim().to_owned());
    Ok(SavedFlow {
        id: kept(id),
        kind: KIND,
        name: text("name").ok_or_else(|| Error::invalid_at("/name", "expected a text that is not empty"))?,
        description: text("description"),
        created_at: now,
        updated_at: now,
        current: version.id,
        published: None,
    })
}

impl Row {
    fn new(agent: &SavedFlow) -> Self {
        Self {
            id: shown(agent.id),
            name: agent.name.clone(),
            description: agent.description.clone(),
            status: if agent.published == Some(agent.current) { Status::Published } else { Status::Draft },
            created_at: agent.created_at,
            updated_at: agent.updated_at,
            current_version_id: agent.current,
            published_version_id: agent.published,
        }
    }
}

impl Detail {
    fn new(agent: &SavedFlow, document: &Value) -> Self {
        Self {
            row: Row::new(agent),
            icon: document.get("icon").and_then(Value::as_str).map(str::to_owned),
            agent_type: "runtype",
            config: agent_document::settings(document),
            draft_version_id: (agent.published != Some(agent.current)).then_some(agent.current),
        }
    }
}

impl From<FlowVersion> for Version {
    fn from(version: FlowVersion) -> Self {
        Self {
            id: version.id,
            agent_id: shown(version.flow),
            version_number: version.number,
            agent_config: version.document,
            created_at: version.created_at,
            published_at: version.published_at,
        }
    }
}
