//! `/v1/jobs`: put in queues, looked at, cancelled, tried again, deleted.

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::Json;
use axum::extract::State;
use axum::response::NoContent;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::order::{OrderInput, fit};
use super::time::AdminTime;
use super::{Window, about, given, word};
use crate::clock::Timestamp;
use crate::error::{Error, Kind, Problems, Result};
use crate::http::AppState;
use crate::http::extract::{Body, Id, IdempotencyKey, InPath, Params};
use crate::http::idempotency::{Call, Created, Receipts, fingerprint};
use crate::http::scope::{JobsRead, JobsWrite, Scoped};
use crate::id::{CronId, DeadLetterId, JobId, RunId, TenantId};
use crate::model::Caller;
use crate::model::job::{Job, JobState};
use crate::queue::Jobs;
use crate::store::{JobCount, JobFilter, SharedStore};

const TAG: &str = "Jobs";
/// The words for a job's state.
const STATES: &str = "pending, running, completed, failed, retrying, cancelled";
/// Jobs that one call about many changes.
const MOST_AT_ONCE: u32 = 1_000;

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route(
            "/v1/jobs",
            get_with(list, about("listJobs", TAG, "List jobs, oldest first"))
                .post_with(create, about("enqueueJob", TAG, "Put a job in its queue")),
        )
        .api_route("/v1/jobs/counts", get_with(counts, about("countJobs", TAG, "Count jobs by state")))
        .api_route("/v1/jobs/cancel-all", post_with(cancel_all, about("cancelJobs", TAG, "Cancel many jobs")))
        .api_route("/v1/jobs/retry-all", post_with(retry_all, about("retryJobs", TAG, "Retry many failed jobs")))
        .api_route(
            "/v1/jobs/{jobId}",
            get_with(read, about("getJob", TAG, "Read a job")).delete_with(delete, about("deleteJob", TAG, "Delete a job that is over")),
        )
        .api_route("/v1/jobs/{jobId}/cancel", post_with(cancel, about("cancelJob", TAG, "Cancel a job that waits or runs")))
        .api_route("/v1/jobs/{jobId}/retry", post_with(retry, about("retryJob", TAG, "Give a failed job all its retries again")))
}

/// A job to do.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "JobInput")]
pub(in crate::http) struct Input {
    /// What does it: the name of a saved flow; any name when there is a `callback`.
    #[schemars(length(min = 1, max = 255))]
    name: String,
    /// No attempt begins earlier; now when absent.
    #[serde(default)]
    run_at: Option<Timestamp>,
    #[serde(flatten)]
    order: OrderInput,
}

/// A job.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Job")]
pub(in crate::http) struct Row {
    id: JobId,
    name: String,
    queue: String,
    state: JobState,
    payload: Value,
    /// Attempts begun so far.
    attempt: u32,
    max_attempts: u32,
    priority: i32,
    max_retries: u32,
    /// Failures so far.
    retry_count: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
    scope_app_id: String,
    scope_org_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker_id: Option<String>,
    run_at: AdminTime,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<AdminTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed_at: Option<AdminTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    heartbeat_at: Option<AdminTime>,
    /// The time of one attempt, in nanoseconds.
    timeout: u64,
    /// The same in milliseconds.
    timeout_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    callback: Option<Value>,
    /// The cron entry that asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    cron_id: Option<CronId>,
    /// The dead letter that it was made of.
    #[serde(skip_serializing_if = "Option::is_none")]
    replay_of: Option<DeadLetterId>,
    /// The execution of the present or last attempt, when one job is read.
    #[serde(skip_serializing_if = "Option::is_none")]
    execution_id: Option<RunId>,
    created_at: AdminTime,
    updated_at: AdminTime,
}

impl From<Job> for Row {
    fn from(job: Job) -> Self {
        let order = job.order;
        let timeout_ms = order.timeout_ms.unwrap_or(0);
        Self {
            id: job.id,
            name: order.name,
            queue: job.queue,
            state: job.state,
            payload: order.payload,
            attempt: job.attempt,
            max_attempts: order.max_retries.saturating_add(1),
            priority: job.priority,
            max_retries: order.max_retries,
            retry_count: job.retry_count,
            last_error: job.last_error,
            scope_app_id: order.scope.app,
            scope_org_id: order.scope.org,
            worker_id: job.worker.map(|node| format!("wkr_{}", node.suffix())),
            run_at: job.run_at.into(),
            started_at: job.started_at.map(AdminTime),
            completed_at: job.completed_at.map(AdminTime),
            heartbeat_at: job.heartbeat_at.map(AdminTime),
            timeout: timeout_ms.saturating_mul(1_000_000),
            timeout_ms,
            callback: order.callback,
            cron_id: order.cron,
            replay_of: order.replay_of,
            execution_id: None,
            created_at: job.created_at.into(),
            updated_at: job.updated_at.into(),
        }
    }
}

/// How many jobs are in each state.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[schemars(rename = "JobCounts")]
pub(in crate::http) struct Counts {
    pending: u64,
    running: u64,
    completed: u64,
    failed: u64,
    retrying: u64,
    cancelled: u64,
}

impl Counts {
    pub fn of<'a>(counts: impl Iterator<Item = &'a JobCount>) -> Self {
        let mut all = Self::default();
        for count in counts {
            let state = match count.state {
                JobState::Pending => &mut all.pending,
                JobState::Running => &mut all.running,
                JobState::Completed => &mut all.completed,
                JobState::Failed => &mut all.failed,
                JobState::Retrying => &mut all.retrying,
                JobState::Cancelled => &mut all.cancelled,
            };
            *state += count.count;
        }
        all
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(in crate::http) struct Query {
    /// One of pending, running, completed, failed, retrying, cancelled; all when absent.
    state: Option<String>,
    queue: Option<String>,
    name: Option<String>,
    /// Only jobs behind this one: the last of the page before. Cheaper than `offset` in long lists.
    after: Option<JobId>,
    /// 50 when absent or below 1; 1,000 at most.
    limit: Option<i64>,
    /// Rows to leave out; past the end there are none.
    offset: Option<i64>,
}

/// Which of many jobs.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "JobsOfMany")]
struct Many {
    queue: Option<String>,
    name: Option<String>,
    /// Only count.
    dry_run: bool,
}

/// What became of many jobs.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[schemars(rename = "JobsChanged")]
struct Changed {
    matched: u64,
    changed: u64,
    /// Moved on before they could be changed.
    errors: u64,
    /// There are more than one call changes; ask again.
    more: bool,
}

async fn list(caller: Scoped<JobsRead>, State(store): State<SharedStore>, Params(query): Params<Query>) -> Result<Json<Vec<Row>>> {
    list_jobs(&store, caller.tenant, query).await.map(Json)
}

/// Lists jobs, oldest first.
pub(in crate::http) async fn list_jobs(store: &SharedStore, tenant: TenantId, query: Query) -> Result<Vec<Row>> {
    let window = Window::of(query.limit, query.offset);
    let filter = JobFilter {
        state: word("state", query.state.as_deref(), JobState::parse, STATES)?,
        queue: given(query.queue),
        name: given(query.name),
        after: query.after,
        offset: window.offset(),
        limit: window.limit(),
    };
    Ok(store.list_jobs(tenant, filter).await?.into_iter().map(Row::from).collect())
}

async fn create(
    caller: Scoped<JobsWrite>,
    State(state): State<AppState>,
    State(receipts): State<Receipts>,
    key: IdempotencyKey,
    body: Body<Input>,
) -> Result<Created<Row>> {
    let tenant = caller.tenant;
    let call = Call { tenant, route: "POST /v1/jobs", key, request: fingerprint(&body.raw), secret: false };
    receipts.once(call, move |seed| async move { enqueue_job(&state, &caller, JobId::from_u128(seed), body.value).await }).await
}

/// Puts a job in its queue.
pub(in crate::http) async fn enqueue_job(state: &AppState, caller: &Caller, id: JobId, input: Input) -> Result<Row> {
    let Input { name, run_at, order } = input;
    let mut problems = Problems::default();
    fit(&name, 1, "/name", &mut problems);
    let mut placed = order.place(&state.engine, name, None, &mut problems);
    placed.order.key_id = caller.key_id();
    problems.into_result()?;
    let now = state.clock.now();
    let job = Job { run_at: run_at.unwrap_or(now), ..Job::new(id, caller.tenant, placed, now) };
    state.jobs.enqueue(job.clone(), None).await?;
    Ok(Row::from(job))
}

async fn counts(caller: Scoped<JobsRead>, State(store): State<SharedStore>) -> Result<Json<Counts>> {
    Ok(Json(Counts::of(store.count_jobs(caller.tenant).await?.iter())))
}

async fn find(store: &SharedStore, tenant: TenantId, id: JobId) -> Result<Job> {
    store.find_job(tenant, id).await?.ok_or_else(JobId::missing)
}

async fn read(caller: Scoped<JobsRead>, State(state): State<AppState>, Id(id): Id<JobId>) -> Result<Json<Row>> {
    read_job(&state, caller.tenant, id).await.map(Json)
}

/// Reads a job, with the execution of its present or last attempt.
pub(in crate::http) async fn read_job(state: &AppState, tenant: TenantId, id: JobId) -> Result<Row> {
    let job = find(&state.store, tenant, id).await?;
    let execution_id = if job.attempt > 0 { state.jobs.run_of(&job).await? } else { None };
    Ok(Row { execution_id, ..Row::from(job) })
}

async fn delete(caller: Scoped<JobsWrite>, State(store): State<SharedStore>, Id(id): Id<JobId>) -> Result<NoContent> {
    match store.delete_job(caller.tenant, id).await? {
        None => Err(JobId::missing()),
        Some(state) if state.is_over() => Ok(NoContent),
        Some(state) => {
            let message = format!("the job is {}; only jobs that are over can be deleted", state.as_str());
            Err(Error::new(Kind::Malformed, "job_state", message).next("cancel it first"))
        }
    }
}

async fn cancel(caller: Scoped<JobsWrite>, State(jobs): State<Jobs>, Id(id): Id<JobId>) -> Result<NoContent> {
    jobs.cancel(caller.tenant, id).await.map(|()| NoContent)
}

async fn retry(caller: Scoped<JobsWrite>, State(jobs): State<Jobs>, Id(id): Id<JobId>) -> Result<NoContent> {
    jobs.retry(caller.tenant, id).await.map(|()| NoContent)
}

/// What is done to many jobs.
#[derive(Clone, Copy)]
enum Act {
    Cancel,
    Retry,
}

impl Act {
    /// The states of the jobs that it can be done to.
    const fn states(self) -> &'static [JobState] {
        match self {
            Self::Cancel => &[JobState::Pending, JobState::Retrying],
            Self::Retry => &[JobState::Failed],
        }
    }

    async fn on(self, jobs: &Jobs, tenant: TenantId, id: JobId) -> Result<()> {
        match self {
            Self::Cancel => jobs.cancel(tenant, id).await,
            Self::Retry => jobs.retry(tenant, id).await,
        }
    }

    /// Does it to all jobs that are meant, one by one.
    async fn on_all(self, state: &AppState, tenant: TenantId, many: Many) -> Result<Json<Changed>> {
        let (queue, name) = (given(many.queue), given(many.name));
        let mut all = Changed::default();
        for from in self.states() {
            let (queue, name) = (queue.clone(), name.clone());
            let filter = JobFilter { state: Some(*from), queue, name, limit: MOST_AT_ONCE + 1, ..JobFilter::default() };
            let found = state.store.list_jobs(tenant, filter).await?;
            all.more |= found.len() > MOST_AT_ONCE as usize;
            for job in found.into_iter().take(MOST_AT_ONCE as usize) {
                all.matched += 1;
                if many.dry_run {
                    continue;
                }
                match self.on(&state.jobs, tenant, job.id).await {
                    Ok(()) => all.changed += 1,
                    Err(error) if error.kind() == Kind::Unavailable => return Err(error),
                    Err(_) => all.errors += 1,
                }
            }
        }
        Ok(Json(all))
    }
}

async fn cancel_all(caller: Scoped<JobsWrite>, State(state): State<AppState>, body: Body<Many>) -> Result<Json<Changed>> {
    Act::Cancel.on_all(&state, caller.tenant, body.value).await
}

async fn retry_all(caller: Scoped<JobsWrite>, State(state): State<AppState>, body: Body<Many>) -> Result<Json<Changed>> {
    Act::Retry.on_all(&state, caller.tenant, body.value).await
}
