//! One call of an action: sent from here, or performed by the caller.

use std::time::Duration;

use http::{Method, header};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::http::net_failure;
use super::activity;
use super::scope::JobScope;
use crate::engine::context::{Ask, Asked, Interrupt, StepContext, StepFailure, StepResult};
use crate::failpoint;
use crate::job::cookies::CookieJar;
use crate::job::http::{ACTIVITY_EVENT, CALL_EVENT, PreparedRequest, module_response};
use crate::model::event::Event;
use crate::model::wait::WaitKind;
use crate::module::{ActionFault, ActionOutcome, HttpDefinition, ModuleResponse};
use crate::net::{Deadlines, Request, Trust};
use crate::secret::Secret;
use crate::tool::Effect;

/// How long a response may take to begin, and to go on.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

/// An action that a step calls.
pub(super) struct ActionCall {
    pub action: String,
    pub is_local: bool,
    /// Of an action that is sent from here.
    pub definition: Option<Box<HttpDefinition>>,
    pub input_schema: Option<Value>,
    pub exports_schema: Option<Value>,
}

/// What a call came to.
#[derive(Serialize, Deserialize)]
pub(super) struct CallResult {
    pub outcome: ActionOutcome,
    #[serde(default)]
    pub cookies: CookieJar,
}

/// What a caller sends of an action that it performed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LocalAnswer {
    #[serde(default)]
    outcome: Option<ActionOutcome>,
    #[serde(default)]
    error: Option<ActionFault>,
    /// Records of its HTTP calls.
    #[serde(default)]
    calls: Vec<Value>,
    /// Lines of the activity log.
    #[serde(default)]
    activity: Vec<String>,
}

/// A response, with the cookies after it.
#[derive(Serialize, Deserialize)]
struct Exchange {
    #[serde(flatten)]
    response: ModuleResponse,
    #[serde(default)]
    cookies: CookieJar,
}

impl ActionCall {
    /// Performs the call, or recalls it; `path` is its journal path below the step.
    pub(super) async fn perform(
        &self,
        context: &StepContext<'_>,
        scope: &JobScope,
        step: &str,
        path: &str,
        payload: &Value,
    ) -> StepResult<CallResult> {
        let key = context.key(path);
        if let Some(called) = context.recall_as(&key) {
            return Ok(called);
        }
        check(context, self.input_schema.as_ref(), payload, "payload").await?;
        let mut called = match &self.definition {
            Some(definition) => self.send(context, scope, step, path, definition, payload).await?,
            None if self.is_local => {
                let outcome = self.local(context, step, path, payload).await?;
                CallResult { outcome, cookies: scope.cookies.clone() }
            }
            None => return Err(StepFailure::new("action_failed", format!("{} cannot be called by a poll", self.action)).into()),
        };
        if !called.outcome.exports.is_object() {
            called.outcome.exports = json!({});
        }
        context.record_done(&key, &called);
        Ok(called)
    }

    /// Checks exports against the action's schema.
    pub(super) async fn check_exports(&self, context: &StepContext<'_>, exports: &Value) -> StepResult<()> {
        check(context, self.exports_schema.as_ref(), exports, "exports").await
    }

    async fn send(
        &self,
        context: &StepContext<'_>,
        scope: &JobScope,
        step: &str,
        path: &str,
        definition: &HttpDefinition,
        payload: &Value,
    ) -> StepResult<CallResult> {
        let roots = scope.roots(payload);
        let request = definition.request(&roots).map_err(|fault| self.failed(&fault))?;
        let prepared = PreparedRequest::new(&request, &scope.http, &scope.cookies, context.now())
            .map_err(|message| StepFailure::new("action_failed", format!("{}: {message}", self.action)))?;
        let class = if prepared.is_repeatable() { Effect::Idempotent } else { Effect::Once };
        let key = context.key(&format!("{path}/call"));
        let exchange: Exchange =
            context.effect(&key, class, || async { exchange(context, step, &prepared, scope.cookies.clone()).await }).await?;
        let response = exchange.response;
        let outcome = definition.outcome(&roots, &response).map_err(|fault| self.failed(&fault))?;
        if let Some(line) = definition.activity_line(&roots, &outcome.response) {
            activity(context, &format!("{path}/activity"), step, &line);
        }
        Ok(CallResult { outcome, cookies: exchange.cookies })
    }

    /// Lets the caller perform the action: the run waits for the outcome.
    async fn local(&self, context: &StepContext<'_>, step: &str, path: &str, payload: &Value) -> StepResult<ActionOutcome> {
        let key = context.key(&format!("{path}/output"));
        let call = format!("call_{}_{}", context.step_id(), path.replace('/', "_"));
        let shown = json!({ "toolName": self.action, "parameters": payload, "stepId": context.step_id() });
        let ask = Ask {
            kind: WaitKind::ToolOutput,
            name: call.clone(),
            shown: context.run.redactor.redact_value(shown).await,
            digest: None,
            deadline: None,
        };
        let resolution = match context.ask(&key, ask).await? {
            Asked::Answered { resolution, .. } => resolution,
            Asked::Open { wait } => {
                context.emit(Event::Await {
                    tool_id: format!("runtime_{}_{}", self.action, wait.suffix()),
                    tool_call_id: call,
                    tool_name: self.action.clone(),
                    parameters: json!({ "stepId": step, "payload": payload }),
                    awaited_at: context.open_wait(&key).map_or_else(|| context.now(), |wait| wait.created_at),
                    step_id: context.step_id().into(),
                    await_reason: None,
                    elicitation: None,
                    origin: None,
                    page_origin: None,
                });
                return Err(Interrupt::Suspend);
            }
        };
        if resolution.timed_out {
            return Err(StepFailure::transient("action_failed", format!("the caller did not perform {} in time", self.action)).into());
        }
        let output = resolution.answer.get("output").cloned().unwrap_or_default();
        let answer: LocalAnswer = serde_json::from_value(output)
            .map_err(|error| StepFailure::new("action_failed", format!("the outcome of {} cannot be read: {error}", self.action)))?;
        self.report(context, step, path, answer.calls, answer.activity);
        match (answer.outcome, answer.error) {
            (_, Some(fault)) => Err(self.failed(&fault).into()),
            (Some(outcome), None) => Ok(outcome),
            (None, None) => Err(StepFailure::new("action_failed", format!("the caller sent no outcome of {}", self.action)).into()),
        }
    }

    /// Tells of what the caller did, once.
    fn report(&self, context: &StepContext<'_>, step: &str, path: &str, calls: Vec<Value>, lines: Vec<String>) {
        let key = context.key(&format!("{path}/reported"));
        if context.recall(&key).is_some() {
            return;
        }
        for line in lines {
            let value = json!({ "stepId": step, "at": context.now(), "line": line });
            context.emit(Event::Custom { name: ACTIVITY_EVENT.into(), value });
        }
        for value in calls {
            context.emit(Event::Custom { name: CALL_EVENT.into(), value });
        }
        context.record_done(&key, &true);
    }

    fn failed(&self, fault: &ActionFault) -> StepFailure {
        StepFailure { retryable: fault.retryable, ..StepFailure::new("action_failed", format!("{}: {}", self.action, fault.message)) }
    }
}

/// Validates a value against a schema, where it can be stopped.
async fn check(context: &StepContext<'_>, schema: Option<&Value>, value: &Value, name: &str) -> StepResult<()> {
    let Some(schema) = schema.filter(|schema| !schema.is_null()) else { return Ok(()) };
    let faults = context.sandbox().judge(schema, value).await?;
    let Some((place, message)) = faults.into_iter().next() else { return Ok(()) };
    let message = format!("{name}{}: {message}", place.replace('/', "."));
    let failure =
        if name == "exports" { StepFailure::new("job_exports_invalid", message) } else { StepFailure::new("job_payload_invalid", message) };
    Err(failure.into())
}

/// Sends a request; the log tells of it, whatever came of it.
async fn exchange(context: &StepContext<'_>, step: &str, prepared: &PreparedRequest, mut cookies: CookieJar) -> StepResult<Exchange> {
    let method = Method::from_bytes(prepared.method.as_bytes())
        .map_err(|_| StepFailure::new("action_failed", format!("`{}` is not an HTTP method", prepared.method)))?;
    let mut request = Request::new(method, prepared.url.as_str(), Trust::Judged);
    request.max_redirects = 0;
    request.max_bytes = context.limits().max_response_bytes;
    request.deadlines = Deadlines { first_byte: RESPONSE_TIMEOUT, between_chunks: RESPONSE_TIMEOUT, ..Deadlines::default() };
    for (name, value) in &prepared.headers {
        request = request.header(name, Secret::new(value.as_str()));
    }
    if let Some(body) = &prepared.body {
        request = request.body(body.to_string());
    }
    let started = context.now();
    failpoint::hit("tool.before");
    let received = async {
        let response = context.parts().egress.send(request).await?;
        let status = response.status.as_u16();
        let set: Vec<String> =
            response.headers.get_all(header::SET_COOKIE).iter().filter_map(|value| value.to_str().ok().map(str::to_owned)).collect();
        Ok::<_, crate::net::Error>((status, set, response.bytes().await?))
    }
    .await;
    failpoint::hit("tool.after");
    let ended = context.now();
    let tell = |status: u16, text: &str| {
        context.emit(Event::Custom { name: CALL_EVENT.into(), value: prepared.record(step, started, ended, status, text) });
    };
    match received {
        Err(error) => {
            let failure = net_failure(&error);
            let failure = StepFailure { message: format!("{} {}: {}", prepared.method, prepared.url, failure.message), ..failure };
            tell(0, &json!({ "_error": failure.message }).to_string());
            Err(failure.into())
        }
        Ok((status, set, bytes)) => {
            let text = String::from_utf8_lossy(&bytes);
            tell(status, &text);
            if let Ok(url) = url::Url::parse(&prepared.url) {
                set.iter().for_each(|header| cookies.store(&url, header, ended));
            }
            Ok(Exchange { response: module_response(status, &text), cookies })
        }
    }
}
