//! Limits, their counters and usage: figures that the operator counts, so they are not sealed. The name of a model is all of their text.

use async_trait::async_trait;

use super::Sealing;
use crate::clock::Timestamp;
use crate::id::{KeyId, RunId, TenantId};
use crate::model::ModelUsage;
use crate::store::{
    LimitsRow, QuotaAnswer, QuotaChange, QuotaCount, QuotaSlot, QuotaTake, Quotas, StoreResult, UsageQuery, UsageTotal, Usages,
};

#[async_trait]
impl Quotas for Sealing {
    async fn put_limits(&self, tenant: TenantId, row: LimitsRow, now: Timestamp) -> StoreResult<()> {
        self.inner.put_limits(tenant, row, now).await
    }

    async fn find_limits(&self, tenant: TenantId, key: Option<KeyId>) -> StoreResult<Vec<LimitsRow>> {
        self.inner.find_limits(tenant, key).await
    }

    async fn list_limits(&self, tenant: TenantId) -> StoreResult<Vec<LimitsRow>> {
        self.inner.list_limits(tenant).await
    }

    async fn take_quota(&self, tenant: TenantId, takes: Vec<QuotaTake>) -> StoreResult<QuotaAnswer> {
        self.inner.take_quota(tenant, takes).await
    }

    async fn correct_quota(&self, tenant: TenantId, changes: Vec<QuotaChange>) -> StoreResult<()> {
        self.inner.correct_quota(tenant, changes).await
    }

    async fn count_quota(&self, tenant: TenantId, key: Option<KeyId>) -> StoreResult<Vec<QuotaCount>> {
        self.inner.count_quota(tenant, key).await
    }

    async fn take_slots(
        &self,
        tenant: TenantId,
        run: RunId,
        slots: Vec<QuotaSlot>,
        now: Timestamp,
        until: Timestamp,
    ) -> StoreResult<Option<usize>> {
        self.inner.take_slots(tenant, run, slots, now, until).await
    }

    async fn purge_quotas(&self, now: Timestamp) -> StoreResult<u64> {
        self.inner.purge_quotas(now).await
    }
}

#[async_trait]
impl Usages for Sealing {
    async fn add_usage(&self, tenant: TenantId, key: Option<KeyId>, usage: ModelUsage, now: Timestamp) -> StoreResult<()> {
        self.inner.add_usage(tenant, key, usage, now).await
    }

    async fn read_usage(&self, tenant: TenantId, query: UsageQuery) -> StoreResult<Vec<UsageTotal>> {
        self.inner.read_usage(tenant, query).await
    }
}
