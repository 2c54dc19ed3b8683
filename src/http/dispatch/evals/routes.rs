//! `/v1/evals`: keeping, watching, reading and comparing evals. `/v1/eval/…` are other names of the same.

use std::collections::BTreeSet;
use std::time::Duration;

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::grade::Answer;
use super::{Case, Eval, Grade, Grader, Target, Trial, Variant};
use crate::clock::Timestamp;
use crate::error::{Error, Kind, Problems, Result};
use crate::http::AppState;
use crate::http::dispatch::about;
use crate::http::dispatch::batches::{Ended, Item, MOST, Status, advance, outcome_of, start_one};
use crate::http::dispatch::execute::{DispatchRequest, Lookup};
use crate::http::extract::{Body, Id, IdempotencyKey, InPath, Params};
use crate::http::idempotency::{Call, Created, Receipts, fingerprint};
use crate::http::paging::{Page, Paging};
use crate::http::scope::{FlowsExecute, FlowsRead, FlowsWrite, Scoped};
use crate::id::{AgentId, EvalId, FlowId, RunId, TenantId};
use crate::model::TargetKind;
use crate::store::{Collection, Kept, SharedStore, StoreError};

const TAG: &str = "Evals";

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route(
            "/v1/evals",
            get_with(list, about("listEvals", TAG, "List evals, newest first"))
                .post_with(create, about("createEval", TAG, "Begin an eval")),
        )
        .api_route("/v1/eval/submit", post_with(create, about("submitEval", TAG, "Begin an eval")))
        .api_route(
            "/v1/evals/{evalId}",
            get_with(read, about("getEval", TAG, "Read an eval: how its variants do"))
                .delete_with(delete, about("deleteEval", TAG, "Delete an eval; its executions stay")),
        )
        .api_route("/v1/evals/{evalId}/results", get_with(results, about("listEvalResults", TAG, "List an eval's answers and grades")))
        .api_route("/v1/eval/{evalId}/results", get_with(results, about("getEvalResults", TAG, "List an eval's answers and grades")))
        .api_route("/v1/evals/{evalId}/cancel", post_with(cancel, about("cancelEval", TAG, "Cancel an eval and its executions")))
        .api_route("/v1/evals/compare", post_with(compare, about("compareEvals", TAG, "Compare evals, case by case")))
        .api_route("/v1/eval/compare", post_with(compare, about("compareEvalRuns", TAG, "Compare evals, case by case")))
}

/// An eval to begin.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EvalInput")]
struct Input {
    /// 1 to 255 characters.
    #[schemars(length(min = 1, max = 255))]
    name: String,
    /// `{flowId}`, `{agentId}`, or `{flow: {name, steps}}` or `{agent: {name, model, ...}}` in place.
    target: TargetInput,
    /// 1 to 500.
    #[schemars(length(min = 1, max = 500))]
    cases: Vec<Case>,
    /// At most 10; the target as it is when absent.
    #[serde(default)]
    #[schemars(length(max = 10))]
    variants: Vec<Variant>,
    /// At most 10; `no_error` when absent.
    #[serde(default)]
    #[schemars(length(max = 10))]
    graders: Vec<Grader>,
}

/// What an eval asks.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(rename = "EvalTarget")]
struct TargetInput {
    flow_id: Option<String>,
    agent_id: Option<String>,
    flow: Option<Value>,
    agent: Option<Value>,
}

/// An eval.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Eval")]
struct Row {
    id: EvalId,
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
#[derive(Debug, Serialize, JsonSchema)]
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

/// An eval's answers.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EvalResults")]
struct Results {
    id: EvalId,
    status: Status,
    data: Vec<ResultRow>,
}

/// Evals to compare.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EvalComparisonInput")]
struct Compare {
    /// 1 to 10.
    #[schemars(length(min = 1, max = 10))]
    eval_ids: Vec<EvalId>,
}

/// Evals side by side.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EvalComparison")]
struct Comparison {
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

/// What was deleted.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "DeletedEval")]
struct Deleted {
    id: EvalId,
    /// Always true.
    deleted: bool,
}

const MOST_CASES: usize = 500;
const MOST_VARIANTS: usize = 10;
const MOST_GRADERS: usize = 10;
const LONGEST_NAME: usize = 255;
/// Bytes of an answer that is kept with its grades; the execution has the whole.
const LONGEST_OUTPUT: usize = 8 * 1024;
/// How long an eval is one server's, and how soon it is looked at again.
const LEASE: Duration = Duration::from_secs(10);
/// How long it is judged in one look: less than an eval is one server's, so that what was done is kept.
const AT_A_TIME: Duration = Duration::from_secs(3);
const SOON: Duration = Duration::from_millis(300);

fn all(store: &SharedStore, tenant: TenantId) -> Collection<'_, Eval> {
    Collection::of(&**store, tenant)
}

impl Trial {
    fn grades(&self) -> Option<Vec<Grade>> {
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

    fn case_name(&self, case: usize) -> String {
        self.cases.get(case).and_then(|case| case.name.clone()).unwrap_or_else(|| format!("case {}", case + 1))
    }

    /// What one execution is asked.
    fn request(&self, place: usize) -> DispatchRequest {
        let trial = self.trials.get(place);
        let case = trial.and_then(|trial| self.cases.get(trial.case)).cloned().unwrap_or_default();
        let variant = trial.and_then(|trial| self.variants.get(trial.variant)).cloned().unwrap_or_default();
        asked(&self.target, &case, &variant)
    }
}

fn asked(target: &Target, case: &Case, variant: &Variant) -> DispatchRequest {
    let document = variant.document(target.kind, &target.document);
    let messages = match &case.messages {
        Some(Value::String(text)) => Some(json!([{ "role": "user", "content": text }])),
        other => other.clone(),
    };
    let (flow, agent) = if target.kind == TargetKind::Flow { (document, None) } else { (None, document) };
    let record = case.record_id.map(|id| [("id".to_owned(), json!(id))].into_iter().collect::<serde_json::Map<String, Value>>());
    DispatchRequest { flow, agent, messages, inputs: Some(case.inputs.clone()).into(), record: record.into(), ..DispatchRequest::default() }
}

impl From<Kept<Eval>> for Row {
    fn from(kept: Kept<Eval>) -> Self {
        let Kept { id, created_at, body, .. } = kept;
        Self {
            id,
            status: body.status,
            target_type: body.target.kind.as_str().into(),
            target_id: body.target.id.clone(),
            case_count: body.cases.len(),
            variants: (0..body.variants.len()).map(|variant| body.summary(variant)).collect(),
            created_at,
            completed_at: body.completed_at,
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
async fn checked(state: &AppState, tenant: TenantId, input: Input) -> Result<Eval> {
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
    for (index, grader) in input.graders.iter().enumerate() {
        grader.check(&format!("/graders/{index}"), &mut problems);
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
    let variants = if input.variants.is_empty() { as_it_is() } else { input.variants };
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
        let place = |error: Error| if error.problems().is_empty() { error } else { error.under(&format!("/variants/{index}")) };
        Lookup::of(state, tenant).resolve(asked(&target, &sample, variant)).await.map_err(place)?;
    }
    let graders = if input.graders.is_empty() { vec![Grader::NoError {}] } else { input.graders };
    let now = state.clock.now();
    let mut eval = Eval {
        name: input.name,
        target,
        cases: input.cases,
        variants,
        graders,
        items: Vec::new(),
        trials: Vec::new(),
        status: Status::Running,
        next: Some(now),
        completed_at: None,
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

async fn create(
    caller: Scoped<FlowsExecute>,
    State(state): State<AppState>,
    State(receipts): State<Receipts>,
    key: IdempotencyKey,
    body: Body<Input>,
) -> Result<Created<Row>> {
    let tenant = caller.tenant;
    let call = Call { tenant, route: "POST /v1/evals", key, request: fingerprint(&body.raw), secret: false };
    let input = body.value;
    receipts
        .once(call, move |seed| async move {
            let eval = checked(&state, tenant, input).await?;
            let id = EvalId::from_u128(seed);
            match all(&state.store, tenant).create(id, eval, state.clock.now()).await {
                Ok(kept) => Ok(Row::from(kept)),
                // Taken by ourselves, in a try whose answer was lost.
                Err(error @ StoreError::Exists(_)) => all(&state.store, tenant).find(id).await?.map(Row::from).ok_or_else(|| error.into()),
                Err(error) => Err(error.into()),
            }
        })
        .await
}

async fn list(caller: Scoped<FlowsRead>, State(store): State<SharedStore>, Params(paging): Params<Paging>) -> Result<Json<Page<Row>>> {
    let (trail, limit) = (paging.trail::<EvalId>()?, paging.limit());
    let found = all(&store, caller.tenant).list(None, trail.after(), limit + 1).await?;
    let page = trail.page(found, limit, false, |eval| eval.id);
    Ok(Json(Page { data: page.data.into_iter().map(Row::from).collect(), pagination: page.pagination }))
}

async fn find(store: &SharedStore, tenant: TenantId, id: EvalId) -> Result<Kept<Eval>> {
    all(store, tenant).find(id).await?.ok_or_else(EvalId::missing)
}

async fn read(caller: Scoped<FlowsRead>, State(store): State<SharedStore>, Id(id): Id<EvalId>) -> Result<Json<Row>> {
    Ok(Json(find(&store, caller.tenant, id).await?.into()))
}

async fn delete(caller: Scoped<FlowsWrite>, State(store): State<SharedStore>, Id(id): Id<EvalId>) -> Result<Json<Deleted>> {
    if !all(&store, caller.tenant).delete(id).await? {
        return Err(EvalId::missing());
    }
    Ok(Json(Deleted { id, deleted: true }))
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
    let data = eval.trials.iter().zip(&eval.items).map(row).collect();
    Ok(Json(Results { id, status: eval.status, data }))
}

async fn compare(caller: Scoped<FlowsRead>, State(store): State<SharedStore>, body: Body<Compare>) -> Result<Json<Comparison>> {
    let ids = body.value.eval_ids;
    if !(1..=10).contains(&ids.len()) {
        return Err(Error::invalid_at("/evalIds", "expected 1 to 10"));
    }
    let mut evals = Vec::with_capacity(ids.len());
    for (index, id) in ids.into_iter().enumerate() {
        let found = all(&store, caller.tenant).find(id).await?;
        evals.push(found.ok_or_else(|| Error::invalid_at(format!("/evalIds/{index}"), "no such eval"))?);
    }
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
    Ok(Json(Comparison { columns, rows }))
}

async fn cancel(caller: Scoped<FlowsExecute>, State(state): State<AppState>, Id(id): Id<EvalId>) -> Result<Json<Row>> {
    let kept = find(&state.store, caller.tenant, id).await?;
    let now = state.clock.now();
    let stop = |eval: &mut Eval| -> Result<()> {
        if eval.status == Status::Completed {
            return Err(Error::new(Kind::Conflict, "batch_completed", "the eval has completed; there is nothing to cancel"));
        }
        eval.status = Status::Cancelled;
        eval.next = None;
        eval.completed_at = eval.completed_at.or(Some(now));
        Ok(())
    };
    let kept = all(&state.store, caller.tenant).amend(kept, now, stop).await?.ok_or_else(EvalId::missing)?;
    stop_all(&state, caller.tenant, &kept.body).await?;
    Ok(Json(kept.into()))
}

async fn stop_all(state: &AppState, tenant: TenantId, eval: &Eval) -> Result<()> {
    let at_work = eval.items.iter().filter(|item| item.ended.is_none()).filter_map(|item| item.run);
    let judges = eval.trials.iter().flat_map(|trial| trial.judges.iter().zip(&trial.grades)).filter(|(_, grade)| grade.is_none());
    for run in at_work.chain(judges.filter_map(|(judge, _)| *judge)) {
        state.workers.cancel(tenant, run).await?;
    }
    Ok(())
}

/// Judges what has ended and was not judged. Whether all is.
async fn judge(state: &AppState, tenant: TenantId, id: EvalId, eval: &mut Eval) -> Result<bool> {
    let mut done = true;
    let began = state.clock.now();
    for place in 0..eval.trials.len() {
        let (Some(trial), Some(item)) = (eval.trials.get(place), eval.items.get(place)) else { continue };
        if state.clock.now().since(began) > AT_A_TIME {
            return Ok(false);
        }
        let Some(ended) = item.ended.clone() else {
            done = false;
            continue;
        };
        if trial.grades().is_some() {
            continue;
        }
        // Once every judge was asked, the answer need not be read again.
        let asked = trial.grades.iter().zip(&trial.judges).all(|(grade, judge)| grade.is_some() || judge.is_some());
        if asked {
            done &= hear(state, tenant, eval, place).await?;
            continue;
        }
        let outcome = match item.run {
            Some(run) => outcome_of(state, tenant, run).await?.map(|(_, outcome)| outcome),
            None => None,
        };
        let (output, events) = outcome.map_or((Value::Null, Vec::new()), |outcome| (outcome.final_output, outcome.events));
        let names = events.iter().filter(|event| event["type"] == "tool_complete" && event["success"] == true);
        let tools: Vec<String> = names.filter_map(|event| event["toolName"].as_str().map(str::to_owned)).collect();
        let case = eval.cases.get(trial.case).cloned().unwrap_or_default();
        let answer = Answer { case: &case, output: &output, ended: &ended, tools: &tools };
        let (mut grades, mut judges) = (trial.grades.clone(), trial.judges.clone());
        for (number, grader) in eval.graders.iter().enumerate() {
            let (Some(grade), Some(asked)) = (grades.get_mut(number), judges.get_mut(number)) else { continue };
            if grade.is_some() {
                continue;
            }
            *grade = grader.judge(&answer);
            if grade.is_some() {
                continue;
            }
            if let (None, Some(question)) = (&asked, grader.question(&answer)) {
                match start_one(state, tenant, format!("{id}:{place}:judge:{number}"), question).await {
                    Ok(run) => *asked = Some(run),
                    Err(error) if matches!(error.kind(), Kind::Unavailable | Kind::Limited) => return Err(error),
                    // A judge that cannot be asked says nothing; the others go on.
                    Err(error) => *grade = Some(grader.silent(error.message())),
                }
            }
            if let Some(run) = *asked {
                *grade = outcome_of(state, tenant, run).await?.map(|(_, said)| grader.verdict(&said.final_output, run));
            }
        }
        done &= grades.iter().all(Option::is_some);
        if let Some(trial) = eval.trials.get_mut(place) {
            trial.output = if output.to_string().len() <= LONGEST_OUTPUT { output } else { json!("(too long; see the execution)") };
            (trial.grades, trial.judges) = (grades, judges);
        }
    }
    Ok(done)
}

/// Takes what the judges of one answer have said. Whether all have.
async fn hear(state: &AppState, tenant: TenantId, eval: &mut Eval, place: usize) -> Result<bool> {
    let Some(trial) = eval.trials.get_mut(place) else { return Ok(true) };
    for ((grade, judge), grader) in trial.grades.iter_mut().zip(&trial.judges).zip(&eval.graders) {
        if let (None, Some(run)) = (&grade, judge) {
            *grade = outcome_of(state, tenant, *run).await?.map(|(_, said)| grader.verdict(&said.final_output, *run));
        }
    }
    Ok(trial.grades.iter().all(Option::is_some))
}

/// Does a little of an eval that is due, unless another server has it.
pub(in crate::http::dispatch) async fn tick(state: &AppState, tenant: TenantId, kept: Kept<Eval>) -> Result<()> {
    let evals = all(&state.store, tenant);
    let now = state.clock.now();
    let held = Eval { next: Some(now.after(LEASE)), ..kept.body.clone() };
    let Some(kept) = evals.change(&kept, held, now).await? else { return Ok(()) };
    let mut eval = kept.body.clone();
    let mut items = std::mem::take(&mut eval.items);
    let asked = &eval;
    advance(state, tenant, &kept.id.to_string(), &mut items, |place, _| asked.request(place)).await?;
    eval.items = items;
    let done = judge(state, tenant, kept.id, &mut eval).await?;
    let now = state.clock.now();
    if done {
        (eval.status, eval.completed_at) = (Status::Completed, Some(now));
    }
    eval.next = (!done).then(|| now.after(SOON));
    if evals.change(&kept, eval.clone(), now).await?.is_none()
        && evals.find(kept.id).await?.is_none_or(|now| now.body.status == Status::Cancelled)
    {
        // Whoever cancelled it meanwhile was right, and knew nothing of what was started now. Another server that only went on with it, because
        // this one took so long, finds what was started here under the same keys.
        stop_all(state, tenant, &eval).await?;
    }
    Ok(())
}
