//! What goes on beside the runs: leases are renewed, due runs claimed, the bell heard, the stuck found.

use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;

use super::Workers;
use crate::clock::Timestamp;
use crate::failpoint;

/// Renews every lease of this node, three times in a lease's life.
pub(super) async fn renew(workers: Workers) {
    let inner = workers.inner();
    let (clock, store, node) = (&inner.engine.parts().clock, &inner.engine.parts().store, inner.engine.parts().node);
    loop {
        clock.sleep(inner.options.lease / 3).await;
        let held = workers.held();
        if inner.stop.is_cancelled() && held.is_empty() {
            return;
        }
        let until = clock.now().after(inner.options.lease);
        let holding = !held.is_empty();
        if holding {
            failpoint::hit("run.renew.before");
        }
        match store.renew_runs(node, &held, until).await {
            Ok(renewed) => {
                if holding {
                    failpoint::hit("run.renew.after");
                }
                inner.lease_until.send_replace(until);
                renewed.iter().for_each(|run| workers.tell(run));
                let lost: Vec<_> = held.into_iter().filter(|(run, _)| !renewed.iter().any(|known| known.run == *run)).collect();
                forget_unborn(&workers, lost, until);
            }
            Err(error) => {
                tracing::warn!(%error, "leases were not renewed; trying again");
                if clock.now() >= *inner.lease_until.borrow() {
                    workers.drop_runs(&held);
                }
            }
        }
    }
}

/// A run that is being created has no row yet, and one that has just ended has no lease any more: neither is lost. What is
/// really in other hands is refused its next commit.
fn forget_unborn(workers: &Workers, lost: Vec<(crate::id::RunId, crate::model::Epoch)>, _until: Timestamp) {
    let claimed: Vec<_> = lost.into_iter().filter(|(_, epoch)| epoch.0 > 1).collect();
    if !claimed.is_empty() {
        workers.drop_runs(&claimed);
    }
}

/// Claims what is due, when it is due.
pub(super) async fn claim_due(workers: Workers) {
    let inner = workers.inner();
    let parts = inner.engine.parts();
    while !inner.stop.is_cancelled() {
        let wait = match workers.claim(None).await {
            // There may be more than one claim takes.
            Ok(count) if count > 0 => Duration::ZERO,
            Ok(_) => match parts.store.next_wake().await {
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
            Err(RecvError::Lagged(_)) => inner.look.notify_one(),
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
