//! Backlog counts of the store in memory.

use async_trait::async_trait;

use super::MemoryStore;
use crate::clock::Timestamp;
use crate::model::RunState;
use crate::store::StoreResult;
use crate::store::census::{Census, Censuses};
use crate::store::notices::NOTICE;

#[async_trait]
impl Censuses for MemoryStore {
    async fn census(&self, now: Timestamp) -> StoreResult<Census> {
        let tables = self.tables();
        let mut census = Census::default();
        for row in tables.runs.all() {
            let waits = row.run.wake_at.is_some() || row.waits.iter().any(|wait| tables.waits.is_open(*wait));
            if !row.run.state.is_terminal() && (row.run.state != RunState::Paused || waits) {
                census.note(row.run.state.as_str(), 1);
            }
            census.notices += u64::from(row.journal.contains_key(NOTICE));
        }
        tables.jobs.count_into(&mut census, now);
        census.deliveries = tables.documents.due("webhook_delivery", now);
        Ok(census)
    }
}
