//! `/v1/events`: events, which runs wait for and which trigger workflows.

use aide::axum::ApiRouter;
use aide::axum::routing::post_with;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::about;
use crate::engine::bus::is_event_name;
use crate::error::{Error, Result};
use crate::http::AppState;
use crate::http::extract::{Body, IdempotencyKey};
use crate::http::idempotency::{Call, Created, Receipts, fingerprint};
use crate::http::scope::{FlowsExecute, Scoped};
use crate::id::{EventId, JobId};

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new().api_route(
        "/v1/events",
        post_with(
            publish,
            about(
                "publishEventForRuns",
                "Events",
                "Publish an event: a run that waits for it takes it, and workflows that it triggers begin",
            ),
        ),
    )
}

/// An event.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "EventInput")]
struct Input {
    /// 1 to 200 characters.
    #[schemars(length(min = 1, max = 200))]
    name: String,
    /// What there is to say.
    #[serde(default)]
    payload: Value,
}

/// An event that is kept until a run takes it, for thirty days.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "EventPublished")]
struct Published {
    id: EventId,
    name: String,
    /// The jobs of the workflows that it triggers.
    jobs: Vec<JobId>,
}

async fn publish(
    caller: Scoped<FlowsExecute>,
    State(state): State<AppState>,
    State(receipts): State<Receipts>,
    key: IdempotencyKey,
    body: Body<Input>,
) -> Result<Created<Published>> {
    let (tenant, request) = (caller.tenant, fingerprint(&body.raw));
    let Input { name, payload } = body.value;
    if !is_event_name(&name) {
        return Err(Error::invalid_at("/name", "expected 1 to 200 characters, none of them a control character"));
    }
    let call = Call { tenant, route: "POST /v1/events", key, request, secret: false };
    let work = move |seed: u128| async move {
        let id = EventId::from_u128(seed);
        let begun = state.jobs.publish(tenant, id, &name, payload).await?;
        Ok(Published { id, name, jobs: begun.jobs })
    };
    receipts.once(call, work).await
}
