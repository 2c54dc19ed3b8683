//! `/api/events`: events of a tenant, which begin runs of the workflows that wait for them.

use aide::axum::ApiRouter;
use aide::axum::routing::post_with;
use axum::Json;
use axum::extract::State;
use axum::response::Response;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::definitions::everyone;
use super::document::Trigger;
use super::{about, accepted, order};
use crate::error::{Error, Result};
use crate::http::AppState;
use crate::http::extract::{Body, IdempotencyKey};
use crate::http::scope::{FlowsExecute, Scoped};
use crate::id::JobId;
use crate::model::job::Job;
use crate::store::Enqueued;

const TAG: &str = "HTTP workflows";

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new().api_route(
        "/api/events",
        post_with(publish, |op| {
            about("publishEvent", TAG, "Publish an event; workflows that it triggers begin a run, once for each `Idempotency-Key`")(op)
                .response::<202, Json<Published>>()
        }),
    )
}

/// An event.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "HttpEventInput")]
struct Input {
    /// 1 to 200 characters.
    #[schemars(length(min = 1, max = 200))]
    event: String,
    /// What runs see as `trigger.body`.
    #[serde(default)]
    body: Value,
}

/// What an event began.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "HttpEventPublished")]
struct Published {
    /// The workflows of which a run begins.
    workflows: Vec<String>,
    jobs: Vec<JobId>,
}

/// Whether a body has all these members with these values.
fn has(body: &Value, wanted: &Map<String, Value>) -> bool {
    wanted.iter().all(|(name, value)| body.get(name) == Some(value))
}

async fn publish(caller: Scoped<FlowsExecute>, State(state): State<AppState>, key: IdempotencyKey, body: Body<Input>) -> Result<Response> {
    let (tenant, Input { event, body }) = (caller.tenant, body.value);
    if event.is_empty() || event.chars().count() > 200 {
        return Err(Error::invalid_at("/event", "expected 1 to 200 characters"));
    }
    let wanted = |trigger: &Trigger| matches!(trigger, Trigger::Event { event: name, filter } if *name == event && has(&body, filter));
    let mut published = Published { workflows: Vec::new(), jobs: Vec::new() };
    for kept in everyone(&state.store, tenant).await?.into_iter().filter(|kept| kept.body.document.triggers.iter().any(wanted)) {
        let workflow = kept.body.document.name;
        let placed = order(&workflow, json!({ "type": "event", "event": event, "body": body }));
        let job = Job::new(JobId::new(&state.clock), tenant, placed, state.clock.now());
        let id = job.id;
        let key = key.0.as_ref().map(|key| format!("event/{workflow}/{key}"));
        published.jobs.push(match state.jobs.enqueue(job, key).await? {
            Enqueued::New => id,
            Enqueued::Before(before) => before,
        });
        published.workflows.push(workflow);
    }
    Ok(accepted(published))
}
