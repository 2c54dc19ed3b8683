//! What the server says about itself: the API document, a guide for agents, its health, its metrics.
//!
//! Open to everyone: nothing here belongs to a tenant.

use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aide::OperationOutput;
use aide::axum::ApiRouter;
use aide::axum::routing::get_with;
use aide::openapi::{MediaType, ReferenceOr, Response as Documented, SchemaObject, StatusCode};
use aide::transform::TransformOperation;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use metrics_exporter_prometheus::PrometheusHandle;
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde_json::{Value, json};

use super::{AppState, openapi};
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::queue::Workers;
use crate::store::SharedStore;

/// How long the database may take to say that it is there.
const PING_LIMIT: Duration = Duration::from_secs(2);

const GUIDE: &str = include_str!("../../docs/llms.txt");

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| openapi::document().to_string().into());

/// Whether the server takes new work. Shared with whoever shuts it down.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// From now on `/readyz` answers 503, so that balancers send new work elsewhere.
    pub fn drain(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub fn is_draining(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The open routes.
pub fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route("/livez", get_with(livez, |op| about(op, "livez", "Whether the process runs")))
        .api_route(
            "/readyz",
            get_with(readyz, |op| about(op, "readyz", "Check whether the server accepts work and its database accepts writes")),
        )
        .api_route(
            "/llms.txt",
            get_with(llms, |op| text(about(op, "llms", "A guide to this API for agents"), "text/plain", json!({ "type": "string" }))),
        )
        .api_route(
            "/v1/openapi.json",
            get_with(document, |op| text(about(op, "openapi", "This document"), "application/json", json!({ "type": "object" }))),
        )
}

fn about<'t>(operation: TransformOperation<'t>, id: &str, summary: &str) -> TransformOperation<'t> {
    operation.id(id).tag("Server").summary(summary)
}

/// Documents an answer that is a ready text.
fn text<'t>(mut operation: TransformOperation<'t>, kind: &str, schema: Value) -> TransformOperation<'t> {
    let schema = Schema::try_from(schema).ok().map(|json_schema| SchemaObject { json_schema, external_docs: None, example: None });
    let content = [(kind.to_owned(), MediaType { schema, ..MediaType::default() })].into_iter().collect();
    let answer = Documented { description: "The text".into(), content, ..Documented::default() };
    let responses = operation.inner_mut().responses.get_or_insert_default();
    responses.responses.insert(StatusCode::Code(200), ReferenceOr::Item(answer));
    operation
}

/// Links for whoever opens the server's address in a browser or calls it without a path.
pub fn front() -> Router<AppState> {
    Router::new().route("/", get(welcome))
}

async fn welcome(headers: HeaderMap) -> Response {
    let accepts = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accepts.contains("text/html") {
        return ([(CONTENT_TYPE, "text/html; charset=utf-8")], WELCOME).into_response();
    }
    let links = json!({
        "name": "dispatch", "version": env!("CARGO_PKG_VERSION"), "guide": "/llms.txt", "openapi": "/v1/openapi.json", "live": "/livez",
        "ready": "/readyz", "metrics": "/metrics",
    });
    Json(links).into_response()
}

const WELCOME: &str = concat!(
    "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Dispatch</title><h1>Dispatch ",
    env!("CARGO_PKG_VERSION"),
    "</h1><p>This server runs LLM flows for backends. Call it over HTTP with an API key.</p><ul>\
     <li><a href=\"/llms.txt\">Guide</a></li><li><a href=\"/v1/openapi.json\">API document (OpenAPI)</a></li>\
     <li><a href=\"/readyz\">Readiness</a></li><li><a href=\"/metrics\">Metrics</a></li></ul></html>\n"
);

/// `/metrics`, for Prometheus.
pub fn metrics(handle: PrometheusHandle) -> Router<AppState> {
    let render = move || {
        let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        metrics::gauge!("dispatch_tasks").set(u32::try_from(tasks).unwrap_or(u32::MAX));
        let text = handle.render();
        async move { ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text) }
    };
    Router::new().route("/metrics", get(render))
}

/// A health check's good answer.
#[derive(Debug, Serialize, JsonSchema)]
struct Health {
    /// Always `ok`.
    status: &'static str,
}

async fn livez() -> Json<Health> {
    Json(Health { status: "ok" })
}

async fn readyz(
    State(readiness): State<Readiness>,
    State(workers): State<Workers>,
    State(store): State<SharedStore>,
    State(clock): State<Clock>,
) -> Result<Json<Health>> {
    let not_ready = |code, message: &str| Error::new(Kind::Unavailable, code, message).retry_after(Duration::from_secs(1));
    if readiness.is_draining() {
        return Err(not_ready("shutting_down", "the server is shutting down"));
    }
    workers.admits()?;
    tokio::select! {
        answer = store.ping() => answer.map_err(|cause| {
            let message = cause.public_reason().unwrap_or("the database does not answer or refuses writes").to_owned();
            not_ready("store_unavailable", &message).because(cause)
        })?,
        () = clock.sleep(PING_LIMIT) => return Err(not_ready("store_unavailable", "the database does not answer in time")),
    }
    Ok(Json(Health { status: "ok" }))
}

/// A text with its type.
struct Text(&'static str, Bytes);

impl IntoResponse for Text {
    fn into_response(self) -> Response {
        ([(CONTENT_TYPE, self.0)], self.1).into_response()
    }
}

/// Its type is told where it is routed, see [`text`].
impl OperationOutput for Text {
    type Inner = Self;
}

async fn llms() -> Text {
    Text("text/plain; charset=utf-8", Bytes::from_static(GUIDE.as_bytes()))
}

async fn document() -> Text {
    Text("application/json", DOCUMENT.clone())
}
