//! `/v1/executions`: runs as they stand, their events, their steps, and how to stop them.
//!
//! `filter` reads the filters, `rows` formats executions, `status` those that are polled, `steps` their steps, `tool_calls` the calls that they made;
//! `delete` deletes executions.

mod delete;
mod filter;
mod rows;
mod status;
mod steps;
mod tool_calls;

use std::time::Duration;

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::ACCEPT;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::filter::Filter;
use self::rows::{AgentDetail, AgentRow, Detail};
use super::execute::{EventPage, nothing_more, or_events, stream_response};
use super::{about, agents, body_optional};
use crate::clock::Clock;
use crate::engine::{Engine, Fate, LONGEST_SIGNAL, is_signal_name};
use crate::error::{Error, Kind, Result};
use crate::feed::{Feed, Follower};
use crate::http::AppState;
use crate::http::extract::{Body, Filters, Id, IdempotencyKey, Ids, InPath, Params};
use crate::http::limits::Limits;
use crate::http::paging::{Page, Paging};
use crate::http::scope::{AgentsExecute, AgentsRead, FlowsExecute, FlowsRead, Scoped};
use crate::id::{AgentId, RequestId, RunId, TenantId, WaitId};
use crate::model::event::Rest;
use crate::model::{Run, RunState, Target};
use crate::queue::Workers;
use crate::store::{RunFilter, SharedStore, Signal, is_reserved_signal};

pub(super) use self::filter::OwnFilter;
pub(super) use self::rows::Row;
pub(super) use self::steps::{StepRow, models_of, steps_of, with_inquiries};
pub(super) use self::tool_calls::{Row as ToolCall, tool_calls_of};

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .merge(tool_calls::routes())
        .api_route("/v1/executions", get_with(list, about("listExecutions", "Executions", "List executions, newest first")))
        .api_route(
            "/v1/executions/{executionId}",
            get_with(read, about("getExecution", "Executions", "Read an execution and what it waits for"))
                .delete_with(delete::delete, about("deleteExecution", "Executions", "Delete an execution that has ended")),
        )
        .api_route(
            "/v1/executions/bulk-delete",
            post_with(delete::delete_many, about("deleteExecutions", "Executions", "Delete many executions that have ended")),
        )
        .api_route(
            "/v1/executions/{executionId}/status",
            get_with(status::status, about("getExecutionStatus", "Executions", "Read how far an execution is")),
        )
        .api_route(
            "/v1/executions/{executionId}/events",
            get_with(events, |op| {
                let op = about(
                    "listExecutionEvents",
                    "Executions",
                    "Replay and follow an execution's events: SSE when `Accept` asks for it, else a long poll",
                )(op);
                or_events(op.response::<200, Json<EventPage>>(), "A page of the execution's events")
            }),
        )
        .api_route(
            "/v1/agents/{agentId}/executions",
            get_with(list_of_agent, about("listAgentExecutions", "Agents", "List an agent's executions, newest first")),
        )
        .api_route(
            "/v1/agents/{agentId}/executions/{executionId}",
            get_with(read_of_agent, about("getAgentExecution", "Agents", "Read an agent's execution and what it waits for")),
        )
        .api_route(
            "/v1/agents/{agentId}/executions/{executionId}/events",
            get_with(events_of_agent, |op| {
                let op = about(
                    "listAgentExecutionEvents",
                    "Agents",
                    "Replay and follow the events of an agent's execution: SSE when `Accept` asks for it, else a long poll",
                )(op);
                or_events(op.response::<200, Json<EventPage>>(), "A page of the execution's events")
            }),
        )
        .api_route(
            "/v1/executions/{executionId}/steps",
            get_with(steps, about("listExecutionSteps", "Executions", "List the steps of an execution")),
        )
        .api_route("/v1/executions/{executionId}/cancel", post_with(cancel, about("cancelExecution", "Executions", "Cancel an execution")))
        .api_route(
            "/v1/agents/{agentId}/executions/{executionId}/cancel",
            post_with(cancel_of_agent, about("cancelAgentExecution", "Agents", "Cancel an agent's execution")),
        )
        .api_route(
            "/v1/executions/{executionId}/signals/{signal}",
            post_with(signal, |op| {
                let op = about("sendSignal", "Executions", "Send a named signal to an execution")(op);
                body_optional(op).response::<202, Json<Sent>>()
            }),
        )
        .api_route(
            "/v1/executions/{executionId}/settle",
            post_with(settle, about("settleEffect", "Executions", "Say what became of an effect whose answer was lost")),
        )
}

/// A signal's name, as it stands in the path.
#[derive(Debug, Clone, JsonSchema)]
#[serde(transparent)]
struct SignalName(String);

impl std::str::FromStr for SignalName {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl InPath for SignalName {
    const PARAM: &'static str = "signal";
    const NOUN: &'static str = "signal";
}

/// A signal's payload: any JSON object.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
struct SignalPayload(serde_json::Map<String, Value>);

/// A signal that was taken in.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "SentSignal")]
struct Sent {
    execution_id: RunId,
    signal: String,
    /// The delivery's id: the `Idempotency-Key`, or one made here.
    id: String,
}

async fn signal(
    caller: Scoped<FlowsExecute>,
    State(engine): State<Engine>,
    State(workers): State<Workers>,
    State(clock): State<Clock>,
    Ids(id, SignalName(name)): Ids<RunId, SignalName>,
    key: IdempotencyKey,
    body: Option<Body<SignalPayload>>,
) -> Result<(axum::http::StatusCode, Json<Sent>)> {
    // Names that begin with `$` are reserved for the server.
    if !is_signal_name(&name) || is_reserved_signal(&name) {
        let message =
            format!("expected a signal name of 1 to {LONGEST_SIGNAL} characters without control characters that does not begin with `$`");
        return Err(Error::new(Kind::Invalid, "invalid_signal", message));
    }
    let delivery = key.0.unwrap_or_else(|| RequestId::new(&clock).to_string());
    let payload = body.map_or(Value::Null, |body| Value::Object(body.value.0));
    engine.signal(caller.tenant, id, Signal { name: name.clone(), id: delivery.clone(), payload }).await?;
    workers.nudge(id).await;
    Ok((axum::http::StatusCode::ACCEPTED, Json(Sent { execution_id: id, signal: name, id: delivery })))
}

/// The steps of an execution.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ExecutionSteps")]
struct Steps {
    execution_id: RunId,
    data: Vec<StepRow>,
}

/// From where, and how long to wait.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
struct From {
    /// Only events with a greater number. `Last-Event-ID` says the same.
    after: Option<u64>,
    /// Seconds to wait for an event when there is none yet, at most 60; 20 when absent.
    wait: Option<u64>,
}

/// What became of an effect.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct SettleRequest {
    wait_id: WaitId,
    outcome: FateWord,
    /// The effect's result, when it succeeded.
    #[serde(default)]
    result: Value,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "EffectFate")]
enum FateWord {
    Succeeded,
    Failed,
    Retry,
}

/// Where an execution stands.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ExecutionStatus")]
struct Status {
    execution_id: RunId,
    status: RunState,
}

async fn list(caller: Scoped<FlowsRead>, State(store): State<SharedStore>, Filters(filter): Filters<Filter>) -> Result<Json<Page<Row>>> {
    let (filter, paging) = filter.read()?;
    page(&store, caller.tenant, filter, &paging).await
}

async fn list_of_agent(
    caller: Scoped<AgentsRead>,
    State(store): State<SharedStore>,
    Id(agent): Id<AgentId>,
    Filters(filter): Filters<OwnFilter>,
) -> Result<Json<Page<AgentRow>>> {
    let (filter, paging) = filter.read()?;
    let filter = RunFilter { target: Some(Target::Agent(Some(agent))), ..filter };
    let Json(page) = page(&store, caller.tenant, filter, &paging).await?;
    // A deleted agent's executions stay; an agent that never was has none.
    if page.data.is_empty() {
        agents::shelf(&store, caller.tenant).head(agent.as_flow()).await?;
    }
    Ok(Json(Page { data: page.data.into_iter().map(AgentRow::new).collect(), pagination: page.pagination }))
}

pub(super) async fn page(store: &SharedStore, tenant: TenantId, filter: RunFilter, paging: &Paging) -> Result<Json<Page<Row>>> {
    let (trail, limit) = (paging.trail::<RunId>()?, paging.limit());
    let runs = store.list_runs(tenant, RunFilter { before: trail.after(), limit: limit + 1, ..filter }).await?;
    let page = trail.page(runs, limit, false, |run| run.id);
    let mut data = Vec::with_capacity(page.data.len());
    for run in &page.data {
        data.push(Row::of_summary(store, tenant, run).await?);
    }
    Ok(Json(Page { data, pagination: page.pagination }))
}

async fn find(store: &SharedStore, caller: &crate::model::Caller, id: RunId) -> Result<Run> {
    store.find_run(caller.tenant, id).await?.filter(|run| caller.may_see(run)).ok_or_else(RunId::missing)
}

async fn read(caller: Scoped<FlowsRead>, State(store): State<SharedStore>, Id(id): Id<RunId>) -> Result<Json<Detail>> {
    let run = find(&store, &caller, id).await?;
    Detail::of(&store, run).await.map(Json)
}

async fn read_of_agent(
    caller: Scoped<AgentsRead>,
    State(store): State<SharedStore>,
    Ids(agent, id): Ids<AgentId, RunId>,
) -> Result<Json<AgentDetail>> {
    let run = find_of_agent(&store, &caller, agent, id).await?;
    Detail::of(&store, run).await.map(|detail| Json(AgentDetail::new(detail)))
}

async fn find_of_agent(store: &SharedStore, caller: &crate::model::Caller, agent: AgentId, id: RunId) -> Result<Run> {
    if let Some(run) =
        store.find_run(caller.tenant, id).await?.filter(|run| run.target == Target::Agent(Some(agent)) && caller.may_see(run))
    {
        return Ok(run);
    }
    agents::shelf(store, caller.tenant).head(agent.as_flow()).await?;
    Err(RunId::missing())
}

/// What reading a run's events needs.
#[derive(Clone)]
struct Reading {
    store: SharedStore,
    feed: Feed,
    clock: Clock,
    limits: Limits,
}

impl axum::extract::FromRef<AppState> for Reading {
    fn from_ref(state: &AppState) -> Self {
        Self { store: state.store.clone(), feed: state.feed.clone(), clock: state.clock.clone(), limits: state.limits.clone() }
    }
}

/// The run is authorised first, the cursor read afterwards: a guessed cursor shows nothing of anyone else's run.
async fn events(
    caller: Scoped<FlowsRead>,
    State(reading): State<Reading>,
    Id(id): Id<RunId>,
    Params(from): Params<From>,
    headers: HeaderMap,
) -> Result<Response> {
    let run = find(&reading.store, &caller, id).await?;
    reading.answer(&caller, run, &from, &headers).await
}

async fn events_of_agent(
    caller: Scoped<AgentsRead>,
    State(reading): State<Reading>,
    Ids(agent, id): Ids<AgentId, RunId>,
    Params(from): Params<From>,
    headers: HeaderMap,
) -> Result<Response> {
    let run = find_of_agent(&reading.store, &caller, agent, id).await?;
    reading.answer(&caller, run, &from, &headers).await
}

impl Reading {
    async fn answer(self, caller: &crate::model::Caller, run: Run, from: &From, headers: &HeaderMap) -> Result<Response> {
        let Self { store, feed, clock, limits } = self;
        let id = run.id;
        let cursor = from.after.or(last_event_id(headers)?);
        let follower = feed.follow(caller.tenant, id, cursor);
        let accepts = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if accepts.contains("text/event-stream") {
            if run.state == RunState::Paused && has_read_up(&store, &run, cursor).await? {
                return Ok(nothing_more());
            }
            let slot = limits.open_stream(caller.who)?;
            return Ok(stream_response(id, follower, clock, slot, None));
        }
        let wait = Duration::from_secs(from.wait.unwrap_or(20).min(60));
        poll(&store, caller.tenant, run, follower, &clock, wait, cursor).await.map(|page| Json(page).into_response())
    }
}

/// Whether nothing comes after the cursor until somebody answers what the run waits for.
async fn has_read_up(store: &SharedStore, run: &Run, cursor: Option<u64>) -> Result<bool> {
    let asks = store.run_waits(run.tenant, run.id).await?.iter().any(|wait| wait.resolution.is_none() && wait.kind.needs_the_caller());
    Ok(asks && store.read_log(run.tenant, run.id, cursor, 1).await?.is_empty())
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let number = value.to_str().ok().map(str::trim).filter(|text| !text.is_empty());
    number
        .map(str::parse)
        .transpose()
        .map_err(|_| Error::new(Kind::Malformed, "invalid_cursor", "Last-Event-ID is not the number of an event"))
}

async fn poll(
    store: &SharedStore,
    tenant: crate::id::TenantId,
    run: Run,
    mut follower: Follower,
    clock: &Clock,
    wait: Duration,
    cursor: Option<u64>,
) -> Result<EventPage> {
    // What is there already is given whatever time it takes; only what may yet come is waited for.
    let there = run.state.is_terminal() || !store.read_log(tenant, run.id, cursor, 1).await?.is_empty();
    let wait = if run.state == RunState::Paused { Duration::from_millis(50) } else { wait };
    let stretch = tokio::select! {
        stretch = follower.next() => stretch?,
        () = clock.sleep(wait), if !there => Default::default(),
    };
    let state =
        if stretch.rest == Rest::None { run.state } else { store.find_run(tenant, run.id).await?.map_or(run.state, |run| run.state) };
    let after = stretch.events.last().map(|event| event.seq).or(cursor);
    let events = stretch.events.iter().filter_map(|event| serde_json::from_str(&event.public_json(run.id)).ok()).collect();
    Ok(EventPage { execution_id: run.id, status: state.as_str().into(), events, after })
}

async fn steps(caller: Scoped<FlowsRead>, State(store): State<SharedStore>, Id(id): Id<RunId>) -> Result<Json<Steps>> {
    let run = find(&store, &caller, id).await?;
    let mut data = steps_of(&store, caller.tenant, id, run.state, run.target.kind()).await?;
    with_inquiries(&store, caller.tenant, id, &mut data).await?;
    Ok(Json(Steps { execution_id: id, data }))
}

async fn cancel(
    caller: Scoped<FlowsExecute>,
    State(workers): State<Workers>,
    State(reading): State<Reading>,
    Id(id): Id<RunId>,
) -> Result<Json<Status>> {
    end(&caller, &workers, reading, id).await
}

async fn cancel_of_agent(
    caller: Scoped<AgentsExecute>,
    State(workers): State<Workers>,
    State(reading): State<Reading>,
    Ids(agent, id): Ids<AgentId, RunId>,
) -> Result<Json<Status>> {
    find_of_agent(&reading.store, &caller, agent, id).await?;
    end(&caller, &workers, reading, id).await
}

/// Cancels an execution, and waits a little for its end.
async fn end(caller: &crate::model::Caller, workers: &Workers, reading: Reading, id: RunId) -> Result<Json<Status>> {
    let Reading { store, feed, clock, .. } = reading;
    let before = workers.cancel(caller.tenant, id).await?;
    if before.is_terminal() {
        return Ok(Json(Status { execution_id: id, status: before }));
    }
    // Usually it is over at once; a run that another node advances takes as long as the word needs to get there.
    let position = store.read_log(caller.tenant, id, None, u32::MAX).await?.last().map(|segment| segment.last());
    let mut follower = feed.follow(caller.tenant, id, position);
    let ended = async {
        while let Ok(stretch) = follower.next().await {
            if stretch.rest == Rest::End {
                return;
            }
        }
    };
    tokio::select! {
        () = ended => {}
        () = clock.sleep(Duration::from_secs(2)) => {}
    }
    let run = find(&store, caller, id).await?;
    Ok(Json(Status { execution_id: id, status: run.state }))
}

async fn settle(
    caller: Scoped<FlowsExecute>,
    State(engine): State<Engine>,
    State(workers): State<Workers>,
    State(store): State<SharedStore>,
    Id(id): Id<RunId>,
    body: Body<SettleRequest>,
) -> Result<Json<Status>> {
    let request = body.value;
    let fate = match request.outcome {
        FateWord::Succeeded => Fate::Succeeded(request.result),
        FateWord::Failed => Fate::Failed,
        FateWord::Retry => Fate::Retry,
    };
    find(&store, &caller, id).await?;
    engine.settle(caller.tenant, id, request.wait_id, fate, &caller.who.to_string()).await?;
    workers.nudge(id).await;
    let run = find(&store, &caller, id).await?;
    Ok(Json(Status { execution_id: id, status: run.state }))
}
