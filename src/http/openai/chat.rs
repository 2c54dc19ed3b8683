//! `POST /v1/chat/completions`.

use aide::axum::ApiRouter;
use aide::axum::routing::post_with;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};

use super::chunks::ChunkEncoder;
use super::execution::{ExecutionCall, StartedExecution, with_execution_headers};
use super::request::ChatRequest;
use super::stream::AnswerStream;
use super::target;
use super::wire::{ChatCompletion, ChatCompletionChunk};
use super::{TAG, about, with_events};
use crate::error::Result;
use crate::http::AppState;
use crate::http::extract::{Body, IdempotencyKey};
use crate::http::idempotency::fingerprint;
use crate::http::scope::{FlowsExecute, Scoped};

const ROUTE: &str = "POST /v1/chat/completions";
/// How lists of executions show a completion.
const TITLE: &str = "Chat completion";

pub fn routes() -> ApiRouter<AppState> {
    ApiRouter::new().api_route(
        "/v1/chat/completions",
        post_with(create, |operation| {
            let operation = about("createChatCompletion", TAG, "Create a chat completion")(operation).description(
                "Takes OpenAI's parameters and answers in its form, so that its SDKs can be pointed at `/v1`. The completion is an execution: \
                 `X-Execution-Id` names it. Parameters that cannot be honoured are refused with 400 and named in `error.param`.",
            );
            let answer = "The completion, or its chunks as they come (one `ChatCompletionChunk` per server-sent event)";
            with_events::<ChatCompletionChunk>(operation.response::<200, Json<ChatCompletion>>(), answer, "One chunk; `[DONE]` at the end.")
        }),
    )
}

async fn create(
    caller: Scoped<FlowsExecute>,
    State(state): State<AppState>,
    key: IdempotencyKey,
    body: Body<ChatRequest>,
) -> Result<Response> {
    // Before any work: refusing must stay cheap when there is too much to do.
    state.workers.admits()?;
    let request = body.value;
    let prepared = target::prepare(&state, caller.tenant, &request, TITLE).await?;
    let slot = if request.wants_stream() { Some(state.limits.open_stream(caller.who)?) } else { None };
    let call = ExecutionCall { route: ROUTE, key, request_hash: fingerprint(&body.raw), is_detached: false };
    let mut started = StartedExecution::start(&state, &caller, prepared, call).await?;
    let (run, is_replayed) = (started.run, started.is_replayed);
    let response = match slot {
        Some(slot) => {
            let encoder = ChunkEncoder::new(state.clock.clone(), request.wants_usage());
            AnswerStream::new(started, encoder, &state, caller.tenant, slot).answer_after_first().await
        }
        None => match started.finish(&state, caller.tenant).await? {
            Ok(answer) => {
                let created = started.reader.created.unwrap_or_else(|| state.clock.now());
                Json(answer.completion(run, created)).into_response()
            }
            Err(error) => error.into_response(),
        },
    };
    Ok(with_execution_headers(response, run, is_replayed))
}
