//! `run-flow`: another flow as a child execution. The parent waits and costs nothing meanwhile.

use std::collections::HashMap;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::child::{Child, placed, within_depth};
use super::{Fields, StepBody, StepOutput, StepType, config};
use crate::engine::context::{StepContext, StepFailure, StepResult};
use crate::error::Problems;
use crate::expr::TemplateTree;
use crate::expr::bounds::Misfit;
use crate::model::run::RunInput;
use crate::model::{Flow, Step, Target};

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
    let flow = placed(config.compiled, &config.places);
    fields.finish(inputs.map(|inputs| Body { flow, inputs }))
}

#[async_trait]
impl StepBody for Body {
    async fn run(&self, context: &StepContext<'_>) -> StepResult<StepOutput> {
        within_depth(context)?;
        let flow = self.flow.as_ref().ok_or_else(|| StepFailure::new("flow_not_found", "the flow to run was not found"))?;
        let input = || {
            let inputs = context.fill_tree(&self.inputs)?;
            if let Some(misfit) = Misfit::of(&inputs, context.limits().max_result_bytes) {
                return Err(StepFailure::new(misfit.code(), format!("`inputs`: {misfit}")).into());
            }
            Ok(RunInput { inputs: inputs.as_object().cloned().unwrap_or_default(), ..RunInput::default() })
        };
        Child { at: "", flow, target: Target::Flow(None), timeout: None }.run(context, input).await
    }

    fn children(&self) -> Vec<(String, &Flow)> {
        self.flow.iter().map(|flow| ("/flow".to_owned(), flow)).collect()
    }
}
