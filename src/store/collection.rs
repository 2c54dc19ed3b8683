//! Documents with types: what one kind of them is, and how it is kept, changed and listed.

use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::documents::{DocumentQuery, DocumentRow};
use super::row::broken;
use super::{Store, StoreError, StoreResult};
use crate::clock::Timestamp;
use crate::id::{TenantId, TypedId};

/// Documents that are forgotten at once.
const SWEEP: u32 = 500;

/// Something that is kept as a document. Fields may be added later: a row of before must still be read.
pub trait Document: Serialize + DeserializeOwned + Send + Sync {
    /// Its name in the database. Never changes.
    const KIND: &'static str;
    /// What is taken when its place is: `a tool with this name`.
    const TAKEN: &'static str = "the document";
    type Id: TypedId;

    /// What no two of a tenant may have in common.
    fn place(&self) -> Option<String> {
        None
    }

    /// What it belongs to.
    fn parent(&self) -> Option<String> {
        None
    }

    /// When somebody must look at it.
    fn due_at(&self) -> Option<Timestamp> {
        None
    }
}

/// A document with what the store knows about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept<D: Document> {
    pub id: D::Id,
    /// 1, and one more with each change.
    pub version: u32,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub body: D,
}

/// All documents of one kind and tenant.
pub struct Collection<'a, D> {
    store: &'a dyn Store,
    tenant: TenantId,
    kind: PhantomData<fn() -> D>,
}

impl<'a, D: Document> Collection<'a, D> {
    pub fn of(store: &'a dyn Store, tenant: TenantId) -> Self {
        Self { store, tenant, kind: PhantomData }
    }

    /// Keeps a new one. `Exists(D::TAKEN)`: its id or its place is taken.
    pub async fn create(&self, id: D::Id, body: D, now: Timestamp) -> StoreResult<Kept<D>> {
        let kept = Kept { id, version: 1, created_at: now, updated_at: now, body };
        self.store.create_document(self.tenant, D::KIND, row(&kept)).await.map_err(taken::<D>)?;
        Ok(kept)
    }

    /// [`Collection::create`], or what stands under this very id: made by ourselves, in a try whose answer was lost.
    pub async fn create_once(&self, id: D::Id, body: D, now: Timestamp) -> StoreResult<Kept<D>> {
        match self.create(id, body, now).await {
            Err(error @ StoreError::Exists(_)) => self.find(id).await?.ok_or(error),
            made => made,
        }
    }

    /// Replaces what was read. `None`: it is gone, or somebody else changed it meanwhile.
    pub async fn change(&self, old: &Kept<D>, body: D, now: Timestamp) -> StoreResult<Option<Kept<D>>> {
        let next = Kept { id: old.id, version: old.version + 1, created_at: old.created_at, updated_at: now, body };
        let done = self.store.replace_document(self.tenant, D::KIND, row(&next)).await.map_err(taken::<D>)?;
        Ok(done.then_some(next))
    }

    /// Changes what was read, whoever else changes it at the same time: then `edit` is asked again, about what stands there now. An `edit` that
    /// refuses changes nothing. `None`: it is gone.
    pub async fn amend<E: From<StoreError>>(
        &self,
        kept: Kept<D>,
        now: Timestamp,
        edit: impl Fn(&mut D) -> Result<(), E>,
    ) -> Result<Option<Kept<D>>, E>
    where
        D: Clone,
    {
        let mut stands = Some(kept);
        while let Some(old) = stands {
            let mut next = old.body.clone();
            edit(&mut next)?;
            if let Some(changed) = self.change(&old, next, now).await? {
                return Ok(Some(changed));
            }
            stands = self.find(old.id).await?;
        }
        Ok(None)
    }

    pub async fn find(&self, id: D::Id) -> StoreResult<Option<Kept<D>>> {
        self.store.find_document(self.tenant, D::KIND, &id.suffix()).await?.map(read).transpose()
    }

    pub async fn find_at(&self, place: &str) -> StoreResult<Option<Kept<D>>> {
        self.store.find_document_at(self.tenant, D::KIND, place).await?.map(read).transpose()
    }

    /// Newest first.
    pub async fn list(&self, parent: Option<&str>, before: Option<D::Id>, limit: u32) -> StoreResult<Vec<Kept<D>>> {
        let query = DocumentQuery { parent: parent.map(str::to_owned), before: before.map(D::Id::suffix), limit };
        self.store.list_documents(self.tenant, D::KIND, query).await?.into_iter().map(read).collect()
    }

    /// Deletes; whether it was there.
    pub async fn delete(&self, id: D::Id) -> StoreResult<bool> {
        self.store.delete_document(self.tenant, D::KIND, &id.suffix()).await
    }

    /// Keeps the newest documents up to a number and a total size in bytes, deletes the others and returns how many were deleted.
    pub async fn trim(&self, number: u32, bytes: u64) -> StoreResult<u64> {
        self.store.trim_documents(self.tenant, D::KIND, number, bytes).await
    }

    /// Deletes all of a parent's; how many there were.
    pub async fn delete_of(&self, parent: &str) -> StoreResult<u64> {
        self.store.delete_documents_of(self.tenant, D::KIND, parent).await
    }
}

/// Those of every tenant but some that are due, the longest due first.
pub async fn due<D: Document>(store: &dyn Store, now: Timestamp, except: &[TenantId], limit: u32) -> StoreResult<Vec<(TenantId, Kept<D>)>> {
    let rows = store.due_documents(D::KIND, now, except, limit).await?;
    rows.into_iter().map(|(tenant, row)| Ok((tenant, read(row)?))).collect()
}

/// Deletes those of every tenant that are due: of kinds whose time is the time to be forgotten. How many.
pub async fn forget<D: Document>(store: &dyn Store, now: Timestamp) -> StoreResult<u64> {
    let mut forgotten = 0;
    for (tenant, row) in store.due_documents(D::KIND, now, &[], SWEEP).await? {
        forgotten += u64::from(store.delete_document(tenant, D::KIND, &row.id).await?);
    }
    Ok(forgotten)
}

fn taken<D: Document>(error: StoreError) -> StoreError {
    match error {
        StoreError::Exists(_) => StoreError::Exists(D::TAKEN),
        error => error,
    }
}

fn row<D: Document>(kept: &Kept<D>) -> DocumentRow {
    DocumentRow {
        id: kept.id.suffix(),
        place: kept.body.place(),
        parent: kept.body.parent(),
        due_at: kept.body.due_at(),
        version: kept.version,
        body: super::batch::json(&kept.body),
        created_at: kept.created_at,
        updated_at: kept.updated_at,
    }
}

fn read<D: Document>(row: DocumentRow) -> StoreResult<Kept<D>> {
    let id = D::Id::from_suffix(&row.id).map_err(|why| broken("documents", "id", &row.id, why))?;
    let body = serde_json::from_str(&row.body).map_err(|why| broken("documents", "body", &row.id, why))?;
    Ok(Kept { id, version: row.version, created_at: row.created_at, updated_at: row.updated_at, body })
}
