//! `/v1/agents/{agentId}/deployments`: who let which alias name which version, and when.
//!
//! A deployment is noted after its move. It is a history for people; what runs is decided by the release alone.

use aide::axum::ApiRouter;
use aide::axum::routing::get_with;
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::aliases::revision;
use super::{Release, ReleaseMover};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::http::AppState;
use crate::http::dispatch::about;
use crate::http::dispatch::agents::shelf;
use crate::http::extract::{Id, Params};
use crate::http::paging::{Page, Paging};
use crate::http::scope::{AgentsRead, Scoped};
use crate::id::{AgentId, DeploymentId, FlowId, FlowVersionId, TenantId};
use crate::store::{Collection, Document, Kept, SharedStore};

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new().api_route(
        "/v1/agents/{agentId}/deployments",
        get_with(list, about("listAgentDeployments", "Agents", "List the moves of an agent's aliases, newest first")),
    )
}

/// What was done to an alias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "DeploymentAction")]
pub(super) enum DeploymentAction {
    /// It names the version from then on.
    Activate,
    /// It was deleted.
    Archive,
}

/// A move of an alias.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Deployment {
    agent: FlowId,
    alias: String,
    action: DeploymentAction,
    version: FlowVersionId,
    previous: Option<FlowVersionId>,
    revision: u64,
    /// Whose key it was.
    actor: String,
    reason: Option<String>,
}

impl Document for Deployment {
    const KIND: &'static str = "deployment";
    type Id = DeploymentId;

    fn parent(&self) -> Option<String> {
        Some(self.agent.to_string())
    }
}

/// Which moves.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "DeploymentQuery")]
struct Query {
    /// Only moves of this alias.
    alias: Option<String>,
    /// Rows per page, 1 to 200; 50 by default.
    limit: Option<u32>,
    /// A `nextCursor` or `prevCursor` of an earlier answer.
    cursor: Option<String>,
}

/// A move of an alias.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Deployment")]
struct Row {
    id: DeploymentId,
    action: DeploymentAction,
    alias: String,
    alias_revision: u64,
    version_id: FlowVersionId,
    previous_version_id: Option<FlowVersionId>,
    /// The tenant.
    actor_user_id: TenantId,
    /// Who it was: `{type: "api", actor}`, with the id of the key.
    source: Map<String, Value>,
    reason: Option<String>,
    created_at: Timestamp,
}

impl Row {
    fn new(tenant: TenantId, kept: Kept<Deployment>) -> Self {
        let Deployment { alias, action, version, previous, revision, actor, reason, .. } = kept.body;
        Self {
            id: kept.id,
            action,
            alias,
            alias_revision: revision,
            version_id: version,
            previous_version_id: previous,
            actor_user_id: tenant,
            source: [("type".to_owned(), json!("api")), ("actor".to_owned(), json!(actor))].into_iter().collect(),
            reason,
            created_at: kept.created_at,
        }
    }
}

fn all(store: &SharedStore, tenant: TenantId) -> Collection<'_, Deployment> {
    Collection::of(&**store, tenant)
}

/// Notes a move.
pub(super) async fn note(
    mover: &ReleaseMover<'_>,
    release: &Kept<Release>,
    action: DeploymentAction,
    previous: Option<FlowVersionId>,
    reason: Option<String>,
) -> Result<DeploymentId> {
    let deployment = Deployment {
        agent: mover.agent.as_flow(),
        alias: release.body.alias.clone(),
        action,
        version: release.body.version,
        previous,
        revision: revision(release),
        actor: mover.caller.who.to_string(),
        reason,
    };
    let id = DeploymentId::new(mover.clock);
    Ok(all(mover.store, mover.caller.tenant).create(id, deployment, mover.clock.now()).await?.id)
}

/// The newest move of an alias, among the newest of the agent.
pub(super) async fn latest(mover: &ReleaseMover<'_>, alias: &str) -> Result<Option<DeploymentId>> {
    let found = all(mover.store, mover.caller.tenant).list(Some(&mover.agent.as_flow().to_string()), None, 200).await?;
    Ok(found.into_iter().find(|kept| kept.body.alias == alias).map(|kept| kept.id))
}

async fn list(
    caller: Scoped<AgentsRead>,
    State(store): State<SharedStore>,
    Id(agent): Id<AgentId>,
    Params(query): Params<Query>,
) -> Result<Json<Page<Row>>> {
    shelf(&store, caller.tenant).head(agent.as_flow()).await?;
    let paging = Paging { limit: query.limit, cursor: query.cursor, search: None };
    let (trail, limit) = (paging.trail::<DeploymentId>()?, paging.limit());
    let parent = agent.as_flow().to_string();
    let (mut found, mut before) = (Vec::new(), trail.after());
    while found.len() <= limit as usize {
        let read = all(&store, caller.tenant).list(Some(&parent), before, limit + 1).await?;
        let is_last = read.len() <= limit as usize;
        before = read.last().map(|kept| kept.id);
        found.extend(read.into_iter().filter(|kept| query.alias.as_ref().is_none_or(|alias| *alias == kept.body.alias)));
        if is_last {
            break;
        }
    }
    let page = trail.page(found, limit, false, |kept| kept.id);
    let data = page.data.into_iter().map(|kept| Row::new(caller.tenant, kept)).collect();
    Ok(Json(Page { data, pagination: page.pagination }))
}
