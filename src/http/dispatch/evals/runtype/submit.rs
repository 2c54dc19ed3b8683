//! `POST /v1/eval/submit`: a flow over records, asked in one way or in several.

use aide::axum::ApiRouter;
use aide::axum::routing::post_with;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::super::routes::{Input, Row, TAG, TargetInput, all, checked};
use super::super::{Case, Eval, Variant};
use crate::error::{Error, Problem, Problems, Result};
use crate::http::AppState;
use crate::http::dispatch::about;
use crate::http::dispatch::batches::{Status, of_type};
use crate::http::extract::{Body, IdempotencyKey};
use crate::http::idempotency::{Call, Created, Receipts, fingerprint};
use crate::http::scope::{FlowsExecute, Scoped};
use crate::id::{EvalId, KeyId, TenantId};
use crate::store::Kept;

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new().api_route("/v1/eval/submit", post_with(submit, about("submitEval", TAG, "Begin an eval of a flow over records")))
}

/// An eval as Runtype's clients begin it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(rename = "EvalSubmission")]
pub(super) struct EvalSubmission {
    /// 1 to 255 characters; the flow's name when absent.
    name: Option<String>,
    /// A saved flow, or `flow` in place, or a saved agent.
    flow_id: Option<String>,
    flow: Option<Value>,
    agent_id: Option<String>,
    /// Records that are not saved: `{type?, name?, metadata?, messages?}`; 1 to 500.
    records: Option<Vec<Map<String, Value>>>,
    /// Instead: the saved records of a type.
    record_type: Option<String>,
    /// Only records that pass it; as in `POST /v1/records/search`.
    filter: Option<Value>,
    /// At most so many saved records.
    limit: Option<usize>,
    /// What differs from the flow as it is: `{stepName?, model, temperature, …}`, one for each step.
    model_overrides: Vec<Map<String, Value>>,
    /// Several ways to ask: a list of overrides for each. Each is an eval of its own.
    model_configs: Vec<Vec<Map<String, Value>>>,
    /// One way to ask: `{evalName?, overrides: {flow?, steps?}}`.
    eval_config: Option<EvalConfig>,
    /// Several ways to ask.
    eval_configs: Vec<EvalConfig>,
    options: SubmitOptions,
}

/// A way to ask: members of prompts' configurations, for all prompts or by the step's name.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(rename = "EvalConfig")]
struct EvalConfig {
    eval_name: Option<String>,
    overrides: EvalOverrides,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "EvalOverrides")]
struct EvalOverrides {
    /// For all prompts of the flow.
    flow: Map<String, Value>,
    /// For the agent.
    agent: Map<String, Value>,
    /// By the step's name.
    steps: Map<String, Value>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(rename = "EvalSubmitOptions")]
struct SubmitOptions {
    /// True, or absent: a record that fails does not hold up the others.
    continue_on_error: Option<bool>,
}

/// The body: an eval as Runtype's clients begin it, or one of `POST /v1/evals`, which has `target` and `cases`.
#[derive(JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "EvalSubmitInput")]
#[expect(dead_code, reason = "describes the body; it is read by the members that it has")]
enum SubmissionDocument {
    Own(Box<Input>),
    Runtype(Box<EvalSubmission>),
}

/// See [`SubmissionDocument`].
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub(super) struct SubmissionBody(#[schemars(with = "SubmissionDocument")] Map<String, Value>);

/// An eval that was begun.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "SubmittedEval")]
struct SubmittedRow {
    batch_execution_id: EvalId,
    eval_name: String,
    status: Status,
}

/// What was begun: the first eval, and all of them.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EvalsSubmitted")]
struct SubmittedEvals {
    #[serde(flatten)]
    first: Row,
    submissions: Vec<SubmittedRow>,
    total_evals: usize,
}

impl SubmissionBody {
    /// The evals to begin.
    pub fn read(self) -> Result<EvalRequest> {
        let is_own = self.0.contains_key("target") || self.0.contains_key("cases");
        let body = Value::Object(self.0);
        let misfit = |error: serde_path_to_error::Error<serde_json::Error>| Error::from(Problems::from(Problem::misfit(&error)));
        if is_own {
            return serde_path_to_error::deserialize(body).map(|input| EvalRequest::Own(Box::new(input))).map_err(misfit);
        }
        serde_path_to_error::deserialize(body).map(|submission| EvalRequest::Runtype(Box::new(submission))).map_err(misfit)
    }
}

/// What a body asks for.
pub(super) enum EvalRequest {
    Own(Box<Input>),
    Runtype(Box<EvalSubmission>),
}

/// A step's name and what differs there, without the name.
fn at_step(mut change: Map<String, Value>) -> Variant {
    let step = change.shift_remove("stepName").or_else(|| change.shift_remove("step"));
    Variant { step: step.and_then(|step| step.as_str().map(str::to_owned)), config: change, ..Variant::default() }
}

/// One way to ask, of the changes at its steps.
fn way(name: String, changes: Vec<Map<String, Value>>) -> Variant {
    let mut changes = changes.into_iter().map(at_step);
    let first = changes.next().unwrap_or_default();
    Variant { name, more: changes.collect(), ..first }
}

impl EvalConfig {
    fn way(self, name: String, at: &str, problems: &mut Problems) -> Variant {
        let EvalOverrides { flow, agent, steps, others } = self.overrides;
        for (name, _) in others.iter().filter(|(_, value)| !value.is_null()) {
            problems.add(format!("{at}/overrides/{}", crate::error::pointer_token(name)), "not available; one of flow, agent, steps");
        }
        let mut changes: Vec<Map<String, Value>> = [flow, agent].into_iter().filter(|change| !change.is_empty()).collect();
        for (step, change) in steps {
            let Value::Object(mut change) = change else {
                problems.add(format!("{at}/overrides/steps/{}", crate::error::pointer_token(&step)), "expected an object");
                continue;
            };
            change.insert("stepName".into(), step.into());
            changes.push(change);
        }
        way(self.eval_name.unwrap_or(name), changes)
    }
}

impl EvalSubmission {
    /// The ways to ask, each with its place in the body.
    fn ways(&mut self) -> Result<Vec<(String, Variant)>> {
        let mut problems = Problems::default();
        let given =
            [!self.model_overrides.is_empty(), !self.model_configs.is_empty(), self.eval_config.is_some(), !self.eval_configs.is_empty()];
        if given.into_iter().filter(|given| *given).count() > 1 {
            problems.add("/modelOverrides", "expected one of `modelOverrides`, `modelConfigs`, `evalConfig` and `evalConfigs`");
        }
        if self.options.continue_on_error == Some(false) {
            problems.add("/options/continueOnError", "not available: a record that fails does not hold up the others");
        }
        let mut ways = Vec::new();
        for (index, changes) in std::mem::take(&mut self.model_configs).into_iter().enumerate() {
            ways.push((format!("/modelConfigs/{index}"), way(format!("config {}", index + 1), changes)));
        }
        for (index, config) in std::mem::take(&mut self.eval_configs).into_iter().enumerate() {
            let at = format!("/evalConfigs/{index}");
            let variant = config.way(format!("config {}", index + 1), &at, &mut problems);
            ways.push((at, variant));
        }
        if let Some(config) = self.eval_config.take() {
            ways.push(("/evalConfig".into(), config.way("config".into(), "/evalConfig", &mut problems)));
        }
        if ways.is_empty() {
            ways.push(("/modelOverrides".into(), way("config".into(), std::mem::take(&mut self.model_overrides))));
        }
        problems.into_result().map(|()| ways)
    }

    async fn cases(&mut self, state: &AppState, tenant: TenantId) -> Result<Vec<Case>> {
        let text = |record: &Map<String, Value>, name: &str| record.get(name).and_then(Value::as_str).map(str::to_owned);
        match (self.records.take(), self.record_type.take()) {
            (Some(records), None) => {
                let case = |mut record: Map<String, Value>| {
                    let messages = record.shift_remove("messages").filter(|messages| !messages.is_null());
                    Case { name: text(&record, "name"), messages, record: Some(record), ..Case::default() }
                };
                Ok(records.into_iter().map(case).collect())
            }
            (None, Some(kind)) => {
                let saved = of_type(&state.store, tenant, &kind, self.filter.take(), self.limit).await?;
                let case = |record: crate::model::Record| {
                    let messages = (!record.messages.is_empty()).then_some(Value::Array(record.messages));
                    Case { name: Some(record.name), messages, record_id: Some(record.id), ..Case::default() }
                };
                Ok(saved.into_iter().map(case).collect())
            }
            _ => Err(Error::invalid_at("/records", "expected either `records` or `recordType`")),
        }
    }

    /// The evals to keep, one for each way to ask.
    async fn evals(mut self, state: &AppState, tenant: TenantId) -> Result<Vec<Eval>> {
        let ways = self.ways()?;
        let cases = self.cases(state, tenant).await?;
        let named = self.flow.as_ref().and_then(|flow| flow.get("name")).and_then(Value::as_str).map(str::to_owned);
        let name = self.name.clone().or(named).unwrap_or_else(|| "eval".to_owned());
        let mut evals = Vec::with_capacity(ways.len());
        for (at, variant) in ways {
            let target =
                TargetInput { flow_id: self.flow_id.clone(), agent_id: self.agent_id.clone(), flow: self.flow.clone(), agent: None };
            // A variant's name distinguishes the evals of a group.
            let name = if variant.name == "config" { name.clone() } else { format!("{name}: {}", variant.name) };
            let input = Input { name, target, cases: cases.clone(), variants: vec![variant], graders: Vec::new() };
            evals.push(checked(state, tenant, input).await.map_err(|error| moved(error, &at))?);
        }
        Ok(evals)
    }
}

/// Faults of an eval at their places in the submission that it is made of.
fn moved(error: Error, way: &str) -> Error {
    let mut problems = Problems::default();
    for problem in error.problems() {
        let places = [("/target/", "/"), ("/variants/0", way), ("/cases", "/records")];
        let place = places.into_iter().find_map(|(from, to)| problem.pointer.strip_prefix(from).map(|rest| format!("{to}{rest}")));
        problems.add(place.unwrap_or_else(|| problem.pointer.clone()), problem.message.clone());
    }
    problems.into_result().err().unwrap_or(error)
}

/// Begins the evals that a body asks for. The group has the id of the first one, whose bits are `seed`. `key_id`: the API key of whoever asked.
pub(super) async fn begin(
    state: &AppState,
    (tenant, key_id): (TenantId, Option<KeyId>),
    seed: u128,
    wanted: EvalRequest,
) -> Result<Vec<Kept<Eval>>> {
    let evals = match wanted {
        EvalRequest::Own(input) => vec![checked(state, tenant, *input).await?],
        EvalRequest::Runtype(submission) => submission.evals(state, tenant).await?,
    };
    let group = EvalId::from_u128(seed);
    let mut kept = Vec::with_capacity(evals.len());
    for (place, mut eval) in (0u128..).zip(evals) {
        (eval.group, eval.key_id) = ((place > 0).then_some(group), key_id);
        let id = EvalId::from_u128(seed.wrapping_add(place));
        kept.push(all(&state.store, tenant).create_once(id, eval, state.clock.now()).await?);
    }
    Ok(kept)
}

async fn submit(
    caller: Scoped<FlowsExecute>,
    State(state): State<AppState>,
    State(receipts): State<Receipts>,
    key: IdempotencyKey,
    body: Body<SubmissionBody>,
) -> Result<Created<SubmittedEvals>> {
    let (tenant, key_id) = (caller.tenant, caller.key_id());
    let call = Call { tenant, route: "POST /v1/eval/submit", key, request: fingerprint(&body.raw), secret: false };
    let wanted = body.value.read()?;
    receipts
        .once(call, move |seed| async move {
            let kept = begin(&state, (tenant, key_id), seed, wanted).await?;
            let row = |kept: &Kept<Eval>| SubmittedRow {
                batch_execution_id: kept.id,
                eval_name: kept.body.name.clone(),
                status: kept.body.progress.status,
            };
            let (submissions, total_evals) = (kept.iter().map(row).collect(), kept.len());
            let first = kept.into_iter().next().ok_or_else(|| Error::internal("no eval was begun"))?;
            Ok(SubmittedEvals { first: first.into(), submissions, total_evals })
        })
        .await
}
