//! `/api/runs`: runs of workflows, read, cancelled, and undone again.

use std::collections::BTreeMap;

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::door::{Reader, run_token};
use super::{Name, Run, about, accepted, ended, is_name, printed, trigger_type};
use crate::clock::Timestamp;
use crate::engine::{COMPENSATION, Compensation, StepRecord, UNDO_WHEN_CANCELLED};
use crate::error::{Error, Result};
use crate::http::AppState;
use crate::http::extract::{Id, Params};
use crate::http::paging::Paging;
use crate::http::scope::{FlowsExecute, FlowsRead, Scoped};
use crate::id::{RunId, TenantId};
use crate::model::run::Failure;
use crate::model::{Flow, Outcome, RunState, StepState, Target, Wait};
use crate::store::{Created, RunFilter, RunKey, SharedStore, Signal};

const TAG: &str = "HTTP workflow runs";
/// How long it is remembered which run undoes what another could not.
const REMEMBERED: std::time::Duration = std::time::Duration::from_secs(365 * 24 * 3_600);

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route("/api/runs", get_with(list, about("listHttpRuns", TAG, "List runs of workflows, newest first")))
        .api_route(
            "/api/runs/{run}",
            get_with(read, about("getHttpRun", TAG, "Read a run")).delete_with(cancel, |op| {
                about("cancelHttpRun", TAG, "Cancel a run")(op).response::<200, Json<Cancelled>>().response::<202, Json<Cancelled>>()
            }),
        )
        .api_route(
            "/api/runs/{run}/compensation",
            post_with(compensate, |op| {
                about("compensateHttpRun", TAG, "Try again to undo what an ended run could not; a run of its own")(op)
                    .response::<202, Json<Cancelled>>()
            }),
        )
}

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "HttpRunStatus")]
pub(super) enum Status {
    Queued,
    Running,
    Waiting,
    Compensating,
    Completed,
    Failed,
    Cancelled,
}

impl Status {
    pub const fn of(state: RunState) -> Self {
        match state {
            RunState::Queued => Self::Queued,
            RunState::Running => Self::Running,
            RunState::Paused => Self::Waiting,
            RunState::Compensating => Self::Compensating,
            RunState::Completed => Self::Completed,
            RunState::Failed => Self::Failed,
            RunState::Cancelled => Self::Cancelled,
        }
    }
}

/// A run.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "HttpRun")]
pub(super) struct RunView {
    id: String,
    workflow: String,
    version: Option<u64>,
    status: Status,
    trigger: Triggered,
    started_at: Timestamp,
    completed_at: Option<Timestamp>,
    /// Steps that have begun and are not settled.
    current_steps: Vec<String>,
    steps: IndexMap<String, StepView>,
    /// What the document's `response` evaluated to; null without one, and until the run completes.
    result: Option<Value>,
    /// Null unless the run failed or was cancelled.
    error: Option<Failed>,
    /// Whether every undo succeeded; null when there was nothing to undo.
    compensation: Option<Compensation>,
    /// The number of its last event; null until the run has ended.
    last_event: Option<u64>,
}

/// How a run began.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "HttpRunTrigger")]
struct Triggered {
    #[serde(rename = "type")]
    kind: String,
}

/// Why a run failed.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "HttpRunError")]
struct Failed {
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<String>,
    code: String,
    message: String,
}

/// A step of a run.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[schemars(rename = "HttpRunStep")]
struct StepView {
    status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed_at: Option<Timestamp>,
    /// What later steps see of it: `response`, `signal`, `items`, `result`, `winner`.
    #[serde(flatten)]
    came: BTreeMap<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<StepError>,
    /// Why it could not be undone.
    #[serde(skip_serializing_if = "Option::is_none")]
    undo_error: Option<StepError>,
}

/// Why a step, or its undo, failed.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "HttpRunStepError")]
struct StepError {
    code: String,
    message: String,
}

/// A run in a list.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "HttpRunRow")]
struct Row {
    id: String,
    workflow: String,
    status: Status,
    started_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed_at: Option<Timestamp>,
    /// `key_unavailable`: it waits until a session brings the tenant's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

/// Runs.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "HttpRuns")]
struct Rows {
    runs: Vec<Row>,
    /// The cursor of the next page.
    next: Option<String>,
}

/// What a run is asked to do.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "HttpRunAsked")]
struct Cancelled {
    run_id: String,
    status: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct Query {
    /// Only runs of this workflow.
    workflow: Option<String>,
    /// Only runs that are there now.
    status: Option<Status>,
    #[serde(flatten)]
    paging: Paged,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct Paged {
    /// 1 to 200; 50 when absent.
    #[serde(default, deserialize_with = "number")]
    #[schemars(with = "Option<u32>")]
    limit: Option<u32>,
    /// `next` of an earlier answer.
    #[serde(default)]
    cursor: Option<String>,
}

/// A number of a query, which is a text when it is flattened.
fn number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<u32>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.filter(|text| !text.is_empty()).map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
}

async fn list(caller: Scoped<FlowsRead>, State(state): State<AppState>, Params(query): Params<Query>) -> Result<Json<Rows>> {
    let paging = Paging { limit: query.paging.limit, cursor: query.paging.cursor, search: None };
    let trail = paging.trail::<RunId>()?;
    let states = query.status.map(|status| RunState::ALL.into_iter().filter(|state| Status::of(*state) == status).collect());
    let target = match query.workflow {
        Some(name) if !is_name(&name) => return Ok(Json(Rows { runs: Vec::new(), next: None })),
        name => name.map(|name| Target::Workflow(Name(name).id())),
    };
    let filter = RunFilter {
        states: states.unwrap_or_default(),
        target,
        workflows: true,
        before: trail.after(),
        limit: paging.limit() + 1,
        ..RunFilter::default()
    };
    let mut found = state.store.list_runs(caller.tenant, filter).await?;
    let more = found.len() > paging.limit() as usize;
    found.truncate(paging.limit() as usize);
    let next = found.last().filter(|_| more).map(|last| trail.and(last.id).to_string());
    let shut = state.sealing.is_shut(caller.tenant).await?;
    let row = |run: crate::store::RunSummary| {
        let waits = shut && !run.state.is_terminal();
        Row {
            id: printed(run.id),
            workflow: run.flow_name,
            status: if waits { Status::Waiting } else { Status::of(run.state) },
            started_at: run.created_at,
            completed_at: run.finished_at,
            reason: waits.then_some("key_unavailable"),
        }
    };
    Ok(Json(Rows { runs: found.into_iter().map(row).collect(), next }))
}

async fn read(reader: Reader, State(store): State<SharedStore>, Id(id): Id<Run>) -> Result<Json<RunView>> {
    let run = reader.find(&store, id).await?;
    let flow = flow_of(&store, &run).await?;
    view(&store, run, &flow).await.map(Json)
}

/// What the journal says of a step that is not settled.
#[derive(Default)]
struct Begun {
    attempts: u64,
    at: Option<Timestamp>,
}

/// The workflow that a run was begun with, compiled.
pub(super) async fn flow_of(store: &SharedStore, run: &crate::model::Run) -> Result<Flow> {
    let flow = store.flow_of_run(run.tenant, run.id).await?.unwrap_or_default();
    serde_json::from_str(&flow).map_err(Error::internal)
}

/// A run as this surface shows it. `flow`: what [`flow_of`] says.
pub(super) async fn view(store: &SharedStore, run: crate::model::Run, flow: &Flow) -> Result<RunView> {
    let (mut records, mut begun) = (BTreeMap::<String, StepRecord>::new(), BTreeMap::<String, Begun>::new());
    let (mut undone, mut compensation) = (BTreeMap::<String, Option<StepError>>::new(), None);
    for entry in store.read_journal(run.tenant, run.id).await? {
        let Outcome::Done(value) = entry.outcome else { continue };
        if entry.key == COMPENSATION {
            compensation = serde_json::from_value(value).ok();
            continue;
        }
        let Some(rest) = entry.key.strip_prefix("steps/") else { continue };
        match rest.split_once('/') {
            None => drop(serde_json::from_value(value).map(|record| records.insert(rest.to_owned(), record))),
            Some((step, "undo")) => {
                let failure: Option<(String, String)> =
                    value.get("failure").and_then(|failure| serde_json::from_value(failure.clone()).ok());
                undone.insert(step.to_owned(), failure.map(|(code, message)| StepError { code, message }));
            }
            Some((step, rest)) => {
                let begun = begun.entry(step.to_owned()).or_default();
                if rest == "begun" {
                    begun.at = serde_json::from_value(value).ok();
                }
                let attempt = rest.strip_prefix("call/attempt/").and_then(|rest| rest.split('/').next()?.parse::<u64>().ok());
                begun.attempts = begun.attempts.max(attempt.unwrap_or(0));
            }
        }
    }
    let over = run.state.is_terminal();
    let all_settled = flow.steps.iter().all(|step| records.contains_key(&step.id));
    let waits = if over && all_settled { Vec::new() } else { store.run_waits(run.tenant, run.id).await? };
    let mut steps = IndexMap::with_capacity(flow.steps.len());
    let mut current_steps = Vec::new();
    for step in &flow.steps {
        let mut shown = match records.remove(&step.id) {
            Some(record) => settled(record),
            None => {
                let open: Vec<&Wait> = waits.iter().filter(|wait| wait.resolution.is_none() && is_below(&wait.key, &step.id)).collect();
                let known = begun.get(&step.id);
                let status = match (over, known.is_some() || !open.is_empty()) {
                    (true, true) => "cancelled",
                    (false, true) if open.iter().any(|wait| wait.kind == crate::model::WaitKind::Timer) => "retrying",
                    (false, true) if !open.is_empty() => "waiting",
                    (false, true) => "running",
                    (_, false) => "pending",
                };
                if !over && status != "pending" {
                    current_steps.push(step.id.clone());
                }
                let attempts = known.map(|begun| begun.attempts).filter(|attempts| *attempts > 0);
                let started_at = known.and_then(|begun| begun.at);
                StepView { status: status.into(), attempts, started_at, ..StepView::default() }
            }
        };
        match undone.remove(&step.id) {
            Some(None) => shown.status = "compensated".into(),
            failure => shown.undo_error = failure.flatten(),
        }
        steps.insert(step.id.clone(), shown);
    }
    let about = run.input.inputs.get("run");
    let trigger = trigger_type(&run.input).to_owned();
    let has_reply = flow.workflow.as_ref().is_some_and(|workflow| workflow.output.is_some());
    Ok(RunView {
        id: printed(run.id),
        workflow: run.flow_name,
        version: about.and_then(|about| about.get("version")).and_then(Value::as_u64),
        status: Status::of(run.state),
        trigger: Triggered { kind: trigger },
        started_at: run.created_at,
        completed_at: run.finished_at,
        current_steps,
        steps,
        result: run.output.filter(|_| has_reply),
        error: run.failure.map(|Failure { code, message, step, .. }| Failed { step, code, message }),
        compensation,
        last_event: Some(run.reserved).filter(|_| over),
    })
}

fn is_below(key: &str, step: &str) -> bool {
    key.strip_prefix("steps/").and_then(|rest| rest.strip_prefix(step)).is_some_and(|rest| rest.starts_with('/'))
}

fn settled(record: StepRecord) -> StepView {
    let status = match record.state {
        StepState::Completed => "completed",
        StepState::Skipped => "skipped",
        StepState::Failed => "failed",
        StepState::Cancelled => "cancelled",
        StepState::Compensated => "compensated",
        StepState::Pending | StepState::Running | StepState::Retrying | StepState::Waiting | StepState::Unknown => "running",
    };
    let mut came: BTreeMap<String, Value> = record.output.as_object().cloned().unwrap_or_default().into_iter().collect();
    let attempts = came.remove("attempts").and_then(|attempts| attempts.as_u64());
    let error = record.error.map(|message| StepError { code: record.code.unwrap_or_default(), message });
    let (started_at, completed_at) = (Some(record.started_at), Some(record.completed_at));
    StepView { status: status.into(), attempts, started_at, completed_at, came, error, undo_error: None }
}

#[derive(Debug, Deserialize, JsonSchema)]
struct How {
    /// Whether what was done is undone; it is not when absent.
    #[serde(default)]
    compensate: bool,
}

async fn cancel(
    caller: Scoped<FlowsExecute>,
    State(state): State<AppState>,
    Id(id): Id<Run>,
    Params(how): Params<How>,
) -> Result<Response> {
    let run = find(&state.store, caller.tenant, id).await?;
    let asked = |status: &str| Cancelled { run_id: printed(run.id), status: status.to_owned() };
    match run.state {
        RunState::Cancelled => return Ok((StatusCode::OK, Json(asked("cancelled"))).into_response()),
        // It ends already, and undoes what it did.
        RunState::Compensating => return Ok(accepted(asked("cancelling"))),
        state if state.is_terminal() => return Err(ended()),
        _ => {}
    }
    if how.compensate {
        let signal = Signal { name: UNDO_WHEN_CANCELLED.into(), id: UNDO_WHEN_CANCELLED.into(), payload: Value::Null };
        match state.engine.signal(caller.tenant, run.id, signal).await {
            Err(error) if error.code() == "execution_ended" => return Err(ended()),
            done => done?,
        }
    }
    match state.workers.cancel(caller.tenant, run.id).await? {
        RunState::Cancelled => Ok((StatusCode::OK, Json(asked("cancelled"))).into_response()),
        state if state.is_terminal() => Err(ended()),
        _ => Ok(accepted(asked("cancelling"))),
    }
}

async fn find(store: &SharedStore, tenant: TenantId, id: Run) -> Result<crate::model::Run> {
    use crate::http::extract::InPath;
    let found = store.find_run(tenant, id.0).await?;
    found.filter(|run| matches!(run.target, Target::Workflow(_))).ok_or_else(Run::missing)
}

async fn compensate(caller: Scoped<FlowsExecute>, State(state): State<AppState>, Id(id): Id<Run>) -> Result<Response> {
    let tenant = caller.tenant;
    find(&state.store, tenant, id).await?;
    let now = state.clock.now();
    // One for each ended run, however often it is asked for.
    let expires_at = now.after(REMEMBERED);
    let key = RunKey { route: "compensation".into(), key: id.0.to_string(), request_hash: String::new(), expires_at };
    let new = RunId::new(&state.clock);
    let secrets = BTreeMap::from([(crate::engine::RUN_SESSION.to_owned(), run_token(&state.vault, tenant, new)?)]);
    let run = match state.engine.compensate_again(tenant, id.0, new, secrets, key).await? {
        Created::New => {
            state.workers.nudge(new).await;
            new
        }
        Created::Duplicate { run, .. } => run,
    };
    Ok(accepted(Cancelled { run_id: printed(run), status: "queued".into() }))
}
