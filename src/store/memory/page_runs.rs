//! Runs of pages in memory.

use async_trait::async_trait;

use super::MemoryStore;
use super::runs::Row;
use crate::id::{ClientTokenId, RunId, TenantId};
use crate::store::StoreResult;
use crate::store::batch::json;
use crate::store::page_runs::PageRuns;

/// Returns about how many bytes a run stores.
fn weight(row: &Row) -> usize {
    let journal: usize = row.journal.values().map(|outcome| json(outcome).len()).sum();
    let log: usize = row.log.values().map(|segment| segment.encode().len()).sum();
    json(&row.run.input).len() + row.run.output.as_ref().map_or(0, |output| json(output).len()) + journal + log
}

#[async_trait]
impl PageRuns for MemoryStore {
    async fn note_page_run(&self, tenant: TenantId, token: ClientTokenId, run: RunId) -> StoreResult<()> {
        let mut tables = self.tables();
        if tables.runs.owned(tenant, run).is_some() {
            tables.page_runs.insert(run, token);
        }
        Ok(())
    }

    async fn page_bytes(&self, tenant: TenantId, token: ClientTokenId) -> StoreResult<u64> {
        let tables = self.tables();
        let of_token = tables.page_runs.iter().filter(|(_, known)| **known == token);
        let rows = of_token.filter_map(|(run, _)| tables.runs.owned(tenant, *run));
        Ok(rows.map(|row| weight(row) as u64).sum())
    }
}
