//! `request`: the step of workflows. A call of a service, many calls by a strategy, a wait for signals, or a call and then a wait.
//!
//! Every attempt of every call is in the journal, with its reply, whatever it was; so attempts are counted over crashes, and services see the same
//! `Idempotency-Key` in all of them. That services honour it is a rule for services of workflows, so an attempt whose reply was lost is made
//! again; one that is declared to happen `once` is settled by a person instead.
//!
//! - [`call`]: one call with its attempts. [`reply`]: how a reply is read. [`strategy`]: many calls. [`signals`]: the wait.

mod call;
mod reply;
mod signals;
mod strategy;

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::{Map, Value, json};

pub use self::call::SIGNING_SECRET;
use self::call::{Call, Place, Rest};
use self::signals::{OnTimeout, Signals};
use self::strategy::Strategy;
use super::{Fields, SECRETS, StepBody, StepOutput, StepType, config};
use crate::engine::context::{StepContext, StepFailure, StepResult};
use crate::engine::memory::CALLED;
use crate::engine::plan::StepReads;
use crate::error::Problems;
use crate::expr::{Language, TemplateTree};
use crate::model::event::Event;
use crate::model::{Step, span};
use crate::tool::Effect;

pub const TYPE: StepType = StepType {
    action: "request",
    summary: "Calls a service, by a strategy if need be, and waits for signals; the step of workflows.",
    schema: || schemars::schema_for!(Config),
    compile,
};

/// The step of a workflow, as its document writes it.
#[derive(Deserialize, schemars::JsonSchema)]
#[schemars(rename = "RequestConfig")]
struct Config {
    /// The call. A step has a call, a wait, or both.
    #[serde(default)]
    request: Option<Request>,
    #[serde(default)]
    response: Option<Response>,
    /// When a call is made again. Without it, never.
    #[serde(default)]
    retry: Option<Retry>,
    /// What the step waits for, after its call.
    #[serde(default)]
    wait: Option<Wait>,
    /// Many calls instead of one.
    #[serde(default)]
    strategy: Option<strategy::Config>,
    /// It undoes another step.
    #[serde(default)]
    #[schemars(skip)]
    undoes: Option<String>,
}

/// A call. Every text is a template.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "WorkflowRequest")]
struct Request {
    /// `GET` unless said otherwise.
    #[serde(default)]
    method: Option<String>,
    url: String,
    /// Texts.
    #[serde(default)]
    headers: Map<String, Value>,
    /// Added to the URL's query.
    #[serde(default)]
    query: Map<String, Value>,
    /// Any JSON. A text that is one `{{ }}` keeps the type of its value; what comes to a text goes out as text.
    #[serde(default)]
    body: Option<Value>,
    /// How long one attempt may take, as `30s`; also `response.timeout`.
    #[serde(default)]
    timeout: Option<String>,
    /// What may happen when the reply is lost: `idempotent` (the default: services are told the same `Idempotency-Key` again) or `once`.
    #[serde(default)]
    effect: Option<Effect>,
}

/// What is expected of a reply.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "WorkflowResponse")]
struct Response {
    /// How long one attempt may take, as `30s`, which it is when absent.
    timeout: Option<String>,
    /// The JSON Schema that a good reply's body keeps to.
    schema: Option<Value>,
}

/// When a call is made again.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "WorkflowRetry")]
struct Retry {
    /// Statuses, and `network` for a reply that did not come; 429, 502, 503, 504 and `network` when absent.
    on: Option<Vec<On>>,
    /// Attempts after the first; 3 when absent, 20 at most.
    #[schemars(range(max = 20))]
    max: Option<u32>,
    /// `exponential` when absent.
    backoff: crate::model::flow::Backoff,
    /// The first wait, as `1s`, which it is when absent.
    delay: Option<String>,
    /// The longest wait, as `60s`, which it is when absent.
    max_delay: Option<String>,
    /// Whether waits are drawn at random below what they would be; true when absent.
    jitter: Option<bool>,
}

/// A status, or `network`.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "WorkflowRetryOn")]
enum On {
    Status(#[schemars(range(min = 100, max = 599))] u16),
    Word(String),
}

/// What a step waits for.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "WorkflowWait")]
struct Wait {
    /// One signal.
    signal: Option<String>,
    /// Or the first of several.
    any: Option<Vec<String>>,
    /// Or all of several.
    all: Option<Vec<String>>,
    /// How long, as `30m`; 30 days when absent.
    timeout: Option<String>,
    /// What happens then: `fail`, `reject` (fails with `signal_rejected`), `skip` or `continue` (the step settles without a signal). `fail` when absent.
    on_timeout: Option<OnTimeout>,
}

/// Attempts after the first, at most.
const MOST_RETRIES: u32 = 20;
const REPLY_WITHIN: Duration = Duration::from_secs(30);
/// No attempt may take longer.
const LONGEST_CALL: Duration = Duration::from_secs(3_600);

/// How often and when a call is made again.
#[derive(Debug, Clone)]
struct Again {
    /// Those that count.
    statuses: Vec<u16>,
    network: bool,
    max: u32,
    retry: crate::model::flow::Retry,
    jitter: bool,
}

struct Body {
    call: Option<Call>,
    strategy: Option<Strategy>,
    signals: Option<Signals>,
    undoes: Option<String>,
}

fn duration(fields: &mut Fields, name: &str, given: Option<&str>, most: Duration) -> Option<Duration> {
    let parsed = span::parse(given?);
    let Some(parsed) = parsed.filter(|parsed| *parsed <= most && !parsed.is_zero()) else {
        fields.problem(name, format!("expected a length of time up to {} s, as `500ms`, `30s`, `10m` or `24h`", most.as_secs()));
        return None;
    };
    Some(parsed)
}

fn again(fields: &mut Fields, retry: &Retry) -> Again {
    let mut statuses = Vec::new();
    let mut network = retry.on.is_none();
    for (index, on) in retry.on.iter().flatten().enumerate() {
        match on {
            On::Status(status) if (100..=599).contains(status) => statuses.push(*status),
            On::Word(word) if word == "network" => network = true,
            _ => fields.problem(&format!("retry/on/{index}"), "expected a status from 100 to 599, or `network`"),
        }
    }
    if retry.on.is_none() {
        statuses = vec![429, 502, 503, 504];
    }
    // These say themselves that the call may be made again.
    statuses.extend([408, 425, 429]);
    let max = retry.max.unwrap_or(3);
    if max > MOST_RETRIES {
        fields.problem("retry/max", format!("expected {MOST_RETRIES} at most"));
    }
    let longest = Duration::from_secs(24 * 3_600);
    let millis =
        |length: Option<Duration>, default: u64| length.and_then(|length| u64::try_from(length.as_millis()).ok()).unwrap_or(default);
    let delay_ms = millis(duration(fields, "retry/delay", retry.delay.as_deref(), longest), 1_000);
    let max_delay_ms = millis(duration(fields, "retry/max_delay", retry.max_delay.as_deref(), longest), 60_000);
    let retry_policy = crate::model::flow::Retry { max_attempts: max + 1, delay_ms, backoff: retry.backoff, max_delay_ms };
    Again { statuses, network, max, retry: retry_policy, jitter: retry.jitter.unwrap_or(true) }
}

fn compile(step: &Step) -> Result<Box<dyn StepBody>, Problems> {
    let config: Config = config(step)?;
    let mut fields = Fields::default();
    let response = config.response.unwrap_or_default();
    let timeout = duration(&mut fields, "response/timeout", response.timeout.as_deref(), LONGEST_CALL);
    if let Some(schema) = &response.schema
        && let Err(fault) = crate::tool::schema::compile(schema)
    {
        fields.problem("response/schema", fault);
    }
    let again = config.retry.as_ref().map(|retry| again(&mut fields, retry));
    let make = call::Maker { timeout: timeout.unwrap_or(REPLY_WITHIN), schema: response.schema.map(std::sync::Arc::new), again };
    let has_call = config.request.is_some();
    let call = config.request.as_ref().and_then(|request| make.call(&mut fields, "request", request));
    let strategy = config.strategy.and_then(|strategy| strategy.compile(&mut fields, &make, has_call));
    let signals = config.wait.as_ref().and_then(|wait| signals::compile(&mut fields, wait));
    if !has_call && strategy.is_none() && config.wait.is_none() && fields.0.0.is_empty() {
        fields.problem("", "expected a `request`, a `wait`, or both");
    }
    if config.undoes.is_some() && config.request.as_ref().is_some_and(|request| request.effect == Some(Effect::Once)) {
        fields.problem("request/effect", "an undo is called again under the same key; it cannot be `once`");
    }
    fields.finish(Some(Body { call, strategy, signals, undoes: config.undoes }))
}

/// Emits an event that the engine knows under a name of its own, with its time.
fn emit(context: &StepContext<'_>, name: &str, mut value: Value) {
    if let Value::Object(members) = &mut value {
        members.insert("at".into(), json!(context.now()));
    }
    context.emit(Event::Custom { name: name.into(), value });
}

/// A template in the language of paths whose result is stored and shown.
fn shown_tree(fields: &mut Fields, name: &str, value: &Value) -> Option<TemplateTree> {
    match TemplateTree::parse_in(value, Language::Paths) {
        Ok(tree) if tree.uses_secrets() => fields.problem(name, SECRETS),
        Ok(tree) => return Some(tree),
        Err(faults) => faults.0.into_iter().for_each(|fault| fields.0.add(format!("/{name}{}", fault.pointer), fault.message)),
    }
    None
}

impl Body {
    /// What calls see besides what everybody sees.
    async fn own(&self, context: &StepContext<'_>) -> StepResult<Map<String, Value>> {
        let mut own = context.open_vars().await?;
        if let Some(undone) = &self.undoes {
            let settled = context.variable("steps").and_then(|steps| steps.get(undone)).cloned();
            // One that waits for a signal after its call is not settled.
            let step = settled.or_else(|| context.recall_as(&format!("steps/{undone}/{CALLED}")));
            own.insert("self".into(), step.unwrap_or_default());
        }
        Ok(own)
    }
}

#[async_trait]
impl StepBody for Body {
    fn reads(&self) -> StepReads {
        let mut reads = StepReads { sent: self.call.as_ref().map(Call::reads).unwrap_or_default(), ..StepReads::default() };
        if let Some(strategy) = &self.strategy {
            strategy.reads(&mut reads);
        }
        reads
    }

    async fn run(&self, context: &StepContext<'_>) -> StepResult<StepOutput> {
        let own = self.own(context).await?;
        let mut output = StepOutput::default();
        let mut value = Map::new();
        let mut wait = None;
        let undoes = self.undoes.is_some();
        match (&self.strategy, &self.call) {
            (Some(strategy), call) => output.orders = strategy.run(context, call.as_ref(), &own, &mut value).await?,
            (None, Some(call)) => {
                let step = self.undoes.as_deref().unwrap_or(context.step_id());
                let suffix = if undoes { "/compensate" } else { "" };
                let rest = if undoes { Rest::InHand } else { Rest::Pause };
                let place = Place { at: "call".into(), key: format!("{step}{suffix}"), step, own: &own, rest, told: true };
                let reply = call.make(context, &place).await?;
                value.insert("response".into(), reply.value());
                value.insert("attempts".into(), json!(reply.attempts));
                wait.clone_from(&reply.directives.wait);
                output.orders = reply.directives.orders();
            }
            (None, None) => {}
        }
        let asked = wait.map(|(name, lasts)| Signals::one(name, lasts));
        let waits = output.orders.end.is_none() && (asked.is_some() || self.signals.is_some());
        let called = context.key(CALLED);
        if waits && !undoes && context.recall(&called).is_none() {
            // From here on there is something to undo.
            context.record_done(&called, &value);
        }
        // What a service asks for comes first; then what the document waits for.
        for (at, signals) in [("asked", asked.as_ref()), ("wait", self.signals.as_ref())] {
            let Some(signals) = signals.filter(|_| waits) else { continue };
            if undoes {
                return Err(StepFailure::new("undo_waits", "an undo cannot wait for signals").into());
            }
            signals.take(context, at, &mut value).await?;
        }
        output.value = Value::Object(value);
        Ok(output)
    }
}

/// Named or numbered calls.
type Requests = IndexMap<String, Call>;

/// The members of a map, or of a list by their positions.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "WorkflowRequests")]
enum Several {
    Named(BTreeMap<String, Request>),
    Listed(Vec<Request>),
}
