//! `wait-for-event`: pauses until an event is published that it may take. One that was published before is kept and taken.

use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Fields, SECRETS, StepBody, StepOutput, StepType, config};
use crate::engine::bus::{Bus, Published, is_event_name};
use crate::engine::context::{Ask, Asked, Interrupt, StepContext, StepFailure, StepResult};
use crate::error::Problems;
use crate::expr::{Condition, Template};
use crate::model::wait::{Resolution, WaitKind};
use crate::model::{Outcome, Step};
use crate::store::Kept;

pub const TYPE: StepType = StepType {
    action: "wait-for-event",
    summary: "Pauses until an event of a name is published, and takes it.",
    schema: || schemars::schema_for!(Config),
    compile,
};

/// What the wait is called; no signal's name begins like this.
const PREFIX: &str = "$event/";
const NAME: &str = "an event's name has 1 to 200 characters, none of them a control character";
/// How long a waiting is remembered after its end.
const GRACE: Duration = Duration::from_secs(24 * 3_600);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "EventTimeout")]
enum OnTimeout {
    /// The step fails with `event_timeout`.
    #[default]
    Fail,
    /// The step's output is null.
    Continue,
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "WaitForEventConfig")]
struct Config {
    /// The event's name; a template.
    name: String,
    /// A JavaScript expression over the flow's variables and `event` (`id`, `name`, `payload`): events for which it does not hold are left to others.
    #[serde(default, rename = "match")]
    matches: Option<String>,
    /// How long to wait in milliseconds; 30 days unless said otherwise.
    #[serde(default)]
    timeout_ms: Option<u64>,
    #[serde(default)]
    on_timeout: OnTimeout,
}

struct Body {
    name: Template,
    matches: Option<Condition>,
    lasts: Duration,
    on_timeout: OnTimeout,
}

fn compile(step: &Step) -> Result<Box<dyn StepBody>, Problems> {
    let config: Config = config(step)?;
    let mut fields = Fields::default();
    let lasts = fields.wait("timeoutMs", config.timeout_ms);
    let name = fields.template("name", &config.name);
    if name.as_ref().is_some_and(Template::is_literal) && !is_event_name(&config.name) {
        fields.problem("name", NAME);
    }
    let matches = config.matches.and_then(|text| Condition::parse(&text).map_err(|error| fields.problem("match", error.to_string())).ok());
    if matches.as_ref().is_some_and(Condition::uses_secrets) {
        fields.problem("match", SECRETS);
    }
    fields.finish(name.map(|name| Body { name, matches, lasts, on_timeout: config.on_timeout }))
}

fn shown(event: &Kept<Published>) -> Value {
    json!({ "id": event.id, "name": event.body.name, "payload": event.body.payload, "publishedAt": event.created_at })
}

impl Body {
    async fn fits(&self, context: &StepContext<'_>, event: &Kept<Published>) -> StepResult<bool> {
        let Some(condition) = &self.matches else { return Ok(true) };
        let own = Map::from_iter([("event".to_owned(), shown(event))]);
        Ok(condition.eval(&context.scope().within(&own), &context.parts().sandbox).await?)
    }

    /// Takes the first event that fits, or the one that this very waiting took before a crash.
    async fn take(&self, context: &StepContext<'_>, name: &str, waiting: &str) -> StepResult<Option<Value>> {
        let (run, bus) = (context.run, Bus::new(context.parts(), context.run.tenant));
        if let Some(taken) = run.patiently(|| bus.taken(waiting)).await? {
            return Ok(Some(shown(&taken)));
        }
        let mut moved = true;
        while std::mem::take(&mut moved) {
            for event in run.patiently(|| bus.open(name)).await? {
                if !self.fits(context, &event).await? {
                    continue;
                }
                if run.patiently(|| bus.take(&event, waiting)).await? {
                    return Ok(Some(shown(&event)));
                }
                // Perhaps it was this one, and the answer was lost.
                if let Some(taken) = run.patiently(|| bus.taken(waiting)).await? {
                    return Ok(Some(shown(&taken)));
                }
                // Somebody took it, or only noted something about it: what is there now is looked at anew.
                moved = true;
                break;
            }
        }
        Ok(None)
    }
}

#[async_trait]
impl StepBody for Body {
    async fn run(&self, context: &StepContext<'_>) -> StepResult<StepOutput> {
        let (run, bus) = (context.run, Bus::new(context.parts(), context.run.tenant));
        let taken = context.key("event");
        if let Some(Outcome::Done(event)) = context.recall(&taken) {
            return Ok(StepOutput::of(event));
        }
        let name = self.name.render_text(&context.scope())?;
        if !is_event_name(&name) {
            return Err(StepFailure::new("invalid_event_name", NAME).into());
        }
        let wait_key = context.key("wait");
        let waiting = format!("{}/{wait_key}", run.run);
        let deadline = context.open_wait(&wait_key).and_then(|wait| wait.deadline).unwrap_or_else(|| context.now().after(self.lasts));
        context.settle().await;
        run.patiently(|| bus.wait(run.run, &waiting, &name, deadline.after(GRACE))).await?;
        if let Some(event) = self.take(context, &name, &waiting).await? {
            context.record(&taken, Outcome::Done(event.clone()));
            if let Some(wait) = context.open_wait(&wait_key) {
                let resolution = Resolution { answer: json!({ "event": event["id"] }), by: "event".into(), timed_out: false };
                context.answer(&wait, resolution).await?;
            }
            run.patiently(|| bus.leave(&waiting)).await?;
            return Ok(StepOutput::of(event));
        }
        let ask = Ask {
            kind: WaitKind::Signal,
            name: format!("{PREFIX}{name}"),
            shown: json!({ "event": name, "stepId": context.step_id() }),
            digest: None,
            deadline: Some(deadline),
        };
        match context.ask(&wait_key, ask).await? {
            Asked::Open { .. } => Err(Interrupt::Suspend),
            Asked::Answered { .. } => {
                run.patiently(|| bus.leave(&waiting)).await?;
                match self.on_timeout {
                    OnTimeout::Continue => {
                        context.record(&taken, Outcome::Done(Value::Null));
                        Ok(StepOutput::of(Value::Null))
                    }
                    OnTimeout::Fail => {
                        Err(StepFailure::new("event_timeout", format!("the event `{name}` was not published in time")).into())
                    }
                }
            }
        }
    }
}
