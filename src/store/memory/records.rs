//! Records in memory.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::MemoryStore;
use crate::clock::Timestamp;
use crate::id::{RecordId, TenantId};
use crate::model::Record;
use crate::store::text::Fit;
use crate::store::{RecordPage, RecordQuery, StoreError, StoreResult};

/// By id, with the owner.
#[derive(Default)]
pub(super) struct Records(BTreeMap<RecordId, (TenantId, Record)>);

impl Records {
    fn of(&self, tenant: TenantId) -> impl Iterator<Item = &Record> {
        self.0.values().filter(move |(owner, _)| *owner == tenant).map(|(_, record)| record)
    }

    fn unless_taken(&self, tenant: TenantId, record: &Record) -> StoreResult<()> {
        let taken = self.of(tenant).any(|other| other.kind == record.kind && other.name == record.name && other.id != record.id);
        if taken { Err(StoreError::Exists("a record with this type and name")) } else { Ok(()) }
    }
}

#[async_trait]
impl crate::store::Records for MemoryStore {
    async fn create_record(&self, tenant: TenantId, record: Record) -> StoreResult<()> {
        record.fit()?;
        let records = &mut self.tables().records;
        records.unless_taken(tenant, &record)?;
        if records.0.contains_key(&record.id) {
            return Err(StoreError::Exists("a record with this type and name"));
        }
        records.0.insert(record.id, (tenant, record));
        Ok(())
    }

    async fn replace_record(&self, tenant: TenantId, record: Record, expected: Timestamp) -> StoreResult<bool> {
        record.fit()?;
        let records = &mut self.tables().records;
        let Some((_, found)) = records.0.get(&record.id).filter(|(owner, _)| *owner == tenant) else { return Ok(false) };
        if found.updated_at != expected {
            return Ok(false);
        }
        records.unless_taken(tenant, &record)?;
        let updated_at = record.updated_at.max(Timestamp::from_millis(expected.as_millis() + 1));
        let record = Record { updated_at, created_at: found.created_at, ..record };
        records.0.insert(record.id, (tenant, record));
        Ok(true)
    }

    async fn find_record(&self, tenant: TenantId, id: RecordId) -> StoreResult<Option<Record>> {
        Ok(self.tables().records.0.get(&id).filter(|(owner, _)| *owner == tenant).map(|(_, record)| record.clone()))
    }

    async fn find_record_by_name(&self, tenant: TenantId, kind: &str, name: &str) -> StoreResult<Option<Record>> {
        Ok(self.tables().records.of(tenant).find(|record| record.kind == kind && record.name == name).cloned())
    }

    async fn list_records(&self, tenant: TenantId, query: RecordQuery) -> StoreResult<RecordPage> {
        let tables = self.tables();
        let mut found: Vec<&Record> = tables
            .records
            .of(tenant)
            .filter(|record| {
                query.kind.as_ref().is_none_or(|kind| *kind == record.kind)
                    && query.name.as_ref().is_none_or(|name| *name == record.name)
                    && query.after.is_none_or(|after| (record.updated_at, record.id) < after)
                    && query.filter.matches(record)
            })
            .collect();
        found.sort_by_key(|record| std::cmp::Reverse((record.updated_at, record.id)));
        let limit = query.limit as usize;
        Ok(RecordPage { more: found.len() > limit, records: found.into_iter().take(limit).cloned().collect() })
    }

    async fn delete_records(&self, tenant: TenantId, ids: &[RecordId]) -> StoreResult<u64> {
        let records = &mut self.tables().records.0;
        let before = records.len();
        records.retain(|id, (owner, _)| *owner != tenant || !ids.contains(id));
        Ok((before - records.len()) as u64)
    }
}
