//! `/api/runs/{run}/signal/{name}`: what a waiting step waits for.

use aide::axum::ApiRouter;
use aide::axum::routing::post_with;
use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::door::Signaller;
use super::{Run, about, accepted, ended, printed, takes_anything};
use crate::engine::is_signal_name;
use crate::error::Error;
use crate::http::AppState;
use crate::http::extract::{IdempotencyKey, Ids, InPath, as_sent, parse};
use crate::http::problem::Problem;
use crate::id::RequestId;
use crate::store::{Signal, is_reserved_signal};

const TAG: &str = "HTTP workflow runs";

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new().api_route(
        "/api/runs/{run}/signal/{signal}",
        post_with(send, |op| {
            let op = about("signalHttpRun", TAG, "Send a run a signal; kept when nothing waits for it yet")(op);
            takes_anything(op, "application/json").response::<202, Json<Sent>>()
        }),
    )
}

/// A signal's name.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(inline)]
struct SignalName(#[schemars(length(min = 1, max = 200))] String);

impl std::str::FromStr for SignalName {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if is_signal_name(text) && !is_reserved_signal(text) { Ok(Self(text.to_owned())) } else { Err(()) }
    }
}

impl InPath for SignalName {
    const PARAM: &'static str = "signal";
    const NOUN: &'static str = "signal";
}

/// A signal that was taken.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "HttpSignalSent")]
struct Sent {
    run_id: String,
    signal: String,
}

async fn send(
    signaller: Signaller,
    State(state): State<AppState>,
    Ids(id, name): Ids<Run, SignalName>,
    key: IdempotencyKey,
    headers: HeaderMap,
    body: axum::body::Body,
) -> Result<Response, Problem> {
    let run = signaller.find(&state.store, id).await?;
    let text = as_sent(&headers, body, &state).await?;
    let payload: Value = if text.is_empty() { Value::Null } else { parse(&text, state.limits.body().depth)? };
    let signal = Signal { name: name.0.clone(), id: key.0.unwrap_or_else(|| RequestId::new(&state.clock).to_string()), payload };
    let sent: Result<(), Error> = state.engine.signal(run.tenant, run.id, signal).await;
    match sent {
        Err(error) if error.code() == "execution_ended" => return Err(ended().into()),
        done => done?,
    }
    state.workers.nudge(run.id).await;
    Ok(accepted(Sent { run_id: printed(run.id), signal: name.0 }))
}
