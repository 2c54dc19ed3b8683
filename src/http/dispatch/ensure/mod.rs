//! `ensure` and `pull`: flows and agents that are described in a repository.
//!
//! A deployment asks first with the hash that it knows, and sends the definition only when that is not the saved one's. What somebody changed
//! in another way since is not overwritten unless the call says so. `call` does what these routes ask for.

mod call;

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use self::call::EnsureCall;
use super::about;
use crate::clock::Timestamp;
use crate::error::Result;
use crate::http::AppState;
use crate::http::extract::{Body, Params};
use crate::http::problem::Problem;
use crate::http::scope::{AgentsRead, AgentsWrite, FlowsRead, FlowsWrite, Scoped};
use crate::id::{AgentId, FlowId, FlowVersionId};
use crate::model::TargetKind;

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route(
            "/v1/agents/ensure",
            post_with(ensure_agent, about("ensureAgent", "Agents", "Save an agent as a repository describes it")),
        )
        .api_route("/v1/agents/pull", get_with(pull_agent, about("pullAgent", "Agents", "Read an agent's definition by its name")))
        .api_route("/v1/flows/ensure", post_with(ensure_flow, about("ensureFlow", "Flows", "Save a flow as a repository describes it")))
        .api_route("/v1/flows/pull", get_with(pull_flow, about("pullFlow", "Flows", "Read a flow's definition by its name")))
}

/// What shall be saved, or the hash of what shall be saved already.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EnsureInput")]
struct EnsureInput {
    /// The name; there is one flow, or one agent, of a name.
    name: String,
    /// The hash that the caller knows. Without a definition the answer is `unchanged` or `definitionRequired`.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    content_hash: Option<Value>,
    /// A flow `{name, steps}`, or an agent `{name, description?, icon?, config}`.
    #[serde(default)]
    definition: Option<Map<String, Value>>,
    /// Answer with what would change, and save nothing.
    #[serde(default)]
    dry_run: Option<bool>,
    /// What to do when it was changed in another way since.
    #[serde(default)]
    on_conflict: Option<ConflictPolicy>,
    /// Publish the saved version; of an agent, move `live` to it, too.
    #[serde(default)]
    release: Option<ReleasePolicy>,
    /// The alias that is moved to the saved version, of an agent; instead of `release`.
    #[serde(default, deserialize_with = "crate::model::object::from_optional_object")]
    deploy: Option<DeployTarget>,
    /// Save only if the saved one still has this hash.
    #[serde(default)]
    expected_remote_hash: Option<String>,
    /// Kept with the new version.
    #[serde(default, deserialize_with = "crate::model::object::from_optional_object")]
    version: Option<VersionNote>,
}

/// What `ensure` does about changes that were made in another way.
#[derive(Debug, Deserialize, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "EnsureConflictPolicy")]
enum ConflictPolicy {
    /// Refuse with 409.
    Error,
    /// Replace them.
    Overwrite,
}

/// Whether `ensure` publishes.
#[derive(Debug, Deserialize, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "EnsureReleasePolicy")]
enum ReleasePolicy {
    /// Save only.
    None,
    /// Publish what was saved.
    Publish,
}

/// The alias that shall name what is saved.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "EnsureDeployTarget")]
struct DeployTarget {
    /// `live`.
    alias: String,
    #[serde(default)]
    #[schemars(skip)]
    bindings: Map<String, Value>,
}

/// Where a version comes from.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(rename = "EnsureVersionNote")]
struct VersionNote {
    /// As a commit's hash.
    #[serde(default)]
    label: Option<String>,
    #[serde(default)]
    notes: Option<String>,
}

/// How `ensure` ended.
#[derive(Debug, Serialize, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EnsureResult")]
enum EnsureResult {
    Unchanged,
    Created,
    Updated,
    /// The hash is not the saved one's: send the definition.
    DefinitionRequired,
    /// Of a dry run.
    Plan,
}

/// What a call of `ensure` would do.
#[derive(Debug, Serialize, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "EnsurePlan")]
enum PlannedChange {
    None,
    Create,
    Update,
}

/// What became of a call of `ensure`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EnsureAnswer")]
struct EnsureAnswer {
    result: EnsureResult,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_id: Option<AgentId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flow_id: Option<FlowId>,
    /// The current version.
    #[serde(skip_serializing_if = "Option::is_none")]
    version_id: Option<FlowVersionId>,
    /// The server's hash of the definition; a later call may send it in its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    content_hash: Option<String>,
    /// The hash of what is saved, of a plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    remote_hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<PlannedChange>,
    /// The members of the definition that would change, of a plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    changed_keys: Option<Vec<String>>,
    /// The alias that was moved, of an agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    deployment: Option<Deployment>,
}

/// An alias and what it names.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EnsureDeployment")]
struct Deployment {
    alias: &'static str,
    /// Whether it was moved, or would be by a dry run.
    changed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    version_id: Option<FlowVersionId>,
}

/// Which definition is wanted.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "PullParams")]
struct PullParams {
    /// The name of the flow or the agent.
    name: String,
}

/// A definition as it is saved.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "PulledDefinition")]
struct PullAnswer {
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_id: Option<AgentId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flow_id: Option<FlowId>,
    version_id: FlowVersionId,
    content_hash: String,
    /// As `ensure` takes it.
    definition: Value,
    /// `sdk` after an upsert or `ensure`, `api` after another change; none for what was saved by an earlier version of the server.
    last_modified_source: Option<String>,
    updated_at: Timestamp,
}

async fn ensure_agent(
    caller: Scoped<AgentsWrite>,
    State(state): State<AppState>,
    body: Body<EnsureInput>,
) -> Result<Json<EnsureAnswer>, Problem> {
    EnsureCall::new(&state, &caller, TargetKind::Agent).ensure(body.value).await.map(Json)
}

async fn ensure_flow(
    caller: Scoped<FlowsWrite>,
    State(state): State<AppState>,
    body: Body<EnsureInput>,
) -> Result<Json<EnsureAnswer>, Problem> {
    EnsureCall::new(&state, &caller, TargetKind::Flow).ensure(body.value).await.map(Json)
}

async fn pull_agent(
    caller: Scoped<AgentsRead>,
    State(state): State<AppState>,
    Params(params): Params<PullParams>,
) -> Result<Json<PullAnswer>> {
    EnsureCall::new(&state, &caller, TargetKind::Agent).pull(&params.name).await.map(Json)
}

async fn pull_flow(
    caller: Scoped<FlowsRead>,
    State(state): State<AppState>,
    Params(params): Params<PullParams>,
) -> Result<Json<PullAnswer>> {
    EnsureCall::new(&state, &caller, TargetKind::Flow).pull(&params.name).await.map(Json)
}
