//! The noun log: what becomes of a run's log after its end.

use async_trait::async_trait;

use super::StoreResult;
use crate::clock::Timestamp;
use crate::id::{RunId, TenantId};
use crate::model::event::Segment;

/// A log that was looked at for making it small.
#[derive(Debug, Clone)]
pub struct SmallLog {
    pub tenant: TenantId,
    pub run: RunId,
    /// All of it, as it will be; `None` when it stays as it is.
    pub log: Option<Vec<Segment>>,
}

/// The store of the logs of ended runs.
#[async_trait]
pub trait Logs {
    /// Runs that ended before a time and whose logs nobody has made small yet, the earliest first; those of some tenants left out.
    async fn bulky_logs(&self, before: Timestamp, except: &[TenantId], limit: u32) -> StoreResult<Vec<(TenantId, RunId)>>;

    /// Puts small logs in the place of the whole ones, all at once. One that was made small meanwhile, or whose run has
    /// not ended, is left alone. Returns how many were taken.
    async fn shrink_logs(&self, logs: Vec<SmallLog>) -> StoreResult<u64>;
}
