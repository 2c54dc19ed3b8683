//! Deletion needs no key: it looks at ids, states and times, which are not sealed.

use async_trait::async_trait;

use super::Sealing;
use crate::clock::Timestamp;
use crate::id::{RunId, TenantId};
use crate::store::{BlobSweep, EndedRun, Retention, RunDeletion, StoreResult};

#[async_trait]
impl Retention for Sealing {
    async fn delete_runs(&self, tenant: TenantId, runs: &[RunId]) -> StoreResult<Vec<RunDeletion>> {
        self.inner.delete_runs(tenant, runs).await
    }

    async fn ended_runs(&self, tenant: TenantId, before: Timestamp, after: Option<EndedRun>, limit: u32) -> StoreResult<Vec<EndedRun>> {
        self.inner.ended_runs(tenant, before, after, limit).await
    }

    async fn delete_logs(&self, tenant: TenantId, before: Timestamp, limit: u32) -> StoreResult<u64> {
        self.inner.delete_logs(tenant, before, limit).await
    }

    async fn delete_jobs(&self, tenant: TenantId, before: Timestamp, limit: u32) -> StoreResult<u64> {
        self.inner.delete_jobs(tenant, before, limit).await
    }

    async fn stale_documents(
        &self,
        tenant: TenantId,
        kind: &str,
        before: Timestamp,
        due_after: Timestamp,
        limit: u32,
    ) -> StoreResult<Vec<String>> {
        self.inner.stale_documents(tenant, kind, before, due_after, limit).await
    }

    async fn collect_blobs(&self, before: Timestamp, after: Option<String>, limit: u32) -> StoreResult<BlobSweep> {
        self.inner.collect_blobs(before, after, limit).await
    }

    async fn release_space(&self, pages: u32) -> StoreResult<u64> {
        self.inner.release_space(pages).await
    }
}
