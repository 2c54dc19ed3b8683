//! Jobs and dead letters. A letter is made of its job's row, so both are sealed as the job.

use async_trait::async_trait;

use super::{Keys, Place, Sealing};
use crate::clock::Timestamp;
use crate::id::{DeadLetterId, JobId, TenantId};
use crate::model::job::{DeadLetter, Job, JobEnd, JobState, Order};
use crate::store::{Claimed, DeadFilter, Enqueued, JobClaim, JobCount, JobFilter, Jobs, NewJob, Queue, StoreError, StoreResult};

impl Keys {
    fn hide_order(&self, order: &mut Order, job: JobId) -> StoreResult<()> {
        let row = job.to_string();
        self.hide_value(&mut order.payload, &Place::new("jobs", &row, "payload"))?;
        order.callback.as_mut().map_or(Ok(()), |callback| self.hide_value(callback, &Place::new("jobs", &row, "callback")))
    }

    fn show_order(&self, order: &mut Order, job: JobId) -> StoreResult<()> {
        let row = job.to_string();
        self.show_value(&mut order.payload, &Place::new("jobs", &row, "payload"))?;
        order.callback.as_mut().map_or(Ok(()), |callback| self.show_value(callback, &Place::new("jobs", &row, "callback")))
    }

    fn hide_job(&self, job: &mut Job) -> StoreResult<()> {
        self.hide_order(&mut job.order, job.id)?;
        job.last_error.as_mut().map_or(Ok(()), |error| self.hide(error, &Place::new("jobs", &job.id.to_string(), "error")))
    }

    fn show_job(&self, job: &mut Job) -> StoreResult<()> {
        self.show_order(&mut job.order, job.id)?;
        job.last_error.as_mut().map_or(Ok(()), |error| self.show(error, &Place::new("jobs", &job.id.to_string(), "error")))
    }

    fn show_letter(&self, letter: &mut DeadLetter) -> StoreResult<()> {
        self.show_order(&mut letter.order, letter.job)?;
        self.show(&mut letter.error, &Place::new("jobs", &letter.job.to_string(), "error"))
    }

    pub(super) fn hide_job_end(&self, end: &mut JobEnd) -> StoreResult<()> {
        end.error.as_mut().map_or(Ok(()), |error| self.hide(error, &Place::new("jobs", &end.job.to_string(), "error")))
    }
}

#[async_trait]
impl Jobs for Sealing {
    async fn enqueue_job(&self, mut new: NewJob) -> StoreResult<Enqueued> {
        if let Some(keys) = self.keys(new.job.tenant).await? {
            keys.hide_job(&mut new.job)?;
        }
        self.inner.enqueue_job(new).await
    }

    async fn claim_jobs(&self, mut claim: JobClaim) -> StoreResult<Claimed> {
        claim.except = self.without(&claim.except);
        let mut claimed = self.inner.claim_jobs(claim.clone()).await?;
        let mut readable = Vec::with_capacity(claimed.jobs.len());
        for mut one in claimed.jobs {
            let tenant = one.job.tenant;
            let opened = self.open_one(tenant, |keys| keys.show_job(&mut one.job)).await?;
            let locked = matches!(opened, Err(StoreError::Locked));
            if self.is_readable(tenant, opened) {
                readable.push(one);
            } else if locked && !one.begun_before {
                let back = one.job.attempt().hand_back(tenant, claim.now, claim.now);
                self.inner.end_job(back).await?;
            }
            // An attempt that has begun is looked after by whoever has the key.
        }
        claimed.jobs = readable;
        Ok(claimed)
    }

    async fn end_job(&self, mut end: JobEnd) -> StoreResult<bool> {
        if let Some(keys) = self.keys(end.tenant).await? {
            keys.hide_job_end(&mut end)?;
        }
        self.inner.end_job(end).await
    }

    async fn next_job(&self, now: Timestamp) -> StoreResult<Option<Timestamp>> {
        self.inner.next_job(now).await
    }

    async fn find_job(&self, tenant: TenantId, id: JobId) -> StoreResult<Option<Job>> {
        let found = self.inner.find_job(tenant, id).await?.into_iter().collect();
        Ok(self.show_all(tenant, found, Keys::show_job).await?.pop())
    }

    async fn list_jobs(&self, tenant: TenantId, filter: JobFilter) -> StoreResult<Vec<Job>> {
        let jobs = self.inner.list_jobs(tenant, filter).await?;
        self.show_all(tenant, jobs, Keys::show_job).await
    }

    async fn count_jobs(&self, tenant: TenantId) -> StoreResult<Vec<JobCount>> {
        self.inner.count_jobs(tenant).await
    }

    async fn move_job(
        &self,
        tenant: TenantId,
        id: JobId,
        from: &[JobState],
        to: JobState,
        now: Timestamp,
    ) -> StoreResult<Option<JobState>> {
        self.inner.move_job(tenant, id, from, to, now).await
    }

    async fn delete_job(&self, tenant: TenantId, id: JobId) -> StoreResult<Option<JobState>> {
        self.inner.delete_job(tenant, id).await
    }

    async fn untold_jobs(&self, except: &[TenantId], limit: u32) -> StoreResult<Vec<Job>> {
        let mut readable = Vec::new();
        for mut job in self.inner.untold_jobs(&self.without(except), limit).await? {
            let opened = self.open_one(job.tenant, |keys| keys.show_job(&mut job)).await?;
            if self.is_readable(job.tenant, opened) {
                readable.push(job);
            }
        }
        Ok(readable)
    }

    async fn job_told(&self, tenant: TenantId, id: JobId) -> StoreResult<()> {
        self.inner.job_told(tenant, id).await
    }

    async fn find_dead(&self, tenant: TenantId, id: DeadLetterId) -> StoreResult<Option<DeadLetter>> {
        let found = self.inner.find_dead(tenant, id).await?.into_iter().collect();
        Ok(self.show_all(tenant, found, Keys::show_letter).await?.pop())
    }

    async fn list_dead(&self, tenant: TenantId, filter: DeadFilter) -> StoreResult<Vec<DeadLetter>> {
        let letters = self.inner.list_dead(tenant, filter).await?;
        self.show_all(tenant, letters, Keys::show_letter).await
    }

    async fn count_dead(&self, tenant: TenantId, filter: DeadFilter) -> StoreResult<u64> {
        self.inner.count_dead(tenant, filter).await
    }

    async fn replay_dead(&self, tenant: TenantId, letter: &DeadLetter, mut job: Job, now: Timestamp) -> StoreResult<bool> {
        if let Some(keys) = self.keys(tenant).await? {
            keys.hide_job(&mut job)?;
        }
        self.inner.replay_dead(tenant, letter, job, now).await
    }

    async fn purge_dead(&self, tenant: TenantId, filter: DeadFilter) -> StoreResult<u64> {
        self.inner.purge_dead(tenant, filter).await
    }

    async fn put_queue(&self, tenant: TenantId, queue: Queue) -> StoreResult<()> {
        self.inner.put_queue(tenant, queue).await
    }

    async fn list_queues(&self, tenant: TenantId) -> StoreResult<Vec<Queue>> {
        self.inner.list_queues(tenant).await
    }

    async fn delete_queue(&self, tenant: TenantId, name: &str) -> StoreResult<bool> {
        self.inner.delete_queue(tenant, name).await
    }
}
