//! `send-event`: tells the caller's stream, and an address if there is one, that something happened.
//!
//! What goes to an address is a CloudEvent 1.0 in its structured form (<https://cloudevents.io>), with an id that is the same however often it is sent.

use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::http::perform_within;
use super::{Fields, StepBody, StepOutput, StepType, config, text};
use crate::engine::context::{StepContext, StepFailure, StepResult};
use crate::error::Problems;
use crate::expr::{Template, TemplateTree};
use crate::model::Step;
use crate::model::event::Event;
use crate::tool::Effect;
use crate::tool::http::{AuthConfig, HttpConfig, HttpTemplate, Mode};

pub const TYPE: StepType = StepType {
    action: "send-event",
    summary: "Tells the stream, and an address if given, of an event.",
    schema: || schemars::schema_for!(Config),
    compile,
};

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "SendEventConfig")]
struct Config {
    /// The event's name, as `order.shipped`; a template.
    event_type: String,
    /// What there is to say; strings in it are templates.
    #[serde(default)]
    payload: Value,
    /// Where it is sent as a CloudEvent; a template that may read secrets, as are the headers.
    #[serde(default)]
    url: Option<String>,
    #[serde(default)]
    headers: Map<String, Value>,
    #[serde(default)]
    auth: Option<AuthConfig>,
}

struct Body {
    kind: Template,
    payload: TemplateTree,
    call: Option<HttpTemplate>,
    timeout: Duration,
}

fn compile(step: &Step) -> Result<Box<dyn StepBody>, Problems> {
    let config: Config = config(step)?;
    let mut fields = Fields::default();
    let kind = fields.template("eventType", &config.event_type);
    let payload = fields.tree("payload", &config.payload);
    let call = config.url.and_then(|url| {
        let mut headers = config.headers;
        headers.insert("content-type".into(), "application/cloudevents+json".into());
        let config = HttpConfig {
            url,
            method: "POST".into(),
            headers,
            // The receiver knows it by its id.
            effect: Some(Effect::Idempotent),
            body: Some("{{_event}}".into()),
            auth: config.auth,
            ..HttpConfig::default()
        };
        match HttpTemplate::compile(&config, Mode::Step) {
            Ok(call) => Some(call),
            Err(faults) => {
                fields.0.0.extend(faults.0);
                None
            }
        }
    });
    let timeout = Duration::from_millis(step.timeout_ms);
    fields.finish(kind.zip(payload).map(|(kind, payload)| Body { kind, payload, call, timeout }))
}

#[async_trait]
impl StepBody for Body {
    async fn run(&self, context: &StepContext<'_>) -> StepResult<StepOutput> {
        let (kind, payload) = (text(context, &self.kind)?.trim().to_owned(), context.fill_tree(&self.payload)?);
        if kind.is_empty() || kind.len() > 255 || kind.contains(char::is_control) {
            return Err(StepFailure::new("invalid_event", format!("`eventType` came to `{kind}`: expected 1 to 255 characters")).into());
        }
        let told = context.key("told");
        if context.recall(&told).is_none() {
            let value = json!({ "stepId": context.step_id(), "eventType": kind, "payload": payload });
            context.emit(Event::Custom { name: "dispatch.event".into(), value });
            context.record_done(&told, &context.now());
        }
        if let Some(call) = &self.call {
            let event = json!({
                "specversion": "1.0", "id": context.idempotency_key("event"), "source": format!("/executions/{}", context.run.run),
                "type": kind, "time": context.recall_as::<crate::clock::Timestamp>(&told), "datacontenttype": "application/json", "data": payload,
            });
            let own = Map::from_iter([("_event".to_owned(), event)]);
            perform_within(context, "event", call, self.timeout, &own).await?;
        }
        Ok(StepOutput::of(json!({ "eventType": kind, "payload": payload })))
    }
}
