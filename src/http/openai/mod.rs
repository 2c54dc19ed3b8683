//! The OpenAI surface: chat completions, embeddings and models in OpenAI's wire form, so that its SDKs can point their base URL here.
//!
//! A chat completion is an execution like any other: `request` reads what is asked, `settings` and `tools` turn it into a flow of one prompt (or
//! `target` finds a saved agent or flow), the engine runs it, and `answer` reads what its log tells as one completion. `chat` answers with it whole,
//! `stream` in chunks. Whatever cannot be honoured is refused with the name of the parameter; every refusal has OpenAI's form (`error`).
//!
//! Must not know: the documents of other surfaces, providers' wire formats.

mod answer;
mod chat;
mod embeddings;
mod error;
mod models;
mod request;
mod settings;
mod stream;
mod target;
mod tools;
mod wire;

use aide::axum::ApiRouter;
use axum::Router;
use axum::middleware::map_response;
use schemars::SchemaGenerator;

pub(super) use self::error::ERROR_SCHEMA;
use super::{AppState, about};

pub(super) const TAG: &str = "OpenAI";

/// Every route of this surface.
pub fn routes() -> ApiRouter<AppState> {
    ApiRouter::new().merge(chat::routes()).merge(embeddings::routes()).merge(models::routes())
}

/// The routes that only clients need which write a model's name into a path as it is, behind the guard of keys.
pub fn unlisted_routes(guard: impl FnOnce(Router<AppState>) -> Router<AppState>) -> Router<AppState> {
    guard(models::unlisted_routes()).route_layer(map_response(error::convert))
}

/// Puts whatever is refused on the way to these routes, and by them, into OpenAI's form. It belongs around the guard.
pub fn with_error_form(routes: ApiRouter<AppState>) -> ApiRouter<AppState> {
    routes.route_layer(map_response(error::convert))
}

/// Adds the schemas that answers of these routes name.
pub fn register_schemas(schemas: &mut SchemaGenerator) {
    schemas.subschema_for::<error::ErrorDocument>();
}
