//! `publish-event`: an event for runs that wait for it, now or later, and for workflows that it triggers.

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Fields, StepBody, StepOutput, StepType, config, text};
use crate::engine::bus::{Bus, is_event_name};
use crate::engine::context::{StepContext, StepFailure, StepResult};
use crate::error::Problems;
use crate::expr::{Template, TemplateTree};
use crate::id::EventId;
use crate::model::Step;
use crate::tool::Effect;

pub const TYPE: StepType = StepType {
    action: "publish-event",
    summary: "Publishes an event: one run that waits for it takes it, and workflows that it triggers begin.",
    schema: || schemars::schema_for!(Config),
    compile,
};

#[derive(Deserialize, schemars::JsonSchema)]
#[schemars(rename = "PublishEventConfig")]
struct Config {
    /// The event's name; a template.
    name: String,
    /// What there is to say; strings in it are templates.
    #[serde(default)]
    payload: Value,
}

struct Body {
    name: Template,
    payload: TemplateTree,
}

fn compile(step: &Step) -> Result<Box<dyn StepBody>, Problems> {
    let config: Config = config(step)?;
    let mut fields = Fields::default();
    let name = fields.template("name", &config.name);
    if name.as_ref().is_some_and(Template::is_literal) && !is_event_name(&config.name) {
        fields.problem("name", "an event's name has 1 to 200 characters, none of them a control character");
    }
    let payload = fields.tree("payload", &config.payload);
    fields.finish(name.zip(payload).map(|(name, payload)| Body { name, payload }))
}

#[async_trait]
impl StepBody for Body {
    async fn run(&self, context: &StepContext<'_>) -> StepResult<StepOutput> {
        let (name, payload) = (text(context, &self.name)?, context.fill_tree(&self.payload)?);
        if !is_event_name(&name) {
            return Err(StepFailure::new("invalid_event_name", format!("`name` came to `{name}`, which is no event's name")).into());
        }
        let run = context.run;
        let id: EventId = context.chosen("id", || EventId::new(&context.parts().clock)).await;
        let bus = Bus::new(context.parts(), run.tenant);
        let publish = || async {
            // No step fails because the database is away.
            run.patiently(|| bus.publish(id, &name, payload.clone())).await?;
            Ok(json!({ "id": id, "name": name }))
        };
        context.effect(&context.key("published"), Effect::Idempotent, publish).await.map(StepOutput::of)
    }
}
