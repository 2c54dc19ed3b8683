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
use super::drive::{Walk, failure};
use super::memory::{CALLED, COMPENSATION, EndOrder, FAILURE, Failing, StepRecord, VARS};
use super::plan::{Plan, PlannedStep};
use super::{Engine, StartRun};
use crate::clock::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::expr::{Scope, TemplateTree};
use crate::failpoint;
use crate::id::{RunId, TenantId};
use crate::model::event::{Event, EventRecord, Rest, Segment};
use crate::model::run::Failure;
use crate::model::{JournalEntry, Outcome, RunInput, StepState, WaitKind};
use crate::secret::Secret;
use crate::store::{Created, NewRun, RunKey};

/// The signal that tells a run to undo what it did when it is cancelled. No caller's signal can have this name.
pub const UNDO_WHEN_CANCELLED: &str = "$compensate";

/// What became of undoing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "CompensationOutcome")]
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

/// Larger inputs, in bytes of JSON, are left out of the event that a workflow's run starts with.
const MAX_SHOWN_INPUT: usize = 64 * 1024;

/// The event that a workflow's run starts with, after the one that every run starts with. `input`: what it was triggered with, if that may be shown.
pub(super) fn workflow_started(plan: &Plan, trigger: &str, input: Option<&Value>, at: Timestamp) -> Option<Event> {
    plan.workflow.as_ref()?;
    let mut value = json!({ "at": at, "trigger": trigger });
    if let Some(input) = input.filter(|input| !input.is_null() && input.to_string().len() <= MAX_SHOWN_INPUT) {
        value["input"] = input.clone();
    }
    Some(Event::Custom { name: "dispatch.started".into(), value })
}

impl RunContext {
    /// Computes a workflow's own values, once.
    pub(super) async fn begin_workflow(&self) -> Result<(), Failure> {
        let Some(tree) = self.plan.workflow.as_ref().and_then(|workflow| workflow.vars.as_ref()) else { return Ok(()) };
        if self.memory.lock().journal.contains_key(VARS) {
            return Ok(());
        }
        let vars = self.computed(tree).await.map_err(|error| failure("vars_failed", format!("`vars` failed: {error}")))?;
        let vars = self.redactor.redact_value(vars).await;
        self.record(VARS, Outcome::Done(vars.clone()));
        self.memory.lock().set("vars", vars);
        Ok(())
    }

    /// A template over everything that the run has.
    pub(super) async fn computed(&self, tree: &TemplateTree) -> Result<Value, String> {
        let variables = self.memory.lock().variables.clone();
        let scope = Scope::new([&self.base, &*variables]);
        let rendered = tree.fill(&scope, &self.sandbox()).await.map_err(|error| error.message().to_owned())?;
        match crate::expr::bounds::Misfit::of(&rendered.value, self.parts().limits.get().max_result_bytes) {
            Some(misfit) => Err(misfit.to_string()),
            None => Ok(rendered.value),
        }
    }

    /// A workflow that fails lets what runs come to its end first, so that it is known what there is to undo. `false`: it is no workflow, and ends now.
    pub(super) fn begins_to_fail(&self, why: &Failure) -> bool {
        if self.plan.workflow.is_some() {
            self.begin_to_end(Failing { why: why.clone(), cancelled: false, undoing: false });
        }
        self.plan.workflow.is_some()
    }

    /// From now on nothing new begins. The first reason counts.
    fn begin_to_end(&self, failing: Failing) {
        {
            let mut memory = self.memory.lock();
            if memory.failing.is_some() {
                return;
            }
            memory.failing = Some(failing.clone());
        }
        self.record(FAILURE, Outcome::Done(serde_json::to_value(&failing).unwrap_or_default()));
    }

    pub(super) fn failing(&self) -> Option<Failing> {
        self.memory.lock().failing.clone()
    }

    /// Whether the walk ends before its steps have. `idle`: no step runs now.
    pub(super) async fn early_end(&self, idle: bool) -> Early {
        if let Some(Failing { why, cancelled, undoing }) = self.failing() {
            if !undoing && !idle {
                return Early::Goes;
            }
            if !undoing && self.has_more_to_end() {
                return Early::Ends(Walk::Pause);
            }
            return Early::Ends(if cancelled { Walk::Cancelled } else { Walk::Failed(why) });
        }
        let ordered = self.memory.lock().orders.end;
        if ordered == Some(EndOrder::Complete) && !self.cancel.is_cancelled() {
            return Early::Ends(Walk::Finished);
        }
        if ordered.is_none() && !self.cancel.is_cancelled() {
            return Early::Goes;
        }
        if !self.is_undone_when_cancelled().await {
            return Early::Ends(Walk::Cancelled);
        }
        self.begin_to_end(Failing { why: cancelled(), cancelled: true, undoing: false });
        Early::Begins
    }

    /// Whether a step that waits goes on by itself, or needs a word on what it did.
    fn has_more_to_end(&self) -> bool {
        let keys = self.waiting_keys();
        self.memory.lock().open_below(&keys).any(|wait| wait.kind != WaitKind::Signal)
    }

    /// While a workflow comes to an early end, and as soon as that is ordered, only what has begun is entered again.
    pub(super) fn may_begin(&self, step: Ready) -> bool {
        let memory = self.memory.lock();
        let ends = memory.failing.is_some() || memory.orders.end.is_some() || self.cancel.is_cancelled();
        let (Ready::Run(index), true) = (step, ends && self.plan.workflow.is_some()) else { return true };
        let undoes = memory.failing.as_ref().is_some_and(|failing| failing.undoing);
        !undoes && self.plan.steps.get(index).is_some_and(|planned| memory.is_under_way(&planned.key()))
    }

    /// Whether somebody said so, within the run or from outside.
    async fn is_undone_when_cancelled(&self) -> bool {
        if self.plan.workflow.is_none() {
            return false;
        }
        if self.memory.lock().orders.end == Some(EndOrder::Cancel) {
            return true;
        }
        let kept = self.patiently(|| self.parts().store.list_signals(self.tenant, self.run)).await;
        kept.is_ok_and(|signals| signals.iter().any(|signal| signal.name == UNDO_WHEN_CANCELLED))
    }

    /// Undoes what completed, the last first.
    pub(super) async fn compensate(&self, why: &Failure) {
        let undos = self.undos();
        if undos.is_empty() {
            return;
        }
        let failing = {
            let mut memory = self.memory.lock();
            let failing = memory.failing.get_or_insert_with(|| Failing { why: why.clone(), cancelled: false, undoing: true });
            failing.undoing = true;
            failing.clone()
        };
        self.record(FAILURE, Outcome::Done(serde_json::to_value(failing).unwrap_or_default()));
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

    /// The undos of steps that completed, the last one first; before them those of steps that made their call and wait for a signal.
    fn undos(&self) -> Vec<(usize, &PlannedStep)> {
        let memory = self.memory.lock();
        let order = |(index, planned): (usize, &PlannedStep)| match memory.records.get(&index) {
            Some(record) => matches!(record.state, StepState::Completed | StepState::Compensated).then_some(record.order),
            None => memory.journal.contains_key(&format!("{}/{CALLED}", planned.key())).then_some(u32::MAX),
        };
        let steps = self.plan.steps.iter().enumerate();
        let mut done: Vec<(usize, u32)> = steps.filter_map(|step| Some((step.0, order(step)?))).collect();
        done.sort_by_key(|(index, order)| std::cmp::Reverse((*order, *index)));
        done.into_iter().filter_map(|(index, _)| Some((index, self.plan.steps.get(index)?.undo.as_deref()?))).collect()
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
        let mut value = json!({ "what": what, "stepId": step, "at": self.parts().clock.now() });
        if let (Value::Object(value), Value::Object(more)) = (&mut value, more) {
            value.extend(more);
        }
        self.emit(Event::Custom { name: "dispatch.compensation".into(), value });
    }
}

impl Engine {
    /// Makes a run that tries again to undo what an ended one could not: `new` with its own secrets. It knows what its steps came to, and enters none of
    /// them. For each ended run there is one.
    ///
    /// Errors: `not_found`, `run_goes_on` (409), `nothing_to_undo` (409).
    pub async fn compensate_again(
        &self,
        tenant: TenantId,
        id: RunId,
        new: RunId,
        secrets: BTreeMap<String, Secret>,
        key: RunKey,
    ) -> Result<Created> {
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
        let kept: Vec<JournalEntry> = journal.into_iter().filter(is_known_to_an_undo).collect();
        let input = RunInput { job: None, origin: None, ..run.input.clone() };
        let start = StartRun { id: Some(new), tenant, plan, target: run.target, input, secrets, key: Some(key), parent: None };
        let queued = self.queued(new, &start)?;
        let told = Event::Custom { name: "dispatch.compensates".into(), value: json!({ "of": id, "at": self.parts().clock.now() }) };
        let mut events: Vec<EventRecord> = queued.segment.into_iter().flat_map(|segment| segment.events).collect();
        events.push(EventRecord::new(queued.reserved, &told));
        let segment = Some(Segment { events, rest: Rest::None });
        Ok(store.create_run(NewRun { journal: kept, segment, reserved: queued.reserved + 1, ..queued }).await?)
    }
}

/// What steps came to, what is undone already, and why: nothing of what was under way.
fn is_known_to_an_undo(entry: &JournalEntry) -> bool {
    let Outcome::Done(value) = &entry.outcome else { return false };
    if [VARS, FAILURE].contains(&entry.key.as_str()) {
        return true;
    }
    match entry.key.strip_prefix("steps/").map(|rest| rest.split_once('/')) {
        Some(None | Some((_, CALLED))) => true,
        Some(Some((_, "undo"))) => value.get("failure").is_none(),
        _ => false,
    }
}

fn cancelled() -> Failure {
    failure("cancelled", "the run was cancelled")
}

/// Whether a walk ends early.
pub(super) enum Early {
    Goes,
    /// It begins to: what runs comes to its end.
    Begins,
    Ends(Walk),
}
