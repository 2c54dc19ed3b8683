//! Representations of an execution: in lists, and in full.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::clock::Timestamp;
use crate::error::Result;
use crate::http::dispatch::execute::Fold;
use crate::id::{AgentId, FlowId, KeyId, RecordId, RunId, ScheduleId, TenantId, WaitId};
use crate::model::run::{Failure, Fault, Spent, did_well};
use crate::model::wait::Wait;
use crate::model::{Run, RunState, Target, TargetKind};
use crate::store::{RunSummary, SharedStore};

/// An execution in a list.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Execution")]
pub(in crate::http::dispatch) struct Row {
    id: RunId,
    status: RunState,
    /// Whether all its steps succeeded; `false` for a completed execution with failed steps, `null` until it has ended.
    success: Option<bool>,
    kind: TargetKind,
    flow_id: Option<FlowId>,
    agent_id: Option<AgentId>,
    /// Name of the flow or agent.
    flow_name: String,
    created_at: Timestamp,
    finished_at: Option<Timestamp>,
    /// Why it was not successful: the error that ended it, or that of the first failed step.
    error: Option<Fault>,
    usage: Usage,
}

/// An agent's execution in a list.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "AgentExecution")]
pub(super) struct AgentRow {
    #[serde(flatten)]
    row: Row,
    #[serde(flatten)]
    of_agent: OfAgent,
}

/// An agent's execution in full.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "AgentExecutionDetail")]
pub(super) struct AgentDetail {
    #[serde(flatten)]
    detail: Detail,
    #[serde(flatten)]
    of_agent: OfAgent,
}

/// What readers of agents' executions look for beside what every execution has.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct OfAgent {
    /// Same as `id`.
    execution_id: RunId,
    /// Always `version`: it runs the version that was found when it began.
    agent_target_resolution: &'static str,
    /// Always `detached`: it goes on without its caller.
    execution_mode: &'static str,
    /// Always `none`.
    notification_mode: &'static str,
    /// Same as `createdAt`.
    started_at: Timestamp,
    /// Same as `finishedAt`.
    completed_at: Option<Timestamp>,
    /// Same as `usage.cost`, as text.
    total_cost: String,
}

impl OfAgent {
    fn new(row: &Row) -> Self {
        Self {
            execution_id: row.id,
            agent_target_resolution: "version",
            execution_mode: "detached",
            notification_mode: "none",
            started_at: row.created_at,
            completed_at: row.finished_at,
            total_cost: row.usage.cost.to_string(),
        }
    }
}

impl AgentRow {
    pub fn new(row: Row) -> Self {
        Self { of_agent: OfAgent::new(&row), row }
    }
}

impl AgentDetail {
    pub fn new(detail: Detail) -> Self {
        Self { of_agent: OfAgent::new(&detail.row), detail }
    }
}

/// What an execution used.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ExecutionUsage")]
struct Usage {
    /// US dollars.
    cost: f64,
    input_tokens: u64,
    output_tokens: u64,
    model_calls: u64,
    /// Milliseconds spent running, without pauses.
    duration_ms: u64,
    /// Whether some figure is an estimate, or a model has no known price.
    estimated: bool,
}

/// An execution in full.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ExecutionDetail")]
pub(super) struct Detail {
    #[serde(flatten)]
    row: Row,
    output: Option<Value>,
    /// The inputs that it was started with.
    inputs: Map<String, Value>,
    /// The record that it is about, as templates see it.
    record: Option<Value>,
    /// Id of the saved record.
    record_id: Option<RecordId>,
    messages: Vec<Value>,
    metadata: Option<Value>,
    context: Option<Value>,
    /// Where the flow came from: `virtual`, `existing`, ...
    source: String,
    /// The API key that started it; null for other callers.
    key_id: Option<KeyId>,
    /// The schedule that started it.
    schedule_id: Option<ScheduleId>,
    cancel_requested: bool,
    /// How often another server took it over after a crash.
    recoveries: u32,
    /// When it resumes by itself, if it is paused for a time.
    resumes_at: Option<Timestamp>,
    /// What it waits for now.
    waits: Vec<OpenWait>,
}

/// Something that an execution waits for.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ExecutionWait")]
struct OpenWait {
    id: WaitId,
    kind: crate::model::WaitKind,
    /// Id of the tool call, for approvals and tool outputs.
    name: String,
    /// The data to decide about.
    shown: Value,
    digest: Option<String>,
    deadline: Option<Timestamp>,
    created_at: Timestamp,
}

impl Usage {
    fn new(spent: &Spent) -> Self {
        Self {
            cost: spent.dollars(),
            input_tokens: spent.input_tokens,
            output_tokens: spent.output_tokens,
            model_calls: spent.calls,
            duration_ms: spent.duration_ms,
            estimated: spent.estimated,
        }
    }
}

impl From<Wait> for OpenWait {
    fn from(wait: Wait) -> Self {
        Self {
            id: wait.id,
            kind: wait.kind,
            name: wait.name,
            shown: wait.shown,
            digest: wait.digest,
            deadline: wait.deadline,
            created_at: wait.created_at,
        }
    }
}

/// The parts of a row that a run and a list's summary have in common.
struct Facts<'r> {
    id: RunId,
    state: RunState,
    noted: Option<bool>,
    target: Target,
    name: &'r str,
    created_at: Timestamp,
    finished_at: Option<Timestamp>,
    failure: Option<&'r Failure>,
    spent: &'r Spent,
}

impl Row {
    pub async fn of_summary(store: &SharedStore, tenant: TenantId, run: &RunSummary) -> Result<Self> {
        let facts = Facts {
            id: run.id,
            state: run.state,
            noted: run.success,
            target: run.target,
            name: &run.flow_name,
            created_at: run.created_at,
            finished_at: run.finished_at,
            failure: run.failure.as_ref(),
            spent: &run.spent,
        };
        Self::of(store, tenant, facts).await
    }

    async fn of_run(store: &SharedStore, run: &Run) -> Result<Self> {
        let facts = Facts {
            id: run.id,
            state: run.state,
            noted: run.success,
            target: run.target,
            name: &run.flow_name,
            created_at: run.created_at,
            finished_at: run.finished_at,
            failure: run.failure.as_ref(),
            spent: &run.spent,
        };
        Self::of(store, run.tenant, facts).await
    }

    async fn of(store: &SharedStore, tenant: TenantId, run: Facts<'_>) -> Result<Self> {
        let (mut success, mut error) = (did_well(run.state, run.noted), run.failure.map(Fault::of));
        // An earlier version ended it and did not record the success: read it from the log.
        if run.noted.is_none() && run.state == RunState::Completed {
            (success, error) = recalled(store, tenant, run.id).await?;
        }
        Ok(Self {
            id: run.id,
            status: run.state,
            success,
            kind: run.target.kind(),
            flow_id: run.target.flow_id(),
            agent_id: run.target.agent_id(),
            flow_name: run.name.to_owned(),
            created_at: run.created_at,
            finished_at: run.finished_at,
            error,
            usage: Usage::new(run.spent),
        })
    }
}

/// Reads from the log whether a completed run was successful, and if not, why. `None` if the log cannot be read.
async fn recalled(store: &SharedStore, tenant: TenantId, id: RunId) -> Result<(Option<bool>, Option<Fault>)> {
    let log = match store.read_log(tenant, id, None, u32::MAX).await {
        Ok(log) => log,
        Err(crate::store::StoreError::Locked) => return Ok((None, None)),
        Err(error) => return Err(error.into()),
    };
    let mut fold = Fold::new(id);
    for event in log.iter().flat_map(|segment| &segment.events) {
        fold.take(serde_json::from_str(&event.public_json(id)).unwrap_or_default());
    }
    let ended = fold.has_ended();
    let told = fold.outcome();
    let error = told.error.filter(|_| ended && !told.success).map(|error| {
        let text = |name: &str| error.get(name).and_then(Value::as_str).map(str::to_owned);
        let (code, message) = (text("code").unwrap_or_default(), text("message").unwrap_or_default());
        let retryable = error.get("retryable").and_then(Value::as_bool).unwrap_or_default();
        Fault::of(&Failure { code, message, step: text("stepId"), retryable })
    });
    Ok((Some(!ended || told.success), error))
}

impl Detail {
    pub async fn of(store: &SharedStore, run: Run) -> Result<Self> {
        let waits = store.run_waits(run.tenant, run.id).await?;
        let ended = run.state.is_terminal();
        let waits = waits.into_iter().filter(|wait| !ended && wait.resolution.is_none()).map(OpenWait::from).collect();
        let row = Row::of_run(store, &run).await?;
        let (record_id, schedule_id) = (run.input.record_id(), run.input.schedule_id());
        Ok(Self {
            row,
            output: run.output,
            inputs: run.input.inputs,
            record: run.input.record,
            record_id,
            messages: run.input.messages,
            metadata: run.input.metadata,
            context: run.input.context,
            source: run.input.options.source,
            key_id: run.input.key_id,
            schedule_id,
            cancel_requested: run.cancel_requested,
            recoveries: run.recoveries,
            resumes_at: run.wake_at.filter(|_| run.state == RunState::Paused),
            waits,
        })
    }
}
