//! What a workflow adds to the walk over its steps: values computed at its beginning, a failure that lets what runs come to its end, and the
//! undoing of what was done.
//!
//! Undoing is in the journal like everything else: a step's undo is a step below it, and is not done again once it is recorded. It goes back in the
//! order in which the steps completed, one after the other. An undo that fails, retries and all, is recorded and the rest goes on; a run
//! made anew of this one can try it again ([`Engine::compensate_again`]).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::context::{Entry, Interrupt, RunContext, StepContext};
use super::decide::Ready;
use super::drive::failure;
use super::memory::{COMPENSATION, EndOrder, FAILURE, StepRecord, VARS};
use super::plan::PlannedStep;
use super::{Engine, StartRun};
use crate::error::{Error, Kind, Result};
use crate::expr::{Scope, TemplateTree};
use crate::failpoint;
use crate::id::{RunId, TenantId};
use crate::model::event::{Event, EventRecord, Rest, Segment};
use crate::model::run::Failure;
use crate::model::{JournalEntry, Outcome, RunInput, StepState};
use crate::store::{Created, NewRun, RunKey};

/// The signal that tells a run to undo what it did when it is cancelled. No caller's signal can have this name.
pub const UNDO_WHEN_CANCELLED: &str = "$compensate";

/// What became of undoing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compensation {
    /// Everything that can be undone was.
    Completed,
    /// An undo failed.
    Partial,
}

/// What became of one undo.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Undone {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failure: Option<(String, String)>,
}

impl RunContext {
    /// Computes a workflow's own values, once.
    pub(super) async fn begin_workflow(&self) -> Result<(), Failure> {
        let Some(tree) = self.plan.workflow.as_ref().and_then(|workflow| workflow.vars.as_ref()) else { return Ok(()) };
        if self.memory.lock().journal.contains_key(VARS) {
            return Ok(());
        }
        let mut vars = self.computed(tree).await.map_err(|error| failure("vars_failed", format!("`vars` failed: {error}")))?;
        self.redactor.value(&mut vars);
        self.record(VARS, Outcome::Done(vars.clone()));
        self.memory.lock().set("vars", vars);
        Ok(())
    }

    /// A template over everything that the run has.
    pub(super) async fn computed(&self, tree: &TemplateTree) -> Result<Value, String> {
        let variables = self.memory.lock().variables.clone();
        let scope = Scope::new([&self.base, &*variables]);
        let rendered = tree.fill(&scope, &self.parts().sandbox).await.map_err(|error| error.message().to_owned())?;
        match crate::expr::bounds::Misfit::of(&rendered.value) {
            Some(misfit) => Err(misfit.to_string()),
            None => Ok(rendered.value),
        }
    }

    /// From now on nothing new begins.
    pub(super) fn begin_to_fail(&self, why: Failure) {
        let mut memory = self.memory.lock();
        if memory.failing.is_some() {
            return;
        }
        memory.failing = Some(why.clone());
        drop(memory);
        self.record(FAILURE, Outcome::Done(serde_json::to_value(&why).unwrap_or_default()));
    }

    pub(super) fn failing(&self) -> Option<Failure> {
        self.memory.lock().failing.clone()
    }

    /// While a workflow fails, only what was under way when its owner went away begins again, to its end.
    pub(super) fn may_begin(&self, step: Ready) -> bool {
        let memory = self.memory.lock();
        let (Ready::Run(index), Some(_)) = (step, &memory.failing) else { return true };
        self.plan.steps.get(index).is_some_and(|planned| memory.was_under_way(&planned.key()))
    }

    /// Whether somebody said so, within the run or from outside.
    pub(super) async fn is_undone_when_cancelled(&self) -> bool {
        if self.plan.workflow.is_none() {
            return false;
        }
        if self.memory.lock().orders.end == Some(EndOrder::Cancel) {
            return true;
        }
        let kept = self.patiently(|| self.parts().store.kept_signals(self.tenant, self.run)).await;
        kept.is_ok_and(|signals| signals.iter().any(|signal| signal.name == UNDO_WHEN_CANCELLED))
    }

    /// Undoes what completed, the last first.
    pub(super) async fn compensate(&self, why: &Failure) {
        let undos = self.undos();
        if undos.is_empty() {
            return;
        }
        self.begin_to_fail(why.clone());
        self.log.begin_to_compensate();
        let before = self.memory.lock().journal.contains_key(COMPENSATION);
        if !before {
            self.tell("started", None, json!({ "steps": undos.len() }));
        }
        let about = json!({ "step": why.step, "code": why.code, "message": why.message });
        self.memory.lock().set("error", about);
        self.log.commit().await;
        failpoint::hit("compensation.begun");
        let mut partial = false;
        for (index, undo) in undos {
            let known = self.memory.lock().journal.get(&undo.key()).cloned();
            let undone = match known {
                Some(Outcome::Done(undone)) => serde_json::from_value(undone).unwrap_or(Undone { failure: None }),
                _ => self.undo(index, undo).await,
            };
            partial |= undone.failure.is_some();
        }
        let outcome = if partial { Compensation::Partial } else { Compensation::Completed };
        self.record(COMPENSATION, Outcome::Done(serde_json::to_value(outcome).unwrap_or_default()));
        self.tell("completed", None, json!({ "outcome": outcome }));
    }

    /// The undos of steps that completed, the last one first.
    fn undos(&self) -> Vec<(usize, &PlannedStep)> {
        let memory = self.memory.lock();
        let done = |state| matches!(state, StepState::Completed | StepState::Compensated);
        let mut records: Vec<(usize, u32)> =
            memory.records.iter().filter(|(_, record)| done(record.state)).map(|(index, record)| (*index, record.order)).collect();
        records.sort_by_key(|(_, order)| std::cmp::Reverse(*order));
        let undo = |(index, _): (usize, u32)| Some((index, self.plan.steps.get(index)?.undo.as_deref()?));
        records.into_iter().filter_map(undo).collect()
    }

    async fn undo(&self, index: usize, undo: &PlannedStep) -> Undone {
        let entry = Entry::default();
        let context = StepContext::new(self, undo, &entry, 1);
        let step = self.plan.steps.get(index).map(|planned| planned.step.id.clone()).unwrap_or_default();
        failpoint::hit("compensation.undo.before");
        let result = undo.body.run(&context).await;
        let undone = match result {
            Ok(_) => Undone { failure: None },
            Err(Interrupt::Fail(failure)) => Undone { failure: Some((failure.code, self.redactor.text(&failure.message))) },
            Err(Interrupt::Suspend) => Undone { failure: Some(("undo_waits".into(), "an undo cannot wait".into())) },
        };
        self.record(&undo.key(), Outcome::Done(serde_json::to_value(&undone).unwrap_or_default()));
        match &undone.failure {
            None => {
                let record = self.memory.lock().records.get(&index).cloned();
                if let Some(record) = record {
                    let record = StepRecord { state: StepState::Compensated, ..record };
                    self.memory.lock().settle(&self.plan, index, record.clone());
                    self.record(&format!("steps/{step}"), Outcome::Done(serde_json::to_value(&record).unwrap_or_default()));
                }
                self.tell("step_completed", Some(&step), Value::Null);
            }
            Some((code, message)) => self.tell("step_failed", Some(&step), json!({ "code": code, "message": message })),
        }
        self.log.commit().await;
        failpoint::hit("compensation.undo.after");
        undone
    }

    fn tell(&self, what: &str, step: Option<&str>, more: Value) {
        let mut value = json!({ "what": what, "stepId": step });
        if let (Value::Object(value), Value::Object(more)) = (&mut value, more) {
            value.extend(more);
        }
        self.emit(Event::Custom { name: "dispatch.compensation".into(), value });
    }
}

impl Engine {
    /// Makes a run that tries again to undo what an ended one could not.
    ///
    /// Errors: `not_found`, `run_goes_on` (409), `nothing_to_undo` (409).
    pub async fn compensate_again(&self, tenant: TenantId, id: RunId, key: Option<RunKey>) -> Result<(RunId, Created)> {
        let store = &self.parts().store;
        let run = store.find_run(tenant, id).await?.ok_or_else(|| Error::missing("run"))?;
        if !run.state.is_terminal() {
            return Err(Error::new(Kind::Conflict, "run_goes_on", "the run goes on; what it has to undo is tried again when it has ended"));
        }
        let journal = store.read_journal(tenant, id).await?;
        let partial = Outcome::Done(serde_json::to_value(Compensation::Partial).map_err(Error::internal)?);
        if !journal.iter().any(|entry| entry.key == COMPENSATION && entry.outcome == partial) {
            return Err(Error::new(Kind::Conflict, "nothing_to_undo", "no undo of this run has failed"));
        }
        let text = store.flow_of_run(tenant, id).await?.ok_or_else(|| Error::internal("a run without its flow"))?;
        let plan = self.plan(&run.flow_hash, &text)?;
        // Everything that is known but for the undos that failed, with their attempts.
        let failed = |entry: &JournalEntry| match &entry.outcome {
            Outcome::Done(undone) => entry.key.ends_with("/undo") && undone.get("failure").is_some(),
            _ => false,
        };
        let again: Vec<String> = journal.iter().filter(|entry| failed(entry)).map(|entry| entry.key.clone()).collect();
        let anew = |entry: &JournalEntry| {
            entry.key == COMPENSATION || again.iter().any(|key| entry.key == *key || entry.key.starts_with(&format!("{key}/")))
        };
        let mut kept: Vec<JournalEntry> = journal.iter().filter(|entry| !anew(entry)).cloned().collect();
        if !kept.iter().any(|entry| entry.key == FAILURE) {
            let why = failure("cancelled", "the run was cancelled");
            kept.push(JournalEntry { key: FAILURE.into(), outcome: Outcome::Done(serde_json::to_value(why).map_err(Error::internal)?) });
        }
        let input = RunInput { job: None, ..run.input.clone() };
        let new = RunId::new(&self.parts().clock);
        let start = StartRun { id: Some(new), tenant, plan, target: run.target, input, secrets: BTreeMap::new(), key, parent: None };
        let queued = self.queued(new, &start)?;
        let told = Event::Custom { name: "dispatch.compensates".into(), value: json!({ "of": id, "undos": again.len() }) };
        let mut events: Vec<EventRecord> = queued.segment.into_iter().flat_map(|segment| segment.events).collect();
        events.push(EventRecord::new(queued.reserved, &told));
        let segment = Some(Segment { events, rest: Rest::None });
        let created = store.create_run(NewRun { journal: kept, segment, reserved: queued.reserved + 1, ..queued }).await?;
        Ok((new, created))
    }
}
