//! `POST /v1/responses`.

use aide::axum::ApiRouter;
use aide::axum::routing::post_with;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};

use super::document::{ResponseDocument, ResponseStatus};
use super::events::NumberedEvent;
use super::input::Conversation;
use super::output::{EventEncoder, OutputBuilder};
use super::places::PlaceMap;
use super::request::ResponseRequest;
use super::stored::{ResponseOrigin, StoredResponse, VARIABLE, previous_conversation};
use crate::error::{Error, Kind, Problems, Result};
use crate::http::AppState;
use crate::http::extract::{Body, IdempotencyKey};
use crate::http::idempotency::fingerprint;
use crate::http::openai::answer::seconds;
use crate::http::openai::error::placed;
use crate::http::openai::execution::{ExecutionCall, StartedExecution, with_execution_headers};
use crate::http::openai::stream::AnswerStream;
use crate::http::openai::target::{self, Prepared};
use crate::http::openai::{TAG, about, with_events};
use crate::http::scope::{FlowsExecute, Scoped};
use crate::model::Caller;

const ROUTE: &str = "POST /v1/responses";
/// How lists of executions show a response.
const TITLE: &str = "Response";

pub fn routes() -> ApiRouter<AppState> {
    ApiRouter::new().api_route(
        "/v1/responses",
        post_with(create, |operation| {
            let operation = about("createResponse", TAG, "Create a response")(operation).description(
                "Takes the parameters of OpenAI's Responses API and answers in its form. The response is an execution: `X-Execution-Id` names it. \
                 It can be read and continued by its id unless `store` is false. Parameters that cannot be honoured are refused with 400 and named \
                 in `error.param`.",
            );
            with_events::<NumberedEvent>(operation.response::<200, Json<ResponseDocument>>(), "The response, or its events as they come", "One event.")
        }),
    )
}

/// A response that can be started.
struct PreparedResponse {
    prepared: Prepared,
    origin: ResponseOrigin,
}

async fn create(
    caller: Scoped<FlowsExecute>,
    State(state): State<AppState>,
    key: IdempotencyKey,
    body: Body<ResponseRequest>,
) -> Result<Response> {
    // Before any work: refusing must stay cheap when there is too much to do.
    state.workers.admits()?;
    let request = body.value;
    let PreparedResponse { prepared, origin } = prepare(&state, &caller, &request).await?;
    let slot = if request.wants_stream() { Some(state.limits.open_stream(caller.who)?) } else { None };
    let is_detached = request.is_in_background();
    let call = ExecutionCall { route: ROUTE, key, request_hash: fingerprint(&body.raw), is_detached };
    let mut started = StartedExecution::start(&state, &caller, prepared, call).await?;
    let (run, is_replayed) = (started.run, started.is_replayed);
    let with_state = origin.with_state;
    let head = ResponseDocument::new(run, origin.facts.model, request.metadata.unwrap_or_default(), origin.settings);
    let response = match slot {
        Some(slot) => {
            let stream = AnswerStream::new(started, EventEncoder::new(head, with_state, None), &state, caller.tenant, slot);
            if is_detached { stream.answer() } else { stream.answer_after_first().await }
        }
        None if is_detached => {
            let known = if is_replayed { StoredResponse::find(&state, &caller, head.id).await? } else { None };
            let document = match known {
                Some(stored) => stored.document(&state, with_state).await?,
                None => ResponseDocument { status: ResponseStatus::Queued, ..head },
            };
            Json(document).into_response()
        }
        None => match started.finish(&state, caller.tenant).await? {
            Ok(answer) => {
                let output = OutputBuilder::items_of(run, with_state, &answer);
                Json(head.answered(&answer, output, started.reader.completed.map(seconds))).into_response()
            }
            Err(error) => error.into_response(),
        },
    };
    Ok(with_execution_headers(response, run, is_replayed))
}

/// Translates the request and prepares its execution. Every fault of it is reported at once.
async fn prepare(state: &AppState, caller: &Caller, request: &ResponseRequest) -> Result<PreparedResponse> {
    let mut problems = Problems::default();
    request.check(&mut problems);
    let Conversation { messages, places } = conversation(state, caller, request, &mut problems).await?;
    problems.into_result()?;
    let chat = request.to_chat(messages);
    let prepared = target::prepare(state, caller.tenant, &chat, TITLE).await;
    let mut prepared = prepared.map_err(|error| placed_at(error, &places))?;
    let origin = ResponseOrigin {
        settings: request.settings(),
        facts: prepared.facts.clone(),
        with_state: request.wants_state(),
        has_instructions: request.instructions().is_some(),
    };
    let input = &mut prepared.start.input;
    input.inputs.insert(VARIABLE.into(), serde_json::to_value(&origin).map_err(Error::internal)?);
    input.options.reports_state = request.is_stored() || request.wants_state();
    Ok(PreparedResponse { prepared, origin })
}

/// The instructions, what was said before, and the input.
async fn conversation(state: &AppState, caller: &Caller, request: &ResponseRequest, problems: &mut Problems) -> Result<Conversation> {
    let mut conversation = Conversation::default();
    if let Some(instructions) = request.instructions() {
        conversation.add(serde_json::json!({ "role": "system", "content": instructions }), "/instructions");
    }
    let previous = match request.previous_response_id.as_deref() {
        Some(id) => previous_conversation(state, caller, id).await?,
        None => Vec::new(),
    };
    if previous.is_empty() && request.input.is_none() {
        problems.add("/input", "expected a text or a list of items");
    }
    for message in previous {
        conversation.add(message, "/input");
    }
    Ok(conversation.read(request.input.as_ref(), problems))
}

/// Moves the problems of an invalid request to where its caller wrote what they are about.
fn placed_at(error: Error, places: &PlaceMap) -> Error {
    if error.kind() == Kind::Invalid { placed(error, |pointer| places.pointer(pointer)) } else { error }
}
