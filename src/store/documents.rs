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

    /// Of every tenant but some, those that are due, the longest due first. Reading takes nothing: whoever acts on one replaces it first.
    async fn due_documents(&self, kind: &str, now: Timestamp, except: &[TenantId], limit: u32)
    -> StoreResult<Vec<(TenantId, DocumentRow)>>;

    /// Keeps the newest documents of a tenant and kind up to a number and a total size of the bodies in bytes; deletes the others and
    /// returns how many were deleted.
    async fn trim_documents(&self, tenant: TenantId, kind: &str, number: u32, bytes: u64) -> StoreResult<u64>;
}

/// The store of documents on a SQL database: the statements are the same on each, which says how it reads and how it writes.
macro_rules! in_sql {
    ($store:ty, |$this:ident| read: $read:expr, write: $write:expr) => {
        #[async_trait]
        impl Documents for $store {
            async fn create_document(&$this, tenant: TenantId, kind: &str, row: DocumentRow) -> StoreResult<()> {
                row.fit()?;
                sqlx::query(
                    "insert into documents (tenant, kind, id, place, parent, due_at, version, body, created_at, updated_at) \
                     values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
                )
                .bind(tenant.suffix())
                .bind(kind.to_owned())
                .bind(row.id)
                .bind(row.place)
                .bind(row.parent)
                .bind(row.due_at.map(Timestamp::as_millis))
                .bind(i64::from(row.version))
                .bind(row.body)
                .bind(row.created_at.as_millis())
                .bind(row.updated_at.as_millis())
                .execute($write)
                .await
                .map(drop)
                .map_err(unless_taken(TAKEN))
            }

            async fn replace_document(&$this, tenant: TenantId, kind: &str, row: DocumentRow) -> StoreResult<bool> {
                row.fit()?;
                let result = sqlx::query(
                    "update documents set place = $4, parent = $5, due_at = $6, version = $7, body = $8, updated_at = $9 \
                     where tenant = $1 and kind = $2 and id = $3 and version = $7 - 1",
                )
                .bind(tenant.suffix())
                .bind(kind.to_owned())
                .bind(row.id)
                .bind(row.place)
                .bind(row.parent)
                .bind(row.due_at.map(Timestamp::as_millis))
                .bind(i64::from(row.version))
                .bind(row.body)
                .bind(row.updated_at.as_millis())
                .execute($write)
                .await
                .map_err(unless_taken(TAKEN))?;
                Ok(result.rows_affected() > 0)
            }

            async fn find_document(&$this, tenant: TenantId, kind: &str, id: &str) -> StoreResult<Option<DocumentRow>> {
                if !is_plain(id) {
                    return Ok(None);
                }
                let row = sqlx::query("select * from documents where tenant = $1 and kind = $2 and id = $3")
                    .bind(tenant.suffix())
                    .bind(kind.to_owned())
                    .bind(id.to_owned())
                    .fetch_optional($read)
                    .await
                    .map_err(failed)?;
                row.as_ref().map(row::document).transpose()
            }

            async fn find_document_at(&$this, tenant: TenantId, kind: &str, place: &str) -> StoreResult<Option<DocumentRow>> {
                if !is_plain(place) {
                    return Ok(None);
                }
                let row = sqlx::query("select * from documents where tenant = $1 and kind = $2 and place = $3")
                    .bind(tenant.suffix())
                    .bind(kind.to_owned())
                    .bind(place.to_owned())
                    .fetch_optional($read)
                    .await
                    .map_err(failed)?;
                row.as_ref().map(row::document).transpose()
            }

            async fn list_documents(&$this, tenant: TenantId, kind: &str, query: DocumentQuery) -> StoreResult<Vec<DocumentRow>> {
                if !query.parent.as_deref().is_none_or(is_plain) || !query.before.as_deref().is_none_or(is_plain) {
                    return Ok(Vec::new());
                }
                let rows = sqlx::query(
                    "select * from documents where tenant = $1 and kind = $2 and (cast($3 as text) is null or parent = $3) and (cast($4 as text) is null or id < $4) \
                     order by id desc limit $5",
                )
                .bind(tenant.suffix())
                .bind(kind.to_owned())
                .bind(query.parent)
                .bind(query.before)
                .bind(i64::from(query.limit))
                .fetch_all($read)
                .await
                .map_err(failed)?;
                rows.iter().map(row::document).collect()
            }

            async fn delete_document(&$this, tenant: TenantId, kind: &str, id: &str) -> StoreResult<bool> {
                if !is_plain(id) {
                    return Ok(false);
                }
                let result = sqlx::query("delete from documents where tenant = $1 and kind = $2 and id = $3")
                    .bind(tenant.suffix())
                    .bind(kind.to_owned())
                    .bind(id.to_owned())
                    .execute($write)
                    .await
                    .map_err(failed)?;
                Ok(result.rows_affected() > 0)
            }

            async fn delete_documents_of(&$this, tenant: TenantId, kind: &str, parent: &str) -> StoreResult<u64> {
                if !is_plain(parent) {
                    return Ok(0);
                }
                let result = sqlx::query("delete from documents where tenant = $1 and kind = $2 and parent = $3")
                    .bind(tenant.suffix())
                    .bind(kind.to_owned())
                    .bind(parent.to_owned())
                    .execute($write)
                    .await
                    .map_err(failed)?;
                Ok(result.rows_affected())
            }

            async fn due_documents(
                &$this,
                kind: &str,
                now: Timestamp,
                except: &[TenantId],
                limit: u32,
            ) -> StoreResult<Vec<(TenantId, DocumentRow)>> {
                let except = row::except("tenant", except);
                let due = format!("select * from documents where kind = $1 and due_at <= $2{except} order by due_at, id limit $3");
                let rows = sqlx::query(sqlx::AssertSqlSafe(due))
                    .bind(kind.to_owned())
                    .bind(now.as_millis())
                    .bind(i64::from(limit))
                    .fetch_all($read)
                    .await
                    .map_err(failed)?;
                rows.iter().map(row::document_of_tenant).collect()
            }

            async fn trim_documents(&$this, tenant: TenantId, kind: &str, number: u32, bytes: u64) -> StoreResult<u64> {
                let result = sqlx::query(
                    "delete from documents where tenant = $1 and kind = $2 and id in ( \
                        select id from ( \
                            select id, row_number() over newest as place, sum(octet_length(body)) over newest as weight \
                            from documents where tenant = $1 and kind = $2 window newest as (order by created_at desc, id desc)) as weighed \
                        where place > $3 or weight > $4)",
                )
                .bind(tenant.suffix())
                .bind(kind.to_owned())
                .bind(i64::from(number))
                .bind(i64::try_from(bytes).unwrap_or(i64::MAX))
                .execute($write)
                .await
                .map_err(failed)?;
                Ok(result.rows_affected())
            }
        }
    };
}
pub(super) use in_sql;

/// What is taken, in the store's own word; [`super::Collection`] has a better one.
pub(super) const TAKEN: &str = "the document";
