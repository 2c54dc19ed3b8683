//! What the methods of requests do: functions of the admin surface.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::frame::Refusal;
use crate::error::{Error, Kind, Problem, Problems, Result};
use crate::http::AppState;
use crate::http::admin::{crons, dlq, events, jobs, stats, workflows};
use crate::http::extract::{InPath, parse};
use crate::http::scope::{FlowsExecute, FlowsRead, JobsRead, JobsWrite, Scope, require};
use crate::id::{DeadLetterId, EventId, JobId, RunId};
use crate::model::Caller;

/// The scope that a method takes; `None`: there is no such method.
fn scope_of(method: &str) -> Option<&'static str> {
    match method {
        "job.enqueue" | "job.cancel" | "dlq.replay" => Some(JobsWrite::NAME),
        "job.get" | "job.list" | "cron.list" | "dlq.list" | "stats" => Some(JobsRead::NAME),
        "workflow.start" | "workflow.event" | "workflow.cancel" | "workflow.replay" => Some(FlowsExecute::NAME),
        "workflow.get" | "workflow.timeline" => Some(FlowsRead::NAME),
        _ => None,
    }
}

/// The refusal of a method that is none.
fn unknown(method: &str) -> Refusal {
    let message = match method {
        _ if method.starts_with("federation.") => format!("federation is not enabled, so there is no method `{method}`"),
        "subscribe" | "unsubscribe" => format!("`{method}` takes a WebSocket or /dwp/sse, where events can be sent"),
        _ => format!("unknown method `{method}`"),
    };
    let error = Error::new(Kind::Malformed, "unknown_method", message).next("docs/jobs.md lists the methods");
    Refusal { code: 405, error }
}

/// A job by its id.
#[derive(Deserialize)]
struct JobData {
    job_id: String,
}

/// A run by its id.
#[derive(Deserialize)]
struct RunData {
    run_id: String,
}

/// A run, and the step from which it is done again.
#[derive(Deserialize)]
struct ReplayData {
    run_id: String,
    from_step: String,
}

/// A dead letter by its id.
#[derive(Deserialize)]
struct LetterData {
    entry_id: String,
}

/// A run to start.
#[derive(Deserialize)]
struct StartData {
    name: String,
    #[serde(default)]
    input: Value,
}

/// Does what a request asks for; gives its answer's data.
pub(super) async fn handle(state: &AppState, caller: &Caller, method: &str, data: Value) -> Result<Value, Refusal> {
    require(caller, scope_of(method).ok_or_else(|| unknown(method))?)?;
    let (tenant, store, clock) = (caller.tenant, &state.store, &state.clock);
    let depth = state.limits.body().depth;
    Ok(match method {
        "job.enqueue" => {
            let job = jobs::enqueue_job(state, caller, JobId::new(clock), read(data)?).await?;
            brief(&job, "job_id", &["queue", "state"])?
        }
        "job.get" => shown(&jobs::read_job(state, tenant, job_id(data)?).await?)?,
        "job.list" => shown(&jobs::list_jobs(store, tenant, read(data)?).await?)?,
        "job.cancel" => {
            let id = job_id(data)?;
            state.jobs.cancel(tenant, id).await?;
            json!({ "status": "cancelled", "job_id": id })
        }
        "workflow.start" => {
            let StartData { name, input } = read(data)?;
            let run = workflows::start_run(state, caller, &name, members(decoded(input, depth))?, RunId::new(clock).as_u128()).await?;
            brief(&run, "run_id", &["name", "state"])?
        }
        "workflow.get" => shown(&workflows::read_run(store, tenant, run_id(data)?).await?)?,
        "workflow.cancel" => {
            workflows::cancel_run(&state.jobs, tenant, run_id(data)?).await?;
            json!({ "status": "cancelled" })
        }
        "workflow.timeline" => shown(&workflows::read_timeline(store, tenant, run_id(data)?).await?)?,
        "workflow.replay" => {
            let ReplayData { run_id, from_step } = read(data)?;
            let run = workflows::replay_run(state, caller, parse_run(&run_id)?, &from_step, RunId::new(clock).as_u128()).await?;
            brief(&run, "run_id", &["name", "state"])?
        }
        "workflow.event" => {
            let mut input: events::Input = read(data)?;
            input.payload = decoded(input.payload, depth);
            let published = events::publish_event(state, tenant, EventId::new(clock), input).await?;
            brief(&published, "event_id", &["name", "jobs"])?
        }
        "cron.list" => shown(&crons::list_crons(store, tenant, read(data)?).await?)?,
        "dlq.list" => shown(&dlq::list_letters(store, tenant, read(data)?).await?)?,
        "dlq.replay" => {
            let LetterData { entry_id } = read(data)?;
            let id = entry_id.parse::<DeadLetterId>().map_err(|_| DeadLetterId::malformed())?;
            let (job, earlier) = dlq::replay_letter(state, caller, id).await?;
            let mut data = brief(&job, "job_id", &["queue", "state"])?;
            if let Some(earlier) = earlier {
                data["earlier_job_id"] = json!(earlier);
            }
            data
        }
        "stats" => {
            let broker = state.jobs.broker().stats(tenant);
            let mut data = shown(&stats::count_all(store, tenant).await?)?;
            data["connections"] = broker.subscribers.into();
            data["broker"] = json!({
                "topic_count": broker.topics, "subscriber_count": broker.subscribers,
                "total_published": broker.published, "total_dropped": broker.dropped,
            });
            data
        }
        _ => return Err(unknown(method)),
    })
}

/// Reads a request's data; nothing is an object without members. Error `validation_failed`: it does not fit.
pub(super) fn read<T: DeserializeOwned>(data: Value) -> Result<T> {
    let data = if data.is_null() { Value::Object(Map::new()) } else { data };
    if !data.is_object() {
        return Err(Error::invalid_at("/data", "expected an object"));
    }
    serde_path_to_error::deserialize(data).map_err(|error| Problems::from(Problem::misfit(&error).under("/data")).into())
}

fn shown(row: &impl Serialize) -> Result<Value> {
    serde_json::to_value(row).map_err(Error::internal)
}

/// The id of what was made, under the name that this protocol has for it, and some of its members.
fn brief(row: &impl Serialize, id: &str, names: &[&str]) -> Result<Value> {
    let row = shown(row)?;
    let member = |name: &str| row.get(name).cloned().unwrap_or_default();
    let mut data = Map::from_iter([(id.to_owned(), member("id"))]);
    data.extend(names.iter().map(|name| ((*name).to_owned(), member(name))));
    Ok(Value::Object(data))
}

fn job_id(data: Value) -> Result<JobId> {
    read::<JobData>(data)?.job_id.parse().map_err(|_| JobId::malformed())
}

fn run_id(data: Value) -> Result<workflows::WorkflowRunId> {
    parse_run(&read::<RunData>(data)?.run_id)
}

fn parse_run(text: &str) -> Result<workflows::WorkflowRunId> {
    text.parse().map_err(|_| workflows::WorkflowRunId::malformed())
}

/// Some clients send an object or a list as the text of its JSON.
fn decoded(value: Value, depth: usize) -> Value {
    let text = value.as_str().filter(|text| text.trim_start().starts_with(['{', '[']));
    let parsed = text.and_then(|text| parse(text.as_bytes(), depth).ok());
    parsed.unwrap_or(value)
}

/// The variables of a run.
fn members(input: Value) -> Result<Map<String, Value>> {
    match input {
        Value::Object(members) => Ok(members),
        Value::Null => Ok(Map::new()),
        _ => Err(Error::invalid_at("/data/input", "expected an object: the variables of the flow")),
    }
}
