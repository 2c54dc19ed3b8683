//! A run that ends with its caller's connection, where the caller or the surface wants that.
//!
//! Must not know: in which form the caller is answered.

use tokio::sync::oneshot;

use crate::engine::StartRun;
use crate::error::{Error, Result};
use crate::id::{RunId, TenantId};
use crate::queue::Workers;
use crate::store::Created;

/// Cancels a run when it is dropped: the caller is gone.
pub struct OnDisconnect {
    workers: Workers,
    tenant: TenantId,
    run: RunId,
    /// Disarmed when the answer came to its own end.
    armed: bool,
}

impl OnDisconnect {
    fn cancel(workers: Workers, tenant: TenantId, run: RunId) -> Self {
        Self { workers, tenant, run, armed: true }
    }

    /// The caller has its answer.
    pub fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for OnDisconnect {
    fn drop(&mut self) {
        if self.armed {
            self.workers.abandon(self.tenant, self.run);
        }
    }
}

/// Starts a run that ends with its caller.
///
/// A model may be asked before the run is on disk, and a caller may hang up before that: its request is dropped then. So the
/// start is a task of its own, and what it hands to nobody cancels the run.
pub async fn start(workers: &Workers, start: StartRun) -> Result<(RunId, Created, Option<OnDisconnect>)> {
    let (tell, told) = oneshot::channel();
    let workers = workers.clone();
    tokio::spawn(async move {
        let tenant = start.tenant;
        let started = workers.start_run(start).await.map(|(run, created)| {
            // A run that an earlier call made is not this caller's to end.
            let guard = matches!(created, Created::New).then(|| OnDisconnect::cancel(workers, tenant, run));
            (run, created, guard)
        });
        drop(tell.send(started));
    });
    told.await.map_err(|_| Error::internal("the start of a run was dropped"))?
}
