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
use crate::id::{EventId, JobId, TenantId};

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
pub(in crate::http) struct Input {
    /// 1 to 200 characters.
    #[schemars(length(min = 1, max = 200))]
    pub name: String,
    /// What there is to say.
    #[serde(default)]
    pub payload: Value,
}

/// An event that is kept until a run takes it, for thirty days.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "EventPublished")]
pub(in crate::http) struct Published {
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
    let input = body.value;
    check_name(&input.name)?;
    let call = Call { tenant, route: "POST /v1/events", key, request, secret: false };
    receipts.once(call, move |seed| async move { publish_event(&state, tenant, EventId::from_u128(seed), input).await }).await
}

fn check_name(name: &str) -> Result<()> {
    if is_event_name(name) {
        return Ok(());
    }
    Err(Error::invalid_at("/name", "expected 1 to 200 characters, none of them a control character"))
}

/// Publishes an event.
pub(in crate::http) async fn publish_event(state: &AppState, tenant: TenantId, id: EventId, input: Input) -> Result<Published> {
    let Input { name, payload } = input;
    check_name(&name)?;
    let begun = state.jobs.publish(tenant, id, &name, payload).await?;
    Ok(Published { id, name, jobs: begun.jobs })
}
