//! `run-flow`: another flow as a child run, with its own journal and log. The parent waits and costs nothing meanwhile.
//!
//! The child gets what is left of the parent's budget, set aside until it ends, and ends with its parent.

use std::collections::HashMap;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Fields, StepBody, StepOutput, StepType, config};
use crate::engine::Engine;
use crate::engine::budget::Worst;
use crate::engine::context::{Ask, Asked, Interrupt, StepContext, StepFailure, StepResult};
use crate::error::Problems;
use crate::expr::TemplateTree;
use crate::expr::bounds::Misfit;
use crate::id::{RunId, WaitId};
use crate::model::event::Event;
use crate::model::run::{Budget, Parent, RunInput, Spent};
use crate::model::wait::WaitKind;
use crate::model::{Flow, Step, Target};
use crate::store::NewRun;

pub const TYPE: StepType = StepType {
    action: "run-flow",
    summary: "Runs another flow as a child execution; its final output is the output.",
    schema: || schemars::schema_for!(Config),
    compile,
};

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "RunFlowConfig")]
struct Config {
    /// A saved flow's id.
    #[serde(default)]
    flow_id: Option<String>,
    /// Or the flow itself: `{name, steps}`.
    #[serde(default)]
    flow: Option<Value>,
    /// The child's variables; strings in it are templates.
    #[serde(default)]
    inputs: Map<String, Value>,
    /// The compiled flow, put in by the document's compiler.
    #[serde(default)]
    #[schemars(skip)]
    compiled: Option<Flow>,
    /// Where each of its steps stands in `flow`, for faults.
    #[serde(default)]
    #[schemars(skip)]
    places: HashMap<String, String>,
}

/// Runs within runs.
const MAX_DEPTH: u32 = 8;

struct Body {
    flow: Option<Flow>,
    inputs: TemplateTree,
}

fn compile(step: &Step) -> Result<Box<dyn StepBody>, Problems> {
    let config: Config = config(step)?;
    let mut fields = Fields::default();
    if config.flow_id.is_none() && config.flow.is_none() {
        fields.problem("flow", "expected a flow: `flow: {name, steps}`, or the `flowId` of a saved one");
    }
    let inputs = fields.tree("inputs", &Value::Object(config.inputs));
    let mut flow = config.compiled;
    for step in flow.iter_mut().flat_map(|flow| &mut flow.steps) {
        step.pointer = config.places.get(&step.id).cloned().unwrap_or_default();
    }
    fields.finish(inputs.map(|inputs| Body { flow, inputs }))
}

#[async_trait]
impl StepBody for Body {
    async fn run(&self, context: &StepContext<'_>) -> StepResult<StepOutput> {
        // Saved flows are put in so deep and no deeper; below that there is none, however the step names it.
        if context.run.input.options.depth + 1 > MAX_DEPTH {
            return Err(StepFailure::new("nesting_too_deep", format!("flows may run within flows {MAX_DEPTH} deep")).into());
        }
        let flow = self.flow.as_ref().ok_or_else(|| StepFailure::new("flow_not_found", "the flow to run was not found"))?;
        let child = self.child(context)?;
        let ask = Ask {
            kind: WaitKind::Child,
            name: child.to_string(),
            shown: json!({ "executionId": child, "stepId": context.step_id() }),
            digest: None,
            deadline: None,
        };
        match context.ask(&context.key("wait"), ask).await? {
            Asked::Open { wait } => {
                self.start(context, flow, child, wait).await?;
                Err(Interrupt::Suspend)
            }
            Asked::Answered { resolution, .. } => {
                context.unkeep();
                if context.recall(&context.key("spent")).is_none() {
                    let spent: Spent =
                        resolution.answer.get("spent").cloned().and_then(|spent| serde_json::from_value(spent).ok()).unwrap_or_default();
                    // Time is the parent's own to count.
                    context.spend(&Spent { duration_ms: 0, ..spent });
                    context.record_done(&context.key("spent"), &spent);
                }
                answer(child, &resolution.answer, resolution.timed_out)
            }
        }
    }

    fn flow(&self) -> Option<&Flow> {
        self.flow.as_ref()
    }
}

fn answer(child: RunId, answer: &Value, timed_out: bool) -> StepResult<StepOutput> {
    if let Some(output) = answer.get("ok") {
        let shown = json!({ "executionId": child, "output": output });
        return Ok(StepOutput { shown: Some(shown), ..StepOutput::of(output.clone()) });
    }
    if timed_out {
        return Err(StepFailure::new("child_timeout", format!("the child execution {child} did not end in time")).into());
    }
    let error = answer.get("error").cloned().unwrap_or_default();
    let message = error.get("message").and_then(Value::as_str).unwrap_or("it failed");
    Err(StepFailure::new("child_failed", format!("the child execution {child} failed: {message}")).into())
}

impl Body {
    /// The child's id, chosen once.
    fn child(&self, context: &StepContext<'_>) -> StepResult<RunId> {
        let key = context.key("child");
        if let Some(child) = context.recall_as(&key) {
            return Ok(child);
        }
        let child = RunId::new(&context.parts().clock);
        context.record_done(&key, &child);
        Ok(child)
    }

    /// Creates the child once its wait is durable. Doing it again finds it created.
    async fn start(&self, context: &StepContext<'_>, flow: &Flow, child: RunId, wait: WaitId) -> StepResult<()> {
        let run = context.run;
        let engine = Engine(run.engine.clone());
        let plan = engine.check(flow)?;
        let budget = context.keep(&run.input.options.budget)?;
        run.log.commit().await;
        let inputs = self.inputs.render(&context.scope())?;
        context.unresolved(inputs.unresolved);
        if let Some(misfit) = Misfit::of(&inputs.value) {
            return Err(StepFailure::new(misfit.code(), format!("`inputs`: {misfit}")).into());
        }
        let mut options = run.input.options.clone();
        options.depth += 1;
        options.budget = budget;
        options.source = "child".into();
        let input = RunInput {
            inputs: inputs.value.as_object().cloned().unwrap_or_default(),
            record: run.input.record.clone(),
            options,
            ..RunInput::default()
        };
        let now = context.now();
        let new = NewRun {
            id: child,
            tenant: run.tenant,
            flow: plan.blob.clone(),
            target: Target::Flow(None),
            flow_name: plan.flow.name.clone(),
            input,
            sealed: engine.seal(&run.secrets, run.tenant, child)?,
            parent: Some(Parent { run: run.run, wait }),
            key: None,
            lease: None,
            created_at: now,
            reserved: 0,
            journal: Vec::new(),
            segment: None,
        };
        run.patiently(|| context.parts().store.create_run(new.clone())).await?;
        let told = context.key("told");
        if context.recall(&told).is_none() {
            let value = json!({ "stepId": context.step_id(), "executionId": child, "flowName": plan.flow.name });
            context.emit(Event::Custom { name: "dispatch.child_started".into(), value });
            context.record_done(&told, &true);
        }
        Ok(())
    }
}

impl StepContext<'_> {
    /// Sets what is left of the budget aside for a child, for as long as it runs; what the child may spend.
    fn keep(&self, budget: &Budget) -> StepResult<Budget> {
        let kept = self.key("budget");
        if let Some(left) = self.recall_as::<Budget>(&kept) {
            self.keep_again(&left);
            return Ok(left);
        }
        let left = self.left(budget);
        self.keep_again(&left);
        self.record_done(&kept, &left);
        Ok(left)
    }

    fn keep_again(&self, left: &Budget) {
        let worst = Worst { cost: left.cost.unwrap_or(0), tokens: left.tokens.unwrap_or(0), calls: left.calls.unwrap_or(0) };
        self.run.keep(&self.key("budget"), worst);
    }

    fn unkeep(&self) {
        self.run.unkeep(&self.key("budget"));
    }
}
