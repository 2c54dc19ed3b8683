//! Evals as Runtype's clients read them.

use std::collections::BTreeSet;

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::Eval;
use super::super::routes::{TAG, all, find};
use crate::clock::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::http::AppState;
use crate::http::dispatch::about;
use crate::http::dispatch::batches::{Ended, Item, Status};
use crate::http::dispatch::executions::{StepRow, ToolCall, steps_of, tool_calls_of, with_inquiries};
use crate::http::extract::{Body, Id, Params};
use crate::http::scope::{FlowsRead, Scoped};
use crate::id::{EvalId, TenantId};
use crate::model::TargetKind;
use crate::store::{Kept, SharedStore};

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route("/v1/eval/batches", get_with(list, about("listEvalBatches", TAG, "List evals by offset, newest first")))
        .api_route("/v1/eval/group/{evalId}", get_with(group, about("getEvalGroup", TAG, "List the evals that were begun together")))
        .api_route(
            "/v1/eval/compare-record",
            post_with(compare_record, about("compareEvalRecord", TAG, "Compare what evals of a group did for one record")),
        )
}

/// Evals of one group that are read at most.
const MAX_GROUP: u32 = 100;
/// Evals that may be passed over in a list.
const MAX_OFFSET: usize = 5_000;
const LIMIT: usize = 50;
const MAX_LISTED: usize = 200;

/// How far an eval is.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::http::dispatch::evals) struct EvalBrief {
    batch_execution_id: EvalId,
    /// The first of the evals that were begun together; its own id when it was begun alone.
    eval_group_id: EvalId,
    eval_name: String,
    flow_id: Option<String>,
    total_records: usize,
    /// Executions that have ended.
    processed_records: usize,
    failed_records: usize,
    started_at: Timestamp,
    completed_at: Option<Timestamp>,
}

/// An eval in a list of batches.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "EvalBatch")]
struct Row {
    id: EvalId,
    status: Status,
    #[serde(flatten)]
    brief: EvalBrief,
}

/// Evals by offset.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EvalBatchList")]
struct Rows {
    batches: Vec<Row>,
    /// How many are in this answer.
    count: usize,
    has_more: bool,
    limit: usize,
    offset: usize,
}

/// The evals that were begun together.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EvalGroup")]
struct EvalGroup {
    eval_group_id: EvalId,
    total_evals: usize,
    batches: Vec<Row>,
}

/// A case that could not be started.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EvalCaseError")]
pub(in crate::http::dispatch::evals) struct CaseError {
    name: String,
    error: String,
}

/// An eval's figures.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "MeasuredEval")]
pub(in crate::http::dispatch::evals) struct EvalFigures {
    batch_execution_id: EvalId,
    eval_name: String,
    metrics: EvalMetrics,
}

/// The figures of the executions that have ended.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EvalMetrics")]
struct EvalMetrics {
    /// US dollars.
    total_cost: f64,
    /// US dollars.
    avg_cost_per_record: f64,
    /// Milliseconds.
    total_duration_ms: f64,
    /// Milliseconds.
    avg_duration_per_record: f64,
    /// Executions that succeeded, of those that have ended; 0 to 1.
    success_rate: f64,
    total_steps: u64,
    successful_steps: u64,
    failed_steps: u64,
    total_prompt_tokens: u64,
    total_completion_tokens: u64,
}

/// Which evals.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "EvalBatchQuery")]
struct Query {
    /// Only evals in this state.
    status: Option<Status>,
    /// 1 to 200; 50 when absent.
    limit: Option<usize>,
    /// Evals to pass over; 5,000 at most.
    offset: Option<usize>,
}

/// Which record to compare.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EvalRecordComparisonInput")]
struct RecordComparisonInput {
    eval_group_id: String,
    /// A saved record's id, or the name of a record that was sent along.
    record_id: String,
    /// Only these steps.
    #[serde(default)]
    step_ids: Option<BTreeSet<String>>,
}

/// What evals of a group did for one record.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EvalRecordComparison")]
struct RecordComparison {
    eval_group_id: EvalId,
    record_id: String,
    evals: Vec<RecordSteps>,
}

/// What one eval did for a record.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EvalRecordSteps")]
struct RecordSteps {
    batch_execution_id: EvalId,
    eval_name: String,
    step_results: Vec<StepResult>,
}

/// What one step did for a record.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EvalStepResult")]
struct StepResult {
    /// The execution's id and the step's.
    step_result_id: String,
    executed_at: Timestamp,
    /// The beginning of its result.
    output: Option<String>,
    /// US dollars.
    total_cost: Option<f64>,
    tool_calls: Vec<ToolCall>,
    #[serde(flatten)]
    step: StepRow,
}

impl Eval {
    /// What a case's results stand under: the id of its saved record, else its name.
    pub(in crate::http::dispatch::evals) fn record_key(&self, case: usize) -> String {
        let record = self.cases.get(case).and_then(|case| case.record_id);
        record.map_or_else(|| self.case_name(case), |record| record.to_string())
    }

    /// Cases whose executions could not be started.
    pub(in crate::http::dispatch::evals) fn case_errors(&self) -> Vec<CaseError> {
        let failed = self.trials.iter().zip(&self.items).filter(|(_, item)| item.run.is_none());
        let error = failed.filter_map(|(trial, item)| {
            let error = item.ended.as_ref()?.error.as_ref()?;
            let text = error.get("error").or_else(|| error.get("message")).and_then(Value::as_str);
            Some(CaseError { name: self.case_name(trial.case), error: text.map_or_else(|| error.to_string(), str::to_owned) })
        });
        error.collect()
    }

    fn ended(&self) -> impl Iterator<Item = &Ended> {
        self.items.iter().filter_map(|item: &Item| item.ended.as_ref())
    }
}

impl EvalBrief {
    pub fn of(kept: &Kept<Eval>) -> Self {
        let eval = &kept.body;
        Self {
            batch_execution_id: kept.id,
            eval_group_id: eval.group.unwrap_or(kept.id),
            eval_name: eval.name.clone(),
            flow_id: eval.target.id.clone().filter(|_| eval.target.kind == TargetKind::Flow),
            total_records: eval.items.len(),
            processed_records: eval.ended().count(),
            failed_records: eval.ended().filter(|ended| !ended.success).count(),
            started_at: kept.created_at,
            completed_at: eval.progress.completed_at,
        }
    }
}

impl Row {
    fn of(kept: &Kept<Eval>) -> Self {
        Self { id: kept.id, status: kept.body.progress.status, brief: EvalBrief::of(kept) }
    }
}

impl EvalFigures {
    pub fn of(kept: &Kept<Eval>) -> Self {
        let eval = &kept.body;
        let count = eval.ended().count() as f64;
        let mean = |sum: f64| if count > 0.0 { sum / count } else { 0.0 };
        let total_cost = eval.ended().map(|ended| ended.cost).fold(0.0, |sum, cost| sum + cost);
        let took = eval.ended().map(|ended| ended.took_ms).sum::<u64>() as f64;
        let steps: u64 = eval.ended().map(|ended| u64::from(ended.steps)).sum();
        let failed_steps: u64 = eval.ended().map(|ended| u64::from(ended.failed_steps)).sum();
        let metrics = EvalMetrics {
            total_cost,
            avg_cost_per_record: mean(total_cost),
            total_duration_ms: took,
            avg_duration_per_record: mean(took),
            success_rate: mean(eval.ended().filter(|ended| ended.success).count() as f64),
            total_steps: steps,
            successful_steps: steps.saturating_sub(failed_steps),
            failed_steps,
            total_prompt_tokens: eval.ended().map(|ended| ended.input_tokens).sum(),
            total_completion_tokens: eval.ended().map(|ended| ended.output_tokens).sum(),
        };
        Self { batch_execution_id: kept.id, eval_name: eval.name.clone(), metrics }
    }
}

/// The evals that were begun together, the first one first. Error: `validation_failed` at `/evalGroupId`.
pub(in crate::http::dispatch::evals) async fn of_group(store: &SharedStore, tenant: TenantId, group: &str) -> Result<Vec<Kept<Eval>>> {
    let missing = || Error::invalid_at("/evalGroupId", "no such eval");
    let id: EvalId = group.parse().map_err(|_| missing())?;
    let first = all(store, tenant).find(id).await?.ok_or_else(missing)?;
    with_others(store, tenant, first).await
}

async fn with_others(store: &SharedStore, tenant: TenantId, first: Kept<Eval>) -> Result<Vec<Kept<Eval>>> {
    let mut others = all(store, tenant).list(Some(&first.id.to_string()), None, MAX_GROUP).await?;
    others.push(first);
    others.reverse();
    Ok(others)
}

async fn list(caller: Scoped<FlowsRead>, State(store): State<SharedStore>, Params(query): Params<Query>) -> Result<Json<Rows>> {
    let (limit, offset) = (query.limit.unwrap_or(LIMIT), query.offset.unwrap_or(0));
    if !(1..=MAX_LISTED).contains(&limit) || offset > MAX_OFFSET {
        let message = format!("expected a `limit` of 1 to {MAX_LISTED} and an `offset` of at most {MAX_OFFSET}");
        return Err(Error::new(Kind::Malformed, "invalid_query", message));
    }
    let (mut batches, mut passed, mut before) = (Vec::new(), 0, None);
    while batches.len() <= limit {
        let read = all(&store, caller.tenant).list(None, before, MAX_GROUP).await?;
        let is_last = read.len() < MAX_GROUP as usize;
        before = read.last().map(|eval| eval.id);
        for eval in read.iter().filter(|eval| query.status.is_none_or(|status| status == eval.body.progress.status)) {
            if passed < offset {
                passed += 1;
            } else {
                batches.push(Row::of(eval));
            }
        }
        if is_last {
            break;
        }
    }
    let has_more = batches.len() > limit;
    batches.truncate(limit);
    Ok(Json(Rows { count: batches.len(), batches, has_more, limit, offset }))
}

async fn group(caller: Scoped<FlowsRead>, State(store): State<SharedStore>, Id(id): Id<EvalId>) -> Result<Json<EvalGroup>> {
    let first = find(&store, caller.tenant, id).await?;
    let evals = with_others(&store, caller.tenant, first).await?;
    Ok(Json(EvalGroup { eval_group_id: id, total_evals: evals.len(), batches: evals.iter().map(Row::of).collect() }))
}

async fn compare_record(
    caller: Scoped<FlowsRead>,
    State(store): State<SharedStore>,
    body: Body<RecordComparisonInput>,
) -> Result<Json<RecordComparison>> {
    let RecordComparisonInput { eval_group_id, record_id, step_ids } = body.value;
    let evals = of_group(&store, caller.tenant, &eval_group_id).await?;
    let mut compared = Vec::with_capacity(evals.len());
    let mut known = false;
    for kept in &evals {
        let eval = &kept.body;
        let mut step_results = Vec::new();
        for (_, item) in eval.trials.iter().zip(&eval.items).filter(|(trial, _)| eval.record_key(trial.case) == record_id) {
            known = true;
            step_results.extend(steps(&store, caller.tenant, item, eval.target.kind, step_ids.as_ref()).await?);
        }
        compared.push(RecordSteps { batch_execution_id: kept.id, eval_name: eval.name.clone(), step_results });
    }
    let Some(first) = evals.first().filter(|_| known) else {
        return Err(Error::invalid_at("/recordId", "the evals have no such record"));
    };
    Ok(Json(RecordComparison { eval_group_id: first.id, record_id, evals: compared }))
}

/// What the steps of one execution did.
async fn steps(
    store: &SharedStore,
    tenant: TenantId,
    item: &Item,
    kind: TargetKind,
    wanted: Option<&BTreeSet<String>>,
) -> Result<Vec<StepResult>> {
    let Some(id) = item.run else { return Ok(Vec::new()) };
    let Some(run) = store.find_run(tenant, id).await? else { return Ok(Vec::new()) };
    let mut rows = steps_of(store, tenant, id, run.state, kind).await?;
    with_inquiries(store, tenant, id, &mut rows).await?;
    let calls = tool_calls_of(store, tenant, id).await?;
    let result = |step: StepRow| StepResult {
        step_result_id: format!("{id}:{}", step.id()),
        executed_at: step.began().unwrap_or(run.created_at),
        output: step.output(),
        total_cost: step.cost(),
        tool_calls: calls.iter().filter(|call| call.step_id == step.id()).cloned().collect(),
        step,
    };
    Ok(rows.into_iter().filter(|step| wanted.is_none_or(|wanted| wanted.contains(step.id()))).map(result).collect())
}
