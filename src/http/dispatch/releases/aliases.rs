//! `/v1/agents/{agentId}/aliases`: releases in the words of Runtype's API, whose revisions are numbers.

use aide::axum::ApiRouter;
use aide::axum::routing::get_with;
use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::IF_MATCH;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::deployments::{self, DeploymentAction};
use super::{Alias, LIVE, MOST, Release, ReleaseMove, ReleaseMover, all, find};
use crate::clock::{Clock, Timestamp};
use crate::error::{Error, Result};
use crate::http::AppState;
use crate::http::dispatch::about;
use crate::http::dispatch::agents::shelf;
use crate::http::extract::{Body, Id, Ids};
use crate::http::scope::{AgentsRead, AgentsWrite, Scoped};
use crate::id::{AgentId, DeploymentId, FlowVersionId, TenantId};
use crate::store::{Kept, SharedStore};

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route("/v1/agents/{agentId}/aliases", get_with(list, about("listAgentAliases", "Agents", "List an agent's aliases")))
        .api_route(
            "/v1/agents/{agentId}/aliases/{alias}",
            get_with(read, about("getAgentAlias", "Agents", "Read which version an alias names"))
                .put_with(put, about("activateAgentAlias", "Agents", "Let an alias name a version"))
                .delete_with(delete, about("archiveAgentAlias", "Agents", "Delete an alias; the version stays")),
        )
}

/// An alias of an agent.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "AgentAlias")]
struct Row {
    alias: String,
    version_id: FlowVersionId,
    version_number: Option<u32>,
    /// Changes with every move.
    revision: u64,
    /// Always empty: secrets are the tenant's.
    binding_names: Vec<String>,
    created_at: Timestamp,
    updated_at: Timestamp,
    /// Always null: a deleted alias is gone.
    archived_at: Option<Timestamp>,
    /// Always null: aliases stay.
    expires_at: Option<Timestamp>,
}

/// The aliases of an agent: `live` first, then by name.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "AgentAliasList")]
struct Rows {
    data: Vec<Row>,
    /// Always false: a call without an alias runs the version that was saved last.
    live_default: bool,
    /// Always null: this is all of them.
    next_cursor: Option<String>,
}

/// Where an alias shall point. `If-Match` names the revision that was read; it is required to move `live`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "AgentAliasInput")]
struct Input {
    version_id: FlowVersionId,
    /// Why, for people.
    #[serde(default)]
    #[schemars(length(max = 1000))]
    reason: Option<String>,
    /// Not available: `versionId` names the version.
    #[serde(default)]
    promotion: Option<Value>,
}

/// What a move came to.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "AgentAliasActivated")]
struct AliasMove {
    alias: String,
    version_id: FlowVersionId,
    version_number: Option<u32>,
    revision: u64,
    /// Whether the alias named another version before, or none.
    changed: bool,
    /// The deployment that made the alias name this version.
    receipt_id: DeploymentId,
    /// Always empty: secrets are the tenant's.
    binding_names: Vec<String>,
}

/// What a deletion came to.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "AgentAliasArchived")]
struct AliasRemoval {
    alias: String,
    /// Always true: it is gone.
    archived: bool,
    receipt_id: DeploymentId,
    revision: u64,
}

/// A number that is another after each move, also of an alias that was deleted and made anew.
pub(super) fn revision(kept: &Kept<Release>) -> u64 {
    u64::try_from(kept.created_at.as_millis()).unwrap_or(0).saturating_mul(1_000).saturating_add(u64::from(kept.version))
}

async fn number(store: &SharedStore, tenant: TenantId, version: FlowVersionId) -> Result<Option<u32>> {
    Ok(store.find_flow_version(tenant, version).await?.map(|version| version.number))
}

async fn row(store: &SharedStore, tenant: TenantId, kept: Kept<Release>) -> Result<Row> {
    Ok(Row {
        revision: revision(&kept),
        version_number: number(store, tenant, kept.body.version).await?,
        version_id: kept.body.version,
        alias: kept.body.alias,
        binding_names: Vec::new(),
        created_at: kept.created_at,
        updated_at: kept.updated_at,
        archived_at: None,
        expires_at: None,
    })
}

async fn list(caller: Scoped<AgentsRead>, State(store): State<SharedStore>, Id(agent): Id<AgentId>) -> Result<Json<Rows>> {
    shelf(&store, caller.tenant).head(agent.as_flow()).await?;
    let mut found = all(&store, caller.tenant).list(Some(&agent.as_flow().to_string()), None, MOST).await?;
    found.sort_by(|one, other| (one.body.alias != LIVE, &one.body.alias).cmp(&(other.body.alias != LIVE, &other.body.alias)));
    let mut data = Vec::with_capacity(found.len());
    for kept in found {
        data.push(row(&store, caller.tenant, kept).await?);
    }
    Ok(Json(Rows { data, live_default: false, next_cursor: None }))
}

async fn read(
    caller: Scoped<AgentsRead>,
    State(store): State<SharedStore>,
    Ids(agent, Alias(alias)): Ids<AgentId, Alias>,
) -> Result<Json<Row>> {
    let kept = find(&store, caller.tenant, agent, &alias).await?.ok_or_else(|| Error::missing("release"))?;
    row(&store, caller.tenant, kept).await.map(Json)
}

async fn put(
    caller: Scoped<AgentsWrite>,
    State(store): State<SharedStore>,
    State(clock): State<Clock>,
    Ids(agent, alias): Ids<AgentId, Alias>,
    headers: HeaderMap,
    body: Body<Input>,
) -> Result<Json<AliasMove>> {
    let Input { version_id, reason, promotion } = body.value;
    if promotion.is_some_and(|promotion| !promotion.is_null()) {
        return Err(Error::invalid_at("/promotion", "not available: `versionId` names the version"));
    }
    let mover = ReleaseMover { store: &store, clock: &clock, caller: &caller, agent };
    let before = find(&store, caller.tenant, agent, &alias.0).await?;
    // Repeating an activation changes nothing, with any revision.
    let is_there = before.as_ref().is_some_and(|kept| kept.body.version == version_id);
    let wanted = headers.get(IF_MATCH).map(|value| value.to_str().unwrap_or_default().trim_matches('"').parse::<u64>().ok());
    let check = move |kept: &Kept<Release>| is_there || wanted.flatten() == Some(revision(kept));
    let is_expected = (is_there || wanted.is_some()).then_some(&check as &(dyn Fn(&Kept<Release>) -> bool + Send + Sync));
    let ReleaseMove { kept, changed } = mover.move_to(alias, version_id, is_expected).await?;
    let known = if changed { None } else { deployments::latest(&mover, &kept.body.alias).await? };
    let receipt_id = match known {
        Some(receipt) => receipt,
        None => deployments::note(&mover, &kept, DeploymentAction::Activate, before.map(|kept| kept.body.version), reason).await?,
    };
    Ok(Json(AliasMove {
        revision: revision(&kept),
        version_number: number(&store, caller.tenant, version_id).await?,
        version_id,
        alias: kept.body.alias,
        changed,
        receipt_id,
        binding_names: Vec::new(),
    }))
}

async fn delete(
    caller: Scoped<AgentsWrite>,
    State(store): State<SharedStore>,
    State(clock): State<Clock>,
    Ids(agent, Alias(alias)): Ids<AgentId, Alias>,
) -> Result<Json<AliasRemoval>> {
    let mover = ReleaseMover { store: &store, clock: &clock, caller: &caller, agent };
    let known = mover.delete(&alias).await?;
    let receipt_id = deployments::note(&mover, &known, DeploymentAction::Archive, Some(known.body.version), None).await?;
    Ok(Json(AliasRemoval { alias, archived: true, receipt_id, revision: revision(&known) }))
}
