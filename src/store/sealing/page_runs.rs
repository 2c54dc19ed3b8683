//! The sizes of pages' runs are not sealed.

use async_trait::async_trait;

use super::Sealing;
use crate::id::{ClientTokenId, RunId, TenantId};
use crate::store::{PageRuns, StoreResult};

#[async_trait]
impl PageRuns for Sealing {
    async fn note_page_run(&self, tenant: TenantId, token: ClientTokenId, run: RunId) -> StoreResult<()> {
        self.inner.note_page_run(tenant, token, run).await
    }

    async fn page_bytes(&self, tenant: TenantId, token: ClientTokenId) -> StoreResult<u64> {
        self.inner.page_bytes(tenant, token).await
    }
}
