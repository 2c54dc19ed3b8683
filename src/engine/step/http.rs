//! `fetch-url` and `api-call`: an HTTP call as a step.

use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Fields, StepBody, StepOutput, StepType, config};
use crate::engine::context::{Interrupt, StepContext, StepFailure, StepResult};
use crate::error::Problems;
use crate::expr::bounds::Misfit;
use crate::failpoint;
use crate::model::Step;
use crate::net::ErrorKind;
use crate::tool::http::{HttpAnswer, HttpCall, HttpConfig, HttpTemplate, Mode};
use crate::tool::{Effect, JsonFault};

pub const FETCH_URL: StepType = StepType {
    action: "fetch-url",
    summary: "Requests a URL; the output is the response body.",
    schema: || schemars::schema_for!(Config),
    compile,
};

pub const API_CALL: StepType =
    StepType { action: "api-call", summary: "Calls an API and maps its response.", schema: || schemars::schema_for!(Config), compile };

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
#[schemars(rename = "HttpStepConfig")]
struct Config {
    /// The call; `url`, `method`, `headers` and `body` may also stand beside it.
    http: Option<HttpConfig>,
    #[serde(flatten)]
    flat: HttpConfig,
    response_type: ResponseType,
    /// The body, when `http.body` is not given.
    request_template: Option<Value>,
    /// Names of the output and the paths in the response that they are read from, as `data.items.0.id`.
    response_mapping: Map<String, Value>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Default, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
enum ResponseType {
    /// By the response's media type.
    #[default]
    Auto,
    Json,
    Text,
    Xml,
}

struct Body {
    call: HttpTemplate,
    response: ResponseType,
    mapping: Vec<(String, Vec<String>)>,
    timeout: Duration,
}

fn compile(step: &Step) -> Result<Box<dyn StepBody>, Problems> {
    let config: Config = config(step)?;
    let mut fields = Fields::default();
    let nested = config.http.is_some();
    let mut http = config.http.unwrap_or(config.flat);
    if http.body.is_none() {
        http.body = config.request_template;
    }
    let call = match HttpTemplate::compile(&http, Mode::Step) {
        Ok(call) => Some(call),
        Err(faults) => {
            let under = if nested { "/http" } else { "" };
            faults.0.into_iter().for_each(|fault| fields.0.add(format!("{under}{}", fault.pointer), fault.message));
            None
        }
    };
    let mut mapping = Vec::new();
    for (name, path) in config.response_mapping {
        match path.as_str() {
            Some(path) => mapping.push((name, path.trim_start_matches("$.").split('.').map(str::to_owned).collect())),
            None => fields.problem(&format!("responseMapping/{name}"), "expected a path such as `data.items.0.id`"),
        }
    }
    let timeout = Duration::from_millis(step.timeout_ms);
    fields.finish(call.map(|call| Body { call, response: config.response_type, mapping, timeout }))
}

/// Performs a call as an effect under `key`, once it is rendered.
pub(super) async fn perform(context: &StepContext<'_>, key: &str, call: &HttpTemplate, timeout: Duration) -> StepResult<HttpAnswer> {
    perform_within(context, key, call, timeout, &Map::new()).await
}

/// [`perform`] with variables of the call's own.
pub(super) async fn perform_within(
    context: &StepContext<'_>,
    key: &str,
    call: &HttpTemplate,
    timeout: Duration,
    own: &Map<String, Value>,
) -> StepResult<HttpAnswer> {
    let idempotency = context.idempotency_key(key);
    let rendered = || {
        let call = call.render(&context.scope_with_secrets().within(own), &idempotency, timeout)?;
        context.unresolved(call.unresolved.clone());
        Ok(call)
    };
    send(context, key, call.effect(), rendered).await
}

/// Sends a call as an effect under `key`; it is made when it goes out. An answer that is no success is a failure.
pub(super) async fn send(
    context: &StepContext<'_>,
    key: &str,
    effect: Effect,
    make: impl FnOnce() -> StepResult<HttpCall> + Send,
) -> StepResult<HttpAnswer> {
    context
        .effect(&context.key(key), effect, || async {
            let call = make()?;
            failpoint::hit("tool.before");
            let call = call.with_max_response(context.limits().max_response_bytes);
            let answer = call.send(&context.parts().egress, &context.parts().clock, &context.run.redactor).await;
            failpoint::hit("tool.after");
            let answer = answer.map_err(|error| Interrupt::Fail(net_failure(&error)))?;
            if answer.is_success() { Ok(answer) } else { Err(answer_failure(&answer).into()) }
        })
        .await
}

/// A failed exchange as a step's failure.
pub(super) fn net_failure(error: &crate::net::Error) -> StepFailure {
    // A server that redirects a call has not executed it, so the fate of the effect is known.
    let is_redirected = error.kind() == &ErrorKind::SecretRedirect;
    StepFailure {
        retryable: error.is_transient(),
        fate_unknown: error.may_have_been_sent() && !is_redirected,
        ..StepFailure::new(error.code(), error.to_string())
    }
}

pub(super) fn answer_failure(answer: &HttpAnswer) -> StepFailure {
    StepFailure {
        retryable: answer.is_transient(),
        retry_after: answer.retry_after_ms.map(Duration::from_millis),
        ..StepFailure::new("http_status", answer.complaint())
    }
}

#[async_trait]
impl StepBody for Body {
    async fn run(&self, context: &StepContext<'_>) -> StepResult<StepOutput> {
        let answer = perform(context, "call", &self.call, self.timeout).await?;
        let value = match self.response {
            ResponseType::Auto => answer.read()?,
            ResponseType::Text | ResponseType::Xml => Value::String(answer.text().into_owned()),
            ResponseType::Json => answer.json().map_err(|fault| match fault {
                JsonFault::TooDeep => StepFailure::from(Misfit::TooDeep),
                JsonFault::Invalid(why) => StepFailure::new("invalid_json", format!("the response is not JSON: {why}")),
            })?,
        };
        if self.mapping.is_empty() {
            return Ok(StepOutput::of(value));
        }
        let mapped = self.mapping.iter().map(|(name, path)| (name.clone(), follow(&value, path).cloned().unwrap_or(Value::Null)));
        Ok(StepOutput::of(Value::Object(mapped.collect())))
    }
}

pub(super) fn follow<'v>(value: &'v Value, path: &[String]) -> Option<&'v Value> {
    path.iter().filter(|key| !key.is_empty()).try_fold(value, |value, key| match value {
        Value::Object(map) => map.get(key),
        Value::Array(items) => items.get(key.parse::<usize>().ok()?),
        _ => None,
    })
}
