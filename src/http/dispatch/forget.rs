//! `DELETE /v1/vectors` and `DELETE /v1/memories`: what flows kept about things and people, forgotten.

use aide::axum::ApiRouter;
use aide::axum::routing::delete_with;
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::about;
use crate::engine::step::Memory;
use crate::error::Result;
use crate::http::AppState;
use crate::http::extract::Params;
use crate::http::scope::{RecordsWrite, Scoped};
use crate::store::{Collection, SharedStore};

const TAG: &str = "Memory";

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route("/v1/vectors", delete_with(vectors, about("deleteVectors", TAG, "Forget one vector, or all of a collection")))
        .api_route("/v1/memories", delete_with(memories, about("deleteMemories", TAG, "Forget what is remembered of somebody")))
}

#[derive(Debug, Deserialize, JsonSchema)]
struct WhichVectors {
    /// The collection's name, filled in as the flow's step did.
    collection: String,
    /// One vector, by its id or its name in the collection; all of them when absent.
    id: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct WhichMemories {
    /// Whose, as `user:ada@example.com`: the profile's name, filled in as the flow's step did.
    profile: String,
}

/// How much was there.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ForgottenCount")]
struct Forgotten {
    deleted: u64,
}

async fn vectors(
    caller: Scoped<RecordsWrite>,
    State(store): State<SharedStore>,
    Params(which): Params<WhichVectors>,
) -> Result<Json<Forgotten>> {
    let deleted = store.delete_vectors(caller.tenant, &which.collection, which.id.map(|id| vec![id])).await?;
    Ok(Json(Forgotten { deleted }))
}

async fn memories(
    caller: Scoped<RecordsWrite>,
    State(store): State<SharedStore>,
    Params(which): Params<WhichMemories>,
) -> Result<Json<Forgotten>> {
    let deleted = Collection::<Memory>::of(&*store, caller.tenant).delete_of(&which.profile).await?;
    Ok(Json(Forgotten { deleted }))
}
