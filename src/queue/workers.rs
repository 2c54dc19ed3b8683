//! Runs in this node's hands.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::loads::TenantLoads;
use super::pulse::Pulse;
use crate::clock::Timestamp;
use crate::engine::{Active, Departure, Engine, Lost, NodeLease, RunContext, StartRun, Started};
use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::id::{RunId, TenantId};
use crate::model::run::Failure;
use crate::model::{Epoch, Requester, RunState};
use crate::store::{Claim, Created, Lease, MAX_CLAIM, Renewed, StoreError, last_turn};

/// How the workers behave.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How long a lease lasts without being renewed.
    pub lease: Duration,
    /// Runs in this node's hands at most; new ones are refused beyond.
    pub max_active: usize,
    /// How many owners in a row a run may lose without progress. Few, because a run that crashes its server
    /// also interrupts all other runs on it.
    pub max_recoveries: u32,
    /// How often the store is asked for due runs without a reason to.
    pub poll: Duration,
    /// How often runs that nothing can wake are looked for.
    pub sweep: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(10),
            max_active: 20_000,
            max_recoveries: 10,
            poll: Duration::from_secs(1),
            sweep: Duration::from_secs(30),
        }
    }
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Workers(Arc<Inner>);

pub(super) struct Inner {
    pub engine: Engine,
    pub options: Options,
    active: Mutex<Hands>,
    pub lease: Arc<NodeLease>,
    /// Held by whoever renews because the lease is over; when that was tried last.
    renewing: tokio::sync::Mutex<Option<tokio::time::Instant>>,
    pub pulse: Pulse,
    /// Rings when there may be something to claim.
    pub look: Notify,
    /// Attempts of jobs among the runs in hand, by tenant, and what rings when one leaves.
    jobs: Mutex<BTreeMap<TenantId, u32>>,
    job_left: Notify,
    /// The tenant whose due runs were claimed last.
    last_turn: Mutex<Option<TenantId>>,
    leave: CancellationToken,
    pub stop: CancellationToken,
    tasks: TaskTracker,
}

/// The runs in hand.
#[derive(Default)]
struct Hands {
    runs: HashMap<RunId, Held>,
    loads: TenantLoads,
}

struct Held {
    epoch: Epoch,
    requester: Requester,
    task: Option<AbortHandle>,
    context: Arc<RunContext>,
    /// The run's nudges, as far as its driver was told.
    nudges: i64,
}

impl Workers {
    /// Builds the workers and starts their keeping; call [`Workers::shutdown`] at the end.
    pub fn start(engine: Engine, options: Options) -> Self {
        let clock = engine.parts().clock.clone();
        let workers = Self(Arc::new(Inner {
            engine,
            options,
            active: Mutex::default(),
            lease: Arc::new(NodeLease::new(clock, options.lease)),
            renewing: tokio::sync::Mutex::default(),
            pulse: Pulse::default(),
            look: Notify::new(),
            jobs: Mutex::default(),
            job_left: Notify::new(),
            last_turn: Mutex::default(),
            leave: CancellationToken::new(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }));
        for task in [
            tokio::spawn(super::keeper::renew(workers.clone())),
            tokio::spawn(super::keeper::claim_due(workers.clone())),
            tokio::spawn(super::keeper::listen(workers.clone())),
            tokio::spawn(super::keeper::sweep(workers.clone())),
            tokio::spawn(super::pulse::keep(workers.clone())),
        ] {
            drop(task);
        }
        workers
    }

    pub(super) fn inner(&self) -> &Inner {
        &self.0
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// How long a lease on a run lasts: what died is not noticed sooner.
    pub(super) fn lease(&self) -> Duration {
        self.0.options.lease
    }

    /// How many attempts of each tenant's jobs are in this node's hands.
    pub(super) fn jobs_in_hand(&self) -> BTreeMap<TenantId, u32> {
        self.0.jobs.lock().clone()
    }

    /// Rings when one of them leaves.
    pub(super) fn job_left(&self) -> &Notify {
        &self.0.job_left
    }

    /// Whether this node takes new runs. Refusals: 503 `at_capacity`, `overloaded`.
    pub fn admits(&self) -> Result<()> {
        let inner = &self.0;
        let refusal = if self.active() >= inner.options.max_active {
            Error::new(Kind::Unavailable, "at_capacity", format!("the server advances {} runs, its limit", inner.options.max_active))
        } else if inner.pulse.is_late() {
            Error::new(Kind::Unavailable, "overloaded", "the server has more to do than it can; what it has accepted goes on")
        } else {
            return Ok(());
        };
        Err(refusal.retry_after(Duration::from_secs(1)))
    }

    /// Whether this node takes one more new run of a tenant. One tenant leaves others a part of the room, and is not refused because another one overloads
    /// the node. Refusals: 503 `at_capacity`, `overloaded`.
    pub fn admits_run_of(&self, requester: impl Into<Requester>) -> Result<()> {
        let requester = requester.into();
        let tenant = requester.tenant;
        let refusal = {
            let hands = self.0.active.lock();
            let most = self.0.options.max_active;
            if hands.runs.len() >= most || self.0.pulse.is_late() && !hands.loads.is_light(tenant) {
                None
            } else if hands.loads.has_room(requester, most) {
                return Ok(());
            } else {
                Some(format!("the server advances {} runs of yours, your share of its limit of {most}", hands.loads.of(tenant)))
            }
        };
        match refusal {
            Some(message) => Err(Error::new(Kind::Unavailable, "at_capacity", message).retry_after(Duration::from_secs(1))),
            None => self.admits(),
        }
    }

    /// Tenants with runs in hand of which no new one is admitted now.
    pub(super) fn refused_tenants(&self) -> Vec<TenantId> {
        let (hands, is_late) = (self.0.active.lock(), self.0.pulse.is_late());
        let loads = &hands.loads;
        let admits = |tenant: TenantId| loads.has_room(tenant.into(), self.0.options.max_active) && (!is_late || loads.is_light(tenant));
        loads.tenants().filter(|tenant| !admits(*tenant)).collect()
    }

    /// Tenants that leave the others no room when more of their runs are taken up.
    pub(super) fn full_tenants(&self) -> Vec<TenantId> {
        let (hands, most) = (self.0.active.lock(), self.0.options.max_active);
        let loads = &hands.loads;
        loads.tenants().filter(|tenant| !loads.leaves_room(*tenant, most)).collect()
    }

    /// Starts a run here. Returns once it is durable, or known as a repetition of an earlier one.
    pub async fn start_run(&self, start: StartRun) -> Result<(RunId, Created)> {
        let inner = &self.0;
        if inner.stop.is_cancelled() {
            return Err(Error::new(Kind::Unavailable, "shutting_down", "the server is shutting down").retry_after(Duration::from_secs(1)));
        }
        self.admits_run_of(Requester { tenant: start.tenant, is_visitor: start.input.is_by_visitor() })?;
        if !self.is_awake().await {
            return Err(Error::new(Kind::Unavailable, "store_unavailable", "the database cannot serve now; nothing was changed")
                .retry_after(Duration::from_secs(1)));
        }
        let lease = inner.lease.hold(inner.engine.parts().clock.now());
        let Started { run, active, created } = inner.engine.begin(start, lease).await?;
        self.launch(active, Epoch(1), 0);
        let created = created.await.map_err(|_| Error::internal("the run was dropped before it was created"))?;
        Ok((run, created.map_err(|error| unborn(run, error))?))
    }

    /// Drives a run in a task of its own.
    fn launch(&self, active: Active, epoch: Epoch, nudges: i64) {
        let run = active.context.run;
        let held = Held { epoch, requester: active.context.requester(), task: None, context: active.context.clone(), nudges };
        let (displaced, count) = {
            let mut hands = self.0.active.lock();
            hands.loads.add(held.requester);
            let displaced = hands.runs.insert(run, held);
            if let Some(displaced) = &displaced {
                hands.loads.remove(displaced.requester);
            }
            (displaced, hands.runs.len())
        };
        self.0.pulse.hold(count);
        if let Some(task) = displaced.and_then(|displaced| displaced.task) {
            // This node lost the run, did not know it yet, and has just won it back.
            task.abort();
        }
        metrics::gauge!("dispatch_runs_active").increment(1);
        // Made here, so that a task that is aborted before its first poll leaves too.
        let is_job = active.context.input.job.is_some();
        let tenant = active.context.tenant;
        if is_job {
            *self.0.jobs.lock().entry(tenant).or_default() += 1;
        }
        let leaving = Leaving { workers: self.clone(), run, tenant, epoch, is_job };
        let task = self.0.tasks.spawn(async move {
            let departure = active.drive(leaving.workers.0.leave.clone()).await;
            match departure {
                Departure::Lost(Lost::Fenced) => tracing::warn!(%run, "the run is in other hands now"),
                Departure::Lost(Lost::Refused) => leaving.workers.refuse(tenant, run, epoch).await,
                other => tracing::debug!(%run, departure = ?other, "the run left this node's hands"),
            }
        });
        if let Some(held) = self.0.active.lock().runs.get_mut(&run).filter(|held| held.epoch == epoch) {
            held.task = Some(task.abort_handle());
        }
    }

    /// Takes up runs that are due: all, or one.
    pub async fn claim(&self, only: Option<RunId>) -> Result<usize> {
        let inner = &self.0;
        if inner.stop.is_cancelled() {
            return Ok(0);
        }
        let max = u32::try_from(self.room()).unwrap_or(MAX_CLAIM).min(MAX_CLAIM);
        if max == 0 || !self.is_awake().await {
            return Ok(0);
        }
        let parts = inner.engine.parts();
        let now = parts.clock.now();
        // Whoever asks for one run waits for it; what is due of tenants that have their share waits until one of theirs leaves.
        let except = if only.is_some() { Vec::new() } else { self.full_tenants() };
        let after = *inner.last_turn.lock();
        let claim = Claim { node: parts.node, now, until: inner.lease.promised(now), max, only, except, after };
        let leases = parts.store.claim_runs(claim).await?;
        if only.is_none()
            && let Some(last) = last_turn(leases.iter().map(|lease| lease.run.tenant), after)
        {
            *inner.last_turn.lock() = Some(last);
        }
        let count = leases.len();
        for lease in leases {
            failpoint::hit("run.claim.after");
            self.take_up(lease, now).await;
        }
        Ok(count)
    }

    /// How many more runs this node may take in hand.
    pub(super) fn room(&self) -> usize {
        self.0.options.max_active.saturating_sub(self.active())
    }

    /// A node that was starved, or asleep, finds its own leases expired. It renews what nobody has taken meanwhile
    /// before it takes anything: else it would take its runs from itself, and under a lease that is over.
    async fn is_awake(&self) -> bool {
        if self.0.lease.is_over() {
            let clock = &self.0.engine.parts().clock;
            let asked = clock.instant();
            let mut tried = self.0.renewing.lock().await;
            // Whoever waited here while another tried has its answer.
            if self.0.lease.is_over() && tried.is_none_or(|tried| tried < asked) {
                super::keeper::renew_now(self).await;
                *tried = Some(clock.instant());
            }
        }
        !self.0.lease.is_over()
    }

    async fn take_up(&self, lease: Lease, claimed: Timestamp) {
        let (run, epoch, nudges) = (lease.run.id, lease.run.epoch, lease.run.nudges);
        if lease.run.recoveries > self.0.options.max_recoveries {
            let message = format!("the run lost its owner {} times in a row and got nowhere meanwhile", lease.run.recoveries);
            self.give_up(&lease, "recovery_exhausted", message).await;
            return;
        }
        let spare = lease.clone();
        let due = Self::postponed(&lease).map(|wait| self.0.engine.parts().clock.now().after(wait));
        match self.0.engine.resume(lease, self.0.lease.hold(claimed)).await {
            Ok(active) => {
                failpoint::hit("run.claim.loaded");
                let active = if let Some(due) = due { active.postponed(due) } else { active };
                self.launch(active, epoch, nudges);
            }
            Err(error) if error.kind().retryable() => {
                tracing::warn!(%run, ?error, "the run cannot be taken up now; it is tried again when its lease ends");
            }
            Err(error) => {
                tracing::error!(%run, ?error, "the run cannot be taken up");
                self.give_up(&spare, error.code(), error.message().to_owned()).await;
            }
        }
    }

    /// How long a run rests that lost owner after owner and got nowhere: what it does may be what ends them.
    fn postponed(lease: &Lease) -> Option<Duration> {
        let in_vain = lease.run.recoveries.checked_sub(FREE_RECOVERIES + 1).filter(|_| lease.recovered && !lease.run.cancel_requested)?;
        Some(FIRST_REST.saturating_mul(1 << in_vain.min(16)).min(LONGEST_REST))
    }

    async fn give_up(&self, lease: &Lease, code: &str, message: String) {
        let failure = Failure { code: code.to_owned(), message, step: None, retryable: false };
        if let Err(error) = self.0.engine.give_up(&lease.run, failure).await {
            tracing::error!(run = %lease.run.id, ?error, "the run cannot be ended either");
        }
    }

    async fn refuse(&self, tenant: TenantId, run: RunId, epoch: Epoch) {
        match self.0.engine.refuse(tenant, run, epoch).await {
            Ok(_) => {}
            Err(error) => tracing::error!(%run, ?error, "the run cannot be ended either; it is tried again when its lease ends"),
        }
    }

    /// Something was done to a run from outside: its owner looks again, or it is taken up if it is due.
    pub async fn nudge(&self, run: RunId) {
        if let Some(held) = self.0.active.lock().runs.get(&run) {
            held.context.poke.notify_one();
            return;
        }
        if let Err(error) = self.claim(Some(run)).await {
            tracing::warn!(%run, ?error, "a due run was not claimed; it is tried again");
            self.0.look.notify_one();
        }
    }

    /// Cancels a run, whoever advances it; the state it was in. One that has ended stays as it is.
    pub async fn cancel(&self, tenant: TenantId, run: RunId) -> Result<RunState> {
        let before = self.0.engine.cancel(tenant, run).await?;
        if !before.is_terminal() {
            self.cancel_here(run);
            self.nudge(run).await;
        }
        Ok(before)
    }

    /// Stops a run that this node advances; elsewhere its owner reads the request.
    fn cancel_here(&self, run: RunId) {
        if let Some(held) = self.0.active.lock().runs.get(&run) {
            held.context.cancel.cancel();
        }
    }

    /// Cancels a run whose caller went away, also when it sleeps. A server that is stopping hangs up itself: that is no wish.
    pub fn abandon(&self, tenant: TenantId, run: RunId) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.0.stop.is_cancelled() {
            return;
        }
        self.cancel_here(run);
        let workers = self.clone();
        let task = async move {
            match workers.cancel(tenant, run).await {
                Ok(_) => {}
                Err(error) => tracing::warn!(%run, ?error, "a run was not cancelled after its caller went away"),
            }
        };
        self.0.tasks.spawn_on(task, &runtime);
    }

    /// How many runs are in this node's hands.
    pub fn active(&self) -> usize {
        self.0.active.lock().runs.len()
    }

    /// The runs that this node has a lease on, in a fixed order; one that is being created has none yet.
    pub(super) fn held(&self) -> Vec<(RunId, Epoch)> {
        let hands = self.0.active.lock();
        let mut held: Vec<_> =
            hands.runs.iter().filter(|(_, held)| held.context.log.is_born()).map(|(run, held)| (*run, held.epoch)).collect();
        drop(hands);
        held.sort_unstable();
        held
    }

    /// Tells a run's driver what its row says: the word itself may have been lost, or have come before the driver.
    pub(super) fn tell(&self, renewed: &Renewed) {
        if renewed.cancel_requested {
            self.cancel_here(renewed.run);
        }
        if let Some(held) = self.0.active.lock().runs.get_mut(&renewed.run) {
            held.context.log.lease().cover();
            if held.nudges != renewed.nudges {
                held.nudges = renewed.nudges;
                held.context.poke.notify_one();
            }
        }
    }

    /// Drops runs that the store no longer counts among this node's.
    pub(super) fn drop_runs(&self, lost: &[(RunId, Epoch)]) {
        for (run, epoch) in lost {
            let task = self.0.active.lock().runs.get(run).filter(|held| held.epoch == *epoch).and_then(|held| held.task.clone());
            if let Some(task) = task {
                tracing::debug!(%run, "the run has ended, or is in other hands; it is let go");
                task.abort();
            }
        }
    }

    /// Takes no new runs, lets those in hand end for up to `grace`, and hands the rest back for others to take up.
    pub async fn shutdown(&self, grace: Duration) {
        self.0.stop.cancel();
        self.0.tasks.close();
        let clock = &self.0.engine.parts().clock;
        tokio::select! {
            biased;
            () = self.0.tasks.wait() => return,
            () = clock.sleep(grace) => {}
        }
        self.0.leave.cancel();
        tokio::select! {
            biased;
            () = self.0.tasks.wait() => {}
            () = clock.sleep(HAND_BACK) => {
                tracing::warn!(left = self.active(), "some runs could not be handed back; their leases end by themselves");
                let left: Vec<AbortHandle> = self.0.active.lock().runs.values().filter_map(|held| held.task.clone()).collect();
                left.iter().for_each(AbortHandle::abort);
            }
        }
    }
}

/// Owners that a run may lose in a row before it rests.
const FREE_RECOVERIES: u32 = 3;
/// The rests between them grow from the first to the longest.
const FIRST_REST: Duration = Duration::from_millis(500);
const LONGEST_REST: Duration = Duration::from_secs(30);
/// How long handing back may take.
const HAND_BACK: Duration = Duration::from_secs(5);

/// What the caller of a run is told that may or may not have been created.
fn unborn(run: RunId, error: StoreError) -> Error {
    let error = Error::from(error);
    if error.kind() != Kind::Unavailable {
        return error;
    }
    Error::new(Kind::Unavailable, "store_unavailable", format!("the database did not say whether the execution {run} was accepted"))
        .next(format!("look at GET /v1/executions/{run} before sending it again; with an Idempotency-Key it can be sent again at once"))
        .retry_after(Duration::from_secs(1))
}

/// Takes a run off the list however its task ends.
struct Leaving {
    workers: Workers,
    run: RunId,
    tenant: TenantId,
    epoch: Epoch,
    is_job: bool,
}

impl Leaving {
    fn forget_job(&self) {
        let mut jobs = self.workers.0.jobs.lock();
        if let Some(count) = jobs.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                jobs.remove(&self.tenant);
            }
        }
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let mut hands = self.workers.0.active.lock();
        if hands.runs.get(&self.run).is_some_and(|held| held.epoch == self.epoch)
            && let Some(held) = hands.runs.remove(&self.run)
        {
            hands.loads.remove(held.requester);
        }
        drop(hands);
        metrics::gauge!("dispatch_runs_active").decrement(1);
        if self.is_job {
            self.forget_job();
            self.workers.0.job_left.notify_one();
        }
        // It may be due again already: somebody answered while it was pausing.
        self.workers.0.look.notify_one();
    }
}
