//! One trace span and one measurement per request.
//!
//! Names the route's pattern, never the path, query or body: those hold ids, secrets and other people's data.

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use opentelemetry::trace::Status;
use tracing::field::Empty;
use tracing::{Instrument, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::headers::RequestId;
use super::problem::Code;
use crate::clock::Clock;
use crate::model::Origin;
use crate::model::origin::{is_place, place_of};

/// The header with the caller's span (<https://www.w3.org/TR/trace-context/>).
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Label of requests that no route matched.
const UNMATCHED: &str = "unmatched";

/// The names of the metrics, for descriptions and dashboards.
pub const REQUESTS: &str = "dispatch_http_requests_total";
pub const SECONDS: &str = "dispatch_http_request_seconds";

/// Tells the metrics recorder what the numbers mean. Once, after the recorder is installed.
pub fn describe() {
    metrics::describe_counter!(REQUESTS, "Answered requests by method, route pattern and status");
    metrics::describe_histogram!(SECONDS, metrics::Unit::Seconds, "Time until the head of the answer, by method and route pattern");
}

/// Runs the request in its span and counts it.
pub async fn observe(State(clock): State<Clock>, request: Request, next: Next) -> Response {
    let method = name(request.method());
    let route = request.extensions().get::<MatchedPath>().map_or_else(|| UNMATCHED.to_owned(), |path| path.as_str().to_owned());
    let id = request.extensions().get::<RequestId>().map(|id| id.as_str().to_owned());
    let span =
        tracing::info_span!("request", method, route, request_id = id.as_deref().unwrap_or_default(), status = Empty, tenant = Empty);
    let origin = origin(&span, id, request.headers());
    let start = clock.instant();
    let response = origin.of(next.run(request)).instrument(span.clone()).await;
    let status = response.status();
    came_out(&span, status);
    let seconds = clock.instant().duration_since(start).as_secs_f64();
    span.in_scope(|| tell(&response, seconds));
    let status = status.as_u16();
    metrics::counter!(REQUESTS, "method" => method, "route" => route.clone(), "status" => status.to_string()).increment(1);
    metrics::histogram!(SECONDS, "method" => method, "route" => route).record(seconds);
    response
}

/// Notes the answer's status: for lines of the log, and for traces in the words of OpenTelemetry's conventions.
fn came_out(span: &Span, status: StatusCode) {
    // Unsigned numbers would be texts in traces.
    let code = i64::from(status.as_u16());
    span.record("status", code);
    span.set_attribute("http.response.status_code", code);
    if status.is_server_error() {
        span.set_attribute("error.type", code.to_string());
        span.set_status(Status::error(""));
    }
}

/// What begins with this request, and in which trace: its own span stands where the caller says, and what it begins stands below its own.
fn origin(span: &Span, request: Option<String>, headers: &HeaderMap) -> Origin {
    let given = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok()).filter(|text| is_place(text)).map(str::to_owned);
    let caller = Origin { request, trace: given };
    caller.adopt(span);
    Origin { trace: place_of(span).or(caller.trace), request: caller.request }
}

/// Logs the outcome of the request. Internal errors were logged with their cause already.
fn tell(response: &Response, seconds: f64) {
    let elapsed_ms = seconds * 1_000.0;
    if response.status().is_client_error() {
        let code = response.extensions().get::<Code>().map(|code| &*code.0);
        tracing::info!(code, elapsed_ms, "refused");
    } else {
        tracing::debug!(elapsed_ms, "answered");
    }
}

/// Methods outside the standard share one label, so that callers cannot make labels.
fn name(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "HEAD" => "HEAD",
        "OPTIONS" => "OPTIONS",
        _ => "OTHER",
    }
}
