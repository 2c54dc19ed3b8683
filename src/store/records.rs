//! Records.

use async_trait::async_trait;

use super::StoreResult;
use crate::clock::Timestamp;
use crate::id::{RecordId, TenantId};
use crate::model::Record;
use crate::model::filter::Filter;

/// Which records, in which order.
#[derive(Debug, Clone)]
pub struct RecordQuery {
    pub kind: Option<String>,
    pub name: Option<String>,
    pub filter: Filter,
    /// Continue after this record (the page's last one, by `updated_at` then id, descending).
    pub after: Option<(Timestamp, RecordId)>,
    pub limit: u32,
}

impl Default for RecordQuery {
    fn default() -> Self {
        Self { kind: None, name: None, filter: Filter::everything(), after: None, limit: 50 }
    }
}

/// One page of records.
#[derive(Debug, Clone, Default)]
pub struct RecordPage {
    /// Newest `updated_at` first.
    pub records: Vec<Record>,
    pub more: bool,
}

/// The store of records.
#[async_trait]
pub trait Records {
    /// Saves a new record; `Exists("a record with this type and name")` when `(type, name)` is taken.
    async fn create_record(&self, tenant: TenantId, record: Record) -> StoreResult<()>;

    /// Replaces a record, if it was last written at `expected`. `false`: not there, or changed meanwhile.
    async fn replace_record(&self, tenant: TenantId, record: Record, expected: Timestamp) -> StoreResult<bool>;

    async fn find_record(&self, tenant: TenantId, id: RecordId) -> StoreResult<Option<Record>>;

    async fn find_record_by_name(&self, tenant: TenantId, kind: &str, name: &str) -> StoreResult<Option<Record>>;

    async fn list_records(&self, tenant: TenantId, query: RecordQuery) -> StoreResult<RecordPage>;

    /// Deletes records; how many were there.
    async fn delete_records(&self, tenant: TenantId, ids: &[RecordId]) -> StoreResult<u64>;
}
