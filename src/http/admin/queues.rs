//! `/v1/queues` and `/v1/workers`: how much may happen at once, and who does it.

use std::collections::{BTreeMap, BTreeSet};

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, put_with};
use axum::Json;
use axum::extract::State;
use axum::response::NoContent;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::jobs::Counts;
use super::order::fit;
use super::time::AdminTime;
use super::{MOST_ROWS, about};
use crate::error::{Error, Problems, Result};
use crate::http::AppState;
use crate::http::extract::{Body, Id, InPath};
use crate::http::scope::{JobsRead, JobsWrite, Scoped};
use crate::model::JobState;
use crate::model::job::{Limits, QueueRules};
use crate::store::{JobCount, JobFilter, Queue, SharedStore};

const TAG: &str = "Queues";
/// Organisations with limits of their own in one queue.
const MOST_ORGS: usize = 1_000;
/// Jobs that begin in a second, at most that can be asked for.
const FASTEST: f64 = 100_000.0;

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route("/v1/queues", get_with(list, about("listQueues", TAG, "List queues: those with rules, and those with jobs")))
        .api_route(
            "/v1/queues/{queueName}",
            put_with(put, about("putQueue", TAG, "Say how much may happen at once in a queue"))
                .delete_with(delete, about("deleteQueue", TAG, "Take a queue's rules away; its jobs stay")),
        )
        .api_route("/v1/workers", get_with(workers, about("listWorkers", TAG, "List the servers that run your jobs now")))
}

/// A queue's name, as its jobs say it.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(inline)]
struct QueueName(#[schemars(length(min = 1, max = 255))] String);

impl std::str::FromStr for QueueName {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl InPath for QueueName {
    const PARAM: &'static str = "queueName";
    const NOUN: &'static str = "queue";

    fn missing() -> Error {
        Error::not_found(Self::NOUN)
    }
}

/// A queue's rules.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "QueueInput")]
struct Input {
    #[serde(flatten)]
    limits: Limits,
    /// Limits of each organisation (`scope_org_id`) in it.
    orgs: BTreeMap<String, Limits>,
    /// No job begins.
    paused: bool,
}

/// A queue.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Queue")]
struct Row {
    name: String,
    #[serde(flatten)]
    limits: Limits,
    orgs: BTreeMap<String, Limits>,
    paused: bool,
    jobs: Counts,
}

/// A server that runs jobs.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Worker")]
struct Worker {
    id: String,
    state: &'static str,
    queues: BTreeSet<String>,
    /// Your jobs in its hands.
    jobs: u64,
    last_seen: Option<AdminTime>,
}

fn row(name: String, rules: QueueRules, counts: &[JobCount]) -> Row {
    let jobs = Counts::of(counts.iter().filter(|count| count.queue == name));
    Row { name, limits: rules.limits, orgs: rules.orgs, paused: rules.paused, jobs }
}

async fn list(caller: Scoped<JobsRead>, State(store): State<SharedStore>) -> Result<Json<Vec<Row>>> {
    let counts = store.count_jobs(caller.tenant).await?;
    let mut rules: BTreeMap<String, QueueRules> = counts.iter().map(|count| (count.queue.clone(), QueueRules::default())).collect();
    rules.extend(store.list_queues(caller.tenant).await?.into_iter().map(|queue| (queue.name, queue.rules)));
    Ok(Json(rules.into_iter().map(|(name, rules)| row(name, rules, &counts)).collect()))
}

fn check(limits: &Limits, at: &str, problems: &mut Problems) {
    if !(0.0..=FASTEST).contains(&limits.rate_limit) {
        problems.add(format!("{at}/rate_limit"), format!("expected 0 to {FASTEST}"));
    }
}

async fn put(caller: Scoped<JobsWrite>, State(store): State<SharedStore>, Id(name): Id<QueueName>, body: Body<Input>) -> Result<Json<Row>> {
    let Input { limits, orgs, paused } = body.value;
    let mut problems = Problems::default();
    fit(&name.0, 1, "", &mut problems);
    check(&limits, "", &mut problems);
    if orgs.len() > MOST_ORGS {
        problems.add("/orgs", format!("expected {MOST_ORGS} at most"));
    }
    for (org, limits) in &orgs {
        let at = format!("/orgs/{}", crate::error::pointer_token(org));
        fit(org, 1, &at, &mut problems);
        check(limits, &at, &mut problems);
    }
    problems.into_result()?;
    let queue = Queue { name: name.0, rules: QueueRules { limits, orgs, paused } };
    store.put_queue(caller.tenant, queue.clone()).await?;
    let counts = store.count_jobs(caller.tenant).await?;
    Ok(Json(row(queue.name, queue.rules, &counts)))
}

async fn delete(caller: Scoped<JobsWrite>, State(store): State<SharedStore>, Id(name): Id<QueueName>) -> Result<NoContent> {
    if !store.delete_queue(caller.tenant, &name.0).await? {
        return Err(QueueName::missing());
    }
    Ok(NoContent)
}

async fn workers(caller: Scoped<JobsRead>, State(store): State<SharedStore>) -> Result<Json<Vec<Worker>>> {
    let limit = u32::try_from(MOST_ROWS).unwrap_or(u32::MAX);
    let running = JobFilter { state: Some(JobState::Running), limit, ..JobFilter::default() };
    let mut workers: BTreeMap<String, Worker> = BTreeMap::new();
    for job in store.list_jobs(caller.tenant, running).await? {
        let Some(node) = job.worker else { continue };
        let id = format!("wkr_{}", node.suffix());
        let new = || Worker { id: id.clone(), state: "active", queues: BTreeSet::new(), jobs: 0, last_seen: None };
        let worker = workers.entry(id.clone()).or_insert_with(new);
        worker.jobs += 1;
        worker.queues.insert(job.queue);
        worker.last_seen = worker.last_seen.max(job.heartbeat_at.map(AdminTime));
    }
    Ok(Json(workers.into_values().collect()))
}
