//! One trace span and one measurement per request.
//!
//! Names the route's pattern, never the path, query or body: those hold ids, secrets and other people's data.

use axum::extract::{MatchedPath, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument;
use tracing::field::Empty;

use super::headers::RequestId;
use crate::clock::Clock;

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
    let id = request.extensions().get::<RequestId>();
    let span = tracing::info_span!("request", method, route, request_id = id.map_or("", RequestId::as_str), status = Empty, tenant = Empty);
    let start = clock.instant();
    let response = next.run(request).instrument(span.clone()).await;
    let status = response.status().as_u16();
    span.record("status", status);
    let seconds = clock.instant().duration_since(start).as_secs_f64();
    span.in_scope(|| tracing::debug!(elapsed_ms = seconds * 1_000.0, "answered"));
    metrics::counter!(REQUESTS, "method" => method, "route" => route.clone(), "status" => status.to_string()).increment(1);
    metrics::histogram!(SECONDS, "method" => method, "route" => route).record(seconds);
    response
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
