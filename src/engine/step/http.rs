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
    /// The call; its members may also stand beside it.
    http: Option<HttpConfig>,
    #[serde(flatten)]
    flat: HttpConfig,
    response_type: ResponseType,
    /// The body, when `http.body` is not given.
    request_template: Option<Value>,
    /// Names of the output and the paths in the response that they are read from, as `data.items.0.id`.
    response_mapping: Map<String, Value>,
    /// `http`; other services that fetch pages are refused.
    #[schemars(skip)]
    fetch_method: Option<String>,
    #[schemars(skip)]
    firecrawl: Option<Value>,
}

/// A call as a configuration has it: under `http`, beside it, or some of it here and some there.
pub(super) struct WrittenCall {
    pub http: HttpConfig,
    is_nested: bool,
    /// Members that stand beside `http`.
    beside: Vec<&'static str>,
}

impl WrittenCall {
    /// Puts both together. What stands in both places, and differs, is a fault.
    pub(super) fn read(nested: Option<HttpConfig>, flat: HttpConfig, fields: &mut Fields) -> Self {
        let Some(mut http) = nested else { return Self { http: flat, is_nested: false, beside: Vec::new() } };
        let mut beside = Vec::new();
        // Whether a member is taken from beside `http`.
        let mut takes = |name: &'static str, is_beside: bool, is_inside: bool, same: bool| {
            if is_beside && is_inside && !same {
                fields.problem(name, "`http` says something else; give it once");
            }
            let taken = is_beside && !is_inside;
            if taken {
                beside.push(name);
            }
            taken
        };
        if takes("url", !flat.url.is_empty(), !http.url.is_empty(), flat.url == http.url) {
            http.url = flat.url;
        }
        if takes("method", !flat.method.is_empty(), !http.method.is_empty(), flat.method == http.method) {
            http.method = flat.method;
        }
        if takes("headers", !flat.headers.is_empty(), !http.headers.is_empty(), flat.headers == http.headers) {
            http.headers = flat.headers;
        }
        if takes("query", !flat.query.is_empty(), !http.query.is_empty(), flat.query == http.query) {
            http.query = flat.query;
        }
        if takes("body", flat.body.is_some(), http.body.is_some(), flat.body == http.body) {
            http.body = flat.body;
        }
        if takes("auth", flat.auth.is_some(), http.auth.is_some(), false) {
            http.auth = flat.auth;
        }
        if takes("effect", flat.effect.is_some(), http.effect.is_some(), flat.effect == http.effect) {
            http.effect = flat.effect;
        }
        Self { http, is_nested: true, beside }
    }

    /// The call, if it is right; its faults are noted where they stand.
    pub(super) fn compile(&self, fields: &mut Fields) -> Option<HttpTemplate> {
        let note = |faults: Problems| faults.0.into_iter().for_each(|fault| fields.0.add(self.place(&fault.pointer), fault.message));
        HttpTemplate::compile(&self.http, Mode::Step).map_err(note).ok()
    }

    /// Where a member of the call stands in the configuration.
    pub(super) fn place(&self, pointer: &str) -> String {
        let member = pointer.trim_start_matches('/').split('/').next().unwrap_or_default();
        let is_inside = self.is_nested && !self.beside.contains(&member);
        if is_inside { format!("/http{pointer}") } else { pointer.to_owned() }
    }
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
    let mut written = WrittenCall::read(config.http, config.flat, &mut fields);
    if let Some(template) = config.request_template {
        if written.http.body.as_ref().is_some_and(|body| *body != template) {
            fields.problem("requestTemplate", "`body` says something else; give the body once");
        }
        written.http.body = Some(template);
    }
    if config.fetch_method.as_deref().is_some_and(|method| method != "http") {
        fields.problem("fetchMethod", "expected `http`: pages are fetched by this server itself");
    }
    if config.firecrawl.is_some_and(|options| !options.is_null()) {
        fields.problem("firecrawl", "not available in this version");
    }
    let call = written.compile(&mut fields);
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
