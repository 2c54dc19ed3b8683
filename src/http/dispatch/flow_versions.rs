//! `/v1/flow-versions`: the immutable versions of a flow.

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use super::flows::{self, shelf};
use super::{about, body_optional, provenance};
use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::http::AppState;
use crate::http::extract::{Id, Ids};
use crate::http::scope::{FlowsRead, Scoped};
use crate::id::{FlowId, FlowVersionId};
use crate::store::{FlowVersion, SharedStore};

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route("/v1/flow-versions/{flowId}", get_with(list, about("listFlowVersions", "Flows", "List a flow's versions, newest first")))
        .api_route(
            "/v1/flow-versions/{flowId}/published",
            get_with(published, about("getPublishedFlowVersion", "Flows", "Read the published version of a flow")),
        )
        .api_route(
            "/v1/flow-versions/{flowId}/publish",
            post_with(flows::publish, |op| body_optional(about("publishFlowVersion", "Flows", "Publish a version of a flow")(op))),
        )
        .api_route("/v1/flow-versions/{flowId}/{versionId}", get_with(read, about("getFlowVersion", "Flows", "Read a version of a flow")))
}

/// One version of a flow.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "FlowVersion")]
struct Row {
    id: FlowVersionId,
    flow_id: FlowId,
    /// 1, 2, 3, ... within the flow.
    version_number: u32,
    version_type: VersionType,
    /// The document as it was saved.
    flow_config: Value,
    step_count: usize,
    /// The names of its steps.
    step_summary: String,
    label: Option<String>,
    notes: Option<String>,
    created_at: Timestamp,
    published_at: Option<Timestamp>,
}

/// Whether a version was ever published.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum VersionType {
    Draft,
    Published,
}

impl VersionType {
    pub fn of(version: &FlowVersion) -> Self {
        if version.published_at.is_some() { Self::Published } else { Self::Draft }
    }
}

/// The versions of a flow.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "FlowVersionList")]
struct Versions {
    flow_id: FlowId,
    published_version_id: Option<FlowVersionId>,
    data: Vec<Row>,
    /// Same as `data`.
    versions: Vec<Row>,
}

impl From<FlowVersion> for Row {
    fn from(version: FlowVersion) -> Self {
        let text = |key: &str| version.document.get(key).and_then(Value::as_str).map(str::to_owned);
        let steps = flows::steps(&version.document);
        let named = |step: &Map<String, Value>| step.get("name").or_else(|| step.get("id")).and_then(Value::as_str).map(str::to_owned);
        Self {
            version_type: VersionType::of(&version),
            step_count: steps.len(),
            step_summary: steps.iter().filter_map(named).collect::<Vec<_>>().join(", "),
            id: version.id,
            flow_id: version.flow,
            version_number: version.number,
            label: text("label"),
            notes: text("notes"),
            flow_config: provenance::content(&version.document),
            created_at: version.created_at,
            published_at: version.published_at,
        }
    }
}

async fn list(caller: Scoped<FlowsRead>, State(store): State<SharedStore>, Id(id): Id<FlowId>) -> Result<Json<Versions>> {
    let shelf = shelf(&store, caller.tenant);
    let published_version_id = shelf.head(id).await?.published;
    let versions: Vec<Row> = shelf.versions(id).await?.into_iter().map(Row::from).collect();
    Ok(Json(Versions { flow_id: id, published_version_id, data: versions.clone(), versions }))
}

async fn published(caller: Scoped<FlowsRead>, State(store): State<SharedStore>, Id(id): Id<FlowId>) -> Result<Json<Row>> {
    let unpublished = || Error::missing("published version").next("POST /v1/flows/{flowId}/publish publishes the current one");
    let shelf = shelf(&store, caller.tenant);
    let version = shelf.head(id).await?.published.ok_or_else(unpublished)?;
    shelf.version(id, version).await.map(|version| Json(version.into()))
}

async fn read(
    caller: Scoped<FlowsRead>,
    State(store): State<SharedStore>,
    Ids(flow, version): Ids<FlowId, FlowVersionId>,
) -> Result<Json<Row>> {
    shelf(&store, caller.tenant).version(flow, version).await.map(|version| Json(version.into()))
}
