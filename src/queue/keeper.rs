//! What goes on beside the runs: leases are renewed, due runs claimed, the bell heard, the stuck found.

use std::collections::HashSet;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;

use super::Workers;
use crate::failpoint;
use crate::id::RunId;
use crate::store::StoreError;

/// Renews every lease of this node three times in a lease's life, and oftener while that fails.
pub(super) async fn renew(workers: Workers) {
    let inner = workers.inner();
    let lease = inner.options.lease;
    let mut renewed = true;
    loop {
        inner.engine.parts().clock.sleep(if renewed { lease / 3 } else { lease / 10 }).await;
        if inner.stop.is_cancelled() && workers.active() == 0 {
            return;
        }
        renewed = renew_now(&workers).await && !inner.lease.is_over();
    }
}

/// Renews every lease of this node. What is in other hands by now is let go.
pub(super) async fn renew_now(workers: &Workers) -> bool {
    let inner = workers.inner();
    let (clock, store, node) = (&inner.engine.parts().clock, &inner.engine.parts().store, inner.engine.parts().node);
    let held = workers.held();
    let now = clock.now();
    if !held.is_empty() {
        failpoint::hit("run.renew.before");
    }
    let renewed = tokio::select! {
        biased;
        renewed = store.renew_runs(node, &held, now.after(inner.options.lease)) => renewed,
        // An answer that comes later renews nothing that is worth having.
        () = clock.sleep(inner.options.lease / 2) => Err(StoreError::unavailable("no answer in time")),
    };
    let renewed = match renewed {
        Ok(renewed) => renewed,
        Err(error) => {
            tracing::warn!(%error, "leases were not renewed; trying again");
            return false;
        }
    };
    if !renewed.is_empty() {
        failpoint::hit("run.renew.after");
    }
    let known: HashSet<RunId> = renewed.iter().map(|run| run.run).collect();
    // One that has just ended has no lease any more either: letting it go takes nothing from it.
    let lost: Vec<_> = held.into_iter().filter(|(run, _)| !known.contains(run)).collect();
    // Before the lease goes on for all: what is lost must not move once more.
    workers.drop_runs(&lost);
    renewed.iter().for_each(|run| workers.tell(run));
    inner.lease.renewed(now);
    true
}

/// Claims what is due, when it is due.
pub(super) async fn claim_due(workers: Workers) {
    let inner = workers.inner();
    let parts = inner.engine.parts();
    while !inner.stop.is_cancelled() {
        let wait = match workers.claim(None).await {
            // There may be more than one claim takes.
            Ok(count) if count > 0 => Duration::ZERO,
            // Whatever is due must wait until a run leaves this node's hands, which is told, or the lease holds again.
            Ok(_) if workers.room() == 0 || inner.lease.is_over() => inner.options.poll,
            Ok(_) => match parts.store.next_wake(&workers.full_tenants()).await {
                Ok(Some(due)) => due.since(parts.clock.now()).min(inner.options.poll),
                Ok(None) | Err(_) => inner.options.poll,
            },
            Err(error) => {
                tracing::warn!(?error, "due runs were not claimed; trying again");
                inner.options.poll
            }
        };
        tokio::select! {
            biased;
            () = inner.stop.cancelled() => return,
            () = inner.look.notified() => {}
            () = parts.clock.sleep(wait.max(Duration::from_millis(1))) => {}
        }
    }
}

/// Hears which runs were nudged.
pub(super) async fn listen(workers: Workers) {
    let inner = workers.inner();
    let mut bell = inner.engine.parts().store.bell();
    loop {
        let heard = tokio::select! {
            biased;
            () = inner.stop.cancelled() => return,
            heard = bell.recv() => heard,
        };
        match heard {
            Ok(rung) if rung.due => workers.nudge(rung.run).await,
            Ok(_) => {}
            Err(RecvError::Lagged(_)) => {
                // Whose bell it was is lost: a renewal brings what every run in hand was told meanwhile.
                inner.look.notify_one();
                renew_now(&workers).await;
            }
            Err(RecvError::Closed) => return,
        }
    }
}

/// Finds runs that nothing can wake, says so, and has them looked at once more.
pub(super) async fn sweep(workers: Workers) {
    let inner = workers.inner();
    let parts = inner.engine.parts();
    loop {
        tokio::select! {
            biased;
            () = inner.stop.cancelled() => return,
            () = parts.clock.sleep(inner.options.sweep) => {}
        }
        let _ = parts.store.purge_receipts(parts.clock.now()).await;
        let Ok(stuck) = parts.store.stuck_runs(100).await else { continue };
        for (tenant, run) in stuck {
            tracing::warn!(%run, "the run is paused, but no open wait and no timer can wake it; it is entered again");
            metrics::counter!("dispatch_runs_stuck_total").increment(1);
            let _ = parts.store.wake_run(tenant, run, parts.clock.now()).await;
        }
    }
}
