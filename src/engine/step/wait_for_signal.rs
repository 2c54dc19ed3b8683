//! `wait-for-signal`: pauses until a named signal arrives from outside. One that came first is kept and taken.

use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Fields, StepBody, StepOutput, StepType, config};
use crate::engine::context::{Ask, Asked, Interrupt, LONGEST_WAIT, StepContext, StepFailure, StepResult};
use crate::error::Problems;
use crate::expr::Template;
use crate::model::wait::{Resolution, WaitKind};
use crate::model::{Outcome, Step};
use crate::store::{Resolve, Signal};

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

struct Body {
    name: Template,
    lasts: Duration,
}

fn compile(step: &Step) -> Result<Box<dyn StepBody>, Problems> {
    let config: Config = config(step)?;
    let mut fields = Fields::default();
    let lasts = config.timeout_ms.map_or(LONGEST_WAIT, Duration::from_millis);
    if lasts > LONGEST_WAIT {
        fields.problem("timeoutMs", format!("a run may wait {} days at most", LONGEST_WAIT.as_secs() / 86_400));
    }
    let name = fields.template("name", &config.name);
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
        let wait_key = context.key("wait");
        if let Some(signal) = first_kept(context, &name).await? {
            // Taken once in the whole run, whichever steps wait for the name.
            context.record(&used(&signal), Outcome::Done(Value::String(context.step_id().to_owned())));
            context.record(&taken, Outcome::Done(signal.payload.clone()));
            if let Some(wait) = context.open_wait(&wait_key) {
                let resolution = Resolution { answer: json!({ "signal": signal.id }), by: "signal".into(), timed_out: false };
                let answer = Resolve { tenant: wait.tenant, wait: wait.id, resolution, now: context.now() };
                context.parts().store.resolve_waits(vec![answer]).await?;
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

fn used(signal: &Signal) -> String {
    format!("signals/{}/{}", signal.name, signal.id)
}

async fn first_kept(context: &StepContext<'_>, name: &str) -> StepResult<Option<Signal>> {
    let kept = context.parts().store.kept_signals(context.run.tenant, context.run.run).await?;
    Ok(kept.into_iter().find(|signal| signal.name == name && context.recall(&used(signal)).is_none()))
}
