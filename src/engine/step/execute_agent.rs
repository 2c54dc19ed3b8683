//! `execute-agent`: an agent as a child execution, asked one message; its answer is the output.

use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::child::{Child, within_depth};
use super::{Fields, StepBody, StepOutput, StepType, config, text};
use crate::engine::context::{StepContext, StepFailure, StepResult};
use crate::error::Problems;
use crate::expr::bounds::Misfit;
use crate::expr::{Template, TemplateTree};
use crate::id::AgentId;
use crate::model::run::RunInput;
use crate::model::{Flow, Step, Target};

pub const TYPE: StepType = StepType {
    action: "execute-agent",
    summary: "Asks an agent, in an execution of its own; its answer is the output.",
    schema: || schemars::schema_for!(Config),
    compile,
};

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ExecuteAgentConfig")]
struct Config {
    /// A saved agent's id.
    #[serde(default)]
    agent_id: Option<String>,
    /// Or the agent itself: `{name, model, systemPrompt, ...}`.
    #[serde(default)]
    agent: Option<Value>,
    /// What the agent is asked; a template.
    message: String,
    /// The variables of its `systemPrompt`; strings in it are templates.
    #[serde(default)]
    inputs: Map<String, Value>,
    /// Milliseconds the agent may take, its pauses included; then it is cancelled.
    #[serde(default)]
    timeout: Option<u64>,
    /// The compiled agent, put in by the document's compiler.
    #[serde(default)]
    #[schemars(skip)]
    compiled: Option<Flow>,
}

struct Body {
    agent: Option<Flow>,
    target: Target,
    message: Template,
    inputs: TemplateTree,
    timeout: Option<Duration>,
}

fn compile(step: &Step) -> Result<Box<dyn StepBody>, Problems> {
    let config: Config = config(step)?;
    let mut fields = Fields::default();
    if config.agent_id.is_none() && config.agent.is_none() {
        fields.problem("agentId", "expected the id of a saved agent, or `agent: {name, model, ...}`");
    }
    let message = fields.template("message", &config.message);
    let inputs = fields.tree("inputs", &Value::Object(config.inputs));
    let timeout = config.timeout.map(|_| fields.wait("timeout", config.timeout));
    let target = Target::Agent(config.agent_id.filter(|_| config.compiled.is_some()).and_then(|id| id.parse::<AgentId>().ok()));
    let agent = config.compiled;
    fields.finish(message.zip(inputs).map(|(message, inputs)| Body { agent, target, message, inputs, timeout }))
}

#[async_trait]
impl StepBody for Body {
    async fn run(&self, context: &StepContext<'_>) -> StepResult<StepOutput> {
        within_depth(context)?;
        let flow = self.agent.as_ref().ok_or_else(|| StepFailure::new("agent_not_found", "the agent to ask was not found"))?;
        let input = || {
            let (message, inputs) = (text(context, &self.message)?, context.fill_tree(&self.inputs)?);
            if let Some(misfit) = Misfit::of(&inputs, context.limits().max_result_bytes) {
                return Err(StepFailure::new(misfit.code(), format!("`inputs`: {misfit}")).into());
            }
            Ok(RunInput {
                inputs: inputs.as_object().cloned().unwrap_or_default(),
                messages: vec![json!({ "role": "user", "content": message })],
                ..RunInput::default()
            })
        };
        Child { at: "", flow, target: self.target, timeout: self.timeout }.run(context, input).await
    }

    fn children(&self) -> Vec<(String, &Flow)> {
        self.agent.iter().map(|flow| ("/agent".to_owned(), flow)).collect()
    }
}
