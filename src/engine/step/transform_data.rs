//! `transform-data`: JavaScript over the flow's variables, in the sandbox.

use async_trait::async_trait;
use serde::Deserialize;

use super::{Fields, SECRETS, StepBody, StepOutput, StepType, config};
use crate::engine::context::{StepContext, StepFailure, StepResult};
use crate::error::Problems;
use crate::expr::script::{ScriptError, validate_script};
use crate::model::Step;

pub const TYPE: StepType = StepType {
    action: "transform-data",
    summary: "Computes a value with JavaScript, without access to anything but the variables.",
    schema: || schemars::schema_for!(Config),
    compile,
};

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "TransformDataConfig")]
struct Config {
    /// A function body; what it returns is the output. Variables are `input.x`, `variables.x` and bare `x`.
    script: String,
    /// Only `javascript`.
    #[serde(default)]
    language: Option<String>,
}

struct Body(String);

fn compile(step: &Step) -> Result<Box<dyn StepBody>, Problems> {
    let config: Config = config(step)?;
    let mut fields = Fields::default();
    if let Some(language) = config.language.as_deref().filter(|language| *language != "javascript") {
        fields.problem("language", format!("`{language}` is not supported; use `javascript`"));
    }
    if names_secret(&config.script) {
        fields.problem("script", SECRETS);
    }
    if let Err(error) = validate_script(&config.script) {
        fields.problem("script", error.to_string());
    }
    fields.finish(Some(Body(config.script)))
}

/// Whether a script has a placeholder of a secret in it, which would stay as it is written.
fn names_secret(script: &str) -> bool {
    script.split("{{").skip(1).map(str::trim_start).any(|rest| rest.starts_with("secret:") || rest.starts_with("secrets."))
}

/// Converts a script's failure into a step's; only failures that the script did not cause can be retried.
pub(super) fn script_failure(error: &ScriptError) -> StepFailure {
    StepFailure { retryable: error.may_pass(), ..StepFailure::new(error.code(), error.to_string()) }
}

#[async_trait]
impl StepBody for Body {
    async fn run(&self, context: &StepContext<'_>) -> StepResult<StepOutput> {
        let variables = context.scope().flatten();
        let value = context.sandbox().run(&self.0, variables).await.map_err(|error| script_failure(&error))?;
        Ok(StepOutput::of(value))
    }
}
