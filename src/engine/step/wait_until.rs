//! `wait-until`: a delay, a condition, or a poll. It pauses the run; no task sleeps.

use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Fields, SECRETS, StepBody, StepOutput, StepType, config};
use crate::clock::Timestamp;
use crate::engine::context::{Interrupt, LONGEST_WAIT, StepContext, StepFailure, StepResult};
use crate::error::Problems;
use crate::expr::Condition;
use crate::model::Step;
use crate::tool::http::{HttpConfig, HttpTemplate, Mode};

pub const TYPE: StepType = StepType {
    action: "wait-until",
    summary: "Pauses for a time, or until a URL answers as wanted.",
    schema: || schemars::schema_for!(Config),
    compile,
};

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "WaitUntilConfig")]
struct Config {
    /// A plain pause, in milliseconds.
    #[serde(default)]
    delay_ms: Option<u64>,
    #[serde(default)]
    poll: Option<PollConfig>,
    /// A condition over the flow's variables, looked at every `pollIntervalMs`.
    #[serde(default)]
    condition: Option<String>,
    #[serde(default)]
    timeout_ms: Option<u64>,
    #[serde(default)]
    poll_interval_ms: Option<u64>,
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
struct PollConfig {
    http: HttpConfig,
    /// A condition over `response` (`status`, `body`, `headers`) and the flow's variables; without one, any status below 400.
    #[serde(default)]
    success: Option<String>,
    #[serde(default)]
    interval_ms: Option<u64>,
    #[serde(default)]
    max_attempts: Option<u32>,
}

const INTERVAL_MS: u64 = 5_000;
const SHORTEST_INTERVAL_MS: u64 = 100;
const MAX_POLLS: u32 = 1_000;
const POLL_TIMEOUT: Duration = Duration::from_secs(30);

enum Body {
    Delay(Duration),
    Poll { call: Box<HttpTemplate>, success: Option<Condition>, interval: Duration, attempts: u32 },
    Watch { condition: Condition, interval: Duration, attempts: u32 },
}

fn compile(step: &Step) -> Result<Box<dyn StepBody>, Problems> {
    let config: Config = config(step)?;
    let mut fields = Fields::default();
    let body = match (config.delay_ms, config.poll, config.condition) {
        (Some(delay), None, None) => delay_body(delay, &mut fields),
        (None, Some(poll), None) => poll_body(&poll, &mut fields),
        (None, None, Some(condition)) => {
            let interval = interval(config.poll_interval_ms, "pollIntervalMs", &mut fields);
            let timeout = config.timeout_ms.unwrap_or(INTERVAL_MS * 60);
            let attempts = (timeout / u64::try_from(interval.as_millis()).unwrap_or(1).max(1) + 1).min(u64::from(MAX_POLLS));
            let attempts = u32::try_from(attempts).unwrap_or(MAX_POLLS);
            parse_condition("condition", &condition, &mut fields).map(|condition| Body::Watch { condition, interval, attempts })
        }
        _ => {
            fields.problem("", "expected one of `delayMs`, `poll` and `condition`");
            None
        }
    };
    fields.finish(body)
}

fn delay_body(delay: u64, fields: &mut Fields) -> Option<Body> {
    let delay = Duration::from_millis(delay);
    if delay > LONGEST_WAIT {
        fields.problem("delayMs", format!("a run may wait {} days at most", LONGEST_WAIT.as_secs() / 86_400));
    }
    Some(Body::Delay(delay))
}

fn poll_body(poll: &PollConfig, fields: &mut Fields) -> Option<Body> {
    let interval = interval(poll.interval_ms, "poll/intervalMs", fields);
    let attempts = poll.max_attempts.unwrap_or(60);
    if attempts == 0 || attempts > MAX_POLLS {
        fields.problem("poll/maxAttempts", format!("expected 1 to {MAX_POLLS}"));
    }
    let success = poll.success.as_deref().and_then(|source| parse_condition("poll/success", source, fields));
    match HttpTemplate::compile(&poll.http, Mode::Step) {
        Ok(call) => Some(Body::Poll { call: Box::new(call), success, interval, attempts }),
        Err(faults) => {
            faults.0.into_iter().for_each(|fault| fields.0.add(format!("/poll/http{}", fault.pointer), fault.message));
            None
        }
    }
}

fn interval(given: Option<u64>, name: &str, fields: &mut Fields) -> Duration {
    let interval = given.unwrap_or(INTERVAL_MS);
    if interval < SHORTEST_INTERVAL_MS {
        fields.problem(name, format!("expected {SHORTEST_INTERVAL_MS} or more"));
    }
    Duration::from_millis(interval)
}

fn parse_condition(name: &str, source: &str, fields: &mut Fields) -> Option<Condition> {
    let condition = Condition::parse(source).map_err(|error| fields.problem(name, error.to_string())).ok()?;
    if condition.uses_secrets() {
        fields.problem(name, SECRETS);
    }
    Some(condition)
}

#[async_trait]
impl StepBody for Body {
    async fn run(&self, context: &StepContext<'_>) -> StepResult<StepOutput> {
        match self {
            Self::Delay(delay) => wait(context, "delay", *delay).await.map(|()| StepOutput::of(Value::Null)),
            Self::Poll { call, success, interval, attempts } => {
                for number in 1..=*attempts {
                    if !is_past(context, &format!("poll/{number}"))
                        && let Some(value) = poll(context, number, call, success.as_ref()).await?
                    {
                        return Ok(StepOutput::of(value));
                    }
                    wait(context, &format!("poll/{number}"), *interval).await?;
                }
                Err(exhausted(*attempts).into())
            }
            Self::Watch { condition, interval, attempts } => {
                for number in 1..=*attempts {
                    let past = is_past(context, &format!("watch/{number}"));
                    if !past && condition.eval(&context.scope(), &context.sandbox()).await? {
                        return Ok(StepOutput::of(Value::Bool(true)));
                    }
                    wait(context, &format!("watch/{number}"), *interval).await?;
                }
                Err(exhausted(*attempts).into())
            }
        }
    }
}

fn exhausted(attempts: u32) -> StepFailure {
    StepFailure::new("wait_exhausted", format!("the condition did not hold in {attempts} attempts"))
}

/// Whether the wait after this attempt was begun: the attempt itself was in vain.
fn is_past(context: &StepContext<'_>, name: &str) -> bool {
    context.recall(&context.key(&format!("{name}/until"))).is_some()
}

/// Waits from the moment this wait was first asked for, however often the step is entered again.
async fn wait(context: &StepContext<'_>, name: &str, duration: Duration) -> StepResult<()> {
    let until_key = context.key(&format!("{name}/until"));
    let until: Timestamp = match context.recall_as(&until_key) {
        Some(until) => until,
        None => {
            let until = context.now().after(duration);
            context.record_done(&until_key, &until);
            until
        }
    };
    context.sleep_until(&context.key(name), until).await
}

/// One poll; `None` when the answer is not the wanted one yet.
async fn poll(context: &StepContext<'_>, number: u32, call: &HttpTemplate, success: Option<&Condition>) -> StepResult<Option<Value>> {
    let answer = match super::http::perform(context, &format!("poll/{number}/call"), call, POLL_TIMEOUT).await {
        Ok(answer) => answer,
        Err(Interrupt::Fail(failure)) if failure.retryable => {
            tracing::debug!(step = context.step_id(), code = failure.code, "a poll failed; it is tried again");
            return Ok(None);
        }
        Err(other) => return Err(other),
    };
    let body = answer.read()?;
    let Some(success) = success else { return Ok(Some(body)) };
    let response = json!({ "status": answer.status, "body": body.clone(), "headers": answer.headers });
    let layer = Map::from_iter([("response".to_owned(), response), ("body".to_owned(), body.clone())]);
    let scope = context.scope();
    let holds = success.eval(&scope.within(&layer), &context.sandbox()).await?;
    Ok(holds.then_some(body))
}
