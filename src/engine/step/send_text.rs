//! `send-text`: a text message over a service.

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::json;

use super::{Fields, StepBody, StepOutput, StepType, config, service, text};
use crate::engine::context::{StepContext, StepFailure, StepResult};
use crate::error::Problems;
use crate::expr::Template;
use crate::model::Step;
use crate::tool::services::ServiceKind;

pub const TYPE: StepType =
    StepType { action: "send-text", summary: "Sends a text message to a phone.", schema: || schemars::schema_for!(Config), compile };

/// Characters of one message, which goes out in several parts.
const LONGEST: usize = 1_600;

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "SendTextConfig")]
struct Config {
    /// The number or name it comes from; a template, as is every text here.
    from: String,
    /// The phone's number, as `+4915112345678`.
    to: String,
    /// At most 1,600 characters.
    message: String,
    /// `twilio`, `telnyx` or another of the server's text services; the first that is configured when absent.
    #[serde(default)]
    provider: Option<String>,
}

struct Body {
    from: Template,
    to: Template,
    message: Template,
    provider: Option<String>,
}

fn compile(step: &Step) -> Result<Box<dyn StepBody>, Problems> {
    let config: Config = config(step)?;
    let mut fields = Fields::default();
    let from = fields.template("from", &config.from);
    let to = fields.template("to", &config.to);
    let message = fields.template("message", &config.message);
    let provider = config.provider;
    fields.finish(from.zip(to).zip(message).map(|((from, to), message)| Body { from, to, message, provider }))
}

#[async_trait]
impl StepBody for Body {
    async fn run(&self, context: &StepContext<'_>) -> StepResult<StepOutput> {
        let text = |template: &Template| text(context, template).map(|text| text.trim().to_owned());
        let (from, to, message) = (text(&self.from)?, text(&self.to)?, text(&self.message)?);
        for (name, value) in [("from", &from), ("to", &to), ("message", &message)] {
            let length = value.chars().count();
            if value.is_empty() || length > LONGEST {
                let why = format!("`{name}` came to {length} characters: expected 1 to {LONGEST}");
                return Err(StepFailure::new("invalid_text_message", why).into());
            }
        }
        let service = context.parts().services.find(ServiceKind::Text, self.provider.as_deref(), &context.run.keys)?;
        let values = json!({ "from": from, "to": to, "message": message });
        let answer = service::ask(context, service, "text", values.as_object().unwrap_or(&serde_json::Map::new()), &[]).await?;
        // The message is sent, whether or not the service's answer can be read.
        let id = service.read(&answer).unwrap_or_default().into_iter().next().and_then(|read| read.get("id").cloned());
        Ok(StepOutput::of(json!({ "id": id, "provider": service.name, "to": to })))
    }
}
