//! Deletion of what is no longer kept, in memory. Only flows are kept under their hash here, without the time of their last use.

use async_trait::async_trait;

use super::{MemoryStore, Tables};
use crate::clock::Timestamp;
use crate::id::{RunId, TenantId};
use crate::store::retention::{BlobSweep, EndedRun, Retention, RunDeletion};
use crate::store::{NOTICE, StoreResult};

impl Tables {
    /// Returns a run and its descendants.
    fn with_descendants(&self, run: RunId) -> Vec<RunId> {
        let mut found = vec![run];
        let mut place = 0;
        while let Some(parent) = found.get(place).copied() {
            let begun_by = |row: &&super::runs::Row| row.run.parent.is_some_and(|link| link.run == parent);
            found.extend(self.runs.all().filter(begun_by).map(|row| row.run.id));
            place += 1;
        }
        found.sort_unstable();
        found
    }

    fn has_ended(&self, run: RunId) -> bool {
        self.runs.get(run).is_none_or(|row| row.run.state.is_terminal())
    }

    fn delete_run(&mut self, tenant: TenantId, run: RunId) -> RunDeletion {
        let Some(row) = self.runs.owned(tenant, run) else { return RunDeletion::Missing };
        let parent = row.run.parent.map(|link| link.run);
        let all = self.with_descendants(run);
        if let Some(active) = all.iter().copied().chain(parent).find(|id| !self.has_ended(*id)) {
            return RunDeletion::Active(active);
        }
        let is_noticed = |id: &&RunId| self.runs.get(**id).is_some_and(|row| row.journal.contains_key(NOTICE));
        if let Some(noticed) = all.iter().find(is_noticed) {
            return RunDeletion::Unannounced(*noticed);
        }
        for id in &all {
            self.waits.remove_run(*id);
            self.receipts.remove_run(*id);
            self.page_runs.remove(id);
            self.runs.remove(*id);
        }
        RunDeletion::Deleted(all.len() as u64)
    }
}

#[async_trait]
impl Retention for MemoryStore {
    async fn delete_runs(&self, tenant: TenantId, runs: &[RunId]) -> StoreResult<Vec<RunDeletion>> {
        let mut tables = self.tables();
        Ok(runs.iter().map(|run| tables.delete_run(tenant, *run)).collect())
    }

    async fn ended_runs(&self, tenant: TenantId, before: Timestamp, after: Option<EndedRun>, limit: u32) -> StoreResult<Vec<EndedRun>> {
        let tables = self.tables();
        let is_kept = |row: &&super::runs::Row| {
            row.journal.contains_key(NOTICE) || row.run.parent.is_some_and(|parent| !tables.has_ended(parent.run))
        };
        let mut ended: Vec<EndedRun> = tables
            .runs
            .all()
            .filter(|row| row.run.tenant == tenant && !is_kept(row))
            .filter_map(|row| row.run.finished_at.map(|at| (at, row.run.id)))
            .filter(|run| run.0 < before && after.is_none_or(|after| *run > after))
            .collect();
        ended.sort_unstable();
        ended.truncate(limit as usize);
        Ok(ended)
    }

    async fn delete_logs(&self, tenant: TenantId, before: Timestamp, limit: u32) -> StoreResult<u64> {
        let mut tables = self.tables();
        let is_old = |row: &&super::runs::Row| {
            row.run.tenant == tenant && !row.log_deleted && row.run.finished_at.is_some_and(|ended| ended < before)
        };
        let mut old: Vec<_> = tables.runs.all().filter(is_old).map(|row| (row.run.finished_at, row.run.id)).collect();
        old.sort_unstable();
        old.truncate(limit as usize);
        for (_, run) in &old {
            tables.runs.change(*run, |row| {
                row.compacted = true;
                row.log_deleted = true;
                let last = row.log.pop_last();
                row.log.clear();
                row.log.extend(last);
            });
        }
        Ok(old.len() as u64)
    }

    async fn delete_jobs(&self, tenant: TenantId, before: Timestamp, limit: u32) -> StoreResult<u64> {
        Ok(self.tables().jobs.delete_ended(tenant, before, limit as usize))
    }

    async fn stale_documents(
        &self,
        tenant: TenantId,
        kind: &str,
        before: Timestamp,
        due_after: Timestamp,
        limit: u32,
    ) -> StoreResult<Vec<String>> {
        Ok(self.tables().documents.stale(tenant, kind, before, due_after, limit as usize))
    }

    async fn collect_blobs(&self, _: Timestamp, after: Option<String>, limit: u32) -> StoreResult<BlobSweep> {
        let runs = &mut self.tables().runs;
        let page = runs.flows_after(after.as_deref().unwrap_or_default(), limit as usize);
        let next = if page.len() < limit as usize { None } else { page.last().map(|(hash, _)| hash.clone()) };
        let unused: Vec<String> = page.into_iter().filter(|(_, is_used)| !is_used).map(|(hash, _)| hash).collect();
        unused.iter().for_each(|hash| runs.remove_flow(hash));
        Ok(BlobSweep { deleted: unused.len() as u64, next })
    }

    async fn release_space(&self, _: u32) -> StoreResult<u64> {
        Ok(0)
    }
}
