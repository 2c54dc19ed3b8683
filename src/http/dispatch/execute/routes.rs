//! The handlers: who, what, do, answer.

use std::time::Duration;

use aide::axum::ApiRouter;
use aide::axum::routing::post_with;
use aide::transform::TransformOperation;
use axum::Json;
use axum::extract::State;
use axum::http::header::{ACCEPT, HeaderName, HeaderValue, LOCATION};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::answer::{Follow, follow};
use super::outcome::Outcome;
use super::request::{ApproveRequest, ContinueRequest, DispatchRequest, ResumeRequest};
use super::resolve::Lookup;
use super::sse::{or_events, stream_response};
use crate::clock::Clock;
use crate::engine::step::check_messages;
use crate::engine::{Answered, Decision, Engine, Verdict, no_paused_run};
use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::feed::Feed;
use crate::http::disconnect::{self, OnDisconnect};
use crate::http::dispatch::about;
use crate::http::extract::{Body, IdempotencyKey};
use crate::http::idempotency::fingerprint;
use crate::http::limits::Limits;
use crate::http::scope::{FlowsExecute, Scoped};
use crate::http::{AppState, admission};
use crate::id::{RunId, SessionId, TenantId, WaitId};
use crate::model::wait::Approver;
use crate::model::{Caller, Requester, RunState, Target, TargetKind, Who};
use crate::queue::Workers;
use crate::store::{Created, RunKey, SharedStore};

/// The parts that every handler here needs.
#[derive(Clone)]
pub struct Desk {
    engine: Engine,
    workers: Workers,
    feed: Feed,
    store: SharedStore,
    clock: Clock,
    limits: Limits,
}

impl axum::extract::FromRef<AppState> for Desk {
    fn from_ref(state: &AppState) -> Self {
        Self {
            engine: state.engine.clone(),
            workers: state.workers.clone(),
            feed: state.feed.clone(),
            store: state.store.clone(),
            clock: state.clock.clone(),
            limits: state.limits.clone(),
        }
    }
}

const ROUTE: &str = "POST /v1/dispatch";
const EXECUTION_ID: HeaderName = HeaderName::from_static("x-execution-id");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const PREFER: &str = "prefer";

pub fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route(
            "/v1/dispatch",
            post_with(dispatch, |op| may_be_accepted(streamed(about("dispatch", "Dispatch", "Execute a flow or an agent")(op)))),
        )
        .api_route(
            "/v1/dispatch/resume",
            post_with(resume, |op| streamed(about("resumeDispatch", "Dispatch", "Deliver tool outputs to a paused execution")(op))),
        )
        .api_route(
            "/v1/dispatch/approve",
            post_with(approve, |op| streamed(about("approveDispatch", "Dispatch", "Approve or deny a pending approval")(op))),
        )
        .api_route(
            "/v1/dispatch/continue",
            post_with(continue_, |op| {
                streamed(about("continueDispatch", "Dispatch", "Continue a paused execution with outputs or a decision")(op))
            }),
        )
}

/// Documents the two forms of the answer: one JSON, or the events one by one.
pub fn streamed(operation: TransformOperation<'_>) -> TransformOperation<'_> {
    or_events(operation.response::<200, Json<Outcome>>(), "The execution's result")
}

/// Documents the answer to a call that does not wait.
pub fn may_be_accepted(operation: TransformOperation<'_>) -> TransformOperation<'_> {
    operation.response::<202, Json<Accepted>>()
}

/// An execution that was started and is not waited for; `Location` says the same as `url`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "DispatchAccepted")]
struct Accepted {
    execution_id: RunId,
    status: RunState,
    target_kind: TargetKind,
    /// The saved flow or agent, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    target_id: Option<String>,
    /// Where it stands.
    url: String,
    /// Where it stands, in short.
    status_url: String,
    /// Where its events are.
    events_url: String,
}

async fn dispatch(
    caller: Scoped<FlowsExecute>,
    State(desk): State<Desk>,
    key: IdempotencyKey,
    headers: HeaderMap,
    body: Body<DispatchRequest>,
) -> Result<Response> {
    let (hash, request) = (fingerprint(&body.raw), body.value);
    let posted = Posted { route: ROUTE.into(), key, headers: &headers, hash, request, session: None };
    desk.start(&caller, posted).await
}

/// A creating call.
pub struct Posted<'a> {
    /// Keys are remembered by route.
    pub route: String,
    pub key: IdempotencyKey,
    pub headers: &'a HeaderMap,
    pub hash: String,
    pub request: DispatchRequest,
    /// The page's session that calls, if it is one.
    pub session: Option<SessionId>,
}

/// An execution that was started, or started before, and how its caller is answered.
pub struct Begun {
    pub run: RunId,
    target: Target,
    reply: Reply,
}

enum Reply {
    Ready(Response),
    /// One JSON, once the execution rests.
    Json(TenantId, Option<OnDisconnect>),
}

impl Desk {
    /// Starts an execution and answers in the form that its caller wants.
    pub async fn start(&self, caller: &Caller, posted: Posted<'_>) -> Result<Response> {
        let begun = self.begin(caller, posted).await?;
        self.reply(begun).await
    }

    /// Answers what was begun; waits when the answer is one JSON.
    pub async fn reply(&self, begun: Begun) -> Result<Response> {
        let (tenant, guard) = match begun.reply {
            Reply::Ready(response) => return Ok(response),
            Reply::Json(tenant, guard) => (tenant, guard),
        };
        let response = self.one_json(tenant, begun.run, None, None).await;
        guard.into_iter().for_each(OnDisconnect::disarm);
        match response {
            // The run exists: an error would have the caller make a second one.
            Err(error) if error.kind() == Kind::Unavailable => Ok(accepted(begun.run, begun.target)),
            response => response.map(|response| named(begun.run, response)),
        }
    }

    /// Starts an execution, or finds the one that an earlier call with the same key started.
    pub async fn begin(&self, caller: &Caller, posted: Posted<'_>) -> Result<Begun> {
        // Before any work: refusing must stay cheap when there is too much to do.
        let Posted { route, key, headers, hash: request_hash, request, session } = posted;
        let (tenant, is_visitor) = (caller.tenant, session.is_some());
        self.workers.admits_run_of(Requester { tenant, is_visitor })?;
        let known = match &key.0 {
            Some(key) => self.store.find_created_run(tenant, &route, key, self.clock.now()).await?,
            None => None,
        };
        let wants = Wants { stream: None, headers };
        if let Some(Created::Duplicate { run, request_hash: before }) = known {
            let wants = Wants { stream: stream_option(&request), ..wants };
            let response = self.repeat(caller, run, &before, &request_hash, &wants).await?;
            return Ok(Begun { run, target: Target::default(), reply: Reply::Ready(response) });
        }
        let seed = key.0.as_deref().map(|key| seed(tenant, key, &request_hash));
        let lookup = Lookup { engine: &self.engine, store: &self.store, clock: &self.clock, tenant, is_visitor, seed };
        let resolved = lookup.resolve(request).await?;
        let target = resolved.target;
        let wants = Wants { stream: resolved.stream, ..wants };
        let cancel = resolved.input.options.cancel_on_disconnect;
        let hand_over = resolved.respond_async || prefers_async(headers);
        let slot = if wants.stream() && !hand_over { Some(self.limits.open_stream(caller.who)?) } else { None };
        let expires_at = self.clock.now().after(self.limits.options().idempotency_ttl);
        let run_key = key.0.map(|key| RunKey { route, key, request_hash: request_hash.clone(), expires_at });
        let mut start = resolved.start(tenant, run_key);
        start.input.session = session;
        admission::admit_start(&self.engine, caller, &mut start).await?;
        let (run, created, guard) = if cancel && !hand_over {
            disconnect::start(&self.workers, start).await?
        } else {
            let (run, created) = self.workers.start_run(start).await?;
            (run, created, None)
        };
        if let Created::Duplicate { run, request_hash: before } = created {
            let response = self.repeat(caller, run, &before, &request_hash, &wants).await?;
            return Ok(Begun { run, target, reply: Reply::Ready(response) });
        }
        failpoint::hit("http.accepted");
        let reply = match slot {
            _ if hand_over => Reply::Ready(accepted(run, target)),
            Some(slot) => {
                let follower = self.feed.follow(tenant, run, None);
                Reply::Ready(named(run, stream_response(run, follower, self.clock.clone(), slot, guard)))
            }
            None => Reply::Json(tenant, guard),
        };
        Ok(Begun { run, target, reply })
    }
}

fn stream_option(request: &DispatchRequest) -> Option<bool> {
    let option = request.options.peek().and_then(|options| options.get("streamResponse")).and_then(Value::as_bool);
    option.or(request.stream_response.peek().copied())
}

/// Where the ids of what a keyed call saves come from: whoever repeats the call makes the same objects, not second ones.
fn seed(tenant: TenantId, key: &str, request_hash: &str) -> u128 {
    let mut hash = Sha256::new();
    for part in [&tenant.to_string(), key, request_hash] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().iter().take(16).fold(0, |number, byte| number << 8 | u128::from(*byte))
}

async fn resume(caller: Scoped<FlowsExecute>, State(desk): State<Desk>, headers: HeaderMap, body: Body<ResumeRequest>) -> Result<Response> {
    desk.resume(&caller, &headers, body.value).await
}

async fn approve(
    caller: Scoped<FlowsExecute>,
    State(desk): State<Desk>,
    headers: HeaderMap,
    body: Body<ApproveRequest>,
) -> Result<Response> {
    desk.approve(&caller, &headers, body.value).await
}

async fn continue_(
    caller: Scoped<FlowsExecute>,
    State(desk): State<Desk>,
    headers: HeaderMap,
    body: Body<ContinueRequest>,
) -> Result<Response> {
    let ContinueRequest { execution_id, continuation, stream_response } = body.value;
    let wants = Wants { stream: stream_response, headers: &headers };
    match (continuation.approval_id, continuation.decision, continuation.tool_outputs) {
        (Some(approval), Some(decision), None) => {
            let word = Word { approval, decision, reason: continuation.reason, digest: continuation.digest };
            desk.decide(&caller, execution_id, word, &wants).await
        }
        (None, None, Some(outputs)) => {
            check_messages(&continuation.messages).map_err(|problems| Error::from(problems).under("/continuation/messages"))?;
            desk.deliver(&caller, execution_id, &outputs, &continuation.messages, &wants).await
        }
        _ => Err(Error::invalid_at("/continuation", "expected either `toolOutputs`, or `approvalId` with `decision`")),
    }
}

/// A person's word on one approval.
struct Word {
    approval: WaitId,
    decision: Decision,
    reason: Option<String>,
    digest: Option<String>,
}

/// In which form the caller wants its answer.
struct Wants<'a> {
    stream: Option<bool>,
    headers: &'a HeaderMap,
}

impl Wants<'_> {
    /// The option decides; without it the stream, unless only JSON is accepted.
    fn stream(&self) -> bool {
        let accepts = self.headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        self.stream.unwrap_or(!accepts.contains("json") || accepts.contains("text/event-stream"))
    }
}

fn prefers_async(headers: &HeaderMap) -> bool {
    headers.get_all(PREFER).iter().any(|value| value.to_str().is_ok_and(|value| value.to_ascii_lowercase().contains("respond-async")))
}

fn accepted(run: RunId, target: Target) -> Response {
    let place = format!("/v1/executions/{run}");
    let body = Accepted {
        execution_id: run,
        status: RunState::Running,
        target_kind: target.kind(),
        target_id: target_id(target),
        url: place.clone(),
        status_url: format!("{place}/status"),
        events_url: format!("{place}/events"),
    };
    let mut response = named(run, (StatusCode::ACCEPTED, Json(body)).into_response());
    if let Ok(place) = HeaderValue::from_str(&place) {
        response.headers_mut().insert(LOCATION, place);
    }
    response
}

/// The id of a saved flow or agent.
pub fn target_id(target: Target) -> Option<String> {
    target.flow_id().map(|id| id.to_string()).or_else(|| target.agent_id().map(|id| id.to_string()))
}

fn named(run: RunId, mut response: Response) -> Response {
    if let Ok(id) = HeaderValue::from_str(&run.to_string()) {
        response.headers_mut().insert(EXECUTION_ID, id);
    }
    response
}

impl Desk {
    /// Delivers tool outputs.
    pub async fn resume(&self, caller: &Caller, headers: &HeaderMap, request: ResumeRequest) -> Result<Response> {
        check_messages(&request.messages).map_err(|problems| Error::from(problems).under("/messages"))?;
        let wants = Wants { stream: request.stream_response, headers };
        self.deliver(caller, request.execution_id, &request.tool_outputs, &request.messages, &wants).await
    }

    /// Decides about an approval.
    pub async fn approve(&self, caller: &Caller, headers: &HeaderMap, request: ApproveRequest) -> Result<Response> {
        let wants = Wants { stream: request.stream_response, headers };
        let word = Word { approval: request.approval_id, decision: request.decision, reason: request.reason, digest: request.digest };
        self.decide(caller, request.execution_id, word, &wants).await
    }

    /// One JSON, once the execution rests; `decision` is what the call decided.
    async fn one_json(&self, tenant: TenantId, run: RunId, cursor: Option<u64>, decision: Option<Decision>) -> Result<Response> {
        let follower = self.feed.follow(tenant, run, cursor);
        let place = Follow { store: &self.store, clock: &self.clock, tenant, run };
        let outcome = follow(place, follower, |_| {}).await?;
        Ok(Json(Outcome { decision: decision.map(Decision::as_str), ..outcome }).into_response())
    }

    async fn answer(
        &self,
        caller: &Caller,
        run: RunId,
        cursor: Option<u64>,
        wants: &Wants<'_>,
        decision: Option<Decision>,
    ) -> Result<Response> {
        if !wants.stream() {
            return self.one_json(caller.tenant, run, cursor, decision).await.map(|response| named(run, response));
        }
        let slot = self.limits.open_stream(caller.who)?;
        let follower = self.feed.follow(caller.tenant, run, cursor);
        Ok(named(run, stream_response(run, follower, self.clock.clone(), slot, None)))
    }

    /// Answers a repeated creating call from the run that the first one made.
    async fn repeat(&self, caller: &Caller, run: RunId, before: &str, now: &str, wants: &Wants<'_>) -> Result<Response> {
        if before != now {
            return Err(Error::new(Kind::Invalid, "idempotency_key_reused", "this Idempotency-Key was used with another request body")
                .next("send the first body again, or choose a new key"));
        }
        let found = self.store.find_run(caller.tenant, run).await?.ok_or_else(|| Error::missing("execution"))?;
        if !found.state.is_terminal() && found.state != RunState::Paused {
            return Err(Error::new(
                Kind::Conflict,
                "idempotency_in_progress",
                "the execution that this Idempotency-Key started is still running",
            )
            .retry_after(Duration::from_secs(1))
            .details(json!({ "executionId": run }))
            .next(format!("follow it at GET /v1/executions/{run}/events")));
        }
        failpoint::hit("http.repeated");
        let mut response = self.answer(caller, run, None, wants, None).await?;
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
        Ok(response)
    }

    async fn deliver(
        &self,
        caller: &Caller,
        run: RunId,
        outputs: &Map<String, Value>,
        messages: &[Value],
        wants: &Wants<'_>,
    ) -> Result<Response> {
        if outputs.is_empty() {
            return Err(Error::invalid_at("/toolOutputs", "expected the output of at least one tool call"));
        }
        self.may_continue(caller, run, None).await?;
        let answered = self.engine.deliver(caller.tenant, run, outputs, messages, &caller.who.to_string()).await?;
        self.go_on(caller, run, answered, wants, None).await
    }

    async fn decide(&self, caller: &Caller, run: RunId, word: Word, wants: &Wants<'_>) -> Result<Response> {
        self.may_continue(caller, run, Some(word.approval)).await?;
        let by = caller.who.to_string();
        let verdict = Verdict { decision: word.decision, reason: word.reason.as_deref(), digest: word.digest.as_deref(), by: &by };
        let answered = self.engine.approve(caller.tenant, run, word.approval, verdict).await?;
        self.go_on(caller, run, answered, wants, Some(word.decision)).await
    }

    /// A page may continue what its own session began, and decide what its user was asked.
    async fn may_continue(&self, caller: &Caller, run: RunId, approval: Option<WaitId>) -> Result<()> {
        let Who::Session(session) = caller.who else { return Ok(()) };
        let found = self.store.find_run(caller.tenant, run).await?.filter(|run| run.input.session == Some(session));
        found.ok_or_else(no_paused_run)?;
        let Some(approval) = approval else { return Ok(()) };
        let wait = self.store.find_wait(caller.tenant, approval).await?.filter(|wait| wait.run == run);
        if wait.is_some_and(|wait| wait.approver() != Approver::EndUser) {
            return Err(Error::new(
                Kind::Forbidden,
                "APPROVAL_APPROVER_NOT_END_USER",
                "this call needs the word of the owner, not of the end user",
            )
            .next("its owner decides at POST /v1/dispatch/approve, or says `approver: \"end-user\"` in the approval policy"));
        }
        Ok(())
    }

    /// Answers with what came of an answer, up to the next rest; the same when it is repeated.
    async fn go_on(
        &self,
        caller: &Caller,
        run: RunId,
        answered: Answered,
        wants: &Wants<'_>,
        decision: Option<Decision>,
    ) -> Result<Response> {
        failpoint::hit("http.resolved");
        self.workers.nudge(run).await;
        self.answer(caller, run, answered.after, wants, decision).await
    }
}
