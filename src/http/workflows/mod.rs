//! The workflows surface: documents of HTTP steps as dispatched.work has them, their runs, signals, secrets and events.
//!
//! A document is compiled to a flow whose steps are `request` steps ([`document`]); everything else is the engine's. Callers prove themselves by a
//! session, by a run's token, or by an API key ([`door`]). To add a noun: a file with `routes()`, one line below.
//!
//! Must not know: how a step is run.

mod definitions;
mod document;
mod door;
mod event_encoder;
mod events;
mod published;
mod reply;
mod runs;
mod secrets;
mod session;
mod signals;
mod start;

use aide::axum::ApiRouter;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::{AppState, about, may_refuse, takes_anything};
use crate::error::{Error, Kind};
use crate::http::extract::InPath;
use crate::id::{RunId, WorkflowId};
use crate::model::RunInput;
use crate::model::job::{DEFAULT_QUEUE, JobScope, Order, Placed, WORKFLOW_PREFIX};

pub use door::{prove, session_of};
pub use session::tidy;
pub use start::Workflows;

/// Every route of this surface that asks who calls.
pub fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .merge(definitions::routes())
        .merge(start::routes())
        .merge(runs::routes())
        .merge(events::routes())
        .merge(signals::routes())
        .merge(secrets::routes())
        .merge(published::routes())
        .merge(session::routes())
}

/// Where sessions begin.
pub fn public_routes() -> ApiRouter<AppState> {
    session::public_routes()
}

/// A workflow's name, in kebab case.
#[derive(Debug, Clone, schemars::JsonSchema)]
#[schemars(inline)]
struct Name(#[schemars(length(min = 1, max = 100), regex(pattern = "^[a-z][a-z0-9]*(-[a-z0-9]+)*$"))] String);

/// Longest name of a workflow.
const LONGEST_NAME: usize = 100;

/// Whether a workflow can have this name.
fn is_name(text: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    text.len() <= LONGEST_NAME && text.starts_with(|first: char| first.is_ascii_lowercase()) && text.split('-').all(part)
}

impl std::str::FromStr for Name {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        if is_name(text) { Ok(Self(text.to_owned())) } else { Err(()) }
    }
}

impl InPath for Name {
    const PARAM: &'static str = "workflow";
    const NOUN: &'static str = "workflow";
}

impl Name {
    /// Under which id the workflow of this name is kept: names are looked up, and no two of a tenant are equal.
    fn id(&self) -> WorkflowId {
        WorkflowId::from_u128(id_of(&format!("workflow/{}", self.0)))
    }
}

/// The bits of an id that follows from a text: the first 128 of its SHA-256.
fn id_of(text: &str) -> u128 {
    use sha2::Digest;
    sha2::Sha256::digest(text.as_bytes()).iter().take(16).fold(0u128, |number, byte| number << 8 | u128::from(*byte))
}

/// The job that begins a run of a workflow; it is not tried again, for the run itself tries what can be.
fn order(workflow: &str, payload: Value) -> Placed {
    let order = Order {
        name: format!("{WORKFLOW_PREFIX}{workflow}"),
        payload,
        callback: None,
        max_retries: 0,
        timeout_ms: None,
        scope: JobScope::default(),
        key_id: None,
        cron: None,
        replay_of: None,
    };
    Placed { queue: DEFAULT_QUEUE.into(), priority: 0, order }
}

/// A run's id, under this surface's name: `run_…`.
#[derive(Debug, Clone, Copy, schemars::JsonSchema)]
#[schemars(inline)]
struct Run(#[schemars(with = "String", regex(pattern = "^(run|wfrun|exec)_[0-7][0-9a-hjkmnp-tv-z]{25}$"))] RunId);

impl std::str::FromStr for Run {
    type Err = crate::id::ParseIdError;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl InPath for Run {
    const PARAM: &'static str = "run";
    const NOUN: &'static str = "run";
}

/// A run's id as this surface writes it.
fn printed(id: RunId) -> String {
    format!("run_{}", id.suffix())
}

/// How a run was triggered: `http`, `cron`, `event` or `job`.
fn trigger_type(input: &RunInput) -> &str {
    input.inputs.get("trigger").and_then(|trigger| trigger.get("type")).and_then(Value::as_str).unwrap_or("http")
}

/// A run that ended before what was asked of it.
fn ended() -> Error {
    Error::new(Kind::Conflict, "run_ended", "the run has ended")
}

/// 202, with a body.
fn accepted<T: serde::Serialize>(body: T) -> Response {
    (StatusCode::ACCEPTED, axum::Json(body)).into_response()
}
