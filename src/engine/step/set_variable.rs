//! `set-variable`: a value under a name, for later steps.

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Fields, StepBody, StepOutput, StepType, config};
use crate::engine::context::{StepContext, StepResult};
use crate::error::Problems;
use crate::expr::TemplateTree;
use crate::model::Step;

pub const TYPE: StepType = StepType {
    action: "set-variable",
    summary: "Sets a variable to a fixed or templated value.",
    schema: || schemars::schema_for!(Config),
    compile,
};

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "SetVariableConfig")]
struct Config {
    /// The name that templates read it by.
    variable_name: String,
    /// Any JSON value; strings in it are templates.
    #[serde(default)]
    value: Value,
}

struct Body {
    name: String,
    value: TemplateTree,
}

fn compile(step: &Step) -> Result<Box<dyn StepBody>, Problems> {
    let config: Config = config(step)?;
    let mut fields = Fields::default();
    if config.variable_name.is_empty() || config.variable_name.starts_with('_') {
        fields.problem("variableName", "expected a name that does not begin with `_`");
    }
    let value = fields.tree("value", &config.value);
    fields.finish(value.map(|value| Body { name: config.variable_name, value }))
}

#[async_trait]
impl StepBody for Body {
    async fn run(&self, context: &StepContext<'_>) -> StepResult<StepOutput> {
        let value = context.fill_tree(&self.value)?;
        let variables = Map::from_iter([(self.name.clone(), value.clone())]);
        Ok(StepOutput { variables, ..StepOutput::of(value) })
    }
}
