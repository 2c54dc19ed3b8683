//! The API document (OpenAPI 3.1), made from the handlers' types.
//!
//! aide reads the signatures; what it cannot know is added here: JSON Schema draft 2020-12, how callers
//! prove themselves, the error envelope and a description on every operation (`operations`), and examples (`examples`). Generators of
//! clients read it, so its schemas are brought into the form that they understand (`plain`). `openapi/dispatch.json` is a snapshot of it.

mod examples;
mod operations;
mod plain;

use aide::axum::ApiRouter;
use aide::generate::in_context;
use aide::openapi::{ApiKeyLocation, Info, OpenApi, SecurityScheme, Server, Tag};
use axum::Router;
use axum::http::StatusCode;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::extract::STRICT;
use super::{AppState, admin, dispatch, docs, openai, workflows};
use crate::error::{Envelope, Kind};

const BEARER: &str = "bearer";
const API_KEY: &str = "apiKey";
const SESSION: &str = "session";

/// Every route with its documentation. `guard` wraps the routes that need a secret key.
pub fn surfaces(guard: impl Fn(ApiRouter<AppState>) -> ApiRouter<AppState>) -> (Router<AppState>, Value) {
    in_context(|context| {
        let settings = SchemaSettings::draft2020_12().with(|settings| settings.definitions_path = "/components/schemas".into());
        context.schema = SchemaGenerator::new(settings);
    });
    let of_workflows = workflows::routes().with_path_items(|item| item.security_requirement(SESSION));
    let guarded = dispatch::routes()
        .merge(admin::routes())
        .merge(of_workflows)
        .with_path_items(|item| item.security_requirement(BEARER).security_requirement(API_KEY));
    let of_openai = openai::routes().with_path_items(|item| item.security_requirement(BEARER).security_requirement(API_KEY));
    let routes = ApiRouter::new()
        .merge(guard(guarded))
        .merge(openai::with_error_form(guard(of_openai)))
        .merge(dispatch::public_routes())
        .merge(admin::public_routes())
        .merge(workflows::public_routes())
        .merge(docs::routes());
    in_context(|context| {
        context.schema.subschema_for::<Envelope<'static>>();
        openai::register_schemas(&mut context.schema);
    });
    let mut api = OpenApi { info: info(), servers: servers(), tags: tags(), ..OpenApi::default() };
    let router = routes.finish_api_with(&mut api, |api| {
        api.security_scheme(BEARER, bearer()).security_scheme(API_KEY, api_key()).security_scheme(SESSION, session())
    });
    (router, complete(serde_json::to_value(&api).unwrap_or_default()))
}

/// The document.
pub fn document() -> Value {
    surfaces(|routes| routes).1
}

/// The document as it is kept in `openapi/dispatch.json`.
pub fn text() -> String {
    super::schemas::pretty(&document())
}

fn info() -> Info {
    Info {
        title: "Dispatch".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        description: Some(
            "Runs LLM agent and flow executions for other people's backends. Every error is one envelope; its `code` is stable, \
             `retryable` says whether the same call can succeed later, and `next` what to do."
                .into(),
        ),
        ..Info::default()
    }
}

/// Read relative to the document's own address, the first one is the server that handed it out.
fn servers() -> Vec<Server> {
    let server = |url: &str, text: &str| Server { url: url.into(), description: Some(text.into()), ..Server::default() };
    vec![
        server("/", "The server that hands out this document"),
        server("http://127.0.0.1:8080", "A server on this machine, as `dispatch serve` begins it"),
    ]
}

fn tags() -> Vec<Tag> {
    operations::TAGS.iter().map(|(name, text)| Tag { name: (*name).into(), description: Some((*text).into()), ..Tag::default() }).collect()
}

fn bearer() -> SecurityScheme {
    let description = Some("An API key: `Authorization: Bearer dsp_live_...`; the bare key is accepted too.".into());
    SecurityScheme::Http { scheme: "bearer".into(), bearer_format: None, description, extensions: Default::default() }
}

fn api_key() -> SecurityScheme {
    SecurityScheme::ApiKey {
        location: ApiKeyLocation::Header,
        name: "X-API-Key".into(),
        description: Some("An API key.".into()),
        extensions: Default::default(),
    }
}

fn session() -> SecurityScheme {
    SecurityScheme::ApiKey {
        location: ApiKeyLocation::Header,
        name: "Dispatched-Session".into(),
        description: Some("A session begun at POST /api/session, or a run's token.".into()),
        extensions: Default::default(),
    }
}

/// The statuses that any operation may answer with.
const ALWAYS: &[(u16, &str)] = &[
    (Kind::Malformed.status(), "The request is not well-formed"),
    (Kind::Internal.status(), "Our fault"),
    (Kind::Unavailable.status(), "Cannot be served now"),
];
/// Those of operations that need a key.
const GUARDED: &[(u16, &str)] = &[
    (Kind::Unauthenticated.status(), "No valid API key"),
    (Kind::Forbidden.status(), "The key lacks a scope"),
    (Kind::Missing.status(), "Not there, or not yours"),
    (Kind::Conflict.status(), "It clashes with the present state"),
    (Kind::Limited.status(), "Too many calls; see Retry-After"),
];
/// Those of pages.
const OF_PAGES: &[(u16, &str)] = &[(StatusCode::GONE.as_u16(), "It was there, and was deleted")];
/// Those of calls that wait for what may fail elsewhere.
const OF_OTHERS: &[(u16, &str)] = &[(StatusCode::BAD_GATEWAY.as_u16(), "What was waited for failed; details say what")];
/// Those of files.
const OF_FILES: &[(u16, &str)] = &[(StatusCode::RANGE_NOT_SATISFIABLE.as_u16(), "Nothing is in the range that was asked for")];
/// Those of calls that are answered by a model, where nothing else could be answered.
const OF_MODELS: &[(u16, &str)] = &[
    (Kind::Unconfigured.status(), "The model's provider has no key here, or refuses it"),
    (StatusCode::GATEWAY_TIMEOUT.as_u16(), "The model took too long"),
];
/// Those of operations that take a body.
const WITH_BODY: &[(u16, &str)] = &[
    (408, "The body came too slowly"),
    (Kind::TooLarge.status(), "The body is larger or deeper than allowed"),
    (415, "The body is not JSON"),
    (Kind::Invalid.status(), "The body or the query is invalid; details.problems points at every fault"),
];

/// Adds the error answers to every operation, and what is said of it; then brings all schemas into the form of generators.
fn complete(mut document: Value) -> Value {
    let all = [ALWAYS, GUARDED, OF_PAGES, OF_OTHERS, OF_FILES, OF_MODELS, WITH_BODY].concat();
    let mut answers: Map<String, Value> = all.iter().map(|(status, text)| (name(*status), error_answer(text, ENVELOPE))).collect();
    answers.extend(all.iter().map(|(status, text)| (openai_name(*status), error_answer(text, openai::ERROR_SCHEMA))));
    answers.sort_keys();
    if let Some(components) = document.get_mut("components").and_then(Value::as_object_mut) {
        components.insert("responses".into(), Value::Object(answers));
    }
    let paths = document.get_mut("paths").and_then(Value::as_object_mut);
    let operations =
        paths.into_iter().flat_map(|paths| paths.values_mut()).filter_map(Value::as_object_mut).flat_map(|path| path.values_mut());
    for operation in operations.filter_map(Value::as_object_mut).filter(|operation| operation.contains_key("responses")) {
        let guarded = operation.get("security").is_some() || is_of_pages(operation);
        let is_of_openai = has_tag(operation, openai::TAG);
        let name = if is_of_openai { openai_name } else { name };
        let with_body = operation.get("requestBody").is_some();
        let mut statuses: Vec<u16> = ALWAYS.iter().map(|(status, _)| *status).collect();
        statuses.extend(GUARDED.iter().filter(|_| guarded).map(|(status, _)| *status));
        statuses.extend(WITH_BODY.iter().filter(|_| with_body).map(|(status, _)| *status));
        statuses.extend(OF_MODELS.iter().filter(|_| with_body && is_of_openai).map(|(status, _)| *status));
        statuses.extend((!with_body && operation.contains_key(STRICT)).then_some(Kind::Invalid.status()));
        statuses.extend(is_of_pages(operation).then_some(StatusCode::GONE.as_u16()));
        statuses.sort_unstable();
        let summary = operation.get("summary").cloned().unwrap_or_default();
        if let Some(responses) = operation.get_mut("responses").and_then(Value::as_object_mut) {
            // A bare list has no words of its own.
            for response in responses.values_mut().filter(|response| response.get("description").is_some_and(|text| text == "")) {
                response["description"] = summary.clone();
            }
            for status in statuses {
                let reference = json!({ "$ref": format!("#/components/responses/{}", name(status)) });
                responses.entry(status.to_string()).or_insert(reference);
            }
        }
        operations::complete(operation);
    }
    plain::simplify(&mut document);
    if let Some(schemas) = document.pointer_mut("/components/schemas").and_then(Value::as_object_mut) {
        schemas.sort_keys();
    }
    document
}

/// Whether pages call it: they prove themselves in the body.
fn is_of_pages(operation: &Map<String, Value>) -> bool {
    has_tag(operation, dispatch::PAGES)
}

fn has_tag(operation: &Map<String, Value>, wanted: &str) -> bool {
    operation.get("tags").and_then(Value::as_array).is_some_and(|tags| tags.iter().any(|tag| tag == wanted))
}

fn name(status: u16) -> String {
    format!("Error{status}")
}

/// The answer with this status in OpenAI's error form.
fn openai_name(status: u16) -> String {
    format!("OpenAiError{status}")
}

/// The schema of errors everywhere else.
const ENVELOPE: &str = "ErrorEnvelope";

fn error_answer(text: &str, schema: &str) -> Value {
    let schema = json!({ "$ref": format!("#/components/schemas/{schema}") });
    json!({ "description": text, "content": { "application/json": { "schema": schema } } })
}
