//! `/v1/evals`: keeping, watching, reading and comparing evals. `/v1/eval/…` are other names of the same, or those of `runtype`.

use std::collections::{BTreeMap, BTreeSet};

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::runtype::{CaseError, EvalBrief, EvalFigures, of_group};
use super::work::asked;
use super::{Case, Eval, Grade, Grader, Target, Trial, Variant};
use crate::clock::Timestamp;
use crate::error::{Error, Problems, Result};
use crate::http::AppState;
use crate::http::dispatch::about;
use crate::http::dispatch::batches::{Ended, Item, MOST, Progress, Status, cancel};
use crate::http::dispatch::deletion::Deletion;
use crate::http::dispatch::execute::Lookup;
use crate::http::extract::{Body, Id, IdempotencyKey, InPath, Params};
use crate::http::idempotency::{Call, Created, Receipts, fingerprint};
use crate::http::paging::{Page, Paging};
use crate::http::scope::{FlowsExecute, FlowsRead, FlowsWrite, Scoped};
use crate::id::{AgentId, EvalId, FlowId, RunId, TenantId};
use crate::model::TargetKind;
use crate::store::{Collection, Kept, SharedStore};

pub(super) const TAG: &str = "Evals";

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route(
            "/v1/evals",
            get_with(list, about("listEvals", TAG, "List evals, newest first"))
                .post_with(create, about("createEval", TAG, "Begin an eval")),
        )
        .api_route("/v1/eval", get_with(list, about("listEvalRuns", TAG, "List evals, newest first")))
        .api_route(
            "/v1/evals/{evalId}",
            get_with(read, about("getEval", TAG, "Read an eval: how its variants do"))
                .delete_with(delete, about("deleteEval", TAG, "Delete an eval; its executions stay")),
        )
        .api_route("/v1/evals/{evalId}/results", get_with(results, about("listEvalResults", TAG, "List an eval's answers and grades")))
        .api_route("/v1/eval/{evalId}/results", get_with(results, about("getEvalResults", TAG, "List an eval's answers and grades")))
        .api_route("/v1/evals/{evalId}/cancel", post_with(stop, about("cancelEval", TAG, "Cancel an eval and its executions")))
        .api_route("/v1/evals/compare", post_with(compare, about("compareEvals", TAG, "Compare evals, case by case")))
        .api_route("/v1/eval/compare", post_with(compare, about("compareEvalRuns", TAG, "Compare evals, case by case")))
}

/// An eval to begin.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EvalInput")]
pub(super) struct Input {
    /// 1 to 255 characters.
    #[schemars(length(min = 1, max = 255))]
    pub name: String,
    /// `{flowId}`, `{agentId}`, or `{flow: {name, steps}}` or `{agent: {name, model, ...}}` in place.
    pub target: TargetInput,
    /// 1 to 500.
    #[schemars(length(min = 1, max = 500))]
    pub cases: Vec<Case>,
    /// At most 10; the target as it is when absent.
    #[serde(default)]
    #[schemars(length(max = 10))]
    pub variants: Vec<Variant>,
    /// At most 10; `no_error` when absent.
    #[serde(default)]
    #[schemars(length(max = 10))]
    pub graders: Vec<Grader>,
}

/// What an eval asks.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(rename = "EvalTarget")]
pub(super) struct TargetInput {
    pub flow_id: Option<String>,
    pub agent_id: Option<String>,
    pub flow: Option<Value>,
    pub agent: Option<Value>,
}

/// An eval.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Eval")]
pub(super) struct Row {
    id: EvalId,
    /// Same as `id`.
    batch_execution_id: EvalId,
    /// The first of the evals that were begun together; its own id when it was begun alone.
    eval_group_id: EvalId,
    name: String,
    status: Status,
    /// `flow` or `agent`.
    target_type: String,
    target_id: Option<String>,
    case_count: usize,
    /// How each variant does.
    variants: Vec<Summary>,
    created_at: Timestamp,
    completed_at: Option<Timestamp>,
}

/// How one variant does.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EvalSummary")]
struct Summary {
    name: String,
    /// Cases whose grades are all there.
    judged: usize,
    /// Of these: those that pass every grader.
    passed: usize,
    /// The mean of the scores, 0 to 1; `null` while nothing is judged.
    score: Option<f64>,
    /// US dollars, of all cases.
    cost: f64,
    tokens: u64,
    /// The mean, in milliseconds.
    duration_ms: Option<u64>,
}

/// One case in one variant.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EvalResult")]
struct ResultRow {
    case: String,
    variant: String,
    execution_id: Option<RunId>,
    /// `null` until it has ended.
    success: Option<bool>,
    output: Value,
    expected: Value,
    grades: Vec<Grade>,
    /// Whether all graders pass; `null` until all have judged.
    pass: Option<bool>,
    cost: Option<f64>,
    tokens: Option<u64>,
    duration_ms: Option<u64>,
    error: Option<Value>,
}

/// One case in one variant for clients that look for results of steps: its execution counts as one step.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EvalRecordResult")]
struct RecordResult {
    /// The execution's id; empty until it has started.
    step_result_id: String,
    /// `flow` or `agent`.
    step_type: &'static str,
    /// When the eval began.
    executed_at: Timestamp,
    /// Same as `cost`.
    total_cost: Option<f64>,
    /// Always empty: `POST /v1/eval/compare-record` lists the steps with their tool calls.
    tool_calls: Vec<Value>,
    #[serde(flatten)]
    row: ResultRow,
}

impl RecordResult {
    fn new(eval: &Kept<Eval>, row: &ResultRow) -> Self {
        // Clients read a text here.
        let output = match &row.output {
            Value::Null | Value::String(_) => row.output.clone(),
            other => Value::String(other.to_string()),
        };
        Self {
            step_result_id: row.execution_id.map(|id| id.to_string()).unwrap_or_default(),
            step_type: eval.body.target.kind.as_str(),
            executed_at: eval.created_at,
            total_cost: row.cost,
            tool_calls: Vec::new(),
            row: ResultRow { output, ..row.clone() },
        }
    }
}

/// An eval's answers.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EvalResults")]
struct Results {
    id: EvalId,
    status: Status,
    data: Vec<ResultRow>,
    #[serde(flatten)]
    brief: EvalBrief,
    /// Cases that could not be started.
    case_errors: Vec<CaseError>,
    /// The same rows, by the record's id, or by the case's name when it has no saved record. `output` is a text; of another value, its JSON.
    results_by_record: BTreeMap<String, Vec<RecordResult>>,
}

/// Evals to compare.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EvalComparisonInput")]
struct Compare {
    /// 1 to 10.
    #[serde(default)]
    #[schemars(length(min = 1, max = 10))]
    eval_ids: Option<Vec<EvalId>>,
    /// Instead: the evals that were begun together.
    #[serde(default)]
    eval_group_id: Option<String>,
    /// Not available: figures are of whole executions.
    #[serde(default)]
    step_ids: Option<Value>,
}

/// Evals side by side.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EvalComparison")]
struct Comparison {
    /// The group, or the first of the evals.
    eval_group_id: EvalId,
    evals: Vec<EvalFigures>,
    /// One for each variant of each eval.
    columns: Vec<Column>,
    /// One for each case, by its name.
    rows: Vec<CaseRow>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EvalComparisonColumn")]
struct Column {
    eval_id: EvalId,
    #[serde(flatten)]
    summary: Summary,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EvalComparisonRow")]
struct CaseRow {
    case: String,
    /// In the order of the columns; `null` where an eval has no such case, or has not judged it.
    scores: Vec<Option<f64>>,
    /// Whether some pass and some do not.
    differs: bool,
}

const MOST_CASES: usize = 500;
const MOST_VARIANTS: usize = 10;
const MOST_GRADERS: usize = 10;
const LONGEST_NAME: usize = 255;
pub(super) fn all(store: &SharedStore, tenant: TenantId) -> Collection<'_, Eval> {
    Collection::of(&**store, tenant)
}

impl Trial {
    /// The grades, once they are all there.
    pub(super) fn grades(&self) -> Option<Vec<Grade>> {
        self.grades.iter().cloned().collect()
    }
}

fn mean(values: &[f64]) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "some thousand values")]
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

impl Eval {
    fn summary(&self, variant: usize) -> Summary {
        let own: Vec<(&Trial, &Item)> = self.trials.iter().zip(&self.items).filter(|(trial, _)| trial.variant == variant).collect();
        let judged: Vec<Vec<Grade>> = own.iter().filter_map(|(trial, _)| trial.grades()).collect();
        let scores: Vec<f64> = judged.iter().flatten().map(|grade| grade.score).collect();
        let ended: Vec<&Ended> = own.iter().filter_map(|(_, item)| item.ended.as_ref()).collect();
        Summary {
            name: self.variants.get(variant).map(|variant| variant.name.clone()).unwrap_or_default(),
            judged: judged.len(),
            passed: judged.iter().filter(|grades| grades.iter().all(|grade| grade.pass)).count(),
            score: mean(&scores),
            cost: ended.iter().map(|ended| ended.cost).fold(0.0, |sum, cost| sum + cost),
            tokens: ended.iter().map(|ended| ended.tokens).sum(),
            duration_ms: (!ended.is_empty()).then(|| ended.iter().map(|ended| ended.took_ms).sum::<u64>() / ended.len() as u64),
        }
    }

    pub(super) fn case_name(&self, case: usize) -> String {
        self.cases.get(case).and_then(|case| case.name.clone()).unwrap_or_else(|| format!("case {}", case + 1))
    }
}

impl From<Kept<Eval>> for Row {
    fn from(kept: Kept<Eval>) -> Self {
        let Kept { id, created_at, body, .. } = kept;
        Self {
            id,
            batch_execution_id: id,
            eval_group_id: body.group.unwrap_or(id),
            status: body.progress.status,
            target_type: body.target.kind.as_str().into(),
            target_id: body.target.id.clone(),
            case_count: body.cases.len(),
            variants: (0..body.variants.len()).map(|variant| body.summary(variant)).collect(),
            created_at,
            completed_at: body.progress.completed_at,
            name: body.name,
        }
    }
}

/// The target as it is now: a saved one is pinned by its document.
async fn target(state: &AppState, tenant: TenantId, input: TargetInput) -> Result<Target> {
    let saved = async |kind: TargetKind, id: &str, at: &str| -> Result<Target> {
        let missing = || Error::invalid_at(format!("/target/{at}"), format!("no such {}", kind.as_str()));
        let flow = match kind {
            TargetKind::Agent => id.parse().ok().map(AgentId::as_flow),
            TargetKind::Flow => id.parse::<FlowId>().ok(),
        };
        let found = state.store.find_flow(tenant, kind, flow.ok_or_else(missing)?).await?.ok_or_else(missing)?;
        let version = state.store.find_flow_version(tenant, found.current).await?.ok_or_else(missing)?;
        Ok(Target { kind, document: version.document, id: Some(id.to_owned()) })
    };
    match input {
        TargetInput { flow_id: Some(id), agent_id: None, flow: None, agent: None } => saved(TargetKind::Flow, &id, "flowId").await,
        TargetInput { flow_id: None, agent_id: Some(id), flow: None, agent: None } => saved(TargetKind::Agent, &id, "agentId").await,
        TargetInput { flow_id: None, agent_id: None, flow: Some(document), agent: None } => {
            Ok(Target { kind: TargetKind::Flow, document, id: None })
        }
        TargetInput { flow_id: None, agent_id: None, flow: None, agent: Some(document) } => {
            Ok(Target { kind: TargetKind::Agent, document, id: None })
        }
        _ => Err(Error::invalid_at("/target", "expected one of `flowId`, `agentId`, `flow` and `agent`")),
    }
}

/// An eval that can be begun; every fault of what is sent is told at once, those of its variants as they would be run.
pub(super) async fn checked(state: &AppState, tenant: TenantId, input: Input) -> Result<Eval> {
    let mut problems = Problems::default();
    if input.name.trim().is_empty() || input.name.chars().count() > LONGEST_NAME || input.name.contains(char::is_control) {
        problems.add("/name", format!("expected 1 to {LONGEST_NAME} characters, none of them a control character"));
    }
    if input.cases.is_empty() || input.cases.len() > MOST_CASES {
        problems.add("/cases", format!("expected 1 to {MOST_CASES}"));
    }
    if input.variants.len() > MOST_VARIANTS {
        problems.add("/variants", format!("expected at most {MOST_VARIANTS}"));
    }
    if input.graders.len() > MOST_GRADERS {
        problems.add("/graders", format!("expected at most {MOST_GRADERS}"));
    }
    let mut names = BTreeSet::new();
    for (index, variant) in input.variants.iter().enumerate() {
        if variant.name.trim().is_empty() || !names.insert(variant.name.clone()) {
            problems.add(format!("/variants/{index}/name"), "expected a name of its own");
        }
    }
    let graders = &input.graders;
    let faults = state.engine.read(tenant, || {
        let mut faults = Problems::default();
        graders.iter().enumerate().for_each(|(index, grader)| grader.check(&format!("/graders/{index}"), &mut faults));
        faults
    });
    let faults = faults.await.map_err(|error| error.under("/graders"))?;
    problems.0.extend(faults.0);
    for (index, grader) in graders.iter().enumerate() {
        if let Grader::Ai { model, .. } = grader
            && let Err(error) = state.engine.parts().models.resolve(model)
        {
            problems.add(format!("/graders/{index}/model"), error.message());
        }
    }
    let target = match target(state, tenant, input.target).await {
        Ok(target) => Some(target),
        Err(error) if !error.problems().is_empty() => {
            problems.0.extend(error.problems().iter().cloned());
            None
        }
        Err(error) => return Err(error),
    };
    let as_it_is = || vec![Variant { name: "as it is".into(), ..Variant::default() }];
    let given = !input.variants.is_empty();
    let variants = if given { input.variants } else { as_it_is() };
    if input.cases.len() * variants.len() > MOST {
        problems.add("/cases", format!("cases times variants come to more than {MOST} executions"));
    }
    problems.into_result()?;
    let target = target.ok_or_else(|| Error::invalid_at("/target", "expected a target"))?;
    let sample = input.cases.first().cloned().unwrap_or_default();
    for (index, variant) in variants.iter().enumerate() {
        if variant.document(target.kind, &target.document).is_none() {
            return Err(Error::invalid_at(format!("/variants/{index}/step"), "the flow has no prompt of this name"));
        }
        let whose = if given { format!("/variants/{index}") } else { "/target".to_owned() };
        Lookup::of(state, tenant).resolve(asked(&target, &sample, variant)).await.map_err(|error| at_home(error, &whose))?;
    }
    let graders = if input.graders.is_empty() { vec![Grader::NoError {}] } else { input.graders };
    let now = state.clock.now();
    let mut eval = Eval {
        name: input.name,
        group: None,
        target,
        cases: input.cases,
        variants,
        graders,
        items: Vec::new(),
        trials: Vec::new(),
        key_id: None,
        progress: Progress::begun(now),
    };
    for case in 0..eval.cases.len() {
        for variant in 0..eval.variants.len() {
            let empty = eval.graders.len();
            eval.trials.push(Trial { case, variant, output: Value::Null, grades: vec![None; empty], judges: vec![None; empty] });
            let name = format!("{} / {}", eval.case_name(case), eval.variants.get(variant).map_or("", |variant| &variant.name));
            eval.items.push(Item { record: None, name, run: None, ended: None });
        }
    }
    Ok(eval)
}

/// A fault of what would be run, at the place in the eval that it comes from: of the first case, or of the target as a variant has it.
fn at_home(error: Error, whose: &str) -> Error {
    let mut problems = Problems::default();
    for problem in error.problems() {
        let place = match problem.pointer.as_str() {
            own if own.starts_with("/messages") || own.starts_with("/inputs") => format!("/cases/0{own}"),
            own if own.starts_with("/record") => "/cases/0/recordId".to_owned(),
            own if own.ends_with("/model") && whose != "/target" => format!("{whose}/model"),
            own => format!("{whose}{own}"),
        };
        problems.add(place, problem.message.clone());
    }
    problems.into_result().err().unwrap_or(error)
}

async fn create(
    caller: Scoped<FlowsExecute>,
    State(state): State<AppState>,
    State(receipts): State<Receipts>,
    key: IdempotencyKey,
    body: Body<Input>,
) -> Result<Created<Row>> {
    let (tenant, key_id) = (caller.tenant, caller.key_id());
    let call = Call { tenant, route: "POST /v1/evals", key, request: fingerprint(&body.raw), secret: false };
    let input = body.value;
    receipts
        .once(call, move |seed| async move {
            let eval = Eval { key_id, ..checked(&state, tenant, input).await? };
            let id = EvalId::from_u128(seed);
            Ok(Row::from(all(&state.store, tenant).create_once(id, eval, state.clock.now()).await?))
        })
        .await
}

async fn list(caller: Scoped<FlowsRead>, State(store): State<SharedStore>, Params(paging): Params<Paging>) -> Result<Json<Page<Row>>> {
    let (trail, limit) = (paging.trail::<EvalId>()?, paging.limit());
    let found = all(&store, caller.tenant).list(None, trail.after(), limit + 1).await?;
    let page = trail.page(found, limit, false, |eval| eval.id);
    Ok(Json(Page { data: page.data.into_iter().map(Row::from).collect(), pagination: page.pagination }))
}

pub(super) async fn find(store: &SharedStore, tenant: TenantId, id: EvalId) -> Result<Kept<Eval>> {
    all(store, tenant).find(id).await?.ok_or_else(EvalId::missing)
}

async fn read(caller: Scoped<FlowsRead>, State(store): State<SharedStore>, Id(id): Id<EvalId>) -> Result<Json<Row>> {
    Ok(Json(find(&store, caller.tenant, id).await?.into()))
}

async fn delete(caller: Scoped<FlowsWrite>, State(store): State<SharedStore>, Id(id): Id<EvalId>) -> Result<Json<Deletion<EvalId>>> {
    if !all(&store, caller.tenant).delete(id).await? {
        return Err(EvalId::missing());
    }
    Ok(Json(Deletion::of(id)))
}

async fn results(caller: Scoped<FlowsRead>, State(store): State<SharedStore>, Id(id): Id<EvalId>) -> Result<Json<Results>> {
    let kept = find(&store, caller.tenant, id).await?;
    let eval = &kept.body;
    let row = |(trial, item): (&Trial, &Item)| {
        let grades: Vec<Grade> = trial.grades.iter().flatten().cloned().collect();
        let ended = item.ended.as_ref();
        ResultRow {
            case: eval.case_name(trial.case),
            variant: eval.variants.get(trial.variant).map(|variant| variant.name.clone()).unwrap_or_default(),
            execution_id: item.run,
            success: ended.map(|ended| ended.success),
            output: trial.output.clone(),
            expected: eval.cases.get(trial.case).map(|case| case.expected.clone()).unwrap_or_default(),
            pass: trial.grades().map(|grades| grades.iter().all(|grade| grade.pass)),
            grades,
            cost: ended.map(|ended| ended.cost),
            tokens: ended.map(|ended| ended.tokens),
            duration_ms: ended.map(|ended| ended.took_ms),
            error: ended.and_then(|ended| ended.error.clone()),
        }
    };
    let data: Vec<ResultRow> = eval.trials.iter().zip(&eval.items).map(row).collect();
    let mut results_by_record: BTreeMap<String, Vec<RecordResult>> = BTreeMap::new();
    for (trial, row) in eval.trials.iter().zip(&data) {
        results_by_record.entry(eval.record_key(trial.case)).or_default().push(RecordResult::new(&kept, row));
    }
    let (case_errors, brief) = (eval.case_errors(), EvalBrief::of(&kept));
    Ok(Json(Results { id, status: eval.progress.status, data, brief, case_errors, results_by_record }))
}

async fn compare(caller: Scoped<FlowsRead>, State(store): State<SharedStore>, body: Body<Compare>) -> Result<Json<Comparison>> {
    let Compare { eval_ids, eval_group_id, step_ids } = body.value;
    if step_ids.is_some() {
        return Err(Error::invalid_at("/stepIds", "not available: figures are of whole executions"));
    }
    let evals = match (eval_ids, eval_group_id) {
        (Some(ids), None) => {
            if !(1..=10).contains(&ids.len()) {
                return Err(Error::invalid_at("/evalIds", "expected 1 to 10"));
            }
            let mut evals = Vec::with_capacity(ids.len());
            for (index, id) in ids.into_iter().enumerate() {
                let found = all(&store, caller.tenant).find(id).await?;
                evals.push(found.ok_or_else(|| Error::invalid_at(format!("/evalIds/{index}"), "no such eval"))?);
            }
            evals
        }
        (None, Some(group)) => of_group(&store, caller.tenant, &group).await?,
        _ => return Err(Error::invalid_at("/evalIds", "expected either `evalIds` or `evalGroupId`")),
    };
    let Some(eval_group_id) = evals.first().map(|eval| eval.body.group.unwrap_or(eval.id)) else {
        return Err(Error::invalid_at("/evalIds", "expected 1 to 10"));
    };
    let measured = evals.iter().map(EvalFigures::of).collect();
    let places: Vec<(&Kept<Eval>, usize)> =
        evals.iter().flat_map(|eval| (0..eval.body.variants.len()).map(move |variant| (eval, variant))).collect();
    let mut names: Vec<String> = Vec::new();
    for eval in &evals {
        for name in (0..eval.body.cases.len()).map(|case| eval.body.case_name(case)) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    let rows = names.into_iter().map(|name| {
        let grades: Vec<Option<Vec<Grade>>> = places
            .iter()
            .map(|(eval, variant)| {
                let own = |trial: &&Trial| trial.variant == *variant && eval.body.case_name(trial.case) == name;
                eval.body.trials.iter().find(own).and_then(Trial::grades)
            })
            .collect();
        let passes: BTreeSet<bool> = grades.iter().flatten().map(|grades| grades.iter().all(|grade| grade.pass)).collect();
        let score = |grades: Vec<Grade>| mean(&grades.iter().map(|grade| grade.score).collect::<Vec<_>>());
        CaseRow { case: name, differs: passes.len() > 1, scores: grades.into_iter().map(|grades| grades.and_then(score)).collect() }
    });
    let rows = rows.collect();
    let columns = places.iter().map(|(eval, variant)| Column { eval_id: eval.id, summary: eval.body.summary(*variant) }).collect();
    Ok(Json(Comparison { eval_group_id, evals: measured, columns, rows }))
}

async fn stop(caller: Scoped<FlowsExecute>, State(state): State<AppState>, Id(id): Id<EvalId>) -> Result<Json<Row>> {
    cancel(&state, caller.tenant, id).await?.map(|kept: Kept<Eval>| Json(kept.into())).ok_or_else(EvalId::missing)
}
