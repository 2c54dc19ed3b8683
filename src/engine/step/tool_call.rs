//! `tool-call`: one exact tool, without a model.

use std::borrow::Cow;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::tool_run::{Asking, Invocation, child_of};
use super::{Fields, StepBody, StepOutput, StepType, config};
use crate::engine::context::{Interrupt, LONGEST_WAIT, StepContext, StepFailure, StepResult};
use crate::error::Problems;
use crate::expr::TemplateTree;
use crate::model::wait::Approver;
use crate::model::{Flow, Step};
use crate::tool::{Definition, Tool};

pub const TYPE: StepType = StepType {
    action: "tool-call",
    summary: "Calls one tool with given parameters; it may ask for approval or run in the caller.",
    schema: || schemars::schema_for!(Config),
    compile,
};

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ToolCallConfig")]
struct Config {
    /// The tool, defined in place.
    #[serde(default)]
    tool: Option<Definition>,
    /// A saved tool's id.
    #[serde(default)]
    tool_id: Option<String>,
    /// An object whose strings are templates, or one template that comes to an object: `"{{arguments}}"`.
    #[serde(default = "no_parameters")]
    parameters: Value,
    /// A person must approve the call; `timeout` in milliseconds, `approver` `owner` or `end-user`.
    #[serde(default)]
    approval: Option<Approval>,
}

/// How a person is asked when nothing more is said.
const ASKING: Asking = Asking { lasts: LONGEST_WAIT, approver: Approver::Owner };

fn no_parameters() -> Value {
    Value::Object(Map::new())
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(untagged, expecting = "expected true, false or {timeout, approver}")]
enum Approval {
    Asked(bool),
    Policy {
        #[serde(default)]
        timeout: Option<u64>,
        #[serde(default)]
        approver: Approver,
    },
}

struct Body {
    tool: Tool,
    /// What the tool runs, if it runs something.
    child: Option<Flow>,
    parameters: TemplateTree,
    approval: Option<Asking>,
}

fn compile(step: &Step) -> Result<Box<dyn StepBody>, Problems> {
    let config: Config = config(step)?;
    let mut fields = Fields::default();
    if let Some(id) = &config.tool_id
        && config.tool.is_none()
    {
        fields.problem("toolId", format!("no saved tool `{id}`; define the tool in place under `tool`"));
    } else if config.tool.is_none() {
        fields.problem("tool", "expected a tool definition");
    }
    let tool = config.tool.and_then(|definition| match Tool::compile(definition) {
        Ok(tool) => Some(tool),
        Err(faults) => {
            faults.0.into_iter().for_each(|fault| fields.0.add(format!("/tool{}", fault.pointer), fault.message));
            None
        }
    });
    if !config.parameters.is_object() && !config.parameters.is_string() {
        fields.problem("parameters", "expected an object, or a template that comes to one");
    }
    let parameters = fields.tree("parameters", &config.parameters);
    let asked = match config.approval {
        Some(Approval::Policy { timeout, approver }) => Some(Asking { lasts: fields.wait("approval/timeout", timeout), approver }),
        Some(Approval::Asked(true)) => Some(ASKING),
        Some(Approval::Asked(false)) | None => None,
    };
    fields.finish(tool.zip(parameters).map(|(tool, parameters)| {
        let approval = asked.or(tool.definition.requires_approval.then_some(ASKING));
        Body { child: child_of(&tool.definition), tool, parameters, approval }
    }))
}

#[async_trait]
impl StepBody for Body {
    async fn run(&self, context: &StepContext<'_>) -> StepResult<StepOutput> {
        // The exact arguments are kept: what was approved is what runs, whatever other steps do meanwhile.
        let key = context.key("arguments");
        let arguments: Map<String, Value> = match context.recall_as(&key) {
            Some(arguments) => arguments,
            None => {
                let Value::Object(given) = context.fill_tree(&self.parameters)? else {
                    return Err(StepFailure::new("invalid_tool_parameters", "`parameters` did not come to an object").into());
                };
                let arguments = self.tool.arguments(given, |name| context.variable(name).cloned());
                context.record_done(&key, &arguments);
                arguments
            }
        };
        if let Some(why) = self.tool.check(&Value::Object(arguments.clone()), &context.sandbox()).await? {
            let message = format!("the parameters do not fit the tool's schema: {why}");
            return Err(StepFailure::new("invalid_tool_parameters", message).into());
        }
        let id = format!("call_{}", context.step_id());
        let invocation = Invocation {
            id,
            tool: &self.tool,
            arguments,
            reason: None,
            turn: 1,
            approval: self.approval,
            child: self.child.as_ref().map(Cow::Borrowed),
        };
        let outcome = match invocation.run_traced(context, "call").await {
            Err(Interrupt::Suspend) => {
                invocation.announce(context, "call");
                return Err(Interrupt::Suspend);
            }
            outcome => outcome?,
        };
        match (outcome.error, outcome.not_json) {
            (Some(error), _) => Err(StepFailure::new("tool_failed", error).into()),
            // A model can use such a text; later steps would read nothing from it.
            (None, Some(why)) => Err(StepFailure::new("reply_not_json", why).into()),
            (None, None) => Ok(StepOutput::of(outcome.result)),
        }
    }

    fn children(&self) -> Vec<(String, &Flow)> {
        let field = if self.tool.definition.tool_type == "flow" { "flow" } else { "agent" };
        self.child.iter().map(|flow| (format!("/tool/config/{field}"), flow)).collect()
    }
}
