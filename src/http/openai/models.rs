//! `GET /v1/models`: the models that can be asked, and the saved agents and flows that answer like models.

use aide::axum::ApiRouter;
use aide::axum::routing::get_with;
use axum::extract::{Path, State};
use axum::routing::get;
use axum::{Json, Router};
use schemars::JsonSchema;
use serde::Serialize;

use super::target::{PREFIXES, no_such_model, saved_name};
use super::{TAG, about};
use crate::error::{Error, Result};
use crate::http::AppState;
use crate::http::extract::{Id, InPath};
use crate::http::scope::{FlowsExecute, Scoped};
use crate::model::{Caller, TargetKind};
use crate::store::SavedFlow;

/// Saved agents, and saved flows, that are listed: the newest.
const MAX_SAVED: u32 = 1_000;
/// Who owns saved agents and flows.
const OWNER: &str = "dispatch";

pub fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route("/v1/models", get_with(list, about("listModels", TAG, "List the models, agents and flows that can be asked")))
        .api_route("/v1/models/{modelId}", get_with(find, about("getModel", TAG, "Get a model, an agent or a flow that can be asked")))
}

/// Older clients write `provider/model` into the path without encoding it.
pub fn unlisted_routes() -> Router<AppState> {
    Router::new().route("/v1/models/{modelId}/{*rest}", get(find_nested))
}

/// A model's name, or that of a saved agent or flow, in a path.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(inline)]
struct ModelName(#[schemars(length(min = 1))] String);

impl std::str::FromStr for ModelName {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl InPath for ModelName {
    const PARAM: &'static str = "modelId";
    const NOUN: &'static str = "model";

    fn missing() -> Error {
        no_such_model("no such model")
    }
}

/// A model that can be asked.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "OpenAiModel")]
struct Model {
    /// `provider/model`, `agent:` or `flow:` and a name, or a name that the operator chose.
    id: String,
    /// Always `model`.
    object: &'static str,
    /// Unix time in seconds; 0 for models of providers.
    created: i64,
    /// The provider, or `dispatch`.
    owned_by: String,
}

impl Model {
    fn new(id: impl Into<String>, created: i64, owned_by: impl Into<String>) -> Self {
        Self { id: id.into(), object: "model", created, owned_by: owned_by.into() }
    }

    fn of_saved(saved: &SavedFlow, prefix: &str) -> Self {
        Self::new(format!("{prefix}{}", saved.name), super::answer::seconds(saved.created_at), OWNER)
    }
}

/// The models that can be asked.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "OpenAiModelList")]
struct ModelList {
    /// Always `list`.
    object: &'static str,
    data: Vec<Model>,
}

async fn list(caller: Scoped<FlowsExecute>, State(state): State<AppState>) -> Result<Json<ModelList>> {
    let mut data = models(&state, &caller).await?;
    for (kind, prefix) in readable(&caller) {
        let saved = state.store.list_flows(caller.tenant, kind, None, None, MAX_SAVED).await?;
        data.extend(saved.iter().map(|saved| Model::of_saved(saved, prefix)));
    }
    Ok(Json(ModelList { object: "list", data }))
}

async fn find(caller: Scoped<FlowsExecute>, State(state): State<AppState>, Id(name): Id<ModelName>) -> Result<Json<Model>> {
    found(&state, &caller, &name.0).await.map(Json)
}

async fn find_nested(
    caller: Scoped<FlowsExecute>,
    State(state): State<AppState>,
    Path((provider, model)): Path<(String, String)>,
) -> Result<Json<Model>> {
    found(&state, &caller, &format!("{provider}/{model}")).await.map(Json)
}

async fn found(state: &AppState, caller: &Caller, name: &str) -> Result<Model> {
    let found = match saved_name(name) {
        Some((kind, saved)) => match readable(caller).find(|(readable, _)| *readable == kind) {
            Some((_, prefix)) => {
                state.store.find_flow_by_name(caller.tenant, kind, saved).await?.map(|saved| Model::of_saved(&saved, prefix))
            }
            None => None,
        },
        None => {
            // A short name stands for the model that it resolves to.
            let full = state.engine.parts().models.resolve(name).map(|model| model.to_string()).unwrap_or_default();
            let listed = models(state, caller).await?;
            listed.into_iter().find(|model| model.id == name || model.id == full).map(|model| Model { id: name.to_owned(), ..model })
        }
    };
    found.ok_or_else(ModelName::missing)
}

/// The models of providers with a key, and the names that the operator chose.
async fn models(state: &AppState, caller: &Caller) -> Result<Vec<Model>> {
    let keys = state.engine.tenant_keys(caller.tenant).await?;
    let models = &state.engine.parts().models;
    let mut listed: Vec<Model> = Vec::new();
    for card in models.list(&keys).into_iter().filter(|card| card.configured) {
        listed.push(Model::new(card.id, 0, card.provider));
    }
    let chosen: Vec<Model> = models
        .alias_names()
        .filter_map(|name| Some(Model::new(name, 0, models.resolve(name).ok()?.provider)))
        .filter(|model| listed.iter().all(|known| known.id != model.id))
        .collect();
    listed.extend(chosen);
    Ok(listed)
}

/// The kinds of saved ones whose names the caller may read, with their prefixes.
fn readable(caller: &Caller) -> impl Iterator<Item = (TargetKind, &'static str)> {
    let scope = |kind| match kind {
        TargetKind::Agent => "AGENTS:READ",
        TargetKind::Flow => "FLOWS:READ",
    };
    PREFIXES.into_iter().filter(move |(kind, _)| caller.may(scope(*kind)))
}
