//! `conditional`: chooses a branch. The branches' own steps are steps of the flow, guarded by this one.

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Fields, SECRETS, StepBody, StepOutput, StepType, config};
use crate::engine::context::{StepContext, StepResult};
use crate::error::Problems;
use crate::expr::Condition;
use crate::model::Step;

pub const TYPE: StepType =
    StepType { action: "conditional", summary: "Runs one of two lists of steps.", schema: || schemars::schema_for!(Config), compile };

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ConditionalConfig")]
struct Config {
    /// A JavaScript expression over the flow's variables.
    condition: String,
    /// Steps to run when it holds.
    #[serde(default, rename = "trueSteps")]
    _true_steps: Vec<Value>,
    /// Steps to run when it does not.
    #[serde(default, rename = "falseSteps")]
    _false_steps: Vec<Value>,
}

struct Body(Condition);

fn compile(step: &Step) -> Result<Box<dyn StepBody>, Problems> {
    let config: Config = config(step)?;
    let mut fields = Fields::default();
    let condition = Condition::parse(&config.condition).map_err(|error| fields.problem("condition", error.to_string())).ok();
    if condition.as_ref().is_some_and(Condition::uses_secrets) {
        fields.problem("condition", SECRETS);
    }
    fields.finish(condition.map(Body))
}

#[async_trait]
impl StepBody for Body {
    async fn run(&self, context: &StepContext<'_>) -> StepResult<StepOutput> {
        let holds = self.0.eval(&context.scope(), &context.sandbox()).await?;
        Ok(StepOutput { branch: Some(holds), ..StepOutput::of(json!({ "branch": holds })) })
    }
}
