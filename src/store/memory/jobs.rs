//! Jobs in memory.

use std::collections::{BTreeMap, HashMap, VecDeque};

use async_trait::async_trait;

use super::{MemoryStore, Tables};
use crate::clock::Timestamp;
use crate::id::{DeadLetterId, JobId, TenantId};
use crate::model::job::{Bucket, DeadLetter, Job, JobEnd, JobState, QueueRules};
use crate::store::jobs::{Gate, Gates, MOST_CLAIMED, Turns};
use crate::store::text::Fit;
use crate::store::{
    Census, Claimed, ClaimedJob, DeadFilter, Enqueued, JobClaim, JobCount, JobFilter, NewJob, Queue, StoreError, StoreResult,
};

/// The tables of this noun.
#[derive(Default)]
pub(super) struct Jobs {
    rows: BTreeMap<JobId, Row>,
    keys: HashMap<(TenantId, String), JobId>,
    dead: BTreeMap<(Timestamp, DeadLetterId), DeadLetter>,
    queues: BTreeMap<(TenantId, String), (QueueRules, HashMap<String, Bucket>)>,
}

struct Row {
    job: Job,
    /// When its attempt is looked after.
    check_at: Option<Timestamp>,
    /// It ended without a run that tells of it.
    untold: bool,
}

const WAITING: [JobState; 2] = [JobState::Pending, JobState::Retrying];

impl Jobs {
    fn owned(&self, tenant: TenantId, id: JobId) -> Option<&Row> {
        self.rows.get(&id).filter(|row| row.job.tenant == tenant)
    }

    fn gates(&self) -> Gates {
        let gate = |key: &(TenantId, String), rules: &QueueRules, buckets: &HashMap<String, Bucket>| {
            let mut running: HashMap<String, u64> = HashMap::new();
            let here = |row: &&Row| row.job.state == JobState::Running && (row.job.tenant, &row.job.queue) == (key.0, &key.1);
            for row in self.rows.values().filter(here) {
                *running.entry(String::new()).or_default() += 1;
                if !row.job.order.scope.org.is_empty() {
                    *running.entry(row.job.order.scope.org.clone()).or_default() += 1;
                }
            }
            Gate { rules: rules.clone(), buckets: buckets.clone(), running, changed: false }
        };
        let all = self.queues.iter().map(|(key, (rules, buckets))| (key.clone(), gate(key, rules, buckets))).collect();
        Gates { all, ..Gates::default() }
    }

    /// Deletes up to `limit` jobs of a tenant that ended before a time; returns how many were deleted.
    pub(super) fn delete_ended(&mut self, tenant: TenantId, before: Timestamp, limit: usize) -> u64 {
        let is_old = |row: &&Row| {
            let has_ended = row.job.state.is_over() && row.job.completed_at.is_some_and(|at| at < before);
            row.job.tenant == tenant && has_ended && !row.untold
        };
        let mut ended: Vec<(Option<Timestamp>, JobId)> =
            self.rows.values().filter(is_old).map(|row| (row.job.completed_at, row.job.id)).collect();
        ended.sort_unstable();
        ended.truncate(limit);
        for (_, id) in &ended {
            self.rows.remove(id);
            self.keys.retain(|_, job| *job != *id);
        }
        ended.len() as u64
    }

    /// Adds the numbers of jobs and dead letters of all tenants. A job whose time has come counts as ready, whether or not it was marked so.
    pub(super) fn count_into(&self, census: &mut Census, now: Timestamp) {
        for Row { job, .. } in self.rows.values() {
            match job.state {
                JobState::Running => census.jobs_running += 1,
                state if WAITING.contains(&state) && job.run_at <= now => census.jobs_ready += 1,
                state if WAITING.contains(&state) => census.jobs_later += 1,
                _ => {}
            }
        }
        census.dead_letters = self.dead.values().filter(|letter| letter.replayed_at.is_none()).count() as u64;
    }

    fn dead_of(&self, tenant: TenantId, filter: &DeadFilter) -> Vec<&DeadLetter> {
        let meant = |letter: &&DeadLetter| {
            letter.tenant == tenant
                && filter.queue.as_ref().is_none_or(|queue| *queue == letter.queue)
                && filter.before.is_none_or(|before| letter.failed_at < before)
                && !(filter.open && letter.replayed_at.is_some())
        };
        self.dead.values().filter(meant).collect()
    }
}

impl Tables {
    /// Ends a job's attempt, if it is the present one.
    pub(super) fn end_job(&mut self, end: &JobEnd) -> bool {
        let jobs = &mut self.jobs;
        let present = |row: &&mut Row| row.job.tenant == end.tenant && row.job.attempt == end.attempt && row.job.state == JobState::Running;
        let Some(row) = jobs.rows.get_mut(&end.job).filter(present) else { return false };
        row.check_at = None;
        let job = &mut row.job;
        job.state = end.state;
        job.worker = None;
        job.updated_at = end.now;
        job.attempt -= u32::from(end.state == JobState::Pending);
        job.retry_count += u32::from(matches!(end.state, JobState::Retrying | JobState::Failed));
        job.last_error = end.error.clone().or(job.last_error.take());
        job.run_at = end.run_at.unwrap_or(job.run_at);
        job.completed_at = end.state.is_over().then_some(end.now);
        if let Some(id) = end.dead {
            let letter = DeadLetter {
                id,
                tenant: job.tenant,
                job: job.id,
                queue: job.queue.clone(),
                priority: job.priority,
                order: job.order.clone(),
                retry_count: job.retry_count,
                error: end.error.clone().unwrap_or_default(),
                failed_at: end.now,
                replayed_at: None,
                replayed_as: None,
            };
            jobs.dead.insert((end.now, id), letter);
        }
        true
    }
}

#[async_trait]
impl crate::store::Jobs for MemoryStore {
    async fn enqueue_job(&self, new: NewJob) -> StoreResult<Enqueued> {
        new.fit()?;
        let jobs = &mut self.tables().jobs;
        if jobs.rows.get(&new.job.id).is_some_and(|row| row.job.tenant == new.job.tenant) {
            return Ok(Enqueued::New);
        }
        if jobs.rows.contains_key(&new.job.id) {
            return Err(StoreError::Exists("the job"));
        }
        if let Some(key) = new.key {
            let place = (new.job.tenant, key);
            if let Some(before) = jobs.keys.get(&place) {
                return Ok(Enqueued::Before(*before));
            }
            jobs.keys.insert(place, new.job.id);
        }
        jobs.rows.insert(new.job.id, Row { job: new.job, check_at: None, untold: false });
        Ok(Enqueued::New)
    }

    async fn claim_jobs(&self, claim: JobClaim) -> StoreResult<Claimed> {
        let jobs = &mut self.tables().jobs;
        let max = claim.max.min(MOST_CLAIMED) as usize;
        let mut claimed: Vec<ClaimedJob> = jobs
            .rows
            .values()
            .filter(|row| row.job.state == JobState::Running && row.check_at.is_some_and(|at| at <= claim.now))
            .map(|row| ClaimedJob { job: row.job.clone(), begun_before: true })
            .take(max)
            .collect();
        let mut gates = jobs.gates();
        let mut ready: Vec<&Job> =
            jobs.rows.values().map(|row| &row.job).filter(|job| WAITING.contains(&job.state) && job.run_at <= claim.now).collect();
        ready.sort_by_key(|job| (std::cmp::Reverse(job.priority), job.run_at, job.id));
        let mut lines: BTreeMap<TenantId, VecDeque<&Job>> = BTreeMap::new();
        ready.into_iter().for_each(|job| lines.entry(job.tenant).or_default().push_back(job));
        let mut turns = Turns::new(&claim, lines.keys().copied());
        let mut taken = Vec::new();
        loop {
            let dealt = turns.deal(max.saturating_sub(taken.len()));
            if dealt.is_empty() {
                break;
            }
            for (tenant, count) in dealt {
                let line = lines.entry(tenant).or_default();
                let admitted = std::iter::from_fn(|| line.pop_front())
                    .filter(|job| gates.admit(tenant, &job.queue, &job.order.scope.org, claim.now))
                    .take(count);
                let before = taken.len();
                for job in admitted {
                    taken.push((turns.take(tenant), ClaimedJob { job: job.clone(), begun_before: false }));
                }
                if taken.len() < before + count {
                    turns.leave(tenant);
                }
            }
        }
        taken.sort_by_key(|(place, _)| *place);
        claimed.extend(taken.into_iter().map(|(_, job)| job));
        for one in &mut claimed {
            one.note(&claim);
            let elapsed = claim.now.since(one.job.started_at.unwrap_or(claim.now));
            jobs.rows.insert(one.job.id, Row { job: one.job.clone(), check_at: Some(claim.check_at.after(elapsed)), untold: false });
        }
        for (key, gate) in gates.all {
            if let Some((_, buckets)) = jobs.queues.get_mut(&key) {
                *buckets = gate.buckets;
            }
        }
        Ok(Claimed { jobs: claimed, again_at: gates.again_at })
    }

    async fn end_job(&self, end: JobEnd) -> StoreResult<bool> {
        let mut tables = self.tables();
        let ended = tables.end_job(&end);
        if let Some(row) = tables.jobs.rows.get_mut(&end.job).filter(|_| ended) {
            row.untold = matches!(end.state, JobState::Failed | JobState::Cancelled);
        }
        Ok(ended)
    }

    async fn untold_jobs(&self, except: &[TenantId], limit: u32) -> StoreResult<Vec<Job>> {
        let tables = self.tables();
        let untold = tables.jobs.rows.values().filter(|row| row.untold && !except.contains(&row.job.tenant));
        Ok(untold.map(|row| row.job.clone()).take(limit as usize).collect())
    }

    async fn job_told(&self, tenant: TenantId, id: JobId) -> StoreResult<()> {
        if let Some(row) = self.tables().jobs.rows.get_mut(&id).filter(|row| row.job.tenant == tenant) {
            row.untold = false;
        }
        Ok(())
    }

    async fn next_job(&self, now: Timestamp) -> StoreResult<Option<Timestamp>> {
        let tables = self.tables();
        let at = |row: &Row| match row.job.state {
            JobState::Running => row.check_at,
            state => WAITING.contains(&state).then_some(row.job.run_at),
        };
        Ok(tables.jobs.rows.values().filter_map(at).filter(|at| *at > now).min())
    }

    async fn find_job(&self, tenant: TenantId, id: JobId) -> StoreResult<Option<Job>> {
        Ok(self.tables().jobs.owned(tenant, id).map(|row| row.job.clone()))
    }

    async fn list_jobs(&self, tenant: TenantId, filter: JobFilter) -> StoreResult<Vec<Job>> {
        let tables = self.tables();
        let meant = |job: &&Job| {
            job.tenant == tenant
                && filter.state.is_none_or(|state| state == job.state)
                && filter.queue.as_ref().is_none_or(|queue| *queue == job.queue)
                && filter.name.as_ref().is_none_or(|name| *name == job.order.name)
                && filter.after.is_none_or(|after| job.id > after)
        };
        let found = tables.jobs.rows.values().map(|row| &row.job).filter(meant);
        Ok(found.skip(filter.offset as usize).take(filter.limit as usize).cloned().collect())
    }

    async fn count_jobs(&self, tenant: TenantId) -> StoreResult<Vec<JobCount>> {
        let mut counts: BTreeMap<(String, &'static str), (JobState, u64)> = BTreeMap::new();
        for job in self.tables().jobs.rows.values().map(|row| &row.job).filter(|job| job.tenant == tenant) {
            counts.entry((job.queue.clone(), job.state.as_str())).or_insert((job.state, 0)).1 += 1;
        }
        Ok(counts.into_iter().map(|((queue, _), (state, count))| JobCount { queue, state, count }).collect())
    }

    async fn move_job(
        &self,
        tenant: TenantId,
        id: JobId,
        from: &[JobState],
        to: JobState,
        now: Timestamp,
    ) -> StoreResult<Option<JobState>> {
        let jobs = &mut self.tables().jobs;
        let Some(row) = jobs.rows.get_mut(&id).filter(|row| row.job.tenant == tenant) else { return Ok(None) };
        let before = row.job.state;
        if !from.contains(&before) {
            return Ok(Some(before));
        }
        row.check_at = None;
        row.untold = to == JobState::Cancelled;
        let job = &mut row.job;
        (job.state, job.worker, job.updated_at) = (to, None, now);
        job.completed_at = Some(now);
        if to == JobState::Pending {
            (job.run_at, job.retry_count, job.last_error) = (now, 0, None);
            (job.started_at, job.completed_at) = (None, None);
            for letter in jobs.dead.values_mut().filter(|letter| letter.job == id && letter.replayed_at.is_none()) {
                (letter.replayed_at, letter.replayed_as) = (Some(now), Some(id));
            }
        }
        Ok(Some(before))
    }

    async fn delete_job(&self, tenant: TenantId, id: JobId) -> StoreResult<Option<JobState>> {
        let jobs = &mut self.tables().jobs;
        let before = jobs.owned(tenant, id).map(|row| row.job.state);
        if before.is_some_and(JobState::is_over) {
            jobs.rows.remove(&id);
            jobs.keys.retain(|_, job| *job != id);
        }
        Ok(before)
    }

    async fn find_dead(&self, tenant: TenantId, id: DeadLetterId) -> StoreResult<Option<DeadLetter>> {
        Ok(self.tables().jobs.dead.values().find(|letter| letter.tenant == tenant && letter.id == id).cloned())
    }

    async fn list_dead(&self, tenant: TenantId, filter: DeadFilter) -> StoreResult<Vec<DeadLetter>> {
        let tables = self.tables();
        let found = tables.jobs.dead_of(tenant, &filter).into_iter();
        let behind = found.filter(|letter| filter.after.is_none_or(|after| (letter.failed_at, letter.id) > after));
        Ok(behind.skip(filter.offset as usize).take(filter.limit as usize).cloned().collect())
    }

    async fn count_dead(&self, tenant: TenantId, filter: DeadFilter) -> StoreResult<u64> {
        Ok(self.tables().jobs.dead_of(tenant, &filter).len() as u64)
    }

    async fn replay_dead(&self, tenant: TenantId, seen: &DeadLetter, job: Job, now: Timestamp) -> StoreResult<bool> {
        job.fit()?;
        let jobs = &mut self.tables().jobs;
        let as_seen = |kept: &&mut DeadLetter| kept.tenant == tenant && kept.id == seen.id && kept.replayed_as == seen.replayed_as;
        let Some(letter) = jobs.dead.values_mut().find(as_seen) else { return Ok(false) };
        (letter.replayed_at, letter.replayed_as) = (Some(now), Some(job.id));
        jobs.rows.entry(job.id).or_insert(Row { job, check_at: None, untold: false });
        Ok(true)
    }

    async fn purge_dead(&self, tenant: TenantId, filter: DeadFilter) -> StoreResult<u64> {
        let jobs = &mut self.tables().jobs;
        let meant: Vec<(Timestamp, DeadLetterId)> =
            jobs.dead_of(tenant, &filter).into_iter().map(|letter| (letter.failed_at, letter.id)).collect();
        meant.iter().for_each(|key| drop(jobs.dead.remove(key)));
        Ok(meant.len() as u64)
    }

    async fn put_queue(&self, tenant: TenantId, queue: Queue) -> StoreResult<()> {
        queue.fit()?;
        self.tables().jobs.queues.entry((tenant, queue.name)).or_default().0 = queue.rules;
        Ok(())
    }

    async fn list_queues(&self, tenant: TenantId) -> StoreResult<Vec<Queue>> {
        let tables = self.tables();
        let found = tables.jobs.queues.iter().filter(|((owner, _), _)| *owner == tenant);
        Ok(found.map(|((_, name), (rules, _))| Queue { name: name.clone(), rules: rules.clone() }).collect())
    }

    async fn delete_queue(&self, tenant: TenantId, name: &str) -> StoreResult<bool> {
        Ok(self.tables().jobs.queues.remove(&(tenant, name.to_owned())).is_some())
    }
}
