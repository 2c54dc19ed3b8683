//! The OpenAI surface: chat completions, responses, embeddings and models in OpenAI's wire form, so that its SDKs can point their base URL here.
//!
//! A chat completion is an execution like any other: `request` reads what is asked, `settings` and `tools` turn it into a flow of one prompt (or
//! `target` finds a saved agent or flow), the engine runs it (`execution`), and `answer` reads what its log tells as one completion. `chat` answers
//! with it whole, `stream` as events, which `chunks` writes. `responses` says the same in the words of the Responses API. Whatever cannot be honoured is refused with the name of the parameter; every refusal has OpenAI's form (`error`).
//!
//! Must not know: the documents of other surfaces, providers' wire formats.

mod answer;
mod chat;
mod chunks;
mod embeddings;
mod error;
mod execution;
mod models;
mod request;
mod responses;
mod settings;
mod stream;
mod target;
mod tools;
mod wire;

use aide::axum::ApiRouter;
use aide::generate::in_context;
use aide::openapi::{MediaType, ReferenceOr, SchemaObject, StatusCode};
use aide::transform::TransformOperation;
use axum::Router;
use axum::middleware::map_response;
use schemars::{JsonSchema, SchemaGenerator};

pub(super) use self::error::ERROR_SCHEMA;
use super::{AppState, about};

pub(super) const TAG: &str = "OpenAI";

/// Every route of this surface.
pub fn routes() -> ApiRouter<AppState> {
    ApiRouter::new().merge(chat::routes()).merge(responses::routes()).merge(embeddings::routes()).merge(models::routes())
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

/// Documents that an operation's answer comes whole, or as server-sent events whose data has the form `E`.
fn with_events<'t, E: JsonSchema>(mut operation: TransformOperation<'t>, answer: &str, data: &str) -> TransformOperation<'t> {
    let event = in_context(|context| context.schema.subschema_for::<E>());
    let json_schema = schemars::json_schema!({
        "type": "object",
        "required": ["data"],
        "properties": {
            "data": {
                "type": "string",
                "description": data,
                "contentMediaType": "application/json",
                "contentSchema": event,
            },
        },
    });
    let schema = Some(SchemaObject { json_schema, external_docs: None, example: None });
    let responses = operation.inner_mut().responses.get_or_insert_default();
    if let Some(ReferenceOr::Item(response)) = responses.responses.get_mut(&StatusCode::Code(200)) {
        response.description = answer.into();
        response.content.insert("text/event-stream".into(), MediaType { schema, ..MediaType::default() });
    }
    operation
}
