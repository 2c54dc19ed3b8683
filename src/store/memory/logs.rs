//! The logs of ended runs in memory.

use async_trait::async_trait;

use super::MemoryStore;
use crate::clock::Timestamp;
use crate::id::{RunId, TenantId};
use crate::store::StoreResult;
use crate::store::logs::{Logs, SmallLog};

#[async_trait]
impl Logs for MemoryStore {
    async fn bulky_logs(&self, before: Timestamp, except: &[TenantId], limit: u32) -> StoreResult<Vec<(TenantId, RunId)>> {
        let tables = self.tables();
        let mut bulky: Vec<_> = tables
            .runs
            .all()
            .filter(|row| !row.compacted && !except.contains(&row.run.tenant))
            .filter_map(|row| row.run.finished_at.filter(|ended| *ended < before).map(|ended| (ended, row.run.id, row.run.tenant)))
            .collect();
        bulky.sort_unstable();
        Ok(bulky.into_iter().take(limit as usize).map(|(_, run, tenant)| (tenant, run)).collect())
    }

    async fn shrink_logs(&self, logs: Vec<SmallLog>) -> StoreResult<u64> {
        let mut tables = self.tables();
        let mut taken = 0;
        for SmallLog { tenant, run, log } in logs {
            tables.runs.change(run, |row| {
                if row.run.tenant != tenant || row.compacted || row.run.finished_at.is_none() {
                    return;
                }
                row.compacted = true;
                taken += 1;
                if let Some(log) = log {
                    row.log = log.into_iter().map(|segment| (segment.last(), segment)).collect();
                }
            });
        }
        Ok(taken)
    }
}
