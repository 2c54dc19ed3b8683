//! The work of an eval: its executions are started, and what they came to is judged.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::grade::{Answer, Fit};
use super::{Case, Eval, Grade, Grader, Target, Variant};
use crate::error::{Kind, Result};
use crate::http::AppState;
use crate::http::dispatch::batches::{Item, Progress, Work, advance, outcome_of, start_one};
use crate::http::dispatch::execute::DispatchRequest;
use crate::id::{EvalId, RunId, TenantId};
use crate::model::TargetKind;

/// Bytes of an answer that is kept with its grades; the execution has the whole.
const LONGEST_OUTPUT: usize = 8 * 1024;
/// How long it is judged in one look: less than an eval is one server's, so that what was done is kept.
const AT_A_TIME: Duration = Duration::from_secs(3);

impl Work for Eval {
    const NOUN: &'static str = "eval";

    fn progress(&self) -> Progress {
        self.progress
    }

    fn set_progress(&mut self, progress: Progress) {
        self.progress = progress;
    }

    fn at_work(&self) -> Vec<RunId> {
        let judges = self.trials.iter().flat_map(|trial| trial.judges.iter().zip(&trial.grades)).filter(|(_, grade)| grade.is_none());
        self.items.iter().filter_map(Item::at_work).chain(judges.filter_map(|(judge, _)| *judge)).collect()
    }

    async fn go_on(&mut self, state: &AppState, tenant: TenantId, id: EvalId) -> Result<bool> {
        let mut items = std::mem::take(&mut self.items);
        let asked = &*self;
        let advanced = advance(state, (tenant, asked.key_id), &id.to_string(), &mut items, |place, _| asked.request(place)).await;
        self.items = items;
        advanced?;
        judge(state, tenant, id, self).await
    }
}

impl Eval {
    /// What one execution is asked.
    fn request(&self, place: usize) -> DispatchRequest {
        let trial = self.trials.get(place);
        let case = trial.and_then(|trial| self.cases.get(trial.case)).cloned().unwrap_or_default();
        let variant = trial.and_then(|trial| self.variants.get(trial.variant)).cloned().unwrap_or_default();
        asked(&self.target, &case, &variant)
    }
}
/// What a variant of the target is asked in a case.
pub(super) fn asked(target: &Target, case: &Case, variant: &Variant) -> DispatchRequest {
    let document = variant.document(target.kind, &target.document);
    let messages = match &case.messages {
        Some(Value::String(text)) => Some(json!([{ "role": "user", "content": text }])),
        other => other.clone(),
    };
    let (flow, agent) = if target.kind == TargetKind::Flow { (document, None) } else { (None, document) };
    let saved = case.record_id.map(|id| [("id".to_owned(), json!(id))].into_iter().collect::<Map<String, Value>>());
    let record = saved.or_else(|| case.record.clone());
    DispatchRequest { flow, agent, messages, inputs: Some(case.inputs.clone()).into(), record: record.into(), ..DispatchRequest::default() }
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
        let (output, events) = outcome.map_or((Value::Null, Vec::new()), |outcome| (outcome.result, outcome.events));
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
            let fits = match grader.schema(&output) {
                Some((schema, value)) => Some(fits(state, tenant, &schema, &value).await?),
                None => None,
            };
            *grade = grader.judge(&answer, fits);
            if grade.is_some() {
                continue;
            }
            if let (None, Some(question)) = (&asked, grader.question(&answer)) {
                match start_one(state, (tenant, eval.key_id), format!("{id}:{place}:judge:{number}"), question).await {
                    Ok(run) => *asked = Some(run),
                    Err(error) if matches!(error.kind(), Kind::Unavailable | Kind::Limited) => return Err(error),
                    // A judge that cannot be asked says nothing; the others go on.
                    Err(error) => *grade = Some(grader.silent(error.message())),
                }
            }
            if let Some(run) = *asked {
                *grade = verdict(state, tenant, grader, run).await?;
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

/// Reads what a judge said, if it has ended. One whose execution was deleted says nothing.
async fn verdict(state: &AppState, tenant: TenantId, grader: &Grader, judge: RunId) -> Result<Option<Grade>> {
    if let Some((_, said)) = outcome_of(state, tenant, judge).await? {
        return Ok(Some(grader.verdict(&said.result, judge)));
    }
    let is_there = state.store.find_run(tenant, judge).await?.is_some();
    Ok((!is_there).then(|| grader.silent("the judge's execution was deleted")))
}

/// Validates a value against a schema. If the queue of the sandbox is full, it is tried again later.
async fn fits(state: &AppState, tenant: TenantId, schema: &Value, value: &Value) -> Result<Fit> {
    match state.engine.judge(tenant, schema, value).await {
        Ok(faults) => Ok((faults.is_empty(), None)),
        Err(error) if error.kind().retryable() => Err(error),
        Err(error) => Ok((false, Some(error.message().to_owned()))),
    }
}

/// Takes what the judges of one answer have said. Whether all have.
async fn hear(state: &AppState, tenant: TenantId, eval: &mut Eval, place: usize) -> Result<bool> {
    let Some(trial) = eval.trials.get_mut(place) else { return Ok(true) };
    for ((grade, judge), grader) in trial.grades.iter_mut().zip(&trial.judges).zip(&eval.graders) {
        if let (None, Some(run)) = (&grade, judge) {
            *grade = verdict(state, tenant, grader, *run).await?;
        }
    }
    Ok(trial.grades.iter().all(Option::is_some))
}
