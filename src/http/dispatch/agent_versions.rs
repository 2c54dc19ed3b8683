//! `/v1/agent-versions` and `/v1/agents/{agentId}/versions`: the immutable versions of an agent.

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::agents::{self, shelf};
use super::flow_versions::VersionType;
use super::{about, body_optional, provenance};
use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::http::AppState;
use crate::http::extract::{Id, Ids};
use crate::http::scope::{AgentsRead, Scoped};
use crate::id::{AgentId, FlowVersionId};
use crate::store::{FlowVersion, SharedStore};

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route(
            "/v1/agents/{agentId}/versions",
            get_with(list, about("listAgentVersions", "Agents", "List an agent's versions, newest first")),
        )
        .api_route(
            "/v1/agents/{agentId}/versions/{versionId}",
            get_with(read, about("getAgentVersion", "Agents", "Read a version of an agent")),
        )
        .api_route(
            "/v1/agent-versions/{agentId}",
            get_with(list, about("listVersionsOfAgent", "Agents", "List an agent's versions, newest first")),
        )
        .api_route(
            "/v1/agent-versions/{agentId}/published",
            get_with(published, about("getPublishedAgentVersion", "Agents", "Read the published version of an agent")),
        )
        .api_route(
            "/v1/agent-versions/{agentId}/publish",
            post_with(agents::publish, |op| body_optional(about("publishAgentVersion", "Agents", "Publish a version of an agent")(op))),
        )
        .api_route(
            "/v1/agent-versions/{agentId}/{versionId}",
            get_with(read, about("getVersionOfAgent", "Agents", "Read a version of an agent")),
        )
}

/// One version of an agent.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "AgentVersion")]
struct Row {
    id: FlowVersionId,
    agent_id: AgentId,
    /// 1, 2, 3, ... within the agent.
    version_number: u32,
    version_type: VersionType,
    /// The document as it was saved.
    agent_config: Value,
    label: Option<String>,
    notes: Option<String>,
    created_at: Timestamp,
    published_at: Option<Timestamp>,
}

/// The versions of an agent.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "AgentVersionList")]
struct Rows {
    agent_id: AgentId,
    published_version_id: Option<FlowVersionId>,
    /// The version that was saved last, unless it is published.
    draft_version_id: Option<FlowVersionId>,
    data: Vec<Row>,
    /// Same as `data`.
    versions: Vec<Row>,
}

impl From<FlowVersion> for Row {
    fn from(version: FlowVersion) -> Self {
        let text = |key: &str| version.document.get(key).and_then(Value::as_str).map(str::to_owned);
        Self {
            id: version.id,
            agent_id: AgentId::of_flow(version.flow),
            version_number: version.number,
            version_type: VersionType::of(&version),
            label: text("label"),
            notes: text("notes"),
            agent_config: provenance::content(&version.document),
            created_at: version.created_at,
            published_at: version.published_at,
        }
    }
}

async fn list(caller: Scoped<AgentsRead>, State(store): State<SharedStore>, Id(id): Id<AgentId>) -> Result<Json<Rows>> {
    let shelf = shelf(&store, caller.tenant);
    let agent = shelf.head(id.as_flow()).await?;
    let versions: Vec<Row> = shelf.versions(id.as_flow()).await?.into_iter().map(Row::from).collect();
    Ok(Json(Rows {
        agent_id: id,
        published_version_id: agent.published,
        draft_version_id: (agent.published != Some(agent.current)).then_some(agent.current),
        data: versions.clone(),
        versions,
    }))
}

async fn published(caller: Scoped<AgentsRead>, State(store): State<SharedStore>, Id(id): Id<AgentId>) -> Result<Json<Row>> {
    let unpublished = || Error::missing("published version").next("POST /v1/agents/{agentId}/publish publishes the current one");
    let shelf = shelf(&store, caller.tenant);
    let version = shelf.head(id.as_flow()).await?.published.ok_or_else(unpublished)?;
    shelf.version(id.as_flow(), version).await.map(|version| Json(version.into()))
}

async fn read(
    caller: Scoped<AgentsRead>,
    State(store): State<SharedStore>,
    Ids(id, version): Ids<AgentId, FlowVersionId>,
) -> Result<Json<Row>> {
    shelf(&store, caller.tenant).version(id.as_flow(), version).await.map(|version| Json(version.into()))
}
