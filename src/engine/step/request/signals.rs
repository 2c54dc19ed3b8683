//! Waiting for signals: one, the first of several, or all of them. One that came before it was waited for is taken.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Fields, Wait, duration, emit};
use crate::engine::context::{Ask, Asked, Interrupt, LONGEST_WAIT, StepContext, StepFailure, StepResult};
use crate::engine::is_signal_name;
use crate::engine::step::wait_for_signal::{first_kept, used};
use crate::model::Outcome;
use crate::model::wait::{Resolution, WaitKind};

/// What happens when no signal came in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "WorkflowOnTimeout")]
pub(super) enum OnTimeout {
    Fail,
    Reject,
    Skip,
    Continue,
}

/// Compiled.
#[derive(Debug, Clone)]
pub(super) struct Signals {
    names: Vec<String>,
    /// All of them, or the first.
    all: bool,
    lasts: Duration,
    on_timeout: OnTimeout,
}

/// Names that one step may wait for.
const MOST: usize = 50;

pub(super) fn compile(fields: &mut Fields, wait: &Wait) -> Option<Signals> {
    let given = [wait.signal.is_some(), wait.any.is_some(), wait.all.is_some()];
    if given.into_iter().filter(|given| *given).count() != 1 {
        fields.problem("wait", "expected one of `signal`, `any` and `all`");
        return None;
    }
    let (name, names) = match (&wait.signal, &wait.any, &wait.all) {
        (Some(name), ..) => ("wait/signal", vec![name.clone()]),
        (_, Some(names), _) => ("wait/any", names.clone()),
        (_, _, names) => ("wait/all", names.clone().unwrap_or_default()),
    };
    if names.is_empty() || names.len() > MOST {
        fields.problem(name, format!("expected 1 to {MOST} names"));
    }
    for (index, _) in names.iter().enumerate().filter(|(index, twice)| names.iter().take(*index).any(|before| before == *twice)) {
        fields.problem(&format!("{name}/{index}"), "the name stands here twice");
    }
    for wrong in names.iter().filter(|name| !is_signal_name(name) || name.starts_with('$')) {
        fields.problem(name, format!("`{wrong}` is no signal's name: 1 to 200 characters, no control characters, no `$` at the beginning"));
    }
    let lasts = duration(fields, "wait/timeout", wait.timeout.as_deref(), LONGEST_WAIT).unwrap_or(LONGEST_WAIT);
    Some(Signals { names, all: wait.all.is_some(), lasts, on_timeout: wait.on_timeout.unwrap_or(OnTimeout::Fail) })
}

impl Signals {
    /// One signal that a service asked for.
    pub fn one(name: String, lasts: Duration) -> Self {
        Self { names: vec![name], all: false, lasts, on_timeout: OnTimeout::Fail }
    }

    /// Takes the signals, or suspends. What came is put into the step's `value` as `signal` (the last one) and `signals`.
    pub async fn take(&self, context: &StepContext<'_>, at: &str, value: &mut Map<String, Value>) -> StepResult<()> {
        let mut taken: Map<String, Value> = context.recall_as(&context.key(&format!("{at}/signals"))).unwrap_or_default();
        let before = taken.len();
        let wanted = if self.all { self.names.len() } else { 1 };
        while taken.len() < wanted {
            let open: Vec<&str> = self.names.iter().map(String::as_str).filter(|name| !taken.contains_key(*name)).collect();
            let Some(signal) = first_kept(context, &open).await? else { break };
            // Taken once in the whole run, whichever steps wait for the name.
            context.record(&used(&signal), Outcome::Done(Value::String(context.step_id().to_owned())));
            let told = json!({ "stepId": context.step_id(), "signal": signal.name, "body": signal.payload });
            emit(context, "dispatch.signal", told);
            let received = json!({ "name": signal.name, "body": signal.payload, "received_at": context.now() });
            taken.insert(signal.name, received);
        }
        if taken.len() > before {
            context.record_done(&context.key(&format!("{at}/signals")), &taken);
        }
        let wait_key = context.key(&format!("{at}/wait"));
        if taken.len() >= wanted {
            if let Some(wait) = context.open_wait(&wait_key) {
                let resolution = Resolution { answer: json!({ "signals": taken.len() }), by: "signal".into(), timed_out: false };
                context.answer(&wait, resolution).await?;
            }
            value.insert("signal".into(), taken.values().next_back().cloned().unwrap_or_default());
            value.insert("signals".into(), Value::Object(taken));
            return Ok(());
        }
        let known = context.open_wait(&wait_key).is_some();
        let ask = Ask {
            kind: WaitKind::Signal,
            name: self.names.join(","),
            shown: json!({ "signals": self.names, "all": self.all, "stepId": context.step_id() }),
            digest: None,
            deadline: Some(context.now().after(self.lasts)),
        };
        let asked = context.ask(&wait_key, ask).await?;
        if let Asked::Open { .. } = asked {
            if !known {
                let told = json!({ "stepId": context.step_id(), "signals": self.names, "all": self.all });
                emit(context, "dispatch.waiting", told);
            }
            return Err(Interrupt::Suspend);
        }
        let told = json!({ "stepId": context.step_id(), "signals": self.names });
        emit(context, "dispatch.timeout", told);
        let missing = format!("the signal `{}` did not arrive in time", self.names.join("`, `"));
        match self.on_timeout {
            OnTimeout::Fail => Err(StepFailure::new("signal_timeout", missing).into()),
            OnTimeout::Reject => Err(StepFailure::new("signal_rejected", missing).into()),
            OnTimeout::Skip | OnTimeout::Continue => {
                value.insert("signal".into(), Value::Null);
                value.insert("signals".into(), Value::Object(taken));
                Ok(())
            }
        }
    }
}
