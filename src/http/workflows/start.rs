//! `POST /workflows/{workflow}`: a run of a workflow, waited for or not; and runs that cron entries and events begin.

use std::collections::BTreeMap;
use std::time::Duration;

use aide::axum::ApiRouter;
use aide::axum::routing::post_with;
use async_trait::async_trait;
use axum::Json;
use axum::body::Body as Raw;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::definitions::{Stored, all, everyone, find};
use super::document::Trigger;
use super::door::{Starter, run_token};
use super::reply::reply;
use super::runs::{RunView, Status, flow_of, view};
use super::{Name, about, accepted, is_name, may_refuse, order, printed, takes_anything};
use crate::clock::Clock;
use crate::engine::{Engine, StartRun};
use crate::error::{Error, Kind, Problems, Result};
use crate::http::extract::{Id, IdempotencyKey, as_sent, not_deeper};
use crate::http::idempotency::fingerprint;
use crate::http::problem::Problem;
use crate::http::{AppState, admission};
use crate::id::{RunId, TenantId};
use crate::model::event::Rest;
use crate::model::job::{Placed, WORKFLOW_PREFIX};
use crate::model::run::Failure;
use crate::model::{Flow, Run, RunInput, RunState, Target, WaitKind};
use crate::number;
use crate::queue::jobs::NamedFlows;
use crate::secret::Vault;
use crate::store::{Created, Kept, RunKey, SharedStore};

const TAG: &str = "HTTP workflows";
const ROUTE: &str = "POST /workflows/{workflow}";
/// How long a call waits for its run when it does not say, and at most.
const PATIENCE: Duration = Duration::from_secs(60);
const LONGEST_PATIENCE: Duration = Duration::from_secs(120);
/// How often it is looked whether a run that rests waits for a signal.
const LOOK: Duration = Duration::from_millis(500);
/// Headers of a caller that a run never sees.
const HIDDEN: [&str; 6] = ["authorization", "cookie", "set-cookie", "proxy-authorization", "x-api-key", "dispatched-session"];
const RUN_HEADER: HeaderName = HeaderName::from_static("dispatched-run");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new().api_route(
        "/workflows/{workflow}",
        post_with(trigger, |op| {
            let op = takes_anything(about("triggerHttpWorkflow", TAG, "Start a run of a workflow")(op), "application/json");
            may_refuse(op, &[502])
                .response_with::<200, Json<RunView>, _>(|answer| {
                    answer.description("The run; where the document has a `response`, that, in whatever form")
                })
                .response::<202, Json<Begun>>()
        }),
    )
}

/// A run that was started and is not waited for.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "HttpWorkflowBegun")]
struct Begun {
    run_id: String,
    status: Status,
}

/// What runs are made of.
pub(super) struct Beginning<'a> {
    pub engine: &'a Engine,
    pub vault: &'a Vault,
    pub clock: &'a Clock,
    pub tenant: TenantId,
}

impl Beginning<'_> {
    /// A run of a workflow that was triggered so.
    pub fn run(&self, kept: &Kept<Stored>, trigger: Value) -> Result<StartRun> {
        let document = &kept.body.document;
        let plan = Engine::accepted(|| document.compile().and_then(|flow| self.engine.check(&flow)))?;
        let (id, now) = (RunId::new(self.clock), self.clock.now());
        let mut inputs = Map::new();
        inputs.insert("trigger".into(), trigger);
        let run = json!({ "id": printed(id), "workflow": document.name, "version": document.version, "started_at": now });
        inputs.insert("run".into(), run);
        let mut input = RunInput { inputs, ..RunInput::default() };
        input.options.source = "workflow".into();
        let token = run_token(self.vault, self.tenant, id)?;
        let secrets = BTreeMap::from([(crate::engine::RUN_SESSION.to_owned(), token)]);
        let target = Target::Workflow(kept.id);
        Ok(StartRun { id: Some(id), tenant: self.tenant, plan, target, input, secrets, key: None, parent: None })
    }
}

/// What was asked: the body as it came, and what it says. The lines of a repeated header are joined (RFC 9110, section 5.3).
fn told(headers: &HeaderMap, query: Option<&str>, text: &[u8], body: &Value) -> Value {
    let mut shown = Map::new();
    for name in headers.keys().filter(|name| !HIDDEN.contains(&name.as_str())) {
        let lines: Vec<_> = headers.get_all(name).iter().map(|line| String::from_utf8_lossy(line.as_bytes())).collect();
        shown.insert(name.as_str().to_owned(), lines.join(", ").into());
    }
    let pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let query: Map<String, Value> =
        pairs.filter(|(name, _)| name != "session").map(|(name, value)| (name.into_owned(), Value::String(value.into_owned()))).collect();
    json!({ "type": "http", "body": body, "raw_body": String::from_utf8_lossy(text), "headers": shown, "query": query })
}

/// A body: JSON, unless it is said to be something else; nothing is null.
fn body_of(headers: &HeaderMap, text: &[u8], depth: usize) -> Result<Value> {
    if text.is_empty() {
        return Ok(Value::Null);
    }
    let full = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("application/json");
    let essence = full.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence.ends_with("json") {
        return crate::http::extract::parse(text, depth);
    }
    not_deeper(text, depth)?;
    let text = String::from_utf8_lossy(text);
    if essence == "application/x-www-form-urlencoded" {
        // curl gives this type to whatever `--data` is.
        if text.trim_start().starts_with(['{', '['])
            && let Ok(value) = crate::http::extract::parse(text.as_bytes(), depth)
        {
            return Ok(value);
        }
        let pairs = url::form_urlencoded::parse(text.as_bytes());
        return Ok(Value::Object(pairs.map(|(name, value)| (name.into_owned(), Value::String(value.into_owned()))).collect()));
    }
    Ok(Value::String(text.into_owned()))
}

/// Whether the body keeps to the schema of the document's trigger.
async fn fits(engine: &Engine, tenant: TenantId, kept: &Kept<Stored>, body: &Value) -> Result<()> {
    let document = &kept.body.document;
    let mut problems = Problems::default();
    for trigger in &document.triggers {
        let Trigger::Http { schema: Some(schema) } = trigger else { continue };
        let Some(schema) = Engine::accepted(|| document.schema(schema, "", &mut problems)) else { continue };
        for (pointer, message) in engine.judge(tenant, &schema, body).await? {
            problems.add(pointer, message);
        }
    }
    problems.into_result()
}

/// What a caller prefers (RFC 7240): not to wait, or how long.
fn preference(headers: &HeaderMap) -> (bool, Duration) {
    let (mut asynchronous, mut patience) = (false, PATIENCE);
    let texts = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    for wish in texts.flat_map(|text| text.split([',', ';'])).map(str::trim) {
        if wish.eq_ignore_ascii_case("respond-async") {
            asynchronous = true;
        } else if let Some(seconds) = wish.strip_prefix("wait=").and_then(|seconds| seconds.trim_matches('"').parse().ok()) {
            patience = Duration::from_secs(seconds).min(LONGEST_PATIENCE);
        }
    }
    (asynchronous, patience)
}

async fn trigger(
    starter: Starter,
    State(state): State<AppState>,
    Id(name): Id<Name>,
    key: IdempotencyKey,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Raw,
) -> Result<Response, Problem> {
    let tenant = starter.tenant();
    let kept = find(&state.store, tenant, &name).await?;
    let text = as_sent(&headers, body, &state).await?;
    let value = body_of(&headers, &text, state.limits.body().depth)?;
    fits(&state.engine, tenant, &kept, &value).await?;
    let (asynchronous, patience) = preference(&headers);
    let beginning = Beginning { engine: &state.engine, vault: &state.vault, clock: &state.clock, tenant };
    let mut start = beginning.run(&kept, told(&headers, query.as_deref(), &text, &value))?;
    let request_hash = fingerprint(&[name.0.as_bytes(), b"\n", &text].concat());
    start.key = key.0.map(|key| RunKey {
        route: ROUTE.into(),
        key: format!("{}/{key}", name.0),
        request_hash: request_hash.clone(),
        expires_at: state.clock.now().after(state.limits.options().idempotency_ttl),
    });
    admission::admit_start(&state.engine, starter.caller(), &mut start).await?;
    let plan = start.plan.clone();
    let (run, replayed) = match state.workers.start_run(start).await? {
        (run, Created::New) => (run, false),
        (_, Created::Duplicate { run, request_hash: before }) if before == request_hash => (run, true),
        (_, Created::Duplicate { .. }) => {
            let message = "this Idempotency-Key was used for another body before";
            return Err(Error::new(Kind::Invalid, "idempotency_key_reused", message).next("use a new key").into());
        }
    };
    let found = if asynchronous { None } else { wait(&state, tenant, run, patience).await? };
    let mut response = match found {
        Some(found) if found.state == RunState::Completed && replayed => {
            let flow = flow_of(&state.store, &found).await?;
            completed(&state, found, &flow).await?
        }
        Some(found) if found.state == RunState::Completed => completed(&state, found, &plan.flow).await?,
        Some(found) => broken(found),
        None => begun(&state, tenant, run, asynchronous, replayed).await?,
    };
    let out = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&printed(run)) {
        out.insert(RUN_HEADER, value);
    }
    if replayed {
        out.insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// The run when it has ended; `None` when it waits for a signal, or has not ended in time.
async fn wait(state: &AppState, tenant: TenantId, run: RunId, patience: Duration) -> Result<Option<Run>> {
    let mut follower = state.feed.follow(tenant, run, None);
    let enough = state.clock.sleep(patience);
    tokio::pin!(enough);
    let mut resting = false;
    loop {
        let stretch = tokio::select! {
            stretch = follower.next() => stretch?,
            () = state.clock.sleep(LOOK), if resting => {
                if waits_for_others(state, tenant, run).await? {
                    return Ok(None);
                }
                continue;
            }
            () = &mut enough => return Ok(None),
        };
        match stretch.rest {
            Rest::End => return Ok(state.store.find_run(tenant, run).await?),
            Rest::Caller => return Ok(None),
            Rest::Later if waits_for_others(state, tenant, run).await? => return Ok(None),
            Rest::Later => resting = true,
            Rest::None => resting = false,
        }
    }
}

/// Whether a run waits for something that does not come by itself.
async fn waits_for_others(state: &AppState, tenant: TenantId, run: RunId) -> Result<bool> {
    let paused = state.store.find_run(tenant, run).await?.is_some_and(|run| run.state == RunState::Paused);
    let waits = state.store.run_waits(tenant, run).await?;
    let mut open = waits.iter().filter(|wait| wait.resolution.is_none());
    Ok(paused && open.any(|wait| !matches!(wait.kind, WaitKind::Timer | WaitKind::Child)))
}

/// The answer of a run that is not over, or was not waited for.
async fn begun(state: &AppState, tenant: TenantId, id: RunId, asynchronous: bool, replayed: bool) -> Result<Response> {
    let is_new = asynchronous && !replayed;
    let now = if is_new { None } else { state.store.find_run(tenant, id).await? };
    let status = now.map_or(Status::Queued, |run| Status::of(run.state));
    let mut response = accepted(Begun { run_id: printed(id), status });
    let out = response.headers_mut();
    if let Ok(place) = HeaderValue::from_str(&format!("/api/runs/{}", printed(id))) {
        out.insert(LOCATION, place);
    }
    if asynchronous {
        out.insert(PREFERENCE_APPLIED, HeaderValue::from_static("respond-async"));
    }
    Ok(response)
}

/// The answer of a run that has completed: what its document says, or the run.
async fn completed(state: &AppState, run: Run, flow: &Flow) -> Result<Response> {
    if flow.workflow.as_ref().is_some_and(|workflow| workflow.output.is_some()) {
        let told = |error: Error| Problem::new(StatusCode::BAD_GATEWAY, error.details(json!({ "run_id": printed(run.id), "step": null })));
        return Ok(reply(run.id, &run.output.unwrap_or_default()).unwrap_or_else(|error| told(error).into_response()));
    }
    Ok(Json(view(&state.store, run, flow).await?).into_response())
}

/// The answer of a run that has failed or was cancelled.
fn broken(run: Run) -> Response {
    let failure = run.failure.unwrap_or_else(|| Failure {
        code: "cancelled".into(),
        message: "the run was cancelled".into(),
        step: None,
        retryable: false,
    });
    let details = json!({ "run_id": printed(run.id), "step": failure.step });
    let error = Error::new(Kind::Invalid, failure.code, failure.message).details(details);
    Problem::new(StatusCode::BAD_GATEWAY, error).into_response()
}

/// Workflows by their names, for the queues: what [`WORKFLOW_PREFIX`] stands in front of.
pub struct Workflows {
    engine: Engine,
    store: SharedStore,
    vault: Vault,
    clock: Clock,
}

impl Workflows {
    pub fn new(engine: Engine, store: SharedStore, vault: Vault, clock: Clock) -> Self {
        Self { engine, store, vault, clock }
    }
}

#[async_trait]
impl NamedFlows for Workflows {
    async fn run_of(&self, tenant: TenantId, name: &str, inputs: Map<String, Value>) -> Result<Option<StartRun>> {
        let name = name.strip_prefix(WORKFLOW_PREFIX).unwrap_or(name);
        if !is_name(name) {
            return Ok(None);
        }
        let Some(kept) = all(&self.store, tenant).find(Name(name.to_owned()).id()).await? else { return Ok(None) };
        let payload = inputs.get("payload").cloned().unwrap_or_default();
        let member = |name: &str| payload.get(name).cloned().unwrap_or_default();
        let kind = payload.get("type").and_then(Value::as_str).unwrap_or("job");
        let mut trigger =
            json!({ "type": kind, "body": if kind == "job" { payload.clone() } else { member("body") }, "headers": {}, "query": {} });
        trigger["raw_body"] = trigger["body"].to_string().into();
        if kind == "event" {
            trigger["event"] = member("event");
        }
        let beginning = Beginning { engine: &self.engine, vault: &self.vault, clock: &self.clock, tenant };
        beginning.run(&kept, trigger).map(Some)
    }

    async fn triggered(&self, tenant: TenantId, event: &str, payload: &Value) -> Result<Vec<(String, Placed)>> {
        let has = |wanted: &Map<String, Value>| {
            wanted.iter().all(|(name, value)| payload.get(name).is_some_and(|found| number::alike(found, value)))
        };
        let wanted = |trigger: &Trigger| matches!(trigger, Trigger::Event { event: name, filter } if name == event && has(filter));
        let all = everyone(&self.store, tenant).await?.into_iter();
        let triggered = all.filter(|kept| kept.body.document.triggers.iter().any(wanted));
        let placed = |name: String| {
            let placed = order(&name, json!({ "type": "event", "event": event, "body": payload }));
            (name, placed)
        };
        Ok(triggered.map(|kept| placed(kept.body.document.name)).collect())
    }
}
