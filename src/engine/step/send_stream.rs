//! `send-stream`: text into the caller's stream in the middle of a flow.

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::json;

use super::{Fields, StepBody, StepOutput, StepType, config, text_of};
use crate::engine::context::{StepContext, StepResult};
use crate::error::Problems;
use crate::expr::Template;
use crate::model::Step;
use crate::model::event::Event;

pub const TYPE: StepType = StepType {
    action: "send-stream",
    summary: "Sends a text or a value to the caller's stream.",
    schema: || schemars::schema_for!(Config),
    compile,
};

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "SendStreamConfig")]
struct Config {
    /// The variable to send.
    #[serde(default)]
    source_variable: Option<String>,
    /// A text to send instead; a template.
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    stream_type: StreamType,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Default, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
enum StreamType {
    /// A text block.
    #[default]
    Text,
    /// A `custom` event named `dispatch.stream` with the value in its type.
    Event,
}

struct Body {
    text: Template,
    kind: StreamType,
}

fn compile(step: &Step) -> Result<Box<dyn StepBody>, Problems> {
    let config: Config = config(step)?;
    let mut fields = Fields::default();
    let text = match (config.source_variable, config.message) {
        (Some(name), None) => fields.template("sourceVariable", &format!("{{{{{name}}}}}")),
        (None, Some(message)) => fields.template("message", &message),
        _ => {
            fields.problem("", "expected either `sourceVariable` or `message`");
            None
        }
    };
    fields.finish(text.map(|text| Body { text, kind: config.stream_type }))
}

#[async_trait]
impl StepBody for Body {
    async fn run(&self, context: &StepContext<'_>) -> StepResult<StepOutput> {
        let value = context.fill(&self.text)?;
        match self.kind {
            StreamType::Event => {
                let value = json!({ "stepId": context.step_id(), "value": value });
                context.emit(Event::Custom { name: "dispatch.stream".into(), value });
            }
            StreamType::Text => {
                let text = text_of(&value);
                let id = context.block("text", 0);
                context.emit(Event::TextStart { id: id.clone(), role: "assistant".into(), step_id: Some(context.step_id().into()) });
                context.emit(Event::TextDelta { id: id.clone(), delta: text.clone() });
                context.emit(Event::TextComplete { id, text });
            }
        }
        Ok(StepOutput::of(value))
    }
}
