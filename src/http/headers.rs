//! What every answer carries: a request id, and headers that keep browsers from guessing, framing or keeping it.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::clock::Clock;
use crate::id;

/// An answer of server-sent events, which nobody on the way keeps or gathers.
pub fn event_stream(body: Body) -> Response {
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

/// The header that names a request, in both directions.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longer ids from outside are replaced.
const LONGEST: usize = 128;

/// The request's id: the caller's own if it is sane, else a fresh `req_...`. In the request's extensions.
#[derive(Debug, Clone)]
pub struct RequestId(HeaderValue);

impl RequestId {
    fn of(headers: &HeaderMap, clock: &Clock) -> Self {
        let own = headers.get(REQUEST_ID).filter(|value| is_sane(value.as_bytes())).cloned();
        // The text of an id is always a legal header value.
        Self(own.unwrap_or_else(|| {
            HeaderValue::from_str(&id::RequestId::new(clock).to_string()).unwrap_or(HeaderValue::from_static("req_unknown"))
        }))
    }

    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

/// Letters, digits and `-_.:` only: safe in logs, headers and search fields.
fn is_sane(id: &[u8]) -> bool {
    (1..=LONGEST).contains(&id.len()) && id.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte))
}

/// Set unless the handler chose its own.
const DEFAULTS: &[(HeaderName, &str)] = &[
    (CACHE_CONTROL, "no-store"),
    (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (REFERRER_POLICY, "no-referrer"),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
];

/// An empty body of unknown length: the router writes `Content-Length` for every body whose length it knows, even 0.
struct NoBody;

impl http_body::Body for NoBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::new()
    }
}

/// Removes the body of a response whose status allows none, and its length, which would be wrong too (RFC 9110, section 8.6).
fn without_forbidden_body(response: Response) -> Response {
    let status = response.status();
    if !status.is_informational() && status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED {
        return response;
    }
    let mut response = response.map(|_| Body::new(NoBody));
    response.headers_mut().remove(CONTENT_LENGTH);
    response
}

/// Names the request and finishes the answer's headers.
pub async fn stamp(State(clock): State<Clock>, mut request: Request, next: Next) -> Response {
    let id = RequestId::of(request.headers(), &clock);
    request.extensions_mut().insert(id.clone());
    let mut response = without_forbidden_body(next.run(request).await);
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id.0);
    for (name, value) in DEFAULTS {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sane_ids_are_taken_over() {
        for (id, sane) in
            [("abc-1_2.3:4", true), ("", false), ("a b", false), ("a\"b", false), (&*"x".repeat(128), true), (&*"x".repeat(129), false)]
        {
            assert_eq!(is_sane(id.as_bytes()), sane, "{id}");
        }
    }
}
