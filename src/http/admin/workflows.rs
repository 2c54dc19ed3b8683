//! `/v1/workflows`: flows by their names, and their runs.

use std::collections::BTreeMap;

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::Json;
use axum::extract::State as Part;
use axum::response::NoContent;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::time::AdminTime;
use super::{Window, about, word};
use crate::engine::StepRecord;
use crate::error::{Error, Kind, Result};
use crate::http::extract::{Body, Id, IdempotencyKey, InPath, Params};
use crate::http::idempotency::{Call, Created, Receipts, fingerprint};
use crate::http::scope::{FlowsExecute, FlowsRead, Scoped};
use crate::http::{AppState, admission};
use crate::id::{FlowId, RunId, TenantId};
use crate::model::{Caller, Outcome, Run, RunState, Target, TargetKind, WaitKind};
use crate::queue::Jobs;
use crate::store::{Created as Made, RunFilter, RunKey, SharedStore};

const TAG: &str = "Workflows";
/// Flows that are read at once for their names.
const PAGE: u32 = 200;
/// How long it is remembered that a run was started under a key.
const KEY_LIFE: std::time::Duration = std::time::Duration::from_secs(24 * 3_600);

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route("/v1/workflows", get_with(names, about("listWorkflows", TAG, "List the names of saved flows")))
        .api_route("/v1/workflows/runs", get_with(list, about("listWorkflowRuns", TAG, "List runs, oldest first")))
        .api_route("/v1/workflows/runs/{runId}", get_with(read, about("getWorkflowRun", TAG, "Read a run")))
        .api_route("/v1/workflows/runs/{runId}/cancel", post_with(cancel, about("cancelWorkflowRun", TAG, "Cancel a run")))
        .api_route(
            "/v1/workflows/runs/{runId}/timeline",
            get_with(timeline, about("getWorkflowTimeline", TAG, "List what a run's steps came to, in their order")),
        )
        .api_route(
            "/v1/workflows/runs/{runId}/children",
            get_with(children, about("listWorkflowChildren", TAG, "List the runs that a run started")),
        )
        .api_route(
            "/v1/workflows/runs/{runId}/replay",
            post_with(replay, about("replayWorkflowRun", TAG, "Do an ended run again from a step on; what came before it counts as done")),
        )
        .api_route("/v1/workflows/{workflowName}/runs", post_with(start, about("startWorkflow", TAG, "Start a run of a flow by its name")))
}

/// A flow's name.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(inline)]
struct WorkflowName(#[schemars(length(min = 1, max = 255))] String);

impl std::str::FromStr for WorkflowName {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl InPath for WorkflowName {
    const PARAM: &'static str = "workflowName";
    const NOUN: &'static str = "workflow";

    fn missing() -> Error {
        Error::not_found(Self::NOUN)
    }
}

/// A run's id, under this surface's name: `wfrun_…`; `run_…` is read too.
#[derive(Debug, Clone, Copy, JsonSchema)]
#[schemars(inline)]
pub(in crate::http) struct WorkflowRunId(
    #[schemars(with = "String", regex(pattern = "^(wfrun|run|exec)_[0-7][0-9a-hjkmnp-tv-z]{25}$"))] RunId,
);

impl std::str::FromStr for WorkflowRunId {
    type Err = crate::id::ParseIdError;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl InPath for WorkflowRunId {
    const PARAM: &'static str = "runId";
    const NOUN: &'static str = "run";

    fn missing() -> Error {
        Error::not_found(Self::NOUN)
    }

    fn malformed() -> Error {
        crate::http::extract::no_id(Self::NOUN)
    }
}

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "WorkflowRunState")]
pub(in crate::http) enum State {
    /// Also while it waits.
    Running,
    Completed,
    /// Also when it was cancelled.
    Failed,
}

impl State {
    pub const fn of(state: RunState) -> Self {
        match state {
            RunState::Queued | RunState::Running | RunState::Paused | RunState::Compensating => Self::Running,
            RunState::Completed => Self::Completed,
            RunState::Failed | RunState::Cancelled => Self::Failed,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        match text {
            "running" => Some(Self::Running),
            "completed" => Some(Self::Completed),
            "failed" => Some(Self::Failed),
            _ => None,
        }
    }

    fn states(self) -> Vec<RunState> {
        RunState::ALL.into_iter().filter(|state| Self::of(*state) == self).collect()
    }
}

/// The names of flows.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "WorkflowNames")]
struct Names {
    names: Vec<String>,
}

/// A run.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "WorkflowRun")]
pub(in crate::http) struct Row {
    id: String,
    name: String,
    state: State,
    /// The step that runs, or the last one that ended.
    current_step: Option<String>,
    input: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Of the document that the run keeps to; 1 where documents have none.
    version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_run_id: Option<String>,
    scope_app_id: String,
    scope_org_id: String,
    started_at: AdminTime,
    completed_at: Option<AdminTime>,
    created_at: AdminTime,
    updated_at: AdminTime,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct Query {
    /// One of running, completed, failed; all when absent.
    state: Option<String>,
    /// 50 when absent or below 1; 1,000 at most.
    limit: Option<i64>,
    /// Rows to leave out; past the end there are none.
    offset: Option<i64>,
}

/// What a run begins with.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "WorkflowInput")]
struct Input {
    /// Variables of the flow.
    input: Map<String, Value>,
}

/// Where a run is done again.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "WorkflowReplay")]
struct Replay {
    /// The step's id.
    from_step: String,
}

/// What a step came to.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "WorkflowCheckpoint")]
pub(in crate::http) struct Checkpoint {
    step_name: String,
    state: crate::model::StepState,
    data: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    started_at: AdminTime,
    created_at: AdminTime,
}

fn printed(id: RunId) -> String {
    format!("wfrun_{}", id.suffix())
}

async fn names(caller: Scoped<FlowsRead>, Part(store): Part<SharedStore>) -> Result<Json<Names>> {
    let (mut names, mut before): (Vec<String>, Option<FlowId>) = (Vec::new(), None);
    loop {
        let page = store.list_flows(caller.tenant, TargetKind::Flow, before, None, PAGE).await?;
        before = page.last().map(|flow| flow.id);
        let last = page.len() < PAGE as usize;
        names.extend(page.into_iter().map(|flow| flow.name));
        if last {
            break;
        }
    }
    names.sort_unstable();
    Ok(Json(Names { names }))
}

/// What the steps of a run came to, by their ids, and the ids of those that began.
async fn steps(store: &SharedStore, tenant: TenantId, run: RunId) -> Result<(BTreeMap<String, StepRecord>, Vec<String>)> {
    let mut records = BTreeMap::new();
    let mut begun = Vec::new();
    for entry in store.read_journal(tenant, run).await? {
        let Some(step) = entry.key.strip_prefix("steps/") else { continue };
        match (step.split_once('/'), entry.outcome) {
            (None, Outcome::Done(value)) => {
                if let Ok(record) = serde_json::from_value::<StepRecord>(value) {
                    records.insert(step.to_owned(), record);
                }
            }
            (Some((step, _)), _) if !begun.iter().any(|known| known == step) => begun.push(step.to_owned()),
            _ => {}
        }
    }
    Ok((records, begun))
}

async fn row(store: &SharedStore, run: Run) -> Result<Row> {
    let (records, mut begun) = steps(store, run.tenant, run.id).await?;
    if !run.state.is_terminal() {
        let waits = store.run_waits(run.tenant, run.id).await?;
        let open = waits.iter().filter(|wait| wait.resolution.is_none());
        begun.extend(open.filter_map(|wait| Some(wait.key.strip_prefix("steps/")?.split_once('/')?.0.to_owned())));
    }
    let open = begun.into_iter().find(|step| !records.contains_key(step));
    let last = records.iter().max_by_key(|(_, record)| record.order).map(|(step, _)| step.clone());
    let scope = |name: &str| {
        let about = run.input.inputs.get("_job").and_then(|job| job.get(name));
        about.and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let about = run.input.inputs.get("run").filter(|_| matches!(run.target, Target::Workflow(_)));
    let version = about.and_then(|about| about.get("version")).and_then(Value::as_u64).unwrap_or(1);
    Ok(Row {
        id: printed(run.id),
        state: State::of(run.state),
        current_step: open.or(last),
        scope_app_id: scope("scope_app_id"),
        scope_org_id: scope("scope_org_id"),
        version,
        name: run.flow_name,
        input: run.input.inputs,
        output: run.output,
        error: run.failure.map(|failure| failure.message),
        parent_run_id: run.parent.map(|parent| printed(parent.run)),
        started_at: run.created_at.into(),
        completed_at: run.finished_at.map(AdminTime),
        created_at: run.created_at.into(),
        updated_at: run.finished_at.unwrap_or(run.created_at).into(),
    })
}

async fn list(caller: Scoped<FlowsRead>, Part(store): Part<SharedStore>, Params(query): Params<Query>) -> Result<Json<Vec<Row>>> {
    let state = word("state", query.state.as_deref(), State::parse, "running, completed, failed")?;
    let window = Window::of(query.limit, query.offset);
    let filter = RunFilter {
        states: state.map(State::states).unwrap_or_default(),
        oldest_first: true,
        offset: window.offset(),
        limit: window.limit(),
        ..RunFilter::default()
    };
    let mut rows = Vec::new();
    for found in store.list_runs(caller.tenant, filter).await? {
        if let Some(run) = store.find_run(caller.tenant, found.id).await? {
            rows.push(row(&store, run).await?);
        }
    }
    Ok(Json(rows))
}

async fn find(store: &SharedStore, tenant: TenantId, id: WorkflowRunId) -> Result<Run> {
    store.find_run(tenant, id.0).await?.ok_or_else(WorkflowRunId::missing)
}

async fn read(caller: Scoped<FlowsRead>, Part(store): Part<SharedStore>, Id(id): Id<WorkflowRunId>) -> Result<Json<Row>> {
    read_run(&store, caller.tenant, id).await.map(Json)
}

/// Reads a run.
pub(in crate::http) async fn read_run(store: &SharedStore, tenant: TenantId, id: WorkflowRunId) -> Result<Row> {
    let run = find(store, tenant, id).await?;
    row(store, run).await
}

async fn cancel(caller: Scoped<FlowsExecute>, Part(jobs): Part<Jobs>, Id(id): Id<WorkflowRunId>) -> Result<NoContent> {
    cancel_run(&jobs, caller.tenant, id).await.map(|()| NoContent)
}

/// Cancels a run that is not over.
pub(in crate::http) async fn cancel_run(jobs: &Jobs, tenant: TenantId, id: WorkflowRunId) -> Result<()> {
    match jobs.cancel_run(tenant, id.0).await? {
        None => Err(WorkflowRunId::missing()),
        Some(state) if state.is_terminal() => {
            let message = format!("the run is {}; it cannot be cancelled", state.as_str());
            Err(Error::new(Kind::Malformed, "run_over", message))
        }
        Some(_) => Ok(()),
    }
}

async fn timeline(caller: Scoped<FlowsRead>, Part(store): Part<SharedStore>, Id(id): Id<WorkflowRunId>) -> Result<Json<Vec<Checkpoint>>> {
    read_timeline(&store, caller.tenant, id).await.map(Json)
}

/// Lists what a run's steps came to, in their order.
pub(in crate::http) async fn read_timeline(store: &SharedStore, tenant: TenantId, id: WorkflowRunId) -> Result<Vec<Checkpoint>> {
    let run = find(store, tenant, id).await?;
    let (records, _) = steps(store, tenant, run.id).await?;
    let mut all: Vec<(String, StepRecord)> = records.into_iter().collect();
    all.sort_by_key(|(_, record)| record.order);
    let checkpoint = |(step_name, record): (String, StepRecord)| Checkpoint {
        step_name,
        state: record.state,
        data: record.output,
        error: record.error,
        started_at: record.started_at.into(),
        created_at: record.completed_at.into(),
    };
    Ok(all.into_iter().map(checkpoint).collect())
}

async fn children(caller: Scoped<FlowsRead>, Part(store): Part<SharedStore>, Id(id): Id<WorkflowRunId>) -> Result<Json<Vec<Row>>> {
    let run = find(&store, caller.tenant, id).await?;
    let mut rows = Vec::new();
    for wait in store.run_waits(caller.tenant, run.id).await?.into_iter().filter(|wait| wait.kind == WaitKind::Child) {
        let Ok(child) = wait.name.parse::<RunId>() else { continue };
        if let Some(child) = store.find_run(caller.tenant, child).await? {
            rows.push(row(&store, child).await?);
        }
    }
    Ok(Json(rows))
}

async fn start(
    caller: Scoped<FlowsExecute>,
    Part(state): Part<AppState>,
    Part(receipts): Part<Receipts>,
    Id(name): Id<WorkflowName>,
    key: IdempotencyKey,
    body: Body<Input>,
) -> Result<Created<Row>> {
    let tenant = caller.tenant;
    // The name is part of what is asked.
    let request = fingerprint(format!("{}\n{}", name.0, String::from_utf8_lossy(&body.raw)).as_bytes());
    let call = Call { tenant, route: "POST /v1/workflows/{workflowName}/runs", key, request, secret: false };
    let input = body.value.input;
    receipts.once(call, move |seed| async move { start_run(&state, &caller, &name.0, input, seed).await }).await
}

/// Starts a run of a flow by its name. The same `seed` again is the same run.
pub(in crate::http) async fn start_run(
    state: &AppState,
    caller: &Caller,
    name: &str,
    input: Map<String, Value>,
    seed: u128,
) -> Result<Row> {
    let tenant = caller.tenant;
    let start = state.jobs.named_start(tenant, name, input, Some(key_of(state, seed))).await?;
    let mut start = start.ok_or_else(WorkflowName::missing)?;
    admission::admit_start(&state.engine, caller, &mut start).await?;
    let run = match state.workers.start_run(start).await? {
        (run, Made::New) | (_, Made::Duplicate { run, .. }) => run,
    };
    read_run(&state.store, tenant, WorkflowRunId(run)).await
}

async fn replay(
    caller: Scoped<FlowsExecute>,
    Part(state): Part<AppState>,
    Part(receipts): Part<Receipts>,
    Id(id): Id<WorkflowRunId>,
    key: IdempotencyKey,
    body: Body<Replay>,
) -> Result<Created<Row>> {
    let tenant = caller.tenant;
    let request = fingerprint(format!("{}\n{}", id.0, body.value.from_step).as_bytes());
    let call = Call { tenant, route: "POST /v1/workflows/runs/{runId}/replay", key, request, secret: false };
    receipts.once(call, move |seed| async move { replay_run(&state, &caller, id, &body.value.from_step, seed).await }).await
}

/// Does an ended run again from a step on. The same `seed` again is the same run.
pub(in crate::http) async fn replay_run(state: &AppState, caller: &Caller, id: WorkflowRunId, from_step: &str, seed: u128) -> Result<Row> {
    let (tenant, key_id) = (caller.tenant, caller.key_id());
    find(&state.store, tenant, id).await?;
    let new = RunId::new(&state.clock);
    admission::admit(&state.engine, (tenant, key_id), Some(new)).await?;
    let run = state.jobs.replay_run((tenant, key_id), id.0, new, from_step, key_of(state, seed)).await?;
    read_run(&state.store, tenant, WorkflowRunId(run)).await
}

/// The key of a run that a creating call makes: tried again, it is the same run.
fn key_of(state: &AppState, seed: u128) -> RunKey {
    let expires_at = state.clock.now().after(KEY_LIFE);
    RunKey { route: "workflow".into(), key: format!("{seed:032x}"), request_hash: String::new(), expires_at }
}
