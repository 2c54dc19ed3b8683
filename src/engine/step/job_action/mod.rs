//! `job-action`: one action of a job case, with the case's `${...}` filled in from the outputs of earlier steps.
//!
//! `sleep`, `poll` and `http` actions are performed here; a `local` one pauses the run until the caller has performed it.

mod call;
mod poll;
mod scope;

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use self::call::ActionCall;
use self::scope::JobScope;
use super::{Fields, StepBody, StepOutput, StepType, config};
use crate::clock::Timestamp;
use crate::engine::context::{StepContext, StepFailure, StepResult};
use crate::error::Problems;
use crate::job::http::ACTIVITY_EVENT;
use crate::job::interpolation::walk;
use crate::job::names::parse_duration;
use crate::job::poll::PollSpec;
use crate::job::state::StepResult as JobStepResult;
use crate::model::Step;
use crate::model::event::Event;
use crate::module::{ActionOutcome, HttpDefinition};

pub const TYPE: StepType = StepType {
    action: "job-action",
    summary: "Performs one action of a job case: a sleep, a poll, an HTTP call, or a call that its caller performs.",
    schema: || schemars::schema_for!(Config),
    compile,
};

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "JobActionConfig")]
struct Config {
    /// The action's key: `tickets.open`.
    action: String,
    /// How it is performed.
    handler: Handler,
    /// The request of an `http` action and what is read from its response, as in a module's manifest.
    #[serde(default)]
    request: Option<Value>,
    /// JSON Schema of the payload once it is filled in.
    #[serde(default)]
    input_schema: Option<Value>,
    /// JSON Schema of the exports.
    #[serde(default)]
    exports_schema: Option<Value>,
    /// The case's id of the step; the step's own id when absent.
    #[serde(default)]
    step_id: Option<String>,
    /// The payload; its texts may hold `${...}`.
    #[serde(default)]
    payload: Map<String, Value>,
    /// The action that a poll calls.
    #[serde(default)]
    target: Option<TargetConfig>,
    /// Names below `run`, and the exports that they are set to.
    #[serde(default)]
    capture: BTreeMap<String, String>,
    /// Fields of the credential, and the secrets of the request that hold them.
    #[serde(default)]
    credential: Option<BTreeMap<String, String>>,
    /// Unix time in milliseconds before which the step does not begin.
    #[serde(default)]
    due_at_ms: Option<i64>,
    /// `{baseUrl, defaultHeaders}` of every HTTP call; texts may hold `${...}`.
    #[serde(default)]
    http: Option<Map<String, Value>>,
    /// Earlier steps, with the variables that hold their outputs.
    #[serde(default)]
    earlier: Vec<EarlierStep>,
}

/// The action that a poll calls.
#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
struct TargetConfig {
    action: String,
    handler: Handler,
    #[serde(default)]
    request: Option<Value>,
    #[serde(default)]
    input_schema: Option<Value>,
    #[serde(default)]
    exports_schema: Option<Value>,
}

/// How an action is performed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Handler {
    /// Waits for `payload.duration`.
    Sleep,
    /// Calls `target` until `payload.conditions` hold.
    Poll,
    /// Sends the request of the action's definition.
    Http,
    /// The caller performs it, and sends the outcome.
    Local,
}

/// A step before this one.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
struct EarlierStep {
    /// The case's id of the step.
    id: String,
    /// The variable that holds its output.
    variable: String,
}

struct Body {
    step: JobStep,
    action: ActionCall,
    target: Option<ActionCall>,
    handler: Handler,
    payload: Value,
    capture: Vec<(String, String)>,
    due: Option<Timestamp>,
}

/// What every call of the step shares.
struct JobStep {
    id: String,
    http: Value,
    credential: Option<BTreeMap<String, String>>,
    earlier: Vec<EarlierStep>,
}

fn compile(step: &Step) -> Result<Box<dyn StepBody>, Problems> {
    let config: Config = config(step)?;
    let mut fields = Fields::default();
    let action = ActionCall {
        action: config.action,
        is_local: config.handler == Handler::Local,
        definition: definition(config.handler, config.request, "request", &mut fields),
        input_schema: config.input_schema,
        exports_schema: config.exports_schema,
    };
    let target = config.target.filter(|_| config.handler == Handler::Poll).map(|target| {
        if matches!(target.handler, Handler::Poll | Handler::Sleep) {
            fields.problem("target/handler", "a poll calls an action of the handler http or local");
        }
        ActionCall {
            action: target.action,
            is_local: target.handler == Handler::Local,
            definition: definition(target.handler, target.request, "target/request", &mut fields),
            input_schema: target.input_schema,
            exports_schema: target.exports_schema,
        }
    });
    if config.handler == Handler::Poll && target.is_none() {
        fields.problem("target", "expected the action that the poll calls");
    }
    let id = config.step_id.unwrap_or_else(|| step.id.clone());
    let shared =
        JobStep { id, http: Value::Object(config.http.unwrap_or_default()), credential: config.credential, earlier: config.earlier };
    fields.finish(Some(Body {
        step: shared,
        action,
        target,
        handler: config.handler,
        payload: Value::Object(config.payload),
        capture: config.capture.into_iter().collect(),
        due: config.due_at_ms.map(Timestamp::from_millis),
    }))
}

fn definition(handler: Handler, request: Option<Value>, field: &str, fields: &mut Fields) -> Option<Box<HttpDefinition>> {
    if handler != Handler::Http {
        return None;
    }
    let Some(request) = request else {
        fields.problem(field, "expected the definition of the action's request");
        return None;
    };
    walk(&request, "", &mut |at, text| {
        // Such paths may take time beyond any count, and they are evaluated in this process.
        if text.starts_with('$') && !text.starts_with("${") && (text.contains("..") || text.contains(['?', ','])) {
            fields.problem(field, format!("`{at}`: JSONPath with recursion, filters or unions is not possible in a definition"));
        }
    });
    match serde_json::from_value(request) {
        Ok(definition) => Some(Box::new(definition)),
        Err(error) => {
            fields.problem(field, format!("not a definition of an HTTP action: {error}"));
            None
        }
    }
}

#[async_trait]
impl StepBody for Body {
    async fn run(&self, context: &StepContext<'_>) -> StepResult<StepOutput> {
        if let Some(due) = self.due {
            context.sleep_until(&context.key("schedule"), due).await?;
        }
        let mut scope = JobScope::new(context, &self.step)?;
        scope.http = serde_json::from_value(scope.fill(context, &self.step.http).await?)
            .map_err(|error| StepFailure::new("action_failed", format!("http: {error}")))?;
        let payload = scope.fill(context, &self.payload).await?;
        activity(context, "activity", &self.step.id, &format!("step {} action={}", self.step.id, self.action.action));
        let mut result = match (self.handler, &self.target) {
            (Handler::Sleep, _) => sleep(context, &payload).await?,
            (Handler::Poll, Some(target)) => self.poll(context, &scope, target, &payload).await?,
            _ => {
                let outcome = self.action.perform(context, &scope, &self.step.id, "call", &payload).await?;
                job_result(outcome.outcome, outcome.cookies)
            }
        };
        if !result.exports.is_object() {
            result.exports = json!({});
        }
        self.action.check_exports(context, &result.exports).await?;
        result.captured =
            scope.state.captures(&self.capture, &result.exports).map_err(|message| StepFailure::new("capture_failed", message))?;
        Ok(output(result))
    }
}

/// The step's output; cookies are kept for later steps and are not shown.
fn output(result: JobStepResult) -> StepOutput {
    let shown = serde_json::to_value(JobStepResult { cookies: crate::job::cookies::CookieJar::default(), ..result.clone() });
    let value = serde_json::to_value(result).unwrap_or_default();
    StepOutput { shown: shown.ok(), ..StepOutput::of(value) }
}

fn job_result(outcome: ActionOutcome, cookies: crate::job::cookies::CookieJar) -> JobStepResult {
    JobStepResult {
        response: outcome.response,
        exports: outcome.exports,
        detail: outcome.detail,
        diagnostics: outcome.diagnostics,
        stored: outcome.run_patch.unwrap_or_default(),
        captured: Map::new(),
        cookies,
    }
}

async fn sleep(context: &StepContext<'_>, payload: &Value) -> StepResult<JobStepResult> {
    let text = payload.get("duration").and_then(Value::as_str).unwrap_or_default();
    let Some(wait) = parse_duration(text) else {
        let message = format!("`{text}` is not a duration; write it as 500ms, 2s, 5m or 1h");
        return Err(StepFailure::new("invalid_duration", message).into());
    };
    let until = context.chosen("sleep/until", || context.now().after(std::time::Duration::from_millis(wait))).await;
    context.sleep_until(&context.key("sleep"), until).await?;
    Ok(JobStepResult { response: json!({ "slept": text }), detail: Some(format!("slept={text}")), ..JobStepResult::default() })
}

/// Adds a line to the activity log, once for each `path`.
fn activity(context: &StepContext<'_>, path: &str, step: &str, line: &str) {
    let key = context.key(path);
    if context.recall(&key).is_none() {
        context.emit(Event::Custom { name: ACTIVITY_EVENT.into(), value: json!({ "stepId": step, "at": context.now(), "line": line }) });
        context.record_done(&key, &true);
    }
}

impl Body {
    async fn poll(&self, context: &StepContext<'_>, scope: &JobScope, target: &ActionCall, payload: &Value) -> StepResult<JobStepResult> {
        let spec = PollSpec::parse(payload.as_object().unwrap_or(&Map::new())).map_err(|faults| {
            let first = faults.into_iter().next().unwrap_or_default();
            StepFailure::new("job_payload_invalid", format!("payload.{}: {}", first.0, first.1))
        })?;
        poll::Poll { step: &self.step.id, spec: &spec, target, scope }.run(context).await
    }
}
