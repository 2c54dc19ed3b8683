//! Documents: whatever a part above keeps whole and reads whole, under one roof.
//!
//! Tools, client tokens, sessions and their like need nothing of a database but their name, their owner and a
//! compare-and-set, so they share one table and are told apart by their kind. [`super::Collection`] gives them types. What the
//! database must look into (runs, waits, flows, records) has a noun of its own.

use async_trait::async_trait;

use super::StoreResult;
use crate::clock::Timestamp;
use crate::id::TenantId;

/// A document as a database keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentRow {
    /// Of the kind's own making: the suffix of an id, so that newer ones sort behind older ones.
    pub id: String,
    /// At most one document of a tenant and kind has it.
    pub place: Option<String>,
    /// What it belongs to.
    pub parent: Option<String>,
    /// When somebody must look at it.
    pub due_at: Option<Timestamp>,
    /// 1, and one more with each change.
    pub version: u32,
    /// JSON.
    pub body: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// Which documents of a kind, newest first.
#[derive(Debug, Clone, Default)]
pub struct DocumentQuery {
    pub parent: Option<String>,
    /// Continue behind the document with this id.
    pub before: Option<String>,
    pub limit: u32,
}

/// The store of documents. `kind` is a constant of the part that keeps them.
#[async_trait]
pub trait Documents {
    /// Keeps a new document. `Exists("the document")`: its id or its place is taken.
    async fn create_document(&self, tenant: TenantId, kind: &str, row: DocumentRow) -> StoreResult<()>;

    /// Replaces the document that stands at `row.version - 1`; `created_at` stays. `false`: it is gone, or it moved on.
    async fn replace_document(&self, tenant: TenantId, kind: &str, row: DocumentRow) -> StoreResult<bool>;

    async fn find_document(&self, tenant: TenantId, kind: &str, id: &str) -> StoreResult<Option<DocumentRow>>;

    async fn find_document_at(&self, tenant: TenantId, kind: &str, place: &str) -> StoreResult<Option<DocumentRow>>;

    async fn list_documents(&self, tenant: TenantId, kind: &str, query: DocumentQuery) -> StoreResult<Vec<DocumentRow>>;

    /// Deletes; whether it was there.
    async fn delete_document(&self, tenant: TenantId, kind: &str, id: &str) -> StoreResult<bool>;

    /// Deletes all of a parent's; how many there were.
    async fn delete_documents_of(&self, tenant: TenantId, kind: &str, parent: &str) -> StoreResult<u64>;

    /// Of every tenant, those that are due, the longest due first. Reading takes nothing: whoever acts on one replaces it first.
    async fn due_documents(&self, kind: &str, now: Timestamp, limit: u32) -> StoreResult<Vec<(TenantId, DocumentRow)>>;
}
