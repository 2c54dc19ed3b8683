//! `wait-for-signal`: pauses until a named signal arrives from outside. One that came first is kept and taken.

use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Fields, StepBody, StepOutput, StepType, config};
use crate::engine::context::{Ask, Asked, Interrupt, StepContext, StepFailure, StepResult};
use crate::engine::is_signal_name;
use crate::error::Problems;
use crate::expr::Template;
use crate::model::wait::{Resolution, WaitKind};
use crate::model::{Outcome, Step};
use crate::store::{Signal, SignalKey};

pub const TYPE: StepType = StepType {
    action: "wait-for-signal",
    summary: "Pauses until a named signal arrives; its payload is the output.",
    schema: || schemars::schema_for!(Config),
    compile,
};

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "WaitForSignalConfig")]
struct Config {
    /// The signal's name; a template.
    name: String,
    /// How long to wait in milliseconds; 30 days unless said otherwise. Then the step fails with `signal_timeout`.
    #[serde(default)]
    timeout_ms: Option<u64>,
}

/// What names no signal can have are told.
const NAME: &str = "a signal's name has 1 to 200 characters, none of them a control character";

struct Body {
    name: Template,
    lasts: Duration,
}

fn compile(step: &Step) -> Result<Box<dyn StepBody>, Problems> {
    let config: Config = config(step)?;
    let mut fields = Fields::default();
    let lasts = fields.wait("timeoutMs", config.timeout_ms);
    let name = fields.template("name", &config.name);
    if name.as_ref().is_some_and(Template::is_literal) && !is_signal_name(&config.name) {
        fields.problem("name", NAME);
    }
    fields.finish(name.map(|name| Body { name, lasts }))
}

#[async_trait]
impl StepBody for Body {
    async fn run(&self, context: &StepContext<'_>) -> StepResult<StepOutput> {
        let taken = context.key("signal");
        if let Some(Outcome::Done(payload)) = context.recall(&taken) {
            return Ok(StepOutput::of(payload));
        }
        let name = self.name.render_text(&context.scope())?;
        if !is_signal_name(&name) {
            return Err(StepFailure::new("invalid_signal_name", NAME).into());
        }
        let wait_key = context.key("wait");
        if let Some(signal) = first_kept(context, &[&name]).await? {
            // Taken once in the whole run, whichever steps wait for the name.
            context.record(&used(&signal), Outcome::Done(Value::String(context.step_id().to_owned())));
            context.record(&taken, Outcome::Done(signal.payload.clone()));
            if let Some(wait) = context.open_wait(&wait_key) {
                let resolution = Resolution { answer: json!({ "signal": signal.id }), by: "signal".into(), timed_out: false };
                context.answer(&wait, resolution).await?;
            }
            return Ok(StepOutput::of(signal.payload));
        }
        let ask = Ask {
            kind: WaitKind::Signal,
            name: name.clone(),
            shown: json!({ "signal": name, "stepId": context.step_id() }),
            digest: None,
            deadline: Some(context.now().after(self.lasts)),
        };
        match context.ask(&wait_key, ask).await? {
            Asked::Open { .. } => Err(Interrupt::Suspend),
            Asked::Answered { .. } => Err(StepFailure::new("signal_timeout", format!("the signal `{name}` did not arrive in time")).into()),
        }
    }
}

/// Where the journal keeps that a signal was taken.
pub(super) fn used(signal: &Signal) -> String {
    taken_key(&signal.name, &signal.id)
}

fn taken_key(name: &str, id: &str) -> String {
    format!("signals/{name}/{id}")
}

/// Returns the first signal with one of these names that no step has taken. Only its payload is read: a run may store megabytes of other signals.
pub(super) async fn first_kept(context: &StepContext<'_>, names: &[&str]) -> StepResult<Option<Signal>> {
    let (run, store) = (context.run, &context.parts().store);
    let kept = run.patiently(|| store.list_signals(run.tenant, run.run)).await?;
    let is_free = |key: &SignalKey| names.contains(&key.name.as_str()) && context.recall(&taken_key(&key.name, &key.id)).is_none();
    for key in kept.into_iter().filter(is_free) {
        let found = run.patiently(|| store.find_signal(run.tenant, run.run, &key)).await?;
        // Another step may have taken it in the meantime. From here to the caller's journal entry there is no await point.
        if let Some(signal) = found.filter(|_| is_free(&key)) {
            return Ok(Some(signal));
        }
    }
    Ok(None)
}
