//! `POST /v1/chat/completions`.

use aide::axum::ApiRouter;
use aide::axum::routing::post_with;
use aide::openapi::{MediaType, ReferenceOr, SchemaObject, StatusCode as OpenApiStatus};
use aide::transform::TransformOperation;
use axum::Json;
use axum::extract::State;
use axum::http::header::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};

use super::answer::{AnswerReader, Ending, Reading};
use super::request::ChatRequest;
use super::stream::{self, ChunkStream};
use super::target::{self, Prepared};
use super::wire::{ChatCompletion, ChatCompletionChunk};
use super::{TAG, about};
use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::feed::Follower;
use crate::http::AppState;
use crate::http::disconnect::{self, OnDisconnect};
use crate::http::extract::{Body, IdempotencyKey};
use crate::http::idempotency::fingerprint;
use crate::http::scope::{FlowsExecute, Scoped};
use crate::id::RunId;
use crate::model::Caller;
use crate::store::{Created, RunKey};

const ROUTE: &str = "POST /v1/chat/completions";
const EXECUTION_ID: HeaderName = HeaderName::from_static("x-execution-id");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

pub fn routes() -> ApiRouter<AppState> {
    ApiRouter::new().api_route(
        "/v1/chat/completions",
        post_with(create, |op| documented(about("createChatCompletion", TAG, "Create a chat completion")(op))),
    )
}

/// Documents the two forms of the answer.
fn documented(operation: TransformOperation<'_>) -> TransformOperation<'_> {
    let chunk = aide::generate::in_context(|context| context.schema.subschema_for::<ChatCompletionChunk>());
    let json_schema = schemars::json_schema!({
        "type": "object",
        "required": ["data"],
        "properties": {
            "data": {
                "type": "string",
                "description": "One chunk; `[DONE]` at the end.",
                "contentMediaType": "application/json",
                "contentSchema": chunk,
            },
        },
    });
    let schema = Some(SchemaObject { json_schema, external_docs: None, example: None });
    let mut operation = operation
        .description(
            "Takes OpenAI's parameters and answers in its form, so that its SDKs can be pointed at `/v1`. The completion is an execution: \
             `X-Execution-Id` names it. Parameters that cannot be honoured are refused with 400 and named in `error.param`.",
        )
        .response::<200, Json<ChatCompletion>>();
    let responses = operation.inner_mut().responses.get_or_insert_default();
    if let Some(ReferenceOr::Item(answer)) = responses.responses.get_mut(&OpenApiStatus::Code(200)) {
        answer.description = "The completion, or its chunks as they come (one `ChatCompletionChunk` per server-sent event)".into();
        answer.content.insert("text/event-stream".into(), MediaType { schema, ..MediaType::default() });
    }
    operation
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
    let prepared = target::prepare(&state, caller.tenant, &request).await?;
    let slot = if request.wants_stream() { Some(state.limits.open_stream(caller.who)?) } else { None };
    let begun = begin(&state, &caller, &request, prepared, key, fingerprint(&body.raw)).await?;
    let (run, is_replayed) = (begun.run, begun.is_replayed);
    let mut response = match slot {
        Some(slot) => {
            let Begun { guard, reader, follower, .. } = begun;
            let (workers, tenant) = (state.workers.clone(), caller.tenant);
            let include_usage = request.wants_usage();
            let clock = state.clock.clone();
            stream::answer(ChunkStream { reader, follower, clock, include_usage, workers, tenant, guard, slot }).await
        }
        None => whole(&state, &caller, begun).await?,
    };
    if let Ok(id) = HeaderValue::from_str(&run.to_string()) {
        response.headers_mut().insert(EXECUTION_ID, id);
    }
    if is_replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// An execution that was started, and what follows it.
struct Begun {
    run: RunId,
    /// Cancels the execution when the caller goes away.
    guard: Option<OnDisconnect>,
    reader: AnswerReader,
    follower: Follower,
    /// An earlier call with the same `Idempotency-Key` started it.
    is_replayed: bool,
}

/// Starts the execution, or finds the one that an earlier call with the same key started.
async fn begin(
    state: &AppState,
    caller: &Caller,
    request: &ChatRequest,
    prepared: Prepared,
    key: IdempotencyKey,
    request_hash: String,
) -> Result<Begun> {
    let Prepared { mut start, model, is_one_prompt } = prepared;
    let last = start.plan.flow.steps.last().filter(|step| step.action == "prompt");
    let step = last.map(|step| step.id.clone());
    let is_keyed = key.0.is_some();
    let expires_at = state.clock.now().after(state.limits.options().idempotency_ttl);
    start.key = key.0.map(|key| RunKey { route: ROUTE.into(), key, request_hash: request_hash.clone(), expires_at });
    // Who repeats a call under its key wants the first one to come to its end.
    start.input.options.cancel_on_disconnect = !is_keyed;
    let (run, created, guard) = if is_keyed {
        let (run, created) = state.workers.start_run(start).await?;
        (run, created, None)
    } else {
        disconnect::start(&state.workers, start).await?
    };
    let (run, is_replayed) = match created {
        Created::New => (run, false),
        Created::Duplicate { run, request_hash: before } if before == request_hash => (run, true),
        Created::Duplicate { .. } => {
            return Err(Error::new(Kind::Invalid, "idempotency_key_reused", "this Idempotency-Key was used with another request body")
                .next("send the first body again, or choose a new key"));
        }
    };
    failpoint::hit("http.accepted");
    let is_saved = target::saved_name(&request.model).is_some();
    let one_call = request.parallel_tool_calls == Some(false);
    let reader = AnswerReader::new(Reading { run, model, step, is_one_prompt, is_saved, one_call });
    let follower = state.feed.follow(caller.tenant, run, None);
    Ok(Begun { run, guard, reader, follower, is_replayed })
}

/// Waits for the end and answers with all of it.
async fn whole(state: &AppState, caller: &Caller, begun: Begun) -> Result<Response> {
    let Begun { run, guard, mut reader, mut follower, .. } = begun;
    let ending = loop {
        let stretch = follower.next().await?;
        if let Some(ending) = reader.take(&stretch.events, stretch.rest).end {
            break ending;
        }
    };
    let response = match ending {
        Ending::Answered(answer) => {
            let created = reader.created.unwrap_or_else(|| state.clock.now());
            Json(answer.completion(run, created)).into_response()
        }
        Ending::Failed(error) => error.into_response(),
        Ending::Waiting(error) => {
            state.workers.abandon(caller.tenant, run);
            error.into_response()
        }
    };
    guard.into_iter().for_each(OnDisconnect::disarm);
    Ok(response)
}
