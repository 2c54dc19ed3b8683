//! Deletes what is kept no longer, for every tenant, a little at a time.
//!
//! Every node looks once a minute whose sweep is due; a document of the tenant says when, and the node that moves it on by compare-and-set does the sweep.
//! All deletions may be repeated, so a sweep that takes longer than the time until the next one does no harm. Only what has ended is deleted:
//! `store/retention` makes sure of that in the same transaction.
//!
//! Must not know: HTTP routes, what an execution is made of.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::{Clock, Timestamp};
use crate::id::{ConversationId, RunId, TenantId};
use crate::model::{RetentionKind, RetentionPolicy};
use crate::store::{BLOB_GRACE, Collection, Document, Kept, RunDeletion, SharedStore, StoreError, StoreResult};

/// How often due sweeps are looked for.
const POLL_INTERVAL: Duration = Duration::from_secs(60);
/// Time between two sweeps of a tenant.
const SWEEP_INTERVAL: Duration = Duration::from_secs(15 * 60);
/// Rows of one transaction.
const BATCH: u32 = 32;
/// Between two transactions the store is free for others.
const PAUSE: Duration = Duration::from_millis(20);
/// Blobs that are looked at in one step.
const BLOB_PAGE: u32 = 500;
/// Pages of the database file that are given back in one step.
const FILE_PAGES: u32 = 256;
/// A webhook delivery that is still being sent is due within a day; one that is over, much later.
const DELIVERY_HORIZON: Duration = Duration::from_secs(24 * 3_600);

/// The kinds of documents that are deleted; names of kinds never change.
const CONVERSATION: &str = "conversation";
const CONVERSATION_TURN: &str = "conversation_turn";
const DELIVERY: &str = "webhook_delivery";

/// The metric of deleted rows, by kind.
const DELETED: &str = "dispatch_retention_deleted_total";
/// The metric of bytes that were given back to the file system.
const RELEASED: &str = "dispatch_retention_released_bytes_total";
/// The metric of the time of the last sweep.
const LAST_SWEEP: &str = "dispatch_retention_last_sweep_timestamp_seconds";

/// The retention that a tenant set for itself, stored under the tenant's id.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TenantRetention {
    /// Milliseconds by kind; `null` keeps a kind for ever, an absent kind has the server's default.
    pub overrides: std::collections::BTreeMap<RetentionKind, Option<u64>>,
}

impl Document for TenantRetention {
    const KIND: &'static str = "retention";
    const TAKEN: &'static str = "the retention";
    type Id = TenantId;
}

impl TenantRetention {
    /// Returns the policy that holds for the tenant.
    pub fn policy(&self, defaults: &RetentionPolicy) -> RetentionPolicy {
        defaults.with(self.overrides.iter().map(|(kind, millis)| (*kind, millis.map(Duration::from_millis))))
    }
}

/// The state of a tenant's sweeps, stored under the tenant's id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SweepState {
    /// When the next sweep may begin.
    next_at: Timestamp,
    /// When the last sweep ended.
    #[serde(default)]
    swept_at: Option<Timestamp>,
}

impl Document for SweepState {
    const KIND: &'static str = "retention_sweep";
    const TAKEN: &'static str = "the sweep";
    type Id = TenantId;
}

/// Tells the metrics recorder what the numbers mean.
pub(super) fn describe() {
    metrics::describe_counter!(DELETED, "Rows that retention deleted, by kind");
    metrics::describe_counter!(RELEASED, "Bytes that the database file gave back to the file system");
    metrics::describe_gauge!(LAST_SWEEP, "Unix time of this node's last retention sweep");
    for kind in RetentionKind::ALL {
        metrics::counter!(DELETED, "kind" => kind.as_str()).increment(0);
    }
    metrics::counter!(DELETED, "kind" => "blobs").increment(0);
    metrics::counter!(RELEASED).increment(0);
    metrics::gauge!(LAST_SWEEP).increment(0);
}

/// Deletes what is kept no longer.
#[derive(Clone)]
pub struct RetentionSweeper {
    store: SharedStore,
    clock: Clock,
    defaults: RetentionPolicy,
}

impl RetentionSweeper {
    pub fn new(store: SharedStore, clock: Clock, defaults: RetentionPolicy) -> Self {
        Self { store, clock, defaults }
    }

    /// Sweeps for ever.
    pub async fn run(self) {
        loop {
            self.clock.sleep(POLL_INTERVAL).await;
            if let Err(error) = self.sweep_due().await {
                tracing::warn!(%error, "retention sweep failed; retrying in a minute");
            }
        }
    }

    /// Does the sweeps that are due and that no other node does. The one of the first tenant also frees space.
    pub async fn sweep_due(&self) -> StoreResult<()> {
        let tenants = self.store.list_tenants().await?;
        for (place, tenant) in tenants.iter().enumerate() {
            let Some(claimed) = self.claim(tenant.id).await? else { continue };
            if let Err(error) = self.sweep_tenant(tenant.id).await {
                tracing::warn!(tenant = %tenant.id, %error, "retention sweep of a tenant failed; retrying at its next one");
                continue;
            }
            if place == 0 {
                self.free_space().await?;
            }
            let now = self.clock.now();
            let done = SweepState { swept_at: Some(now), ..claimed.body.clone() };
            self.states(tenant.id).change(&claimed, done, now).await?;
            metrics::gauge!(LAST_SWEEP).set(f64::from(u32::try_from(now.as_millis() / 1_000).unwrap_or(u32::MAX)));
        }
        Ok(())
    }

    fn states(&self, tenant: TenantId) -> Collection<'_, SweepState> {
        Collection::of(&*self.store, tenant)
    }

    /// Takes a tenant's sweep, if it is due and no other node took it.
    async fn claim(&self, tenant: TenantId) -> StoreResult<Option<Kept<SweepState>>> {
        let (states, now) = (self.states(tenant), self.clock.now());
        let next_at = now.after(SWEEP_INTERVAL);
        match states.find(tenant).await? {
            Some(kept) if kept.body.next_at > now => Ok(None),
            Some(kept) => states.change(&kept, SweepState { next_at, ..kept.body.clone() }, now).await,
            None => match states.create(tenant, SweepState { next_at, swept_at: None }, now).await {
                Err(StoreError::Exists(_)) => Ok(None),
                made => made.map(Some),
            },
        }
    }

    /// Deletes what a tenant keeps no longer; returns the number of deleted rows.
    pub async fn sweep_tenant(&self, tenant: TenantId) -> StoreResult<u64> {
        let own = Collection::<TenantRetention>::of(&*self.store, tenant).find(tenant).await?;
        let policy = own.map_or_else(|| self.defaults.clone(), |kept| kept.body.policy(&self.defaults));
        let now = self.clock.now();
        let mut all = 0;
        for kind in RetentionKind::ALL {
            let Some(span) = policy.get(kind) else { continue };
            let before = now.before(span);
            let deleted = match kind {
                RetentionKind::Executions => self.delete_executions(tenant, before).await?,
                RetentionKind::Events => self.delete_logs(tenant, before).await?,
                RetentionKind::Conversations => self.delete_documents(tenant, CONVERSATION, before, now).await?,
                RetentionKind::Deliveries => self.delete_documents(tenant, DELIVERY, before, now.after(DELIVERY_HORIZON)).await?,
                RetentionKind::Jobs => self.delete_jobs(tenant, before).await?,
            };
            metrics::counter!(DELETED, "kind" => kind.as_str()).increment(deleted);
            if deleted > 0 {
                tracing::info!(%tenant, kind = kind.as_str(), deleted, %before, "retention deleted what was kept no longer");
            }
            all += deleted;
        }
        Ok(all)
    }

    async fn delete_executions(&self, tenant: TenantId, before: Timestamp) -> StoreResult<u64> {
        let (mut deleted, mut after) = (0, None);
        loop {
            let page = self.store.ended_runs(tenant, before, after, BATCH).await?;
            let Some(last) = page.last().copied() else { return Ok(deleted) };
            let runs: Vec<RunId> = page.into_iter().map(|(_, run)| run).collect();
            for deletion in self.store.delete_runs(tenant, &runs).await? {
                if let RunDeletion::Deleted(count) = deletion {
                    deleted += count;
                }
            }
            after = Some(last);
            self.clock.sleep(PAUSE).await;
        }
    }

    async fn delete_logs(&self, tenant: TenantId, before: Timestamp) -> StoreResult<u64> {
        let mut all = 0;
        loop {
            let deleted = self.store.delete_logs(tenant, before, BATCH).await?;
            all += deleted;
            if deleted < u64::from(BATCH) {
                return Ok(all);
            }
            self.clock.sleep(PAUSE).await;
        }
    }

    async fn delete_jobs(&self, tenant: TenantId, before: Timestamp) -> StoreResult<u64> {
        let mut all = 0;
        loop {
            let deleted = self.store.delete_jobs(tenant, before, BATCH).await?;
            all += deleted;
            if deleted < u64::from(BATCH) {
                return Ok(all);
            }
            self.clock.sleep(PAUSE).await;
        }
    }

    async fn delete_documents(&self, tenant: TenantId, kind: &str, before: Timestamp, due_after: Timestamp) -> StoreResult<u64> {
        let mut all = 0;
        loop {
            let stale = self.store.stale_documents(tenant, kind, before, due_after, BATCH).await?;
            if stale.is_empty() {
                return Ok(all);
            }
            for id in stale {
                if kind == CONVERSATION {
                    let parent = format!("{}_{id}", ConversationId::PREFIX);
                    all += self.store.delete_documents_of(tenant, CONVERSATION_TURN, &parent).await?;
                }
                all += u64::from(self.store.delete_document(tenant, kind, &id).await?);
            }
            self.clock.sleep(PAUSE).await;
        }
    }

    /// Deletes texts that nothing refers to any more, and gives free pages of the database file back to the file system.
    pub async fn free_space(&self) -> StoreResult<()> {
        let before = self.clock.now().before(BLOB_GRACE);
        let mut after = None;
        loop {
            let page = self.store.collect_blobs(before, after, BLOB_PAGE).await?;
            metrics::counter!(DELETED, "kind" => "blobs").increment(page.deleted);
            after = page.next;
            if after.is_none() {
                break;
            }
            self.clock.sleep(PAUSE).await;
        }
        loop {
            let released = self.store.release_space(FILE_PAGES).await?;
            metrics::counter!(RELEASED).increment(released);
            if released == 0 {
                return Ok(());
            }
            self.clock.sleep(PAUSE).await;
        }
    }
}
