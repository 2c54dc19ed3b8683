//! Documents on SQLite.

use async_trait::async_trait;

use super::{SqliteStore, failed, unless_taken};
use crate::clock::Timestamp;
use crate::id::TenantId;
use crate::store::documents::{DocumentQuery, DocumentRow, Documents};
use crate::store::text::Fit;
use crate::store::{StoreResult, row};

const TAKEN: &str = "the document";

#[async_trait]
impl Documents for SqliteStore {
    async fn create_document(&self, tenant: TenantId, kind: &str, row: DocumentRow) -> StoreResult<()> {
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
        .execute(&mut *self.writing().await?)
        .await
        .map(drop)
        .map_err(unless_taken(TAKEN))
    }

    async fn replace_document(&self, tenant: TenantId, kind: &str, row: DocumentRow) -> StoreResult<bool> {
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
        .execute(&mut *self.writing().await?)
        .await
        .map_err(unless_taken(TAKEN))?;
        Ok(result.rows_affected() > 0)
    }

    async fn find_document(&self, tenant: TenantId, kind: &str, id: &str) -> StoreResult<Option<DocumentRow>> {
        let row = sqlx::query("select * from documents where tenant = $1 and kind = $2 and id = $3")
            .bind(tenant.suffix())
            .bind(kind.to_owned())
            .bind(id.to_owned())
            .fetch_optional(&self.read)
            .await
            .map_err(failed)?;
        row.as_ref().map(row::document).transpose()
    }

    async fn find_document_at(&self, tenant: TenantId, kind: &str, place: &str) -> StoreResult<Option<DocumentRow>> {
        let row = sqlx::query("select * from documents where tenant = $1 and kind = $2 and place = $3")
            .bind(tenant.suffix())
            .bind(kind.to_owned())
            .bind(place.to_owned())
            .fetch_optional(&self.read)
            .await
            .map_err(failed)?;
        row.as_ref().map(row::document).transpose()
    }

    async fn list_documents(&self, tenant: TenantId, kind: &str, query: DocumentQuery) -> StoreResult<Vec<DocumentRow>> {
        let rows = sqlx::query(
            "select * from documents where tenant = $1 and kind = $2 and ($3 is null or parent = $3) and ($4 is null or id < $4) \
             order by id desc limit $5",
        )
        .bind(tenant.suffix())
        .bind(kind.to_owned())
        .bind(query.parent)
        .bind(query.before)
        .bind(i64::from(query.limit))
        .fetch_all(&self.read)
        .await
        .map_err(failed)?;
        rows.iter().map(row::document).collect()
    }

    async fn delete_document(&self, tenant: TenantId, kind: &str, id: &str) -> StoreResult<bool> {
        let result = sqlx::query("delete from documents where tenant = $1 and kind = $2 and id = $3")
            .bind(tenant.suffix())
            .bind(kind.to_owned())
            .bind(id.to_owned())
            .execute(&mut *self.writing().await?)
            .await
            .map_err(failed)?;
        Ok(result.rows_affected() > 0)
    }

    async fn delete_documents_of(&self, tenant: TenantId, kind: &str, parent: &str) -> StoreResult<u64> {
        let result = sqlx::query("delete from documents where tenant = $1 and kind = $2 and parent = $3")
            .bind(tenant.suffix())
            .bind(kind.to_owned())
            .bind(parent.to_owned())
            .execute(&mut *self.writing().await?)
            .await
            .map_err(failed)?;
        Ok(result.rows_affected())
    }

    async fn due_documents(&self, kind: &str, now: Timestamp, limit: u32) -> StoreResult<Vec<(TenantId, DocumentRow)>> {
        let rows = sqlx::query("select * from documents where kind = $1 and due_at <= $2 order by due_at, id limit $3")
            .bind(kind.to_owned())
            .bind(now.as_millis())
            .bind(i64::from(limit))
            .fetch_all(&self.read)
            .await
            .map_err(failed)?;
        rows.iter().map(row::document_of_tenant).collect()
    }
}
