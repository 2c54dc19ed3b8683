//! Jobs: what waits in queues, and becomes a run when its turn has come.
//!
//! A claim takes jobs within the limits of their queues, on all nodes together; each becomes a run under the key of its attempt, and that run's end
//! is the job's, in one commit. So nothing here has to watch. What died between the claim and the run is found when nobody has said for a while
//! that the attempt is alive.
//!
//! Must not know: HTTP, which flow a name means (see [`NamedFlows`]).

mod callback;
mod keeper;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use self::callback::Callback;
use super::Workers;
use super::broker::{self, Broker, StreamEvent};
use super::webhooks::DeliveryLimits;
use crate::clock::{Clock, Timestamp};
use crate::engine::{Parts, StartRun};
use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::id::{DeadLetterId, JobId, KeyId, RunId, TenantId};
use crate::model::job::{DeadLetter, Job, Order, Placed};
use crate::model::{JobState, RunState};
use crate::store::{Created, Enqueued, NewJob, RunKey, SharedStore};

/// The route under which attempts' runs are known by their keys.
const ROUTE: &str = "job";
/// How long it is remembered that an attempt was begun: longer than any outage after which it would be tried again.
const KEY_LIFE: Duration = Duration::from_secs(90 * 24 * 3_600);

/// With these words the workers refuse a run that they have not begun.
const REFUSALS: [&str; 3] = ["at_capacity", "overloaded", "shutting_down"];

/// How jobs are taken.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Jobs of one tenant in this node's hands at once.
    pub at_once: usize,
    /// How often it is looked for jobs without a reason to.
    pub poll: Duration,
    /// How much is sent to webhooks.
    pub deliveries: DeliveryLimits,
}

impl Default for Options {
    fn default() -> Self {
        Self { at_once: 100, poll: Duration::from_millis(500), deliveries: DeliveryLimits::default() }
    }
}

/// What knows the flows that names mean.
#[async_trait]
pub trait NamedFlows: Send + Sync + 'static {
    /// A run of the flow; `None` when there is none of that name. It fails when one of its steps does, unless the step says otherwise.
    async fn run_of(&self, tenant: TenantId, name: &str, inputs: Map<String, Value>) -> Result<Option<StartRun>>;

    /// The flows that an event triggers, by their names, and what their jobs are to do.
    async fn triggered(&self, _tenant: TenantId, _event: &str, _payload: &Value) -> Result<Vec<(String, Placed)>> {
        Ok(Vec::new())
    }
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Jobs(Arc<Inner>);

struct Inner {
    workers: Workers,
    flows: Box<dyn NamedFlows>,
    options: Options,
    broker: Broker,
    /// Rings when there may be something to take.
    look: Notify,
    stop: CancellationToken,
}

impl Jobs {
    /// Starts taking jobs; they are taken no more once the workers stop.
    pub fn start(workers: Workers, flows: impl NamedFlows, options: Options) -> Self {
        let stop = workers.inner().stop.clone();
        let (broker, look) = (Broker::default(), Notify::new());
        let jobs = Self(Arc::new(Inner { workers, flows: Box::new(flows), options, broker, look, stop }));
        drop(tokio::spawn(keeper::take(jobs.clone())));
        drop(tokio::spawn(broker::watch(jobs.clone())));
        jobs
    }

    /// Puts a job in its queue; durable when it returns. With a key, the same key again is the same job.
    pub async fn enqueue(&self, job: Job, key: Option<String>) -> Result<Enqueued> {
        failpoint::hit("job.enqueue.before");
        let event = self.0.broker.has_listeners(job.tenant).then(|| (job.tenant, self.enqueued(&job)));
        let enqueued = self.store().enqueue_job(NewJob { job, key }).await?;
        failpoint::hit("job.enqueue.after");
        if let Some((tenant, event)) = event.filter(|_| enqueued == Enqueued::New) {
            self.0.broker.publish(tenant, event);
        }
        self.0.look.notify_one();
        Ok(enqueued)
    }

    /// Who listens to what becomes of jobs and runs.
    pub fn broker(&self) -> &Broker {
        &self.0.broker
    }

    fn enqueued(&self, job: &Job) -> StreamEvent {
        StreamEvent::of_job("job.enqueued", job, self.now(), json!({}))
    }

    /// What starts a run of a flow by its name, which no queue holds up; `None` when there is no flow of that name.
    pub async fn named_start(
        &self,
        tenant: TenantId,
        name: &str,
        inputs: Map<String, Value>,
        key: Option<RunKey>,
    ) -> Result<Option<StartRun>> {
        let start = self.0.flows.run_of(tenant, name, inputs).await?;
        Ok(start.map(|start| StartRun { key, ..start }))
    }

    /// Replays an ended run from a step on; see `Engine::replay`.
    pub async fn replay_run(&self, caller: (TenantId, Option<KeyId>), run: RunId, new: RunId, from: &str, key: RunKey) -> Result<RunId> {
        match self.0.workers.engine().replay(caller, run, new, from, Some(key)).await? {
            (new, Created::New) => {
                self.0.workers.nudge(new).await;
                Ok(new)
            }
            (_, Created::Duplicate { run, .. }) => Ok(run),
        }
    }

    /// Cancels a run; the state it was in. `None`: no such run.
    pub async fn cancel_run(&self, tenant: TenantId, run: RunId) -> Result<Option<RunState>> {
        match self.store().find_run(tenant, run).await? {
            None => Ok(None),
            Some(_) => self.0.workers.cancel(tenant, run).await.map(Some),
        }
    }

    /// The run of a job's present attempt, if it has begun.
    pub async fn run_of(&self, job: &Job) -> Result<Option<RunId>> {
        let found = self.store().find_created_run(job.tenant, ROUTE, &job.attempt().key(), self.now()).await?;
        Ok(found.and_then(|created| match created {
            Created::Duplicate { run, .. } => Some(run),
            Created::New => None,
        }))
    }

    /// Cancels a job: at once while it waits, and through its run while it runs. Error `job_state`: it is over.
    pub async fn cancel(&self, tenant: TenantId, id: JobId) -> Result<()> {
        loop {
            let waiting = [JobState::Pending, JobState::Retrying];
            match self.store().move_job(tenant, id, &waiting, JobState::Cancelled, self.now()).await? {
                None => return Err(Error::not_found("job")),
                Some(JobState::Pending | JobState::Retrying) => {
                    // It is cancelled, whether its subscribers can be told or not.
                    if self.0.broker.has_listeners(tenant)
                        && let Ok(Some(job)) = self.store().find_job(tenant, id).await
                    {
                        self.0.broker.publish(tenant, StreamEvent::of_job("job.cancelled", &job, self.now(), json!({})));
                    }
                    return Ok(());
                }
                Some(JobState::Running) => {}
                Some(state) => return Err(over(state, "cancelled")),
            }
            let job = self.store().find_job(tenant, id).await?.ok_or_else(|| Error::not_found("job"))?;
            if job.state != JobState::Running {
                continue;
            }
            let begins = || Error::new(Kind::Unavailable, "job_begins", "the job begins just now").retry_after(Duration::from_secs(1));
            let run = self.run_of(&job).await?.ok_or_else(begins)?;
            if !self.0.workers.cancel(tenant, run).await?.is_terminal() {
                return Ok(());
            }
            // The attempt has ended meanwhile. What it made of the job is seen the next time, unless that is still to be noted.
            if self.store().find_job(tenant, id).await?.is_some_and(|now| now.state == JobState::Running && now.attempt == job.attempt) {
                return Err(begins());
            }
        }
    }

    /// Gives a failed job all its retries again, at once. Error `job_state`: it has not failed.
    pub async fn retry(&self, tenant: TenantId, id: JobId) -> Result<()> {
        match self.store().move_job(tenant, id, &[JobState::Failed], JobState::Pending, self.now()).await? {
            None => Err(Error::not_found("job")),
            Some(JobState::Failed) => {
                self.0.look.notify_one();
                Ok(())
            }
            Some(state) => Err(over(state, "retried")),
        }
    }

    /// Makes a job of a dead letter again, with everything that the first one had; the new job.
    pub async fn replay(&self, letter: &DeadLetter, key_id: Option<KeyId>, id: JobId) -> Result<Job> {
        let now = self.now();
        let order = Order { replay_of: Some(letter.id), key_id, ..letter.order.clone() };
        let placed = Placed { queue: letter.queue.clone(), priority: letter.priority, order };
        let job = Job::new(id, letter.tenant, placed, now);
        if !self.store().replay_dead(letter.tenant, letter, job.clone(), now).await? {
            return Err(match self.store().find_dead(letter.tenant, letter.id).await? {
                None => Error::not_found("dlq entry"),
                Some(_) => Error::new(Kind::Conflict, "already_replayed", "the dead letter was made a job at the same time")
                    .next("GET /v1/dlq/{entryId} names that job in `replayed_as`"),
            });
        }
        self.0.broker.publish(job.tenant, self.enqueued(&job));
        self.0.look.notify_one();
        Ok(job)
    }

    pub(super) fn delivery_limits(&self) -> DeliveryLimits {
        self.0.options.deliveries
    }

    /// Raised when the workers stop.
    pub(super) fn stopping(&self) -> CancellationToken {
        self.0.stop.clone()
    }

    pub(super) fn flows(&self) -> &dyn NamedFlows {
        &*self.0.flows
    }

    pub(super) fn parts(&self) -> &Parts {
        self.0.workers.engine().parts()
    }

    pub(super) fn store(&self) -> &SharedStore {
        &self.parts().store
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.0.workers.engine().parts().clock
    }

    fn now(&self) -> Timestamp {
        self.clock().now()
    }

    /// Begins the attempt of a claimed job, or finds out what became of it.
    async fn begin(&self, job: Job) -> Result<()> {
        let run = match self.start_attempt(&job).await {
            Ok(None) => return Ok(()),
            Ok(Some(run)) => run,
            // Nothing was begun, as far as is known; under the same key it can be tried again.
            Err(error) if error.kind().retryable() => {
                tracing::warn!(job = %job.id, ?error, "a job could not begin; it waits again");
                let end = job.attempt().hand_back(job.tenant, self.now().after(self.0.options.poll), self.now());
                self.store().end_job(end).await?;
                return Ok(());
            }
            Err(error) => return self.give_up(&job, error.message().to_owned()).await,
        };
        // It was begun before. Its end and this claim may have missed each other.
        let found = self.store().find_run(job.tenant, run).await?;
        let clock = self.clock();
        let end = found.and_then(|run| {
            // Whoever cancelled it before it failed wants no other attempt.
            let state = if run.cancel_requested && run.state == RunState::Failed { RunState::Cancelled } else { run.state };
            let dead = || DeadLetterId::new(clock);
            job.attempt().end(job.tenant, state, run.failure.as_ref(), clock.now(), |most| clock.below(most), dead)
        });
        if let Some(end) = end {
            self.store().end_job(end).await?;
        }
        Ok(())
    }

    /// The run of this attempt that is there already; `None` when it begins now.
    async fn start_attempt(&self, job: &Job) -> Result<Option<RunId>> {
        if let Some(run) = self.run_of(job).await? {
            return Ok(Some(run));
        }
        let start = match &job.order.callback {
            Some(callback) => Some(Callback::read(callback)?.start(self.0.workers.engine(), job)?),
            None => self.0.flows.run_of(job.tenant, &job.order.name, inputs(job)).await?,
        };
        let Some(start) = start else {
            let message = format!("nothing does `{}`: there is no flow of that name, and the job has no callback", job.order.name);
            self.give_up(job, message).await?;
            return Ok(None);
        };
        let expires_at = self.now().after(KEY_LIFE);
        let key = RunKey { route: ROUTE.into(), key: job.attempt().key(), request_hash: String::new(), expires_at };
        let mut start = StartRun { key: Some(key), ..start };
        if let Some(limit) = job.order.timeout_ms {
            let budget = &mut start.input.options.budget;
            budget.duration_ms = Some(budget.duration_ms.map_or(limit, |own| own.min(limit)));
        }
        start.input.job = Some(job.attempt());
        start.input.key_id = job.order.key_id;
        start.input.options.source = ROUTE.into();
        failpoint::hit("job.begin.before");
        let begun = self.0.workers.start_run(start).await;
        failpoint::hit("job.begin.after");
        match begun {
            Ok((_, Created::New)) => Ok(None),
            Ok((_, Created::Duplicate { run, .. })) => Ok(Some(run)),
            // Refused before anything was written.
            Err(error) if REFUSALS.contains(&error.code()) => Err(error),
            // Nobody knows whether the run is there. When the attempt is looked after its key tells.
            Err(error) if error.kind().retryable() || error.kind() == Kind::Internal => {
                tracing::warn!(job = %job.id, ?error, "it is not known whether a job's attempt began; it is looked after later");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn give_up(&self, job: &Job, why: String) -> Result<()> {
        let dead = DeadLetterId::new(self.clock());
        let more = json!({ "error": why, "attempt": job.attempt });
        if self.store().end_job(job.attempt().give_up(job.tenant, why, self.now(), dead)).await? {
            for kind in ["job.failed", "job.dlq"] {
                self.0.broker.publish(job.tenant, StreamEvent::of_job(kind, job, self.now(), more.clone()));
            }
        }
        Ok(())
    }
}

fn over(state: JobState, wanted: &str) -> Error {
    let message = format!("the job is {}; it cannot be {wanted}", state.as_str());
    Error::new(Kind::Malformed, "job_state", message).next("GET /v1/jobs/{jobId} tells where it stands")
}

/// What a job's flow sees: the payload's members, the payload as a whole, and the job.
fn inputs(job: &Job) -> Map<String, Value> {
    let mut inputs = job.order.payload.as_object().cloned().unwrap_or_default();
    inputs.insert("payload".into(), job.order.payload.clone());
    inputs.insert("_job".into(), about(job));
    inputs
}

/// A job as those see it that do it.
fn about(job: &Job) -> Value {
    json!({
        "id": job.id, "name": job.order.name, "queue": job.queue, "attempt": job.attempt, "max_attempts": job.order.max_retries.saturating_add(1),
        "payload": job.order.payload, "scope_app_id": job.order.scope.app, "scope_org_id": job.order.scope.org,
    })
}
