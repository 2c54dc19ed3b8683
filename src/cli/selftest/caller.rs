//! The caller's side of the wire: calls that may find nobody there.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::Value;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::error::Result;
use crate::net::{Deadlines, Egress, Policy, Request, Response, Trust};

/// How long a call waits for a server that is down.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(40);

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Caller {
    egress: Egress,
    key: String,
    base: watch::Receiver<Option<String>>,
    clock: Clock,
}

/// An answer that was read to its end.
pub struct Answer {
    pub status: u16,
    pub body: Value,
    pub replayed: bool,
}

impl Answer {
    pub fn code(&self) -> &str {
        self.body.get("code").and_then(Value::as_str).unwrap_or_default()
    }

    /// The server may answer otherwise later.
    pub fn is_for_later(&self) -> bool {
        matches!(self.status, 429 | 503)
    }
}

impl Caller {
    pub fn new(key: String, base: watch::Receiver<Option<String>>, clock: Clock) -> Result<Self> {
        let egress = Egress::new(Policy { allow_loopback: true, ..Policy::default() }, clock.clone())?;
        Ok(Self { egress, key, base, clock })
    }

    pub async fn pause(&self) {
        self.clock.sleep(PAUSE).await;
    }

    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The head of an answer; `None` when nobody answered.
    pub async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> Option<Response> {
        let mut base = self.base.clone();
        let up = tokio::select! {
            up = base.wait_for(Option::is_some) => up.ok()?.clone()?,
            () = self.clock.sleep(PATIENCE) => return None,
        };
        let mut request =
            Request::new(method, format!("{up}{path}"), Trust::Operator).header("authorization", format!("Bearer {}", self.key));
        request.deadlines = Deadlines { first_byte: Duration::from_secs(40), ..Deadlines::default() };
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(Bytes::from(body.to_string()));
        }
        // A server that is killed takes its connections along; one that was asked to stop may keep them for a while.
        tokio::select! {
            answer = self.egress.send(request) => answer.ok(),
            _ = base.wait_for(|now| now.as_ref() != Some(&up)) => None,
        }
    }

    /// A whole answer; `None` when it did not come, or not to its end.
    pub async fn call(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> Option<Answer> {
        let response = self.ask(method, path, headers, body).await?;
        let (status, replayed) = (response.status.as_u16(), response.headers.contains_key("idempotency-replayed"));
        let body = response.bytes().await.ok()?;
        Some(Answer { status, body: serde_json::from_slice(&body).unwrap_or_default(), replayed })
    }

    pub async fn get(&self, path: &str) -> Option<Answer> {
        self.call(Method::GET, path, &[], None).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Option<Answer> {
        self.call(Method::POST, path, &[], Some(body)).await
    }
}
