//! Documents in memory.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::MemoryStore;
use crate::clock::Timestamp;
use crate::id::TenantId;
use crate::store::documents::TAKEN;
use crate::store::text::Fit;
use crate::store::{DocumentQuery, DocumentRow, StoreError, StoreResult};

/// By tenant, kind and id.
#[derive(Default)]
pub(super) struct Documents(BTreeMap<(TenantId, String, String), DocumentRow>);

impl Documents {
    /// Returns how many documents of a kind are due, over all tenants.
    pub(super) fn due(&self, kind: &str, now: Timestamp) -> u64 {
        self.0.iter().filter(|((_, known, _), row)| known == kind && row.due_at.is_some_and(|due| due <= now)).count() as u64
    }

    /// Returns the ids of documents that changed last before a time and are not due before another.
    pub(super) fn stale(&self, tenant: TenantId, kind: &str, before: Timestamp, due_after: Timestamp, limit: usize) -> Vec<String> {
        let is_stale = |row: &&DocumentRow| row.updated_at < before && row.due_at.is_none_or(|due| due > due_after);
        self.of(tenant, kind).filter(is_stale).map(|row| row.id.clone()).take(limit).collect()
    }

    fn of(&self, tenant: TenantId, kind: &str) -> impl DoubleEndedIterator<Item = &DocumentRow> {
        self.0.iter().filter(move |((owner, known, _), _)| *owner == tenant && known == kind).map(|(_, row)| row)
    }

    /// Whether another document than this one has its place.
    fn taken(&self, tenant: TenantId, kind: &str, row: &DocumentRow) -> bool {
        row.place.is_some() && self.of(tenant, kind).any(|other| other.place == row.place && other.id != row.id)
    }
}

#[async_trait]
impl crate::store::Documents for MemoryStore {
    async fn create_document(&self, tenant: TenantId, kind: &str, row: DocumentRow) -> StoreResult<()> {
        row.fit()?;
        let kept = &mut self.tables().documents;
        let key = (tenant, kind.to_owned(), row.id.clone());
        if kept.0.contains_key(&key) || kept.taken(tenant, kind, &row) {
            return Err(StoreError::Exists(TAKEN));
        }
        kept.0.insert(key, row);
        Ok(())
    }

    async fn replace_document(&self, tenant: TenantId, kind: &str, row: DocumentRow) -> StoreResult<bool> {
        row.fit()?;
        let kept = &mut self.tables().documents;
        let taken = kept.taken(tenant, kind, &row);
        let found = kept.0.get_mut(&(tenant, kind.to_owned(), row.id.clone())).filter(|old| old.version + 1 == row.version);
        let Some(old) = found else { return Ok(false) };
        if taken {
            return Err(StoreError::Exists(TAKEN));
        }
        *old = DocumentRow { created_at: old.created_at, ..row };
        Ok(true)
    }

    async fn find_document(&self, tenant: TenantId, kind: &str, id: &str) -> StoreResult<Option<DocumentRow>> {
        Ok(self.tables().documents.0.get(&(tenant, kind.to_owned(), id.to_owned())).cloned())
    }

    async fn find_document_at(&self, tenant: TenantId, kind: &str, place: &str) -> StoreResult<Option<DocumentRow>> {
        Ok(self.tables().documents.of(tenant, kind).find(|row| row.place.as_deref() == Some(place)).cloned())
    }

    async fn list_documents(&self, tenant: TenantId, kind: &str, query: DocumentQuery) -> StoreResult<Vec<DocumentRow>> {
        let tables = self.tables();
        let wanted = |row: &&DocumentRow| {
            (query.parent.is_none() || row.parent == query.parent) && query.before.as_ref().is_none_or(|before| row.id < *before)
        };
        Ok(tables.documents.of(tenant, kind).rev().filter(wanted).take(query.limit as usize).cloned().collect())
    }

    async fn delete_document(&self, tenant: TenantId, kind: &str, id: &str) -> StoreResult<bool> {
        Ok(self.tables().documents.0.remove(&(tenant, kind.to_owned(), id.to_owned())).is_some())
    }

    async fn delete_documents_of(&self, tenant: TenantId, kind: &str, parent: &str) -> StoreResult<u64> {
        let kept = &mut self.tables().documents.0;
        let before = kept.len();
        kept.retain(|(owner, known, _), row| *owner != tenant || known != kind || row.parent.as_deref() != Some(parent));
        Ok((before - kept.len()) as u64)
    }

    async fn due_documents(
        &self,
        kind: &str,
        now: Timestamp,
        except: &[TenantId],
        limit: u32,
    ) -> StoreResult<Vec<(TenantId, DocumentRow)>> {
        let tables = self.tables();
        let is_due = |row: &DocumentRow| row.due_at.is_some_and(|at| at <= now);
        let due = tables.documents.0.iter().filter(|((tenant, known, _), row)| known == kind && is_due(row) && !except.contains(tenant));
        let mut due: Vec<(TenantId, DocumentRow)> = due.map(|((tenant, _, _), row)| (*tenant, row.clone())).collect();
        due.sort_by(|(_, one), (_, other)| (one.due_at, &one.id).cmp(&(other.due_at, &other.id)));
        due.truncate(limit as usize);
        Ok(due)
    }

    async fn trim_documents(&self, tenant: TenantId, kind: &str, number: u32, bytes: u64) -> StoreResult<u64> {
        let kept = &mut self.tables().documents;
        let mut all: Vec<(Timestamp, String, u64)> =
            kept.of(tenant, kind).map(|row| (row.created_at, row.id.clone(), row.body.len() as u64)).collect();
        all.sort_by(|one, other| other.cmp(one));
        let (mut place, mut weight, mut deleted) = (0u32, 0u64, 0u64);
        for (_, id, size) in all {
            (place, weight) = (place.saturating_add(1), weight.saturating_add(size));
            if place > number || weight > bytes {
                deleted += u64::from(kept.0.remove(&(tenant, kind.to_owned(), id)).is_some());
            }
        }
        Ok(deleted)
    }
}
