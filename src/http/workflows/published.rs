//! `/api/events`: events of a tenant, which begin runs of the workflows that wait for them.

use aide::axum::ApiRouter;
use aide::axum::routing::post_with;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::about;
use crate::engine::bus::is_event_name;
use crate::error::{Error, Result};
use crate::http::AppState;
use crate::http::extract::{Body, IdempotencyKey};
use crate::http::idempotency::{Call, Receipts, fingerprint};
use crate::http::scope::{FlowsExecute, Scoped};
use crate::id::{EventId, JobId};

const TAG: &str = "HTTP workflows";

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new().api_route(
        "/api/events",
        post_with(publish, |op| {
            about(
                "publishEvent",
                TAG,
                "Publish an event: a run that waits for it takes it, and workflows that it triggers begin; once for each `Idempotency-Key`",
            )(op)
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
    /// What runs see as `trigger.body`, and those that waited as the event's `payload`.
    #[serde(default)]
    body: Value,
}

/// What an event began.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "HttpEventPublished")]
struct Published {
    event_id: EventId,
    /// The workflows of which a run begins.
    workflows: Vec<String>,
    jobs: Vec<JobId>,
}

async fn publish(
    caller: Scoped<FlowsExecute>,
    State(state): State<AppState>,
    State(receipts): State<Receipts>,
    key: IdempotencyKey,
    body: Body<Input>,
) -> Result<Response> {
    let (tenant, request) = (caller.tenant, fingerprint(&body.raw));
    let Input { event, body } = body.value;
    if !is_event_name(&event) {
        return Err(Error::invalid_at("/event", "expected 1 to 200 characters, none of them a control character"));
    }
    let call = Call { tenant, route: "POST /api/events", key, request, secret: false };
    let work = move |seed: u128| async move {
        let event_id = EventId::from_u128(seed);
        let begun = state.jobs.publish(tenant, event_id, &event, body).await?;
        Ok(Published { event_id, workflows: begun.names, jobs: begun.jobs })
    };
    let mut response = receipts.once(call, work).await?.into_response();
    // What it begins goes on.
    *response.status_mut() = StatusCode::ACCEPTED;
    Ok(response)
}
