//! Takes jobs whose turn has come, as long as there is room.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::task::{self, JoinError, JoinSet};

use super::Jobs;
use crate::error::Result;
use crate::failpoint;
use crate::id::TenantId;
use crate::model::Job;
use crate::store::{JobClaim, JobTurns, MOST_CLAIMED};

/// Takes jobs until the workers stop.
pub(super) async fn take(jobs: Jobs) {
    let inner = &jobs.0;
    let clock = jobs.clock();
    let mut claims = Claims::default();
    // One that is slow to begin, whosever it is, holds up no other. Each has a task of its own: one that is not polled while the next
    // claim is made could hold what that claim waits for, such as the writer of the database.
    let mut beginning = Beginning::default();
    while !inner.stop.is_cancelled() {
        // A job that leaves this node's hands makes room; one that comes may have a turn.
        let left = inner.workers.job_left().notified();
        let wait = match claims.claim(&jobs).await {
            Ok(Claim::Taken(taken)) => {
                taken.into_iter().for_each(|job| beginning.start(&jobs, job));
                continue;
            }
            Ok(Claim::Nothing(wait)) => wait,
            Err(error) => {
                tracing::warn!(?error, "jobs were not taken; trying again");
                inner.options.poll
            }
        };
        tokio::select! {
            biased;
            () = inner.stop.cancelled() => break,
            Some(tenant) = beginning.next() => {
                claims.has_begun(tenant);
                // Those that became durable together are one reason to look.
                while let Some(tenant) = beginning.try_next() {
                    claims.has_begun(tenant);
                }
            }
            () = inner.look.notified() => {}
            () = left => {}
            () = clock.sleep(wait) => {}
        }
    }
    // What was claimed begins, or is handed back.
    while beginning.next().await.is_some() {}
}

/// Attempts that are about to begin. They end with this.
#[derive(Default)]
struct Beginning {
    tasks: JoinSet<()>,
    tenants: HashMap<task::Id, TenantId>,
}

impl Beginning {
    fn start(&mut self, jobs: &Jobs, job: Job) {
        let (jobs, tenant, id) = (jobs.clone(), job.tenant, job.id);
        let task = self.tasks.spawn(async move {
            if let Err(error) = jobs.begin(job).await {
                tracing::warn!(job = %id, ?error, "a job's attempt could not begin; it is looked after later");
            }
        });
        self.tenants.insert(task.id(), tenant);
    }

    /// The tenant of the next attempt that has begun, or failed to; `None`: none is about to.
    async fn next(&mut self) -> Option<TenantId> {
        let ended = self.tasks.join_next_with_id().await?;
        self.tenant_of(ended)
    }

    /// [`next`](Self::next), if there is one by now.
    fn try_next(&mut self) -> Option<TenantId> {
        let ended = self.tasks.try_join_next_with_id()?;
        self.tenant_of(ended)
    }

    fn tenant_of(&mut self, ended: std::result::Result<(task::Id, ()), JoinError>) -> Option<TenantId> {
        let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
        self.tenants.remove(&id)
    }
}

/// What a claim came to.
enum Claim {
    Taken(Vec<Job>),
    /// How long to wait before the next look.
    Nothing(Duration),
}

/// What a claim goes by.
#[derive(Default)]
struct Claims {
    /// Attempts that were claimed and have not begun yet, by tenant.
    beginning: BTreeMap<TenantId, u32>,
    /// Whose the last one was.
    last: Option<TenantId>,
}

impl Claims {
    fn has_begun(&mut self, tenant: TenantId) {
        if let Some(count) = self.beginning.get_mut(&tenant) {
            *count -= 1;
            if *count == 0 {
                self.beginning.remove(&tenant);
            }
        }
    }

    /// Takes what can be taken.
    async fn claim(&mut self, jobs: &Jobs) -> Result<Claim> {
        let inner = &jobs.0;
        let mut held = inner.workers.jobs_in_hand();
        self.beginning.iter().for_each(|(tenant, count)| *held.entry(*tenant).or_default() += count);
        let in_hand: usize = held.values().map(|count| *count as usize).sum();
        // Besides those that one tenant may have at once there is room for others.
        let for_others = inner.options.at_once.div_ceil(OTHERS);
        let room = inner.options.at_once.saturating_add(for_others).saturating_sub(in_hand).min(inner.workers.room());
        let max = u32::try_from(room).unwrap_or(MOST_CLAIMED).min(MOST_CLAIMED);
        if max == 0 {
            return Ok(Claim::Nothing(inner.options.poll));
        }
        // What one claim cannot take is left over too.
        let reserved = u32::try_from(for_others.saturating_sub(room - max as usize)).unwrap_or(u32::MAX);
        let now = jobs.now();
        let node = inner.workers.engine().parts().node;
        let turns = JobTurns { held, reserved, after: self.last };
        let except = inner.workers.refused_tenants();
        let claim = JobClaim { node, now, check_at: now.after(inner.workers.lease()), max, except, turns };
        let claimed = jobs.store().claim_jobs(claim).await?;
        failpoint::hit("job.claimed");
        if claimed.jobs.is_empty() {
            let next = jobs.store().next_job(now).await?;
            let first = next.into_iter().chain(claimed.again_at).min();
            return Ok(Claim::Nothing(first.map_or(inner.options.poll, |first| first.since(jobs.now()).min(inner.options.poll))));
        }
        if let Some(last) = claimed.jobs.last().filter(|last| !last.begun_before) {
            self.last = Some(last.job.tenant);
        }
        let taken: Vec<Job> = claimed.jobs.into_iter().map(|claimed| claimed.job).collect();
        taken.iter().for_each(|job| *self.beginning.entry(job.tenant).or_default() += 1);
        Ok(Claim::Taken(taken))
    }
}

/// For so many jobs that one tenant may have in hand, one more may be in hand of tenants that have none.
const OTHERS: usize = 10;
