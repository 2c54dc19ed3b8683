//! Takes jobs whose turn has come, as long as there is room.

use std::time::Duration;

use futures_util::future::join_all;

use super::Jobs;
use crate::error::Result;
use crate::failpoint;
use crate::store::{JobClaim, MOST_CLAIMED};

/// Takes jobs until the workers stop.
pub(super) async fn take(jobs: Jobs) {
    let inner = &jobs.0;
    let clock = jobs.clock();
    while !inner.stop.is_cancelled() {
        // A job that leaves this node's hands makes room; one that comes may have a turn.
        let left = inner.workers.job_left().notified();
        let wait = match take_some(&jobs).await {
            Ok(None) => continue,
            Ok(Some(wait)) => wait,
            Err(error) => {
                tracing::warn!(?error, "jobs were not taken; trying again");
                inner.options.poll
            }
        };
        tokio::select! {
            biased;
            () = inner.stop.cancelled() => return,
            () = inner.look.notified() => {}
            () = left => {}
            () = clock.sleep(wait) => {}
        }
    }
}

fn room(jobs: &Jobs) -> usize {
    jobs.0.options.at_once.saturating_sub(jobs.0.workers.jobs_in_hand()).min(jobs.0.workers.room())
}

/// Takes what can be taken; how long to wait before the next look, if nothing was.
async fn take_some(jobs: &Jobs) -> Result<Option<Duration>> {
    let inner = &jobs.0;
    let max = u32::try_from(room(jobs)).unwrap_or(MOST_CLAIMED).min(MOST_CLAIMED);
    if max == 0 || inner.workers.admits().is_err() {
        return Ok(Some(inner.options.poll));
    }
    let now = jobs.now();
    let node = inner.workers.engine().parts().node;
    let claimed =
        jobs.store().claim_jobs(JobClaim { node, now, check_at: now.after(inner.workers.lease()), max, except: Vec::new() }).await?;
    failpoint::hit("job.claimed");
    if claimed.jobs.is_empty() {
        let next = jobs.store().next_job(now).await?;
        let first = next.into_iter().chain(claimed.again_at).min();
        return Ok(Some(first.map_or(inner.options.poll, |first| first.since(jobs.now()).min(inner.options.poll))));
    }
    let begun = claimed.jobs.into_iter().map(|claimed| async move {
        let id = claimed.job.id;
        if let Err(error) = jobs.begin(claimed.job).await {
            tracing::warn!(job = %id, ?error, "a job's attempt could not begin; it is looked after later");
        }
    });
    join_all(begun).await;
    Ok(None)
}
