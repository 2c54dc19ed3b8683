//! A run within a run: begun once, waited for, paid for by its parent.
//!
//! The child has a journal and a log of its own. It gets what is left of the parent's budget, set aside until it ends, and ends with its
//! parent. The parent waits and costs nothing meanwhile.
//!
//! Must not know: which step wants it, and what for.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::StepOutput;
use crate::engine::budget::Worst;
use crate::engine::context::{Ask, Asked, Interrupt, StepContext, StepFailure, StepResult};
use crate::engine::{Engine, StartRun};
use crate::id::{RunId, WaitId};
use crate::model::event::Event;
use crate::model::run::{Budget, Parent, RunInput, Spent};
use crate::model::wait::WaitKind;
use crate::model::{Flow, Target};

/// How long a child that is cancelled may take to end, and how often that is looked at.
const LAST_WORDS: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(50);
/// Runs within runs.
const MAX_DEPTH: u32 = 8;

/// What is to run.
pub struct Child<'f> {
    /// Where its entries stand in the journal, below the step; empty for the step itself.
    pub at: &'f str,
    pub flow: &'f Flow,
    pub target: Target,
    /// How long it may take, its pauses included.
    pub timeout: Option<Duration>,
}

/// What is saved is put into a document so deep and no deeper; below that there is none, however the step names it. So this is asked first.
pub fn within_depth(context: &StepContext<'_>) -> StepResult<()> {
    if context.run.input.options.depth < MAX_DEPTH {
        return Ok(());
    }
    Err(StepFailure::new("nesting_too_deep", format!("flows may run within flows {MAX_DEPTH} deep")).into())
}

/// A flow that the document's compiler put into a step, with the places of its steps, which are no part of it.
pub fn placed(compiled: Option<Flow>, places: &HashMap<String, String>) -> Option<Flow> {
    compiled.map(|mut flow| {
        for step in &mut flow.steps {
            step.pointer = places.get(&step.id).cloned().unwrap_or_default();
        }
        flow
    })
}

impl Child<'_> {
    /// Runs the child to its end; its final output is the output. `input` is asked once, when it begins.
    pub async fn run(&self, context: &StepContext<'_>, input: impl FnOnce() -> StepResult<RunInput> + Send) -> StepResult<StepOutput> {
        let child = self.id(context);
        let ask = Ask {
            kind: WaitKind::Child,
            name: child.to_string(),
            shown: json!({ "executionId": child, "stepId": context.step_id() }),
            digest: None,
            deadline: self.timeout.map(|timeout| context.now().after(timeout)),
        };
        match context.ask(&self.key(context, "wait"), ask).await? {
            Asked::Open { wait } => {
                self.start(context, child, wait, input).await?;
                Err(Interrupt::Suspend)
            }
            Asked::Answered { resolution, .. } => {
                let told = resolution.answer.get("spent").cloned().and_then(|spent| serde_json::from_value(spent).ok());
                let mut spent: Spent = told.unwrap_or_default();
                if resolution.timed_out {
                    self.keep(context)?;
                    let (so_far, ended) = cancel(context, child).await?;
                    spent = so_far;
                    if ended {
                        self.unkeep(context);
                    }
                    // Else it may yet spend until it hears of its end: its share of the budget stays set aside.
                } else {
                    self.unkeep(context);
                }
                let booked = self.key(context, "spent");
                if context.recall(&booked).is_none() {
                    // Time is the parent's own to count.
                    context.spend(&Spent { duration_ms: 0, ..spent });
                    context.record_done(&booked, &spent);
                }
                answer(child, &resolution.answer, resolution.timed_out)
            }
        }
    }

    /// Creates the child once its wait is durable. Doing it again finds it created.
    async fn start(
        &self,
        context: &StepContext<'_>,
        child: RunId,
        wait: WaitId,
        input: impl FnOnce() -> StepResult<RunInput> + Send,
    ) -> StepResult<()> {
        let run = context.run;
        let engine = Engine(run.engine.clone());
        let plan = engine.check(self.flow)?;
        let budget = self.keep(context)?;
        run.log.commit().await;
        let mut options = run.input.options.clone();
        options.depth += 1;
        options.budget = budget;
        options.source = "child".into();
        options.by_visitor = run.input.is_by_visitor();
        // The child answers its parent, which reads outputs.
        options.as_completion = false;
        options.reports_state = false;
        let input =
            RunInput { record: run.input.record.clone(), origin: run.input.origin.clone(), key_id: run.input.key_id, options, ..input()? };
        let start = StartRun {
            id: None,
            tenant: run.tenant,
            plan: plan.clone(),
            target: self.target,
            input,
            secrets: run.secrets.clone(),
            key: None,
            parent: Some(Parent { run: run.run, wait }),
        };
        let new = engine.queued(child, &start)?;
        run.patiently(|| context.parts().store.create_run(new.clone())).await?;
        let told = self.key(context, "told");
        if context.recall(&told).is_none() {
            let value = json!({ "stepId": context.step_id(), "executionId": child, "flowName": plan.flow.name });
            context.emit(Event::Custom { name: "dispatch.child_started".into(), value });
            context.record_done(&told, &true);
        }
        Ok(())
    }
}

impl Child<'_> {
    fn key(&self, context: &StepContext<'_>, name: &str) -> String {
        if self.at.is_empty() { context.key(name) } else { context.key(&format!("{}/{name}", self.at)) }
    }

    /// Whether it was begun before.
    pub fn has_begun(&self, context: &StepContext<'_>) -> bool {
        context.recall(&self.key(context, "child")).is_some()
    }

    /// The child's id, chosen once.
    fn id(&self, context: &StepContext<'_>) -> RunId {
        let key = self.key(context, "child");
        if let Some(child) = context.recall_as(&key) {
            return child;
        }
        let child = RunId::new(&context.parts().clock);
        context.record_done(&key, &child);
        child
    }

    /// Sets what is left of the budget aside for the child, for as long as it runs; what the child may spend.
    fn keep(&self, context: &StepContext<'_>) -> StepResult<Budget> {
        let kept = self.key(context, "budget");
        if let Some(left) = context.recall_as::<Budget>(&kept) {
            context.run.keep(&kept, worst(&left));
            return Ok(left);
        }
        let left = context.left(&context.run.input.options.budget);
        context.run.keep(&kept, worst(&left));
        context.record_done(&kept, &left);
        Ok(left)
    }

    fn unkeep(&self, context: &StepContext<'_>) {
        context.run.unkeep(&self.key(context, "budget"));
    }
}

fn worst(left: &Budget) -> Worst {
    Worst { cost: left.cost.unwrap_or(0), tokens: left.tokens.unwrap_or(0), calls: left.calls.unwrap_or(0) }
}

/// Cancels a child and waits a little for its end; what it has spent, and whether it has ended.
async fn cancel(context: &StepContext<'_>, child: RunId) -> StepResult<(Spent, bool)> {
    let (run, store, clock) = (context.run, &context.parts().store, &context.parts().clock);
    run.patiently(|| store.request_cancel(run.tenant, child, context.now())).await?;
    let last = context.now().after(LAST_WORDS);
    loop {
        let found = run.patiently(|| store.find_run(run.tenant, child)).await?;
        // One that was never created spends nothing.
        let Some(found) = found else { return Ok((Spent::default(), true)) };
        let ended = found.state.is_terminal();
        if ended || context.now() >= last {
            return Ok((found.spent, ended));
        }
        clock.sleep(LOOK).await;
    }
}

fn answer(child: RunId, answer: &Value, timed_out: bool) -> StepResult<StepOutput> {
    if let Some(output) = answer.get("ok") {
        return Ok(StepOutput::of(output.clone()));
    }
    if timed_out {
        return Err(StepFailure::new("child_timeout", format!("the child execution {child} did not end in time")).into());
    }
    let error = answer.get("error").cloned().unwrap_or_default();
    let message = error.get("message").and_then(Value::as_str).unwrap_or("it failed");
    Err(StepFailure::new("child_failed", format!("the child execution {child} failed: {message}")).into())
}
