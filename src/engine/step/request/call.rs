//! One call of a service, with its attempts.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tracing::Span;

use super::reply::{Directives, LATEST, Made, Reply, body, lenient_body};
use super::{Again, Fields, LONGEST_CALL, Request, duration, emit};
use crate::clock::Timestamp;
use crate::engine::Engine;
use crate::engine::context::{Interrupt, StepContext, StepFailure, StepResult};
use crate::engine::step::http::net_failure;
use crate::expr::Reads;
use crate::failpoint;
use crate::model::origin::place_of;
use crate::tool::Effect;
use crate::tool::http::{HttpAnswer, HttpCall, HttpConfig, HttpTemplate, Mode};
use crate::tool::signature;

/// The managed secret that calls are signed with, if the tenant keeps one of this name.
pub const SIGNING_SECRET: &str = "DISPATCHED_SIGNING_SECRET";
/// Attempts after the first when a service asks for another one and the document says nothing.
const ASKED_RETRIES: u32 = 3;

/// What all calls of a step have in common.
pub(super) struct Maker {
    pub timeout: Duration,
    pub schema: Option<Arc<Value>>,
    pub again: Option<Again>,
}

/// A compiled call.
#[derive(Clone)]
pub(super) struct Call {
    http: HttpTemplate,
    timeout: Duration,
    schema: Option<Arc<Value>>,
    again: Option<Again>,
}

/// Where a call stands in its step.
pub(super) struct Place<'p> {
    /// In the journal, below the step.
    pub at: String,
    /// Behind the run's id, what services tell it by.
    pub key: String,
    /// The step that services are told of.
    pub step: &'p str,
    /// What its texts see besides what everybody sees.
    pub own: &'p Map<String, Value>,
    pub rest: Rest<'p>,
    /// Each attempt is told in the log.
    pub told: bool,
}

/// What is done between two attempts.
#[derive(Clone, Copy)]
pub(super) enum Rest<'p> {
    /// Long waits pause the run.
    Pause,
    /// None does.
    InHand,
    /// The call suspends; this tells the strategy when the next attempt is due.
    Told(&'p Mutex<Option<Timestamp>>),
}

/// How an attempt is judged.
enum Verdict {
    /// With the reply's body.
    Good(Value),
    /// Made again after that wait, or the longer one of the document's.
    Again(Option<Duration>, StepFailure),
    Failed(StepFailure),
}

impl Maker {
    pub fn call(&self, fields: &mut Fields, name: &str, request: &Request) -> Option<Call> {
        let config = HttpConfig {
            url: request.url.clone(),
            method: request.method.clone().unwrap_or_default(),
            headers: request.headers.clone(),
            query: request.query.clone(),
            body: request.body.clone(),
            auth: None,
            effect: Some(request.effect.unwrap_or(Effect::Idempotent)),
        };
        let timeout = duration(fields, &format!("{name}/timeout"), request.timeout.as_deref(), LONGEST_CALL).unwrap_or(self.timeout);
        if !request.url.is_empty()
            && !request.url.contains("{{")
            && let Err(refused) = crate::net::parse_url(request.url.trim())
        {
            fields.problem(&format!("{name}/url"), refused.to_string());
        }
        for header in request.headers.keys().filter(|header| http::HeaderName::try_from(header.as_str()).is_err()) {
            fields.problem(&format!("{name}/headers/{}", crate::error::pointer_token(header)), "this is no header's name");
        }
        match HttpTemplate::compile(&config, Mode::Workflow) {
            Ok(http) => Some(Call { http, timeout, schema: self.schema.clone(), again: self.again.clone() }),
            Err(faults) => {
                faults.0.into_iter().for_each(|fault| fields.0.add(format!("/{name}{}", fault.pointer), fault.message));
                None
            }
        }
    }
}

impl Call {
    pub fn reads(&self) -> Reads {
        self.http.reads()
    }

    /// Makes the call until it is answered well or given up.
    pub async fn make(&self, context: &StepContext<'_>, place: &Place<'_>) -> StepResult<Reply> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let at = format!("{}/attempt/{attempts}", place.at);
            let made = self.attempt(context, place, &at, attempts).await?;
            // The reply to an undo call is not used.
            let is_read = !matches!(place.rest, Rest::InHand);
            let (verdict, mut directives) = self.judge(&made, is_read);
            if !matches!(verdict, Verdict::Good(_)) {
                // These are said of a step that is done.
                directives.skip.clear();
                directives.wait = None;
            }
            if let Some(told) = directives.told() {
                once(context, &format!("{at}/told"), [("dispatch.directive", place.name(told))]);
            }
            let status = if let Made::Replied(answer) = &made { Some(answer.status) } else { None };
            let (asked, failure) = match (verdict, made) {
                (Verdict::Good(body), Made::Replied(answer)) => {
                    self.keeps_to_schema(context, &body).await?;
                    return Ok(Reply { answer, body, attempts, directives });
                }
                (Verdict::Good(_), Made::Broke { .. }) => return Err(StepFailure::new("no_reply", "there was no reply").into()),
                (Verdict::Failed(failure), _) => return Err(StepFailure { attempts: Some(attempts), ..failure }.into()),
                (Verdict::Again(asked, failure), _) => (asked, failure),
            };
            let most = self.again.as_ref().map_or(ASKED_RETRIES, |again| again.max);
            if attempts > most {
                return Err(StepFailure { attempts: Some(attempts), ..failure }.into());
            }
            let due = context.chosen(&format!("{at}/due"), || self.due(context, attempts, asked)).await;
            let failed = json!({ "attempt": attempts, "status": status, "code": failure.code, "message": failure.message });
            let retrying = json!({ "attempt": attempts, "of": most + 1, "error": failure.message, "code": failure.code, "retryAt": due });
            let told = [("dispatch.attempt_failed", place.name(failed)), ("dispatch.retrying", place.name(retrying))];
            once(context, &format!("{at}/told_retry"), told);
            match place.rest {
                Rest::InHand => context.outside(context.parts().clock.sleep_until(due)).await,
                Rest::Pause => context.sleep_until(&context.key(&format!("{at}/retry")), due).await?,
                Rest::Told(next) if due > context.now() => {
                    *next.lock() = Some(due);
                    return Err(Interrupt::Suspend);
                }
                Rest::Told(_) => {}
            }
        }
    }

    /// One attempt, made or recalled.
    async fn attempt(&self, context: &StepContext<'_>, place: &Place<'_>, at: &str, number: u32) -> StepResult<Made> {
        let class = self.http.effect();
        context
            .effect(&context.key(at), class, || async {
                let call = self.render(context, place, number).await?;
                if place.told {
                    let mut value = call.shown();
                    value["attempt"] = number.into();
                    emit(context, "dispatch.request", place.name(value));
                }
                failpoint::hit("tool.before");
                let call = call.with_max_response(context.limits().max_workflow_response_bytes);
                let answer = call.send(&context.parts().egress, &context.parts().clock, &context.run.redactor).await;
                failpoint::hit("tool.after");
                match answer {
                    Ok(answer) => Ok(Made::Replied(answer)),
                    Err(error) => {
                        let failure = net_failure(&error);
                        if class == Effect::Once && failure.fate_unknown {
                            return Err(Interrupt::Fail(failure));
                        }
                        Ok(Made::Broke { broke: failure.code, message: failure.message, retryable: failure.retryable })
                    }
                }
            })
            .await
    }

    async fn render(&self, context: &StepContext<'_>, place: &Place<'_>, number: u32) -> StepResult<HttpCall> {
        let scope = context.scope_with_secrets();
        let scope = scope.within(place.own);
        let blocks = self.http.blocks(&scope, &context.sandbox()).await?;
        let run = run_id(context);
        let key = format!("{run}/{}", place.key);
        let mut call = self.http.render_around(&scope, &key, self.timeout, &blocks)?;
        let known = context.variable("vars").and_then(Value::as_object);
        for (name, value) in place.own.get("vars").and_then(Value::as_object).into_iter().flatten() {
            // What was not computed with the others was made of secrets, in whatever way.
            if known.is_none_or(|known| !known.contains_key(name)) {
                call.hide(value);
            }
        }
        context.unresolved(std::mem::take(&mut call.unresolved));
        call.add_header("idempotency-key", key);
        if let Some(parent) = trace_parent(context) {
            call.add_header("traceparent", parent);
        }
        call.set_header("dispatched-run", run);
        call.set_header("dispatched-step", place.step);
        call.set_header("dispatched-attempt", number.to_string());
        call.set_header("dispatched-workflow", context.run.plan.flow.name.as_str());
        if let Some(secret) = context.run.known_secrets.get(SIGNING_SECRET) {
            signature::sign(&mut call, secret, &context.run.tenant.to_string(), context.now())?;
        }
        Ok(call)
    }

    fn judge(&self, made: &Made, is_read: bool) -> (Verdict, Directives) {
        let answer = match made {
            Made::Broke { broke, message, retryable } => {
                let failure = StepFailure { retryable: *retryable, ..StepFailure::new(broke.as_str(), message.as_str()) };
                let again = *retryable && self.again.as_ref().is_some_and(|again| again.network);
                return (if again { Verdict::Again(None, failure) } else { Verdict::Failed(failure) }, Directives::default());
            }
            Made::Replied(answer) => answer,
        };
        let directives = Directives::read(answer);
        let verdict = self.judge_reply(answer, &directives, is_read);
        (verdict, directives)
    }

    fn judge_reply(&self, answer: &HttpAnswer, directives: &Directives, is_read: bool) -> Verdict {
        if let Some(text) = &directives.fail {
            return Verdict::Failed(StepFailure::new("failed_by_service", if text.is_empty() { "the service said so" } else { text }));
        }
        // What ends the run counts whatever the status says.
        if directives.cancel || directives.complete {
            return Verdict::Good(lenient_body(answer));
        }
        let good = (200..300).contains(&answer.status);
        let failure = StepFailure { retryable: answer.is_transient(), ..StepFailure::new("http_status", answer.complaint()) };
        if let Some(wait) = directives.retry {
            let asked = if good { StepFailure::new("retry_asked", "the service asked to be called again") } else { failure };
            return Verdict::Again(Some(wait), asked);
        }
        if !good {
            let again = self.again.as_ref().is_some_and(|again| again.statuses.contains(&answer.status));
            let wait = answer.retry_after_ms.map(|wait| Duration::from_millis(wait).min(LATEST));
            return if again { Verdict::Again(wait, failure) } else { Verdict::Failed(failure) };
        }
        if !is_read {
            return Verdict::Good(lenient_body(answer));
        }
        match body(answer) {
            Ok(body) => Verdict::Good(body),
            Err(error) => Verdict::Failed(error.into()),
        }
    }

    async fn keeps_to_schema(&self, context: &StepContext<'_>, body: &Value) -> StepResult<()> {
        let Some(schema) = &self.schema else { return Ok(()) };
        let faults = Engine(context.run.engine.clone()).judge(context.run.tenant, schema, body).await?;
        let Some((pointer, message)) = faults.first() else { return Ok(()) };
        Err(StepFailure::new("response_schema", format!("the reply does not keep to its schema: {pointer}: {message}")).into())
    }

    fn due(&self, context: &StepContext<'_>, made: u32, asked: Option<Duration>) -> Timestamp {
        let own = self.again.as_ref().map_or(0, |again| {
            let most = again.retry.delay_after(made);
            if again.jitter { context.parts().clock.below(most + 1) } else { most }
        });
        let own = Duration::from_millis(own);
        context.now().after(asked.map_or(own, |asked| asked.max(own)))
    }
}

impl Place<'_> {
    /// Adds to an event which call it is about: the step, the request of a strategy, and whether it undoes the step.
    fn name(&self, mut value: Value) -> Value {
        value["stepId"] = self.step.into();
        match self.rest {
            Rest::Pause => {}
            Rest::InHand => value["undo"] = true.into(),
            Rest::Told(_) => value["name"] = self.key.rsplit('/').next().unwrap_or_default().into(),
        }
        value
    }
}

/// Emits events that no later entry into the step emits again.
fn once<const N: usize>(context: &StepContext<'_>, at: &str, events: [(&str, Value); N]) {
    let key = context.key(at);
    if context.recall(&key).is_none() {
        events.into_iter().for_each(|(name, value)| emit(context, name, value));
        context.record_done(&key, &true);
    }
}

/// The span that the called service continues: this step's while traces are recorded, else that of the request that started the run.
fn trace_parent(context: &StepContext<'_>) -> Option<String> {
    place_of(&Span::current()).or_else(|| context.run.input.origin.as_ref()?.trace.clone())
}

/// The run's id as its own texts name it.
fn run_id(context: &StepContext<'_>) -> String {
    let own = context.variable("run").and_then(|run| run.get("id")).and_then(Value::as_str);
    own.map_or_else(|| context.run.run.to_string(), str::to_owned)
}
