//! Runs in this node's hands.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Timestamp;
use crate::engine::{Active, Departure, Engine, StartRun, Started};
use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::id::{RunId, TenantId};
use crate::model::Epoch;
use crate::model::run::Failure;
use crate::store::{Claim, Created, Lease, MAX_CLAIM, Renewed};

/// How the workers behave.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How long a lease lasts without being renewed.
    pub lease: Duration,
    /// Runs in this node's hands at most; new ones are refused beyond.
    pub max_active: usize,
    /// How often a run may be taken over from an owner that went away.
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
            max_recoveries: 20,
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
    active: Mutex<HashMap<RunId, Held>>,
    /// The end of every lease of this node.
    pub lease_until: watch::Sender<Timestamp>,
    /// Rings when there may be something to claim.
    pub look: Notify,
    leave: CancellationToken,
    pub stop: CancellationToken,
    tasks: TaskTracker,
}

struct Held {
    epoch: Epoch,
    task: Option<AbortHandle>,
    cancel: CancellationToken,
    poke: Arc<Notify>,
    /// The run's nudges, as far as its driver was told.
    nudges: i64,
}

impl Workers {
    /// Builds the workers and starts their keeping; call [`Workers::shutdown`] at the end.
    pub fn start(engine: Engine, options: Options) -> Self {
        let until = engine.parts().clock.now().after(options.lease);
        let workers = Self(Arc::new(Inner {
            engine,
            options,
            active: Mutex::default(),
            lease_until: watch::Sender::new(until),
            look: Notify::new(),
            leave: CancellationToken::new(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }));
        for task in [
            tokio::spawn(super::keeper::renew(workers.clone())),
            tokio::spawn(super::keeper::claim_due(workers.clone())),
            tokio::spawn(super::keeper::listen(workers.clone())),
            tokio::spawn(super::keeper::sweep(workers.clone())),
        ] {
            drop(task);
        }
        workers
    }

    pub(super) fn inner(&self) -> &Inner {
        &self.0
    }

    /// Starts a run here. Returns once it is durable, or known as a repetition of an earlier one.
    pub async fn start_run(&self, start: StartRun) -> Result<(RunId, Created)> {
        let inner = &self.0;
        if inner.stop.is_cancelled() {
            return Err(Error::new(Kind::Unavailable, "shutting_down", "the server is shutting down").retry_after(Duration::from_secs(1)));
        }
        if inner.active.lock().len() >= inner.options.max_active {
            return Err(Error::new(
                Kind::Unavailable,
                "at_capacity",
                format!("the server advances {} runs, its limit", inner.options.max_active),
            )
            .retry_after(Duration::from_secs(1)));
        }
        self.be_awake().await;
        let Started { run, active, created } = inner.engine.begin(start, inner.lease_until.subscribe()).await?;
        self.launch(active, Epoch(1), 0);
        let created = created.await.map_err(|_| Error::internal("the run was dropped before it was created"))??;
        Ok((run, created))
    }

    /// Drives a run in a task of its own.
    fn launch(&self, active: Active, epoch: Epoch, nudges: i64) {
        let run = active.context.run;
        let held = Held { epoch, task: None, cancel: active.context.cancel.clone(), poke: active.context.poke.clone(), nudges };
        self.0.active.lock().insert(run, held);
        metrics::gauge!("dispatch_runs_active").increment(1);
        let workers = self.clone();
        let task = self.0.tasks.spawn(async move {
            let _leaving = Leaving { workers: &workers, run, epoch };
            let departure = active.drive(workers.0.leave.clone()).await;
            match departure {
                Departure::Lost(why) => tracing::warn!(%run, ?why, "the run is in other hands now"),
                other => tracing::debug!(%run, departure = ?other, "the run left this node's hands"),
            }
        });
        if let Some(held) = self.0.active.lock().get_mut(&run).filter(|held| held.epoch == epoch) {
            held.task = Some(task.abort_handle());
        }
    }

    /// Takes up runs that are due: all, or one.
    pub async fn claim(&self, only: Option<RunId>) -> Result<usize> {
        let inner = &self.0;
        if inner.stop.is_cancelled() {
            return Ok(0);
        }
        let room = inner.options.max_active.saturating_sub(inner.active.lock().len());
        let parts = inner.engine.parts();
        let max = u32::try_from(room).unwrap_or(MAX_CLAIM).min(MAX_CLAIM);
        if max == 0 {
            return Ok(0);
        }
        self.be_awake().await;
        let claim = Claim { node: parts.node, now: parts.clock.now(), until: *inner.lease_until.borrow(), max, only };
        let leases = parts.store.claim_runs(claim).await?;
        let count = leases.len();
        for lease in leases {
            failpoint::hit("run.claim.after");
            self.take_up(lease).await;
        }
        Ok(count)
    }

    /// A node that was starved, or asleep, finds its own leases expired. It renews what nobody has taken meanwhile
    /// before it takes anything: else it would take its runs from itself.
    async fn be_awake(&self) {
        let inner = &self.0;
        if inner.engine.parts().clock.now() >= *inner.lease_until.borrow() {
            super::keeper::renew_now(self).await;
        }
    }

    async fn take_up(&self, lease: Lease) {
        let (run, epoch, nudges) = (lease.run.id, lease.run.epoch, lease.run.nudges);
        if lease.run.recoveries > self.0.options.max_recoveries {
            let message = format!("the run was recovered {} times and never finished", lease.run.recoveries - 1);
            self.give_up(&lease, "recovery_exhausted", message).await;
            return;
        }
        let spare = lease.clone();
        match self.0.engine.resume(lease, self.0.lease_until.subscribe()).await {
            Ok(active) => {
                failpoint::hit("run.claim.loaded");
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

    async fn give_up(&self, lease: &Lease, code: &str, message: String) {
        let failure = Failure { code: code.to_owned(), message, step: None, retryable: false };
        if let Err(error) = self.0.engine.give_up(lease, failure).await {
            tracing::error!(run = %lease.run.id, ?error, "the run cannot be ended either");
        }
    }

    /// Something was done to a run from outside: its owner looks again, or it is taken up if it is due.
    pub async fn nudge(&self, run: RunId) {
        if let Some(held) = self.0.active.lock().get(&run) {
            held.poke.notify_one();
            return;
        }
        if let Err(error) = self.claim(Some(run)).await {
            tracing::warn!(%run, ?error, "a due run was not claimed; it is tried again");
            self.0.look.notify_one();
        }
    }

    /// Stops a run that this node advances; elsewhere its owner reads the request.
    pub fn cancel_here(&self, run: RunId) {
        if let Some(held) = self.0.active.lock().get(&run) {
            held.cancel.cancel();
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
            match workers.0.engine.cancel(tenant, run).await {
                Ok(_) => workers.nudge(run).await,
                Err(error) => tracing::warn!(%run, ?error, "a run was not cancelled after its caller went away"),
            }
        };
        self.0.tasks.spawn_on(task, &runtime);
    }

    /// How many runs are in this node's hands.
    pub fn active(&self) -> usize {
        self.0.active.lock().len()
    }

    pub(super) fn held(&self) -> Vec<(RunId, Epoch)> {
        let mut held: Vec<_> = self.0.active.lock().iter().map(|(run, held)| (*run, held.epoch)).collect();
        held.sort_unstable();
        held
    }

    /// Tells a run's driver what its row says: the word itself may have been lost, or have come before the driver.
    pub(super) fn tell(&self, renewed: &Renewed) {
        if renewed.cancel_requested {
            self.cancel_here(renewed.run);
        }
        if let Some(held) = self.0.active.lock().get_mut(&renewed.run)
            && held.nudges != renewed.nudges
        {
            held.nudges = renewed.nudges;
            held.poke.notify_one();
        }
    }

    /// Drops runs whose lease could not be renewed.
    pub(super) fn drop_runs(&self, lost: &[(RunId, Epoch)]) {
        for (run, epoch) in lost {
            let task = self.0.active.lock().get(run).filter(|held| held.epoch == *epoch).and_then(|held| held.task.clone());
            if let Some(task) = task {
                tracing::warn!(%run, "the run's lease is lost; it is let go");
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
            () = clock.sleep(HAND_BACK) => tracing::warn!(left = self.active(), "some runs could not be handed back; their leases end by themselves"),
        }
    }
}

/// How long handing back may take.
const HAND_BACK: Duration = Duration::from_secs(5);

/// Takes a run off the list however its task ends.
struct Leaving<'a> {
    workers: &'a Workers,
    run: RunId,
    epoch: Epoch,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let mut active = self.workers.0.active.lock();
        if active.get(&self.run).is_some_and(|held| held.epoch == self.epoch) {
            active.remove(&self.run);
        }
        drop(active);
        metrics::gauge!("dispatch_runs_active").decrement(1);
        // It may be due again already: somebody answered while it was pausing.
        self.workers.0.look.notify_one();
    }
}
