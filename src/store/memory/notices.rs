//! Notices in memory.

use async_trait::async_trait;

use super::MemoryStore;
use crate::id::{RunId, TenantId};
use crate::store::StoreResult;
use crate::store::notices::{NOTICE, Notices};

#[async_trait]
impl Notices for MemoryStore {
    async fn noticed_runs(&self, except: &[TenantId], limit: u32) -> StoreResult<Vec<(TenantId, RunId)>> {
        let tables = self.tables();
        let noticed = tables.runs.all().filter(|row| row.journal.contains_key(NOTICE) && !except.contains(&row.run.tenant));
        Ok(noticed.map(|row| (row.run.tenant, row.run.id)).take(limit as usize).collect())
    }

    async fn notice_told(&self, tenant: TenantId, run: RunId, commit: i64) -> StoreResult<bool> {
        let mut tables = self.tables();
        let still = tables.runs.owned(tenant, run).is_some_and(|row| row.run.commit == commit);
        Ok(still && tables.runs.change(run, |row| row.journal.remove(NOTICE).is_some()).unwrap_or(false))
    }
}
