//! The calls to a server: JSON up, events down, refusals as errors.

use std::collections::VecDeque;
use std::time::Duration;

use http::{Method, StatusCode, header};
use serde_json::Value;

use crate::clock::Clock;
use crate::error::{Error, Kind, Problem, Problems, Result};
use crate::id::RunId;
use crate::net::sse::SseReader;
use crate::net::{Body, Deadlines, Egress, Policy, Request, Response, Trust};
use crate::secret::Secret;

/// An event larger than this is refused; results are one event.
const LARGEST_EVENT: usize = 64 * 1024 * 1024;
/// Attempts to take up a stream that broke off, without an event between them.
const ATTEMPTS: u32 = 5;
/// Servers send a comment four times as often.
const QUIET: Duration = Duration::from_secs(60);
/// A stream may last as long as its execution.
const LONGEST: Duration = Duration::from_secs(30 * 86_400);

/// A server, and the key it is called with.
#[derive(Clone)]
pub struct Client {
    egress: Egress,
    clock: Clock,
    base: String,
    key: Option<Secret>,
}

impl Client {
    /// `base` is the server's URL: `http://127.0.0.1:8080`.
    pub fn new(base: &str, key: Option<Secret>, clock: &Clock) -> Result<Self> {
        let egress = Egress::new(Policy::default(), clock.clone())?;
        Ok(Self { egress, clock: clock.clone(), base: base.trim_end_matches('/').to_owned(), key })
    }

    /// Posts a call that starts or continues an execution: its id and its events from here on.
    pub async fn post(&self, path: &str, body: &Value) -> Result<(RunId, EventStream)> {
        let request = self.request(Method::POST, path).header("content-type", "application/json").body(body.to_string());
        let response = self.send(request).await?;
        let id = response.headers.get("x-execution-id").and_then(|id| id.to_str().ok());
        let run = id.and_then(|id| id.parse().ok()).ok_or_else(|| not_dispatch(&self.base))?;
        Ok((run, EventStream::new(response.into_body())))
    }

    /// An execution's events after a number. From the second attempt on it waits first, longer each time.
    pub async fn events(&self, run: RunId, after: u64, attempt: u32) -> Result<EventStream> {
        if attempt > ATTEMPTS {
            let message = format!("the events of {run} broke off {ATTEMPTS} times in a row");
            return Err(
                Error::new(Kind::Unavailable, "stream_broken", message).next(format!("it goes on: GET /v1/executions/{run}/events"))
            );
        }
        self.clock.sleep(Duration::from_millis(200) * attempt.saturating_sub(1).pow(2)).await;
        let request = self.request(Method::GET, &format!("/v1/executions/{run}/events?after={after}"));
        Ok(EventStream::new(self.send(request).await?.into_body()))
    }

    /// Makes a call that is answered with one JSON.
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let mut request = self.request(method, path).header("accept", "application/json");
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let bytes = self.send(request).await?.bytes().await.map_err(|error| unreachable(error.into()))?;
        serde_json::from_slice(&bytes).map_err(|_| not_dispatch(&self.base))
    }

    fn request(&self, method: Method, path: &str) -> Request {
        let mut request = Request::new(method, format!("{}{path}", self.base), Trust::Operator).header("accept", "text/event-stream");
        if let Some(key) = &self.key {
            request = request.header("authorization", Secret::new(format!("Bearer {}", key.expose())));
        }
        request.deadlines = Deadlines { between_chunks: QUIET, total: LONGEST, ..Deadlines::default() };
        request.max_bytes = u64::MAX;
        request
    }

    async fn send(&self, request: Request) -> Result<Response> {
        let response = self.egress.send(request).await.map_err(|error| unreachable(error.into()))?;
        if response.status.is_success() {
            return Ok(response);
        }
        let (status, wait) = (response.status, response.headers.get(header::RETRY_AFTER).cloned());
        let body = response.prefix(1024 * 1024).await;
        let wait = wait.and_then(|wait| wait.to_str().ok()?.parse().ok()).map(Duration::from_secs);
        Err(refusal(status, &body, wait).unwrap_or_else(|| not_dispatch(&self.base)))
    }
}

/// The door's failure in words for whoever typed the address.
fn unreachable(error: Error) -> Error {
    if error.kind() != Kind::Unavailable {
        return error;
    }
    Error::new(Kind::Unavailable, "server_unreachable", error.message())
        .next("check --server (DISPATCH_URL), or start a server with `dispatch serve --dev`")
}

fn not_dispatch(base: &str) -> Error {
    Error::new(Kind::Invalid, "not_a_dispatch_server", format!("{base} does not answer like a Dispatch server"))
        .next("check --server (DISPATCH_URL); it is the address that `dispatch serve` prints")
}

/// A refusal's envelope as the error that it was.
fn refusal(status: StatusCode, body: &[u8], wait: Option<Duration>) -> Option<Error> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let text = |name: &str| body.get(name).and_then(Value::as_str).map(str::to_owned);
    let problems = body.pointer("/details/problems").cloned().and_then(|problems| serde_json::from_value::<Vec<Problem>>(problems).ok());
    let mut error = match problems {
        Some(problems) if text("code")? == "validation_failed" => Problems(problems).into(),
        _ => Error::new(kind(status), text("code")?, text("error")?),
    };
    if let Some(next) = text("next") {
        error = error.next(next);
    }
    if let Some(wait) = wait {
        error = error.retry_after(wait);
    }
    Some(error)
}

fn kind(status: StatusCode) -> Kind {
    match status.as_u16() {
        401 => Kind::Unauthenticated,
        402 => Kind::Unconfigured,
        403 => Kind::Forbidden,
        404 => Kind::Missing,
        409 => Kind::Conflict,
        413 => Kind::TooLarge,
        422 => Kind::Invalid,
        429 => Kind::Limited,
        502..=504 => Kind::Unavailable,
        status if status >= 500 => Kind::Internal,
        _ => Kind::Malformed,
    }
}

/// The events of a call, as they come.
pub struct EventStream {
    body: Body,
    reader: SseReader,
    ready: VecDeque<Value>,
}

impl EventStream {
    fn new(body: Body) -> Self {
        Self { body, reader: SseReader::new(LARGEST_EVENT), ready: VecDeque::new() }
    }

    /// The next event; `None` when the server has ended the stream.
    pub async fn next(&mut self) -> Result<Option<Value>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            let Some(part) = self.body.chunk().await? else { return Ok(None) };
            self.reader.feed(&part).map_err(|error| Error::new(Kind::TooLarge, "event_too_large", error.to_string()))?;
            let whole = std::iter::from_fn(|| self.reader.next_event());
            self.ready.extend(whole.filter_map(|event| serde_json::from_str(&event.data).ok()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_survives_the_wire() {
        let sent = Error::invalid_at("/flow/name", "expected a text").next("name it");
        let body = serde_json::to_vec(&sent.envelope()).unwrap();
        let read = refusal(StatusCode::UNPROCESSABLE_ENTITY, &body, None).unwrap();
        assert_eq!(format!("{read:?}"), format!("{sent:?}"));
        assert_eq!(read.envelope().next, Some("name it"));
        let busy = Error::new(Kind::Limited, "rate_limited", "slow down").retry_after(Duration::from_secs(3));
        let body = serde_json::to_vec(&busy.envelope()).unwrap();
        let read = refusal(StatusCode::TOO_MANY_REQUESTS, &body, Some(Duration::from_secs(3))).unwrap();
        assert_eq!((read.kind(), read.wait()), (Kind::Limited, Some(Duration::from_secs(3))));
        assert!(refusal(StatusCode::BAD_GATEWAY, b"<html>", None).is_none());
    }
}
