//! The caller's side of the wire: calls that may find nobody there.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::Value;
use tokio::sync::watch;

use super::world::Bases;
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
    bases: watch::Receiver<Bases>,
    /// Callers ask the servers in turn.
    turn: Arc<AtomicUsize>,
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
    pub fn new(key: String, bases: watch::Receiver<Bases>, clock: Clock) -> Result<Self> {
        let egress = Egress::new(Policy { allow_loopback: true, ..Policy::default() }, clock.clone())?;
        Ok(Self { egress, key, bases, turn: Arc::default(), clock })
    }

    pub async fn pause(&self) {
        self.clock.sleep(PAUSE).await;
    }

    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The head of an answer; `None` when nobody answered.
    pub async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> Option<Response> {
        let mut bases = self.bases.clone();
        let up = tokio::select! {
            up = bases.wait_for(|bases| bases.iter().any(Option::is_some)) => up.ok().and_then(|up| self.choose(&up))?,
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
            _ = bases.wait_for(|now| !now.iter().flatten().any(|base| *base == up)) => None,
        }
    }

    fn choose(&self, bases: &Bases) -> Option<String> {
        let up: Vec<&String> = bases.iter().flatten().collect();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed).checked_rem(up.len())?;
        up.get(turn).map(|base| (*base).clone())
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
}
